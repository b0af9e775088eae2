"""Peak memory and latency of a network's module (the network, its head, its attention block), in a process of its own.

On the CPU the peak comes from the allocator's record (torch.profiler lists every allocation and release). Nothing is
sampled, so the same run gives the same number, and temporary buffers inside an operator count as well. Resident set
size would include the interpreter and fragmentation. Not included: scratch memory that a kernel library (oneDNN)
takes from the system without torch's allocator.
"""

import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segnl.core.child_process import child_command, child_environment
from segnl.core.config import JSONDict
from segnl.core.errors import ConfigError, MachineError
from segnl.core.precision import autocast
from segnl.models.blocks.criss_cross import CrissCrossBlock
from segnl.models.blocks.non_local import NonLocalBlock
from segnl.models.segmenter import Logits, Segmenter
from segnl.runs.build import build_model, device_of
from segnl.runs.recipe import compose

MIB = 2**20
LATENCY_S, MIN_PASSES, MAX_PASSES = 2.0, 3, 21

ModuleName = Literal["attention", "head", "model"]


class HeadAndClassifier(nn.Module):
    """Head, dropout and classifier of a network: stages to logits."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.head, self.dropout, self.classifier = model.head, model.dropout, model.classifier

    def forward(self, *stages: Tensor) -> Tensor:
        """Maps stages c2..c5, `b c h w` each, to logits `b k h w`."""
        logits: Tensor = self.classifier(self.dropout(self.head(stages).context))
        return logits


def select_module(model: Segmenter, name: ModuleName) -> nn.Module:
    """Returns the network without its auxiliary head, or its head with classifier, or its attention block, not copied.

    Raises ConfigError where the head has no non-local or criss-cross block.
    """
    if name == "model":
        # Shares the other modules: a deep copy of fake tensors (profiling/flops.py) reads memory that they do not have.
        predictor = copy.copy(model)
        predictor._modules = model._modules | {"auxiliary": None}
        return predictor
    if name == "head":
        return HeadAndClassifier(model)
    if model.num_frames > 1:
        raise ConfigError("--module attention: measures one frame; set data.frames to 1, or take --module head")
    for module in model.head.modules():
        if isinstance(module, CrissCrossBlock | NonLocalBlock):
            return module
    raise ConfigError(
        f"--module attention: {type(model.head).__name__} has no non-local or criss-cross block; take --module head"
    )


@torch.no_grad()
def inputs_of(model: Segmenter, module: nn.Module, name: ModuleName, hw: tuple[int, int]) -> list[Tensor]:
    """Returns the module's inputs when the network sees one image of `hw` pixels: the image, the stages, or a map."""
    image = torch.zeros(1, model.image_channels, *hw)
    if name == "model":
        return [image]
    stages = model.stages(image)
    if name == "head":
        return stages
    inputs: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        model.head(stages)
    finally:
        hook.remove()
    return inputs[:1]


@dataclass(frozen=True)
class ProfileJob:
    """A module of a recipe's network and the shapes of its inputs."""

    recipe: JSONDict
    num_classes: int
    module: ModuleName
    input_shapes: Sequence[Sequence[int]]
    latency_s: float = LATENCY_S
    """Time spent on timed passes, of which there are MIN_PASSES to MAX_PASSES."""


@dataclass(frozen=True)
class Profile:
    """Memory and latency of one module.

    saved_mib, peak_mib: of forward and backward of one image in training mode, in train.precision. saved_mib: what
    autograd stores for backward, each storage once, without parameters. peak_mib: above weights, their gradients and
    the input. latency_ms: median of `passes` forward passes in evaluation mode after one warm-up pass, in
    eval.precision; approximate, since other processes slow it down.
    """

    saved_mib: float
    peak_mib: float
    latency_ms: float
    passes: int
    device: str
    threads: int
    arithmetic: str


def profile(jobs: Sequence[ProfileJob]) -> list[Profile]:
    """Profiles the jobs in one new process.

    Raises MachineError with the last line of the process's standard error when it fails.
    """
    quiet = {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    process = subprocess.run(
        child_command("from segnl.profiling.peak_memory import main; main()"),
        input=json.dumps([asdict(job) for job in jobs]),
        capture_output=True,
        encoding="utf-8",
        env=child_environment() | quiet,
        check=False,
    )
    if process.returncode:
        lines = [line.strip() for line in process.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else "no message; killed because it ran out of memory?"
        raise MachineError(
            f"the {jobs[0].module} could not be measured (exit {process.returncode}: {reason}); try a smaller --input"
        )
    return [Profile(**mapping) for mapping in json.loads(process.stdout.splitlines()[-1])]


def main() -> None:
    """Runs the new process: reads jobs from standard input, writes profiles to the last line of standard output."""
    jobs = [ProfileJob(**mapping) for mapping in json.loads(sys.stdin.read())]
    print(json.dumps([asdict(measured) for measured in profile_here(jobs)]))


def profile_here(jobs: Sequence[ProfileJob]) -> list[Profile]:
    """Profiles the jobs in this process. Timed passes of several jobs alternate, so that a busy moment slows all."""
    modules = [_ProfiledModule(job) for job in jobs]
    for module in modules:
        module.time_once()
        module.times_ms.clear()
    while waiting := [module for module in modules if module.needs_time]:
        for module in waiting:
            module.time_once()
    return [module.profile() for module in modules]


class _ProfiledModule:
    """The module of a job with its inputs and the times of its forward passes."""

    def __init__(self, job: ProfileJob) -> None:
        self.job, self.recipe, self.device = job, compose(job.recipe, file="the recipe"), device_of()
        layout = torch.channels_last if self.recipe.train.channels_last else torch.contiguous_format
        model = build_model(self.recipe, job.num_classes, is_new=False).to(self.device).to(memory_format=layout)
        self.module = select_module(model, job.module).eval()
        shapes = job.input_shapes
        self.inputs = [torch.randn(shape, device=self.device).contiguous(memory_format=layout) for shape in shapes]
        self.times_ms: list[float] = []

    @property
    def needs_time(self) -> bool:
        """True until enough passes are timed."""
        num_passes, spent_s = len(self.times_ms), sum(self.times_ms) / 1000
        return num_passes < MIN_PASSES or (spent_s < self.job.latency_s and num_passes < MAX_PASSES)

    def time_once(self) -> None:
        """Times one forward pass."""
        with torch.inference_mode(), autocast(self.recipe.eval.precision, self.device):
            start = time.perf_counter()
            self.module(*self.inputs)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.times_ms.append(1000 * (time.perf_counter() - start))

    def profile(self) -> Profile:
        """Measures memory and returns it with the latency of the timed passes."""
        if self.job.module != "model":  # in the network, stages and maps need gradients, the image does not
            self.inputs = [values.requires_grad_() for values in self.inputs]
        saved, peak = self._saved_and_peak()
        for values in self.module.parameters():
            values.grad = None  # frees memory for the next job
        layout = "channels-last" if self.recipe.train.channels_last else "channels-first"
        return Profile(
            saved_mib=saved / MIB,
            peak_mib=peak / MIB,
            latency_ms=statistics.median(self.times_ms),
            passes=len(self.times_ms),
            device=self.device.type,
            threads=torch.get_num_threads(),
            arithmetic=f"{self.recipe.train.precision}, {layout}",
        )

    def _saved_and_peak(self) -> tuple[int, int]:
        """Returns bytes stored for backward, and the peak of both passes above weights, gradients and inputs."""
        module = self.module.train()
        for values in [*module.parameters(), *self.inputs]:
            if values.requires_grad:
                values.grad = torch.zeros_like(values)
        saved: dict[int, int] = {}
        persistent = {values.untyped_storage().data_ptr() for values in [*module.parameters(), *module.buffers()]}

        def pack(values: Tensor) -> Tensor:
            storage = values.untyped_storage()
            if storage.data_ptr() not in persistent:
                saved[storage.data_ptr()] = storage.nbytes()
            return values

        def step() -> None:
            hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values)
            with hooks, autocast(self.recipe.train.precision, self.device):
                out = module(*self.inputs)
            output: Tensor = out.main if isinstance(out, Logits) else out
            output.backward(torch.ones_like(output))

        peak = _peak_on_cuda(step) if self.device.type == "cuda" else _peak_on_cpu(step)
        return sum(saved.values()), peak


def _peak_on_cuda(step: Callable[[], None]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    baseline = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - baseline


def _peak_on_cpu(step: Callable[[], None]) -> int:
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as record:
        step()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        record.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    return peak_of([event for event in events if event.get("name") == "[memory]"])


def peak_of(events: list[dict[str, Any]]) -> int:
    """Returns the highest allocation in a profiler trace's memory events, in bytes above the level before the first."""
    levels = [event["args"] for event in sorted(events, key=lambda event: event["ts"])]
    if not levels:
        return 0
    baseline = levels[0]["Total Allocated"] - levels[0]["Bytes"]
    return int(max(level["Total Allocated"] for level in levels) - baseline)
