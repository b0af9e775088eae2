"""Registries of heads and backbones: a name is a file of the package, or a dotted module path."""

from segnl.core.components import Components
from segnl.models.backbones.base import Backbone
from segnl.models.heads.base import ContextHead

HEADS = Components("segnl.models.heads", "HEAD", key="model.head.name", base=ContextHead)
BACKBONES = Components("segnl.models.backbones", "BACKBONE", key="model.backbone.name", base=Backbone)
