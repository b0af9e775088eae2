"""The context probe: from how far, and from where, a head brings information to a position.

Its runs are trained, scored and compared as those of any study.
OUT/TASK/HEAD-sSEED/    a run
OUT/probe.json          accuracies by the place of the cue, intervals, comparisons and costs
OUT/TASK-HEAD.png       the picture of a head
OUT/report.html         the page
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segnl.core.config import JSONDict, find_config, load_mapping, merge, parse_override, read_file, suggest, validate
from segnl.core.errors import ConfigError
from segnl.core.files import ensure_writable, inside, run_lock, shell_word, write_atomic
from segnl.core.log import log
from segnl.core.outputs import marked, require_own
from segnl.data.datasets.probe import Probe
from segnl.models.find import BACKBONES, HEADS
from segnl.models.segmenter import model_config
from segnl.probe.scene import NUM_CLASSES, TASKS
from segnl.studies.cost import costs_of, train_images_per_s
from segnl.studies.jobs import JobPool, local_launchers, visible_gpus
from segnl.studies.probe_report import write_probe_report
from segnl.studies.probe_results import (
    ProbeResults,
    control_recipe,
    probe_config,
    reach_of,
    target_counts,
    task_results,
)
from segnl.studies.results import score_runs
from segnl.studies.run import is_finished
from segnl.studies.study import Study, StudyConfig, plan_study

STUDY = Path("configs/compare/probe.yaml")
DEFAULT_HEADS = ("fcn", "aspp", "rcca_r1", "rcca", "non_local")
CONTROL = "fcn"
SPLIT = "val"
CHANNELS = 32
"""Of heads that STUDY does not have."""
GRID = 12
"""Rows and columns of cells where the backbone of --config decides on their size."""


@dataclass(frozen=True)
class ProbeRequest:
    """What to probe.

    config: a recipe whose network is probed; None: the small networks of STUDY. heads: names in STUDY, of components
    or of modules; none for the default. overrides: `a.b=c`, for all runs.
    """

    out: Path
    config: Path | None = None
    heads: tuple[str, ...] = ()
    num_seeds: int = 3
    tasks: tuple[str, ...] = ("reach",)
    overrides: tuple[str, ...] = ()

    def command(self) -> str:
        """Returns the command for a shell."""
        options: list[tuple[str, object]] = [
            ("config", self.config),
            ("heads", ",".join(self.heads)),
            ("tasks", ",".join(self.tasks)),
        ]
        options += [("seeds", self.num_seeds), ("out", self.out), *(("set", text) for text in self.overrides)]
        return "segnl probe" + "".join(f" --{name} {shell_word(str(value))}" for name, value in options if value)


def probe(request: ProbeRequest, *, num_jobs: int = 2) -> ProbeResults:
    """Trains and scores the runs that are missing and writes probe.json, the pictures and the page.

    num_jobs: runs at a time, each in a process of one thread; it changes no number.
    Raises StoppedError after a signal, and the same call resumes; ConfigError for a head or recipe that does not fit.
    """
    ensure_writable(request.out)
    studies = [_study(request, task) for task in request.tasks]
    pictures = [f"{study.folder.name}-{head}.png" for study in studies for head in study.heads]
    for name in ("probe.json", "report.html", *pictures):
        require_own(request.out / name, "probe", option="--out")
    with run_lock(request.out):
        for study in studies:
            ensure_writable(study.folder)
            _train(study, num_jobs)
        results = _collect(studies)
        numbers = json.dumps(results.to_dict(), indent=1).encode()
        write_atomic(request.out / "probe.json", marked(numbers, "probe"))
        write_probe_report(results, request.out, request.command())
    return results


def _train(study: Study, num_jobs: int) -> None:
    """Trains and evaluates every run that is not finished."""
    missing = [run for run in study.runs if not is_finished(run)]
    done = len(study.runs) - len(missing)
    log.info("probe, %s: %d runs, %d already trained", study.folder.name, len(study.runs), done)
    one_thread_each = local_launchers(num_jobs, visible_gpus(), threads=num_jobs, split=SPLIT)
    JobPool(study.folder.name, missing, one_thread_each).train()


def _study(request: ProbeRequest, task: str) -> Study:
    """Plans the runs of one task."""
    if task not in TASKS:
        raise ConfigError(f"--tasks: holds {task!r}{suggest(task, TASKS)}")
    file = find_config(STUDY)
    shipped = validate(StudyConfig, read_file(file), file=str(file))
    config = request.config
    heads, data = _shipped_heads(request, shipped) if config is None else _heads_of_config(config, request.heads)
    overrides: JSONDict = {"data": data | {"task": task}}
    for text in request.overrides:
        overrides = merge(overrides, parse_override(text))
    values = {"base": shipped.base, "heads": heads, "seeds": tuple(range(request.num_seeds)), "overrides": overrides}
    study = plan_study(validate(StudyConfig, values, file="segnl probe"), file, inside(request.out, task))
    probe_config(study.runs[0].recipe)  # raises before any training
    return study


def _shipped_heads(request: ProbeRequest, shipped: StudyConfig) -> tuple[JSONDict, JSONDict]:
    """Returns the keys of each head over the base, and those of the data."""
    heads: JSONDict = {}
    for name in request.heads or DEFAULT_HEADS:
        if name in shipped.heads:
            heads[name] = shipped.heads[name]
        elif "." in name or name in HEADS.names():
            heads[_plain(name)] = {"model": {"head": _head(name, {"channels": CHANNELS})}}
        else:
            raise ConfigError(f"--heads: holds {name!r}{suggest(name, list(shipped.heads))}")
    return heads, {}


def _heads_of_config(config: Path, names: Sequence[str]) -> tuple[JSONDict, JSONDict]:
    """Returns the recipe's own head and those of the request on its backbone; a cell is as large as its stride."""
    section = load_mapping(config).get("model", {})
    model = model_config(section, file=str(config))
    own = {key: section["head"][key] for key in ("channels", "kernel", "in_stages") if key in section["head"]}
    heads = {config.stem: {"model": section}}
    for name in names or (CONTROL,):
        heads[_plain(name)] = {"model": merge(section, {"head": _head(name, own)})}
    control_first = sorted(heads, key=lambda name: name != CONTROL)
    stride = max(BACKBONES.find(model.backbone.name)(model.backbone).stage_strides[-1], 4)
    return {name: heads[name] for name in control_first}, {"cell_px": stride, "crop_hw": [GRID * stride] * 2}


def _head(name: str, settings: JSONDict) -> JSONDict:
    """Returns the section of a head with those of the settings that it has."""
    return {"name": name} | {
        key: value for key, value in settings.items() if key in HEADS.find(name).Config.model_fields
    }


def _plain(name: str) -> str:
    return name.rpartition(".")[2]


def _collect(studies: Sequence[Study]) -> ProbeResults:
    """Scores and compares all runs; what their folders hold already is not computed again."""
    tasks = []
    refused: dict[str, str] = {}
    for study in studies:
        scored = score_runs(study)
        recipe = study.runs[0].recipe
        data = Probe(probe_config(recipe), SPLIT)
        counts = {
            head: {run.seed: target_counts(scored.evaluations[run.name], data) for run in scored.counted_runs(head)}
            for head in study.heads
        }
        reach = reach_of(control_recipe(recipe))
        tasks.append(task_results(data.cfg.task, counts, reach, data.cfg.grid_hw))
        refused |= {f"{study.folder.name}/{name}": reason for name, reason in scored.refused.items()}
    first = {head: studies[0].runs_of(head) for head in studies[0].heads}
    costs = costs_of({head: runs[0] for head, runs in first.items()}, num_classes=NUM_CLASSES)
    for head, runs in first.items():
        rates = [rate for run in runs if (rate := train_images_per_s(run.folder)) is not None]
        costs[head] = costs[head] | {"train_images_per_s": statistics.median(rates) if rates else None}
    return ProbeResults(studies, tasks, costs, refused)
