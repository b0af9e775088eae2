"""Several processes, one training or evaluation: who they are, and the few things they must agree on.

One process is the ordinary case: `SINGLE_PROCESS` does nothing, and torch.distributed is imported by `process_group`
only when torchrun has started several.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from segnl.core.errors import ConfigError, MachineError, SegnlError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

TIMEOUT_S = 600.0
"""How long a rank waits for the others before it gives them up; SEGNL_RANK_TIMEOUT_S says otherwise."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process among `world` ones. Everything here is called by all of them, at the same place in their course.

    A rank that dies makes the others raise within TIMEOUT_S; `process_group` turns that into one line.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_rank0(self) -> bool:
        """Whether this is rank 0, which logs and writes what is there once."""
        return self.rank == 0

    def all_reduce_sum(self, value: "Tensor") -> "Tensor":
        """The sum of a tensor over the ranks, on its own device; without a gradient."""
        if self.world_size == 1:
            return value
        import torch.distributed as dist

        value = value.detach().clone()
        dist.all_reduce(value)
        return value

    def all_reduce_sums(self, values: Sequence[float]) -> list[float]:
        """The sums of some numbers over the ranks, in float64; NaN where one of them is."""
        if self.world_size == 1:
            return list(values)
        import torch

        found: list[float] = self.all_reduce_sum(torch.tensor(values, dtype=torch.float64)).tolist()
        return found

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """The greatest of each number over the ranks."""
        if self.world_size == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        found = torch.tensor(values)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return [int(value) for value in found]

    def all_gather_object(self, value: T) -> list[T]:
        """Every rank's plain value, in the ranks' order."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def run_on_rank0(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, where alone it runs: a plain value, the same on all.

        A SegnlError that it raises there is raised on every rank.
        """
        if self.world_size == 1:
            return make()
        outcome: T | _Fault | None = None
        own: SegnlError | None = None
        if self.is_rank0:
            try:
                outcome = make()
            except SegnlError as err:
                outcome, own = _Fault(type(err), str(err)), err
        import torch.distributed as dist

        box: list[Any] = [outcome]
        dist.broadcast_object_list(box, src=0)
        if own is not None:
            raise own
        if isinstance(box[0], _Fault):
            raise box[0].relayed()
        found: T = box[0]
        return found

    def raise_on_all(self, fault: SegnlError | None) -> None:
        """Raises on all ranks where one of them has a fault: its own there, a relayed one elsewhere."""
        if self.world_size == 1:
            if fault is not None:
                raise fault
            return
        own = None if fault is None else _Fault(type(fault), str(fault))
        faults = self.all_gather_object(own)
        if fault is not None:
            fault.is_relayed = own in faults[: self.rank]  # what befell several is said once
            raise fault
        for rank, other in enumerate(faults):
            if other is not None:
                raise other.relayed(f"rank {rank}: ")

    def run_on_all(self, make: Callable[[], T]) -> T:
        """What `make` returns, run on every rank; a SegnlError of one is raised on all."""
        made: list[T] = []
        fault = None
        try:
            made.append(make())
        except SegnlError as err:
            fault = err
        self.raise_on_all(fault)
        return made[0]

    def broadcast(self, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Rank 0's tensors by name, on the CPU; what the others give is not looked at."""
        if self.world_size == 1:
            return dict(tensors)
        import torch
        import torch.distributed as dist

        shapes = self.run_on_rank0(lambda: [(name, tuple(t.shape), t.dtype) for name, t in tensors.items()])
        out = {}
        for name, shape, dtype in shapes:
            mine = tensors[name].contiguous().cpu() if self.is_rank0 else torch.empty(shape, dtype=dtype)
            dist.broadcast(mine, src=0)
            out[name] = mine
        return out


SINGLE_PROCESS = ProcessGroup()


@dataclass(frozen=True)
class _Fault:
    """A SegnlError on its way to the other ranks."""

    kind: type[SegnlError]
    message: str

    def relayed(self, where: str = "") -> SegnlError:
        err = self.kind(where + self.message)
        err.is_relayed = True
        return err


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Connects the ranks that torchrun (or SLURM, with its variables) started; yields SINGLE_PROCESS without one.

    gloo connects CPU tensors; CUDA tensors go through NCCL where every rank of a machine has a GPU of its own.

    Raises MachineError when the others cannot be reached, or are lost on the way.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        yield SINGLE_PROCESS
        return
    import torch.distributed as dist

    group = ProcessGroup(_number("RANK", 0), world)
    try:
        _connect(dist)
        yield group
        dist.barrier()  # nobody leaves while another still needs it
        dist.destroy_process_group()
    except SegnlError:
        raise  # without taking leave: where one rank failed, another may not answer
    except (RuntimeError, ValueError) as err:
        if not _is_of_connection(err, dist):
            raise
        raise MachineError(
            f"rank {group.rank} lost the others ({_first_line(err)}); the first rank that failed says why; start the "
            "same command again, a training goes on from its last checkpoint"
        ) from err


def _connect(dist: Any) -> None:
    from datetime import timedelta

    import torch

    local, on_machine = _number("LOCAL_RANK", 0), _number("LOCAL_WORLD_SIZE", 1)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
        if on_machine <= torch.cuda.device_count():
            backend = "cpu:gloo,cuda:nccl"
    seconds = float(os.environ.get("SEGNL_RANK_TIMEOUT_S", TIMEOUT_S))
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"{name}={text}: expected a number; start several processes with torchrun")
    return int(text)


def _is_of_connection(err: Exception, dist: Any) -> bool:
    kinds = tuple(getattr(dist, name) for name in ("DistError", "DistBackendError") if hasattr(dist, name))
    words = ("gloo", "nccl", "connection", "timed out", "rendezvous", "socket", "environ")
    return isinstance(err, kinds) or any(word in str(err).lower() for word in words)


def _first_line(err: Exception) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:160]
