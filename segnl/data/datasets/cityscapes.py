"""Cityscapes in its official layout: leftImg8bit and gtFine.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

import functools
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, Field

from segnl.core.archives import archive_of, is_file, is_folder
from segnl.core.arrays import Ids
from segnl.core.errors import ConfigError, DataError
from segnl.core.find_files import find_files
from segnl.data.annotations.base import validated
from segnl.data.base import DataConfig, SegmentationData, SubmissionRules
from segnl.data.file_error import FileError
from segnl.data.layout import Files
from segnl.labels.cityscapes import LABELS, TABLE
from segnl.labels.table import ClassTable

IMAGE_END = "_leftImg8bit.png"
IDS_END, POLYGONS_END = "_labelIds.png", "_polygons.json"
LABEL_END = f"_gtFine{IDS_END}"
SAMPLE_ID = r"[A-Za-z-]+_\d{6}_\d{6}"
Side = Annotated[int, Field(ge=1, le=2**15)]
Coordinate = Annotated[float, Field(ge=-1e5, le=1e5)]


class CityscapesConfig(DataConfig):
    """Settings of Cityscapes."""

    train_labels: Literal["gtFine", "gtCoarse"] = "gtFine"
    """Labels of split train; the other splits always have gtFine. Coarse labels exist for 19,998 more images, which are
    the split train with splits: {train: train_extra}."""


class _Object(BaseModel):
    label: str
    polygon: list[tuple[Coordinate, Coordinate]]
    deleted: bool = False


class _Polygons(BaseModel):
    imgHeight: Side  # noqa: N815  the format's name
    imgWidth: Side  # noqa: N815
    objects: list[_Object]


class Cityscapes(SegmentationData):
    """leftImg8bit/SPLIT/CITY/STEM_leftImg8bit.png with gtFine/SPLIT/CITY/STEM_gtFine_labelIds.png.

    STEM is CITY_SEQUENCE_FRAME, the name that the benchmark's server expects. Only labelIds are read, never
    labelTrainIds, so that the two cannot be confused. Where a folder has no labelIds, but polygons.json, these are
    drawn as cityscapesscripts draws them.
    """

    Config: ClassVar[type[DataConfig]] = CityscapesConfig

    image_layout, label_layout = "leftImg8bit/{split}", "gtFine/{split}"
    image_ends, label_ends = (IMAGE_END,), (LABEL_END,)
    group = r"(?:.*/)?([A-Za-z-]+_\d{6})_\d{6}"  # CITY_SEQUENCE: a sequence is one drive
    submission = SubmissionRules(SAMPLE_ID, test_images=1525, test_hw=(1024, 2048))
    how_to_get = "it holds leftImg8bit/ and gtFine/; see data/README.md"
    label_hint = "only labelIds as downloaded are read, never labelTrainIds"

    @classmethod
    def class_table(cls, cfg: DataConfig) -> ClassTable:
        return TABLE

    def find_images(self) -> Files:
        return _by_frame(super().find_images())

    @property
    def _label_kind(self) -> str:
        is_coarse = isinstance(self.cfg, CityscapesConfig) and self.cfg.train_labels == "gtCoarse"
        return "gtCoarse" if is_coarse and self.split == "train" else "gtFine"

    def label_folder(self) -> Path:
        folder = super().label_folder()
        return folder if self.cfg.label_folder else self.root / self._label_kind / folder.name

    def _ends(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        image_ends, label_ends = super()._ends()
        return image_ends, label_ends if self.cfg.label_suffix else (f"_{self._label_kind}{self._stored_as}",)

    @functools.cached_property
    def _stored_as(self) -> str:
        """The end of the labels' names: polygons only where there are no labelIds."""
        folder = self.label_folder()
        names = [path.name for path in find_files(folder)] if is_folder(folder) else []
        ends = [end for end in (IDS_END, POLYGONS_END) if any(name.endswith(end) for name in names)]
        return ends[0] if ends else IDS_END

    def read_ids(self, i: int) -> Ids:
        path = self.label_path(i)
        return _draw(path, self.cfg.max_pixels) if path.name.endswith(POLYGONS_END) else super().read_ids(i)

    def find_labels(self) -> Files:
        if "TrainIds" in (self.cfg.label_suffix or ""):
            raise ConfigError(f"data.label_suffix: holds '{self.cfg.label_suffix}'; {self.label_hint}")
        return _by_frame(super().find_labels())

    def expected(self, sample_id: str) -> tuple[str, str]:
        folder = "" if "/" in sample_id else f"{sample_id.split('_')[0]}/"
        return super().expected(f"{folder}{sample_id}")

    def files_of(self, i: int) -> list[Path]:
        has_instances = self.has_labels and is_file(self.instance_path(i))
        return super().files_of(i) + ([self.instance_path(i)] if has_instances else [])

    def official_files(self) -> list[tuple[Path, Path]]:
        if not self.has_labels:
            raise ConfigError(f"--official: {self.root} has no labels for split '{self.split}'; leave it out")
        if self.table.has_label_map:
            raise ConfigError("--official: scores Cityscapes' own classes; leave out data.label_map")
        files = [(self.label_path(i), self.instance_path(i)) for i in range(len(self))]
        for label, instances in files:
            if archive_of(label) is not None:
                raise DataError(f"{label}: the official evaluator reads files; unpack the archive")
            if label.suffix == ".json":
                raise DataError(
                    f"{label}: the official evaluator reads labelIds; make them with cityscapesscripts' json2labelImg"
                )
            if not instances.is_file():
                raise DataError(f"{instances}: missing; the instance-weighted scores need it (see gtFine's download)")
        return files

    def instance_path(self, i: int) -> Path:
        """Returns the file of instance ids beside label `i`, which the official iIoU is weighted by."""
        label = self.label_path(i)
        sample = label.name.removesuffix(IDS_END).removesuffix(POLYGONS_END)
        return label.with_name(f"{sample}_instanceIds.png")


def _draw(path: Path, max_pixels: int) -> Ids:
    """Draws polygons in their order, as createLabelImage of cityscapesscripts does. Raises FileError."""
    ids = {label.name: label.id for label in LABELS}
    content = validated(path, _Polygons, "polygons as Cityscapes has them")
    if content.imgHeight * content.imgWidth > max_pixels:
        raise FileError(path, "size", f"has {content.imgHeight}x{content.imgWidth} pixels; raise data.max_pixels")
    image = Image.new("L", (content.imgWidth, content.imgHeight), 0)
    drawer = ImageDraw.Draw(image)
    for i, shape in enumerate(content.objects):
        name = shape.label if shape.label in ids else shape.label.removesuffix("group")
        if shape.deleted:
            continue
        if name not in ids:
            raise FileError(path, "classes", f"objects.{i}.label: '{shape.label}' is none of Cityscapes' labels")
        if len(shape.polygon) < 2:
            raise FileError(path, "format", f"objects.{i}.polygon: {len(shape.polygon)} points; expected three")
        if ids[name] >= 0:  # the licence plate is not drawn
            drawer.polygon(shape.polygon, fill=ids[name])
    return np.asarray(image)


def _by_frame(files: Files) -> Files:
    """Names a sample CITY_SEQUENCE_FRAME, as the benchmark's server does, where it lies in the folder CITY.

    Raises DataError for two files of one name.
    """
    by_frame: Files = {}
    for sample_id, path in files.items():
        city, _, frame = sample_id.rpartition("/")
        name = frame if frame.startswith(f"{city}_") else sample_id
        if name in by_frame:
            raise DataError(f"{path}: {by_frame[name]} has the same name; keep one of them")
        by_frame[name] = path
    return by_frame


DATASET = Cityscapes
