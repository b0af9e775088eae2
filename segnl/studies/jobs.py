"""Trains several runs of a study at a time, each in its own process: on one GPU each, or on part of the threads.

A run gives the same numbers as it would alone with the same number of threads; another number changes the order of
sums and so the last digits. Therefore the number of threads depends on --jobs only, not on the number of runs left.
RUN/train.txt holds the output of a training.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from segnl.core.archives import open_file
from segnl.core.child_process import child_command, child_environment
from segnl.core.errors import ConfigError, MachineError, SegnlError, StoppedError, as_segnl_error
from segnl.core.files import ensure_writable, open_own, read_bytes
from segnl.core.log import console_log, log, one_line
from segnl.core.memory import keep_freed_memory
from segnl.core.progress import Progress
from segnl.core.run_log import log_lines
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.runs.checkpoint import checkpoints_of
from segnl.runs.recipe import compose
from segnl.runs.run import finished_run
from segnl.studies.control import run_hashes_of
from segnl.studies.study import PlannedRun
from segnl.training.fit import fit
from segnl.training.hooks import stop_signals

OUTPUT = "train.txt"
OUTPUT_MARK = b"written by segnl compare\n"
POLL_EVERY_S = 0.2
TAIL_BYTES = 8192


def visible_gpus() -> list[str]:
    """Returns the names in CUDA_VISIBLE_DEVICES of the GPUs that this process may use; none without CUDA."""
    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def slots(num_jobs: int, gpus: Sequence[str], threads: int) -> list[dict[str, str]]:
    """Returns the environment of each slot: the GPUs in turn and an equal number of threads."""
    common = {"OMP_NUM_THREADS": str(max(1, threads // num_jobs))}
    return [common | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(num_jobs)]


class TrainingProcess(ABC):
    """A training that was started: a process of this machine, or a task on another (studies/ray_cluster.py).

    step: the last one in its log when it was polled. is_running: False while it waits for a place.
    """

    step = 0
    is_running = True

    def __init__(self) -> None:
        self._news: list[str] = []

    def news(self) -> list[str]:
        """Returns what happened to it since the last call, such as "starts"."""
        news, self._news = self._news, []
        return news

    @abstractmethod
    def poll(self) -> int | None:
        """Returns the exit code, below 0 for a signal; None until the training has ended."""

    @abstractmethod
    def stop(self) -> None:
        """Lets it save a checkpoint and end."""

    @abstractmethod
    def wait(self) -> None:
        """Waits for its end."""


class LocalProcess(TrainingProcess):
    """A training in a process of this machine."""

    def __init__(self, run: PlannedRun, *, environment: Mapping[str, str], split: str | None) -> None:
        super().__init__()
        self._log = run.folder / "log.jsonl"
        self._process = start(run, environment, split=split)
        self._news.append("starts")

    def poll(self) -> int | None:
        code = self._process.poll()
        self.step = last_step(self._log)
        if code is not None:
            self._process.communicate()  # closes its standard input
        return code

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        self._process.wait()


Launch = Callable[[PlannedRun], TrainingProcess]


def local_launchers(num_jobs: int, gpus: Sequence[str], threads: int, *, split: str | None = None) -> list[Launch]:
    """Returns what starts a run in each slot of this machine.

    split: each process also evaluates its run on that split, for the run's cache; None: it only trains.
    """
    return [partial(LocalProcess, environment=slot, split=split) for slot in slots(num_jobs, gpus, threads)]


class JobPool:
    """Pool of trainings, as many at a time as there are `launchers`, one for each slot."""

    def __init__(self, name: str, runs: Sequence[PlannedRun], launchers: Sequence[Launch]) -> None:
        self.name, self.waiting, self.num_runs = name, deque(runs), len(runs)
        self.launchers = launchers
        self.active: dict[int, tuple[PlannedRun, TrainingProcess]] = {}
        self.signalled: set[str] = set()
        self.failed: dict[str, int] = {}
        saved = {run.name: checkpoints_of(run.folder) for run in runs}
        self.steps = {name: int(files[0].stem.partition("-")[2]) if files else 0 for name, files in saved.items()}
        self.total = sum(run.recipe.train.num_steps for run in runs)

    def train(self) -> None:
        """Trains all runs.

        Raises StoppedError after a signal, when every active training run has saved a checkpoint; SegnlError when runs
        failed, after the others are done, with the exit code of the first failure.
        """
        try:
            with stop_signals() as stop, Progress(self.name, self.total, done=sum(self.steps.values())) as progress:
                while self.active or (self.waiting and not stop):
                    if stop:
                        self._stop_all()
                    else:
                        self._fill()
                    time.sleep(POLL_EVERY_S)
                    self._poll(progress, is_stopping=bool(stop))
        finally:
            self._stop_all()
            for _, process in self.active.values():
                process.wait()
        if stop:
            message = f"study {self.name}: stopped; the same command resumes from the checkpoints"
            log.info("%s", message)
            raise StoppedError(message, 128 + stop[0])
        if self.failed:
            raise self._failure()

    def _fill(self) -> None:
        for slot, launch in enumerate(self.launchers):
            if self.waiting and slot not in self.active:
                run = self.waiting.popleft()
                self.active[slot] = run, launch(run)

    def _poll(self, progress: Progress, *, is_stopping: bool) -> None:
        for slot, (run, process) in list(self.active.items()):
            code = process.poll()
            for event in process.news():
                progress.say(f"study {self.name}: {run.name} {event}")
            self.steps[run.name] = max(self.steps[run.name], process.step)
            if code is None:
                continue
            del self.active[slot]
            if code == 0:
                self.steps[run.name] = run.recipe.train.num_steps
                progress.say(f"study {self.name}: {run.name} is trained")
            elif not is_stopping:
                self.failed[run.name] = code
                progress.say(f"study {self.name}: {run.name} failed: {failure_reason(run.folder / OUTPUT, code)}")
        num_running = sum(process.is_running for _, process in self.active.values())
        num_waiting = len(self.active) - num_running + len(self.waiting)
        while progress.done < min(sum(self.steps.values()), self.total):
            progress.advance(f"{num_running} running, {num_waiting} waiting")

    def _stop_all(self) -> None:
        for run, process in self.active.values():
            if run.name not in self.signalled:
                self.signalled.add(run.name)  # only once: a second signal could hit it while it exits
                process.stop()

    def _failure(self) -> SegnlError:
        err = SegnlError(
            f"study {self.name}: {len(self.failed)} of {self.num_runs} runs failed ({', '.join(self.failed)}); the "
            f"others are trained. Their {OUTPUT} holds the reason; fix it and start again"
        )
        code = next(iter(self.failed.values()))
        err.exit_code = code if code > 0 else MachineError.exit_code  # below 0: killed by a signal
        return err


def start(run: PlannedRun, environment: Mapping[str, str], *, split: str | None = None) -> subprocess.Popen[str]:
    """Starts the run's training in a process that the terminal's Ctrl-C does not reach; it ends with this process.

    split: the process also evaluates the run on it.
    """
    ensure_writable(run.folder)
    path = run.folder / OUTPUT
    with open(open_own(path), "r+b") as output:
        if output.read(len(OUTPUT_MARK)) not in (b"", OUTPUT_MARK):
            raise ConfigError(f"{path}: exists and was not written by segnl compare; move it aside")
        output.truncate(0)
        output.seek(0)
        output.write(OUTPUT_MARK)
        output.flush()
        process = subprocess.Popen(
            child_command("from segnl.studies.jobs import child; child()"),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=child_environment() | dict(environment),
            start_new_session=True,
        )
    job = {
        "head": run.head,
        "seed": run.seed,
        "folder": str(run.folder),
        "recipe": run.recipe.to_dict(),
        "split": split,
    }
    print(json.dumps(job), file=process.stdin, flush=True)
    return process


def child() -> None:
    """Trains the job on the first line of standard input, which stays open as long as the parent lives."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    keep_freed_memory()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        recipe = compose(job["recipe"], file=job["folder"])
        run = PlannedRun(job["head"], job["seed"], recipe, Path(job["folder"]))
        with console_log():
            run_hashes_of(run)
            fit(recipe, run.folder)
            if job["split"] is not None:
                evaluate_run(finished_run(run.folder, recipe), EvaluationRequest(job["split"]))
    except Exception as err:
        error = as_segnl_error(err)
        if error is None:
            raise
        if not isinstance(error, StoppedError):
            sys.stderr.write(f"segnl: error: {one_line(str(error))}\n")
        sys.exit(error.exit_code)


def _stop_with_parent() -> None:
    """Waits until the parent's end of the pipe closes, which happens even if the parent is killed, and stops."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def last_step(log: Path) -> int:
    """Returns the last step of a growing log.jsonl; 0 where there is none yet."""
    try:
        with open_file(log) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = log_lines(file.read())  # without one that is half written, or cut at the start
    except OSError:
        return 0
    return next((int(line["step"]) for line in reversed(lines) if "step" in line), 0)


def failure_reason(output: Path, code: int) -> str:
    """Returns a line about why a training run failed, from its output and exit code."""
    try:
        text = read_bytes(output).removeprefix(OUTPUT_MARK).decode("utf-8", "replace")
    except OSError as err:  # moved or deleted during the training
        text = f"{output}: cannot be read ({err.strerror})"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if code < 0:
        return f"killed by signal {-code}" + (", perhaps out of memory" if code == -signal.SIGKILL else "")
    errors = [line for line in lines if line.startswith("segnl: error: ")] or lines
    return errors[-1].removeprefix("segnl: error: ") if errors else f"exit {code}, no message"
