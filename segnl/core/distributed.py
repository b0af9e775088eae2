"""Several processes (ranks) that share one training run or evaluation.

One process is the ordinary case: `SINGLE_PROCESS` communicates with nobody, and torch.distributed is imported only when
torchrun has started several.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from segnl.core.errors import ConfigError, MachineError, SegnlError, StoppedError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

TIMEOUT_S = 600
"""Seconds that a rank waits for the others before it gives up; the environment variable SEGNL_RANK_TIMEOUT_S overrides
it."""
RANK0_TIMEOUT_S = 7 * 86_400
"""Seconds that ranks wait for work of rank 0 alone; where rank 0 dies, they notice at once."""

GLOO_PREFIX = re.compile(r"\[[^\]\s]*gloo[^\]\s]*:\d+\]")
"""Start of every message of gloo, which raises plain RuntimeErrors: its source file and line."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process among `world_size` ones.

    Every method is a collective: all ranks call it, at the same place of the program. When a rank dies, the others
    raise within TIMEOUT_S, and `process_group` turns that into one line.
    """

    rank: int = 0
    world_size: int = 1
    patient_group: Any = None
    """torch's group of all ranks that waits for RANK0_TIMEOUT_S."""

    def __deepcopy__(self, _memo: object) -> "ProcessGroup":
        return self  # a copy of a network has the same norms over the same ranks

    @property
    def is_rank0(self) -> bool:
        """True for the rank that logs and that writes the files of which there is one."""
        return self.rank == 0

    def all_reduce_sum(self, value: "Tensor") -> "Tensor":
        """Returns the sum of a tensor over the ranks, on its own device, without a gradient."""
        if self.world_size == 1:
            return value
        import torch.distributed as dist

        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def start_all_reduce_sum(self, value: "Tensor") -> "Callable[[], Tensor]":
        """Starts the sum of a tensor over the ranks and returns at once; calling the result waits for the sum.

        Every rank starts it, but none has to wait for it.
        """
        if self.world_size == 1:
            return lambda: value
        import torch.distributed as dist

        total = value.detach().clone()
        work = dist.all_reduce(total, async_op=True)

        def wait() -> "Tensor":
            work.wait()
            return total

        return wait

    def all_gather_object(self, value: T) -> list[T]:
        """Returns the plain values of all ranks, in rank order."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def run_on_rank0(self, function: Callable[[], T]) -> T:
        """Calls `function` on rank 0 only and returns its plain value on all ranks.

        A SegnlError that it raises is raised on every rank.
        """
        if self.world_size == 1:
            return function()
        import torch.distributed as dist

        result: list[Any] = [None]
        if self.is_rank0:
            try:
                result = [function()]
            except SegnlError as err:
                result = [err]
        dist.broadcast_object_list(result, src=0, group=self.patient_group)
        if isinstance(result[0], SegnlError):
            result[0].is_relayed = not self.is_rank0
            raise result[0]
        value: T = result[0]
        return value

    def require_equal(self, values: Mapping[str, Any], advice: str) -> None:
        """Raises ConfigError on every rank unless each has the plain values of rank 0, with the keys that differ."""
        first, *others = self.all_gather_object(dict(values))
        for rank, own in enumerate(others, 1):
            keys = sorted(key for key in first.keys() | own.keys() if own.get(key) != first.get(key))
            if keys:
                err = ConfigError(f"rank {rank}: differs from rank 0 in {', '.join(keys)}; {advice}")
                err.is_relayed = not self.is_rank0
                raise err

    def error_of_any(self, error: SegnlError | None) -> SegnlError | None:
        """Returns an error on every rank if `error` is not None on any: a rank's own error, else a relayed one."""
        errors = self.all_gather_object(error)
        if error is not None:  # of several equal errors the first rank prints its own
            error.is_relayed = repr(error) in map(repr, errors[: self.rank])
            return error
        for rank, remote in enumerate(errors):
            if remote is not None:
                remote.args = (f"rank {rank}: {remote}",)
                remote.is_relayed = True
                return remote
        return None

    @contextmanager
    def shared_errors(self) -> Iterator[None]:
        """Runs a block without collectives on every rank; a SegnlError of one rank is raised on all at its end."""
        error = None
        try:
            yield
        except SegnlError as err:
            error = err
        error = self.error_of_any(error)
        if error is not None:
            raise error

    def broadcast(self, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Returns rank 0's tensors by name, on the CPU; those of the other ranks are ignored."""
        if self.world_size == 1:
            return dict(tensors)
        import torch
        import torch.distributed as dist

        layouts = self.run_on_rank0(lambda: [(name, tuple(t.shape), t.dtype) for name, t in tensors.items()])
        received = {}
        for name, shape, dtype in layouts:
            tensor = tensors[name].contiguous().cpu() if self.is_rank0 else torch.empty(shape, dtype=dtype)
            dist.broadcast(tensor, src=0)
            received[name] = tensor
        return received


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Connects the ranks that torchrun (or SLURM, with the same variables) started; yields SINGLE_PROCESS otherwise.

    gloo carries CPU tensors. NCCL carries CUDA tensors if every rank of a machine has its own GPU, else gloo does.

    Raises MachineError when the other ranks cannot be reached or the connection to them is lost.
    """
    world_size = _integer_variable("WORLD_SIZE", 1)
    if world_size == 1:
        yield SINGLE_PROCESS
        return
    import torch.distributed as dist

    rank = _integer_variable("RANK", 0)
    if not 0 <= rank < world_size:
        raise ConfigError(f"RANK={rank}, WORLD_SIZE={world_size}: expected a rank below WORLD_SIZE; use torchrun")
    group = ProcessGroup(rank, world_size, _connect(dist, rank))
    stopped = None
    try:
        try:
            yield group
        except StoppedError as err:  # the ranks agreed to stop, so that all of them reach the barrier
            stopped = err
        dist.barrier()  # no rank leaves while another still needs it; not reached after other errors, on any rank
        dist.destroy_process_group()
    except RuntimeError as err:
        if isinstance(err, dist.DistError) or GLOO_PREFIX.match(str(err)):
            raise _connection_error(rank, err) from err
        raise
    if stopped is not None:
        raise stopped


def _connect(dist: Any, rank: int) -> Any:
    """Connects this rank to the others. Returns `ProcessGroup.patient_group`."""
    from datetime import timedelta

    import torch

    local_rank, local_world_size = _integer_variable("LOCAL_RANK", 0), _integer_variable("LOCAL_WORLD_SIZE", 1)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        if local_world_size <= torch.cuda.device_count():
            backend = "cpu:gloo,cuda:nccl"
    seconds = _integer_variable("SEGNL_RANK_TIMEOUT_S", TIMEOUT_S)
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
        return dist.new_group(backend="gloo", timeout=timedelta(seconds=RANK0_TIMEOUT_S))
    except (RuntimeError, ValueError) as err:  # ValueError: MASTER_ADDR or MASTER_PORT is missing or malformed
        raise _connection_error(rank, err) from err


def _connection_error(rank: int, err: Exception) -> MachineError:
    reason = (str(err).strip().splitlines() or [type(err).__name__])[0][:160]
    return MachineError(
        f"rank {rank} lost the others ({reason}); the first rank that failed says why; start the same command "
        "again, a training run resumes from its last checkpoint"
    )


def _integer_variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isdecimal() and len(text) < 10):
        raise ConfigError(f"{name}={text[:40]}: expected a number; start several processes with torchrun")
    return int(text)
