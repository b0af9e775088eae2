"""Import of other projects' weights, export to ONNX and safetensors."""

from typing import Any

_PUBLIC = {
    "from_mmseg": "segnl.convert.mmseg",
    "from_ccnet": "segnl.convert.ccnet",
    "from_torchvision": "segnl.convert.torchvision",
}
__all__ = ["from_ccnet", "from_mmseg", "from_torchvision"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'segnl.convert' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
