"""Does the context do anything? What a study's trained attention heads lose when their attention is broken."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segnl.core.errors import CheckpointError
from segnl.evaluation.predictions import Predictions, keep_predictions
from segnl.models.ablation import NOT_OF_THIS_HEAD, Ablation, why_not
from segnl.profiling.flops import on_fake_tensors
from segnl.runs.build import build_model
from segnl.runs.checkpoint import newest_checkpoint
from segnl.studies.study import PlannedRun, Study
from segnl.studies.verdicts import points

TITLE = "Does the context do anything?"
NOTE = (
    "Change of mIoU in points (and of the ambiguous pairs' accuracy) when a trained head's attention is broken at "
    "evaluation, mean over the runs, ± their standard deviation. What falls shows that the network uses its attention; "
    "whether a network trained without it would be worse is what the comparison with fcn says."
)
HARDLY = 0.001
"""Of mIoU: changes below a tenth of a point are called hardly any."""


@dataclass(frozen=True)
class AblationResult:
    """A head under one ablation. changes, ambiguous: of mIoU and of the pairs' accuracy, by run, fractions."""

    head: str
    ablation: Ablation
    changes: Mapping[str, float]
    ambiguous: Mapping[str, float]


def ablate(study: Study, whole: Mapping[str, Predictions], wrong: Mapping[str, str]) -> list[AblationResult]:
    """The study's ablations of every head that has them, in the study's order; what is kept is not scored again.

    whole: every run's predictions as it was trained. wrong: runs that do not count, by name.
    """
    found = []
    for head in study.heads:
        counted = [run for run in study.runs_of(head) if run.name not in wrong]
        for ablation in study.cfg.chosen_ablations():
            reason = _refusal(counted, whole, ablation)
            if reason is None:
                found.append(_broken(study, head, ablation, counted, whole))
            elif reason != NOT_OF_THIS_HEAD:
                print(f"ablation {ablation.name} of {head} is left out: {reason}")
    return found


def _refusal(runs: Sequence[PlannedRun], whole: Mapping[str, Predictions], ablation: Ablation) -> str | None:
    if not runs:
        return "no run of it counts"
    num_classes = whole[runs[0].name].true.shape[1]
    return on_fake_tensors(lambda: why_not(build_model(runs[0].recipe, num_classes, is_new=False), ablation))


def _broken(
    study: Study, head: str, ablation: Ablation, runs: Sequence[PlannedRun], whole: Mapping[str, Predictions]
) -> AblationResult:
    changes: dict[str, float] = {}
    ambiguous: dict[str, float] = {}
    for run in runs:
        checkpoint = newest_checkpoint(run.folder)
        if checkpoint is None:
            raise CheckpointError(f"{run.folder}: its checkpoints are gone; run the study again")
        before = whole[run.name].metrics
        after = keep_predictions(checkpoint, run.recipe, study.cfg.split, ablation).metrics
        pairs = [each.get("ambiguous", {}).get("mean") for each in (before, after)]
        if before["miou"] is not None and after["miou"] is not None:
            changes[run.name] = after["miou"] - before["miou"]
        if pairs[0] is not None and pairs[1] is not None:
            ambiguous[run.name] = pairs[1] - pairs[0]
    return AblationResult(head, ablation, changes, ambiguous)


def ablations_dict(found: Sequence[AblationResult]) -> dict[str, dict[str, Any]]:
    """`ablations` of compare's JSON: by head and ablation the mean change of mIoU, fractions, and each run's."""
    mapping: dict[str, dict[str, Any]] = {}
    for each in found:
        mapping.setdefault(each.head, {})[each.ablation.name] = {
            "meaning": each.ablation.meaning,
            "miou_change": _mean(each.changes),
            "miou_changes": dict(each.changes),
            "ambiguous_change": _mean(each.ambiguous),
        }
    return mapping


def _mean(changes: Mapping[str, float]) -> float | None:
    return statistics.fmean(changes.values()) if changes else None


def ablation_verdicts(found: Sequence[AblationResult]) -> list[str]:
    """A sentence for each head."""
    said = []
    for head in dict.fromkeys(each.head for each in found):
        known = [(each, _mean(each.changes)) for each in found if each.head == head]
        moved = [(each, change) for each, change in known if change is not None]
        if moved and all(abs(change) < HARDLY for _, change in moved):
            said.append(
                f"{head}: hardly anything. Whatever is done to its attention, mIoU moves by less than 0.1 points."
            )
        elif moved:
            said.append(f"{head}: " + ", ".join(f"{each.ablation.meaning} {points(change)}" for each, change in moved))
    return said


def ablation_grid(found: Sequence[AblationResult]) -> list[list[str]]:
    """The table's cells, titles first: a line a head, and one of its ambiguous pairs where there are some."""
    names = list(dict.fromkeys(each.ablation.name for each in found))
    lines = [["head", *names]]
    for head in dict.fromkeys(each.head for each in found):
        own = {each.ablation.name: each for each in found if each.head == head}
        lines.append([head, *(_cell(own[name].changes if name in own else {}) for name in names)])
        if any(each.ambiguous for each in own.values()):
            of_pairs = [_cell(own[name].ambiguous if name in own else {}) for name in names]
            lines.append([f"{head}, ambiguous pairs", *of_pairs])
    return lines


def ablation_meanings(found: Sequence[AblationResult]) -> dict[str, str]:
    """What each ablation of the table does, by its name."""
    return {each.ablation.name: each.ablation.meaning for each in found}


def _cell(changes: Mapping[str, float]) -> str:
    if not changes:
        return "–"
    spread = f" ± {100 * statistics.stdev(changes.values()):.2f}" if len(changes) > 1 else ""
    return points(statistics.fmean(changes.values())) + spread


def ablation_markdown(found: Sequence[AblationResult]) -> str:
    """A section of its own; empty where nothing was ablated."""
    if not found:
        return ""
    head, *rest = ablation_grid(found)
    lines = [
        f"| {' | '.join(head)} |",
        "|---|" + "---:|" * (len(head) - 1),
        *(f"| {' | '.join(row)} |" for row in rest),
    ]
    about = [f"- {name}: {meaning}" for name, meaning in ablation_meanings(found).items()]
    said = [f"- {line}" for line in ablation_verdicts(found)]
    return "\n".join(["", f"## {TITLE}", "", *said, "", *lines, "", NOTE, "", *about]) + "\n"
