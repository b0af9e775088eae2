"""The contract of a metric that a recipe names. Imports no torch."""

from typing import Any

from segnl.core.config import Config
from segnl.metrics.confusion import Confusion


class MetricConfig(Config):
    """Settings of a metric; a subclass adds its own."""

    name: str


class Metric:
    """Base class of metrics; a file ends with `METRIC = THE_CLASS`.

    It sees counts alone, summed over all images, so it costs nothing and is the same on any number of processes.
    """

    Config: type[MetricConfig] = MetricConfig

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg

    def value(self, confusion: Confusion) -> float:
        """Returns the score, NaN where it is undefined; leaves `confusion` as it is."""
        raise NotImplementedError
