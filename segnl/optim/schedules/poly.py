"""The polynomial schedule of DeepLab (Chen et al. 2018, arXiv:1606.00915)."""

from typing import Annotated

from pydantic import Field

from segnl.optim.schedules.base import ScheduleConfig


class PolyConfig(ScheduleConfig):
    """(1 - done) ** power."""

    name: str = "poly"
    power: Annotated[float, Field(gt=0, le=100)] = 0.9

    def factor(self, done: float) -> float:
        """Returns (1 - done) ** power."""
        return float((1 - done) ** self.power)


SCHEDULE = PolyConfig
