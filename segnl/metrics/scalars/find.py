"""Metrics by name, and their values for a confusion matrix."""

from collections.abc import Mapping, Sequence
from typing import Any

from segnl.core.components import Components
from segnl.metrics.confusion import Confusion
from segnl.metrics.scalars.base import Metric

METRICS = Components("segnl.metrics.scalars", "METRIC", key="eval.metrics", base=Metric)


def build_metrics(entries: Sequence[str | Mapping[str, Any]]) -> dict[str, Metric]:
    """Returns the metrics of the key eval.metrics by name: names, or mappings of a name and the metric's settings.

    Raises ConfigError for an unknown name or setting, and for a name that stands twice.
    """
    return {cfg.name: metric_class(cfg) for metric_class, cfg in METRICS.find_listed(entries)}


def metric_values(metrics: Mapping[str, Metric], confusion: Confusion) -> dict[str, float]:
    """Returns the metrics' values by name."""
    return {name: float(metric.value(confusion)) for name, metric in metrics.items()}
