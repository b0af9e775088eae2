"""Results of the context probe: accuracy on the targets by the offset of their cue, and comparisons of the heads."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import stdtrit

from segnl.core.arrays import Counts, Floats, Mask
from segnl.core.config import JSONDict, merge
from segnl.core.errors import ConfigError
from segnl.data.datasets.probe import Probe, ProbeConfig
from segnl.evaluation.evaluation import Evaluation
from segnl.metrics.confusion import number_or_none, ratio
from segnl.metrics.statistics.comparison import Comparison, RunCounts, compare_heads
from segnl.metrics.statistics.variance import ALPHA
from segnl.models.receptive_field import theoretical_receptive_field
from segnl.probe.scene import CHANCE, NUM_CLASSES
from segnl.runs.build import build_model
from segnl.runs.recipe import Recipe, compose
from segnl.studies.study import Study
from segnl.studies.table import pairs_dict
from segnl.studies.verdicts import listed

REGIONS = {
    "near": "within the reach of the convolutions",
    "cross": "further away, in the target's row or column",
    "off": "in another row and another column, beyond the convolutions",
    "all": "anywhere",
}
"""Sets of offsets by name. `all` also has the offsets that lie just beside the row or the column."""
COMPARED = ("cross", "off")
NEAR_CHANCE = 0.05
"""A head this near to chance is said to be at chance: 400 images, each of one class, decide no better."""


@dataclass(frozen=True)
class Reach:
    """Rows and columns of cells, in each direction from a target, that the convolutions without context see."""

    rows: int
    columns: int


def reach_of(recipe: Recipe) -> Reach:
    """Returns the reach of the recipe's network, at most the grid; give it a recipe whose head is `fcn`."""
    cfg = probe_config(recipe)
    (h, w), px = cfg.grid_hw, cfg.cell_px
    # An image on which every offset of the grid fits, in any direction from the cell in its middle.
    rows, columns = 2 * h + 1, 2 * w + 1
    middle = slice(h * px, (h + 1) * px), slice(w * px, (w + 1) * px)
    model = build_model(recipe, NUM_CLASSES, is_new=True)
    seen = theoretical_receptive_field(model, (rows * px, columns * px), middle)
    row, column = np.nonzero(seen.reshape(rows, px, columns, px).any(axis=(1, 3)))
    return Reach(int(np.abs(row - h).max()), int(np.abs(column - w).max()))


def probe_config(recipe: Recipe) -> ProbeConfig:
    """Returns the section `data` of a recipe of the probe. Raises ConfigError for other data and images."""
    if not isinstance(recipe.data, ProbeConfig):
        raise ConfigError(f"data.name: holds {recipe.data.name!r}; the probe brings its own data, expected probe")
    if (recipe.model.input.channels, recipe.data.frames) != (3, 1):
        raise ConfigError("model.input.channels, data.frames: the probe's images are single RGB images; leave both out")
    return recipe.data


def control_recipe(recipe: Recipe) -> Recipe:
    """Returns the recipe with the head `fcn` of the same channels and kernel: the convolutions without the context."""
    mapping = recipe.to_dict()
    own = mapping["model"]["head"]
    head = {key: own[key] for key in ("channels", "kernel", "in_stages") if key in own}
    return compose(merge(mapping, {"model": {"head": {"name": "fcn"} | head}}), file="the control of the probe")


@dataclass(frozen=True)
class TargetCounts:
    """Scores of one run. correct: correct pixels of each target, int64 `images targets`; total: pixels of a target.

    offsets: int64 `images targets 2`, the cue's cell minus the target's; None where a target has no single cue.
    """

    correct: Counts
    total: int
    offsets: Counts | None

    def accuracy(self, region: Mask | None = None) -> float | None:
        """Returns the correct fraction over the targets in a region `images targets`; None without any."""
        values = self.correct if region is None else self.correct[region]
        return None if values.size == 0 else float(values.mean() / self.total)

    def run_counts(self, region: Mask, seed: int) -> RunCounts:
        """Returns the counts by image as those of one class, whose IoU is the accuracy."""
        correct, targets = np.where(region, self.correct, 0).sum(axis=1), region.sum(axis=1)
        return RunCounts(correct[:, None], self.total * targets[:, None].astype(np.int64), seed)


def target_counts(evaluation: Evaluation, data: Probe) -> TargetCounts:
    """Counts the correct pixels of every target in the masks of a run."""
    px = data.cfg.cell_px
    correct, offsets = [], []
    for i in range(len(data)):
        scene, mask = data.scene(i), evaluation.mask(i, data.table)
        is_correct = (mask == scene.label).reshape(data.cfg.grid_hw[0], px, data.cfg.grid_hw[1], px).sum(axis=(1, 3))
        correct.append(is_correct[scene.targets[:, 0], scene.targets[:, 1]])
        offsets.append(scene.offsets)
    known = [own for own in offsets if own is not None]
    return TargetCounts(np.array(correct, np.int64), px * px, np.array(known) if len(known) == len(offsets) else None)


def regions_of(offsets: Counts | None, reach: Reach, shape: tuple[int, ...]) -> dict[str, Mask]:
    """Marks the targets in each region, by its name, `images targets` (shape); only `all` without offsets."""
    everywhere = {"all": np.ones(shape, bool)}
    if offsets is None:
        return everywhere
    rows, columns = np.abs(offsets[..., 0]), np.abs(offsets[..., 1])
    near = (rows <= reach.rows) & (columns <= reach.columns)
    off = (rows > reach.rows) & (columns > reach.columns)
    return {"near": near, "cross": ((rows == 0) | (columns == 0)) & ~near, "off": off} | everywhere


def accuracy_map(counts: Sequence[TargetCounts], grid_hw: tuple[int, int]) -> Floats | None:
    """Returns accuracy by offset, the mean over runs, f64 `2h-1 2w-1`; NaN for an offset without a target.

    The middle is offset 0; above it are cues in rows above the target.
    """
    h, w = grid_hw
    correct, total = np.zeros((2, 2 * h - 1, 2 * w - 1))
    for own in counts:
        if own.offsets is None:
            return None
        place = own.offsets[..., 0] + h - 1, own.offsets[..., 1] + w - 1
        np.add.at(correct, place, own.correct)
        np.add.at(total, place, own.total)
    return ratio(correct, total)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in one region. values: of the runs; low, high: the 95 % interval of the mean for new seeds."""

    values: tuple[float, ...]
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Accuracy":
        if len(values) < 2:
            return cls(tuple(values), None, None)
        half = float(stdtrit(len(values) - 1, 1 - ALPHA / 2)) * statistics.stdev(values) / math.sqrt(len(values))
        mean = statistics.fmean(values)
        return cls(tuple(values), max(0.0, mean - half), min(1.0, mean + half))

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None


@dataclass(frozen=True)
class Sight:
    """What one head sees in one task. accuracy: by region. map: from `accuracy_map`."""

    name: str
    num_seeds: int
    accuracy: Mapping[str, Accuracy]
    map: Floats | None


@dataclass(frozen=True)
class TaskResults:
    """Results of all heads in one task. pairs: comparisons by region."""

    task: str
    reach: Reach
    sights: Sequence[Sight]
    pairs: Mapping[str, Sequence[Comparison]]

    @property
    def is_covered(self) -> bool:
        """Whether the convolutions without context see all cues."""
        known = [sight.accuracy for sight in self.sights if "near" in sight.accuracy]
        return bool(known) and not any("cross" in accuracy or "off" in accuracy for accuracy in known)


def task_results(
    task: str, counts: Mapping[str, Mapping[int, TargetCounts]], reach: Reach, grid_hw: tuple[int, int]
) -> TaskResults:
    """Summarises the runs of one task. counts: by head and seed, all on the same images."""
    sights = []
    by_region: dict[str, dict[str, list[RunCounts]]] = {}
    for head, runs in counts.items():
        regions: dict[str, list[float]] = {}
        for seed, own in runs.items():
            for name, mask in regions_of(own.offsets, reach, own.correct.shape).items():
                accuracy = own.accuracy(mask)
                if accuracy is not None:
                    regions.setdefault(name, []).append(accuracy)
                    by_region.setdefault(name, {}).setdefault(head, []).append(own.run_counts(mask, seed))
        accuracies = {name: Accuracy.of(values) for name, values in regions.items()}
        sights.append(Sight(head, len(runs), accuracies, accuracy_map(list(runs.values()), grid_hw) if runs else None))
    compared = [name for name in COMPARED if name in by_region] or ["all"]
    return TaskResults(task, reach, sights, {name: compare_heads(by_region.get(name, {})) for name in compared})


@dataclass(frozen=True)
class ProbeResults:
    """Results of all tasks. costs: by head. refused: reasons by run, `TASK/HEAD-sSEED`."""

    studies: Sequence[Study]
    tasks: Sequence[TaskResults]
    costs: Mapping[str, JSONDict]
    refused: Mapping[str, str]

    def to_dict(self) -> JSONDict:
        """Returns the content of probe.json: the first task's at the top, all tasks below `tasks`."""
        study = self.studies[0]
        tasks = {results.task: _task_dict(results) for results in self.tasks}
        heads = {name: head | self.costs[name] for name, head in tasks[self.tasks[0].task]["heads"].items()}
        return tasks[self.tasks[0].task] | {
            "heads": heads,
            "chance": CHANCE,
            "seeds": list(study.seeds_of(study.heads[0])),
            "steps": study.runs[0].recipe.train.num_steps,
            "model": study.runs[0].recipe.to_dict()["model"]["backbone"],
            "data": study.runs[0].recipe.to_dict()["data"],
            "tasks": tasks,
            "refused": dict(self.refused),
            "complete": True,
        }


def _task_dict(results: TaskResults) -> JSONDict:
    return {
        "task": results.task,
        "reach": asdict(results.reach),
        "verdicts": task_verdicts(results),
        "heads": {sight.name: _sight_dict(sight) for sight in results.sights},
        "pairs": {region: pairs_dict(pairs) for region, pairs in results.pairs.items()},
    }


def _sight_dict(sight: Sight) -> JSONDict:
    known = {name: sight.accuracy.get(name, Accuracy((), None, None)) for name in REGIONS}
    cells = None if sight.map is None else [[number_or_none(value) for value in row] for row in sight.map]
    return {
        "accuracy": {name: own.mean for name, own in known.items()},
        "interval": {name: [own.low, own.high] for name, own in known.items()},
        "runs": {name: list(own.values) for name, own in known.items()},
        "map": cells,
        "seeds": sight.num_seeds,
    }


def task_verdicts(results: TaskResults) -> list[str]:
    """Returns a sentence for each region that was compared, the hardest first."""
    if results.is_covered:
        return [
            "The convolutions alone see the whole image, so this says nothing about the heads: give it more cells, "
            "such as --set data.crop_hw=[768,768]."
        ]
    sentences = [comparison_sentence(region, pairs) for region, pairs in reversed(list(results.pairs.items()))]
    summary = reach_sentence(results.pairs, results.sights)
    return [summary, *sentences] if summary else sentences


def reach_sentence(pairs: Mapping[str, Sequence[Comparison]], sights: Sequence[Sight]) -> str:
    """Returns which heads use a cue from anywhere, which in their row and column only, and which only nearby.

    A head uses the cues of a region if it is significantly better there than another head, and does not if its accuracy
    is near chance. Heads of which neither is known are named as open. Empty where no head uses a cue off the cross.
    """
    winners = {region: {winner for winner, _ in _wins(pairs.get(region, ()))} for region in COMPARED}
    at_chance = {region: {sight.name for sight in sights if _is_at_chance(sight, region)} for region in COMPARED}
    heads = sorted({head for pair in pairs.get("off", ()) for head in (pair.a, pair.b)})
    anywhere = [head for head in heads if head in winners["off"] - at_chance["off"]]
    aligned = [head for head in heads if head in at_chance["off"] & winners["cross"] - at_chance["cross"]]
    nearby = [head for head in heads if head in at_chance["off"] & at_chance["cross"]]
    if not anywhere or not (aligned or nearby):
        return ""
    texts = [f"{listed(anywhere)} {'use' if len(anywhere) > 1 else 'uses'} a cue from anywhere in the image"]
    texts += [f"{listed(aligned)} only in the target's row and column, or nearby"] if aligned else []
    texts += [f"{listed(nearby)} only nearby"] if nearby else []
    unsettled = [head for head in heads if head not in {*anywhere, *aligned, *nearby}]
    texts += [f"open for {listed(unsettled)}"] if unsettled else []
    return "; ".join(texts) + "."


def _is_at_chance(sight: Sight, region: str) -> bool:
    mean = sight.accuracy[region].mean if region in sight.accuracy else None
    return mean is not None and abs(mean - CHANCE) < NEAR_CHANCE


def _wins(pairs: Sequence[Comparison]) -> list[tuple[str, str]]:
    """Returns winner and loser of each pair whose difference is significant."""
    return [
        (pair.a, pair.b) if (pair.difference or 0) >= 0 else (pair.b, pair.a) for pair in pairs if pair.is_separable
    ]


def comparison_sentence(region: str, pairs: Sequence[Comparison]) -> str:
    """Returns which heads are significantly better than which at using a cue in that region."""
    lead = f"{region.capitalize()} (a cue {REGIONS[region]}):"
    if not pairs:
        return f"{lead} one head, nothing to compare."
    if all(pair.p is None for pair in pairs):
        return f"{lead} {pairs[0].reason or 'nothing to compare'}: this says nothing about the heads."
    losers: dict[str, list[str]] = {}
    for winner, loser in _wins(pairs):
        losers.setdefault(winner, []).append(loser)
    groups: dict[tuple[str, ...], list[str]] = {}
    for head, worse_heads in sorted(losers.items()):
        groups.setdefault(tuple(sorted(worse_heads)), []).append(head)
    texts = [
        f"{listed(heads)} {'are' if len(heads) > 1 else 'is'} significantly better than {listed(worse_heads)}"
        for worse_heads, heads in sorted(groups.items(), key=lambda group: -len(group[0]))
    ]
    num_open = sum(not pair.is_separable for pair in pairs)
    rest = "; no other difference is significant" if num_open else ""
    seeds = min(min(pair.seeds_a, pair.seeds_b) for pair in pairs)
    result = "; ".join(texts) + rest if texts else "no difference is significant"
    return f"{lead} {result} ({seeds} seeds per head)."


def sight_sentence(sight: Sight) -> str:
    """Returns the accuracies of a head in words, such as `near 51 %, cross 100 %, off at chance (34 %)`."""
    texts = []
    for name, own in sight.accuracy.items():
        if own.mean is None or (name == "all" and len(sight.accuracy) > 1):
            continue
        is_chance = _is_at_chance(sight, name)
        percent = f"{100 * own.mean:.0f} %"
        texts.append(f"{name} at chance ({percent})" if is_chance else f"{name} {percent}")
    return ", ".join(texts)
