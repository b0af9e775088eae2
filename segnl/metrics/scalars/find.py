"""Metrics by name, and their values for a confusion matrix."""

from collections.abc import Mapping, Sequence
from typing import Any

from segnl.core.components import Components
from segnl.metrics.confusion import Confusion
from segnl.metrics.scalars.base import Metric

METRICS = Components("segnl.metrics.scalars", "METRIC", key="eval.metrics", base=Metric)


def metric_values(entries: Sequence[str | Mapping[str, Any]], confusion: Confusion) -> dict[str, float]:
    """Returns the values of the key eval.metrics by name: names, or mappings of a name and the metric's settings."""
    return {cfg.name: float(metric_class(cfg).value(confusion)) for metric_class, cfg in METRICS.find_listed(entries)}
