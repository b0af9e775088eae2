"""Heads: stages to one context map, one file each, named as in `model.head.name`."""
