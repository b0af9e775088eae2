"""`segnl inspect`: the page and a contact sheet for any runs that were trained on one data set."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segnl.core.errors import ConfigError
from segnl.core.files import ensure_writable, write_atomic
from segnl.data.base import SegmentationData
from segnl.data.digest import files_digest
from segnl.evaluation.predictions import keep_predictions
from segnl.evaluation.score import recipe_for_scoring
from segnl.reports.charts import class_chart, pair_chart
from segnl.reports.columns import SCORES
from segnl.reports.contact_sheet import contact_sheet
from segnl.reports.gallery import PageModel, gallery
from segnl.reports.page import Cell, Page, Row, write_page
from segnl.reports.where import where_plots, where_right
from segnl.runs.build import build_data
from segnl.runs.checkpoint import Checkpoint, open_checkpoint
from segnl.runs.recipe import Recipe

SHEET_IMAGES = 8


def inspect_runs(
    runs_or_files: Sequence[Path], out: Path, *, split: str = "val", num_images: int = 60, sheet: int = SHEET_IMAGES
) -> None:
    """Writes OUT/report.html and OUT/sheet.png: image, truth and every network's mask, most disagreement first.

    num_images: how many the page shows.  sheet: how many of them the contact sheet has, a row each.
    Raises ConfigError when the checkpoints were not trained on one data set, and for less than one image.
    """
    for option, count in (("--images", num_images), ("--sheet", sheet)):
        if count < 1:
            raise ConfigError(f"{option} {count}: expected 1 or more")
    ensure_writable(out)
    checkpoints = [open_checkpoint(path) for path in runs_or_files]
    recipes = [recipe_for_scoring(checkpoint, ()) for checkpoint in checkpoints]
    data = _one_data_set(checkpoints, recipes, split)
    names = _names(checkpoints)
    shown = [
        PageModel(name, keep_predictions(checkpoint, recipe, split))
        for name, checkpoint, recipe in zip(names, checkpoints, recipes, strict=True)
    ]
    pictures = gallery(shown, data, num_images=num_images)
    true_pixels = shown[0].predictions.true.sum(axis=0)
    charts = [class_chart(data.table.names, [each.predictions.iou() for each in shown], true_pixels)]
    accuracy = [each.predictions.pair_accuracy() for each in shown]
    known = [values for values in accuracy if values is not None]
    if known:
        charts.insert(0, pair_chart(known))
    counts = where_right({each.name: each.predictions for each in shown}, data)
    page = Page(
        title=", ".join(names),
        kicker="segnl inspect: what these networks see, side by side",
        verdicts=[_said(shown)],
        facts=[
            ("Data", f"{recipes[0].data.title}, {len(data)} {split} images, {data.table.num_classes} classes"),
            *((name, f"{each.path}, step {each.step:,}") for name, each in zip(names, checkpoints, strict=True)),
        ],
        columns=[SCORES[key] for key in _keys(shown)],
        rows=_rows(shown),
        gallery=pictures,
        best_note="Green and bold: the highest of the column, among these networks." if len(shown) > 1 else "",
        where=where_plots([[counts[each.name]] for each in shown]),
        charts=charts,
    )
    count = write_page(out / "report.html", page)
    sample_ids = [image["stem"] for image in pictures["images"][:sheet]]
    write_atomic(
        out / "sheet.png", contact_sheet(shown, data, [data.sample_ids.index(sample_id) for sample_id in sample_ids])
    )
    print(f"{out / 'report.html'}: {count} images, {len(shown)} networks (opens in any browser, from disk)")
    print(f"{out / 'sheet.png'}: the first {len(sample_ids)} of them as one picture")


def _one_data_set(checkpoints: Sequence[Checkpoint], recipes: Sequence[Recipe], split: str) -> SegmentationData:
    """The first recipe's data set; the others must have the same images, labels and classes."""
    data = build_data(recipes[0], split)
    digest = files_digest(data)
    for checkpoint, recipe in zip(checkpoints, recipes, strict=True):
        other = files_digest(build_data(recipe, split))
        if checkpoint.classes["names"] != list(data.table.names) or other != digest:
            raise ConfigError(
                f"{checkpoint.path}: was trained on other images or classes than {checkpoints[0].path}; "
                "inspect them apart"
            )
    return data


def _names(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """The runs' folder names; with the parent's, or the file's, where two are the same."""
    for name in (
        lambda path: path.parent.name,
        lambda path: f"{path.parent.parent.name}/{path.parent.name}",
        lambda path: f"{path.parent.name}/{path.stem}",
    ):
        names = [name(checkpoint.path.resolve()) for checkpoint in checkpoints]
        if len(set(names)) == len(names):
            return names
    repeated = Counter(str(checkpoint.path) for checkpoint in checkpoints).most_common(1)[0][0]
    raise ConfigError(f"--checkpoint: {repeated} stands twice; name each once")


def _said(shown: Sequence[PageModel]) -> str:
    if len(shown) == 1:
        miou = _value(shown[0], "miou")
        score = "no mIoU, nothing is labelled" if miou is None else f"{100 * miou:.1f} % mIoU"
        return f"{shown[0].name}: {score}. Images with most errors come first."
    return "These networks, side by side. Which head is better is another question, the one that `segnl compare` asks."


def _keys(shown: Sequence[PageModel]) -> list[str]:
    return [key for key in SCORES if key != "ambiguous" or "ambiguous" in shown[0].predictions.metrics]


def _rows(shown: Sequence[PageModel]) -> list[Row]:
    keys = _keys(shown)
    values = {key: [_value(each, key) for each in shown] for key in keys}
    best = {key: max((v for v in column if v is not None), default=None) for key, column in values.items()}
    rows = []
    for i, each in enumerate(shown):
        cells = []
        for key in keys:
            value = values[key][i]
            is_best = value is not None and value == best[key] and len(shown) > 1
            cells.append(Cell("–" if value is None else f"{100 * value:.2f}", value, "", is_best))
        rows.append(Row(each.name, cells))
    return rows


def _value(shown: PageModel, key: str) -> float | None:
    metrics = shown.predictions.metrics
    value = metrics["ambiguous"]["mean"] if key == "ambiguous" else metrics[key]
    return float(value) if value is not None and np.isfinite(value) else None
