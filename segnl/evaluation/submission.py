"""`segnl eval --submission FILE.zip`: what a benchmark's server takes, and nothing else inside.

Cityscapes: CITY_SEQUENCE_FRAME.png, 8-bit labelIds 7..33, at the images' size; 1525 of them for its test split.
ADE20K: the image's name with .png, 8-bit ids 1..150, at the image's own size.
"""

import io
import re
import zipfile
from pathlib import Path

from torch import Tensor

from segnl.core.background import Background
from segnl.core.errors import ConfigError, DataError
from segnl.core.files import ensure_writable, write_atomic
from segnl.data.base import SegmentationData
from segnl.data.sample import Sample
from segnl.evaluation.masks import png

STEMS = {
    "cityscapes": re.compile(r"[A-Za-z-]+_\d{6}_\d{6}"),
    "streets": re.compile(r"[A-Za-z-]+_\d{6}_\d{6}"),  # has no server, but its layout and the same evaluator
    "ade20k": re.compile(r"ADE_(train|val|test)_\d{8}"),
}
"""What a server knows an image by; a data set that is not here has no server."""

CITYSCAPES_TEST_IMAGES = 1525
CITYSCAPES_HW = (1024, 2048)
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same masks give the same file


class Submission:
    """Masks on their way into one zip file; they are held in memory, compressed, until all are there."""

    def __init__(self, path: Path, name: str, data: SegmentationData, background: Background) -> None:
        """name: the data set's, as a recipe calls it. background: who compresses.

        Raises ConfigError for a data set without a server or a path that is no .zip; DataError for a number of images
        or names that the server would refuse; MachineError where nothing can be written.
        """
        self.path, self.name, self.data, self.background = path, name, data, background
        if name not in STEMS:
            raise ConfigError(f"--submission: no server scores '{name}'; cityscapes and ade20k have one")
        if path.suffix.lower() != ".zip":
            raise ConfigError(f"--submission {path}: expected a file that ends in .zip")
        if path.is_dir():
            raise ConfigError(f"--submission {path}: is a folder; expected the name of a file")
        self.is_cityscapes_test = name == "cityscapes" and data.split == "test"
        if self.is_cityscapes_test and len(data) != CITYSCAPES_TEST_IMAGES:
            raise DataError(
                f"{data.root / 'leftImg8bit/test'}: {len(data)} images, but the server wants "
                f"{CITYSCAPES_TEST_IMAGES}; complete the download"
            )
        strange = [sample_id for sample_id in data.sample_ids if not STEMS[name].fullmatch(sample_id)]
        if strange:
            where = data.image_path(data.sample_ids.index(strange[0]))
            raise DataError(f"{where}: the server knows no image of that name; give it the name of the release")
        ensure_writable(path.parent)
        self._files: dict[str, bytes] = {}

    def add(self, sample: Sample, predicted: Tensor) -> None:
        """Takes one image's train ids u8 `H W`, on the CPU; raises DataError for a size the server would refuse."""
        hw = tuple(predicted.shape)
        if hw != sample.image.shape[:2] or (self.is_cityscapes_test and hw != CITYSCAPES_HW):
            expected = CITYSCAPES_HW if self.is_cityscapes_test else sample.image.shape[:2]
            raise DataError(f"{sample.id}: a mask of {hw}, but the server wants {expected}; use the original images")

        def compress() -> None:
            self._files[f"{sample.id}.png"] = png(self.data.table.to_file(predicted.numpy()))

        self.background.do(compress)

    def write(self) -> None:
        """Puts the file at its place, whole or not at all. Raises DataError when a mask is missing."""
        missing = sorted({f"{sample_id}.png" for sample_id in self.data.sample_ids} - self._files.keys())
        if missing:
            raise DataError(f"{self.path}: {len(missing)} masks missing, {missing[0]} first; nothing was written")
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:  # a PNG is compressed already
            for name in sorted(self._files):
                info = zipfile.ZipInfo(name, ZIP_DATE)
                info.external_attr = 0o644 << 16
                file.writestr(info, self._files[name])
        write_atomic(self.path, packed.getvalue())
