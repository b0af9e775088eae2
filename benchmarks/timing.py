"""Contestants side by side: seconds in one interleaved run, peak memory in a child process of its own for each.

A contestant is a Python interpreter and a name; a module of cases beside this file (such as `ops_cases`) says what the
name does in a case: `build(contestant, case) -> callable`. It raises `CannotRunError` where it cannot. A call that
returns a dictionary tells the seconds of its parts.

As a script this file is the child: `PYTHON benchmarks/timing.py MODULE CONTESTANT` reads cases from its standard
input, a JSON line each, and answers with a JSON line each. It needs nothing but torch, so that it runs in a peer's
environment.
"""

import gc
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Case = dict[str, Any]
Answer = dict[str, Any]


class CannotRunError(Exception):
    """A contestant cannot take a case, and why."""


class Contestant:
    """A child process that has been asked nothing yet; it lives until `close`."""

    def __init__(self, name: str, python: str, module: str, threads: int) -> None:
        # Waiting threads of one contestant must not spin while another one is measured.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
        command = [python, str(Path(__file__).resolve()), module, name]
        self.name = name
        self.child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **case: Any) -> Answer:
        """What the child answers: {"seconds"}, {"peak_mib"}, ... or {"cannot": why}."""
        if self.child.stdin is None or self.child.stdout is None or self.child.poll() is not None:
            return {"cannot": "its process has ended"}
        self.child.stdin.write(json.dumps(case) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        return dict(json.loads(line)) if line else {"cannot": f"its process ended with {self.child.wait()}"}

    def close(self) -> None:
        """Ends the child."""
        if self.child.stdin is not None:
            self.child.stdin.close()
        self.child.wait()


def interleaved(contestants: Mapping[str, Contestant], case: Case, rounds: int) -> dict[str, Answer]:
    """Median seconds of each contestant in a case; they take turns, so that a busy moment meets all of them."""
    found: dict[str, Answer] = {name: one.ask(do="build", case=case) for name, one in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name, answer in found.items() if "cannot" not in answer}
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in seconds}
    for turn in range(rounds + 1):
        for name in list(seconds):
            answer = contestants[name].ask(do="run")
            if "cannot" in answer:
                found[name] = answer
                del seconds[name]
            elif turn:  # the first one warms up
                seconds[name].append(answer["seconds"])
                parts[name].append(answer["parts"])
    for one in contestants.values():
        one.ask(do="forget")
    for name, runs in seconds.items():
        found[name] = {"seconds": statistics.median(runs), "runs": runs}
        if parts[name][0]:
            keys = parts[name][0]
            found[name]["parts"] = {key: statistics.median(each[key] for each in parts[name]) for key in keys}
    return found


def peak_mib(name: str, python: str, module: str, threads: int, case: Case, warm_up: Case) -> Answer:
    """{"peak_mib": what one call needs above its inputs}, measured in a process that does nothing else.

    warm_up: a tiny case that is run before, so that the libraries' own buffers are not counted.
    """
    contestant = Contestant(name, python, module, threads)
    answer = contestant.ask(do="peak", case=case, warm_up=warm_up)
    contestant.close()
    return answer


def with_ratios(answers: dict[str, Answer], key: str, of: str = "segnl") -> dict[str, Any]:
    """{name: value or null} and, for every other contestant, its value over that of `of`."""
    values = {name: answer.get(key) for name, answer in answers.items()}
    own = values.get(of)
    ratios = {name: value / own for name, value in values.items() if name != of and value is not None and own}
    reasons = {name: answer["cannot"] for name, answer in answers.items() if "cannot" in answer}
    return {key: values, "ratio_to_segnl": ratios, **({"cannot": reasons} if reasons else {})}


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)


class _Child:
    """The side that is measured."""

    def __init__(self, module: str, contestant: str) -> None:
        self.build: Callable[[str, Case], Callable[[], object]] = importlib.import_module(module).build
        self.contestant = contestant
        self.call: Callable[[], object] | None = None

    def answer(self, do: str, case: Case | None = None, warm_up: Case | None = None) -> Answer:
        if do == "versions":
            import torch

            return {"python": sys.version.split()[0], "torch": torch.__version__, "threads": torch.get_num_threads()}
        if do == "build" and case is not None:
            self.call = self.build(self.contestant, case)
            return {}
        if do == "run" and self.call is not None:
            gc.collect()
            start = time.perf_counter()
            told = self.call()
            seconds = time.perf_counter() - start
            return {"seconds": seconds, "parts": told if isinstance(told, dict) else {}}
        if do == "peak" and case is not None and warm_up is not None:
            self.build(self.contestant, warm_up)()
            call = self.build(self.contestant, case)
            gc.collect()
            before = _restart_peak()
            call()
            return {"peak_mib": (_memory_kib("VmHWM") - before) / 1024}
        self.call = None
        gc.collect()
        return {}


def _restart_peak() -> int:
    """Sets the process's peak to what it holds now, and returns that in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_kib("VmRSS")


def _memory_kib(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise CannotRunError(f"no {key} in /proc/self/status: peak memory is measured on Linux only")


def _serve(module: str, contestant: str) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    _limit_memory()
    child = _Child(module, contestant)
    for line in sys.stdin:
        try:
            answer = child.answer(**json.loads(line))
        except Exception as err:  # whatever a peer raises is its result, not ours
            answer = {"cannot": f"{type(err).__name__}: {str(err).splitlines()[0] if str(err) else ''}"[:300]}
        print(json.dumps(answer), flush=True)


def _limit_memory() -> None:
    """Whoever asks for more than nine tenths of the memory gets an error instead of taking the machine down."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_DATA, (total * 9 // 10, total * 9 // 10))


if __name__ == "__main__":
    # `timing` as the cases import it, not a second copy named __main__: CannotRunError must be one class.
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    importlib.import_module("timing")._serve(*sys.argv[1:])
