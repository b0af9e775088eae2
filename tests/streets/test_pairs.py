"""The pairs are ambiguous where one looks closely, and decided where one looks far."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest

from segnl.core.arrays import Counts, Floats
from segnl.streets.pairs import PAIRS
from segnl.streets.scene import render_scene

PATCH = 15


@dataclass
class Views:
    """Of one pair and split: 15x15 patches within objects, cues scaled to 12x12, and the class (0, 1) of each."""

    patches: list[Floats] = field(default_factory=list)
    patch_classes: list[int] = field(default_factory=list)
    cues: list[Floats] = field(default_factory=list)
    cue_classes: list[int] = field(default_factory=list)


def collect(split: str, count: int) -> dict[int, Views]:
    views: dict[int, Views] = defaultdict(Views)
    random = np.random.default_rng(0)
    half = PATCH // 2
    for index in range(count):
        scene = render_scene(seed=3, split=split, index=index, hw=(256, 512))
        for placement in scene.placements:
            view, box, cue = views[placement.pair_number], placement.box, placement.cue
            for _ in range(4):
                y = int(random.integers(box.y0 + half, box.y1 - half + 1))
                x = int(random.integers(max(half, box.x0 + half), min(511 - half, box.x1 - half) + 1))
                if scene.ambiguous[y, x] != placement.pair_number:
                    continue
                patch = scene.image[y - half : y + half + 1, x - half : x + half + 1].astype(np.float64)
                view.patches.append(np.concatenate([patch.ravel(), patch.mean((0, 1)), patch.std((0, 1))]))
                view.patch_classes.append(placement.mark)
            rows = np.linspace(cue.y0, cue.y1, 12).astype(int)
            columns = np.linspace(cue.x0, cue.x1, 12).astype(int)
            view.cues.append(scene.image[np.ix_(rows, columns)].astype(np.float64).ravel())
            view.cue_classes.append(placement.mark)
    return views


def balanced_accuracy(pred: Counts, truth: Counts) -> float:
    return float(np.mean([(pred[truth == value] == value).mean() for value in (0, 1)]))


def linear(train: Floats, train_classes: Counts, test: Floats) -> Counts:
    """Ridge regression onto -1, 1 of standardised features."""
    mean, sd = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / sd, (test - mean) / sd
    gram = train @ train.T + 0.1 * train.shape[1] * np.eye(len(train))
    weights = train.T @ np.linalg.solve(gram, train_classes * 2.0 - 1)
    return (test @ weights > 0).astype(np.int64)


def nearest_neighbours(train: Floats, train_classes: Counts, test: Floats) -> Counts:
    """The majority of the nine nearest."""
    distance = (test**2).sum(1)[:, None] - 2 * test @ train.T + (train**2).sum(1)
    nearest = np.argsort(distance, axis=1)[:, :9]
    return (train_classes[nearest].mean(1) > 0.5).astype(np.int64)


@pytest.fixture(scope="module")
def views() -> tuple[dict[int, Views], dict[int, Views]]:
    return collect("train", 80), collect("val", 80)


@pytest.mark.parametrize("pair", range(1, len(PAIRS) + 1), ids=[pair.name for pair in PAIRS])
@pytest.mark.parametrize("classify", [linear, nearest_neighbours])
def test_a_15x15_patch_does_not_tell_the_class(views, pair, classify):
    train, test = views[0][pair], views[1][pair]
    pred = classify(np.array(train.patches), np.array(train.patch_classes), np.array(test.patches))
    assert balanced_accuracy(pred, np.array(test.patch_classes)) < 0.65


@pytest.mark.parametrize("pair", range(1, len(PAIRS) + 1), ids=[pair.name for pair in PAIRS])
def test_the_named_cue_tells_the_class(views, pair):
    train, test = views[0][pair], views[1][pair]
    pred = linear(np.array(train.cues), np.array(train.cue_classes), np.array(test.cues))
    assert balanced_accuracy(pred, np.array(test.cue_classes)) > 0.95


def test_both_classes_of_a_pair_are_equally_likely(views):
    for pair in range(1, len(PAIRS) + 1):
        classes = [*views[0][pair].cue_classes, *views[1][pair].cue_classes]
        assert abs(np.mean(classes) - 0.5) < 0.15  # three standard deviations of about 110 draws


def test_the_table_names_two_classes_two_liveries_and_one_cue_for_each_of_four_pairs():
    assert len(PAIRS) >= 4
    assert len({name for pair in PAIRS for name in pair.classes}) == 2 * len(PAIRS)
    colours = [colour for pair in PAIRS for _, colour in pair.liveries]
    apart = [
        sum(abs(a - b) for a, b in zip(one, two, strict=True)) for i, one in enumerate(colours) for two in colours[:i]
    ]
    assert min(apart) > 90  # well beyond the spread of 8 in a channel
