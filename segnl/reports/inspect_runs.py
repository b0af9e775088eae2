"""`segnl inspect`: the page and a contact sheet for any runs that were trained on one data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segnl.core.config import suggest
from segnl.core.errors import ConfigError
from segnl.core.files import ensure_writable, write_atomic
from segnl.core.outputs import marked, require_own
from segnl.data.base import SegmentationData
from segnl.data.digest import content_digest
from segnl.data.reading import rgb_view
from segnl.evaluation.attention import RunAttention
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.evaluation.evaluation import Evaluation
from segnl.reports.attention import add_attention
from segnl.reports.attention_picture import attention_picture
from segnl.reports.charts import score_charts
from segnl.reports.contact_sheet import contact_sheet
from segnl.reports.error_map import error_map_plots, error_maps
from segnl.reports.gallery import gallery
from segnl.reports.learning_curves import distinct_names
from segnl.reports.page import Cell, Column, Page, write_page
from segnl.reports.table_columns import SCORES
from segnl.runs.run import Run, open_run


def inspect_runs(
    runs_or_files: Sequence[Path],
    out: Path,
    *,
    split: str = "val",
    num_images: int = 60,
    sheet: int = 8,
    attention_images: int = 6,
    pixel: tuple[int, int] | None = None,
    sample_id: str | None = None,
    trust_modules: Sequence[str] = (),
) -> str:
    """Writes OUT/report.html and OUT/sheet.png, images with most disagreement first; returns a text that names them.

    num_images: images on the page. sheet: images on the contact sheet, one per row. attention_images: images whose
    attention is on the page; 0: none, and no OUT/attention.json with its averages.
    pixel: row and column in the image `sample_id` (None: the page's first) of which OUT/attention.png shows where it
    looks. trust_modules: as `open_run` takes them.

    Raises ConfigError when the checkpoints were trained on different data sets, or for an image or pixel that is not
    there.
    """
    ensure_writable(out)
    for name in ("report.html", "sheet.png", "attention.json", *([] if pixel is None else ["attention.png"])):
        require_own(out / name, "inspect", option="--out")
    runs = [open_run(path, trust_modules=trust_modules) for path in runs_or_files]
    data = _common_data(runs, split)
    if sample_id is not None and sample_id not in data.sample_ids:
        known = suggest(sample_id, data.sample_ids)
        raise ConfigError(f"--image {sample_id}: no such image in split {split} of {data.root}{known}")
    names = _names(runs)
    request = EvaluationRequest(split)
    networks = {name: evaluate_run(run, request) for name, run in zip(names, runs, strict=True)}
    pictures = gallery(networks, data, num_images=num_images)
    looks = {name: RunAttention(run, networks[name], data) for name, run in zip(names, runs, strict=True)}
    attention = add_attention(pictures, looks, out / "attention.json", num_images=attention_images, command="inspect")
    maps = error_maps(networks, data)
    columns, rows = _table(networks)
    page = Page(
        title=", ".join(names),
        kicker="segnl inspect: predictions of these networks, side by side",
        verdicts=[_summary(networks)],
        facts=[
            ("Data", f"{runs[0].recipe.data.title}, {len(data)} {split} images, {data.table.num_classes} classes"),
            *((name, f"{run.path}, step {run.checkpoint.step:,}") for name, run in zip(names, runs, strict=True)),
        ],
        columns=columns,
        rows=rows,
        gallery=pictures,
        best_note="Green and bold: the highest of the column, among these networks." if len(networks) > 1 else "",
        attention=attention,
        error_map=error_map_plots([[maps[name]] for name in names]),
        charts=score_charts([[network] for network in networks.values()], data.table.names, networks[names[0]]),
    )
    count = write_page(out / "report.html", page, "inspect")
    indices = [data.sample_ids.index(image["id"]) for image in pictures["images"][:sheet]]
    write_atomic(out / "sheet.png", marked(contact_sheet(networks, data, indices), "inspect"))
    text = (
        f"{out / 'report.html'}: {count} images, {len(networks)} networks (opens in any browser, from disk)\n"
        f"{out / 'sheet.png'}: the first {len(indices)} of them in one picture"
    )
    if pixel is None:
        return text
    shown = data.sample_ids.index(sample_id or pictures["images"][0]["id"])
    _write_picture(out / "attention.png", looks, shown, pixel)
    return f"{text}\n{out / 'attention.png'}: where pixel {pixel[0]},{pixel[1]} of {data.sample_ids[shown]} looks"


def _write_picture(file: Path, runs: Mapping[str, RunAttention], i: int, pixel: tuple[int, int]) -> None:
    """Writes where a pixel of image `i` looks. Raises ConfigError for a pixel outside the image."""
    (run, *_) = runs.values()
    sample = run.data.read(i)
    height, width = sample.image.shape[:2]
    if not (pixel[0] < height and pixel[1] < width):
        raise ConfigError(
            f"--attention {pixel[0]},{pixel[1]}: outside {sample.id}, which has {height} rows and {width} columns"
        )
    rows = {name: run.of_image(i).of_pixel(pixel) for name, run in runs.items()}
    write_atomic(file, marked(attention_picture(rgb_view(sample.image), pixel, rows), "inspect"))


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


def _names(runs: Sequence[Run]) -> list[str]:
    """Returns the names of the runs' folders, or of their files where two are of one run."""
    files = [run.path.with_suffix("") for run in runs]
    folders = [file.resolve().parent for file in files]
    return distinct_names(folders) if len(set(folders)) == len(folders) else distinct_names(files, depth=2)


def _summary(networks: Mapping[str, Evaluation]) -> str:
    if len(networks) > 1:
        return "These networks, side by side. To find out which head is better, use `segnl compare`."
    ((name, network),) = networks.items()
    miou = network.metrics["miou"]
    score = "no mIoU, nothing is labelled" if miou is None else f"{100 * miou:.1f} % mIoU"
    return f"{name}: {score}. Images with most errors come first."


def _table(networks: Mapping[str, Evaluation]) -> tuple[list[Column], dict[str, list[Cell]]]:
    """Returns the columns of scores and the cells of each network; the best of several is marked."""
    columns: list[Column] = []
    rows: dict[str, list[Cell]] = {name: [] for name in networks}
    for key, column in SCORES.items():
        values: list[Any] = [network.metrics.get(key) for network in networks.values()]
        if key == "ambiguous" and values[0] is None:
            continue
        columns.append(column)
        values = [value["mean"] if key == "ambiguous" else value for value in values]
        best = max((value for value in values if value is not None), default=None)
        for cells, value in zip(rows.values(), values, strict=True):
            text = "–" if value is None else f"{100 * value:.2f}"
            cells.append(Cell(text, value, is_best=value is not None and value == best and len(networks) > 1))
    return columns, rows
