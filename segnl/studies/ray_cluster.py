"""Trains the runs of a study as tasks of a Ray cluster, this machine's own or one at an address. Needs the extra `ray`.

A node that sees the study's folder trains in it, so that a run of a lost node resumes elsewhere from its checkpoint.
Any other node trains in a temporary folder, whose files are sent back at the end. SEGNL_DATA_ROOT in the environment
of a node's `ray start` replaces data.root there.
"""

import functools
import hashlib
import importlib.util
import logging
import os
import platform
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from segnl.core.config import JSONDict
from segnl.core.errors import ConfigError, MachineError, as_segnl_error
from segnl.core.files import LOCK, inside, run_lock, write_atomic
from segnl.core.log import log
from segnl.runs.checkpoint import SUFFIX
from segnl.runs.recipe import compose
from segnl.studies.jobs import OUTPUT, OUTPUT_MARK, POLL_EVERY_S, Launch, TrainingProcess, last_step, start
from segnl.studies.study import PlannedRun

MAX_LOSSES = 5
"""A run that loses its node more often fails: it may be what brings the nodes down."""
LOCK_WAIT_S = 120.0
"""A training whose node is lost may still be saving its checkpoint; NFS frees the locks of a dead client in 90 s."""
STOP_WAIT_S = 60.0
CONNECT_WAIT_S = 20.0
DATA_ROOT = "SEGNL_DATA_ROOT"


@contextmanager
def ray_launcher(folder: Path, engine: str, *, threads: int) -> Iterator[Launch]:
    """Connects to a cluster for as long as the context lasts, and gives what hands a run over to it.

    folder: the study's. engine: `ray`, a cluster that runs on this machine, or a new one; `ray://HOST:PORT`, that of
    this head node. threads: of each run, which also takes a GPU where the cluster has any.

    Raises ConfigError without Ray and for a run that no node has room for, MachineError when there is no connection.
    """
    ray = _connected(engine)
    try:
        resources = _resources(ray, threads)
        marker = folder / f".ray-{secrets.token_hex(8)}"
        write_atomic(marker, b"Nodes that see this file train in this folder.\n")
        try:
            yield lambda run: RayTraining(ray, run, marker, resources)
        finally:
            with suppress(OSError):
                marker.unlink()
    finally:
        ray.shutdown()


def _connected(engine: str) -> Any:
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--engine ray: Ray is not installed; pip install 'segnl[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a future default, about which Ray warns else
    import ray

    address = engine.removeprefix("ray").removeprefix("://") or None  # not Ray's own ray://, its client for laptops
    try:
        if address is not None:  # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=CONNECT_WAIT_S).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (OSError, RuntimeError, ValueError, OverflowError) as err:
        reason = " ".join(str(err).split())[:300]
        raise MachineError(
            f"--engine {engine}: no connection to a Ray cluster ({reason}); start one by `ray start --head`, which "
            "prints its address, join this machine to it, with the same versions of Ray and Python"
        ) from err
    return ray


def _resources(ray: ModuleType, threads: int) -> dict[str, int]:
    """Returns the CPUs and GPUs of each run. Raises ConfigError when no node has as many."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = any(node.get("GPU", 0) >= 1 for node in nodes)
    nodes = [node for node in nodes if node.get("GPU", 0) >= has_gpus]
    cores = [int(node.get("CPU", 0)) for node in nodes]
    if max(cores) < threads:
        raise ConfigError(
            f"--engine ray: a run takes {threads} threads, but the largest node has {max(cores)} CPUs; set "
            f"OMP_NUM_THREADS={max(cores)}"
        )
    num_places = sum(
        min(count // threads, int(node["GPU"]) if has_gpus else count) for count, node in zip(cores, nodes, strict=True)
    )
    device = "a GPU" if has_gpus else "no GPU"
    log.info("ray: %d nodes, %d runs at a time, each with %d threads and %s", len(nodes), num_places, threads, device)
    return {"num_cpus": threads, "num_gpus": int(has_gpus)}


class RayTraining(TrainingProcess):
    """A training that a task of the cluster runs."""

    def __init__(self, ray: Any, run: PlannedRun, marker: Path, resources: dict[str, int]) -> None:
        super().__init__()
        self._ray, self._run = ray, run
        job = job_of(run, marker, threads=resources["num_cpus"])
        task = ray.remote(num_returns="streaming", max_retries=0, **resources)(train_on_node)
        self._submit = lambda: task.remote(job)
        self._reports = self._submit()
        self.is_running = False
        self._code: int | None = None
        self._node, self._is_shared = "a node", True
        self._num_losses = 0

    def poll(self) -> int | None:
        lost = self._ray.exceptions
        while self._code is None and self._ray.wait([self._reports], timeout=0)[0]:
            try:
                self._take(self._ray.get(next(self._reports)))
            except lost.TaskCancelledError:
                self._code = 143
            except (lost.NodeDiedError, lost.WorkerCrashedError, lost.ObjectLostError, lost.OutOfMemoryError):
                self._resume_elsewhere()
            except Exception as err:  # of the task, of any kind
                self._fail(err)
        return self._code

    def _take(self, report: JSONDict) -> None:
        """Takes in what `train_on_node` reports."""
        if "node" in report:
            self._node, self._is_shared, self.is_running = report["node"], report["is_shared"], True
            where = "" if self._is_shared else ", which does not see this folder: its files come at the end"
            self._news.append(f"starts on node {self._node}{where}")
        self.step = report.get("step", self.step)
        for name, content in report.get("files", {}).items():
            write_atomic(inside(self._run.folder, name), content)
        self._code = report.get("code")

    def _resume_elsewhere(self) -> None:
        self._num_losses += 1
        self.is_running = False
        if self._num_losses > MAX_LOSSES:
            self._fail(
                MachineError(f"lost its node or its process {self._num_losses} times; look at the nodes' memory")
            )
            return
        origin = "its last checkpoint, if it has one" if self._is_shared else "the beginning"
        self._news.append(f"was lost with its node or process ({self._node}); resumes elsewhere from {origin}")
        self._reports = self._submit()

    def _fail(self, err: Exception) -> None:
        error = as_segnl_error(getattr(err, "cause", err))
        lines = [line.strip() for line in str(error or err).splitlines() if line.strip()] or [type(err).__name__]
        text = f"segnl: error: node {self._node}: {lines[-1]}\n"
        write_atomic(self._run.folder / OUTPUT, OUTPUT_MARK + text.encode())
        self._code = error.exit_code if error is not None else 1

    def stop(self) -> None:
        if self._code is None:
            self._ray.cancel(self._reports)

    def wait(self) -> None:
        end = time.monotonic() + STOP_WAIT_S
        while self.poll() is None and time.monotonic() < end:
            time.sleep(POLL_EVERY_S)


def job_of(run: PlannedRun, marker: Path, *, threads: int) -> JSONDict:
    """Returns what `train_on_node` needs to know. marker: a file that shows to a node that it sees the folder, too."""
    return {
        "head": run.head,
        "seed": run.seed,
        "folder": str(run.folder.absolute()),
        "recipe": run.recipe.to_dict(),
        "threads": threads,
        "marker": str(marker.absolute()),
        "working_folder": os.getcwd(),
        "versions": _versions(),
    }


@functools.cache
def _versions() -> str:
    """Returns what the numbers of a training depend on, such as "segnl of code 1a2b3c4d, torch 2.9.0"."""
    package = Path(__file__).parents[1]
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(f"{path.relative_to(package)} ".encode() + path.read_bytes())
    return f"segnl of code {code.hexdigest()[:8]}, torch {torch.__version__}"


def train_on_node(job: JSONDict) -> Iterator[JSONDict]:
    """Trains a run in a process of this node; the body of a Ray task.

    Yields {"node", "is_shared"}, then {"step"} whenever that has changed, and {"code", "files"} at last: the exit code
    and, of a folder that is not shared, what every file of the run holds, by name.
    """
    if _versions() != job["versions"]:
        raise ConfigError(f"has {_versions()}, but the study is run by {job['versions']}; install the same")
    with suppress(OSError):
        os.chdir(job["working_folder"])  # to which the paths of the recipe are relative
    is_shared = Path(job["marker"]).is_file()
    recipe = job["recipe"]
    if root := os.environ.get(DATA_ROOT):
        recipe = recipe | {"data": recipe["data"] | {"root": root}}
    with ExitStack() as stack:
        folder = Path(job["folder"])
        if not is_shared:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segnl-"))) / folder.name
        yield {"node": platform.node(), "is_shared": is_shared}
        folder.mkdir(parents=True, exist_ok=True)
        _wait_until_unlocked(folder)
        run = PlannedRun(job["head"], job["seed"], compose(recipe, file=str(folder)), folder)
        process = start(run, {"OMP_NUM_THREADS": str(job["threads"])})
        try:
            step = 0
            while (code := process.poll()) is None:
                time.sleep(POLL_EVERY_S)
                if (now := last_step(folder / "log.jsonl")) != step:
                    step = now
                    yield {"step": step}
        finally:  # also when the task is cancelled
            if process.poll() is None:
                process.terminate()
                process.wait()
        yield {"code": code, "files": {} if is_shared else _contents(folder)}


def _wait_until_unlocked(folder: Path) -> None:
    """Waits for a training of a lost node that still saves its checkpoint. Raises ConfigError as `run_lock` does."""
    end = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            with run_lock(folder):
                return
        except ConfigError:
            if time.monotonic() > end:
                raise
        time.sleep(POLL_EVERY_S)


def _contents(folder: Path) -> dict[str, bytes]:
    """Returns every file below the folder by its name, the checkpoints last: with them the run counts as trained."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    files.sort(key=lambda path: (path.suffix == SUFFIX, str(path)))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
