"""Learning rates as pure functions of the step: a linear warm-up, then the schedule's own factor."""

from typing import Annotated

from pydantic import Field

from segnl.core.config import Config, NumberFromZero


class ScheduleConfig(Config):
    """Settings of a schedule; a subclass adds its own and `factor`, and its file ends with `SCHEDULE = THE_CLASS`."""

    name: str
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    end_lr: NumberFromZero = 0.0
    """The learning rate at the last step, absolute; never above the first."""

    def factor(self, done: float) -> float:
        """Returns a number that falls from 1 to 0 while `done` goes from 0 (after the warm-up) to 1 (the end)."""
        raise NotImplementedError

    def learning_rate(self, step: int, *, max_steps: int, lr: float) -> float:
        """Returns the base learning rate of step 0, 1 ... max_steps - 1, where `lr` is the highest."""
        if step < self.warmup_steps:
            return lr * (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps)
        end = min(self.end_lr, lr)
        return end + (lr - end) * self.factor(min(done, 1.0))
