"""ADE20K in the layout of the scene-parsing benchmark (ADEChallengeData2016).

Source: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017.
"""

from pathlib import Path

from segnl.core.errors import DataError
from segnl.data.base import DataConfig, Files, SegmentationData, SubmissionRules, files_by_id, split_folder
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
FOLDERS = {"train": "training", "val": "validation", "test": "testing"}


class ADE20K(SegmentationData):
    """images/{training,validation}/STEM.jpg with annotations/{training,validation}/STEM.png; 0 is ignored.

    The splits are called `train` and `val` as in every data set; `test` is images/testing, a separate release without
    annotations.
    """

    counts_absent_classes = True
    submission = SubmissionRules(r"ADE_(train|val|test)_\d{8}")
    how_to_get = "ADEChallengeData2016, which holds images/ and annotations/; see data/README.md"

    @classmethod
    def class_table(cls, cfg: DataConfig) -> ClassTable:
        return TABLE

    @property
    def folder(self) -> str:
        """The name of the split's folders."""
        return FOLDERS.get(self.split, self.split)

    def find_images(self) -> Files:
        images = split_folder(self.root / "images" / self.folder)
        if not any(images.glob("*.jpg")) and any(images.rglob("*_seg.png")):
            raise DataError(f"{images}: holds *_seg.png, the full ADE20K; expected the release ADEChallengeData2016")
        return files_by_id(images, (".jpg",), kind="image")

    def find_labels(self) -> Files:
        return files_by_id(split_folder(self.label_folder()), (".png",), kind="label")

    def label_folder(self) -> Path:
        return self.root / "annotations" / self.folder

    def expected(self, sample_id: str) -> tuple[str, str]:
        return f"images/{self.folder}/{sample_id}.jpg", f"annotations/{self.folder}/{sample_id}.png"


DATASET = ADE20K
