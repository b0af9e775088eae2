"""Several gloo processes on the CPU, with the variables that torchrun sets (tests/rank_server.py forks them)."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segnl.core.run_log import read_log
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint, save_checkpoint
from tests.conftest import TINY_RECIPE, write_tiny_data

ROOT = Path(__file__).resolve().parents[1]


class Server:
    """The process that forks ranks for this module."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", "tests.rank_server"]
        self.process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def request(self, **fields: Any) -> dict[str, Any]:
        self.process.stdin.write(json.dumps(fields) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, world: int, folder: Path, *, timeout_s: int = 600, **what: Any) -> list[int]:
        """The process ids of ranks that work in `folder`."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "SEGNL_RANK_TIMEOUT_S": str(timeout_s),
        }
        return self.request(world=world, folder=str(folder), environment=environment, **what)["pids"]

    def finish(self, pids: list[int]) -> list[int]:
        """The ranks' exit codes, once all have ended."""
        return self.request(wait=pids)["codes"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.process.stdin.close()
    running.process.wait(60)


@pytest.fixture(scope="module")
def asked(tmp_path_factory, server):
    """{world: [each rank's answers]} for 1, 2 and 3 ranks."""
    folder = tmp_path_factory.mktemp("asked")
    config = folder / "tiny.yaml"
    config.write_text(TINY_RECIPE.format(root=write_tiny_data(folder)))
    found = {}
    for world in (1, 2, 3):
        out = folder / str(world)
        out.mkdir()
        codes = server.finish(server.start(world, out, ask=str(config)))
        assert codes == [0] * world, [(out / f"err{rank}").read_text() for rank in range(world)]
        found[world] = [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(world)]
    return found


@pytest.mark.parametrize("name", ["frozen", "void", "clipped", "micro_batches", "ohem", "weighted", "sum", "sync"])
def test_two_ranks_with_half_the_batch_each_give_one_ranks_gradients(asked, name):
    (alone,) = (answers[name] for answers in asked[1])
    for rank in (0, 1):
        two = asked[2][rank][name]
        rtol = 1e-5  # sums in another order; seen: 5e-7 with synchronised norms, 2e-7 without
        np.testing.assert_allclose(two["reports"], alone["reports"], rtol=rtol)
        for ours, whole in zip(two["grads"], alone["grads"], strict=True):
            assert np.linalg.norm(np.subtract(ours, whole)) <= rtol * np.linalg.norm(whole)
        np.testing.assert_allclose(two["weights"], alone["weights"], rtol=rtol, atol=1e-6)


def test_all_ranks_hold_the_same_weights(asked):
    for name in ("frozen", "void", "sync", "clipped"):
        assert asked[2][0][name]["weights"] == asked[2][1][name]["weights"]


def test_five_images_give_the_same_integers_on_one_two_and_three_ranks(asked):
    matrices = [answers["confusion"] for world in (1, 2, 3) for answers in asked[world]]
    assert np.sum(matrices[0]) == 5 * 34 * 53  # three rows of each are void
    assert all(matrix == matrices[0] for matrix in matrices)


def test_a_rank_whose_loss_is_not_finite_stops_all_before_an_update_and_is_named(asked):
    for rank in (0, 1):
        message, is_relayed, is_untouched = asked[2][rank]["poisoned"]
        assert "the loss is nan, nothing was updated; images image1, image3;" in message
        assert (is_relayed, is_untouched) == (rank == 1, True)


def test_all_ranks_skip_a_float16_step_that_overflows_on_one(asked):
    (alone,), two = ([answers["half"] for answers in asked[world]] for world in (1, 2))
    assert two[0] == two[1]
    assert two[0]["skipped"] == alone["skipped"]
    assert alone["skipped"][0]
    assert not alone["skipped"][-1]
    assert two[0]["scale"] == alone["scale"]
    np.testing.assert_allclose(two[0]["last"], alone["last"], rtol=1e-2)  # float16, batches of other sizes


def test_one_ranks_error_is_raised_on_all_and_printed_by_one(asked):
    assert asked[2][0]["errors"] == ["rank 1: torn.png True", "no images False", "no images False"]
    assert asked[2][1]["errors"] == ["torn.png False", "no images True", "no images True"]


def test_ranks_wait_for_work_of_rank_0_however_long_it_takes(tmp_path, server):
    assert server.finish(server.start(2, tmp_path, ask="patience", timeout_s=4)) == [0, 0]
    assert json.loads((tmp_path / "rank1.json").read_text()) == {"rank 0 slept": True}


def test_a_step_waits_for_at_most_one_collective_besides_the_exchange_of_gradients(asked):
    for rank in (0, 1):
        assert asked[2][rank]["waits"] == [["all_reduce"]] * 3


def test_rank_0s_tensors_are_broadcast(asked):
    assert asked[2][1]["shared"] == {"a": [[0.0] * 3] * 2, "b": 0}


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        if any(line.get("step", 0) >= step for line in read_log(run / "log.jsonl")):
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} in {run}")


def test_a_run_of_two_ranks_is_killed_stopped_resumed_and_scored(tiny_config, tmp_path, server):
    """One story: SIGKILL of one rank, SIGTERM to one, the end, the score."""
    run = tmp_path / "checkpoints" / "run"
    train = ["train", "--config", str(tiny_config), "--run", "run", "--set", "train.eval_every=60"]
    train += ["--set", "train.max_steps=120", "--set", "train.save_every=3"]

    def said(name: str) -> str:
        return (tmp_path / name).read_text()

    ranks = server.start(2, tmp_path, command=train)
    wait_for_step(run, 5)
    os.kill(ranks[1], signal.SIGKILL)
    began = time.monotonic()
    assert server.finish(ranks) == [6, -signal.SIGKILL], said("err0")
    assert time.monotonic() - began < 60
    assert "rank 0: error: rank 0 lost the others" in said("err0")
    kept = load_checkpoint(checkpoints_of(run)[0]).step
    assert kept >= 3

    ranks = server.start(2, tmp_path, command=train)
    wait_for_step(run, kept + 3)
    os.kill(ranks[1], signal.SIGTERM)  # to one of them: both stop
    assert server.finish(ranks) == [143, 143], said("err0") + said("err1")
    stopped = load_checkpoint(checkpoints_of(run)[0]).step
    assert f"stopped after step {stopped}" in said("out0")
    assert said("out1") == ""  # rank 0 speaks for both
    steps = [line["step"] for line in read_log(run / "log.jsonl") if "event" not in line]
    assert steps == list(range(1, stopped + 1))

    assert server.finish(server.start(2, tmp_path, command=train)) == [0, 0], said("err0") + said("err1")
    evals = {line["step"]: line["miou"] for line in read_log(run / "log.jsonl") if line.get("event") == "eval"}
    assert sorted(evals) == [60, 120]

    score = ["eval", "--checkpoint", str(run), "--masks", str(tmp_path / "masks")]
    assert server.finish(server.start(2, tmp_path, command=score)) == [0, 0], said("err0") + said("err1")
    metrics = json.loads((run / "eval" / "val-whole" / "metrics.json").read_text())
    assert (metrics["miou"], metrics["num_images"]) == (pytest.approx(evals[120], rel=1e-12), 3)
    assert len(list((tmp_path / "masks" / "ids").glob("*.png"))) == 3


def test_ranks_with_other_data_or_another_checkpoint_are_refused(tiny_config, tiny_data, tmp_path, server):
    other = tmp_path / "data1"
    for folder in (tmp_path / "data0", other):
        shutil.copytree(tiny_data, folder)
    run, data = ["--checkpoint", "checkpoints/RANK"], ["--set", f"data.root={tmp_path / 'dataRANK'}"]
    train = ["train", "--config", str(tiny_config), "--run", "0", "--set", "train.max_steps=1", *data]

    def refused(command: list[str]) -> str:
        assert server.finish(server.start(2, tmp_path, command=command)) == [2, 2]
        assert not (tmp_path / "err1").read_text()
        return (tmp_path / "err0").read_text()

    assert server.finish(server.start(2, tmp_path, command=train)) == [0, 0]
    shutil.copytree(tmp_path / "checkpoints/0", tmp_path / "checkpoints/1")
    Image.new("L", (53, 37)).save(other / "labels/train/frame1.png")
    (other / "images/val/frame1.png").unlink()
    (other / "labels/val/frame1.png").unlink()
    assert "rank 1: differs from rank 0 in the training data; give every machine the same" in refused(
        [*train, "--fresh"]
    )
    assert "rank 1: differs from rank 0 in optim.lr;" in refused([*train[:-1], "data.root=data0", "optim.lr=0.1RANK"])
    assert "rank 1: differs from rank 0 in data; evaluate again, with" in refused(["eval", *run, *data])
    checkpoint = load_checkpoint(checkpoints_of(tmp_path / "checkpoints/1")[0])
    save_checkpoint(replace(checkpoint, loss_scale={"value": 2}))
    assert "rank 1: differs from rank 0 in checkpoint;" in refused(["eval", *run, data[0], "data.root=data0"])
    assert not [*tmp_path.rglob("metrics.json")]
