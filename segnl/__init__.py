"""segnl: compare semantic-segmentation context heads on one backbone, one data pipeline and one evaluator."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segnl.evaluation.predictor import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`segnl.load` brings torch in only when it is asked for."""
    if name == "load":
        from segnl.evaluation.predictor import load

        return load
    raise AttributeError(f"module 'segnl' has no attribute '{name}'")
