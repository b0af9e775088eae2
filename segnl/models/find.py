"""A part by its name: the name is the file's, or a dotted module path outside the package."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from segnl.core.config import suggest
from segnl.core.errors import ConfigError
from segnl.models.backbones.base import Backbone
from segnl.models.heads.base import ContextHead

_FOLDER = Path(__file__).parent


def known_heads() -> list[str]:
    """Names that `model.head.name` may hold beside a dotted path."""
    return _known("heads")


def known_backbones() -> list[str]:
    """Names that `model.backbone.name` may hold beside a dotted path."""
    return _known("backbones")


def find_head(name: str) -> type[ContextHead]:
    """The `HEAD` of segnl/models/heads/NAME.py, or of the module at a dotted path such as `mylab.heads.swirl`.

    Raises ConfigError when there is none, with the known names.
    """
    return _find(name, "heads", "HEAD", ContextHead)


def find_backbone(name: str) -> type[Backbone]:
    """The `BACKBONE` of segnl/models/backbones/NAME.py, or of the module at a dotted path.

    Raises ConfigError when there is none, with the known names.
    """
    return _find(name, "backbones", "BACKBONE", Backbone)


def _known(folder: str) -> list[str]:
    return sorted(path.stem for path in (_FOLDER / folder).glob("*.py") if path.stem not in ("__init__", "base"))


def _find(name: str, folder: str, attribute: str, base: type) -> Any:
    where = f"model.{folder.removesuffix('s')}.name"
    is_dotted = "." in name and all(part.isidentifier() for part in name.split("."))
    if not is_dotted and name not in _known(folder):
        raise ConfigError(f"{where}: holds {name!r}{suggest(name, _known(folder))}")
    part = getattr(_import(name if "." in name else f"segnl.models.{folder}.{name}", where), attribute, None)
    if not (isinstance(part, type) and issubclass(part, base)):
        raise ConfigError(f"{where}: module {name} has no {attribute}; its last line must be {attribute} = THE_CLASS")
    return part


def _import(module: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        raise ConfigError(f"{where}: cannot import {module} ({err}); is its folder on PYTHONPATH?") from err
