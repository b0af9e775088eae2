"""Search of each head's learning rate before a study's runs, with the same budget for every head (docs/arena.md).

Every head is trained with each rate of the grid on a part of the training images, and scored on the rest of them; the
split on which the study compares the heads is not used. A search run is an ordinary run, STUDY/HEAD-lrRATE-sSEED.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from segnl.core.config import Config, Count, JSONDict, Seed, merge
from segnl.core.errors import ConfigError
from segnl.core.result_cache import Record, ResultCache
from segnl.core.run_log import read_log
from segnl.runs.recipe import Recipe

NAME = "learning-rates"


class LearningRates(Config):
    """Budget of the search, the same for every head."""

    grid: Annotated[tuple[Annotated[float, Field(gt=0, le=1e30)], ...], Field(min_length=2, max_length=16)]
    """Values of optim.lr that are tried, each once."""
    steps: Count
    """Length of each training of the search."""
    folds: Annotated[int, Field(ge=2, le=100)] = 3
    """Parts into which the training images are dealt, groups (data.group) whole; one of them is scored."""
    seed: Seed = 0
    """Of the search's trainings and of the dealing. The study's seeds all take the rate that it finds."""

    @field_validator("grid")
    @classmethod
    def _differ(cls, grid: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(grid)) < len(grid):
            raise ValueError("a rate stands twice; name it once")
        return grid


@dataclass(frozen=True)
class ChosenRates:
    """Result of a search.

    rates: by head. miou: by head, then by rate as text, on the images left out; None where the training diverged.
    train_s: seconds of training, over all runs.
    """

    rates: Mapping[str, float]
    miou: Mapping[str, Mapping[str, float | None]]
    train_s: float

    def at_edge(self) -> list[str]:
        """Returns the heads whose rate is the lowest or the highest of the grid: a better one may lie beyond."""
        edges = {head: sorted(map(float, by_rate)) for head, by_rate in self.miou.items()}
        return [head for head, rate in self.rates.items() if rate in (edges[head][0], edges[head][-1])]


def search_mappings(cfg: LearningRates, mapping: JSONDict, *, where: str) -> dict[str, JSONDict]:
    """Returns the recipe of each search run of a head, by its rate as text. where: for messages.

    Raises ConfigError for a recipe with a data.fold of its own.
    """
    if mapping.get("data", {}).get("fold") is not None:
        raise ConfigError(f"{where}: data.fold: learning_rates sets it for the search; leave one of them out")
    fold = {"count": cfg.folds, "number": cfg.seed % cfg.folds, "seed": cfg.seed}
    train = {"seed": cfg.seed, "max_steps": cfg.steps, "save_every": cfg.steps, "eval_every": None}
    own = merge(mapping, {"data": {"fold": fold}, "train": train})
    return {_text(rate): merge(own, {"optim": {"lr": rate}}) for rate in cfg.grid}


def _text(rate: float) -> str:
    """Returns a rate in the fewest digits that tell it from all others."""
    return f"{rate:g}" if float(f"{rate:g}") == rate else repr(rate)


def stored_rates(folder: Path, key: JSONDict) -> ChosenRates | None:
    """Returns the result of the search with this key in a study's folder; None where there is none."""

    def is_valid(chosen: ChosenRates) -> bool:
        are_of_grid = all(sorted(map(float, own)) == sorted(key["grid"]) for own in chosen.miou.values())
        return are_of_grid and {*key["heads"]} == chosen.miou.keys() and chosen.rates == _best_rates(chosen.miou)

    return ResultCache.of(folder).stored_value(NAME, key, ChosenRates, is_valid=is_valid)


def store_rates(
    folder: Path, key: JSONDict, miou: Mapping[str, Mapping[str, float | None]], runs: Sequence[Path]
) -> None:
    """Chooses for each head the rate with the highest mIoU and keeps the result. runs: the search runs' folders.

    Raises ConfigError when every training of a head diverged.
    """
    rates = _best_rates(miou)
    for head in miou.keys() - rates.keys():
        raise ConfigError(f"learning_rates: every training of {head} diverged; give lower rates in `grid`")
    chosen = ChosenRates(rates, miou, sum(map(train_seconds, runs)))
    ResultCache.of(folder).store(NAME, Record(key, asdict(chosen)))


def _best_rates(miou: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Returns the rate with the highest mIoU by head, but for heads without any."""
    rates = {}
    for head, by_rate in miou.items():
        known = {float(rate): value for rate, value in by_rate.items() if value is not None}
        if known:
            rates[head] = max(known, key=lambda rate: known[rate])
    return rates


def train_seconds(run: Path) -> float:
    """Returns the seconds that the steps of a run took, by its log."""
    keys = ("data_s", "forward_s", "backward_s", "optim_s")
    return sum(line.get(key, 0.0) for line in read_log(run / "log.jsonl") for key in keys)


def rates_text(cfg: LearningRates | None, chosen: ChosenRates | None, recipes: Mapping[str, Recipe]) -> str:
    """Returns how the heads came by their learning rates, for the page. recipes: by head."""
    if cfg is None or chosen is None:
        rates = {f"{recipe.optim.lr:g}" for recipe in recipes.values()}
        if len(rates) == 1:
            return f"one for all heads, {rates.pop()}, not searched: another one may suit some heads better"
        return "the study's file gives each head's: " + ", ".join(f"{h} {r.optim.lr:g}" for h, r in recipes.items())
    heads_of: dict[float, list[str]] = {}
    for head, rate in chosen.rates.items():
        heads_of.setdefault(rate, []).append(head)
    found = "; ".join(f"{rate:g}: {', '.join(heads_of[rate])}" for rate in sorted(heads_of))
    edge, num_runs = chosen.at_edge(), sum(map(len, chosen.miou.values()))
    return (
        f"searched with the same budget for every head: {len(cfg.grid)} rates, {cfg.steps} steps each, on "
        f"{cfg.folds - 1} of {cfg.folds} parts of the training images and scored on the other; {num_runs} runs, "
        f"{chosen.train_s / 60:.1f} minutes of training. {found}"
        + (f". At the grid's edge, so that a better one may lie beyond: {', '.join(edge)}" if edge else "")
    )
