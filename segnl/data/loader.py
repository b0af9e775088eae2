"""Batches and samples from worker processes.

The batch of a step depends on (seed, step, batch size) alone, never on the number of workers, so a resumed run needs no
saved loader state. An error in a worker travels back as a value and is raised here, without the worker's traceback.
"""

import multiprocessing
import re
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from segnl.core.errors import DataError, MachineError, SegnlError
from segnl.core.limits import require_shared_memory, require_workers
from segnl.core.seeds import seed_for
from segnl.data.base import SegmentationData
from segnl.data.sample import Batch, Sample, collate

Key = tuple[int, int]
"""(epoch, index)"""
Transform = Callable[[Sample, int, int], Sample]

LARGE_IMAGE_PIXELS = 1024 * 2048
PREFETCH = 2
"""Batches that each worker keeps ready."""
_POLL_S = 5.0  # how often a silent worker is checked: a killed one is noticed within this time


@dataclass(frozen=True)
class BatchPlan:
    """Steps first_step..max_steps-1 of one rank; `batch_size` counts the images of all ranks."""

    seed: int
    batch_size: int
    first_step: int
    max_steps: int
    rank: int = 0
    world: int = 1


def train_batches(
    data: SegmentationData,
    transform: Transform,
    plan: BatchPlan,
    *,
    workers: int,
    timeout_s: float,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Batch, None, None]:
    """Yields the batches of one rank, fewer where `is_stopped` says so during a wait for a batch.

    Raises DataError naming file, index and epoch; MachineError for a worker that was killed or silent for timeout_s.
    """
    if plan.batch_size < plan.world:
        raise ValueError(f"batch_size {plan.batch_size} for {plan.world} ranks; expected at least one image a rank")
    rows, columns = data.cfg.crop_hw
    num_samples, bytes_per_pixel = len(range(plan.rank, plan.batch_size, plan.world)), _bytes_per_pixel(data)
    batch_bytes = num_samples * bytes_per_pixel * rows * columns
    require_workers(workers)
    require_shared_memory(workers, batch_bytes, batches=workers * (PREFETCH + 1))
    keys = BatchKeys(len(data), plan)
    if workers == 0:
        yield from _load(_Batches(data, transform, collate), keys, 0, timeout_s, batch_bytes=batch_bytes)
        return
    shared = _SharedBatches(workers, (num_samples, bytes_per_pixel - 1, rows, columns))
    batches = _Batches(data, transform, shared.store)
    arrivals = _load(batches, keys, workers, timeout_s, batch_bytes=batch_bytes, is_stopped=is_stopped)
    with closing(arrivals):
        for place, sample_ids in arrivals:
            yield shared.load(place, sample_ids)


def eval_samples(
    data: SegmentationData, *, workers: int, timeout_s: float = 120.0, indices: Sequence[int] | None = None
) -> Iterator[tuple[int, Sample]]:
    """Yields (index, sample at its own size).

    indices: only these images, in this order. Raises as `train_batches` does.
    """
    require_workers(workers)
    indices = range(len(data)) if indices is None else indices
    keys, workers = [[(index,)] for index in indices], min(workers, len(indices))
    image_bytes = _bytes_per_pixel(data) * LARGE_IMAGE_PIXELS
    images = _Batches(data, _tensors, itemgetter(0))
    pairs = _load(images, keys, workers, timeout_s, batch_bytes=image_bytes)
    for index, (image, label) in zip(indices, pairs, strict=True):
        yield index, Sample(image.numpy(), label.numpy(), data.sample_ids[index])


def _bytes_per_pixel(data: SegmentationData) -> int:
    """Returns the size of a pixel of a sample's frames and of its label, uint8."""
    return data.image_format.num_bands * data.cfg.frames + 1


class BatchKeys:
    """The (epoch, index) of every crop of every step; iterates over lists of them.

    Global position p = step * batch_size + j belongs to epoch p // N and is place p % N of that epoch's permutation of
    the N images; a rank takes j = rank, rank + world, ...
    """

    def __init__(self, num_images: int, plan: BatchPlan) -> None:
        self.num_images = num_images
        self.plan = plan
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))  # an epoch and its permutation

    def __len__(self) -> int:
        return self.plan.max_steps - self.plan.first_step

    def __iter__(self) -> Iterator[list[Key]]:
        plan = self.plan
        for step in range(plan.first_step, plan.max_steps):
            yield [self.key(step * plan.batch_size + j) for j in range(plan.rank, plan.batch_size, plan.world)]

    def key(self, position: int) -> Key:
        """Returns the (epoch, index) of a global position."""
        epoch, place = divmod(position, self.num_images)
        if self._order[0] != epoch:
            draws = np.random.default_rng(seed_for(self.plan.seed, "order", epoch))
            self._order = epoch, draws.permutation(self.num_images)
        return epoch, int(self._order[1][place])


@dataclass(frozen=True)
class _WorkerError:
    """A SegnlError on its way from a worker; the exception itself would arrive wrapped in the worker's traceback."""

    kind: type[SegnlError]
    message: str


class _Batches(Dataset[Any]):
    """Samples of a list of keys, changed by `make(sample, *key)` and put together by `collate`; or the first's error.

    A key's last number is the sample's index.
    """

    def __init__(self, data: SegmentationData, make: Callable[..., Any], collate: Callable[[list[Any]], Any]) -> None:
        self.data, self.make, self.collate = data, make, collate

    def __getitem__(self, keys: list[tuple[int, ...]]) -> Any:
        items = []
        for key in keys:
            try:
                items.append(self.make(self.data.read(key[-1]), *key))
            except SegnlError as err:
                context = f"index {key[-1]}" + (f", epoch {key[0]}" if len(key) > 1 else "")
                # A subclass of DataError may take other arguments than a message.
                return _WorkerError(DataError if isinstance(err, DataError) else type(err), f"{err} ({context})")
        return self.collate(items)


def _tensors(sample: Sample, _index: int) -> tuple[Tensor, Tensor]:
    """Returns a whole image and its label; tensors cross between processes in shared memory, arrays through a pipe."""
    return torch.from_numpy(sample.image), torch.from_numpy(sample.label)


class _SharedBatches:
    """Shared memory for PREFETCH + 1 batches of each worker; a worker uses its places in turn.

    The loader asks a worker for at most PREFETCH batches beyond the one that has just arrived. That one is copied
    before the next is asked for, so a place is free when its turn comes. New shared memory for each batch, which
    torch would allocate, costs more than these copies: the system clears and maps every page of it.
    """

    def __init__(self, workers: int, batch_shape: tuple[int, int, int, int]) -> None:
        num_samples, _, rows, columns = batch_shape
        self.images = torch.empty(workers, PREFETCH + 1, *batch_shape, dtype=torch.uint8).share_memory_()
        label_shape = (workers, PREFETCH + 1, num_samples, rows, columns)
        self.labels = torch.empty(label_shape, dtype=torch.uint8).share_memory_()
        self.count = 0
        """Batches that this worker has stored."""

    def store(self, samples: list[Sample]) -> tuple[tuple[int, int], list[str]]:
        """Collates in a worker. Returns the batch's place and its sample ids."""
        worker: Any = get_worker_info()
        place = worker.id, self.count % (PREFETCH + 1)
        self.count += 1
        return place, collate(samples, (self.images[place], self.labels[place])).sample_ids

    def load(self, place: tuple[int, int], sample_ids: list[str]) -> Batch:
        """Copies a batch in the main process."""
        return Batch(self.images[place].clone(), self.labels[place].clone(), sample_ids)


def _start_worker(worker: int) -> None:
    """Sets one thread a worker; Ctrl-C and SIGHUP are left to the main process, SIGTERM ends the worker."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _unchanged(batch: Any) -> Any:
    return batch


def _load(
    batches: _Batches,
    keys: Iterable[list[Any]],
    workers: int,
    timeout_s: float,
    *,
    batch_bytes: int,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Any, None, None]:
    """Yields what `batches` makes of each list of keys, in order. batch_bytes: of one of them, roughly."""
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=keys,
        collate_fn=_unchanged,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_start_worker,
        timeout=min(_POLL_S, timeout_s) if workers else 0,
        # DataLoader draws a seed at its start: from the global generator, dropout would differ after a resume.
        generator=torch.Generator(),
    )
    others = multiprocessing.active_children()
    is_exhausted = False
    try:
        arrivals = _start(loader)
        while True:
            collated = _next(arrivals, timeout_s, workers=workers, batch_bytes=batch_bytes, is_stopped=is_stopped)
            if collated is None:
                is_exhausted = not is_stopped()
                return
            if isinstance(collated, _WorkerError):
                raise collated.kind(collated.message)
            yield collated
    finally:
        if not is_exhausted:  # torch would wait 5 s for each worker that is stuck in a read
            for worker in set(multiprocessing.active_children()).difference(others):
                worker.terminate()


def _start(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Starts the workers, without torch's SIGCHLD handler.

    The handler raises anywhere in the main process, even within a training step; `_next` checks the workers itself.
    """
    if loader.num_workers == 0 or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


KILLED = (
    "was killed, perhaps for lack of memory or of shared memory (docker: --shm-size); lower data.workers, 0 uses none"
)


def _next(
    arrivals: Iterator[Any],
    timeout_s: float,
    *,
    workers: int = 0,
    batch_bytes: int = 0,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Any:
    """Returns the next item; None after the last, and where `is_stopped` during the wait.

    Raises MachineError when a worker is dead, silent for timeout_s, or silent while shared memory has no room for a
    batch: a worker drops such a batch, and nobody would ever send it.
    """
    began = time.monotonic()
    while True:
        try:
            return next(arrivals, None)
        except (ConnectionError, EOFError) as err:  # it died while it sent a batch
            raise MachineError(f"data worker: {KILLED}") from err
        except RuntimeError as err:
            text = str(err)
            if "DataLoader timed out" in text:
                if is_stopped():
                    return None
                require_shared_memory(workers, batch_bytes, batches=1)
                if time.monotonic() - began < timeout_s:
                    continue
                why = f"sent nothing for {timeout_s:g} s; is the disk reachable? raise data.worker_timeout_s"
                raise MachineError(f"data worker: {why}, or set data.workers to 0") from err
            if "Too many open files" in text:
                raise MachineError(
                    "data workers: too many open files; raise `ulimit -n` or lower data.workers"
                ) from err
            killed = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", text)
            if killed is None:
                raise
            raise MachineError(f"data worker {killed[1]}: {KILLED}") from err
