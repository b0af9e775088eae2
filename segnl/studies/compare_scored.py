"""`segnl compare RUN_OR_COUNTS ...`: a verdict between results that exist already. Imports torch only to open runs.

A result is a run (evaluated here) or a file of counts that `segnl score` kept. Nothing is trained, and nothing is made
equal: what is known to be equal, what differs and what is not known is listed beside the verdict.
"""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segnl.core.archives import sha256_of
from segnl.core.arrays import Floats
from segnl.core.errors import ConfigError, DataError
from segnl.core.files import read_json, shell_word
from segnl.core.log import one_line
from segnl.data.groups import named_groups
from segnl.data.mask_files import ARRAY_SUFFIXES, IMAGE_SUFFIXES
from segnl.metrics.confusion import mean_of_defined, ratio
from segnl.metrics.scored_counts import SUFFIX, ScoredCounts, counts_path, load_counts
from segnl.metrics.statistics.comparison import (
    ClassDifference,
    Comparison,
    RunCounts,
    class_differences,
    compare_heads,
)
from segnl.studies.conditions import Condition, Training, conditions

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._ -]*)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Result:
    """One result. seed, training: None for counts, which say nothing about how the masks came about.

    groups: the group of each image by sample id, where the run's data set has groups.
    """

    path: Path
    counts: ScoredCounts
    seed: int | None = None
    training: Training | None = None
    groups: Mapping[str, str] | None = None

    @property
    def miou(self) -> float:
        """Mean IoU over the classes in label or prediction, a fraction; NaN without any."""
        return mean_of_defined(self._iou)

    @property
    def miou_of_labelled(self) -> float:
        """Mean IoU over the classes in the labels, which models are compared by, a fraction."""
        return mean_of_defined(self._iou[self.counts.target.any(axis=0)])

    @property
    def has_stray_class(self) -> bool:
        """Whether a class is predicted that is in no label."""
        return bool((self.counts.union.any(axis=0) & ~self.counts.target.any(axis=0)).any())

    @property
    def _iou(self) -> Floats:
        return ratio(self.counts.intersection.sum(axis=0), self.counts.union.sum(axis=0))


@dataclass(frozen=True)
class ScoredComparison:
    """Models compared by their results. models: results by name, the first is the control. groups: of each image."""

    models: Mapping[str, Sequence[Result]]
    conditions: Sequence[Condition]
    groups: Sequence[str] | None

    @property
    def any_counts(self) -> ScoredCounts:
        """Counts of the first result, for what is the same in all."""
        return next(iter(self.models.values()))[0].counts

    @cached_property
    def run_counts(self) -> dict[str, list[RunCounts]]:
        return {
            name: [RunCounts(own.counts.intersection, own.counts.union, own.seed, own.counts.target) for own in results]
            for name, results in self.models.items()
        }

    @cached_property
    def pairs(self) -> Sequence[Comparison]:
        """The models compared two by two."""
        return compare_heads(self.run_counts, groups=self.groups)

    def class_differences(self, pair: Comparison) -> dict[str, ClassDifference]:
        """Returns the differences of a pair by class name."""
        differences = class_differences(self.run_counts, pair.a, pair.b, groups=self.groups)
        return {self.any_counts.class_names[own.index]: own for own in differences}


def compare_scored(
    texts: Sequence[str], *, split: str = "val", group: str | None = None, trust_modules: Sequence[str] = ()
) -> ScoredComparison:
    """Compares results. texts: `RUN_OR_COUNTS`, or `NAME=RUN_OR_COUNTS,RUN_OR_COUNTS` for the seeds of one model.

    Runs without a name whose recipes differ only in the seed are one model. split: on which runs are evaluated. group:
    images that resemble each other, in the words of data.group; None: as the first run's data set says, if any.
    trust_modules: that the recipes of runs may import.

    Raises ConfigError for fewer than two models or for results that cannot be compared, and what evaluation raises.
    """
    named, unnamed = _split(texts)
    paths = [path for own in named.values() for path in own] + unnamed
    repeated = [path for i, path in enumerate(paths) if path.resolve() in [own.resolve() for own in paths[:i]]]
    if repeated:
        raise ConfigError(f"{repeated[0]}: is given twice; a result counts once")
    opened = {path: _open(path, split, trust_modules) for path in paths}
    models = {name: [opened[path] for path in own] for name, own in named.items()}
    models |= _by_recipe([opened[path] for path in unnamed], taken=models)
    if len(models) < 2:
        (name,) = models
        raise ConfigError(f"{name}: the only model among {len(paths)} results; give two, such as A=FILE,FILE B=FILE")
    first = next(iter(models.values()))[0]
    sample_ids = sorted(first.counts.sample_ids)
    models = {name: [_in_order(own, sample_ids, first) for own in results] for name, results in models.items()}
    for results in models.values():
        _require_distinct(results)
    if group is not None:
        groups = named_groups(group, sample_ids, lists=Path(), key="--group")
    else:
        by_id = next((own.groups for results in models.values() for own in results if own.groups), None)
        groups = None if by_id is None else [by_id[sample_id] for sample_id in sample_ids]
    trainings = {name: [result.training for result in results] for name, results in models.items()}
    return ScoredComparison(models, conditions(trainings), groups)


def _split(texts: Sequence[str]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Returns the paths by the names that were given, and the paths without one."""
    named: dict[str, list[Path]] = {}
    unnamed: list[Path] = []
    for text in texts:
        match = None if os.path.exists(text) else _NAME.fullmatch(text)
        if match is None:
            unnamed.append(_existing(text))
            continue
        name, files = match.groups()
        if name in named:
            raise ConfigError(f"{name}: is named twice; list all its results at once: {name}=FILE,FILE")
        if not all(files.split(",")):
            raise ConfigError(f"{text}: has an empty name of a file; expected NAME=FILE,FILE")
        named[name] = [_existing(file) for file in files.split(",")]
    return named, unnamed


def _existing(text: str) -> Path:
    """Returns the path; out.counts or out.json stand for out.counts.npz."""
    path = Path(text)
    if path.suffix == ".html":
        raise ConfigError(f"{path}: a page; give the file beside it, {path.with_suffix('.json')}")
    if path.suffix == ".json":
        path = _counts_of(path)
    if os.path.exists(f"{path}.npz") and not path.exists():
        return Path(f"{path}.npz")
    if not os.path.exists(path):  # False also for a name that is too long
        if "," in text and "=" not in text:
            raise ConfigError(f"{text}: several results of one model need its name: NAME={text}")
        raise ConfigError(
            f"{path}: no such file or folder; expected a run's folder, a checkpoint, or the {SUFFIX[1:]} that "
            "segnl score --json wrote"
        )
    return path


def _counts_of(json_file: Path) -> Path:
    """Returns the path of the counts beside a --json file. Raises DataError for those of another score."""
    path = counts_path(json_file)
    if os.path.exists(json_file) and path.exists():
        try:
            content = read_json(json_file)
            digest = content.get("counts_sha256") if isinstance(content, dict) else None
            is_of_another = digest is not None and digest != sha256_of(path)
        except (OSError, ValueError) as err:
            raise DataError(f"{json_file}: cannot be read ({err}); score the masks again") from err
        if is_of_another:
            raise DataError(f"{json_file}: {path.name} beside it is of another score; score the masks again")
    return path


def _open(path: Path, split: str, trust_modules: Sequence[str]) -> Result:
    if path.suffix == ".npz":
        return Result(path, load_counts(path))
    suffixes = {own.suffix.lower() for own in path.iterdir()} if path.is_dir() else set()
    if suffixes & {*IMAGE_SUFFIXES, *ARRAY_SUFFIXES} and ".safetensors" not in suffixes:
        raise ConfigError(
            f"{path}: a folder of masks; score it first: segnl score {shell_word(path)} --labels DIR --classes FILE "
            f"--json {(file := shell_word(f'{path.name}.json'))}, then compare {file}"
        )
    from segnl.studies.evaluated import evaluated

    counts, training, groups = evaluated(path, split, trust_modules)
    return Result(path, counts, training.seed, training, groups)


def _by_recipe(results: Sequence[Result], *, taken: Mapping[str, Any]) -> dict[str, list[Result]]:
    """Returns results by the name of their model: runs of one recipe are one, every other result stands alone."""
    groups: list[list[Result]] = []
    for result in results:
        group = next((own for own in groups if _is_same_recipe(own[0].training, result.training)), None)
        if group is None:
            groups.append(group := [])
        group.append(result)
    names = _names([[own.path for own in group] for group in groups])
    if doubled := taken.keys() & {*names}:
        raise ConfigError(f"{min(doubled)}: stands for two models; name both: NAME=FILE")
    return dict(zip(names, groups, strict=True))


def _is_same_recipe(training: Training | None, other: Training | None) -> bool:
    if training is None or other is None or not (training.is_known and other.is_known):
        return False
    return training.differing_keys(other) in ([], ["train.seed"])


def _names(groups: Sequence[Sequence[Path]]) -> list[str]:
    """Returns a name for each group of paths: that of the file or folder, without the end that names a seed."""
    places = [[Path(str(path.resolve()).removesuffix(SUFFIX)) for path in own] for own in groups]
    for depth in range(1, 1 + max((len(own.parts) for group in places for own in group), default=1)):
        names = []
        for group in places:
            name = "/".join(group[0].parts[-depth:]).removesuffix(".safetensors")
            names.append(one_line(re.sub(r"-s\d+$", "", name) if len(group) > 1 else name))
        if len(set(names)) == len(names):
            return names
    raise ConfigError("two models have one name; name them: NAME=FILE")


def _require_distinct(results: Sequence[Result]) -> None:
    """Raises ConfigError where two results of a model are of one training: copies, or its best and its last weights."""
    for first, second in itertools.combinations(results, 2):
        counts = [(own.counts.intersection, own.counts.union, own.counts.prediction_digests) for own in (first, second)]
        if _is_same_recipe(first.training, second.training) and first.seed == second.seed:
            reason = "has the recipe and the seed"
        elif all(np.array_equal(*pair) for pair in zip(*counts, strict=True)):
            reason = "holds the masks"
        else:
            continue
        raise ConfigError(f"{second.path}: {reason} of {first.path}, so it is no further result; leave it out")


def _in_order(result: Result, order: Sequence[str], first: Result) -> Result:
    """Returns the result with its images in `order`. Raises ConfigError where images, labels or classes differ."""
    counts = result.counts
    if counts.class_names != first.counts.class_names:
        pairs = itertools.zip_longest(counts.class_names, first.counts.class_names, fillvalue="missing")
        number, (own_class, first_class) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise ConfigError(
            f"{result.path}: class {number} is {own_class}, but in {first.path} it is {first_class}; only scores over "
            "the same classes can be compared: write one run's masks (segnl eval --masks DIR) and score "
            "DIR/colour with the class table of the other (segnl score --classes)"
        )
    if sorted(counts.sample_ids) != list(order):
        differing = sorted({*counts.sample_ids} ^ {*order})
        raise ConfigError(
            f"{result.path}: is of other images than {first.path} ({len(differing)} are in only one of them, such as "
            f"'{differing[0]}'); score both on the same images"
        )
    own, reference = _reordered(counts, order), _reordered(first.counts, order)
    differs = (own.target != reference.target).any(axis=1)
    if own.label_digests and reference.label_digests:
        differs |= np.array(own.label_digests) != np.array(reference.label_digests)
    if differs.any():
        raise DataError(
            f"{result.path}: was scored against another label of image '{order[int(differs.argmax())]}' than "
            f"{first.path} ({int(differs.sum())} such images); score both against the same labels"
        )
    return replace(result, counts=own)


def _reordered(counts: ScoredCounts, order: Sequence[str]) -> ScoredCounts:
    place = {sample_id: i for i, sample_id in enumerate(counts.sample_ids)}
    index = [place[sample_id] for sample_id in order]
    changed: dict[str, Any] = {name: getattr(counts, name)[index] for name in ("intersection", "target", "union")}
    digests = {name: getattr(counts, name) for name in ("label_digests", "prediction_digests")}
    changed |= {name: tuple(texts[i] for i in index) if texts else () for name, texts in digests.items()}
    return replace(counts, sample_ids=tuple(order), **changed)
