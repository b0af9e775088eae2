"""Results of a study: scores, costs, comparisons and ablations, collected from its trained runs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from segnl.core.config import JSONDict
from segnl.core.errors import DataError
from segnl.core.files import read_json, write_atomic
from segnl.data.digest import data_change, data_record
from segnl.data.groups import image_groups
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.evaluation.evaluation import Evaluation
from segnl.metrics.statistics.comparison import ClassDifference, Comparison, RunCounts, class_differences, compare_heads
from segnl.metrics.statistics.references import References, fallen_runs, reference_intervals
from segnl.runs.build import build_data
from segnl.runs.checkpoint import newest_checkpoint
from segnl.runs.run import finished_run
from segnl.studies.ablations import AblationResult, ablate
from segnl.studies.control import LoggedHashes, RunHashes, logged_hashes, refused_runs, run_hashes_of
from segnl.studies.cost import costs_of, train_images_per_s
from segnl.studies.study import PlannedRun, Study

LOOKS = "looks.json"
"""Record of the times at which a study was judged: adding seeds until a difference appears finds too many."""
MAX_LOOKS_RECORDED = 1000


@dataclass(frozen=True)
class Look:
    """A time at which a study was judged. seeds: by head. plan: the numbers of seeds of its stop rule."""

    seeds: dict[str, list[int]]
    plan: list[int] | None


@dataclass(frozen=True)
class HeadResult:
    """Results of one head, named as in compare.json; None for what was not measured.

    miou_mean, boundary_iou, ambiguous_acc: means over the runs that count, fractions. miou_sd: standard deviation; None
    for a single run. runs: how many count. matched_deviation: of the size, as a fraction of the target's.
    """

    name: str
    miou_mean: float | None
    miou_sd: float | None
    runs: int
    boundary_iou: float | None
    params: int
    gflops: float
    train_images_per_s: float | None
    latency_ms: float | None = None
    peak_mib: float | None = None
    matched_channels: int | None = None
    matched_deviation: float | None = None
    ambiguous_acc: float | None = None
    is_match_target: bool = False
    steps: int | None = None
    """Length of the head's trainings."""


@dataclass(frozen=True)
class ScoredRuns:
    """Evaluated runs of a study.

    evaluations, hashes, logged: by run name. refused: by run name, the reason why a run does not count. counts: by
    head, of the runs that count. groups: of each image. with_changed_data: names of runs whose training data have
    changed since.
    """

    study: Study
    evaluations: Mapping[str, Evaluation]
    hashes: Mapping[str, RunHashes]
    logged: Mapping[str, LoggedHashes]
    refused: Mapping[str, str]
    counts: Mapping[str, Sequence[RunCounts]]
    groups: Sequence[str] | None
    with_changed_data: Sequence[str]

    @property
    def any_evaluation(self) -> Evaluation:
        """Those of the first run, for what is the same in all runs."""
        return self.evaluations[self.study.runs[0].name]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.any_evaluation.metrics["per_class"])

    def counted_runs(self, head: str) -> list[PlannedRun]:
        """Returns the head's runs that were not refused."""
        return [run for run in self.study.runs_of(head) if run.name not in self.refused]

    def compare(self) -> list[Comparison]:
        """Compares the heads."""
        study = self.study
        against = study.heads[0] if study.cfg.compare.against == "control" and len(study.heads) > 1 else None
        return compare_heads(self.counts, groups=self.groups, against=against, looks=study.looks)


@dataclass(frozen=True, kw_only=True)
class StudyResults(ScoredRuns):
    """Results of a study.

    pairs: comparisons of every two heads. classes, references: for each of these pairs, differences by class name, and
    the intervals of other methods. fallen: by run name, how far a run is below its siblings. unplanned_looks: how often
    the study was judged before with other seeds.
    """

    heads: Sequence[HeadResult]
    pairs: Sequence[Comparison]
    classes: Sequence[Mapping[str, ClassDifference]]
    ablations: Sequence[AblationResult] = ()
    references: Sequence[References] = ()
    fallen: Mapping[str, float] = field(default_factory=dict)
    unplanned_looks: int = 0


def score_runs(study: Study) -> ScoredRuns:
    """Scores the runs of a study; what the runs' folders hold already is not computed again."""
    request = EvaluationRequest(study.cfg.split)
    evaluations = {run.name: evaluate_run(finished_run(run.folder, run.recipe), request) for run in study.runs}
    hashes = {run.name: run_hashes_of(run) for run in study.runs}
    logged = {run.name: logged_hashes(run.folder) for run in study.runs}
    refused = refused_runs(hashes, study.runs, logged, study.cfg.varies)
    counts: dict[str, list[RunCounts]] = {head: [] for head in study.heads}
    for run in (run for head in study.heads for run in study.runs_of(head) if run.name not in refused):
        own = evaluations[run.name]
        counts[run.head].append(RunCounts(own.intersection, own.union, run.seed, own.target))
    groups = image_groups(build_data(study.runs[0].recipe, study.cfg.split))
    return ScoredRuns(study, evaluations, hashes, logged, refused, counts, groups, _with_changed_data(study))


def _with_changed_data(study: Study) -> list[str]:
    names = []
    data_now: dict[str, JSONDict] = {}
    for run in (*study.runs, *study.searched_runs):
        settings = run.recipe.data.model_dump_json()
        if settings not in data_now:
            data_now[settings] = data_record(build_data(run.recipe, "train"))
        checkpoint = newest_checkpoint(run.folder)  # none of a training that diverged
        if checkpoint is not None and data_change(checkpoint.origin.get("data", {}), data_now[settings]):
            names.append(run.name)
    return names


def collect_results(study: Study) -> StudyResults:
    """Scores and compares the runs of a study; what the runs' folders hold already is not computed again."""
    scored = score_runs(study)
    evaluations, class_names, pairs = scored.evaluations, scored.class_names, scored.compare()
    counted = {head: scored.counted_runs(head) for head in study.heads}
    costs = costs_of({head: study.runs_of(head)[0] for head in study.heads}, len(class_names))
    by_class = (class_differences(scored.counts, pair.a, pair.b, groups=scored.groups) for pair in pairs)
    return StudyResults(
        **vars(scored),
        heads=[
            _head_result(study, head, [evaluations[run.name] for run in counted[head]], costs[head]) for head in counted
        ],
        pairs=pairs,
        classes=[{class_names[own.index]: own for own in differences} for differences in by_class],
        ablations=ablate(study, counted, evaluations),
        references=reference_intervals(scored.counts, [(pair.a, pair.b) for pair in pairs], groups=scored.groups),
        fallen=_fallen(counted, evaluations),
        unplanned_looks=unplanned_looks(study, pairs),
    )


def _fallen(counted: Mapping[str, Sequence[PlannedRun]], evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    miou = {head: [evaluations[run.name].metrics["miou"] for run in runs] for head, runs in counted.items()}
    known = {head: scores for head, scores in miou.items() if None not in scores}
    return {counted[head][i].name: fall for (head, i), fall in fallen_runs(known).items()}


def _head_result(study: Study, head: str, runs: Sequence[Evaluation], cost: JSONDict) -> HeadResult:
    miou = [run.metrics["miou"] for run in runs if run.metrics["miou"] is not None]
    boundary = [run.metrics["boundary_iou"] for run in runs if run.metrics["boundary_iou"] is not None]
    ambiguous = [run.metrics["ambiguous"]["mean"] for run in runs if "ambiguous" in run.metrics]
    rates = [rate for run in study.runs_of(head) if (rate := train_images_per_s(run.folder)) is not None]
    width = study.widths.get(head)
    return HeadResult(
        name=head,
        miou_mean=_mean(miou),
        miou_sd=statistics.stdev(miou) if len(miou) > 1 else None,
        runs=len(miou),
        boundary_iou=_mean(boundary),
        ambiguous_acc=_mean([value for value in ambiguous if value is not None]),
        train_images_per_s=statistics.median(rates) if rates else None,
        matched_channels=width.channels if width else None,
        matched_deviation=width.deviation if width else None,
        steps=study.steps[head],
        is_match_target=width is not None and width.is_target,
        **cost,
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def unplanned_looks(study: Study, pairs: Sequence[Comparison]) -> int:
    """Records this look in STUDY/looks.json and returns the number of earlier ones that no stop rule planned.

    A look is a verdict with p values. The same seeds again are the same look, and heads that are new are no reason to
    count one. The looks of a stop rule count where the rule has been changed since.
    """
    file = study.folder / LOOKS
    looks = recorded_looks(study.folder)
    own = Look(seeds={head: sorted(study.seeds_of(head)) for head in study.heads}, plan=list(study.cfg.looks) or None)
    earlier = [look for look in looks if _differs(look, own)]
    if own not in looks and any(pair.p is not None for pair in pairs):
        recorded = [asdict(look) for look in (*looks, own)]
        write_atomic(file, json.dumps(recorded[-MAX_LOOKS_RECORDED:], indent=1).encode())
    return len(earlier)


def _differs(look: Look, own: Look) -> bool:
    is_planned = own.plan is not None and look.plan == own.plan
    common = look.seeds.keys() & own.seeds.keys()
    return not is_planned and any(look.seeds[head] != own.seeds[head] for head in common)


def recorded_looks(folder: Path) -> list[Look]:
    """Reads the earlier looks at a study. Raises DataError for a damaged record: a look must not be forgotten."""
    file = folder / LOOKS
    try:
        looks = TypeAdapter(list[Look]).validate_python(read_json(file))
        return [replace(look, seeds={head: sorted(seeds) for head, seeds in look.seeds.items()}) for look in looks]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as err:
        raise DataError(
            f"{file}: the record of earlier verdicts cannot be read; restore it, or move it aside: then this study "
            "counts as never judged before"
        ) from err
