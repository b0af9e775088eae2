"""What one process and bad settings do; what ranks do together, tests/test_ranks.py shows with real ones."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup, process_group
from segnl.core.errors import ConfigError, DataError, MachineError

ROOT = Path(__file__).resolve().parents[2]


def test_alone_everything_is_what_was_given():
    value = torch.arange(3)
    assert SINGLE_PROCESS.all_reduce_sum(value) is value
    assert (
        SINGLE_PROCESS.all_reduce_sums([1.5]),
        SINGLE_PROCESS.all_reduce_max([2]),
        SINGLE_PROCESS.all_gather_object("a"),
    ) == ([1.5], [2], ["a"])
    assert (SINGLE_PROCESS.run_on_rank0(lambda: 3), SINGLE_PROCESS.run_on_all(lambda: 4)) == (3, 4)
    assert SINGLE_PROCESS.broadcast({"a": value})["a"] is value
    assert SINGLE_PROCESS.is_rank0
    assert not ProcessGroup(rank=1, world_size=2).is_rank0


def test_alone_a_fault_is_raised_as_it_is():
    fault = DataError("x")
    with pytest.raises(DataError) as err:
        SINGLE_PROCESS.raise_on_all(fault)
    assert err.value is fault
    assert not err.value.is_relayed
    SINGLE_PROCESS.raise_on_all(None)


def test_without_torchrun_nobody_is_joined(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group() as group:
        assert group is SINGLE_PROCESS


def test_ranks_that_are_no_numbers_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE=two: expected a number"), process_group():
        pass


def test_others_that_never_come_are_an_error_in_one_line_and_not_a_hang(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "9")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SEGNL_RANK_TIMEOUT_S", "1")
    with pytest.raises(MachineError, match="rank 1 lost the others") as err, process_group():
        pass
    assert "\n" not in str(err.value)


def test_the_module_itself_imports_no_torch():
    code = "import sys, segnl.core.distributed; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "False\n", ran.stderr
