"""Heads: stages to one context map. One file each, named as in `model.head.name`."""
