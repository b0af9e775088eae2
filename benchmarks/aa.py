"""A/A test: trains one recipe with 8 seeds and counts how often 4 of them are called different from the other 4.

./run.sh bench aa [--config configs/compare/aa_streets.yaml] [--jobs N]

Makes data/streets first where the study needs it. Resumable. Writes benchmarks/results/aa/STUDY.json: the study's own
verdict, and every way to split the runs into two halves (35 for 8 runs). benchmarks/pages.py makes docs/statistics.md
from it.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command import ROOT, run_segnl
from study import arguments, kept_counts, run_study, study_result, write_result

from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.metrics.statistics.comparison import RunCounts, compare_heads
from segnl.runs.run import finished_run
from segnl.studies.study import load_study

CONFIG = "configs/compare/aa_streets.yaml"
DATA = Path("data/streets")
RESULTS = ROOT / "benchmarks" / "results" / "aa"


def main() -> None:
    args = arguments(__doc__ or "", RESULTS, CONFIG).parse_args()
    planned = load_study(Path(args.config), runs=ROOT / "checkpoints")
    if planned.same_recipes != (planned.heads,):
        raise SystemExit(f"{args.config}: its heads differ; an A/A study needs one recipe under several names")
    if planned.runs[0].recipe.data.root == DATA:
        run_segnl("data", "streets", "--out", str(DATA))
    study = run_study(args.config, args.jobs)
    names, counts = [], []
    for run in study.runs:
        evaluation = evaluate_run(finished_run(run.folder, run.recipe), EvaluationRequest(study.cfg.split))
        names.append(run.name)
        counts.append(RunCounts(evaluation.intersection, evaluation.union, target=evaluation.target))
    write_result(args.out, study_result(study, args.jobs) | {"splits": splits(names, counts)}, kept_counts(study))


def splits(names: Sequence[str], counts: Sequence[RunCounts]) -> list[dict[str, Any]]:
    """Returns every way to split runs of one recipe into two halves, each compared as in a study.

    The first run is always in half `a`, because swapped halves are the same comparison. Of an odd number, `b` gets one
    run more.
    """
    runs, keys = range(len(counts)), ("difference", "low", "high", "p", "images_low", "images_high")
    results = []
    for others in itertools.combinations(runs[1:], len(counts) // 2 - 1):
        half = [0, *others]
        rest = [i for i in runs if i not in half]
        (pair,) = compare_heads({"b": [counts[i] for i in rest], "a": [counts[i] for i in half]})
        results.append({"a": [names[i] for i in half]} | {key: getattr(pair, key) for key in keys})
    return results


if __name__ == "__main__":
    main()
