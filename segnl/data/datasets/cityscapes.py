"""Cityscapes in its official layout: leftImg8bit and gtFine.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

from pathlib import Path

from segnl.core.archives import is_file
from segnl.core.errors import ConfigError, DataError
from segnl.data.base import DataConfig, SegmentationData, SubmissionRules
from segnl.data.layout import Files
from segnl.labels.cityscapes import TABLE
from segnl.labels.table import ClassTable

IMAGE_END = "_leftImg8bit.png"
LABEL_END = "_gtFine_labelIds.png"
SAMPLE_ID = r"[A-Za-z-]+_\d{6}_\d{6}"


class Cityscapes(SegmentationData):
    """leftImg8bit/SPLIT/CITY/STEM_leftImg8bit.png with gtFine/SPLIT/CITY/STEM_gtFine_labelIds.png.

    STEM is CITY_SEQUENCE_FRAME, the name that the benchmark's server expects. Only labelIds are read, never
    labelTrainIds, so that the two cannot be confused.
    """

    image_layout, label_layout = "leftImg8bit/{split}", "gtFine/{split}"
    image_ends, label_ends = (IMAGE_END,), (LABEL_END,)
    has_cityscapes_layout = True
    group = r"(?:.*/)?([A-Za-z-]+_\d{6})_\d{6}"  # CITY_SEQUENCE: a sequence is one drive
    submission = SubmissionRules(SAMPLE_ID, test_images=1525, test_hw=(1024, 2048))
    how_to_get = "it holds leftImg8bit/ and gtFine/; see data/README.md"
    label_hint = "only labelIds as downloaded are read, never labelTrainIds"

    @classmethod
    def class_table(cls, cfg: DataConfig) -> ClassTable:
        return TABLE

    def find_images(self) -> Files:
        return _by_frame(super().find_images())

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

    def instance_path(self, i: int) -> Path:
        """Returns the file of instance ids beside label `i`, which the official iIoU is weighted by."""
        label = self.label_path(i)
        return label.with_name(label.name.removesuffix("_labelIds.png") + "_instanceIds.png")


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
