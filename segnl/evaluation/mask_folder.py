"""Folder of `segnl eval --masks`: the masks of one evaluation, from which it resumes after a kill.

DIR/masks.json, a record of core/result_cache.py, holds the evaluation's key; it is written before the first mask.
DIR/{ids,colour,overlay,error}/SAMPLE_ID.png
"""

import json
from functools import partial
from pathlib import Path

from torch import Tensor

from segnl.core.arrays import Pixels
from segnl.core.background import Background
from segnl.core.config import JSONDict
from segnl.core.errors import ConfigError, DataError
from segnl.core.files import remove_leftovers
from segnl.core.result_cache import Record, read_record, write_record
from segnl.data.base import SegmentationData
from segnl.data.reading import read_label
from segnl.data.sample import Sample
from segnl.evaluation.masks import KINDS, mask_path, write_masks
from segnl.runs.recipe import differing_keys

MANIFEST = "masks.json"


class MaskFolder:
    """Masks that other threads write, and that the next start of the same evaluation reads."""

    def __init__(self, folder: Path, key: JSONDict, data: SegmentationData, background: Background) -> None:
        """key: all that the masks depend on. background: the threads that write.

        Raises ConfigError, with nothing written, when the folder holds the masks of another evaluation.
        """
        self.folder, self.data, self.background = folder, data, background
        self.kinds = KINDS if data.has_labels else KINDS[:-1]
        _require_own(folder, key)
        write_record(folder / MANIFEST, Record(key))
        for written in (folder, *(folder / kind for kind in KINDS)):
            remove_leftovers(written)
        self.known_ids = {sample_id for sample_id in data.sample_ids if self._is_complete(sample_id)}

    def _is_complete(self, sample_id: str) -> bool:
        return all(mask_path(self.folder, kind, sample_id).is_file() for kind in self.kinds)

    def known(self, sample: Sample) -> Pixels | None:
        """The train ids u8 `H W` that an earlier start wrote; None where it did not, or the file is damaged."""
        if sample.id not in self.known_ids:
            return None
        path = mask_path(self.folder, "ids", sample.id)
        try:
            labels = self.data.table.to_train(read_label(path), str(path))
        except DataError:
            labels = None
        if labels is None or labels.shape != sample.label.shape:
            self.known_ids.discard(sample.id)
            return None
        return labels

    def write(self, sample: Sample, labels: Tensor) -> None:
        """Has the sample's masks written, unless they are known. labels: predicted, u8 `H W` on the CPU."""
        if sample.id in self.known_ids:
            return
        label = sample.label if self.data.has_labels else None
        table = self.data.table
        self.background.do(
            partial(write_masks, self.folder, sample.id, labels.numpy(), table, image=sample.image, label=label)
        )


def require_no_evaluation(folder: Path) -> None:
    """Raises ConfigError for a folder of `segnl eval --masks`: other masks among them would count as its own."""
    if (folder / MANIFEST).exists():
        raise ConfigError(f"{folder}: holds the masks of an evaluation ({MANIFEST}); give another folder")


def _require_own(folder: Path, key: JSONDict) -> None:
    mask = next((path for kind in KINDS for path in sorted((folder / kind).glob("[!.]*.png"))), None)
    if mask is None:
        return
    path = folder / MANIFEST
    if not path.exists():
        raise ConfigError(
            f"{folder}: holds masks such as {mask.parent.name}/{mask.name}, but no {MANIFEST} that says which "
            "evaluation wrote them; give another --masks folder"
        )
    record = read_record(path)
    if record is None:
        raise ConfigError(f"{path}: damaged or of an older version, so its masks may be any; give another folder")
    changed = differing_keys(json.loads(json.dumps(key)), record.key, with_eval=True)
    if changed:
        raise ConfigError(
            f"{folder}: holds masks of another evaluation, which differs in {', '.join(changed)}; "
            "give another --masks folder, or delete this one"
        )
