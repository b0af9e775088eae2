"""ADE20K in the layout of the scene-parsing benchmark (ADEChallengeData2016).

Source: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from segnl.core.archives import is_folder
from segnl.core.errors import DataError
from segnl.core.find_files import find_files
from segnl.data.base import DataConfig, SegmentationData, SubmissionRules
from segnl.data.layout import Files
from segnl.labels.table import ClassTable, read_tsv

_ROWS = read_tsv(Path(__file__).with_suffix(".tsv"))  # names with their synonyms; ids 1..150, 0 is "other objects"
TABLE = ClassTable(
    [row.name for row in _ROWS],
    [row.colour for row in _ROWS],
    file_ids=[row.file_id for row in _ROWS],
    ignore_ids=[0],
    void_id=0,
    title="ade20k",
    unknown_hint="expected SceneParse150's annotations (ADEChallengeData2016), 8-bit",
)


class ADE20K(SegmentationData):
    """images/{training,validation}/STEM.jpg with annotations/{training,validation}/STEM.png; 0 is ignored.

    The splits are called `train` and `val` as in every data set; `test` is images/testing, a separate release without
    annotations.
    """

    image_layout, label_layout = "images/{split}", "annotations/{split}"
    image_ends, label_ends = (".jpg",), (".png",)
    folders: ClassVar[Mapping[str, str]] = {"train": "training", "val": "validation", "test": "testing"}
    counts_absent_classes = True
    submission = SubmissionRules(r"ADE_(train|val|test)_\d{8}")
    how_to_get = "ADEChallengeData2016, which holds images/ and annotations/; see data/README.md"

    @classmethod
    def class_table(cls, cfg: DataConfig) -> ClassTable:
        return TABLE

    def find_images(self) -> Files:
        refuse_full_release(self.root, find_files(self.root, recursive=False))
        folder = self.image_folder()
        if is_folder(folder):
            refuse_full_release(folder, find_files(folder))
        return super().find_images()


def refuse_full_release(folder: Path, files: Iterable[Path]) -> None:
    """Raises DataError where the files are of the full ADE20K, whose labels are thousands of classes in colours."""
    for path in files:
        if path.stem == "index_ade20k" or (path.name.startswith("ADE_") and path.name.endswith("_seg.png")):
            raise DataError(
                f"{folder}: holds {path.name}, so it is the full ADE20K; expected the release of 150 classes, "
                "ADEChallengeData2016.zip (data/README.md)"
            )


DATASET = ADE20K
