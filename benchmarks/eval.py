"""How fast evaluation counts, labels and slides, beside the ways that other tools go: one interleaved run, medians.

./run.sh bench eval [--rounds 5] [--hw 1024x2048] [--out FILE]

The peers' packages are not needed: what is timed is their method, written anew here. mmsegmentation 1.2 takes three
histograms of float maps, torchmetrics one bincount of int64 maps, cityscapesscripts the unique values of a joint map.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from eval_cases import labelling, noise, realistic
from timing import peak_mib, with_ratios, write_result

from segnl.core.environment import git_state, machine, versions
from segnl.datasets.loader import eval_samples
from segnl.datasets.streets_files import generate
from segnl.engine.build import build_data
from segnl.engine.evaluate import evaluate
from segnl.engine.infer import sliding
from segnl.engine.predictor import Predictor
from segnl.engine.recipe import load_recipe
from segnl.engine.upsampled_labels import upsampled_labels
from segnl.metrics.confusion import Confusion

Call = Callable[[], object]
ROOT = Path(__file__).resolve().parent.parent
NUM_IMAGES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hw", default="1024x2048")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "eval" / "eval.json")
    args = parser.parse_args()
    load_before = os.getloadavg()[0]
    height, width = (int(part) for part in args.hw.split("x"))
    torch.set_num_threads(args.threads)
    groups = {"counting 19 classes": counting(height, width)}
    for k in (19, 150):
        groups[f"upsampled labels, {k} classes, realistic"] = labelling(
            realistic(k, height // 8, width // 8), height, width
        )
        groups[f"upsampled labels, {k} classes, noise"] = labelling(noise(k, height // 8, width // 8), height, width)
    groups["sliding, 19 classes"] = accumulating(19, height, width)
    with tempfile.TemporaryDirectory() as folder:
        groups[f"end to end, {NUM_IMAGES} images, network replaced"] = end_to_end(height, width, Path(folder))
        result = {name: report(name, medians(calls, args.rounds)) for name, calls in groups.items()}
    memory = {f"upsampled labels, {k} classes": peaks(k, height, width, args.threads) for k in (19, 150)}
    setting = {"hw": [height, width], "rounds": args.rounds, "threads": args.threads}
    state = {**git_state(ROOT), "versions": versions(), "machine": machine(), "load_before": load_before}
    write_result(args.out, {**setting, **state, "seconds": result, "memory": memory, "complete": True})


def medians(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Median seconds of each call; the rounds go in turn, so that a busy moment meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
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

    def unique_of_joint() -> object:
        return np.unique(label.astype(np.int32) * 256 + pred, return_counts=True)

    return {
        "segnl": lambda: confusion.update(pred, label),
        "numpy: masked bincount": numpy_masked,
        "three histograms (mmsegmentation)": three_histograms,
        "int64 bincount (torchmetrics)": int64_bincount,
        "unique of the joint map (cityscapesscripts)": unique_of_joint,
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


class FixedMap:
    """Stands where the network would: one map of logits, whatever the image."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def labels(self, image: npt.NDArray[np.uint8]) -> torch.Tensor:
        """image: u8 `H W 3`. Returns train ids u8 `H W`."""
        return upsampled_labels(self.logits, image.shape[:2], align_corners=False)[0]


def end_to_end(height: int, width: int, folder: Path) -> dict[str, Call]:
    """A whole evaluation of streets whose network costs nothing, beside reading the same files alone."""
    generate(folder, num_train=1, num_val=NUM_IMAGES, hw=(height, width))
    settings = [f"data.root={folder}", "data.workers=2"]
    recipe = load_recipe(ROOT / "configs" / "streets" / "fcn.yaml", settings)
    data = build_data(recipe, "val")
    network = cast(Predictor, FixedMap(realistic(19, height // 8, width // 8)))

    def decoding_alone() -> object:
        return [index for index, _ in eval_samples(data, workers=2)]

    return {"segnl": lambda: evaluate(network, data, recipe=recipe), "decoding alone": decoding_alone}


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
        return sliding(predict, image, window, stride, (height, width), align_corners=False).argmax()

    return {"segnl": ours, "pad and add, then argmax": pad_and_add}


if __name__ == "__main__":
    main()
