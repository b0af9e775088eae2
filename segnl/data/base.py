"""Base of every data set: its settings, its pairs of image and label files, reading a pair."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field, field_validator

from segnl.core import IGNORE
from segnl.core.arrays import Ids, Pixels
from segnl.core.config import Config, JSONDict, SidePx
from segnl.core.errors import DataError
from segnl.data.reading import FileError, exif_orientation, read_image, read_label
from segnl.data.sample import Sample
from segnl.labels.table import ClassTable

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
Files = dict[str, Path]
"""Paths by sample id."""


def _transform_entry(entry: Any) -> JSONDict:
    from segnl.data.transforms import transform_entry  # imports albumentations, which takes two seconds

    return transform_entry(entry)


class DataConfig(Config):
    """Settings of a data set and of its training crops."""

    name: str
    root: Path
    crop_hw: tuple[SidePx, SidePx]
    """Rows and columns of a training crop. Where a smaller image does not fill it, the label is ignored."""
    scale: tuple[Annotated[float, Field(gt=0, le=16)], Annotated[float, Field(gt=0, le=16)]] = (0.5, 2.0)
    """Range of the random factor, uniform, by which an image is resized before it is cropped."""
    short_side_px: SidePx | None = None
    """Length of the shorter side at factor 1 (ADE20K: 512); null: the image's own."""
    crop_max_class: Annotated[float, Field(gt=0, le=1)] | None = None
    """Fraction of a crop that one class may cover; other crops are drawn again, up to ten times."""
    flip: bool = True
    distort: bool = True
    """Random brightness, contrast, saturation and hue."""
    augment: tuple[Annotated[dict[str, Any], BeforeValidator(_transform_entry)], ...] | None = None
    """Transforms by name with their arguments, such as [ScaledCrop, {Rotate: {limit: 10}}], in place of random scale,
    crop, flip and colour; null: these."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Loader processes; their number is bounded by the machine (core/limits.py)."""
    worker_timeout_s: Annotated[float, Field(gt=0)] = 120.0

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("expected [smallest, largest]")
        return scale

    @property
    def title(self) -> str:
        """The data set's name for people and for the names of runs."""
        return self.name

    @property
    def root_folder(self) -> Path:
        """The root with a leading `~` expanded, unless there is no such user."""
        try:
            return self.root.expanduser()
        except RuntimeError:
            return self.root


@dataclass(frozen=True)
class SubmissionRules:
    """Masks that a benchmark's server accepts.

    sample_id: regular expression of the names it knows. test_images, test_hw: number and rows, columns of the test
    split's images; None where the server does not fix them.
    """

    sample_id: str
    test_images: int | None = None
    test_hw: tuple[int, int] | None = None


class SegmentationData:
    """One split of a data set: pairs of image and label files, and the class table of the labels.

    A subclass overrides `class_table`, `find_images`, `find_labels`, `label_folder` and `expected`, and names its
    `Config` if it has settings of its own; one whose labels need decoding also overrides `read_ids`.
    allow_unmatched: collects files without a partner in `unmatched` instead of raising for the first (for `check`).
    needs_labels: False accepts a split without any label file; `has_labels` is False then, and all labels are ignored.

    Raises DataError for a folder that is missing or empty, an unknown split, an image without label or the reverse.
    """

    Config: ClassVar[type[DataConfig]] = DataConfig
    how_to_get: ClassVar[str] = "see data/README.md"
    """Last words of the message about a missing root."""
    has_cityscapes_layout: ClassVar[bool] = False
    """Whether `root` holds gtFine/ with labelIds and instanceIds, which the official Cityscapes evaluator reads."""
    counts_absent_classes: ClassVar[bool] = False
    """Whether the benchmark's own mean IoU is over all classes, absent ones counting 0 (ADE20K)."""
    submission: ClassVar[SubmissionRules | None] = None
    """None for a data set without a server."""
    ambiguous_pairs: ClassVar[tuple[str, ...]] = ()
    """Names of the pairs of classes that look alike, for a data set that marks their pixels (`ambiguous_mask`)."""

    def __init__(
        self, cfg: DataConfig, split: str, *, allow_unmatched: bool = False, needs_labels: bool = True
    ) -> None:
        self.cfg = cfg
        self.split = split
        self.root = cfg.root_folder
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; set data.root to the data set ({self.how_to_get})")
        self.table = self.class_table(cfg)
        label_files = self.label_folder().rglob("*")
        self.has_labels = needs_labels or any(path.is_file() and path.name[0] != "." for path in label_files)
        images, labels = self.find_images(), self.find_labels() if self.has_labels else {}
        self.unmatched = self._unmatched(images, labels) if self.has_labels else []
        if self.unmatched and not allow_unmatched:
            more = f" ({len(self.unmatched) - 1} more such files)" if len(self.unmatched) > 1 else ""
            raise DataError(f"{self.unmatched[0]}{more}; `segnl check` names all")
        self.sample_ids = sorted(images.keys() & labels.keys() if self.has_labels else images)
        self._images = [images[sample_id] for sample_id in self.sample_ids]
        self._labels = [labels[sample_id] for sample_id in self.sample_ids] if self.has_labels else []

    @classmethod
    def class_table(cls, cfg: Any) -> ClassTable:
        """Returns the classes of the data set; cfg: its own `Config`."""
        raise NotImplementedError

    def find_images(self) -> Files:
        """Finds the split's images by sample id. Raises DataError when there are none."""
        raise NotImplementedError

    def find_labels(self) -> Files:
        """Finds the split's labels by sample id. Raises DataError when there are none."""
        raise NotImplementedError

    def label_folder(self) -> Path:
        """Returns the folder of the split's labels, which may not exist."""
        raise NotImplementedError

    def expected(self, sample_id: str) -> tuple[str, str]:
        """Returns the file names that the image and the label of a sample should have, for messages."""
        raise NotImplementedError

    def _unmatched(self, images: Files, labels: Files) -> list[FileError]:
        return [
            FileError(files[sample_id], "missing", f"no {kind} belongs to it; expected {self.expected(sample_id)[i]}")
            for files, partners, kind, i in ((images, labels, "label", 1), (labels, images, "image", 0))
            for sample_id in sorted(files.keys() - partners.keys())
        ]

    def __len__(self) -> int:
        return len(self.sample_ids)

    def image_path(self, i: int) -> Path:
        return self._images[i]

    def label_path(self, i: int) -> Path:
        return self._labels[i]

    def ambiguous_mask(self, i: int) -> Pixels:
        """Marks the objects of ambiguous pairs in image `i`: u8 `H W`, 0 none, else 1 + the pair's place.

        Only for a data set with `ambiguous_pairs`.
        """
        raise NotImplementedError

    def files_of(self, i: int) -> list[Path]:
        """Every file that belongs to pair `i` and that a score may depend on, the image first."""
        return [self.image_path(i), *([self.label_path(i)] if self.has_labels else [])]

    def read_ids(self, i: int) -> Ids:
        """Reads the label of pair `i` as the ids of its file, integer `H W`; `class_table` maps them to train ids.

        Override it for labels that are no images of ids. Raises FileError.
        """
        return read_label(self._labels[i])

    def read(self, i: int) -> Sample:
        """Reads pair `i` at its own size, the label as train ids. Raises DataError naming the file and the error."""
        image = read_image(self._images[i])
        if not self.has_labels:
            return Sample(image, np.full(image.shape[:2], IGNORE, np.uint8), self.sample_ids[i])
        raw = self.read_ids(i)
        require_same_size(self._images[i], image.shape[:2], self._labels[i], raw.shape)
        return Sample(image, self.table.to_train(raw, str(self._labels[i])), self.sample_ids[i])


def require_same_size(image: Path, image_hw: tuple[int, ...], label: Path, label_hw: tuple[int, ...]) -> None:
    """Raises FileError unless the label has its image's size."""
    if image_hw == label_hw:
        return
    fix = "export the label at the image's size"
    if exif_orientation(image) != 1 and image_hw == label_hw[::-1]:
        tag = f"EXIF orientation {exif_orientation(image)}"
        fix = f"the image has {tag}, which is not applied: rotate its pixels instead"
    sizes = f"label of {label_hw[0]}x{label_hw[1]} pixels, but {image.name} has {image_hw[0]}x{image_hw[1]}"
    raise FileError(label, "size", f"{sizes}; {fix}")


def split_folder(folder: Path) -> Path:
    """Returns the folder of a split as it is. Raises DataError naming the missing folder and the splits that exist."""
    parent = folder.parent
    if not parent.is_dir():
        raise DataError(f"{parent}: no such folder; data.root must be the folder that holds {parent.name}/")
    if not folder.is_dir():
        splits = ", ".join(sorted(path.name for path in parent.iterdir() if path.is_dir())) or "none"
        raise DataError(f"{parent}: no split '{folder.name}'; it has {splits}")
    return folder


def files_by_id(folder: Path, suffixes: tuple[str, ...], *, kind: str) -> Files:
    """Finds the visible files of a folder with one of these suffixes. Raises DataError for none, or two of one stem."""
    files: Files = {}
    for path in sorted(folder.iterdir()):
        # macOS leaves ._NAME.jpg beside NAME.jpg on other file systems.
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in files:
            raise DataError(f"{path}: {files[path.stem].name} has the same stem; keep one of them")
        files[path.stem] = path
    if not files:
        raise DataError(f"{folder}: no {kind} files; expected *{', *'.join(suffixes)}")
    return files
