"""How fast evaluation counts, labels and slides, beside the ways that other tools go: one interleaved run, medians.

./run.sh bench eval [--rounds 5] [--hw 1024x2048] [--out FILE]

cityscapesscripts runs itself. Of the other peers the method is timed, written anew here, and their packages are not
needed: mmsegmentation 1.2 takes three histograms of float maps, torchmetrics one bincount of int64 maps.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from eval_cases import labelling, noise, realistic
from eval_files import end_to_end, official_evaluator, streets
from timing import peak_mib, with_ratios, write_result

from segnl.core.environment import git_state, machine, versions
from segnl.evaluation.inference import slide_inference
from segnl.metrics.confusion import Confusion

Call = Callable[[], object]
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hw", default="1024x2048")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "eval" / "eval.json")
    args = parser.parse_args()
    load_before = os.getloadavg()[0]
    height, width = (int(part) for part in args.hw.split("x"))
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    groups = {"counting 19 classes": counting(height, width)}
    for k in (19, 150):
        groups[f"upsampled labels, {k} classes, realistic"] = labelling(
            realistic(k, height // 8, width // 8), height, width
        )
        groups[f"upsampled labels, {k} classes, noise"] = labelling(noise(k, height // 8, width // 8), height, width)
    groups["sliding, 19 classes"] = accumulating(19, height, width)
    with tempfile.TemporaryDirectory() as folder:
        streets(Path(folder), height, width)
        groups |= official_evaluator(Path(folder))
        result = {name: report(name, medians(calls, args.rounds)) for name, calls in groups.items()}
        whole = end_to_end(Path(folder), height, width, args.rounds)
    print(f"end to end: {whole}", flush=True)
    memory = {f"upsampled labels, {k} classes": peaks(k, height, width, args.threads) for k in (19, 150)}
    memory |= {
        f"sliding at {len(scales)} scales and flipped, 150 classes": sliding_peak(scales, height, width, args.threads)
        for scales in ((1.0,), (0.5, 1.0, 1.75))
    }
    setting = {"hw": [height, width], "rounds": args.rounds, "threads": args.threads, "clock": "process time"}
    state = {**git_state(ROOT), "versions": versions(), "machine": machine(), "load_before": load_before}
    found = {"seconds": result, "end_to_end": whole, "memory": memory}
    write_result(args.out, {**setting, **state, **found, "complete": True})


def medians(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Median processor seconds of each call, all threads together; the rounds go in turn, so that a busy moment meets
    all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(group: str, seconds: dict[str, float]) -> dict[str, float]:
    print(group)
    for name, value in seconds.items():
        print(f"  {name:<44} {1000 * value:9.1f} ms {value / seconds['segnl']:6.1f} x segnl")
    return seconds


def counting(height: int, width: int) -> dict[str, Call]:
    """A label of 16-pixel blocks with a void border, and the same label moved by five columns as the prediction."""
    blocks = np.random.default_rng(0).integers(0, 19, (height // 16, width // 16), dtype=np.uint8)
    pred = np.kron(blocks, np.ones((16, 16), np.uint8))
    label = np.roll(pred, 5, axis=1)
    label[: height // 10] = 255
    confusion = Confusion(19)

    def numpy_masked() -> object:
        keep = label != 255
        return np.bincount(label[keep].astype(np.int64) * 20 + pred[keep], minlength=400)

    def three_histograms() -> object:
        a, b = torch.from_numpy(pred), torch.from_numpy(label)
        keep = b != 255
        a, b = a[keep], b[keep]
        return [torch.histc(part.float(), bins=19, min=0, max=18) for part in (a[a == b], a, b)]

    def int64_bincount() -> object:
        a, b = torch.from_numpy(pred).long().flatten(), torch.from_numpy(label).long().flatten()
        keep = b != 255
        return torch.bincount(b[keep] * 19 + a[keep], minlength=361)

    return {
        "segnl": lambda: confusion.update(pred, label),
        "numpy: masked bincount": numpy_masked,
        "three histograms (mmsegmentation)": three_histograms,
        "int64 bincount (torchmetrics)": int64_bincount,
    }


def peaks(k: int, height: int, width: int, threads: int) -> dict[str, Any]:
    """Peak memory above the logits of labelling realistic ones, each way in a process of its own."""
    case = {"classes": k, "hw": [height, width], "logits": "realistic"}
    tiny = {**case, "hw": [64, 128]}
    names = ("segnl", "interpolate + argmax")
    found = {name: peak_mib(name, sys.executable, "eval_cases", threads, case, tiny) for name in names}
    result = with_ratios(found, "peak_mib")
    print(f"peak memory, {k} classes: {result}", flush=True)
    return result


def sliding_peak(scales: tuple[float, ...], height: int, width: int, threads: int) -> dict[str, Any]:
    """Peak memory above the image of sliding with windows of 512 and a stride of 341, also on the flipped image."""
    case = {"classes": 150, "hw": [height, width], "scales": scales}
    tiny = {**case, "hw": [64, 128]}
    result = with_ratios({"segnl": peak_mib("segnl", sys.executable, "eval_cases", threads, case, tiny)}, "peak_mib")
    print(f"peak memory of sliding, {scales}: {result}", flush=True)
    return result


def accumulating(k: int, height: int, width: int) -> dict[str, Call]:
    """Windows of three quarters of the height at two thirds of that stride; a network that only pools."""
    side = height * 3 // 4
    window, stride = (side, side), (side * 2 // 3, side * 2 // 3)
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(k, 3, 1, 1, generator=torch.Generator().manual_seed(1))

    def predict(crop: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.avg_pool2d(crop, 8, ceil_mode=True), weight)

    def pad_and_add() -> object:
        total, times = torch.zeros(1, k, height, width), torch.zeros(1, 1, height, width)
        for y in [*range(0, height - side, stride[0]), height - side]:
            for x in [*range(0, width - side, stride[1]), width - side]:
                scores = F.interpolate(predict(image[:, :, y : y + side, x : x + side]), size=window, mode="bilinear")
                total = total + F.pad(scores, (x, width - x - side, y, height - y - side))
                times[:, :, y : y + side, x : x + side] += 1
        return (total / times).argmax(1)

    def ours() -> object:
        return slide_inference(predict, image, window, stride, (height, width), align_corners=False).argmax()

    return {"segnl": ours, "pad and add, then argmax": pad_and_add}


if __name__ == "__main__":
    main()
