"""One process and bad settings; tests/test_ranks.py shows several real ranks."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup, process_group
from segnl.core.errors import ConfigError, DataError, MachineError, StoppedError
from segnl.data.file_error import FileError

ROOT = Path(__file__).resolve().parents[2]


def test_a_single_process_gets_its_own_values_back():
    value = torch.arange(3)
    assert SINGLE_PROCESS.all_reduce_sum(value) is value
    assert SINGLE_PROCESS.all_gather_object("a") == ["a"]
    assert SINGLE_PROCESS.run_on_rank0(lambda: 3) == 3
    assert SINGLE_PROCESS.broadcast({"a": value})["a"] is value
    assert SINGLE_PROCESS.is_rank0
    assert not ProcessGroup(rank=1, world_size=2).is_rank0


def test_a_single_process_raises_its_error_unchanged():
    error = DataError("x")
    with pytest.raises(DataError) as err, SINGLE_PROCESS.shared_errors():
        raise error
    assert err.value is error
    assert not err.value.is_relayed
    with SINGLE_PROCESS.shared_errors():
        pass


@pytest.mark.parametrize("error", [FileError(Path("a.png"), "damaged", "cut off"), StoppedError("stopped", 143)])
def test_an_error_with_a_constructor_of_its_own_can_be_sent_to_another_rank(error):
    received = pickle.loads(pickle.dumps(error))
    assert (type(received), str(received), vars(received)) == (type(error), str(error), vars(error))


def test_without_torchrun_there_is_a_single_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group() as group:
        assert group is SINGLE_PROCESS


@pytest.fixture
def connected(monkeypatch):
    """Two ranks that count as connected."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("segnl.core.distributed._connect", lambda *_: None)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the skip connection has 64 channels, expected 256"),
        ValueError("environment: pool timed out; gloo, nccl and socket are only words here"),
    ],
)
def test_an_error_of_a_component_that_speaks_of_connections_stays_as_it_is(connected, error):
    with pytest.raises(type(error)) as err, process_group():
        raise error
    assert err.value is error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/src/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:14"),
        torch.distributed.DistBackendError("NCCL error: remote process exited"),
        torch.distributed.DistNetworkError("the client socket has timed out"),
    ],
)
def test_an_error_of_a_backend_is_a_lost_connection(connected, error):
    with pytest.raises(MachineError, match="rank 0 lost the others"), process_group():
        raise error


def test_a_world_size_that_is_no_number_is_refused(monkeypatch):
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
