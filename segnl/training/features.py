"""Maps of a frozen backbone for the fixed views of the training images (`data.views`), computed once and kept in files.

FOLDER/views-DIGEST/crops    a row for each view: every fourth pixel of the crop in every fourth row, and the label
FOLDER/views-DIGEST/c2 .. c5 a row for each view: the map, `c h w`

DIGEST is of all that the maps depend on, as in core/result_cache.py.

View v of image i of the split (without data.fold) is row i * data.views + v. A row ends with its CRC-32, which is
checked whenever it is read. Rows are appended in order, so whatever is whole of them counts after a kill. The files are
read with pread: like a memory map it shares the pages between processes, but a file that was cut or cannot be read is
an error in one line and no SIGBUS.
"""

import math
import os
import shutil
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segnl.core.config import JSONDict
from segnl.core.errors import ConfigError, DataError, MachineError
from segnl.core.files import ensure_writable, not_a_link, open_own, open_regular, run_lock
from segnl.core.log import log
from segnl.core.precision import autocast
from segnl.core.progress import Progress
from segnl.core.result_cache import ResultCache, digest_of
from segnl.data.base import SegmentationData
from segnl.data.digest import content_digest
from segnl.data.loader import BatchKeys, BatchPlan
from segnl.data.sample import Batch, Sample, collate
from segnl.data.transforms import TrainTransform
from segnl.models.segmenter import Segmenter
from segnl.runs.build import build_data
from segnl.runs.recipe import Recipe, deciding_keys
from segnl.training.run_hashes import bytes_of, hashed_pixels, initial_hashes

NAME = "views"
VERSION = 2
"""Incremented when the meaning of the files changes."""
GIB = 2**30
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bf16": torch.bfloat16}
_CRC_BYTES = 4


@torch.no_grad()
def frozen_stages(model: Segmenter, images: Tensor) -> list[Tensor]:
    """Returns the backbone's maps c2..c5 of normalised images `b 3 H W`.

    One image after the other, so that a map cannot depend on the images beside it in the batch, not even in its last
    bit: then a map that was computed earlier is exactly the one that a step would compute.
    """
    return [torch.cat(maps) for maps in zip(*(model.backbone(image) for image in images.split(1)), strict=True)]


class _NotedStages(Sequence[Tensor]):
    """Stages that note which of them are read."""

    def __init__(self, stages: Sequence[Tensor]) -> None:
        self.stages, self.read = stages, set[int]()

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, index: Any) -> Any:
        places = range(len(self.stages))[index]
        self.read.update(places if isinstance(index, slice) else [places])
        return self.stages[index]


@torch.no_grad()
def stages_read(model: Segmenter, shapes: Sequence[Sequence[int]]) -> set[int]:
    """Returns the stages that head and auxiliary head read, 0 = c2 .. 3 = c5. shapes: of the maps `c h w`.

    Those of `in_stages` count in any case: a head may read some of them in training only.
    """
    noted = _NotedStages([next(model.parameters()).new_zeros(1, *shape) for shape in shapes])
    model.eval().head(noted)  # in training, norms would change and wait for other processes
    return noted.read | {*model.head.in_stages} | (set() if model.aux_stage is None else {model.aux_stage})


@dataclass(frozen=True)
class _Rows:
    """File of rows of equal length, each followed by a CRC-32 of it and of its place: rows may have been exchanged."""

    path: Path
    num_bytes: int
    """Of a row, without its CRC-32."""

    @property
    def stride(self) -> int:
        return self.num_bytes + _CRC_BYTES

    def _crc(self, row: int, data: bytes | memoryview) -> bytes:
        place = f"{self.path.parent.name}/{self.path.name} {row}".encode()
        return zlib.crc32(data, zlib.crc32(place)).to_bytes(_CRC_BYTES, "little")

    def num_written(self) -> int:
        """Counts the rows of the file, which may end with a part of one."""
        return self.path.stat().st_size // self.stride if self.path.is_file() else 0

    def num_whole(self) -> int:
        """Counts the whole rows at the beginning of the file, which is read for it."""
        num = self.num_written()
        return next((row for row in range(num) if self.read(row) is None), num)

    def read(self, row: int) -> bytearray | None:
        """Returns a row; None where the file does not hold it whole."""
        with open_regular(self.path) as file:
            data = bytearray(os.pread(file.fileno(), self.stride, row * self.stride))
        end = len(data) - _CRC_BYTES
        if end != self.num_bytes or data[end:] != self._crc(row, memoryview(data)[:end]):
            return None
        return data

    @contextmanager
    def appending(self, num_rows: int) -> Iterator[Callable[[bytes], None]]:
        """Cuts the file after `num_rows` and yields a function that appends a row; syncs the file at the end."""
        with open(open_own(self.path), "wb") as file:
            file.truncate(num_rows * self.stride)
            file.seek(0, os.SEEK_END)

            def append(row: bytes) -> None:
                file.write(row + self._crc(file.tell() // self.stride, row))

            yield append
            file.flush()
            os.fsync(file.fileno())


class FeatureFile:
    """The files for the views of a data set and a frozen backbone, and the batches of a training from them."""

    def __init__(
        self, recipe: Recipe, data: SegmentationData, model: Segmenter, folder: Path, *, stages: Iterable[int] = ()
    ) -> None:
        """model: with the backbone's weights. folder: of this and other such files, `features_folder` of the run.

        stages: those that other heads read, 0 = c2 .. 3 = c5, beside those that the model's does.

        Raises ConfigError when the backbone has parameters that are trained.
        """
        trained = [name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad]
        if recipe.train.features is None or recipe.data.views is None or trained:
            raise ConfigError(
                f"train.features: {len(trained)} tensors of this backbone are trained although it is frozen, so that "
                "its maps change; set train.features to null"
            )
        self.recipe, self.data, self.model = recipe, data, model
        whole = recipe.data.model_copy(update={"fold": None})
        self.images = (
            data if recipe.data.fold is None else build_data(recipe.model_copy(update={"data": whole}), "train")
        )
        """All images of the files: folds (data.fold) share them."""
        self.settings, self.num_views = recipe.train.features, recipe.data.views
        self.dtype = DTYPES[self.settings.dtype]
        self.transform = TrainTransform(recipe.data, recipe.model.input.padding_rgb, recipe.train.seed)
        self.num_rows = len(self.images) * self.num_views
        key = self._key()
        self.content = key["images"]
        self.folder = ResultCache(not_a_link(folder)).path(NAME, key, suffix="")
        maps = self._maps_of_zeros()
        self.shapes: list[torch.Size] = [x.shape for x in maps]
        self.network_dtypes: list[torch.dtype] = [x.dtype for x in maps]
        self.stages = sorted(stages_read(model, self.shapes) | set(stages))
        self.crop_hw = recipe.data.crop_hw
        self.pixels_shape = hashed_pixels(torch.empty(recipe.model.input.channels, *self.crop_hw, device="meta")).shape
        self.crops = _Rows(self.folder / "crops", self.pixels_shape.numel() + math.prod(self.crop_hw))
        self.maps = {
            stage: _Rows(self.folder / f"c{stage + 2}", math.prod(self.shapes[stage]) * self.dtype.itemsize)
            for stage in self.stages
        }

    def _key(self) -> JSONDict:
        """Returns everything that crops and maps depend on."""
        keys = deciding_keys(self.recipe.to_dict())
        sections = ("data.", "model.backbone.", "model.input.", "model.norm", "model.batch_norm.")
        return {
            "version": VERSION,
            "torch": torch.__version__,
            "device": self._device.type,
            "images": content_digest(self.images),
            "backbone": digest_of(initial_hashes(self.model.backbone)),
            "dtype": self.settings.dtype,
            "precision": self.recipe.train.precision,
            "channels_last": self.recipe.train.channels_last,
            # The weights are known by their values, wherever their file lies.
            "settings": {
                key: value
                for key, value in keys.items()
                if key.startswith(sections) and not key.startswith(("data.fold", "model.backbone.weights"))
            },
        }

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _maps_of_zeros(self) -> list[Tensor]:
        """Returns c2..c5 of a crop, whose shapes `c h w` and types are those of all."""
        hw = self.recipe.data.crop_hw
        pixels = np.zeros((*hw, self.recipe.model.input.channels), np.uint8)
        return self._maps_of(collate([Sample(pixels, pixels[..., 0], "")]))

    def _maps_of(self, crop: Batch) -> list[Tensor]:
        """Returns the maps c2..c5 `c h w` of a single crop, in the type that the network gives them."""
        layout = torch.channels_last if self.recipe.train.channels_last else torch.contiguous_format
        self.model.train()  # the frozen backbone stays in evaluation mode
        image = self.model.input(crop.image.to(self._device)).contiguous(memory_format=layout)
        with autocast(self.recipe.train.precision, self._device):
            return [stage[0] for stage in frozen_stages(self.model, image)]

    def compute(self) -> None:
        """Computes the rows that are missing; keeps an earlier start's. Waits for another process that computes them.

        Raises ConfigError when the files would be larger than train.features.max_gib; DataError when images or labels
        changed meanwhile; MachineError when the disk is full.
        """
        files = [self.crops, *self.maps.values()]
        self._require_room(files, self._missing(files))
        if not self._missing(files):
            return
        ensure_writable(self.folder)
        with run_lock(self.folder, waits=True):
            missing = self._missing(files)
            if not missing:  # the other process has computed them
                return
            first = min(file.num_whole() for file in missing)
            try:
                with ExitStack() as stack:
                    self._append(
                        first, {file.path.name: stack.enter_context(file.appending(first)) for file in missing}
                    )
            except OSError as err:
                remedy = "free some space or lower data.views; the next start goes on from here"
                raise MachineError(f"{self.folder}: cannot be written ({err.strerror}); {remedy}") from err

    def _missing(self, files: Sequence[_Rows]) -> list[_Rows]:
        return [file for file in files if file.num_written() < self.num_rows]

    def _require_room(self, files: Sequence[_Rows], missing: Sequence[_Rows]) -> None:
        """Logs the size of the files before they are written. Raises as `compute`."""
        row_bytes = sum(file.stride for file in files)
        size = self.num_rows * row_bytes / GIB
        names = ", ".join(file.path.name for file in self.maps.values())
        text = f"{len(self.images):,} images x {self.num_views} views, {names} in {self.settings.dtype}: {size:.3g} GiB"
        if size > self.settings.max_gib:
            views = int(self.settings.max_gib * GIB / row_bytes / len(self.images))
            fewer = f"lower data.views to {views}, or " if views else ""
            raise ConfigError(
                f"train.features.max_gib: {self.settings.max_gib:g}, but {text}; {fewer}raise train.features.max_gib"
            )
        if missing:
            log.info("features: %s in %s", text, self.folder)
            ensure_writable(self.folder)
            needed = sum(max(0, self.num_rows - file.num_written()) * file.stride for file in missing)
            if needed > (free := shutil.disk_usage(self.folder).free):
                raise MachineError(
                    f"{self.folder}: {needed / GIB:.3g} GiB of features are missing, {free / GIB:.3g} GiB are free; "
                    "free some space or lower data.views"
                )

    def _append(self, first: int, files: Mapping[str, Callable[[bytes], None]]) -> None:
        """Computes the rows from `first` on and appends them. files: by their names."""
        indices = range(first // self.num_views, len(self.images))
        expected = {index: content_digest(self.images, [index]) for index in indices}
        self._require(content_digest(self.images) == self.content)
        with Progress("features", self.num_rows, done=first, unit="view") as progress:
            for index in indices:
                sample = self.images.read(index)
                self._require(content_digest(self.images, [index]) == expected[index])  # reads changed files only
                for view in range(max(0, first - index * self.num_views), self.num_views):
                    crop = collate([self.transform.view(sample, view)])
                    rows = {"crops": bytes_of(hashed_pixels(crop.image)) + bytes_of(crop.label)}
                    for i, values in enumerate(self._maps_of(crop)):
                        if f"c{i + 2}" in files:
                            rows[f"c{i + 2}"] = self._row_of(values, sample.id)
                    for name, append in files.items():
                        append(rows[name])
                    progress.advance()

    def _require(self, is_unchanged: bool) -> None:
        if not is_unchanged:
            raise DataError(f"{self.images.root}: images or labels changed while maps were computed; start again")

    def _row_of(self, values: Tensor, sample_id: str) -> bytes:
        stored = values.to(self.dtype).contiguous().cpu()
        if not stored.isfinite().all():
            raise ConfigError(
                f"train.features.dtype: {self.settings.dtype} cannot hold a map of image {sample_id}, whose largest "
                f"value is {values.abs().max():.3g}; take bf16 or float32"
            )
        return stored.view(torch.uint8).numpy().tobytes()

    def batches(self, plan: BatchPlan) -> Generator[Batch, None, None]:
        """Yields the batches that `train_batches` would, with the maps of their crops. Raises DataError for damage."""
        ids, row_of = self.data.sample_ids, {sample_id: i for i, sample_id in enumerate(self.images.sample_ids)}
        for keys in BatchKeys(len(self.data), plan):
            views = [self.transform.view_of(epoch, index) for epoch, index in keys]
            rows = [row_of[ids[index]] * self.num_views + view for (_, index), view in zip(keys, views, strict=True)]
            yield self._batch(rows, [ids[index] for _, index in keys])

    def _batch(self, rows: Sequence[int], sample_ids: list[str]) -> Batch:
        crops = torch.stack([self._read(self.crops, row, torch.uint8) for row in rows])
        pixels, label = crops.split([self.pixels_shape.numel(), math.prod(self.crop_hw)], dim=1)
        stages: list[Tensor | None] = [None] * len(self.shapes)
        for stage, file in self.maps.items():
            maps = torch.stack([self._read(file, row, self.dtype) for row in rows]).to(self.network_dtypes[stage])
            stages[stage] = maps.unflatten(1, self.shapes[stage])
        return Batch(pixels.unflatten(1, self.pixels_shape), label.unflatten(1, self.crop_hw), sample_ids, stages)

    def _read(self, file: _Rows, row: int, dtype: torch.dtype) -> Tensor:
        data = file.read(row)
        if data is None:
            raise DataError(f"{file.path}: row {row} is damaged; delete this file, and it is computed again")
        return torch.frombuffer(data, dtype=dtype, count=file.num_bytes // dtype.itemsize)
