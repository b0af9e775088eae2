"""ADE20K in the layout of the scene-parsing benchmark (ADEChallengeData2016).

Source: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017.
"""

from collections.abc import Mapping
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
        folder = self.image_folder()
        if is_folder(folder) and any(path.name.endswith("_seg.png") for path in find_files(folder)):
            raise DataError(f"{folder}: holds *_seg.png, the full ADE20K; expected the release ADEChallengeData2016")
        return super().find_images()


DATASET = ADE20K
