"""What `segnl score` is asked to score, and options that contradict the masks. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segnl.core import IGNORE
from segnl.core.arrays import Counts
from segnl.core.errors import ConfigError, DataError
from segnl.evaluation.score_classes import PredictionIds
from segnl.labels.table import ClassTable

LABEL_KINDS = {"cityscapes": "labelIds", "cityscapes-train": "labelTrainIds"}
"""A text in the names of the labels of a built-in table."""


@dataclass(frozen=True)
class ScoreRequest:
    """Masks to score.

    predictions, labels: see data/mask_files.py. classes: a class table, data.yaml, `cityscapes`,
    `cityscapes-train` (labels that hold train ids), `ade20k` or `ade20k-train`.
    ignore_ids: ids in label files that are not scored.
    prediction_ids: `file`: the ids of the label files; `train`: 0..k-1 in the order of the class table.
    prediction_prefix, prediction_suffix, label_prefix, label_suffix: ends of file names. resize: whether masks of
    another size than their label, but of its aspect ratio, are resized to it (nearest pixel) instead of refused.
    published: a printed score.
    foreground_id: of binary masks: a further id of the table's second class, in labels and predictions.
    """

    predictions: Path
    labels: Path
    classes: str
    ignore_ids: Sequence[int] = ()
    prediction_ids: PredictionIds = "file"
    prediction_prefix: str = ""
    prediction_suffix: str = ""
    label_prefix: str = ""
    label_suffix: str = ""
    resize: bool = False
    published: str | None = None
    foreground_id: int | None = None

    @property
    def folder_ends(self) -> dict[str, tuple[str, str]]:
        """Prefix and suffix of each side that is a folder."""
        labels = {"label": (self.label_prefix, self.label_suffix)} if self.labels.is_dir() else {}
        own = {"prediction": (self.prediction_prefix, self.prediction_suffix)} if self.predictions.is_dir() else {}
        return labels | own


def refuse_other_ids(classes: str, label_files: Sequence[str]) -> None:
    """Raises ConfigError for Cityscapes' labels of one kind of ids and the table of the other kind."""
    for other in LABEL_KINDS.keys() - {classes} if classes in LABEL_KINDS else ():
        files = [file for file in label_files if LABEL_KINDS[other].lower() in Path(file).name.lower()]
        if files:
            raise ConfigError(
                f"{files[0]}: by its name a label of {LABEL_KINDS[other]}, as {len(files)} of {len(label_files)} "
                f"labels are, but --classes {classes} reads {LABEL_KINDS[classes]}; use --classes {other}"
            )


def check_foreground(request: ScoreRequest, table: ClassTable) -> None:
    own = request.foreground_id
    if own is None:
        return
    if table.num_classes != 2:
        raise ConfigError(f"--foreground {own}: is for tables of two classes; {table.title} has {table.num_classes}")
    if not 0 <= own <= IGNORE:
        raise ConfigError(f"--foreground {own}: expected an id within 0..{IGNORE}")
    if own in (table.file_ids[0], *request.ignore_ids):
        meaning = "ignored (--ignore)" if own in request.ignore_ids else f"'{table.names[0]}', the background"
        raise ConfigError(f"--foreground {own}: this id is {meaning}, so it cannot be the foreground too")
    if table.file_ids[1] == 0 != own:
        raise ConfigError(f"--foreground {own}: 0 is the second class of {table.title}; list the background first")


def refuse_unread_foreground(request: ScoreRequest, table: ClassTable, raw: Counts) -> None:
    """Raises DataError for binary masks of 0 and 255: 255 would be ignored, and only the background be scored.

    raw: as in MaskScore.
    """
    if table.num_classes != 2 or IGNORE in {*table.file_ids, *request.ignore_ids}:
        return
    own_id = table.file_ids[1] if request.prediction_ids == "file" else 1
    name, hint = table.names[1], "give --foreground 255 if 255 stands for it"
    if raw[IGNORE].any() and not raw[1].any():
        raise DataError(
            f"{request.labels}: no label holds {table.file_ids[1]}, the class '{name}', and some hold 255; {hint}"
        )
    if raw[:, IGNORE].any() and not raw[:, own_id].any():
        if raw[IGNORE].any():
            hint = f"in the labels 255 is ignored, so save {own_id} instead of 255 in the predictions"
        raise DataError(f"{request.predictions}: no mask holds {own_id}, the class '{name}', and some hold 255; {hint}")
