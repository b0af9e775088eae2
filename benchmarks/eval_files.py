"""What the benchmark of evaluation does on files: Cityscapes' own evaluator, and a whole evaluation; see eval.py.

The images are streets at full size. Their noise makes them as hard to decode as photographs: about 3 MB and 60 ms of
one core each, where a frame of Cityscapes has 2.2 MB.
"""

import contextlib
import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import cv2
import numpy as np
import torch
from eval_cases import realistic
from PIL import Image
from torch import Tensor, nn

from segnl.core.arrays import Ids
from segnl.core.config import JSONDict
from segnl.data.base import SegmentationData
from segnl.data.loader import eval_samples
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.predictor import Predictor
from segnl.labels.cityscapes import SCORED
from segnl.metrics import cityscapes_official as official
from segnl.metrics.confusion import Confusion
from segnl.models.input import InputConfig, Normalise
from segnl.models.segmenter import Segmenter
from segnl.runs.build import build_data
from segnl.runs.recipe import Recipe, load_recipe
from segnl.streets.files import generate

Call = Callable[[], object]
ROOT = Path(__file__).resolve().parent.parent
NUM_IMAGES = 16
NUM_CLASSES = 19
MANY_THINGS = 40


def streets(folder: Path, height: int, width: int) -> SegmentationData:
    """NUM_IMAGES validation streets of that size, made where they are missing."""
    generate(folder, num_train=1, num_val=NUM_IMAGES, hw=(height, width))
    return build_data(_recipe(folder, 0), "val")


def _recipe(folder: Path, workers: int) -> Recipe:
    return load_recipe(ROOT / "configs" / "streets" / "fcn.yaml", [f"data.root={folder}", f"data.workers={workers}"])


def official_evaluator(folder: Path) -> dict[str, dict[str, Call]]:
    """cityscapesscripts' evaluatePair itself, with the arguments its command line sets, beside our count of the same.

    One street, predicted as itself moved by three pixels; as it is, and with things drawn upon it until there are
    MANY_THINGS, as in the reference image of Cityscapes. From the three PNG files to all counts; the same from arrays
    (evaluatePair's Image.open then hands over what has been decoded before); and pixels alone, without instances.

    Raises MachineError when the two counts differ.
    """
    street = _frame(folder / "street", *_street(folder))
    groups = _contestants(street) | _contestants(_frame(folder / "crowded", *_crowded(*_street(folder))))
    arrays = _decoded(street)
    ids, truth, _ = arrays.values()
    groups["Cityscapes' counts of pixels alone, from arrays"] = {
        "segnl": lambda: Confusion(official.NUM_IDS).counts(ids, truth),
        "cityscapesscripts": partial(_evaluate_pair, street, opened=arrays, with_instances=False),
    }
    return groups


def _street(folder: Path) -> tuple[Ids, Ids]:
    """LabelIds and instance ids of the first street."""
    label = min((folder / "gtFine" / "val").glob("*/*_gtFine_labelIds.png"))
    instances = label.with_name(label.name.replace("labelIds", "instanceIds"))
    return np.array(Image.open(label)), np.array(Image.open(instances))


def _crowded(label: Ids, instances: Ids) -> tuple[Ids, Ids]:
    """The same with ellipses of the mean size of persons, riders, cars and bicycles, until MANY_THINGS are seen."""
    random = np.random.default_rng(0)
    height, width = label.shape
    label, drawn = label.copy(), instances.astype(np.int32)
    while (seen := len(np.unique(drawn[drawn > 1000]))) < MANY_THINGS:
        name = random.choice(["person", "rider", "car", "bicycle"])
        number = 100 + seen  # beyond the numbers that streets gives
        (label_id,) = (scored.id for scored in SCORED if scored.name == name)
        axis = max(1, round(np.sqrt(official.AVERAGE_INSTANCE_PX[name] / np.pi)))
        centre = int(random.integers(width)), int(random.integers(height // 3, height))
        for ids, value in ((label, label_id), (drawn, 1000 * label_id + number)):
            cv2.ellipse(ids, centre, (axis, axis), 0, 0, 360, value, -1)
    return label, drawn.astype(instances.dtype)


def _frame(folder: Path, label: Ids, instances: Ids) -> official.Frame:
    """The files of a street, and of a prediction that is it moved by a few pixels."""
    folder.mkdir()
    frame = official.Frame(*(folder / f"{name}.png" for name in ("prediction", "label_labelIds", "label_instanceIds")))
    for path, values in zip(frame, (np.roll(label, (2, 3), axis=(0, 1)), label, instances), strict=True):
        Image.fromarray(values).save(path)
    official.check_agreement(official.count_frames([frame]), official.run_cityscapesscripts([frame]))
    return frame


def _decoded(frame: official.Frame) -> dict[str, Any]:
    return {str(path): np.array(Image.open(path)) for path in frame}


def _contestants(frame: official.Frame) -> dict[str, dict[str, Call]]:
    arrays = _decoded(frame)
    ids, truth, instances = arrays.values()
    number = len(np.unique(instances[instances > 1000]))

    def count_arrays() -> object:
        return official.CityscapesCounts().update(ids, truth, instances, names=("prediction", "label", "instances"))

    return {
        f"Cityscapes' counts, {number} instances, from PNG files": {
            "segnl": lambda: official.count_frames([frame]),
            "cityscapesscripts": partial(_evaluate_pair, frame),
        },
        f"Cityscapes' counts, {number} instances, from arrays": {
            "segnl": count_arrays,
            "cityscapesscripts": partial(_evaluate_pair, frame, opened=arrays),
        },
    }


def _evaluate_pair(frame: official.Frame, opened: dict[str, Any] | None = None, *, with_instances: bool = True) -> Any:
    with mock.patch.object(np, "in1d", np.isin, create=True):  # as run_cityscapesscripts does
        module = official._import_evaluator()
        args = copy.copy(module.args)
        args.quiet, args.evalLabels, args.evalInstLevelScore = True, [], with_instances
        matrix, instances = module.generateMatrix(args), module.generateInstanceStats(args)
        with _opening(module, opened) if opened is not None else contextlib.nullcontext():
            module.evaluatePair(str(frame.prediction), str(frame.label), matrix, instances, {}, args)
    return matrix


@contextlib.contextmanager
def _opening(module: Any, arrays: dict[str, Any]) -> Iterator[None]:
    """Where the module opens an image file, it gets an array that has been decoded before."""

    class Decoded:
        def __init__(self, values: Any) -> None:
            self.values, self.size = values, values.shape[::-1]

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
            return self.values

    before = module.Image
    module.Image = SimpleNamespace(open=lambda path: Decoded(arrays[path]))
    try:
        yield
    finally:
        module.Image = before


class FixedMap(nn.Module):
    """Stands where the network would: one map of logits, whatever the image. The input is normalised all the same."""

    align_corners = False
    image_channels = 3

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.input = Normalise(InputConfig())

    def forward(self, image: Tensor, stages: object = None) -> SimpleNamespace:
        return SimpleNamespace(main=self.logits)


def end_to_end(folder: Path, height: int, width: int, rounds: int) -> dict[str, Any]:
    """Whole evaluations of the streets with the network replaced, beside reading the same files and nothing else.

    With as many workers on both sides, in turns. ratio: of their median images/s. cpu_ms: of the process that
    evaluates, and of its workers, an image; it does not depend on what else the machine does.
    """
    network = cast(Segmenter, FixedMap(realistic(NUM_CLASSES, height // 8, width // 8)))
    result = {}
    for workers in (1, 2):
        recipe = _recipe(folder, workers)
        data = build_data(recipe, "val")
        predictor = Predictor(network, recipe, data.table, torch.device("cpu"))
        calls: dict[str, Call] = {
            "segnl": partial(evaluate, predictor, data),
            "decoding alone": partial(_decode, data, workers),
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        cpu: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for turn in range(rounds + 1):
            for name, call in calls.items():
                taken = _took(call)
                if turn:  # the first one warms up
                    seconds[name].append(taken[0])
                    cpu[name].append(taken[1:])
        result[f"{workers} worker{'s' if workers > 1 else ''}"] = _speeds(seconds, cpu)
    return result


def _decode(data: SegmentationData, workers: int) -> list[int]:
    return [index for index, _ in eval_samples(data, workers=workers)]


def _took(call: Call) -> tuple[float, float, float]:
    """Seconds, processor seconds of this process, processor seconds of the workers that ended meanwhile."""
    start, before = time.perf_counter(), os.times()
    call()
    after = os.times()
    own = after.user + after.system - before.user - before.system
    workers = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, own, workers


def _speeds(seconds: dict[str, list[float]], cpu: dict[str, list[tuple[float, float]]]) -> JSONDict:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    per_image = {
        name: [1000 * statistics.median(part) / NUM_IMAGES for part in zip(*values, strict=True)]
        for name, values in cpu.items()
    }
    return {
        "images_a_second": {name: NUM_IMAGES / value for name, value in medians.items()},
        "ratio": medians["decoding alone"] / medians["segnl"],
        "cpu_ms": {name: {"own": own, "workers": workers} for name, (own, workers) in per_image.items()},
    }
