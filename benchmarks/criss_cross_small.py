"""Time of criss-cross attention on small maps, images computed in groups and one by one.

./run.sh bench criss_cross_small [--rounds 15] [--numbers 131072] [--out FILE]

Forward and backward of a batch of 32 images. Both sides run in one process on one thread and take turns, and change the
order every round; the ratio is taken round by round, of processor time, which other programs disturb less. Whether
outputs and gradients are equal to the bit is recorded too.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from timing import write_result

from segnl.core.environment import git_state, machine, versions
from segnl.ops.kernels import criss_cross

ROOT = Path(__file__).resolve().parent.parent
BATCH = 32
MAPS = [
    (7, 11, 16, 32),
    (9, 9, 16, 32),
    (12, 12, 16, 32),
    (16, 16, 16, 32),
    (20, 20, 16, 32),
    (24, 24, 16, 64),
    (32, 64, 32, 64),
]
"""Rows, columns, channels of query and key, channels of values."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--numbers", type=int, default=criss_cross.GROUP_NUMBERS, help="largest group")
    default = ROOT / "benchmarks" / "results" / "criss_cross_small" / "cpu.json"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    load_before, results = os.getloadavg()[0], []
    for case in MAPS:
        results.append(measure(case, args.rounds, args.numbers))
        print(results[-1], flush=True)
    state = {**git_state(ROOT), "versions": versions(), "machine": machine(), "load_before": load_before}
    setting = {"rounds": args.rounds, "group_numbers": args.numbers, "batch": BATCH, "threads": 1}
    write_result(args.out, {**setting, **state, "results": results, "complete": True})


def measure(case: tuple[int, int, int, int], rounds: int, numbers: int) -> dict[str, Any]:
    """Returns median milliseconds of both sides and the ratio groups / single of each round, median and quartiles."""
    h, w, c, d = case
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(BATCH, h, w, 2 * c + d, generator=generator).split([c, c, d], dim=-1)
    grad = torch.randn(BATCH, h, w, d, generator=generator)

    def run(group_numbers: int) -> tuple[float, list[torch.Tensor]]:
        criss_cross.GROUP_NUMBERS = group_numbers
        began = time.process_time()
        out, weights = criss_cross.criss_cross(q, k, v)
        grads = criss_cross.criss_cross_backward(q, k, v, weights, grad)
        return time.process_time() - began, [out, *grads]

    sides = {"groups": numbers, "single": 1}
    times: dict[str, list[float]] = {side: [] for side in sides}
    outputs = {side: run(size)[1] for side, size in sides.items()}  # warms up
    for turn in range(rounds):
        for side in sides if turn % 2 else reversed(sides):
            times[side].append(run(sides[side])[0])
    low, median, high = statistics.quantiles(
        [a / b for a, b in zip(times["groups"], times["single"], strict=True)], n=4
    )
    is_equal = all(torch.equal(a, b) for a, b in zip(outputs["groups"], outputs["single"], strict=True))
    return {
        "hw": [h, w],
        "channels": [c, d],
        "milliseconds": {side: 1e3 * statistics.median(values) for side, values in times.items()},
        "groups_over_single": {"median": median, "low": low, "high": high},
        "is_equal": is_equal,
    }


if __name__ == "__main__":
    main()
