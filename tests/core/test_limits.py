import os
import resource

import pytest

from segnl.core import limits
from segnl.core.errors import ConfigError
from segnl.core.limits import (
    max_jobs,
    max_workers,
    memory_bytes,
    num_cores,
    require_count,
    require_jobs,
    require_memory,
    require_workers,
)

GIB = 2**30


@pytest.fixture
def machine(monkeypatch):
    """A machine of 8 cores and 64 GiB that allows 1024 open files."""
    monkeypatch.setattr(limits, "num_cores", lambda: 8)
    monkeypatch.setattr(limits, "memory_bytes", lambda: 64 * GIB)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 4096))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return monkeypatch


def test_workers_follow_the_cores(machine):
    assert max_workers() == 32
    machine.setattr(limits, "num_cores", lambda: 2)
    assert max_workers() == 16


def test_workers_follow_the_memory_and_the_open_files(machine):
    machine.setattr(limits, "memory_bytes", lambda: GIB)
    assert max_workers() == 8
    machine.setattr(resource, "getrlimit", lambda kind: (96, 96))
    assert max_workers() == 4


def test_ranks_of_one_machine_share_its_workers(machine):
    machine.setenv("LOCAL_WORLD_SIZE", "4")
    assert max_workers() == 8


def test_jobs_follow_cores_and_memory(machine):
    assert max_jobs() == 16
    machine.setattr(limits, "memory_bytes", lambda: GIB)
    assert max_jobs() == 2


def test_the_message_says_what_is_allowed_and_why(machine):
    with pytest.raises(ConfigError) as err:
        require_workers(100_000)
    assert str(err.value) == ("data.workers: 100000; expected 0 to 32 (8 cores, 65,536 MiB of memory, 1024 open files)")
    with pytest.raises(ConfigError, match=r"--jobs: 100; expected 1 to 16 \(8 cores"):
        require_jobs(100)
    with pytest.raises(ConfigError, match=r"--images: 0; expected 1 to 10$"):
        require_count("--images", 0, most=10)
    with pytest.raises(ConfigError, match="--input: needs at least 1,048,576 MiB; expected at most 65,536 MiB"):
        require_memory("--input", 2**40)


def test_this_machine_allows_ordinary_settings():
    require_workers(4)
    require_jobs(2)
    assert num_cores() >= 1
    assert memory_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
