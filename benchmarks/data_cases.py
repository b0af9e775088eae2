"""What each contestant runs in the benchmark of the data pipeline; see data.py.

Every contestant makes batches of uint8 crops and their labels from the same PNG files: it decodes, resizes by a random
factor, cuts a random window, flips, changes colours. The peers' pipelines are those of their documentation, and torch's
DataLoader makes their batches.
"""

import contextlib
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from timing import Case
from torch.utils.data import DataLoader, Dataset

BATCH = 4
PREFETCH = 2
"""Batches that each worker keeps ready; they are made before the clock starts."""
PAD_RGB, IGNORE = (124, 116, 104), 255
# The strengths of the colour changes of segnl and mmsegmentation, for the peers that take them as arguments.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32 / 255, 0.5, 0.5, 0.1

Make = Callable[[Path, Path], Any]
"""Returns image and label of a sample from the paths of their files."""


def build(contestant: str, case: Case) -> Callable[[], object]:
    """case: root, ignore_ids, crop_hw, workers, batches, caches. A call makes those batches; it tells ms a sample."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    workers, count = case["workers"], case["batches"]
    calls = 0
    stream = _segnl(contestant, case) if contestant.startswith("segnl") else _peer(contestant, case)

    def call() -> dict[str, float]:
        nonlocal calls
        warm = PREFETCH * workers
        batches = stream(calls, warm + count)
        calls += 1
        for _ in range(warm):
            next(batches)
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            _check(next(batches), case["crop_hw"])
        samples = count * BATCH
        spent = {"wall_ms": (time.perf_counter() - start) / samples * 1000}
        return spent if workers else spent | {"cpu_ms": (time.process_time() - cpu) / samples * 1000}

    return call


def _check(batch: tuple[Any, Any], crop_hw: list[int]) -> None:
    image, label = batch
    assert image.dtype == torch.uint8
    assert sorted(image.shape) == sorted((BATCH, 3, *crop_hw))
    assert label.numel() == BATCH * crop_hw[0] * crop_hw[1]


Stream = Callable[[int, int], Iterator[Any]]
"""Yields so many batches; the first number tells one call's random draws from another's."""


def _segnl(contestant: str, case: Case) -> Stream:
    from segnl.core.config import validate
    from segnl.core.memory import keep_freed_memory
    from segnl.data.cache import cache_samples
    from segnl.data.find import DATASETS
    from segnl.data.loader import BatchPlan, train_batches
    from segnl.data.transforms import TrainTransform

    keep_freed_memory()  # as `segnl train` does; the peers do the same below
    os.environ["XDG_CACHE_HOME"] = case["caches"]
    cache = "disk" if contestant == "segnl, cached" else "none"
    mapping = {"name": "folder", "root": case["root"], "crop_hw": case["crop_hw"], "cache": cache}
    mapping |= {"ignore_ids": case["ignore_ids"]}
    kind = DATASETS.find("folder")
    data = kind(validate(kind.Config, mapping, file="benchmark"), "train")
    cache_samples([data])
    transform = TrainTransform(data.cfg, PAD_RGB, seed=0)

    def stream(call: int, count: int) -> Iterator[Any]:
        plan = BatchPlan(0, BATCH, call * count, (call + 1) * count)
        for batch in train_batches(data, transform, plan, workers=case["workers"], timeout_s=600):
            yield batch.image, batch.label

    return stream


class _Pairs(Dataset[Any]):
    def __init__(self, root: Path, make: Make) -> None:
        self.images = sorted((root / "images" / "train").iterdir())
        self.labels = sorted((root / "labels" / "train").iterdir())
        self.make = make

    def __getitem__(self, i: int) -> Any:
        return self.make(self.images[i % len(self.images)], self.labels[i % len(self.labels)])


def _peer(contestant: str, case: Case) -> Stream:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from segnl.core.memory import keep_freed_memory

    keep_freed_memory()
    rows, columns = case["crop_hw"]
    make = {"torchvision": _torchvision, "albumentations": _albumentations, "mmsegmentation": _mmseg}[contestant]
    pairs = _Pairs(Path(case["root"]), make(rows, columns))

    def stream(call: int, count: int) -> Iterator[Any]:
        indices = range(call * count * BATCH, (call + 1) * count * BATCH)
        keys = [list(indices[i : i + BATCH]) for i in range(0, len(indices), BATCH)]
        workers = case["workers"]
        return iter(
            DataLoader(
                pairs,
                batch_sampler=keys,
                num_workers=workers,
                prefetch_factor=PREFETCH if workers else None,
                worker_init_fn=_start_worker,
            )
        )

    return stream


def _start_worker(_worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _torchvision(rows: int, columns: int) -> Make:
    from torchvision import tv_tensors
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    fill: dict[Any, Any] = {tv_tensors.Image: PAD_RGB, tv_tensors.Mask: IGNORE}
    transform = v2.Compose(
        [
            v2.RandomResize(512, 2048),  # of the shorter side: factors 0.5 to 2
            v2.RandomCrop((rows, columns), pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(BRIGHTNESS, CONTRAST, SATURATION, HUE)], 0.5),
        ]
    )

    def make(image: Path, label: Path) -> Any:
        pixels = tv_tensors.Image(decode_image(str(image), ImageReadMode.RGB))
        return transform(pixels, tv_tensors.Mask(decode_image(str(label), ImageReadMode.UNCHANGED)))

    return make


def _albumentations(rows: int, columns: int) -> Make:
    import albumentations as A

    limits = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION}
    jitter: dict[str, Any] = {name: (1 - value, 1 + value) for name, value in limits.items()}
    transform = A.Compose(
        [
            A.RandomScale((-0.5, 1.0), p=1.0),  # factors 0.5 to 2
            A.RandomCrop(rows, columns, pad_if_needed=True, fill=PAD_RGB, fill_mask=IGNORE),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(**jitter, hue=(-HUE, HUE), p=0.5),
        ]
    )

    def make(image: Path, label: Path) -> Any:
        pixels = cv2.imread(str(image), cv2.IMREAD_COLOR_RGB)
        out = transform(image=pixels, mask=cv2.imread(str(label), cv2.IMREAD_UNCHANGED))
        return np.ascontiguousarray(out["image"].transpose(2, 0, 1)), out["mask"]

    return make


def _mmseg(rows: int, columns: int) -> Make:
    """The training pipeline of mmsegmentation's Cityscapes recipes, without the limit on one class's share."""

    class Extension(types.ModuleType):
        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)

    sys.modules.setdefault("mmcv._ext", Extension("mmcv._ext"))  # in place of mmcv's compiled operators
    with contextlib.redirect_stdout(sys.stderr):  # their imports print
        import mmcv.transforms
        from mmseg.datasets import transforms

    steps = [
        mmcv.transforms.LoadImageFromFile(),
        transforms.LoadAnnotations(),
        mmcv.transforms.RandomResize(scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
        transforms.RandomCrop(crop_size=(rows, columns)),
        mmcv.transforms.RandomFlip(prob=0.5),
        transforms.PhotoMetricDistortion(),
        transforms.PackSegInputs(),
    ]

    def make(image: Path, label: Path) -> Any:
        results: Any = {"img_path": str(image), "seg_map_path": str(label), "seg_fields": []}
        results |= {"label_map": None, "reduce_zero_label": False}
        for step in steps:
            results = step(results)
        pixels, ids = results["inputs"], results["data_samples"].gt_sem_seg.data[0]
        # Its model pads a batch to the crop's size, after the loader.
        below, right = rows - pixels.shape[1], columns - pixels.shape[2]
        if below or right:
            pixels = torch.nn.functional.pad(pixels, (0, right, 0, below))
            ids = torch.nn.functional.pad(ids, (0, right, 0, below), value=IGNORE)
        return pixels, ids

    return make
