"""Annotation formats that are drawn as label images, one file each; `base.py` has their contract."""
