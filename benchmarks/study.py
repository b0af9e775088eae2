"""Runs a study with `segnl compare` and keeps its results in a file small enough to be committed.

./run.sh bench study --config configs/compare/camvid.yaml [--jobs N] [--set A.B=C]

Resumable, as the study is. Writes benchmarks/results/studies/STUDY.json, from which benchmarks/pages.py makes
docs/results.md. The file holds every run's mIoU, the table, the verdicts, the ablations, and the origin of all this.
STUDY.npz beside it holds the counts of every image, so that benchmarks/judge.py can judge the study again.
Differences of single classes are only in checkpoints/STUDY/compare.json.
"""

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from command import ROOT, run_segnl

from segnl.core.environment import machine
from segnl.core.files import write_atomic
from segnl.runs.checkpoint import newest_checkpoint
from segnl.studies.results import score_runs
from segnl.studies.study import Study, load_study

RESULTS = ROOT / "benchmarks" / "results" / "studies"


def main() -> None:
    args = arguments(__doc__ or "", RESULTS).parse_args()
    study = run_study(args.config, args.jobs, args.overrides)
    write_result(args.out, study_result(study, args.jobs), kept_counts(study))


def arguments(text: str, out: Path, config: str | None = None) -> argparse.ArgumentParser:
    """Returns the parser of the arguments. config: the default study; None where one must be given."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=config, required=config is None, help="the study's file")
    parser.add_argument("--jobs", type=int, default=1, help="training runs at a time")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C", help="for every run")
    parser.add_argument("--out", type=Path, default=out, help=f"folder for STUDY.json (default {out})")
    return parser


def run_study(config: str, jobs: int, overrides: Sequence[str] = ()) -> Study:
    """Runs the study to its end; finished runs are not trained again. overrides: `a.b=c`, for every run's recipe."""
    run_segnl("compare", "--config", config, "--jobs", str(jobs), *(f"--set={text}" for text in overrides))
    study = load_study(Path(config), runs=ROOT / "checkpoints", overrides=overrides)
    if study.looks is None:
        return study
    comparison = json.loads((study.folder / "compare.json").read_text(encoding="utf-8"))
    return load_study(Path(config), runs=ROOT / "checkpoints", num_seeds=len(comparison["seeds"]), overrides=overrides)


def kept_counts(study: Study) -> dict[str, Any]:
    """Returns the arrays from which benchmarks/judge.py judges the study again: the runs that count, and the groups.

    head, seed: of each run. intersection, union: `runs n k`. target: `n k`. group: of each image; empty without groups.
    """
    scored = score_runs(study)
    runs = [(head, run) for head, own in scored.counts.items() for run in own]
    return {
        "head": np.array([head for head, _ in runs]),
        "seed": np.array([run.seed for _, run in runs]),
        "intersection": np.stack([run.intersection for _, run in runs]),
        "union": np.stack([run.union for _, run in runs]),
        "target": runs[0][1].target,
        "group": np.array(scored.groups or []),
    }


def study_result(study: Study, jobs: int) -> dict[str, Any]:
    """Returns the content of the result file. jobs: training runs at a time, which affect images/s."""
    comparison = json.loads((study.folder / "compare.json").read_text(encoding="utf-8"))
    recipe = study.runs[0].recipe
    checkpoints = [newest_checkpoint(run.folder) for run in study.runs]
    origins = [checkpoint.origin for checkpoint in checkpoints if checkpoint is not None]
    file = study.file.resolve()
    return {
        "study": study.name,
        "config": str(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file.name),
        "note": study.cfg.note,
        "data": recipe.data.title,
        "split": comparison["split"],
        "num_images": comparison["num_images"],
        "steps": comparison["steps"],
        "batch_size": recipe.train.batch_size,
        "crop_hw": recipe.data.crop_hw,
        "varies": study.cfg.varies,
        "seeds": {head: study.seeds_of(head) for head in study.heads},
        "looks": comparison["looks"],
        "learning_rates": comparison["learning_rates"],
        "heads": comparison["heads"],
        "runs": {
            head: {run.seed: comparison["runs"][run.name]["miou"] for run in study.runs_of(head)}
            for head in study.heads
        },
        "pairs": [{key: value for key, value in pair.items() if key != "per_class"} for pair in comparison["pairs"]],
        "verdicts": comparison["verdicts"],
        "ablations": comparison["ablations"],
        "refused": comparison["control"]["refused"],
        "git": list({json.dumps(origin["git"], sort_keys=True): origin["git"] for origin in origins}.values()),
        "versions": origins[0]["versions"],
        "machine": machine(),
        "jobs": jobs,
        "complete": True,
    }


def write_result(folder: Path, result: dict[str, Any], counts: dict[str, Any]) -> None:
    """Writes STUDY.json and STUDY.npz into that folder."""
    path = folder / f"{result['study']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **counts)
    write_atomic(path.with_suffix(".npz"), arrays.getvalue())
    write_atomic(path, json.dumps(result, indent=1).encode() + b"\n")
    print(f"written: {path} and its counts; to update the docs, run ./run.sh python benchmarks/pages.py")


if __name__ == "__main__":
    main()
