"""Folder of `segnl eval --masks`: the masks of one evaluation, which resumes from them after a kill.

DIR/masks.json, a record of core/result_cache.py, holds the evaluation's key and is written before the first mask.
DIR/{ids,colour,overlay,error}/SAMPLE_ID.png     a file of ids holds a digest of them and of the key
"""

import hashlib
import json
from functools import partial
from pathlib import Path

from torch import Tensor

from segnl.core.arrays import Pixels
from segnl.core.background import Background
from segnl.core.config import JSONDict
from segnl.core.errors import ConfigError
from segnl.core.files import LOCK, read_bytes, remove_leftovers
from segnl.core.find_files import find_files
from segnl.core.result_cache import Record, digest_of, read_record, write_record
from segnl.data.base import SegmentationData
from segnl.data.file_error import FileError
from segnl.data.reading import read_label
from segnl.data.sample import Sample
from segnl.evaluation.masks import KINDS, mask_path, seal_of, write_masks
from segnl.runs.recipe import differing_keys

MANIFEST = "masks.json"
SEALED_BYTES = 256
"""At the start of a mask, which holds its digest in one of the first chunks."""


class MaskFolder:
    """Masks written by other threads, and read when the same evaluation is started again."""

    def __init__(self, folder: Path, key: JSONDict, data: SegmentationData, background: Background) -> None:
        """Checks the folder and writes masks.json. key: everything that the masks depend on. background: writes.

        Raises ConfigError, with nothing written, when the folder holds the masks of another evaluation.
        """
        self.folder, self.data, self.background = folder, data, background
        self.key_digest = digest_of(key)
        self.kinds = KINDS if data.has_labels else KINDS[:-1]
        _require_own(folder, key)
        write_record(folder / MANIFEST, Record(key))
        in_kinds = {mask_path(folder / kind, sample_id).parent for sample_id in data.sample_ids for kind in KINDS}
        for written in (folder, *in_kinds):
            remove_leftovers(written)
        self.written_ids = {
            sample_id
            for sample_id in data.sample_ids
            if all(mask_path(folder / kind, sample_id).is_file() for kind in self.kinds)
        }

    def cached_labels(self, sample: Sample) -> Pixels | None:
        """Returns the train ids u8 `H W` that an earlier start wrote; None if there are none or the file is damaged.

        Raises ConfigError for ids that were changed since: they count as no prediction, and may be somebody's work.
        """
        path = mask_path(self.folder / "ids", sample.id)
        try:
            ids = read_label(path)
            is_own = seal_of(self._digest(sample), sample.id, ids).encode() in read_bytes(path)[:SEALED_BYTES]
        except FileError as err:
            is_own = err.kind != "format"
            ids = None
        if not is_own:
            raise ConfigError(
                f"{path}: is not as this evaluation wrote it (changed since, or by an earlier version); move it aside, "
                "or give another --masks folder"
            )
        if ids is None:
            self.written_ids.discard(sample.id)
            return None
        return self.data.table.from_mask(ids, str(path))

    def _digest(self, sample: Sample) -> str:
        """Returns a digest of the key and of image and label as read, which may have changed meanwhile."""
        digest = hashlib.sha256(self.key_digest.encode())
        for pixels in (sample.image, sample.label):
            digest.update(pixels.tobytes())
        return digest.hexdigest()

    def write(self, sample: Sample, labels: Tensor) -> None:
        """Queues the sample's masks for writing, unless they exist. labels: prediction, u8 `H W` on the CPU."""
        if sample.id in self.written_ids:
            return
        label, table = sample.label if self.data.has_labels else None, self.data.table
        self.background.submit(
            partial(
                write_masks,
                self.folder,
                sample.id,
                labels.numpy(),
                table,
                image=sample.image,
                label=label,
                key_digest=self._digest(sample),
            )
        )


def places_of(folder: Path) -> list[Path]:
    """Returns the files and folders that an evaluation writes in its folder of masks."""
    return [folder / name for name in (MANIFEST, LOCK, *KINDS)]


def require_no_evaluation(folder: Path) -> None:
    """Raises ConfigError for a folder of `segnl eval --masks`, which would count other masks as its own."""
    if (folder / MANIFEST).exists():
        raise ConfigError(f"{folder}: holds the masks of an evaluation ({MANIFEST}); give another folder")


def _require_own(folder: Path, key: JSONDict) -> None:
    kinds = [folder / kind for kind in KINDS if (folder / kind).is_dir()]
    mask = next((path for kind in kinds for path in find_files(kind) if path.suffix == ".png"), None)
    path = folder / MANIFEST
    if not path.exists():
        if mask is None:
            return
        raise ConfigError(
            f"{folder}: holds masks such as {mask.relative_to(folder)}, but no {MANIFEST} that says which "
            "evaluation wrote them; give another --masks folder"
        )
    record = read_record(path)
    if record is None:
        raise ConfigError(f"{path}: damaged or not written by segnl eval; give another --masks folder")
    if mask is None:
        return
    changed = differing_keys(json.loads(json.dumps(key)), record.key, with_eval=True)
    if changed:
        raise ConfigError(
            f"{folder}: holds masks of another evaluation, which differs in {', '.join(changed)}; "
            "give another --masks folder, or delete this one"
        )
