"""`segnl compare`: trains what is missing of a study, scores every run, prints the table, writes the report."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from segnl.core.errors import CheckpointError, ConfigError
from segnl.core.files import ensure_writable, run_lock, write_atomic
from segnl.core.run_log import read_log
from segnl.evaluation.predictions import Predictions, keep_predictions
from segnl.metrics.statistics.significance import (
    ClassDifference,
    Comparison,
    RunCounts,
    class_differences,
    compare_heads,
)
from segnl.reports.page import Grid
from segnl.runs.checkpoint import newest_checkpoint
from segnl.runs.recipe import differing_keys
from segnl.studies.ablations import (
    NOTE,
    TITLE,
    AblationResult,
    ablate,
    ablation_grid,
    ablation_markdown,
    ablation_meanings,
    ablation_verdicts,
    ablations_dict,
)
from segnl.studies.control import control_dict, logged_hashes_of, refused_runs, run_hashes_of
from segnl.studies.cost import Cost, costs_of, train_images_per_s
from segnl.studies.jobs import JobPool, slots, visible_gpus
from segnl.studies.report import StudyFindings, write_report
from segnl.studies.study import PlannedRun, Study, load_study
from segnl.studies.table import HeadResult, csv_text, grid_lines, heads_dict, markdown, pairs_dict, terminal, verdicts
from segnl.studies.verdicts import same_recipe_lines
from segnl.training.fit import fit


def compare(config: Path, json_file: Path | None = None, *, num_jobs: int = 1) -> None:
    """Runs the study of that file; raises StoppedError after a signal, and the same call resumes it.

    num_jobs: how many trainings are at work at once, in processes of their own where that is more than 1.
    """
    if num_jobs < 1:
        raise ConfigError(f"--jobs {num_jobs}: expected at least 1")
    study = load_study(config)
    for folder in (study.folder, *([json_file.parent] if json_file else [])):
        ensure_writable(folder)
    with run_lock(study.folder):
        train_all(study, num_jobs=num_jobs)
        report(study, json_file)


def train_all(study: Study, *, num_jobs: int = 1) -> None:
    """Trains every run that is not finished; raises StoppedError after a signal."""
    missing = [run for run in study.runs if not is_finished(run)]
    print(f"study {study.name}: {len(study.runs)} runs, {len(study.runs) - len(missing)} already trained", flush=True)
    if num_jobs > 1:
        JobPool(study.name, missing, slots(num_jobs, visible_gpus(), torch.get_num_threads())).train()
        return
    began = time.monotonic()
    for done, run in enumerate(missing):
        seconds = (time.monotonic() - began) / done * (len(missing) - done) if done else 0.0
        left = f", about {_minutes(seconds)} left for the study" if done else ""
        print(f"study {study.name}: run {done + 1} of {len(missing)}, {run.name}{left}", flush=True)
        ensure_writable(run.folder)
        run_hashes_of(run)
        fit(run.recipe, run.folder)


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"


def is_finished(run: PlannedRun) -> bool:
    """Whether the run's last checkpoint is of its last step.

    Raises ConfigError when the folder holds a run of another recipe: its score would not be this study's.
    """
    checkpoint = newest_checkpoint(run.folder) if run.folder.is_dir() else None
    if checkpoint is None:
        return False
    changed = differing_keys(run.recipe.to_dict(), checkpoint.recipe)
    if changed:
        raise ConfigError(
            f"{run.folder}: was trained with another recipe, which differs in {', '.join(changed)}; "
            "move that folder away, or give the study's file another name"
        )
    return checkpoint.step >= run.recipe.train.max_steps


def report(study: Study, json_file: Path | None) -> None:
    """Scores every run, unless that is done; writes table.md, table.csv, compare.json, report.html and sheet.png."""
    predictions = {run.name: _scored(study, run) for run in study.runs}
    hashes = {run.name: run_hashes_of(run) for run in study.runs}
    logged = {run.name: logged_hashes_of(run) for run in study.runs}
    refused = refused_runs(hashes, study.runs, logged, study.cfg.varies)
    num_classes = predictions[study.runs[0].name].true.shape[1]
    costs = costs_of({head: study.runs_of(head)[0] for head in study.heads}, num_classes)
    results = [_result(study, head, predictions, refused, costs[head]) for head in study.heads]
    counts = {head: _counts(study, head, predictions, refused) for head in study.heads}
    pairs = compare_heads(counts)
    names = list(predictions[study.runs[0].name].metrics["per_class"])
    classes = [_classes(counts, pair, names) for pair in pairs]
    broken = ablate(study, predictions, refused)
    said = [*verdicts(results, pairs), *same_recipe_lines(study.same_recipes)]
    found = StudyFindings(results, pairs, classes, predictions, hashes, refused, said, _grid(broken))
    _print_findings(found, broken)
    lines = [f"{name} {reason}" for name, reason in refused.items()]
    text = markdown(results, pairs, lines, said=said) + ablation_markdown(broken)
    write_atomic(study.folder / "table.md", text.encode())
    write_atomic(study.folder / "table.csv", csv_text(results, pairs).encode())
    mapping = _dict(study, found) | {"ablations": ablations_dict(broken)}
    mapping |= {"control": control_dict(hashes, refused, logged), "complete": True}
    for path in (study.folder / "compare.json", *([json_file] if json_file else [])):
        write_atomic(path, json.dumps(mapping, indent=1).encode())
    page = write_report(study, found)
    files = ", ".join(str(study.folder / name) for name in ("table.md", "table.csv", "compare.json"))
    print(f"table and numbers: {files}")
    print(f"page: {page} (opens in any browser, from disk)")


def _grid(broken: Sequence[AblationResult]) -> Grid | None:
    if not broken:
        return None
    return Grid(TITLE, ablation_verdicts(broken), ablation_grid(broken), NOTE, ablation_meanings(broken))


def _print_findings(found: StudyFindings, broken: Sequence[AblationResult]) -> None:
    for line in found.said:
        print(line)
    for name, reason in found.refused.items():
        print(f"refused: {name} {reason}")
    print(f"\n{terminal(found.results, found.pairs, width=shutil.get_terminal_size((200, 40)).columns)}\n")
    if broken:
        about = [f"{name}: {meaning}" for name, meaning in ablation_meanings(broken).items()]
        said = [TITLE, *ablation_verdicts(broken), "", grid_lines(ablation_grid(broken))]
        print("\n".join([*said, "", NOTE, *about, ""]))


def _scored(study: Study, run: PlannedRun) -> Predictions:
    checkpoint = newest_checkpoint(run.folder)
    if checkpoint is None or checkpoint.step < run.recipe.train.max_steps:
        raise CheckpointError(f"{run.folder}: not trained to its end; run the study again")
    return keep_predictions(checkpoint, run.recipe, study.cfg.split)


def _result(
    study: Study, head: str, predictions: dict[str, Predictions], refused: dict[str, str], cost: Cost
) -> HeadResult:
    runs = study.runs_of(head)
    counted = [run for run in runs if run.name not in refused]
    found = [predictions[run.name].metrics for run in counted]
    ambiguous = [metrics["ambiguous"]["mean"] for metrics in found if "ambiguous" in metrics]
    rates = [rate for rate in (train_images_per_s(run.folder) for run in runs) if rate is not None]
    return HeadResult(
        name=head,
        miou=tuple(metrics["miou"] for metrics in found if metrics["miou"] is not None),
        ambiguous=tuple(value for value in ambiguous if value is not None),
        params=cost.params,
        gflops=cost.gflops,
        images_per_s=float(np.median(rates)) if rates else None,
        boundary=tuple(value for value in (metrics["boundary_iou"] for metrics in found) if value is not None),
        latency_ms=cost.latency_ms,
        peak_mib=cost.peak_mib,
        width=study.widths.get(head),
    )


def _counts(study: Study, head: str, predictions: dict[str, Predictions], refused: dict[str, str]) -> list[RunCounts]:
    counted = [(predictions[run.name], run.seed) for run in study.runs_of(head) if run.name not in refused]
    return [RunCounts(each.right, each.true + each.predicted - each.right, seed, each.true) for each, seed in counted]


def _classes(counts: dict[str, list[RunCounts]], pair: Comparison, names: Sequence[str]) -> dict[str, ClassDifference]:
    return {names[each.index]: each for each in class_differences(counts, pair.a, pair.b)}


def _dict(study: Study, found: StudyFindings) -> dict[str, object]:
    return {
        "study": study.name,
        "split": study.cfg.split,
        "num_images": len(found.predictions[study.runs[0].name].sample_ids),
        "seeds": study.cfg.seeds,
        "steps": study.runs[0].recipe.train.max_steps,
        "heads": heads_dict(found.results),
        "pairs": pairs_dict(found.pairs, found.classes),
        "verdicts": found.said,
        "commonest_class_miou": found.predictions[study.runs[0].name].commonest_class()[1],
        "runs": {run.name: _run_dict(run, found.predictions[run.name]) for run in study.runs},
    }


def _run_dict(run: PlannedRun, predictions: Predictions) -> dict[str, object]:
    metrics = predictions.metrics
    return {
        "miou": metrics["miou"],
        "boundary_iou": metrics["boundary_iou"],
        "pixel_acc": metrics["pixel_acc"],
        "ambiguous": metrics.get("ambiguous"),
        "checkpoint": metrics["checkpoint"],
        "starts": sum(line.get("event") == "start" for line in read_log(run.folder / "log.jsonl")),
    }
