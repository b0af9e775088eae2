"""Tests and timings for one CUDA device, in about ten minutes: `pytest -m gpu`, operators, losses, training steps.

./run.sh bench gpu [--out FILE] [--skip-tests]          or, with any environment: PYTHONPATH=. python benchmarks/gpu.py

Operators and blocks at 97x97 beside torch's plain forms, in float32 and bfloat16; the pixel loss and the labels of
upsampled logits; a training step of each head at 769x769, batch 2, with a ResNet-50. Seconds are the median of several
runs, peak memory is what the device allocates above the inputs. The result file is written after every case.
`--device cpu --tiny` runs the same code at toy sizes, to check it where there is no device: no numbers to keep.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import loss_cases  # noqa: E402  the paths come first
import ops_cases  # noqa: E402
from timing import write_result  # noqa: E402

from segnl.core.environment import git_state, machine, versions  # noqa: E402
from segnl.data.sample import Batch  # noqa: E402
from segnl.models.find import HEADS  # noqa: E402
from segnl.ops.upsampled_labels import upsampled_labels  # noqa: E402
from segnl.runs.build import build_model  # noqa: E402
from segnl.runs.recipe import compose  # noqa: E402
from segnl.training.trainer import Trainer  # noqa: E402

KINDS = ("embedded_gaussian", "dot_product", "concatenation", "criss_cross")
CLASSES = 19
NO_DEVICE = 6  # segnl's exit code for the machine

Case = dict[str, Any]


def main() -> int:
    args = arguments()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("bench gpu: no CUDA device on this machine; run it where there is one", file=sys.stderr)
        return NO_DEVICE
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    out = args.out or ROOT / "benchmarks" / "results" / "gpu" / f"{name.replace(' ', '_')}.json"
    result: dict[str, Any] = {**git_state(ROOT), "versions": versions(), "machine": machine(), "device": name}
    result |= {"cuda": torch.version.cuda, "is_tiny": args.tiny, "tests": None, "cases": [], "complete": False}
    if not args.skip_tests:
        result["tests"] = run_tests(args.device)
    began = time.perf_counter()
    for case in cases(is_tiny=args.tiny):
        measured = measure(case, device, rounds=1 if args.tiny else args.rounds)
        result["cases"].append({**case, **measured})
        print({**case, **measured}, flush=True)
        write_result(out, result)
    result |= {"seconds": time.perf_counter() - began, "complete": True}
    write_result(out, result)
    print(f"bench gpu: {out}")
    return 0 if result["tests"] is None else int(result["tests"]["exit_code"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, one round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def run_tests(device: str) -> dict[str, Any]:
    """Runs `pytest -m gpu` and returns its exit code and its summary line."""
    command = ["timeout", "300", sys.executable, "-m", "pytest", "-q", "-m", "gpu"]
    command += ["tests/test_gpu.py", "tests/metrics"]
    environment = {**os.environ, "SEGNL_GPU_TESTS_ON": device}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout[-4000:], done.stderr[-2000:], flush=True)
    return {"exit_code": done.returncode, "summary": (done.stdout.strip() or "no output").splitlines()[-1]}


def cases(*, is_tiny: bool) -> list[Case]:
    hw, image_hw, depth = ([9, 9], [33, 41], 18) if is_tiny else ([97, 97], [769, 769], 50)
    contestants = [(who, dtype) for who in ("segnl", "plain") for dtype in ("float32", "bfloat16")]
    found: list[Case] = [
        {"what": level, "kind": kind, "hw": hw, "mode": mode, "contestant": who, "dtype": dtype}
        for level in ("op", "block")
        for kind in KINDS
        for mode in ("forward", "forward_backward")
        for who, dtype in contestants
    ]
    found += [
        {"what": what, "kind": kind, "hw": hw, "image_hw": image_hw, "contestant": who, "dtype": dtype}
        for what, kind in (("loss", "cross_entropy"), ("loss", "ohem"), ("labels", "argmax"))
        for who, dtype in contestants
    ]
    return found + [
        {"what": "train_step", "kind": head, "image_hw": image_hw, "depth": depth, "precision": precision}
        for head in HEADS.names()
        for precision in ("float32", "bf16")
    ]


def measure(case: Case, device: torch.device, *, rounds: int) -> dict[str, Any]:
    """Returns {"seconds", "runs", "peak_mib" (null on the CPU)} of a case, or {"cannot": the error}."""
    try:
        call = build(case, device)
        call()  # warms up: the libraries choose their kernels
        synchronise(device)
        before = restart_peak(device)
        call()
        peak_mib = None if before is None else (torch.cuda.max_memory_allocated(device) - before) / 2**20
        runs = []
        for _ in range(rounds):
            synchronise(device)
            began = time.perf_counter()
            call()
            synchronise(device)
            runs.append(time.perf_counter() - began)
        return {"seconds": statistics.median(runs), "runs": runs, "peak_mib": peak_mib}
    except Exception as err:  # one case that fails must not cost the others of a machine that is lent for minutes
        return {"cannot": f"{type(err).__name__}: {(str(err).strip() or 'no message').splitlines()[0]}"}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def restart_peak(device: torch.device) -> int | None:
    """Sets the device's peak to what is allocated now, and returns that in bytes."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def build(case: Case, device: torch.device) -> Callable[[], object]:
    if case["what"] == "train_step":
        return train_step(case, device)
    # The cases of the CPU's benchmarks, whose tensors are created on the device by default and cast by autocast.
    with torch.device(device):
        if case["what"] == "labels":
            call = labels_of(case)
        elif case["what"] == "loss":
            sizes = {"batch": 2, "classes": CLASSES, "in_hw": case["hw"], "out_hw": case["image_hw"]}
            call = loss_cases.build(
                case["contestant"], {"loss": case["kind"], "align_corners": False, "dtype": case["dtype"], **sizes}
            )
        else:
            call = ops_cases.build(case["contestant"], {**case, "level": case["what"]})
    is_half = case["dtype"] == "bfloat16"

    def under_autocast() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
            call()

    return under_autocast


def labels_of(case: Case) -> Callable[[], object]:
    logits = torch.randn(2, CLASSES, *case["hw"], dtype=getattr(torch, case["dtype"]))
    if case["contestant"] == "segnl":
        return lambda: upsampled_labels(logits, case["image_hw"], align_corners=False)
    return lambda: F.interpolate(logits, case["image_hw"], mode="bilinear").argmax(dim=1)


def train_step(case: Case, device: torch.device) -> Callable[[], object]:
    """Returns a whole step on random images, batch 2: copy to the device, forward, loss, backward, SGD."""
    backbone = {"name": "resnet", "depth": case["depth"], "output_stride": 8}
    half = {"precision": case["precision"], "channels_last": case["precision"] != "float32"}
    mapping = {
        "model": {"backbone": backbone, "head": {"name": case["kind"]}, "aux": {"channels": 256}},
        "data": {"name": "cityscapes", "root": "none", "crop_hw": case["image_hw"]},
        "train": {"max_steps": 1000, "batch_size": 2, **half},
        "optim": {"name": "sgd", "lr": 0.01},
        "schedule": {"name": "poly"},
        "loss": {"name": "cross_entropy"},
    }
    recipe = compose(mapping, file="benchmarks/gpu.py")
    trainer = Trainer(recipe, build_model(recipe, CLASSES, is_new=True), device)
    image = torch.randint(0, 256, (2, 3, *case["image_hw"]), dtype=torch.uint8)
    label = torch.randint(0, CLASSES, (2, *case["image_hw"]), dtype=torch.uint8)
    label[:, : case["image_hw"][0] // 10] = 255
    batch = Batch(image, label, ["random"] * 2)
    return lambda: trainer.step(batch)


if __name__ == "__main__":
    sys.exit(main())
