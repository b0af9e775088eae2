"""`segnl inspect`: the page and a contact sheet for any runs that were trained on one data set."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segnl.core.errors import ConfigError
from segnl.core.files import ensure_writable, write_atomic
from segnl.data.base import SegmentationData
from segnl.data.digest import content_digest
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.reports.charts import class_chart, pair_chart
from segnl.reports.contact_sheet import contact_sheet
from segnl.reports.error_map import error_map_plots, error_maps
from segnl.reports.gallery import PageModel, gallery
from segnl.reports.page import Cell, Page, Row, write_page
from segnl.reports.table_columns import SCORES
from segnl.runs.run import Run, open_run

SHEET_IMAGES = 8


def inspect_runs(
    runs_or_files: Sequence[Path], out: Path, *, split: str = "val", num_images: int = 60, sheet: int = SHEET_IMAGES
) -> str:
    """Writes OUT/report.html and OUT/sheet.png, images with most disagreement first; returns a text that names them.

    num_images: images on the page. sheet: images on the contact sheet, one per row.
    Raises ConfigError when the checkpoints were trained on different data sets, and for less than one image.
    """
    for option, count in (("--images", num_images), ("--sheet", sheet)):
        if count < 1:
            raise ConfigError(f"{option} {count}: expected 1 or more")
    ensure_writable(out)
    runs = [open_run(path) for path in runs_or_files]
    data = _common_data(runs, split)
    names = _distinct_names(runs)
    request = EvaluationRequest(split)
    models = [PageModel(name, evaluate_run(run, request)) for name, run in zip(names, runs, strict=True)]
    pictures = gallery(models, data, num_images=num_images)
    charts = [
        class_chart(
            data.table.names,
            [model.evaluation.iou() for model in models],
            models[0].evaluation.target.sum(axis=0),
        )
    ]
    accuracies = [accuracy for model in models if (accuracy := model.evaluation.pair_accuracy()) is not None]
    if accuracies:
        charts.insert(0, pair_chart(accuracies))
    maps = error_maps({model.name: model.evaluation for model in models}, data)
    columns = [key for key in SCORES if key != "ambiguous" or "ambiguous" in models[0].evaluation.metrics]
    page = Page(
        title=", ".join(names),
        kicker="segnl inspect: predictions of these networks, side by side",
        verdicts=[_summary(models)],
        facts=[
            ("Data", f"{runs[0].recipe.data.title}, {len(data)} {split} images, {data.table.num_classes} classes"),
            *((name, f"{run.path}, step {run.checkpoint.step:,}") for name, run in zip(names, runs, strict=True)),
        ],
        columns=[SCORES[key] for key in columns],
        rows=_rows(models, columns),
        gallery=pictures,
        best_note="Green and bold: the highest of the column, among these networks." if len(models) > 1 else "",
        error_map=error_map_plots([[maps[model.name]] for model in models]),
        charts=charts,
    )
    count = write_page(out / "report.html", page)
    indices = [data.sample_ids.index(image["id"]) for image in pictures["images"][:sheet]]
    write_atomic(out / "sheet.png", contact_sheet(models, data, indices))
    return (
        f"{out / 'report.html'}: {count} images, {len(models)} networks (opens in any browser, from disk)\n"
        f"{out / 'sheet.png'}: the first {len(indices)} of them in one picture"
    )


def _common_data(runs: Sequence[Run], split: str) -> SegmentationData:
    """Returns the first run's data set; those of the others must have the same images, labels and classes."""
    data, *others = (run.open_data(split) for run in runs)
    digest = content_digest(data)
    for run, other in zip(runs[1:], others, strict=True):
        if content_digest(other) != digest:
            raise ConfigError(
                f"{run.path}: was trained on other images or classes than {runs[0].path}; inspect them separately"
            )
    return data


def _distinct_names(runs: Sequence[Run]) -> list[str]:
    """Returns the runs' folder names; with the parent's, or the file's, where two are the same."""
    for name in (
        lambda path: path.parent.name,
        lambda path: f"{path.parent.parent.name}/{path.parent.name}",
        lambda path: f"{path.parent.name}/{path.stem}",
    ):
        names = [name(run.path.resolve()) for run in runs]
        if len(set(names)) == len(names):
            return names
    repeated = Counter(str(run.path) for run in runs).most_common(1)[0][0]
    raise ConfigError(f"--checkpoint: {repeated} is given twice; name each once")


def _summary(models: Sequence[PageModel]) -> str:
    if len(models) == 1:
        miou = _score(models[0], "miou")
        score = "no mIoU, nothing is labelled" if miou is None else f"{100 * miou:.1f} % mIoU"
        return f"{models[0].name}: {score}. Images with most errors come first."
    return "These networks, side by side. To find out which head is better, use `segnl compare`."


def _rows(models: Sequence[PageModel], columns: Sequence[str]) -> list[Row]:
    scores = {key: [_score(model, key) for model in models] for key in columns}
    best = {key: max((value for value in column if value is not None), default=None) for key, column in scores.items()}
    rows = []
    for i, model in enumerate(models):
        cells = []
        for key in columns:
            value = scores[key][i]
            is_best = value is not None and value == best[key] and len(models) > 1
            cells.append(Cell("–" if value is None else f"{100 * value:.2f}", value, is_best=is_best))
        rows.append(Row(model.name, cells))
    return rows


def _score(model: PageModel, key: str) -> float | None:
    metrics = model.evaluation.metrics
    value = metrics["ambiguous"]["mean"] if key == "ambiguous" else metrics[key]
    return float(value) if value is not None and np.isfinite(value) else None
