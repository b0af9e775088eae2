"""Several trainings of a study at once, each a process of its own: on a GPU of its own where there are some, on the CPU
with the threads shared out.

A training gets the same numbers as it would alone with as many threads: sums are cut otherwise among other numbers of
threads, which moves the last digits. So the share is that of --jobs, however many runs are left to train.
RUN/train.txt holds what a training said.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from segnl.core.errors import MachineError, SegnlError, StoppedError
from segnl.core.files import ensure_writable
from segnl.core.log import console_log, log
from segnl.core.memory import keep_freed_memory
from segnl.core.progress import Progress
from segnl.runs.checkpoint import checkpoints_of
from segnl.runs.recipe import compose
from segnl.studies.control import run_hashes_of
from segnl.studies.study import PlannedRun
from segnl.training.fit import fit, stop_signals

OUTPUT = "train.txt"
LOOK_EVERY_S = 0.2
TAIL_BYTES = 8192


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that this process may use; none without CUDA."""
    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def slots(num_jobs: int, gpus: Sequence[str], threads: int) -> list[dict[str, str]]:
    """The environment of each training at work: GPUs in turn, an equal share of the threads."""
    share = {"OMP_NUM_THREADS": str(max(1, threads // num_jobs))}
    return [share | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(num_jobs)]


@dataclass(frozen=True)
class Started:
    """A training at work in its slot."""

    run: PlannedRun
    process: subprocess.Popen[str]
    output: IO[str]


class JobPool:
    """Trains runs, at most as many at a time as there are slots."""

    def __init__(self, name: str, runs: Sequence[PlannedRun], environments: Sequence[Mapping[str, str]]) -> None:
        self.name, self.waiting, self.num_runs = name, deque(runs), len(runs)
        self.environments = environments
        self.at_work: dict[int, Started] = {}
        self.asked: set[str] = set()
        self.failed: dict[str, int] = {}
        self.steps = {run.name: _saved_step(run) for run in runs}
        self.total = sum(run.recipe.train.max_steps for run in runs)

    def train(self) -> None:
        """Trains all runs.

        Raises StoppedError when a signal stopped it, after every running training has saved a checkpoint; SegnlError
        when trainings failed, after the others are done, with the first one's exit code.
        """
        try:
            with stop_signals() as stop, Progress(self.name, self.total, done=sum(self.steps.values())) as progress:
                while self.at_work or (self.waiting and not stop):
                    if stop:
                        self._ask_to_stop()
                    else:
                        self._fill(progress)
                    time.sleep(LOOK_EVERY_S)
                    self._look(progress, is_stopping=bool(stop))
        finally:
            self._ask_to_stop()
            for started in self.at_work.values():
                started.process.wait()
        if stop:
            message = f"study {self.name}: stopped; the same command resumes from the checkpoints"
            log.info("%s", message)
            raise StoppedError(message, stop[0])
        if self.failed:
            raise self._failure()

    def _fill(self, progress: Progress) -> None:
        for slot, environment in enumerate(self.environments):
            if self.waiting and slot not in self.at_work:
                run = self.waiting.popleft()
                self.at_work[slot] = start(run, environment)
                progress.say(f"study {self.name}: {run.name} begins")

    def _look(self, progress: Progress, *, is_stopping: bool) -> None:
        for slot, started in list(self.at_work.items()):
            code, run = started.process.poll(), started.run
            self.steps[run.name] = max(self.steps[run.name], last_step(run.folder / "log.jsonl"))
            if code is None:
                continue
            _close(started)
            del self.at_work[slot]
            if code == 0:
                self.steps[run.name] = run.recipe.train.max_steps
                progress.say(f"study {self.name}: {run.name} is trained")
            elif not is_stopping:
                self.failed[run.name] = code
                progress.say(f"study {self.name}: {run.name} failed: {last_words(run.folder / OUTPUT, code)}")
        while progress.done < min(sum(self.steps.values()), self.total):
            progress.advance(f"{len(self.at_work)} at work, {len(self.waiting)} waiting")

    def _ask_to_stop(self) -> None:
        for started in self.at_work.values():
            if started.run.name not in self.asked and started.process.poll() is None:
                self.asked.add(started.run.name)  # once: a second one could hit it while it leaves
                started.process.send_signal(signal.SIGTERM)

    def _failure(self) -> SegnlError:
        err = SegnlError(
            f"study {self.name}: {len(self.failed)} of {self.num_runs} runs failed ({', '.join(self.failed)}); the "
            f"others are trained. Their {OUTPUT} says why; mend that and start again"
        )
        code = next(iter(self.failed.values()))
        err.exit_code = code if code > 0 else MachineError.exit_code  # below 0: killed by a signal
        return err


def _saved_step(run: PlannedRun) -> int:
    saved = checkpoints_of(run.folder)
    return int(saved[0].stem.partition("-")[2]) if saved else 0


def start(run: PlannedRun, environment: Mapping[str, str]) -> Started:
    """Begins the run's training in a process of its own, out of reach of the terminal's Ctrl-C: we pass that on."""
    ensure_writable(run.folder)
    output = (run.folder / OUTPUT).open("w", encoding="utf-8")
    # The child finds what the parent found: a user's own head may lie beside the recipe.
    path = os.pathsep.join(each for each in sys.path if each)
    process = subprocess.Popen(
        [sys.executable, "-c", "from segnl.studies.jobs import child; child()"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | dict(environment) | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},  # lines in their order
        start_new_session=True,
    )
    job = {"head": run.head, "seed": run.seed, "folder": str(run.folder), "recipe": run.recipe.to_dict()}
    if process.stdin is not None:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
    return Started(run, process, output)


def _close(started: Started) -> None:
    if started.process.stdin is not None:
        started.process.stdin.close()
    started.output.close()


def child() -> None:
    """The process's whole work: a job on the first line of standard input, which stays open while the parent lives."""
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
    except StoppedError as err:
        sys.exit(err.exit_code)
    except SegnlError as err:
        print(f"segnl: error: {err}", file=sys.stderr, flush=True)
        sys.exit(err.exit_code)
    except OSError as err:
        print(f"segnl: error: {err.filename or 'this machine'}: {err.strerror or err}", file=sys.stderr, flush=True)
        sys.exit(MachineError.exit_code)


def _stop_with_parent() -> None:
    """A parent that was killed could not pass on anything; its end of the pipe closes all the same."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def last_step(log: Path) -> int:
    """The step that a growing log.jsonl has reached; 0 where there is none yet."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue  # a line half written, or cut by the tail
    return 0


def last_words(output: Path, code: int) -> str:
    """Why a training ended, in a line."""
    lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if code < 0:
        return f"killed by signal {-code}" + (", for want of memory?" if code == -signal.SIGKILL else "")
    errors = [line for line in lines if line.startswith("segnl: error: ")] or lines
    return errors[-1].removeprefix("segnl: error: ") if errors else f"exit {code}, no word"
