"""Cohen's kappa, the agreement of prediction and label beyond chance, usual for maps of land cover.

Source: Cohen 1960, "A coefficient of agreement for nominal scales".
"""

from segnl.metrics.confusion import Confusion, ratio
from segnl.metrics.scalars.base import Metric


class CohenKappa(Metric):
    """1 is perfect, 0 what chance gives; a pixel predicted as ignored agrees with nothing."""

    def value(self, confusion: Confusion) -> float:
        """Returns a number up to 1; NaN without pixels, or where chance alone agrees everywhere."""
        num_pixels = int(confusion.matrix.sum())
        agreement = float(ratio(confusion.intersection().sum(), num_pixels))
        by_chance = float(ratio((confusion.target() / max(1, num_pixels) * confusion.prediction()).sum(), num_pixels))
        return float(ratio(agreement - by_chance, 1 - by_chance))


METRIC = CohenKappa
