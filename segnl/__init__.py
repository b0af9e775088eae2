"""segnl: compare semantic-segmentation context heads on one backbone, one data pipeline and one evaluator.

`import segnl` imports no torch: each name below is imported when it is first used. See docs/python.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segnl import losses, metrics
    from segnl.api import (
        attention,
        build_model,
        create_head,
        create_model,
        list_backbones,
        list_heads,
        load,
        load_recipe,
        open_dataset,
    )

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "attention",
    "build_model",
    "create_head",
    "create_model",
    "list_backbones",
    "list_heads",
    "load",
    "load_recipe",
    "losses",
    "metrics",
    "open_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'segnl' has no attribute '{name}'")
    if name in ("losses", "metrics"):
        return importlib.import_module(f"segnl.{name}")
    return getattr(importlib.import_module("segnl.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
