"""A study in one YAML file: a base recipe, the heads that override it, the seeds; and the plan of every run."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from segnl.core.config import Config, JSONDict, find_config, load_mapping, merge, override, read_file, validate
from segnl.core.errors import ConfigError
from segnl.core.files import inside, not_a_link
from segnl.core.limits import require_count
from segnl.core.result_cache import ResultCache
from segnl.metrics.statistics.planning import Looks
from segnl.models.ablation import Ablation, parse_ablation
from segnl.runs.folder import RUNS
from segnl.runs.recipe import Recipe, compose, deciding_keys, differing_keys, flatten
from segnl.studies.learning_rates import ChosenRates, LearningRates, search_mappings, stored_rates
from segnl.studies.matching import Measure, Width, matched_widths, with_width

Seeds = tuple[int, ...]
MAX_LOOKS = 50
MAX_RUNS = 5000
ABLATIONS = ("gamma0", "shuffled", "window=0", "window=4")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class SeedsUntil(Config):
    """Stop rule: seeds 0, 1, ... are added to every head until each pair is settled, or cannot be within `at_most`."""

    at_least: Annotated[int, Field(ge=2, le=MAX_LOOKS)] = 3
    at_most: Annotated[int, Field(ge=3, le=MAX_LOOKS)] = 10
    until: Literal["settled"]

    @model_validator(mode="after")
    def _ordered(self) -> "SeedsUntil":
        if self.at_least >= self.at_most:
            raise ValueError(f"at_least: {self.at_least}; expected less than at_most, {self.at_most}")
        return self


class CompareConfig(Config):
    """Comparisons of a study."""

    against: Literal["all", "control"] = "all"
    """Whether all pairs of heads are tested or each head against the control alone: fewer tests, so more is found."""


class StudyConfig(Config):
    """Keys of a study's file; paths in it are relative to that file."""

    base: str | None = None
    """A recipe file, the common base of all runs."""
    heads: Annotated[dict[str, str | dict[str, Any]], Field(min_length=1)]
    """By name, for table and page: keys that override the base, or a recipe file. The first head is the control, with
    which the others are compared."""
    seeds: Seeds | dict[str, Seeds] | SeedsUntil = (0,)
    """For all heads, or by head where each has its own seeds, or a stop rule."""
    compare: CompareConfig = CompareConfig()
    learning_rates: LearningRates | None = None
    """Search of every head's optim.lr before the study's runs; null: each has the recipe's."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys that override every run's recipe."""
    varies: tuple[str, ...] = ("model.head",)
    """The only keys, besides the seed, in which the recipes of two runs may differ."""
    split: str = "val"
    match: Measure | None = None
    """params or gflops: `model.head.channels` of every head is solved for, so that they agree (studies/matching.py)."""
    match_to: str | None = None
    """The head whose size the others take; null: the control."""
    ablations: bool | tuple[str, ...] = False
    """Changes of trained attention at evaluation (models/ablation.py): names, or true for the usual ones."""
    note: str = ""
    """A sentence for the readers of the page."""
    gallery: Annotated[int, Field(ge=0, le=10_000)] = 24
    """Images on the page, those with most disagreement between the heads first."""
    attention_images: Annotated[int, Field(ge=0, le=100)] = 6
    """Images on the page where a click on a pixel shows where each head looks; 0: no attention on the page."""

    @field_validator("ablations")
    @classmethod
    def _known_ablations(cls, ablations: bool | tuple[str, ...]) -> bool | tuple[str, ...]:
        try:
            for name in () if isinstance(ablations, bool) else ablations:
                parse_ablation(name)
        except ConfigError as err:
            raise ValueError(str(err)) from err
        return ablations

    def chosen_ablations(self) -> list[Ablation]:
        """Returns the ablations in the order of the table."""
        names = (ABLATIONS if self.ablations else ()) if isinstance(self.ablations, bool) else self.ablations
        return [parse_ablation(name) for name in dict.fromkeys(names)]

    @field_validator("heads")
    @classmethod
    def _plain_names(cls, heads: dict[str, Any]) -> dict[str, Any]:
        for name in heads:
            if not _PLAIN_NAME.fullmatch(name):
                raise ValueError(f"'{name}' names a folder; expected letters, digits, '.', '_' and '-'")
        return heads

    @field_validator("seeds", mode="plain")
    @classmethod
    def _distinct_whole_numbers(cls, value: Any) -> Seeds | dict[str, Seeds] | SeedsUntil:
        if isinstance(value, dict) and value.keys() & SeedsUntil.model_fields.keys():
            try:
                return SeedsUntil.model_validate(value)
            except ValidationError as err:
                raise ValueError(_first_message(err)) from err
        lists = value if isinstance(value, dict) else {"": value}
        for seeds in lists.values():
            is_list = isinstance(seeds, list | tuple) and len(seeds) > 0
            if not is_list or any(type(seed) is not int or not 0 <= seed < 2**63 for seed in seeds):
                raise ValueError(
                    "expected whole numbers of at least 0, below 2^63, such as [0, 1, 2], or such a list for every head"
                )
            if len(set(seeds)) != len(seeds):
                raise ValueError("a seed is given twice; both would be the same run")
        return {head: tuple(seeds) for head, seeds in value.items()} if isinstance(value, dict) else tuple(value)

    @model_validator(mode="after")
    def _check_keys_together(self) -> "StudyConfig":
        if self.match_to is not None and (self.match is None or self.match_to not in self.heads):
            raise ValueError(
                f"match_to: {self.match_to} needs `match: params` or `match: gflops`, and a head of that name"
            )
        if isinstance(self.seeds, dict) and self.seeds.keys() != self.heads.keys():
            (name, *_) = sorted(self.seeds.keys() ^ self.heads.keys())
            raise ValueError(f"seeds: needs a list for each of `heads` and no other; look at {name}")
        return self

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds per head at which the stop rule judges the study; empty without one."""
        until = self.seeds
        return tuple(range(until.at_least, until.at_most + 1)) if isinstance(until, SeedsUntil) else ()


def _first_message(err: ValidationError) -> str:
    first = err.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {first['msg']}" if key else first["msg"].removeprefix("Value error, ")


@dataclass(frozen=True)
class PlannedRun:
    """One training run of a study and its folder."""

    head: str
    seed: int
    recipe: Recipe
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.head}-s{self.seed}"

    @property
    def cache(self) -> ResultCache:
        return ResultCache.of(self.folder)


@dataclass(frozen=True)
class RateSearch:
    """Runs of a search of learning rates, by head and then by rate as text; chosen: None before they are trained."""

    runs: Mapping[str, Mapping[str, PlannedRun]]
    key: JSONDict
    chosen: ChosenRates | None


@dataclass(frozen=True)
class Study:
    """A checked study. runs: the first seed of every head, then the second of every head, and so on."""

    name: str
    file: Path
    cfg: StudyConfig
    folder: Path
    runs: tuple[PlannedRun, ...]
    widths: Mapping[str, Width] = field(default_factory=dict)
    """By head, where the study matches them."""
    search: RateSearch | None = None
    """Runs and result of the search of `learning_rates`, where the study has one."""
    overrides: tuple[str, ...] = ()
    """`a.b=c` of the command line."""

    @property
    def looks(self) -> Looks | None:
        """The stop rule's looks up to this one; None without a stop rule."""
        num_seeds, planned = len(self.runs_of(self.heads[0])), self.cfg.looks
        return Looks(tuple(n for n in planned if n <= num_seeds), planned[-1]) if planned else None

    def seeds_of(self, head: str) -> Seeds:
        return tuple(run.seed for run in self.runs_of(head))

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.cfg.heads)

    @property
    def shared_seed(self) -> int | None:
        """The first seed that all heads have; None where there is none: then they share the recipe only."""
        first, *others = (self.seeds_of(head) for head in self.heads)
        return next((seed for seed in first if all(seed in seeds for seeds in others)), None)

    @property
    def same_recipes(self) -> tuple[tuple[str, ...], ...]:
        """Groups of heads that are one recipe under several names: every difference between them is chance."""
        recipes = {head: self.runs_of(head)[0].recipe.to_dict() for head in self.heads}
        groups: dict[str, list[str]] = {}
        for head, recipe in recipes.items():
            same = (name for name in groups if not forbidden_differences(recipes[name], recipe, ("train.seed",)))
            groups.setdefault(next(same, head), []).append(head)
        return tuple(tuple(group) for group in groups.values() if len(group) > 1)

    @property
    def steps(self) -> dict[str, int]:
        """Length of each head's trainings; they differ only where `varies` names train.max_steps."""
        return {head: self.runs_of(head)[0].recipe.train.num_steps for head in self.heads}

    @property
    def steps_text(self) -> str:
        """Such as "300 steps", or "fcn 300, rcca 600 steps"."""
        numbers = set(self.steps.values())
        parts = (
            [f"{head} {steps:,}" for head, steps in self.steps.items()] if len(numbers) > 1 else [f"{max(numbers):,}"]
        )
        return f"{', '.join(parts)} steps"

    @property
    def searched_runs(self) -> tuple[PlannedRun, ...]:
        """Runs of the search of learning rates."""
        return () if self.search is None else tuple(run for own in self.search.runs.values() for run in own.values())

    def runs_of(self, head: str) -> tuple[PlannedRun, ...]:
        return tuple(run for run in self.runs if run.head == head)


def load_study(path: Path, *, runs: Path = RUNS, num_seeds: int | None = None, overrides: Sequence[str] = ()) -> Study:
    """Reads a study; its runs' folders are `runs`/NAME/HEAD-sSEED, where NAME is the file's name without its suffix.

    num_seeds: of a study with a stop rule, the number of seeds per head; None: `at_least`.
    overrides: `a.b=c`, for every run's recipe, over the study's own.

    Raises ConfigError for any error in the file or in a recipe, and for a head whose recipe differs from the control's
    in more than `varies`.
    """
    path = find_config(path)
    mapping = override(read_file(path), [f"overrides.{text}" for text in overrides])
    cfg = validate(StudyConfig, mapping, file=str(path))
    runs.mkdir(parents=True, exist_ok=True)
    study = plan_study(cfg, path, inside(runs, path.stem), num_seeds=num_seeds)
    return replace(study, overrides=tuple(overrides))


def plan_study(cfg: StudyConfig, path: Path, folder: Path, *, num_seeds: int | None = None) -> Study:
    """Plans the runs of a study in subfolders of `folder`. path: the study's file, to which its paths are relative.
    num_seeds: as for `load_study`.

    Raises ConfigError as `load_study` does.
    """
    seeds = _seeds_by_head(cfg, num_seeds)
    require_count(f"{path}: runs of heads and seeds", sum(map(len, seeds.values())), most=MAX_RUNS)
    mappings = {head: merge(_head_dict(path, cfg, head), cfg.overrides) for head in cfg.heads}
    widths: dict[str, Width] = {}
    if cfg.match is not None:
        to = cfg.match_to or next(iter(cfg.heads))
        widths = matched_widths(mappings, to, cfg.match, file=str(path), cache=ResultCache.of(folder))
        mappings = {head: with_width(mapping, widths[head].channels) for head, mapping in mappings.items()}
    search = None
    if cfg.learning_rates is not None:
        search = _planned_search(cfg.learning_rates, mappings, path, folder)
        cfg = cfg.model_copy(update={"varies": (*cfg.varies, "optim.lr")})
        rates = search.chosen.rates if search.chosen else {}
        mappings |= {head: merge(mappings[head], {"optim": {"lr": rate}}) for head, rate in rates.items()}
    rounds = itertools.zip_longest(*([(head, seed) for seed in seeds[head]] for head in cfg.heads))
    for section in (cfg.overrides, *cfg.heads.values()):
        if isinstance(section, dict) and isinstance(train := section.get("train"), dict) and "seed" in train:
            raise ConfigError(f"{path}: train.seed: the study's `seeds` give it; leave it out")
    planned = []
    for head, seed in (pair for runs_of_round in rounds for pair in runs_of_round if pair is not None):
        # Runs are scored when all are trained; validations in between would cost time and change nothing.
        mapping = merge(merge({"train": {"eval_every": None}}, mappings[head]), {"train": {"seed": seed}})
        recipe = compose(mapping, file=f"{path}: heads.{head}")
        if recipe.train.max_steps is None or recipe.train.patience is not None:
            raise ConfigError(
                f"{path}: heads.{head}: train.epochs, train.patience: runs of a study have equally many steps; "
                "give train.max_steps instead"
            )
        planned.append(PlannedRun(head, seed, recipe, not_a_link(folder / f"{head}-s{seed}")))
    first = planned[0]
    keys = {key for run in planned for key in flatten(run.recipe.to_dict())}
    for varied in cfg.varies:
        if not any(f"{key}.".startswith(f"{varied}.") for key in keys):
            raise ConfigError(f"{path}: varies: {varied!r} is no key of these recipes; expected one such as model.head")
    for run in planned:
        differing = forbidden_differences(first.recipe.to_dict(), run.recipe.to_dict(), (*cfg.varies, "train.seed"))
        if differing:
            raise ConfigError(
                f"{path}: heads.{run.head}: differs from {first.head} in {', '.join(differing)}; only "
                f"{', '.join(cfg.varies)} may: make them agree, or name the key in `varies`"
            )
    return Study(path.stem, path, cfg, folder, tuple(planned), widths, search)


def _planned_search(cfg: LearningRates, mappings: Mapping[str, JSONDict], path: Path, folder: Path) -> RateSearch:
    runs: dict[str, dict[str, PlannedRun]] = {head: {} for head in mappings}
    for head, mapping in mappings.items():
        for rate, own in search_mappings(cfg, mapping, where=f"{path}: heads.{head}").items():
            name = f"{head}-lr{rate}"
            recipe = compose(own, file=f"{path}: heads.{head}")
            runs[head][rate] = PlannedRun(name, cfg.seed, recipe, not_a_link(folder / f"{name}-s{cfg.seed}"))
    recipes = [deciding_keys(run.recipe.to_dict(), with_eval=True) for own in runs.values() for run in own.values()]
    key = {"version": 1, "heads": list(runs), "grid": list(cfg.grid), "recipes": recipes}
    return RateSearch(runs, key, stored_rates(folder, key))


def _seeds_by_head(cfg: StudyConfig, num_seeds: int | None) -> dict[str, Seeds]:
    if isinstance(cfg.seeds, SeedsUntil):
        return dict.fromkeys(cfg.heads, tuple(range(num_seeds or cfg.seeds.at_least)))
    return cfg.seeds if isinstance(cfg.seeds, dict) else dict.fromkeys(cfg.heads, cfg.seeds)


def _head_dict(path: Path, cfg: StudyConfig, head: str) -> JSONDict:
    keys_or_file = cfg.heads[head]
    if isinstance(keys_or_file, str):
        return load_mapping(path.parent / keys_or_file)
    if cfg.base is None:
        raise ConfigError(f"{path}: heads.{head}: keys without a base; add `base: RECIPE.yaml`, or name a recipe file")
    return merge(load_mapping(path.parent / cfg.base), keys_or_file)


def forbidden_differences(recipe: JSONDict, other: JSONDict, varies: Sequence[str]) -> list[str]:
    """Returns dotted keys in which two recipes differ outside `varies`; folders of data and loading may differ."""
    return [
        key
        for key in differing_keys(recipe, other, with_eval=True)
        if not any(key == varied or key.startswith(f"{varied}.") for varied in varies)
    ]
