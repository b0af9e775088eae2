"""Dynamic loss scale for float16 training."""

from dataclasses import dataclass

FIRST_SCALE = 2**16
GROW_AFTER = 2000
"""Steps in a row without an overflow after which the scale doubles."""
MIN_SCALE = 1
"""A gradient that overflows at this scale overflows by itself, not because it is scaled."""
MAX_SCALE = 2**24
"""Lifts the smallest positive float16 to 1. More gains nothing, and gradients of 0 would raise it for ever."""


@dataclass
class LossScale:
    """Dynamic loss scale that keeps small float16 gradients from underflowing.

    The loss is multiplied by it and the gradients are divided by it. It doubles after GROW_AFTER steps without an
    overflow and halves at each overflow, between MIN_SCALE and MAX_SCALE: a power of two, by which float32 divides
    exactly.

    Source: Micikevicius et al. 2018, arXiv:1710.03740; in the dynamic form, as in torch.amp.GradScaler.
    """

    value: int = FIRST_SCALE
    good_steps: int = 0
    """Steps without an overflow since the scale last changed."""

    def stepped(self) -> None:
        """Takes note of a step whose gradients were finite."""
        self.good_steps += 1
        if self.good_steps >= GROW_AFTER:
            self.value, self.good_steps = min(2 * self.value, MAX_SCALE), 0

    def halve(self) -> bool:
        """Halves the scale after gradients that were not finite; returns whether there was a smaller scale to try."""
        if self.value <= MIN_SCALE:
            return False
        self.value, self.good_steps = self.value // 2, 0
        return True
