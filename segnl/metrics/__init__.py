"""Scores from predictions and labels, and statistics of their differences. Knows neither models nor data sets."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segnl.metrics.confusion import Confusion
    from segnl.metrics.statistics.comparison import RunCounts, class_differences, compare_heads

_PUBLIC = {
    "Confusion": "segnl.metrics.confusion",
    "RunCounts": "segnl.metrics.statistics.comparison",
    "class_differences": "segnl.metrics.statistics.comparison",
    "compare_heads": "segnl.metrics.statistics.comparison",
}
__all__ = ["Confusion", "RunCounts", "class_differences", "compare_heads"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'segnl.metrics' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
