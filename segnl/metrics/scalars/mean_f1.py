"""The mean F1 of the classes, which is their mean Dice coefficient."""

from segnl.metrics.confusion import Confusion, mean_of_defined
from segnl.metrics.scalars.base import Metric


class MeanF1(Metric):
    """The mean over the classes in label or prediction, as for mIoU."""

    def value(self, confusion: Confusion) -> float:
        """Returns a fraction 0..1."""
        return mean_of_defined(confusion.f1())


METRIC = MeanF1
