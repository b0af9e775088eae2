"""Pictures of a finished run, in RUN/pictures/, and RUN/report.html, which shows them on one page."""

from pathlib import Path

import cv2
import numpy as np

from segnl.core.arrays import Counts, Floats, Pixels
from segnl.core.errors import DataError
from segnl.core.files import ensure_writable, not_a_link, utf8, write_atomic
from segnl.core.outputs import marked, require_own
from segnl.core.png import png
from segnl.data.base import SegmentationData
from segnl.data.label_counts import class_pixels
from segnl.data.loader import BatchKeys, BatchPlan
from segnl.data.reading import rgb_view
from segnl.data.transforms import TrainTransform
from segnl.evaluation.evaluate_run import evaluate_run
from segnl.evaluation.masks import overlay
from segnl.metrics.confusion import ratio
from segnl.reports.chart_style import INK, MARKS, figure_bytes, in_own_style, new_figure, style_axes
from segnl.reports.contact_sheet import contact_sheet
from segnl.reports.learning_curves import curves_figure, find_curve
from segnl.reports.page import template
from segnl.runs.recipe import Recipe
from segnl.runs.run import open_run

NUM_CROPS, NUM_IMAGES = 12, 8
CROP_WIDTH = 240  # pixels of a crop on its sheet
MAX_NAMED = 40
"""Classes whose names fit beside a matrix or under bars."""

CAPTIONS = {
    "curves.png": "Loss (points: cross-entropy on val), learning rate and validation mIoU against steps.",
    "predictions.png": "Validation images, their labels and the predictions; black is ignored.",
    "iou.png": "IoU of each class on the validation split.",
    "confusion.png": "Confusion matrix of the validation split: pixels, and per cent of each label class's pixels.",
    "training_crops.png": "The first training crops as the network saw them, each beside its label.",
    "classes.png": "Pixels of each class in the training labels.",
}


def write_run_pictures(folder: Path) -> Path:
    """Evaluates the run on its validation split, draws its pictures, and returns the path of the page.

    A run without validation split gets the pictures that need none. Raises what opening and evaluating a run raises.
    """
    run = open_run(folder)
    train, curve = run.open_data("train"), find_curve(folder, folder.name)
    pictures = {
        **({} if curve is None else {"curves.png": curves_figure([curve])}),
        "training_crops.png": training_crops(train, run.recipe),
        "classes.png": class_bars(train.table.names, class_pixels(train).astype(float), "pixels", is_log=True),
    }
    title = f"{folder.name}: {run.checkpoint.step:,} steps"
    try:
        val = run.open_data("val")
    except DataError:
        val = None
    if val is not None:
        evaluation, names = evaluate_run(run), val.table.names
        indices = np.unique(np.linspace(0, len(val) - 1, NUM_IMAGES).round().astype(int)).tolist()
        pictures |= {
            "predictions.png": contact_sheet({folder.name: evaluation}, val, indices),
            "iou.png": class_bars(names, 100 * evaluation.iou(), "IoU (%)"),
            "confusion.png": confusion_figure(evaluation.confusion.matrix[:, :-1], names),
        }
        miou = evaluation.metrics["miou"]
        title += "" if miou is None else f", {100 * miou:.2f} % mIoU on {len(val)} validation images"
    captions = {name: caption for name, caption in CAPTIONS.items() if name in pictures}
    html = template("run.html").render(title=title, captions=captions, ink=INK)
    page, home = folder / "report.html", not_a_link(folder / "pictures")
    ensure_writable(home)
    files = {home / name: content for name, content in pictures.items()} | {page: utf8(html).encode()}
    for path in files:
        require_own(path, "train", option="--run")
    for path, content in files.items():
        write_atomic(path, marked(content, "train"))
    return page


def training_crops(data: SegmentationData, recipe: Recipe) -> bytes:
    """Returns a PNG of the first crops of the run's first epoch, each beside its label laid over it."""
    transform = TrainTransform(recipe.data, recipe.model.input.padding_rgb, recipe.train.seed)
    plan = BatchPlan(recipe.train.seed, NUM_CROPS, first_step=0, max_steps=1)
    crops = [transform(data.read(index), epoch, index) for epoch, index in next(iter(BatchKeys(len(data), plan)))]
    images = [rgb_view(crop.image) for crop in crops]
    pairs = [(image, overlay(image, crop.label, data.table)) for image, crop in zip(images, crops, strict=True)]
    panels = [_narrow(np.hstack(pair)) for pair in pairs]
    rows = [np.hstack(panels[i : i + 3]) for i in range(0, len(panels), 3)]
    return png(np.vstack(rows))


def _narrow(pair: Pixels) -> Pixels:
    height = max(1, round(pair.shape[0] * 2 * CROP_WIDTH / pair.shape[1]))
    resized = cv2.resize(pair, (2 * CROP_WIDTH, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.copyMakeBorder(resized, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255)), np.uint8)


@in_own_style
def class_bars(names: tuple[str, ...] | list[str], values: Floats, label: str, *, is_log: bool = False) -> bytes:
    """Returns a PNG with a bar for each class, the largest first; undefined values have none."""
    order = np.argsort(-np.nan_to_num(values, nan=-1.0))
    figure = new_figure(8, 1.2 + 0.22 * min(len(names), 3 * MAX_NAMED))
    axes = figure.subplots()
    axes.barh(range(len(names)), np.nan_to_num(values[order]), color=MARKS[0].colour, log=is_log)
    if is_log:
        # Plain numbers: by default they are formulas, which charts show as they stand.
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter("")
    axes.set_yticks(range(len(names)), [f"{names[k]}{' (none)' if np.isnan(values[k]) else ''}" for k in order])
    axes.invert_yaxis()
    style_axes(axes, x_label=label, grid_along="x")
    if len(names) > MAX_NAMED:
        axes.tick_params(axis="y", labelsize=5)
    return figure_bytes(figure)


@in_own_style
def confusion_figure(matrix: Counts, names: tuple[str, ...] | list[str]) -> bytes:
    """Returns a PNG of a confusion matrix, int64 `k k` with a row for each label class: counts, and shares of rows."""
    shares = 100 * ratio(matrix, matrix.sum(axis=1, keepdims=True))
    side = 3.2 + 0.3 * min(len(names), MAX_NAMED)
    figure = new_figure(2 * side + 1.5, side)
    panels = {"pixels (logarithmic shade)": np.log10(1.0 + matrix), "per cent of the label's class": shares}
    for axes, (title, values) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        axes.imshow(np.nan_to_num(values), cmap="Blues")
        axes.set_title(title, fontsize=11, color=INK)
        axes.set_xlabel("prediction", color=INK)
        axes.set_ylabel("label", color=INK)
        if len(names) <= MAX_NAMED:
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
            axes.set_yticks(range(len(names)), names, fontsize=8)
    if len(names) <= MAX_NAMED:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.5:  # an undefined share, of a class without label, is not
                colour = "white" if share > 50 else INK
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=6.5, color=colour)
    return figure_bytes(figure)
