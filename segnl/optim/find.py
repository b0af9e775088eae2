"""Optimisers and schedules by name."""

from segnl.core.components import Components
from segnl.optim.optimisers.base import OptimiserConfig
from segnl.optim.schedules.base import ScheduleConfig

OPTIMISERS = Components("segnl.optim.optimisers", "OPTIMISER", key="optim.name", base=OptimiserConfig)
SCHEDULES = Components("segnl.optim.schedules", "SCHEDULE", key="schedule.name", base=ScheduleConfig)
