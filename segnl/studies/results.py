"""Results of a study: scores, costs, comparisons and ablations, collected from its trained runs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segnl.evaluation.evaluate_run import Evaluation, EvaluationRequest, evaluate_run
from segnl.metrics.significance import (
    ClassDifference,
    Comparison,
    RunCounts,
    class_differences,
    compare_heads,
)
from segnl.runs.run import finished_run
from segnl.studies.ablations import AblationResult, ablate
from segnl.studies.control import LoggedHashes, RunHashes, logged_hashes_of, refused_runs, run_hashes_of
from segnl.studies.cost import HeadCost, costs_of, train_images_per_s
from segnl.studies.matching import Width
from segnl.studies.study import PlannedRun, Study


@dataclass(frozen=True)
class HeadResult:
    """Results of one head. miou, ambiguous, boundary: one value for each run that counts; fractions.

    width: where the study matches the heads' sizes.
    """

    name: str
    miou: tuple[float, ...]
    ambiguous: tuple[float, ...]
    params: int
    gflops: float
    images_per_s: float | None
    boundary: tuple[float, ...] = ()
    latency_ms: float | None = None
    peak_mib: float | None = None
    width: Width | None = None

    @property
    def miou_mean(self) -> float:
        """Mean over seeds; NaN without a run."""
        return statistics.fmean(self.miou) if self.miou else math.nan

    @property
    def miou_sd(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return statistics.stdev(self.miou) if len(self.miou) > 1 else None

    @property
    def ambiguous_mean(self) -> float | None:
        """Mean over seeds; None where the data set has no ambiguous pairs."""
        return statistics.fmean(self.ambiguous) if self.ambiguous else None

    @property
    def boundary_mean(self) -> float | None:
        """Mean over seeds; None without a run."""
        return statistics.fmean(self.boundary) if self.boundary else None


@dataclass(frozen=True)
class StudyResults:
    """Results of a study.

    pairs: comparisons of every two heads. classes: for each of these pairs, differences by class name.
    evaluations, hashes, logged: by run name. refused: by run name, the reason why a run does not count.
    """

    study: Study
    heads: Sequence[HeadResult]
    pairs: Sequence[Comparison]
    classes: Sequence[Mapping[str, ClassDifference]]
    evaluations: Mapping[str, Evaluation]
    hashes: Mapping[str, RunHashes]
    logged: Mapping[str, LoggedHashes]
    refused: Mapping[str, str]
    ablations: Sequence[AblationResult] = ()

    @property
    def any_evaluation(self) -> Evaluation:
        """Those of the first run, for what is the same in all runs."""
        return self.evaluations[self.study.runs[0].name]

    def counted_runs(self, head: str) -> list[PlannedRun]:
        """Returns the head's runs that were not refused."""
        return [run for run in self.study.runs_of(head) if run.name not in self.refused]

    def counted_evaluations(self, head: str) -> list[Evaluation]:
        """Returns the evaluations of those runs."""
        return [self.evaluations[run.name] for run in self.counted_runs(head)]


def collect_results(study: Study) -> StudyResults:
    """Scores and compares the runs of a study; what the runs' folders hold already is not computed again."""
    request = EvaluationRequest(study.cfg.split)
    evaluations = {run.name: evaluate_run(finished_run(run.folder, run.recipe), request) for run in study.runs}
    hashes = {run.name: run_hashes_of(run) for run in study.runs}
    logged = {run.name: logged_hashes_of(run) for run in study.runs}
    refused = refused_runs(hashes, study.runs, logged, study.cfg.varies)
    counted = {head: [run for run in study.runs_of(head) if run.name not in refused] for head in study.heads}

    class_names = list(evaluations[study.runs[0].name].metrics["per_class"])
    costs = costs_of({head: study.runs_of(head)[0] for head in study.heads}, len(class_names))
    counts = {head: [_counts(evaluations[run.name], run.seed) for run in runs] for head, runs in counted.items()}
    pairs = compare_heads(counts)
    classes = [
        {class_names[difference.index]: difference for difference in class_differences(counts, pair.a, pair.b)}
        for pair in pairs
    ]
    heads = [
        _head_result(study, head, [evaluations[run.name] for run in counted[head]], costs[head]) for head in study.heads
    ]
    ablations = ablate(study, counted, evaluations)
    return StudyResults(study, heads, pairs, classes, evaluations, hashes, logged, refused, ablations)


def _counts(evaluation: Evaluation, seed: int) -> RunCounts:
    return RunCounts(evaluation.intersection, evaluation.union, seed, evaluation.target)


def _head_result(study: Study, head: str, runs: Sequence[Evaluation], cost: HeadCost) -> HeadResult:
    def known(key: str) -> tuple[float, ...]:
        return tuple(run.metrics[key] for run in runs if run.metrics[key] is not None)

    ambiguous = [run.metrics["ambiguous"]["mean"] for run in runs if "ambiguous" in run.metrics]
    rates = [rate for run in study.runs_of(head) if (rate := train_images_per_s(run.folder)) is not None]
    return HeadResult(
        name=head,
        miou=known("miou"),
        ambiguous=tuple(value for value in ambiguous if value is not None),
        params=cost.params,
        gflops=cost.gflops,
        images_per_s=statistics.median(rates) if rates else None,
        boundary=known("boundary_iou"),
        latency_ms=cost.latency_ms,
        peak_mib=cost.peak_mib,
        width=study.widths.get(head),
    )
