"""Ablations of trained attention: the change of a head's scores when its attention is broken at evaluation."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segnl.core.log import log
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.evaluation.evaluation import Evaluation
from segnl.models.ablation import NO_ATTENTION, Ablation, unavailable_reason
from segnl.profiling.flops import on_fake_tensors
from segnl.reports.page import Grid
from segnl.runs.build import build_model
from segnl.runs.run import finished_run
from segnl.studies.study import PlannedRun, Study
from segnl.studies.verdicts import points

TITLE = "Does the context matter?"
NOTE = (
    "Change of mIoU in points (and of the accuracy on ambiguous pairs) when the attention of a trained head is broken "
    "at evaluation: mean over the runs, ± their standard deviation. A loss shows that the network uses its attention. "
    "Whether a network trained without attention would be worse is a question for the comparison with fcn."
)
NEGLIGIBLE = 0.001
"""Of mIoU: a change below a tenth of a point counts as none."""


@dataclass(frozen=True)
class AblationResult:
    """One head under one ablation. changes, ambiguous: of mIoU and of the pairs' accuracy, by run name, fractions."""

    head: str
    ablation: Ablation
    changes: Mapping[str, float]
    ambiguous: Mapping[str, float]


def ablate(
    study: Study, runs: Mapping[str, Sequence[PlannedRun]], evaluations: Mapping[str, Evaluation]
) -> list[AblationResult]:
    """Scores every head under those of the study's ablations that it has; kept scores are not computed again.

    runs: by head, those that count. evaluations: of the intact networks, by run name.
    """
    results = []
    for head, ablation in itertools.product(study.heads, study.cfg.chosen_ablations()):
        reason = _obstacle(runs[head], evaluations, ablation)
        if reason is None:
            request = EvaluationRequest(study.cfg.split, ablation=ablation)
            changes: dict[str, float] = {}
            ambiguous: dict[str, float] = {}
            for run in runs[head]:
                before = evaluations[run.name].metrics
                after = evaluate_run(finished_run(run.folder, run.recipe), request).metrics
                if before["miou"] is not None and after["miou"] is not None:
                    changes[run.name] = after["miou"] - before["miou"]
                pairs_before, pairs_after = (metrics.get("ambiguous", {}).get("mean") for metrics in (before, after))
                if pairs_before is not None and pairs_after is not None:
                    ambiguous[run.name] = pairs_after - pairs_before
            results.append(AblationResult(head, ablation, changes, ambiguous))
        elif reason != NO_ATTENTION:
            log.info("ablation %s of %s is left out: %s", ablation.name, head, reason)
    return results


def _obstacle(runs: Sequence[PlannedRun], evaluations: Mapping[str, Evaluation], ablation: Ablation) -> str | None:
    if not runs:
        return "no run of it counts"
    num_classes = evaluations[runs[0].name].target.shape[1]
    return on_fake_tensors(lambda: unavailable_reason(build_model(runs[0].recipe, num_classes, is_new=False), ablation))


def ablations_dict(results: Sequence[AblationResult]) -> dict[str, dict[str, Any]]:
    """Returns `ablations` of compare's JSON: by head and ablation, changes as fractions, of each run and their mean."""
    mapping: dict[str, dict[str, Any]] = {}
    for result in results:
        mapping.setdefault(result.head, {})[result.ablation.name] = {
            "meaning": result.ablation.meaning,
            "miou_change": _mean(result.changes),
            "miou_changes": dict(result.changes),
            "ambiguous_change": _mean(result.ambiguous),
        }
    return mapping


def _mean(changes: Mapping[str, float]) -> float | None:
    return statistics.fmean(changes.values()) if changes else None


def ablation_grid(results: Sequence[AblationResult]) -> Grid | None:
    """Returns the table of all ablations, a row for each head and one for its ambiguous pairs; None without results."""
    if not results:
        return None
    meanings = {result.ablation.name: result.ablation.meaning for result in results}
    rows, sentences = [["head", *meanings]], []
    for head in dict.fromkeys(result.head for result in results):
        own = {result.ablation.name: result for result in results if result.head == head}
        rows.append([head, *(_cell(own[name].changes if name in own else {}) for name in meanings)])
        if any(result.ambiguous for result in own.values()):
            pairs = [_cell(own[name].ambiguous if name in own else {}) for name in meanings]
            rows.append([f"{head}, ambiguous pairs", *pairs])
        sentences += _sentence(head, own)
    return Grid(TITLE, sentences, rows, NOTE, meanings)


def _sentence(head: str, own: Mapping[str, AblationResult]) -> list[str]:
    means = {result.ablation.meaning: mean for result in own.values() if (mean := _mean(result.changes)) is not None}
    if not means:
        return []
    if all(abs(change) < NEGLIGIBLE for change in means.values()):
        return [f"{head}: hardly. None of the ablations changes its mIoU by 0.1 points."]
    return [f"{head}: " + ", ".join(f"{meaning} {points(change)}" for meaning, change in means.items())]


def _cell(changes: Mapping[str, float]) -> str:
    if not changes:
        return "–"
    spread = f" ± {100 * statistics.stdev(changes.values()):.2f}" if len(changes) > 1 else ""
    return points(statistics.fmean(changes.values())) + spread
