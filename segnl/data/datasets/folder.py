"""Any data set in a folder: images/SPLIT/NAME.jpg, labels/SPLIT/NAME.png and classes.tsv."""

from typing import Annotated

from pydantic import Field

from segnl.core.archives import is_file
from segnl.data.base import DataConfig, SegmentationData
from segnl.labels.label_map import mapped_table
from segnl.labels.table import ClassTable


class FolderConfig(DataConfig):
    """Settings of a folder data set."""

    ignore_ids: tuple[Annotated[int, Field(ge=0, le=255)], ...] = ()
    """Label ids that are ignored; 255 is unless it is a class."""

    @property
    def title(self) -> str:
        return self.root.name


class Folder(SegmentationData):
    """images/SPLIT/NAME.jpg with labels/SPLIT/NAME.png, which hold ids of `classes.tsv` (columns index, name, r, g, b).

    Without classes.tsv the classes are those of `data.label_map`.
    """

    Config = FolderConfig
    cfg: FolderConfig
    how_to_get = "it holds images/, labels/ and classes.tsv"

    @classmethod
    def class_table(cls, cfg: FolderConfig) -> ClassTable:
        return ClassTable.from_tsv(cfg.root_folder / "classes.tsv", cfg.ignore_ids)

    @classmethod
    def table_of(cls, cfg: FolderConfig) -> ClassTable:
        if cfg.label_map is not None and not is_file(cfg.root_folder / "classes.tsv"):
            return mapped_table(cfg.label_map, None, ignore_ids=cfg.ignore_ids)
        return super().table_of(cfg)


DATASET = Folder
