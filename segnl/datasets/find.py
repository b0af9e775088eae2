"""From a data set's name in a recipe to its class."""

import importlib
from pathlib import Path

from segnl.core.config import suggest
from segnl.core.errors import ConfigError
from segnl.datasets.base import SegmentationData


def known() -> list[str]:
    """The names of this folder's modules that offer a data set, found without importing any."""
    folder = Path(__file__).parent
    return sorted(path.stem for path in folder.glob("*.py") if "\nDATASET = " in path.read_text(encoding="utf-8"))


def find(name: str) -> type[SegmentationData]:
    """The data set of that name: a module of this folder, or a dotted one of anyone's, that ends with `DATASET = ...`.

    Raises ConfigError for an unknown name, listing the known ones, and for a module without `DATASET`.
    """
    is_dotted = "." in name and all(part.isidentifier() for part in name.split("."))
    if not is_dotted and name not in known():
        raise ConfigError(f"data.name: holds {name!r}{suggest(name, known())}")
    module_name = name if is_dotted else f"segnl.datasets.{name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as err:
        raise ConfigError(f"data.name: cannot import {module_name} ({err}); is its folder on PYTHONPATH?") from err
    found = getattr(module, "DATASET", None)
    if not (isinstance(found, type) and issubclass(found, SegmentationData)):
        raise ConfigError(f"data.name: module {name} has no DATASET; its last line must be DATASET = THE_CLASS")
    return found
