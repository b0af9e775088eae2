"""The cosine schedule (Loshchilov and Hutter 2017, arXiv:1608.03983), without restarts."""

import math

from segnl.optim.schedules.base import ScheduleConfig


class CosineConfig(ScheduleConfig):
    """Half a cosine wave."""

    name: str = "cosine"

    def factor(self, done: float) -> float:
        """Returns (1 + cos(pi * done)) / 2."""
        return (1 + math.cos(math.pi * done)) / 2


SCHEDULE = CosineConfig
