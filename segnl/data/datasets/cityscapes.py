"""Cityscapes in its official layout: leftImg8bit and gtFine.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

from pathlib import Path

from segnl.core.errors import DataError
from segnl.data.base import DataConfig, Files, SegmentationData, SubmissionRules, split_folder
from segnl.labels.cityscapes import TABLE
from segnl.labels.table import ClassTable

IMAGE_END = "_leftImg8bit.png"
LABEL_END = "_gtFine_labelIds.png"
INSTANCE_END = "_gtFine_instanceIds.png"
TRAIN_ID_END = "_gtFine_labelTrainIds.png"
SAMPLE_ID = r"[A-Za-z-]+_\d{6}_\d{6}"


class Cityscapes(SegmentationData):
    """leftImg8bit/SPLIT/CITY/STEM_leftImg8bit.png with gtFine/SPLIT/CITY/STEM_gtFine_labelIds.png.

    STEM is CITY_SEQUENCE_FRAME, the name that the benchmark's server expects. Only labelIds are read, never
    labelTrainIds, so that the two cannot be confused.
    """

    has_cityscapes_layout = True
    submission = SubmissionRules(SAMPLE_ID, test_images=1525, test_hw=(1024, 2048))
    how_to_get = "it holds leftImg8bit/ and gtFine/; see data/README.md"

    @classmethod
    def class_table(cls, cfg: DataConfig) -> ClassTable:
        return TABLE

    def find_images(self) -> Files:
        images = split_folder(self.root / "leftImg8bit" / self.split)
        files = _by_id(images, IMAGE_END)
        if not files:
            raise DataError(f"{images}: no image files; expected CITY/*{IMAGE_END} ({self.how_to_get})")
        return files

    def find_labels(self) -> Files:
        labels = split_folder(self.label_folder())
        files = _by_id(labels, LABEL_END)
        if not files:
            others = f", found *{TRAIN_ID_END}, which is not read" if _by_id(labels, TRAIN_ID_END) else ""
            raise DataError(f"{labels}: no label files; expected CITY/*{LABEL_END}{others} ({self.how_to_get})")
        return files

    def label_folder(self) -> Path:
        return self.root / "gtFine" / self.split

    def expected(self, sample_id: str) -> tuple[str, str]:
        city = sample_id.split("_")[0]
        return (
            f"leftImg8bit/{self.split}/{city}/{sample_id}{IMAGE_END}",
            f"gtFine/{self.split}/{city}/{sample_id}{LABEL_END}",
        )

    def files_of(self, i: int) -> list[Path]:
        has_instances = self.has_labels and self.instance_path(i).is_file()
        return super().files_of(i) + ([self.instance_path(i)] if has_instances else [])

    def instance_path(self, i: int) -> Path:
        """Returns the file of instance ids beside label `i`, which the official iIoU is weighted by."""
        label = self.label_path(i)
        return label.with_name(label.name.removesuffix(LABEL_END) + INSTANCE_END)


def _by_id(folder: Path, end: str) -> Files:
    return {path.name.removesuffix(end): path for path in folder.glob(f"*/[!.]*{end}")}


DATASET = Cityscapes
