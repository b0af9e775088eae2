"""A study in one YAML: a base recipe, the heads laid upon it, the seeds; and from it the plan of every run."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from segnl.core.config import Config, JSONDict, load_mapping, merge, read_file, validate
from segnl.core.errors import ConfigError
from segnl.core.files import inside
from segnl.models.ablation import Ablation, parse_ablation
from segnl.runs.folder import RUNS
from segnl.runs.recipe import Recipe, compose, differing_keys
from segnl.studies.matching import Measure, Width, matched_widths, with_width

Seeds = tuple[int, ...]
ABLATIONS = ("gamma0", "shuffled", "window=0", "window=4")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class StudyConfig(Config):
    """The keys of a study's file; paths in it are relative to that file."""

    base: str | None = None
    """A recipe file: what every run begins with."""
    heads: Annotated[dict[str, str | dict[str, Any]], Field(min_length=1)]
    """By the name that table and page shall show: keys laid upon the base, or a recipe file of its own. The first one
    is the control that the others are held against."""
    seeds: Seeds | dict[str, Seeds] = (0,)
    """Of every head; or by head's name, where each has seeds of its own."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys laid upon every run."""
    varies: tuple[str, ...] = ("model.head",)
    """The only parts of a recipe, besides the seed, in which two runs may differ."""
    split: str = "val"
    match: Measure | None = None
    """params or gflops: `model.head.channels` of every head is solved for, so that they agree (studies/matching.py)."""
    match_to: str | None = None
    """The head whose size the others take; null: the control."""
    ablations: bool | tuple[str, ...] = False
    """What is done to trained attention at evaluation (models/ablation.py): names, or true for the usual ones."""
    note: str = ""
    """A sentence for the page: what a reader should know of this study."""
    gallery: Annotated[int, Field(ge=0, le=10_000)] = 24
    """How many images the page shows, those first on which the heads disagree most."""

    @model_validator(mode="after")
    def _match_to_is_a_head(self) -> "StudyConfig":
        if self.match_to is not None and (self.match is None or self.match_to not in self.heads):
            raise ValueError(
                f"match_to: {self.match_to} needs `match: params` or `match: gflops`, and a head of that name"
            )
        return self

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
        """In the order in which the table shows them."""
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
    def _whole_numbers_each_once(cls, given: Any) -> Seeds | dict[str, Seeds]:
        lists = given if isinstance(given, dict) else {"": given}
        for seeds in lists.values():
            is_list = isinstance(seeds, list | tuple) and len(seeds) > 0
            if not is_list or any(type(seed) is not int or seed < 0 for seed in seeds):
                raise ValueError("expected whole numbers from 0 on, such as [0, 1, 2], or such a list for every head")
            if len(set(seeds)) != len(seeds):
                raise ValueError("a seed stands twice; it would be the same run")
        return {head: tuple(seeds) for head, seeds in given.items()} if isinstance(given, dict) else tuple(given)

    @model_validator(mode="after")
    def _seeds_of_every_head(self) -> "StudyConfig":
        if isinstance(self.seeds, dict) and self.seeds.keys() != self.heads.keys():
            wrong = sorted(self.seeds.keys() ^ self.heads.keys())
            raise ValueError(f"seeds: by head they need a list for each of `heads` and no other; look at {wrong[0]}")
        return self

    def seeds_of(self, head: str) -> Seeds:
        return self.seeds[head] if isinstance(self.seeds, dict) else self.seeds


@dataclass(frozen=True)
class PlannedRun:
    """One training of a study and the folder that holds it."""

    head: str
    seed: int
    recipe: Recipe
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.head}-s{self.seed}"


@dataclass(frozen=True)
class Study:
    """A checked study. runs: every head's first seed, then every head's second, and so on."""

    name: str
    file: Path
    cfg: StudyConfig
    folder: Path
    runs: tuple[PlannedRun, ...]
    widths: Mapping[str, Width] = field(default_factory=dict)
    """By head, where the study matches them."""

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.cfg.heads)

    @property
    def shared_seed(self) -> int | None:
        """The first seed that every head has; None where there is none, so that nothing is shared but the recipe."""
        first, *others = (self.cfg.seeds_of(head) for head in self.heads)
        return next((seed for seed in first if all(seed in seeds for seeds in others)), None)

    @property
    def same_recipes(self) -> tuple[tuple[str, ...], ...]:
        """Heads that are one recipe under several names: what differs between them is chance."""
        mappings = {head: self.runs_of(head)[0].recipe.to_dict() for head in self.heads}
        groups: list[list[str]] = []
        for head, mapping in mappings.items():
            like = [
                group for group in groups if not forbidden_differences(mappings[group[0]], mapping, ("train.seed",))
            ]
            if like:
                like[0].append(head)
            else:
                groups.append([head])
        return tuple(tuple(group) for group in groups if len(group) > 1)

    def runs_of(self, head: str) -> tuple[PlannedRun, ...]:
        return tuple(run for run in self.runs if run.head == head)


def load_study(path: Path, *, runs: Path = RUNS) -> Study:
    """Reads a study whose runs will lie in `runs`/STEM/HEAD-sSEED, STEM being the file's.

    Raises ConfigError for any fault of the file or of a recipe in it, and for a head whose recipe differs from the
    control's in more than `varies`.
    """
    cfg = validate(StudyConfig, read_file(path), file=str(path))
    runs.mkdir(parents=True, exist_ok=True)
    folder = inside(runs, path.stem)
    mappings = {head: merge(_head_dict(path, cfg, head), cfg.overrides) for head in cfg.heads}
    widths: dict[str, Width] = {}
    if cfg.match is not None:
        to = cfg.match_to or next(iter(cfg.heads))
        widths = matched_widths(mappings, to, cfg.match, file=str(path), kept=folder)
        mappings = {head: with_width(mapping, widths[head].channels) for head, mapping in mappings.items()}
    turns = itertools.zip_longest(*([(head, seed) for seed in cfg.seeds_of(head)] for head in cfg.heads))
    in_order = [pair for turn in turns for pair in turn if pair is not None]
    planned = tuple(_plan(path, folder, head, seed, mappings[head]) for head, seed in in_order)
    _require_control(path, cfg, planned)
    return Study(path.stem, path, cfg, folder, planned, widths)


def _plan(path: Path, folder: Path, head: str, seed: int, mapping: JSONDict) -> PlannedRun:
    recipe = compose(merge(mapping, {"train": {"seed": seed}}), file=f"{path}: heads.{head}")
    return PlannedRun(head, seed, recipe, folder / f"{head}-s{seed}")


def _head_dict(path: Path, cfg: StudyConfig, head: str) -> JSONDict:
    given = cfg.heads[head]
    if isinstance(given, str):
        return load_mapping(path.parent / given)
    if cfg.base is None:
        raise ConfigError(f"{path}: heads.{head}: keys without a base; add `base: RECIPE.yaml`, or name a recipe file")
    return merge(load_mapping(path.parent / cfg.base), given)


def _require_control(path: Path, cfg: StudyConfig, runs: Sequence[PlannedRun]) -> None:
    """Raises ConfigError where two runs differ in more than their seed and what the study varies."""
    first = runs[0]
    for run in runs:
        wrong = forbidden_differences(first.recipe.to_dict(), run.recipe.to_dict(), (*cfg.varies, "train.seed"))
        if wrong:
            raise ConfigError(
                f"{path}: heads.{run.head}: differs from {first.head} in {', '.join(wrong)}; only "
                f"{', '.join(cfg.varies)} may: make them agree, or name the key in `varies`"
            )


def forbidden_differences(one: Mapping[str, Any], other: Mapping[str, Any], varies: Sequence[str]) -> list[str]:
    """Dotted keys in which two recipes differ outside `varies`; where data lie and how they are fetched is free."""
    return [
        key
        for key in differing_keys(dict(one), dict(other), with_eval=True)
        if not any(key == part or key.startswith(f"{part}.") for part in varies)
    ]
