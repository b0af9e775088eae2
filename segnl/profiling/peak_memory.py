"""Bytes and time of a part of a network, measured in a process of its own, whose memory nothing else uses.

On the CPU the peak is read from the allocator's own record (torch.profiler writes every allocation and release down),
so nothing is sampled, the same run gives the same number, and what an operator takes for itself on the way counts too;
it would not if tensors were counted. A resident set size would hold the interpreter, fragments and the machine's mood.
Not seen: scratch that a kernel's library (oneDNN) takes from the system past torch's allocator.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segnl.core.config import JSONDict
from segnl.core.errors import MachineError
from segnl.core.precision import autocast
from segnl.models.segmenter import Logits
from segnl.profiling.modules import Part, part_of
from segnl.runs.build import build_model, device_of
from segnl.runs.recipe import Recipe, compose

MIB = 2**20
LATENCY_S, MIN_PASSES, MAX_PASSES = 2.0, 3, 21


@dataclass(frozen=True)
class Job:
    """What to measure: a part of a recipe's network on inputs of these shapes."""

    recipe: JSONDict
    num_classes: int
    part: Part
    shapes: tuple[tuple[int, ...], ...]
    latency_s: float = LATENCY_S
    """How long passes are timed, if that makes MIN_PASSES of them."""


@dataclass(frozen=True)
class Footprint:
    """saved_mib, peak_mib: of one image's forward and backward in training mode, in train.precision.

    saved_mib: what autograd keeps, each storage once, parameters apart. peak_mib: above the resting level, which is
    weights, their gradients and the input. latency_ms: median of `passes` forward passes in evaluation mode after one
    that is not counted, in eval.precision; rough, since whatever else the machine does is in it. Of several jobs the
    passes take turns, so that it is in all of them alike.
    """

    saved_mib: float
    peak_mib: float
    latency_ms: float
    passes: int
    device: str
    threads: int
    arithmetic: str

    @property
    def how(self) -> str:
        """How the time was taken, in words."""
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.device == "cpu" else ""
        return f"median of {self.passes} passes on {self.device}{threads}"


def measure(job: Job) -> Footprint:
    """Runs the job in a fresh process. Raises MachineError with its last words when it fails."""
    return measure_all([job])[0]


def measure_all(jobs: Sequence[Job]) -> list[Footprint]:
    """Runs the jobs in one fresh process. Raises MachineError with its last words when it fails."""
    quiet = {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    # The child finds what the parent found: a user's own head may lie beside the recipe.
    path = os.pathsep.join(each for each in sys.path if each)
    done = subprocess.run(
        [sys.executable, "-c", "from segnl.profiling.peak_memory import child; child()"],
        input=json.dumps([asdict(job) for job in jobs]),
        capture_output=True,
        text=True,
        env=os.environ | quiet | {"PYTHONPATH": path},
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        why = said[-1].strip() if said else "no word; killed for want of memory?"
        raise MachineError(
            f"the {jobs[0].part} could not be measured (exit {done.returncode}: {why}); try a smaller --input"
        )
    return [Footprint(**mapping) for mapping in json.loads(done.stdout.splitlines()[-1])]


def child() -> None:
    """The process's whole work: jobs on standard input, their footprints on the last line of standard output."""
    jobs = [
        Job(**mapping | {"shapes": tuple(tuple(shape) for shape in mapping["shapes"])})
        for mapping in json.loads(sys.stdin.read())
    ]
    print(json.dumps([asdict(found) for found in footprints(jobs)]))


def footprint(job: Job) -> Footprint:
    """Measures in this process; `measure` is what callers want."""
    return footprints([job])[0]


def footprints(jobs: Sequence[Job]) -> list[Footprint]:
    """Measures in this process; `measure_all` is what callers want."""
    parts = [_Part(job) for job in jobs]
    for part in parts:
        part.time_once()
        part.times.clear()
    while any(part.wants_time for part in parts):
        for part in parts:
            if part.wants_time:
                part.time_once()
    return [part.found() for part in parts]


class _Part:
    """What a job names, built, with its inputs and the times of its passes in milliseconds."""

    def __init__(self, job: Job) -> None:
        self.job, self.recipe, self.device = job, compose(job.recipe, file="the recipe"), device_of()
        layout = torch.channels_last if self.recipe.train.channels_last else torch.contiguous_format
        model = build_model(self.recipe, job.num_classes, is_new=False).to(self.device).to(memory_format=layout)
        self.module = part_of(model, job.part).eval()
        shapes = job.shapes
        self.inputs = [torch.randn(shape, device=self.device).contiguous(memory_format=layout) for shape in shapes]
        self.times: list[float] = []

    @property
    def arguments(self) -> list[Any]:
        """What the module is called with: a head takes its stages as one list."""
        return [self.inputs] if self.job.part == "head" else list(self.inputs)

    @property
    def wants_time(self) -> bool:
        """Whether more passes are to be timed."""
        few, spent = len(self.times) < MIN_PASSES, sum(self.times) / 1000
        return few or (spent < self.job.latency_s and len(self.times) < MAX_PASSES)

    def time_once(self) -> None:
        """One forward pass."""
        with torch.inference_mode(), autocast(self.recipe.eval.precision, self.device):
            began = time.perf_counter()
            self.module(*self.arguments)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.times.append(1000 * (time.perf_counter() - began))

    def found(self) -> Footprint:
        """The part's numbers, once its passes are timed."""
        if self.job.part != "model":  # stages and maps come from layers that learn, an image does not
            self.inputs = [each.requires_grad_() for each in self.inputs]
        saved, peak = _saved_and_peak(self.module.train(), self.arguments, self.inputs, self.recipe, self.device)
        for values in self.module.parameters():
            values.grad = None  # of several jobs the next one may need the room
        is_last = self.recipe.train.channels_last
        return Footprint(
            saved_mib=saved / MIB,
            peak_mib=peak / MIB,
            latency_ms=statistics.median(self.times),
            passes=len(self.times),
            device=self.device.type,
            threads=torch.get_num_threads(),
            arithmetic=f"{self.recipe.train.precision}, {'channels-last' if is_last else 'channels-first'}",
        )


def _saved_and_peak(
    module: nn.Module, arguments: list[Any], inputs: list[Tensor], recipe: Recipe, device: torch.device
) -> tuple[int, int]:
    """Bytes kept for backward, and the peak of forward and backward above the resting level."""
    for values in [*module.parameters(), *inputs]:
        if values.requires_grad:
            values.grad = torch.zeros_like(values)
    saved: dict[int, int] = {}
    standing = {values.untyped_storage().data_ptr() for values in [*module.parameters(), *module.buffers()]}

    def pack(values: Tensor) -> Tensor:
        storage = values.untyped_storage()
        if storage.data_ptr() not in standing:
            saved[storage.data_ptr()] = storage.nbytes()
        return values

    def step() -> None:
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values),
            autocast(recipe.train.precision, device),
        ):
            out = module(*arguments)
        main: Tensor = out.main if isinstance(out, Logits) else out
        main.backward(torch.ones_like(main))

    peak = _peak_on_cuda(step) if device.type == "cuda" else _peak_on_cpu(step)
    return sum(saved.values()), peak


def _peak_on_cuda(step: Callable[[], None]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    resting = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - resting


def _peak_on_cpu(step: Callable[[], None]) -> int:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        record.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    return peak_of([event for event in events if event.get("name") == "[memory]"])


def peak_of(events: list[dict[str, Any]]) -> int:
    """The highest level among a trace's allocations and releases, above the level before the first of them."""
    levels = [event["args"] for event in sorted(events, key=lambda event: event["ts"])]
    if not levels:
        return 0
    resting = levels[0]["Total Allocated"] - levels[0]["Bytes"]
    return int(max(level["Total Allocated"] for level in levels) - resting)
