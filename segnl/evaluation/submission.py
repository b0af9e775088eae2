"""`segnl eval --submission FILE.zip`: packs the masks, and nothing else, as a benchmark's server expects them.

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
from segnl.core.outputs import marked, require_own
from segnl.core.png import png
from segnl.data.base import SegmentationData
from segnl.data.sample import Sample

ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same masks give the same file


class Submission:
    """Masks for one zip file, held in memory, compressed, until all are there."""

    def __init__(self, path: Path, data: SegmentationData, background: Background) -> None:
        """Checks that the server would accept the file. background: compresses the masks.

        Raises ConfigError for a data set without a server or a path that is no .zip
        or a file that `eval` did not write; DataError for a number of images
        or names that the server would reject; MachineError when the folder cannot be written.
        """
        self.path, self.data, self.background = path, data, background
        rules = data.submission
        if rules is None:
            raise ConfigError(f"--submission: no server scores '{data.cfg.name}'; cityscapes and ade20k have one")
        if data.table.has_label_map:
            raise ConfigError("--submission: the server scores the data set's own classes; leave out data.label_map")
        if path.suffix.lower() != ".zip":
            raise ConfigError(f"--submission {path}: expected a file that ends in .zip")
        require_own(path, "eval", option="--submission")
        if data.split == "test" and rules.test_images not in (None, len(data)):
            raise DataError(
                f"{data.root}: {len(data)} test images, but the server expects {rules.test_images}; "
                "complete the download"
            )
        self.expected_hw = rules.test_hw if data.split == "test" else None  # None: each image's own
        unknown = [sample_id for sample_id in data.sample_ids if not re.fullmatch(rules.sample_id, sample_id)]
        if unknown:
            where = data.image_path(data.sample_ids.index(unknown[0]))
            raise DataError(f"{where}: the server knows no image of that name; use the original file name")
        ensure_writable(path.parent)
        self._files: dict[str, bytes] = {}

    def add(self, sample: Sample, prediction: Tensor) -> None:
        """Adds one image's train ids u8 `H W`, on the CPU; raises DataError for a size the server would reject."""
        hw, image_hw = tuple(prediction.shape), sample.image.shape[:2]
        expected = self.expected_hw or image_hw
        if hw != image_hw or hw != expected:
            raise DataError(f"{sample.id}: a mask of {hw}, but the server expects {expected}; use the original images")

        def compress() -> None:
            self._files[f"{sample.id}.png"] = png(self.data.table.to_mask(prediction.numpy()))

        self.background.submit(compress)

    def write(self) -> None:
        """Writes the zip file, complete or not at all. Raises DataError when a mask is missing."""
        missing = sorted({f"{sample_id}.png" for sample_id in self.data.sample_ids} - self._files.keys())
        if missing:
            raise DataError(f"{self.path}: {len(missing)} masks missing, {missing[0]} first; nothing was written")
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:  # a PNG is compressed already
            for name in sorted(self._files):
                info = zipfile.ZipInfo(name, ZIP_DATE)
                info.external_attr = 0o644 << 16
                file.writestr(info, self._files[name])
        write_atomic(self.path, marked(packed.getvalue(), "eval"))
