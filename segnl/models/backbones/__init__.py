"""Backbones: image `b 3 H W` to stages c2..c5. One file each, named as in `model.backbone.name`."""
