"""Dynamic loss scale for float16 training."""

from dataclasses import dataclass

FIRST_SCALE = 2**16
GROW_AFTER = 2000
"""Steps in a row without an overflow after which the scale is doubled."""
LEAST_SCALE = 1
"""A gradient that overflows at this one does so by itself, not for being scaled."""
GREATEST_SCALE = 2**24
"""Lifts the least positive float16 to 1: beyond it nothing is gained, and gradients of 0 would raise it for ever."""


@dataclass
class LossScale:
    """What a float16 training's loss is multiplied by, that small gradients do not vanish; they are divided by it.

    Doubled after GROW_AFTER steps without an overflow, halved by each, within LEAST_SCALE and GREATEST_SCALE: a power
    of two, by which float32 divides exactly.

    Source: Micikevicius et al. 2018, arXiv:1710.03740; in the dynamic form, as torch.amp.GradScaler moves it.
    """

    value: int = FIRST_SCALE
    good_steps: int = 0
    """Without an overflow since the scale last changed."""

    def stepped(self) -> None:
        """A step's gradients were finite."""
        self.good_steps += 1
        if self.good_steps >= GROW_AFTER:
            self.value, self.good_steps = min(2 * self.value, GREATEST_SCALE), 0

    def overflowed(self) -> bool:
        """A step's gradients were not finite. Whether a smaller scale is left to try."""
        if self.value <= LEAST_SCALE:
            return False
        self.value, self.good_steps = self.value // 2, 0
        return True

    def state(self) -> dict[str, int]:
        """Plain numbers, for a checkpoint."""
        return {"value": self.value, "good_steps": self.good_steps}

    def restore(self, state: dict[str, int]) -> None:
        """The inverse of `state`; {}, of a checkpoint without one, leaves the first scale."""
        if state:
            self.value, self.good_steps = state["value"], state["good_steps"]
