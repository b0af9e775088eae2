"""Streets, the synthetic data set in which context decides: made by `segnl data streets`, read as Cityscapes is.

segnl/streets/pairs.py has the table of ambiguous pairs, docs/streets.md the pictures.
"""

from pathlib import Path

import numpy as np

from segnl.core.arrays import Pixels
from segnl.core.errors import DataError
from segnl.data.base import DataConfig, Scale, SubmissionRules
from segnl.data.datasets.cityscapes import LABEL_END, SAMPLE_ID, Cityscapes
from segnl.data.layout import Files
from segnl.data.reading import read_label
from segnl.streets.files import AMBIGUOUS_END, require_complete
from segnl.streets.pairs import PAIRS


class StreetsConfig(DataConfig):
    """Settings of Streets. Scaling and colour distortion are off: the generator varies both already."""

    scale: Scale = (1.0, 1.0)
    distort: bool = False


class Streets(Cityscapes):
    """Cityscapes' layout, with a mask of the ambiguous objects beside each label."""

    Config = StreetsConfig
    submission = SubmissionRules(SAMPLE_ID)  # no server, but the layout and the evaluator are Cityscapes'
    group = ""  # every street is drawn anew
    ambiguous_pairs = tuple(pair.name for pair in PAIRS)
    how_to_get = "make it with `segnl data streets --out data/streets`"

    def find_images(self) -> Files:
        require_complete(self.root)
        return super().find_images()

    def files_of(self, i: int) -> list[Path]:
        return super().files_of(i) + ([self.ambiguous_path(i)] if self.has_labels else [])

    def ambiguous_path(self, i: int) -> Path:
        label = self.label_path(i)
        return label.with_name(label.name.removesuffix(LABEL_END) + AMBIGUOUS_END)

    def ambiguous_mask(self, i: int) -> Pixels:
        """Marks the ambiguous objects of image `i`: u8 `H W`, 0 none, else 1 + its pair's place in PAIRS.

        Raises DataError for a file that is missing, damaged or of another generator.
        """
        path = self.ambiguous_path(i)
        mask = read_label(path)
        if mask.max() > len(PAIRS):
            raise DataError(f"{path}: holds {mask.max()}, but there are {len(PAIRS)} pairs; generate it again")
        return mask.astype(np.uint8)


DATASET = Streets
