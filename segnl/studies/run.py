"""Runs a study: trains the missing runs, scores all of them, and writes table, numbers and page."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from segnl.core.archives import sha256_of
from segnl.core.errors import ConfigError, DataError, SegnlError
from segnl.core.files import ensure_writable, read_json, run_lock, write_atomic, write_text
from segnl.core.limits import require_count
from segnl.core.log import log
from segnl.core.outputs import marked, require_own
from segnl.core.result_cache import digest_of
from segnl.core.run_log import read_log
from segnl.data.base import SegmentationData
from segnl.data.digest import content_digest
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.runs.build import build_data, build_model, device_of
from segnl.runs.checkpoint import newest_checkpoint
from segnl.runs.folder import features_folder
from segnl.runs.recipe import differing_keys
from segnl.runs.run import finished_run
from segnl.studies.control import run_hashes_of
from segnl.studies.jobs import JobPool, local_launchers, visible_gpus
from segnl.studies.learning_rates import store_rates
from segnl.studies.ray_cluster import ray_launcher
from segnl.studies.report import write_report
from segnl.studies.results import LOOKS, StudyResults, collect_results, recorded_looks, score_runs
from segnl.studies.study import PlannedRun, Study, load_study
from segnl.studies.table import csv_text, markdown, results_dict
from segnl.training.features import FeatureFile
from segnl.training.fit import fit
from segnl.training.validator import is_validation_missing

RESULT_FILES = ("table.md", "table.csv", "compare.json", "report.html", "sheet.png", "attention.json", LOOKS)


def compare(
    config: Path,
    json_file: Path | None = None,
    *,
    num_jobs: int = 1,
    engine: str = "local",
    overrides: Sequence[str] = (),
) -> StudyResults:
    """Runs the study of that file; raises StoppedError after a signal, and the same call resumes it.

    json_file: also receives the numbers of compare.json. num_jobs, engine: as for `train_all`.
    overrides: `a.b=c`, for every run's recipe.
    """
    if engine not in ("local", "ray") and not engine.startswith("ray://"):
        raise ConfigError(f"--engine {engine}: expected local, ray or ray://HOST:PORT")
    study = load_study(config, overrides=overrides)
    if json_file is not None and json_file.resolve().is_relative_to(study.folder.resolve()):
        raise ConfigError(f"--json {json_file}: lies in the study's folder, whose compare.json holds these numbers")
    for folder in (study.folder, *([json_file.parent] if json_file else [])):
        ensure_writable(folder)
    with run_lock(study.folder):
        _claim_folder(study)
        recorded_looks(study.folder)  # said before the work begins if it is damaged
        _require_same_split(study)
        if study.search is not None and study.search.chosen is None:
            search_rates(study, num_jobs=num_jobs, engine=engine)
            study = load_study(config, overrides=overrides)
        # With kept features an evaluation is short and mostly decoding: each process does those of its own runs.
        split = study.cfg.split if study.runs[0].recipe.train.features else None
        train_all(study, num_jobs=num_jobs, engine=engine, split=split)
        while study.looks is not None and not is_settled(study):
            num_seeds = study.looks.so_far[-1] + 1
            log.info("study %s: not settled with %d seeds per head, trains another", study.name, num_seeds - 1)
            study = load_study(config, num_seeds=num_seeds, overrides=overrides)
            train_all(study, num_jobs=num_jobs, engine=engine, split=split)
        results = collect_results(study)
        write_results(results, json_file)
    return results


def train_only(config: Path, number: int, *, overrides: Sequence[str] = ()) -> None:
    """Trains run `number` of the study, 1 being the first, and nothing else: for the array jobs of a batch system.

    A study with a stop rule has the runs of its first look. Raises as `compare` does.
    """
    study = load_study(config, overrides=overrides)
    if study.search is not None and study.search.chosen is None:
        raise ConfigError(f"--only: {study.file} searches learning rates first; start it once without --only")
    require_count("--only", number, most=len(study.runs), reason=f"the runs of {study.file}")
    ensure_writable(study.folder)
    _claim_folder(study)
    _train(study, [study.runs[number - 1]])


def is_settled(study: Study) -> bool:
    """Tells whether a study with a stop rule ends here: no more seeds are planned, or none can change a verdict."""
    looks = study.looks
    if looks is None or looks.so_far[-1] >= looks.most:
        return True
    return all(
        pair.is_separable or pair.is_out_of_reach or pair.difference is None for pair in score_runs(study).compare()
    )


def _claim_folder(study: Study) -> None:
    """Notes the study's file in its folder.

    Raises ConfigError for the folder of a run or of another file's study, and for a file that no study wrote.
    """
    if (study.folder / "recipe.yaml").exists():
        raise ConfigError(f"{study.folder}: is the folder of a run; rename the study's file {study.file}")
    note, file = study.folder / "study.json", study.file.resolve()
    for path in (study.folder / name for name in RESULT_FILES):
        if path.is_dir() or path.is_symlink() or (path.exists() and not note.exists()):
            raise ConfigError(f"{path}: exists and was not written by segnl compare; move it aside")
    for name in ("report.html", "attention.json"):  # perhaps of segnl inspect
        require_own(study.folder / name, "compare", option="the study's file")
    own = {"file": str(file), "sha256": sha256_of(file)}
    try:
        before = read_json(note)
        other = Path(before["file"])
        is_taken = other.exists() and not other.samefile(file) and before["sha256"] != own["sha256"]
    except FileNotFoundError:
        is_taken = False
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ConfigError(f"{note}: damaged or not written by segnl compare; move it aside") from err
    if is_taken:
        raise ConfigError(
            f"{study.file}: {study.folder} holds the study of {other}, another file of the same name; rename one"
        )
    write_atomic(note, json.dumps(own, indent=1).encode())


def _require_same_split(study: Study) -> None:
    """Raises DataError for a head that would be scored on other images, labels or classes than the first."""
    split, first = study.cfg.split, study.runs[0]
    by_data = {run.recipe.data.model_dump_json(): run for run in reversed(study.runs)}
    expected = build_data(first.recipe, split)  # raises for an unknown split
    for run in by_data.values():
        data = build_data(run.recipe, split)
        if len(by_data) == 1 or content_digest(data) == content_digest(expected):
            continue
        if data.table.names != expected.table.names:
            differing = "classes"
        elif data.sample_ids != expected.sample_ids:
            differing = f"images, such as '{min({*data.sample_ids} ^ {*expected.sample_ids})}'"
        elif other := next((name for i, name in enumerate(data.sample_ids) if _differ(data, expected, i)), None):
            differing = f"labels, such as that of '{other}'"
        elif not any(key.partition(".")[0] == "data" for key in study.cfg.varies):
            differing = "images under the same names"
        else:
            continue
        raise DataError(
            f"{study.file}: heads.{run.head}: split {split} of {data.root} has other {differing}, than that of "
            f"heads.{first.head}; heads are compared on the same images and labels: give both the same"
        )


def _differ(data: SegmentationData, other: SegmentationData, i: int) -> bool:
    return not np.array_equal(data.read_train_ids(i), other.read_train_ids(i))


def search_rates(study: Study, *, num_jobs: int = 1, engine: str = "local") -> None:
    """Trains and scores the runs of the study's search of learning rates, and keeps the rates that it finds.

    A training that diverges is no error here: its rate is too high.
    """
    search = study.search
    if search is None:
        return
    runs = study.searched_runs
    log.info("study %s: searches the learning rate of %d heads", study.name, len(search.runs))
    diverged: set[str] = set()
    while True:
        others = tuple(run for run in runs if run.name not in diverged)
        try:
            train_all(replace(study, runs=others), num_jobs=num_jobs, engine=engine, split="val")
            break
        except SegnlError:
            new = {run.name for run in others if has_diverged(run.folder)}
            if not new:
                raise
            diverged |= new
    request = EvaluationRequest("val")
    miou = {
        head: {
            rate: None
            if run.name in diverged
            else evaluate_run(finished_run(run.folder, run.recipe), request).metrics["miou"]
            for rate, run in own.items()
        }
        for head, own in search.runs.items()
    }
    store_rates(study.folder, search.key, miou, [run.folder for run in runs])


def compute_features(runs: Sequence[PlannedRun]) -> None:
    """Computes the maps of frozen backbones that these runs share, where their recipes ask for it."""
    files: dict[Path, FeatureFile] = {}
    seen: set[str] = set()
    for run in (run for run in runs if run.recipe.train.features is not None):
        recipe = run.recipe.to_dict()
        is_drawn = recipe["model"]["backbone"]["weights"] is None and run.recipe.init is None
        needs = digest_of([recipe["model"], recipe["data"], recipe["init"], run.recipe.train.seed if is_drawn else 0])
        if needs in seen:  # the same maps of the same stages
            continue
        seen.add(needs)
        data = build_data(run.recipe, "train")
        model = build_model(run.recipe, data.table.num_classes, is_new=True).to(device_of())
        file = FeatureFile(run.recipe, data, model, features_folder(run.folder))
        if file.folder in files:
            stages = {*files[file.folder].stages, *file.stages}
            file = FeatureFile(run.recipe, data, model, features_folder(run.folder), stages=stages)
        files[file.folder] = file
    for file in files.values():
        file.compute()


def train_all(study: Study, *, num_jobs: int = 1, engine: str = "local", split: str | None = None) -> None:
    """Trains every run that is not finished; raises StoppedError after a signal.

    num_jobs: runs at a time on this machine, each in a process of its own where it is more than 1; each has its share
    of the threads, on a cluster too. engine: `local`, `ray` or `ray://HOST:PORT` (studies/ray_cluster.py).
    split: where there are several processes of this machine, each also evaluates its runs on that split.
    """
    missing = [run for run in study.runs if not is_finished(run)]
    log.info("study %s: %d runs, %d already trained", study.name, len(study.runs), len(study.runs) - len(missing))
    compute_features(missing)
    if engine != "local" and missing:
        with ray_launcher(study.folder, engine, threads=max(1, torch.get_num_threads() // num_jobs)) as launch:
            JobPool(study.name, missing, [launch] * len(missing)).train()
    elif num_jobs > 1:
        launchers = local_launchers(num_jobs, visible_gpus(), torch.get_num_threads(), split=split)
        JobPool(study.name, missing, launchers).train()
    else:
        _train(study, missing)


def _train(study: Study, missing: Sequence[PlannedRun]) -> None:
    """Trains these runs in this process, one after the other."""
    began = time.monotonic()
    for done, run in enumerate(missing):
        seconds = (time.monotonic() - began) / done * (len(missing) - done) if done else 0.0
        left = f", about {max(1, round(seconds / 60))} min left for the study" if done else ""
        log.info("study %s: run %d of %d, %s%s", study.name, done + 1, len(missing), run.name, left)
        ensure_writable(run.folder)
        run_hashes_of(run)
        fit(run.recipe, run.folder)


def has_diverged(run: Path) -> bool:
    """Tells whether the run's training ended because its loss or gradient was not finite."""
    return any(line.get("event") == "non_finite" for line in read_log(run / "log.jsonl")[-1:])


def is_finished(run: PlannedRun) -> bool:
    """Tells whether the run has a checkpoint of its last step, and no validation of it is missing.

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
    step, train = checkpoint.step, run.recipe.train
    return step >= train.num_steps and not is_validation_missing(run.folder, step, train)


def write_results(results: StudyResults, json_file: Path | None = None) -> None:
    """Writes table.md, table.csv, compare.json, report.html and sheet.png into the study's folder."""
    folder = results.study.folder
    write_text(folder / "table.md", markdown(results))
    write_text(folder / "table.csv", csv_text(results.heads, results.pairs))
    numbers = json.dumps(results_dict(results), indent=1).encode()
    write_atomic(folder / "compare.json", numbers)
    if json_file is not None:
        write_atomic(json_file, marked(numbers, "compare"))
    write_report(results)
