"""A study's page: what its results say, put into inspection's page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segnl.core.arrays import Floats
from segnl.core.environment import machine
from segnl.core.files import write_atomic
from segnl.data.base import SegmentationData
from segnl.evaluation.predictions import Predictions
from segnl.metrics.statistics.significance import ClassDifference, Comparison
from segnl.reports.charts import class_chart, cost_plots, difference_chart, pair_chart
from segnl.reports.contact_sheet import contact_sheet
from segnl.reports.error_map import error_map_plots, error_maps
from segnl.reports.gallery import PageModel, gallery
from segnl.reports.learning_curves import learning_plots
from segnl.reports.page import DifferenceChart, DotChart, Fact, Grid, Page, write_page
from segnl.reports.plot import PlotGroup
from segnl.runs.build import build_data
from segnl.studies.control import RunHashes, is_varied, num_shared_tensors
from segnl.studies.study import Study
from segnl.studies.table import BEST, HeadResult, heads_dict, table_columns, table_rows

SHEET_IMAGES = 6


@dataclass(frozen=True)
class StudyFindings:
    """classes: of each pair, by class.  predictions, hashes: by run.  refused: why a run does not count, by its name.
    said: the sentences, the verdict first.  ablations: what breaking the trained attention does, where the study asks.
    """

    results: Sequence[HeadResult]
    pairs: Sequence[Comparison]
    classes: Sequence[Mapping[str, ClassDifference]]
    predictions: Mapping[str, Predictions]
    hashes: Mapping[str, RunHashes]
    refused: Mapping[str, str]
    said: Sequence[str]
    ablations: Grid | None = None


def write_report(study: Study, found: StudyFindings) -> Path:
    """Writes STUDY/report.html and STUDY/sheet.png; returns the page's path."""
    first = study.runs[0]
    data = build_data(first.recipe, study.cfg.split)
    shown = [PageModel(head, found.predictions[study.runs_of(head)[0].name]) for head in study.heads]
    pictures = gallery(shown, data, num_images=study.cfg.gallery)
    sample_ids = [image["id"] for image in pictures["images"][:SHEET_IMAGES]]
    write_atomic(
        study.folder / "sheet.png",
        contact_sheet(shown, data, [data.sample_ids.index(sample_id) for sample_id in sample_ids]),
    )
    page = Page(
        title=f"{study.name}: {', '.join(study.heads)}",
        kicker=_kicker(study),
        verdicts=[*found.said, *([study.cfg.note] if study.cfg.note else [])],
        facts=_facts(study, found, data.table.names),
        columns=table_columns(found.results, found.pairs),
        rows=table_rows(found.results, found.pairs),
        gallery=pictures,
        cost=cost_plots(heads_dict(found.results)),
        ablations=found.ablations,
        error_map=_error_map(study, found, data),
        learning=learning_plots([_folders(study, found, head) for head in study.heads]),
        charts=_charts(study, found, data.table.names),
        differences=_differences(study, found),
        control=_control(study, found),
        refused=[f"{name} {reason}" for name, reason in found.refused.items()],
        gallery_note=_gallery_note(study),
        best_note=BEST,
        commands=_commands(study),
    )
    path = study.folder / "report.html"
    write_page(path, page)
    return path


def _kicker(study: Study) -> str:
    if len(study.heads) > 1 and study.same_recipes == (study.heads,):
        return "segnl compare: one recipe under several names, other seeds; whatever differs is chance"
    if study.cfg.varies != ("model.head",):
        return f"segnl compare: one recipe, one evaluator; only {', '.join(study.cfg.varies)} may differ"
    return "segnl compare: one backbone, one data pipeline, one evaluator; only the head differs"


def _gallery_note(study: Study) -> str:
    if len(study.runs) == len(study.heads):
        return ""
    seeds = {head: study.runs_of(head)[0].seed for head in study.heads}
    if len(set(seeds.values())) == 1:
        return f"The masks of seed {study.runs[0].seed}."
    return f"The masks of each head's first seed: {', '.join(f'{head} {seed}' for head, seed in seeds.items())}."


def _seeds_text(study: Study) -> str:
    seeds = {head: ", ".join(map(str, study.cfg.seeds_of(head))) for head in study.heads}
    is_one_list = len(set(seeds.values())) == 1
    return next(iter(seeds.values())) if is_one_list else "; ".join(f"{head}: {text}" for head, text in seeds.items())


def _facts(study: Study, found: StudyFindings, names: Sequence[str]) -> list[tuple[str, str]]:
    recipe, predictions = study.runs[0].recipe, found.predictions[study.runs[0].name]
    commonest, miou = predictions.commonest_class()
    backbone = recipe.to_dict()["model"]["backbone"]
    rows, columns = recipe.data.crop_hw
    facts = [
        ("Data", f"{recipe.data.title}, {len(predictions.sample_ids)} {study.cfg.split} images, {len(names)} classes"),
        ("Budget", f"{recipe.train.max_steps:,} steps of {recipe.train.batch_size} crops, {rows}x{columns} pixels"),
        ("Seed" if len({run.seed for run in study.runs}) == 1 else "Seeds", _seeds_text(study)),
        ("Backbone", f"{backbone['name']}, output stride {backbone.get('output_stride', '?')}"),
        (f"Predicting the commonest class alone ({names[commonest]})", f"{100 * miou:.1f} % mIoU"),
        ("Machine", str(machine()["cpu"])),
    ]
    trained_by = [found.predictions[run.name].metrics["git"] for run in study.runs]
    commits = [git["commit"][:10] + (" with changes" if git["dirty"] else "") for git in trained_by if git["commit"]]
    return [*facts, ("Code", ", ".join(dict.fromkeys(commits)))] if commits else facts


def _error_map(study: Study, found: StudyFindings, data: SegmentationData) -> PlotGroup | None:
    counted = {run.name: found.predictions[run.name] for run in study.runs if run.name not in found.refused}
    counts = error_maps(counted, data)
    return error_map_plots(
        [[counts[run.name] for run in study.runs_of(head) if run.name in counts] for head in study.heads]
    )


def _folders(study: Study, found: StudyFindings, head: str) -> list[Path]:
    return [run.folder for run in study.runs_of(head) if run.name not in found.refused]


def _charts(study: Study, found: StudyFindings, names: Sequence[str]) -> list[DotChart]:
    """Means over the runs that count; a head without any has no marks."""
    iou = [_mean([run.iou() for run in _counted(study, found, head)], len(names)) for head in study.heads]
    any_run = found.predictions[study.runs[0].name]
    charts = []
    if any_run.pairs is not None:
        num_pairs = any_run.pairs.shape[1]
        accuracy = [[run.pair_accuracy() for run in _counted(study, found, head)] for head in study.heads]
        known = [[each for each in values if each is not None] for values in accuracy]
        charts.append(pair_chart([_mean(values, num_pairs) for values in known]))
    return [*charts, class_chart(names, iou, any_run.true.sum(axis=0))]


def _differences(study: Study, found: StudyFindings) -> list[DifferenceChart]:
    """A chart for every head held against the control, where both have runs that count."""
    control = study.heads[0]
    return [
        difference_chart(
            pair.a,
            control,
            {name: (each.difference, each.low, each.high) for name, each in known.items()},
            is_about_heads=all(each.is_about_heads for each in known.values()),
        )
        for pair, known in zip(found.pairs, found.classes, strict=True)
        if pair.b == control and known
    ]


def _counted(study: Study, found: StudyFindings, head: str) -> list[Predictions]:
    return [found.predictions[run.name] for run in study.runs_of(head) if run.name not in found.refused]


def _mean(values: Sequence[Floats], count: int) -> Floats:
    return np.mean(np.stack(list(values)), axis=0) if values else np.full(count, np.nan)


def _control(study: Study, found: StudyFindings) -> list[Fact]:
    recipe = study.runs[0].recipe
    same = Fact(
        f"The recipe, but for {', '.join(study.cfg.varies)} and the seed: data, {recipe.train.max_steps:,} steps, "
        "optimiser, loss, evaluation.",
        "A study whose recipes differ elsewhere is refused before anything is trained.",
    )
    if study.shared_seed is None:
        return [same, _own_seeds(study, found)]
    return [same, *_shared(study, found, study.shared_seed)]


def _own_seeds(study: Study, found: StudyFindings) -> Fact:
    return Fact(
        "No seed is common to all heads, as the study wants it: initial weights and batches differ from head to head.",
        "Each run's were checked against those that its recipe and seed give (hashes in compare.json).",
        holds=not any(run.name in found.refused for run in study.runs),
    )


def _shared(study: Study, found: StudyFindings, seed: int) -> list[Fact]:
    firsts = [run for run in study.runs if run.seed == seed]
    batches = sorted({found.hashes[run.name].batches for run in firsts})
    agree = not any(run.name in found.refused for run in firsts)
    backbone = {found.hashes[run.name].modules()["backbone"] for run in firsts}
    return [
        Fact(
            "Initial weights, wherever two heads have a parameter of the same name and shape: "
            f"{num_shared_tensors(found.hashes, firsts)} tensors in all of them.",
            f"SHA-256 of the backbone's, seed {seed}: {', '.join(sorted(backbone))}",
            holds=agree and (len(backbone) == 1 or is_varied("backbone", study.cfg.varies)),
        ),
        Fact(
            "Images, crops, mirrorings and colour changes, in the same order.",
            f"SHA-256 of the first batches, seed {seed}: {', '.join(batches)}",
            holds=len(batches) == 1 or is_varied("batches", study.cfg.varies),
        ),
    ]


def _commands(study: Study) -> list[str]:
    first = study.runs[0]
    return [
        f"python -m segnl compare --config {study.file}    # this study again; what is trained is not trained twice",
        f"python eval.py --checkpoint {first.folder}    # one run's scores, class by class",
        f"python -m segnl predict --checkpoint {first.folder} IMAGE_OR_DIR --out out    # masks for your own pictures",
    ]
