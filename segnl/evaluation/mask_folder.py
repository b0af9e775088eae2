"""The folder of `segnl eval --masks`: one run's masks and no other's, so that a killed evaluation can go on.

DIR/masks.json says what they belong to; it is written first and sealed. DIR/{ids,colour,overlay,error}/STEM.png
"""

import hashlib
import json
from functools import partial
from pathlib import Path

from torch import Tensor

from segnl.core.arrays import Pixels
from segnl.core.background import Background
from segnl.core.config import JSONDict
from segnl.core.errors import ConfigError, DataError
from segnl.core.files import remove_leftovers, sha256_of, write_atomic
from segnl.data.base import SegmentationData
from segnl.data.digest import files_digest
from segnl.data.reading import read_label
from segnl.data.sample import Sample
from segnl.evaluation.masks import KINDS, mask_path, write_masks
from segnl.runs.checkpoint import Checkpoint
from segnl.runs.recipe import Recipe, differing_keys

MANIFEST = "masks.json"
FORMAT = "segnl-masks-1"


def belongs_to(checkpoint: Checkpoint, recipe: Recipe, data: SegmentationData) -> JSONDict:
    """All that masks depend on. How many windows pass the network at once is not among it: a rerun may need fewer."""
    mapping = recipe.to_dict()
    return {
        "checkpoint": {"file": checkpoint.path.name, "step": checkpoint.step, "sha256": sha256_of(checkpoint.path)},
        "data": {"name": recipe.data.name, "split": data.split, "short_side_px": recipe.data.short_side_px},
        "images": files_digest(data),
        "eval": {key: value for key, value in mapping["eval"].items() if key != "batch_size"},
    }


class MaskFolder:
    """Masks that are written by other threads, and found again by the next start of the same evaluation."""

    def __init__(self, folder: Path, belonging: JSONDict, data: SegmentationData, background: Background) -> None:
        """belonging: what `belongs_to` says. background: who writes.

        Raises ConfigError, with nothing written, when the folder holds masks of another run, or of nobody knows which.
        """
        self.folder, self.data, self.background = folder, data, background
        self.kinds = KINDS if data.has_labels else KINDS[:-1]
        _require_own(folder, belonging)
        write_atomic(folder / MANIFEST, _sealed(belonging))
        for leftovers in (folder, *(folder / kind for kind in KINDS)):
            remove_leftovers(leftovers)
        self.known_ids = {sample_id for sample_id in data.sample_ids if self._is_whole(sample_id)}

    def _is_whole(self, sample_id: str) -> bool:
        return all(mask_path(self.folder, kind, sample_id).is_file() for kind in self.kinds)

    def known(self, sample: Sample) -> Pixels | None:
        """The train ids u8 `H W` that an earlier start wrote; None where it did not, or the file is bad."""
        if sample.id not in self.known_ids:
            return None
        path = mask_path(self.folder, "ids", sample.id)
        try:
            found = self.data.table.to_train(read_label(path), str(path))
        except DataError:
            found = None
        if found is None or found.shape != sample.label.shape:
            self.known_ids.discard(sample.id)
            return None
        return found

    def write(self, sample: Sample, predicted: Tensor) -> None:
        """Has the sample's masks written, unless they are known. predicted: u8 `H W` on the CPU."""
        if sample.id in self.known_ids:
            return
        label = sample.label if self.data.has_labels else None
        table = self.data.table
        self.background.do(
            partial(write_masks, self.folder, sample.id, predicted.numpy(), table, image=sample.image, label=label)
        )


def require_not_kept(folder: Path) -> None:
    """Raises ConfigError for a folder of `segnl eval --masks`: other masks among them would count as its own."""
    if (folder / MANIFEST).exists():
        raise ConfigError(f"{folder}: holds the masks of an evaluation ({MANIFEST}); give another folder")


def _require_own(folder: Path, belonging: JSONDict) -> None:
    found = next((path for kind in KINDS for path in sorted((folder / kind).glob("[!.]*.png"))), None)
    if found is None:
        return
    path = folder / MANIFEST
    if not path.exists():
        raise ConfigError(
            f"{folder}: holds masks such as {found.parent.name}/{found.name}, but no {MANIFEST} that says whose they "
            "are; give another --masks folder"
        )
    changed = differing_keys(json.loads(json.dumps(belonging)), _read(path), with_eval=True)
    if changed:
        raise ConfigError(
            f"{folder}: holds masks of another evaluation, which differs in {', '.join(changed)}; "
            "give another --masks folder, or delete this one"
        )


def _read(path: Path) -> JSONDict:
    try:
        mapping = json.loads(path.read_bytes())
        belonging = mapping["belongs_to"]
        if mapping["format"] == FORMAT and mapping["seal"] == _seal(belonging) and isinstance(belonging, dict):
            return belonging
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"{path}: damaged, so nobody knows whose masks these are; give another --masks folder")


def _sealed(belonging: JSONDict) -> bytes:
    return json.dumps({"format": FORMAT, "belongs_to": belonging, "seal": _seal(belonging)}, indent=1).encode()


def _seal(belonging: JSONDict) -> str:
    return hashlib.sha256(json.dumps(belonging, sort_keys=True).encode()).hexdigest()
