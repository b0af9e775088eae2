"""Streets, the embedded data set in which context decides: made by `segnl data streets`, read as Cityscapes is.

What decides for which pair of classes is the table in streets_pairs.py; docs/streets.md shows it in pictures.
"""

from pathlib import Path

import numpy as np

from segnl.core.arrays import Counts, Pixels
from segnl.core.errors import DataError
from segnl.data.base import Files
from segnl.data.datasets.cityscapes import LABEL_END, Cityscapes, CityscapesConfig
from segnl.data.reading import read_label
from segnl.streets.files import AMBIGUOUS_END, require_complete
from segnl.streets.pairs import PAIRS


class StreetsConfig(CityscapesConfig):
    """Settings of Streets. A resized or recoloured street stays solvable; neither is needed, so both are off."""

    scale: tuple[float, float] = (1.0, 1.0)
    distort: bool = False


class Streets(Cityscapes):
    """Cityscapes' layout, and beside each label the pixels of ambiguous objects."""

    Config = StreetsConfig
    how_to_get = "make it with `segnl data streets --out data/streets`"

    def find_files(self) -> tuple[Files, Files]:
        require_complete(self.root)
        return super().find_files()

    def ambiguous_path(self, i: int) -> Path:
        label = self.label_path(i)
        return label.with_name(label.name.removesuffix(LABEL_END) + AMBIGUOUS_END)


def ambiguous_mask(data: Streets, i: int) -> Pixels:
    """Which pixels of image `i` show an ambiguous object: u8 `H W`, 0 none, else 1 + the place of its pair in PAIRS.

    Raises DataError for a file that is missing, damaged or of another generator.
    """
    mask = read_label(data.ambiguous_path(i))
    if int(mask.max()) > len(PAIRS):
        raise DataError(
            f"{data.ambiguous_path(i)}: holds {mask.max()}, but there are {len(PAIRS)} pairs; make the data set anew"
        )
    return mask


def pair_counts(pred: Pixels, label: Pixels, ambiguous: Pixels) -> Counts:
    """Pixels predicted right and all pixels, int64 `pairs 2`, to be summed over a split and divided.

    pred, label: u8 `H W`, train ids; ambiguous: as from `ambiguous_mask`. A pixel given to a third class is wrong, so
    a model that knows what a pair looks like but not its cue comes to 0.5, and one that does not to less.
    """
    if not pred.shape == label.shape == ambiguous.shape:
        raise ValueError(f"pred {pred.shape}, label {label.shape} and ambiguous {ambiguous.shape} differ in shape")
    total = np.bincount(ambiguous.ravel(), minlength=len(PAIRS) + 1)
    right = np.bincount(ambiguous[pred == label], minlength=len(PAIRS) + 1)
    return np.stack([right, total], axis=1)[1:].astype(np.int64)


DATASET = Streets
