"""Upper bounds of counts, so that a typing error is one line and not a machine without memory. Imports no torch.

Bounds of recipe keys that hold on every machine stand beside the keys (`Count` and the like in core/config.py). The
functions here ask this machine for its cores, memory and open files.
"""

import os
import resource
from contextlib import suppress
from pathlib import Path

from segnl.core.errors import ConfigError, MachineError

MIB = 2**20
MAX_SEED = 2**63 - 1
_WORKER_MIB = 128  # what a forked loader process needs of its own: decoded images and queued batches
_JOB_MIB = 512  # minimum for a training run; torch alone takes 300
_FILES_PER_WORKER = 8  # the pipes and semaphores of its queues


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none


def memory_bytes() -> int:
    """Returns the memory that this process may use: the machine's, or less under a cgroup's or a ulimit's bound."""
    bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            bounds.append(soft)
    with suppress(OSError, ValueError):  # "max" without a bound
        bounds.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(bounds)


def max_workers() -> int:
    """Returns the number of loader processes that this machine can carry, shared among its ranks; at least 1."""
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    bounds = [max(16, 4 * num_cores()), memory_bytes() // (_WORKER_MIB * MIB)]
    if open_files != resource.RLIM_INFINITY:
        bounds.append((open_files - 64) // _FILES_PER_WORKER)
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, min(bounds) // max(1, int(ranks[:9]) if ranks.isdecimal() else 1))


def max_jobs() -> int:
    """Returns the number of training runs that this machine can run at the same time; at least 1."""
    return max(1, min(max(8, 2 * num_cores()), memory_bytes() // (_JOB_MIB * MIB)))


def require_count(name: str, count: int, *, least: int = 1, most: int, reason: str = "") -> None:
    """Raises ConfigError when `count` is out of least..most; name: the option or key, reason: why these bounds."""
    if not least <= count <= most:
        raise ConfigError(f"{name}: {count}; expected {least} to {most}{reason and f' ({reason})'}")


def require_workers(workers: int) -> None:
    """Raises ConfigError when data.workers is more than this machine can carry."""
    require_count("data.workers", workers, least=0, most=max_workers(), reason=_machine())


def require_jobs(jobs: int) -> None:
    """Raises ConfigError when --jobs is more than this machine can carry."""
    require_count("--jobs", jobs, most=max_jobs(), reason=_machine())


def free_shared_memory() -> int | None:
    """Returns the free bytes of /dev/shm, through which worker processes send batches; None where there is none."""
    try:
        status = os.statvfs("/dev/shm")
    except OSError:  # macOS
        return None
    return status.f_bavail * status.f_frsize


def require_shared_memory(workers: int, batch_bytes: int, *, batches: int) -> None:
    """Raises MachineError when /dev/shm cannot hold `batches` batches of data.workers."""
    free, need = free_shared_memory(), batches * batch_bytes
    if workers and free is not None and free < need:
        raise MachineError(
            f"/dev/shm: {free / MIB:,.1f} MiB of shared memory are free, but {workers} data.workers need "
            f"{need / MIB:,.1f} MiB for {batches} batches; enlarge it (docker: --shm-size), or lower data.workers, 0 "
            "needs none"
        )


def require_memory(name: str, num_bytes: float) -> None:
    """Raises ConfigError when something needs more than this machine's memory; name: what it is, for the message."""
    if num_bytes > (total := memory_bytes()):
        raise ConfigError(
            f"{name}: needs at least {num_bytes / MIB:,.0f} MiB; expected at most {total / MIB:,.0f} MiB, all there is"
        )


def _machine() -> str:
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"{num_cores()} cores, {memory_bytes() // MIB:,} MiB of memory, {open_files} open files"
