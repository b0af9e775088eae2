"""Registries of heads and backbones: a name is a file of the package, or a dotted module path."""

from segnl.core.components import Components
from segnl.core.config import JSONDict
from segnl.models.backbones.base import Backbone
from segnl.models.heads.base import ContextHead

HEADS = Components("segnl.models.heads", "HEAD", key="model.head.name", base=ContextHead)
BACKBONES = Components("segnl.models.backbones", "BACKBONE", key="model.backbone.name", base=Backbone)


def backbone_variants() -> dict[str, JSONDict]:
    """Returns the section `model.backbone` of every backbone with a short name, such as `resnet50`.

    `timm` has none: its networks are called timm/NAME.
    """
    sections: dict[str, JSONDict] = {}
    for name in BACKBONES.names():
        backbone = BACKBONES.find(name)
        variants = backbone.variants or ({} if "model" in backbone.Config.model_fields else {name: {}})
        sections |= {short_name: {"name": name, **settings} for short_name, settings in variants.items()}
    return sections
