"""Any data set in a folder: images/SPLIT/STEM.jpg, labels/SPLIT/STEM.png and classes.tsv."""

from pathlib import Path

from segnl.data.base import IMAGE_SUFFIXES, DataConfig, Files, SegmentationData, files_by_id, split_folder
from segnl.labels.table import ClassTable

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # lossless ones only


class FolderConfig(DataConfig):
    """Settings of a folder data set."""

    ignore_ids: tuple[int, ...] = ()
    """Label ids that are ignored; 255 always is."""

    @property
    def title(self) -> str:
        return self.root.name


class Folder(SegmentationData):
    """Images and labels paired by file stem; a label holds ids of `classes.tsv` (columns index, name, r, g, b)."""

    Config = FolderConfig
    cfg: FolderConfig
    how_to_get = "it holds images/, labels/ and classes.tsv"

    @classmethod
    def class_table(cls, cfg: FolderConfig) -> ClassTable:
        return ClassTable.from_tsv(cfg.root_folder / "classes.tsv", cfg.ignore_ids)

    def find_images(self) -> Files:
        return files_by_id(split_folder(self.root / "images" / self.split), IMAGE_SUFFIXES, kind="image")

    def find_labels(self) -> Files:
        return files_by_id(split_folder(self.label_folder()), LABEL_SUFFIXES, kind="label")

    def label_folder(self) -> Path:
        return self.root / "labels" / self.split

    def expected(self, sample_id: str) -> tuple[str, str]:
        return f"images/{self.split}/{sample_id}.jpg or .png", f"labels/{self.split}/{sample_id}.png"


DATASET = Folder
