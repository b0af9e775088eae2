"""The banded pixel losses beside upsampling everything: seconds, peak memory and error, one interleaved run.

./run.sh bench loss [--rounds 7] [--out FILE]

Value and gradient of upsampled logits: 150 classes, 64x64 -> 512x512, batch 2 (ADE20K), and 19 classes, 97x97 ->
769x769 (Cityscapes), float32. `plain` is F.interpolate and F.cross_entropy; `bands` is the form of the banded loss that
GPUs run, which the CPU's tiles have to beat. Every contestant is a process of its own; they take turns. Memory is the
peak above logits and label. Errors are against `plain` in float64, relative to the largest gradient.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from loss_cases import VALUES
from timing import Case, Contestant, interleaved, peak_mib, with_ratios, write_result

from segnl.core.environment import git_state, machine, versions

ROOT = Path(__file__).resolve().parent.parent
ADE: Case = {"batch": 2, "classes": 150, "in_hw": [64, 64], "out_hw": [512, 512], "align_corners": False}
CITY: Case = {"batch": 1, "classes": 19, "in_hw": [97, 97], "out_hw": [769, 769], "align_corners": True}
CASES: list[Case] = [
    {"loss": loss, "dtype": "float32", **shape} for loss in ("cross_entropy", "ohem") for shape in (ADE, CITY)
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ops" / "loss.json")
    args = parser.parse_args()
    contestants = {name: Contestant(name, sys.executable, "loss_cases", args.threads) for name in VALUES}
    load_before, results = os.getloadavg()[0], []
    for case in CASES:
        seconds = with_ratios(interleaved(contestants, case, args.rounds), "seconds")
        tiny = {**case, "in_hw": [8, 8], "out_hw": [20, 20]}
        peaks = {name: peak_mib(name, sys.executable, "loss_cases", args.threads, case, tiny) for name in VALUES}
        errors = gradient_errors(case)
        results.append({**case, **seconds, "memory": with_ratios(peaks, "peak_mib"), "gradient_error": errors})
        report(results[-1])
    for contestant in contestants.values():
        contestant.close()
    state = {**git_state(ROOT), "versions": versions(), "machine": machine(), "load_before": load_before}
    setting = {"rounds": args.rounds, "threads": args.threads}
    write_result(args.out, {**setting, **state, "results": results, "complete": True})


def gradient_errors(case: Case) -> dict[str, float]:
    """Each contestant's largest error of the gradient over the largest gradient, at a quarter of the label's size."""
    small = {**case, "in_hw": [x // 4 for x in case["in_hw"]], "out_hw": [x // 4 for x in case["out_hw"]]}
    torch.manual_seed(0)
    logits = torch.randn(small["batch"], small["classes"], *small["in_hw"])
    label = torch.randint(0, small["classes"], (small["batch"], *small["out_hw"]))

    def gradient(value: Any, dtype: torch.dtype) -> torch.Tensor:
        leaf = logits.to(dtype).requires_grad_()
        (grad,) = torch.autograd.grad(value(small, leaf, label), leaf)
        return grad.double()

    exact = gradient(VALUES["plain"], torch.float64)
    return {n: float((gradient(v, torch.float32) - exact).abs().max() / exact.abs().max()) for n, v in VALUES.items()}


def report(result: dict[str, Any]) -> None:
    (h, w), (rows, columns) = result["in_hw"], result["out_hw"]
    print(f"{result['loss']}, {result['classes']} classes, {h}x{w} -> {rows}x{columns}, batch {result['batch']}")
    for name, value in result["seconds"].items():
        peak, error = result["memory"]["peak_mib"][name], result["gradient_error"][name]
        print(f"  {name:<6} {1000 * value:9.1f} ms {peak:9.1f} MiB  gradient error {error:.1e}", flush=True)
    for name, ratio in result["ratio_to_segnl"].items():
        memory = result["memory"]["ratio_to_segnl"][name]
        print(f"  {name} / segnl: {ratio:.2f} x the time, {memory:.1f} x the memory", flush=True)


if __name__ == "__main__":
    main()
