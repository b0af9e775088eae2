"""Blocks: layers with parameters that backbones and heads are made of."""
