"""Conditions under which results came about: what is known to be equal, what differs, what is not known. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from segnl.core.config import JSONDict

State = Literal["equal", "differs", "not known"]

ASPECTS: Mapping[str, tuple[str, ...]] = {
    "training data": ("data.",),
    "training steps and batch size": ("train.max_steps", "train.batch_size", "train.accumulate", "train.epochs"),
    "crops and augmentation": (
        "data.crop_hw",
        "data.scale",
        "data.flip",
        "data.distort",
        "data.augment",
        "data.short_side_px",
        "data.crop_max_class",
    ),
    "backbone and the source of its weights": ("model.backbone", "init"),
    "head": ("model.head",),
    "other parts of the network": ("model.",),
    "optimiser, schedule, loss": ("optim.", "schedule.", "loss."),
    "other training settings": ("train.",),
    "inference settings": ("eval.",),
}
"""Beginnings of recipe keys by aspect; a key belongs to the aspect with the longest beginning that fits."""


@dataclass(frozen=True)
class Training:
    """How a run was trained. is_known: False for imported weights, whose recipe says nothing about their training.

    recipe: plain. flat: its values by dotted key. batches: hashes of the training batches by step; empty where the log
    has none.
    """

    recipe: JSONDict
    flat: Mapping[str, Any]
    seed: int | None
    is_known: bool
    batches: Mapping[int, str]

    def differing_keys(self, other: "Training") -> list[str]:
        """Returns the dotted recipe keys in which the two trainings differ."""
        from segnl.runs.recipe import differing_keys  # which imports torch

        return differing_keys(self.recipe, other.recipe, with_eval=True)


@dataclass(frozen=True)
class Condition:
    """One aspect of how the compared models came about. detail: what differs, or why it is not known."""

    aspect: str
    state: State
    detail: str


def conditions(models: Mapping[str, Sequence[Training | None]]) -> list[Condition]:
    """Returns what was equal between the models. models: the trainings of their results by name; None: only counts."""
    unknown = [
        name for name, own in models.items() if any(training is None or not training.is_known for training in own)
    ]
    known = {
        name: [training for training in own if training is not None]
        for name, own in models.items()
        if name not in unknown
    }
    keys = _differing_by_aspect(known)
    scored = Condition("labels of the scored images, classes", "equal", "compared image by image")
    by_recipe = [_condition(aspect, keys[aspect], known, unknown) for aspect in ASPECTS]
    return [scored, *by_recipe, _seeds(known, unknown), *_batches(known, unknown)]


def _differing_by_aspect(known: Mapping[str, Sequence[Training]]) -> dict[str, list[str]]:
    trainings = [training for own in known.values() for training in own]
    differing = sorted({key for training in trainings[1:] for key in trainings[0].differing_keys(training)})
    keys: dict[str, list[str]] = {aspect: [] for aspect in ASPECTS}
    for key in (key for key in differing if key != "train.seed"):
        starts = [(len(start), aspect) for aspect, own in ASPECTS.items() for start in own if key.startswith(start)]
        keys[max(starts)[1] if starts else "other training settings"].append(key)
    return keys


def _condition(
    aspect: str, keys: Sequence[str], known: Mapping[str, Sequence[Training]], unknown: Sequence[str]
) -> Condition:
    if keys:
        values = [f"{key}: {_values(key, known)}" for key in keys[:4]]
        more = f"; and {len(keys) - 4} more keys" if len(keys) > 4 else ""
        rest = f"; {_unknown_text(unknown)}" if unknown else ""
        return Condition(aspect, "differs", f"{'; '.join(values)}{more}{rest}")
    if unknown:
        return Condition(aspect, "not known", _unknown_text(unknown))
    if aspect == "training data" and len({own[0].flat["data.root"] for own in known.values()}) > 1:
        return Condition(aspect, "not known", f"the folders differ: {_values('data.root', known)}")
    return Condition(aspect, "equal", "by the recipes")


def _values(key: str, known: Mapping[str, Sequence[Training]]) -> str:
    return ", ".join(f"{name} {own[0].flat.get(key, 'none')}" for name, own in known.items())


def _unknown_text(names: Sequence[str]) -> str:
    return f"nothing is recorded for {', '.join(names)}"


def _seeds(known: Mapping[str, Sequence[Training]], unknown: Sequence[str]) -> Condition:
    if unknown:
        return Condition("seeds", "not known", _unknown_text(unknown))
    seeds = {name: ", ".join(str(training.seed) for training in own) for name, own in known.items()}
    if len(set(seeds.values())) == 1:
        return Condition("seeds", "equal", next(iter(seeds.values())))
    return Condition("seeds", "differs", "; ".join(f"{name}: {text}" for name, text in seeds.items()))


def _batches(known: Mapping[str, Sequence[Training]], unknown: Sequence[str]) -> list[Condition]:
    """Compares the logged hashes of the batches of equal seeds; nothing where the models share no seed."""
    if unknown:
        return [Condition("training batches", "not known", _unknown_text(unknown))]
    first, *others = known.values()
    pairs = [(a, b) for own in others for a in first for b in own if a.seed == b.seed]
    if not pairs:
        return []
    aspect = "training batches of equal seeds"
    if not all(a.batches and b.batches for a, b in pairs):
        return [Condition(aspect, "not known", "a log has no hashes of its batches")]
    shared = [a.batches.keys() & b.batches.keys() for a, b in pairs]
    differing = [
        step
        for (a, b), steps in zip(pairs, shared, strict=True)
        for step in steps
        if a.batches[step] != b.batches[step]
    ]
    if differing:
        return [Condition(aspect, "differs", f"from step {min(differing)} on, by the hashes in log.jsonl")]
    return [Condition(aspect, "equal", "by the hashes in log.jsonl, in the steps that both have")]
