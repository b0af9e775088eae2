"""Batches and samples by worker processes: pure functions of the step, one line when something goes wrong.

What a step trains on depends on (seed, step, batch size) alone, never on the number of workers, so a resumed run needs
no saved state. A fault in a worker travels back as a value and is raised here, without the worker's traceback.
"""

import re
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segnl.core.errors import DataError, MachineError, SegnlError
from segnl.core.limits import require_workers
from segnl.core.seeds import seed_for
from segnl.data.base import SegmentationData
from segnl.data.sample import Batch, Sample, collate

Key = tuple[int, int]
"""(epoch, index)"""
Transform = Callable[[Sample, int, int], Sample]

_POLL_S = 5.0  # how often a silent worker is looked at: a killed one is noticed within this time


def train_batches(
    data: SegmentationData,
    transform: Transform,
    *,
    seed: int,
    batch_size: int,
    first_step: int,
    max_steps: int,
    workers: int,
    timeout_s: float,
    rank: int = 0,
    world: int = 1,
) -> Generator[Batch, None, None]:
    """The batches of steps first_step..max_steps-1 for one rank; `batch_size` counts all ranks.

    Raises DataError naming file, index and epoch; MachineError for a worker that was killed or silent for timeout_s.
    """
    if batch_size < world:
        raise ValueError(f"batch_size {batch_size} for {world} ranks; expected at least one image a rank")
    keys = BatchKeys(len(data), seed, batch_size, first_step, max_steps, rank, world)
    crops = _Crops(data, transform)
    yield from _load(crops, keys, _collate_or_fault, workers, timeout_s)


def eval_samples(
    data: SegmentationData,
    *,
    workers: int,
    rank: int = 0,
    world: int = 1,
    timeout_s: float = 120.0,
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[int, Sample]]:
    """(index, sample at its own size) for index rank, rank + world, ...: none padded, none repeated.

    indices: only these images, in this order. Raises as `train_batches` does.
    """
    indexes = list(range(len(data)) if indices is None else indices)[rank::world]
    arrived = _load(_Originals(data), [[index] for index in indexes], _only, min(workers, len(indexes)), timeout_s)
    for index, (image, label) in zip(indexes, arrived, strict=True):
        yield index, Sample(image.numpy(), label.numpy(), data.sample_ids[index])


class BatchKeys:
    """The (epoch, index) of every crop of every step; iterates over lists of them.

    Global position p = step * batch_size + j lies in epoch p // N and takes place p % N of that epoch's permutation;
    a rank takes j = rank, rank + world, ...
    """

    def __init__(
        self, count: int, seed: int, batch_size: int, first_step: int, max_steps: int, rank: int = 0, world: int = 1
    ) -> None:
        self.count = count
        self.seed = seed
        self.batch_size = batch_size
        self.steps = range(first_step, max_steps)
        self.own = range(rank, batch_size, world)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        for step in self.steps:
            yield [self.key(step * self.batch_size + j) for j in self.own]

    def key(self, position: int) -> Key:
        epoch, place = divmod(position, self.count)
        if self._order[0] != epoch:
            draws = np.random.default_rng(seed_for(self.seed, "order", epoch))
            self._order = epoch, draws.permutation(self.count)
        return epoch, int(self._order[1][place])


@dataclass(frozen=True)
class _Fault:
    """A SegnlError on its way from a worker: an exception itself would arrive wrapped in the worker's traceback."""

    kind: type[SegnlError]
    message: str


def _fault(err: SegnlError, which: str) -> _Fault:
    # A subclass may take other arguments than a message.
    return _Fault(DataError if isinstance(err, DataError) else type(err), f"{err} ({which})")


class _Crops(Dataset[Any]):
    def __init__(self, data: SegmentationData, transform: Transform) -> None:
        self.data = data
        self.transform = transform

    def __getitem__(self, key: Key) -> Sample | _Fault:
        epoch, index = key
        try:
            return self.transform(self.data.read(index), epoch, index)
        except SegnlError as err:
            return _fault(err, f"index {index}, epoch {epoch}")


class _Originals(Dataset[Any]):
    """Tensors, which cross between processes in shared memory; arrays would be copied through a pipe."""

    def __init__(self, data: SegmentationData) -> None:
        self.data = data

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | _Fault:
        try:
            sample = self.data.read(index)
        except SegnlError as err:
            return _fault(err, f"index {index}")
        return torch.from_numpy(sample.image), torch.from_numpy(sample.label)


def _collate_or_fault(items: list[Sample | _Fault]) -> Batch | _Fault:
    fault = next((item for item in items if isinstance(item, _Fault)), None)
    return fault or collate([item for item in items if isinstance(item, Sample)])


def _only(items: list[Any]) -> Any:
    (item,) = items
    return item


def _start_worker(worker: int) -> None:
    """One thread a worker; Ctrl-C and SIGHUP are the main process's business, SIGTERM is not its handler's here."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _load(
    items: Dataset[Any],
    keys: Iterable[list[Any]],
    collate_fn: Callable[[list[Any]], Any],
    workers: int,
    timeout_s: float,
) -> Iterator[Any]:
    """What `collate_fn` makes of the items of each list of keys, in order."""
    require_workers(workers)
    loader = DataLoader(
        items,
        batch_sampler=keys,
        collate_fn=collate_fn,
        num_workers=workers,
        worker_init_fn=_start_worker,
        timeout=min(_POLL_S, timeout_s) if workers else 0,
        # It draws a seed at its start: from the global generator, dropout would differ after a resume.
        generator=torch.Generator(),
    )
    arrivals = _start(loader)
    while (arrived := _next(arrivals, timeout_s)) is not None:
        if isinstance(arrived, _Fault):
            raise arrived.kind(arrived.message)
        yield arrived


def _start(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Starts the workers, without torch's SIGCHLD handler.

    The handler raises wherever the main process stands, in the midst of a training step too; `_next` looks by itself.
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


def _next(arrivals: Iterator[Any], timeout_s: float) -> Any:
    """The next item, None after the last; raises MachineError when a worker is dead or silent for timeout_s."""
    began = time.monotonic()
    while True:
        try:
            return next(arrivals, None)
        except (ConnectionError, EOFError) as err:  # it died while it handed a batch over
            raise MachineError(f"data worker: {KILLED}") from err
        except RuntimeError as err:
            text = str(err)
            if "DataLoader timed out" in text and time.monotonic() - began < timeout_s:
                continue
            if "DataLoader timed out" in text:
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
