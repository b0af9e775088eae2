"""The page, the pictures and the terminal's text of the context probe."""

from collections.abc import Sequence
from pathlib import Path

from segnl.core.environment import machine
from segnl.core.files import write_atomic
from segnl.core.outputs import marked
from segnl.core.png import png_url
from segnl.probe.scene import CHANCE
from segnl.reports.page import Cell, Column, Page, write_page
from segnl.reports.sight import SightGroup, SightPicture, sight_png
from segnl.reports.table_columns import OF_HEAD
from segnl.runs.build import build_data
from segnl.studies.probe_results import REGIONS, ProbeResults, Sight, sight_sentence, task_verdicts
from segnl.studies.table import aligned
from segnl.studies.verdicts import pair_verdict

NUM_EXAMPLES = 3
TITLES = {
    "reach": "Reach: one cue, somewhere",
    "association": "Association: which of three cues counts",
    "counting": "Counting: the most frequent colour",
}
ABOUT = {
    "reach": "Each grey target has the class of the one coloured cue in its image, so only a head that carries "
    "information from the cue to the target can be right. In each picture the target is in the middle, and each square "
    "is one position of the cue: the brighter, the more often the head is right there.",
    "association": "Three cues of three classes, each with a mark of another hue; a target has the class of the cue "
    "with its own hue, so a head has to find the one cue that counts. Each square is one position of that cue, "
    "with the target in the middle.",
    "counting": "Nine cues; the targets have the most frequent colour. A mean over the image is enough, and no single "
    "place matters.",
}
FRAME = (
    " The frame is the area that the convolutions of the network cover by themselves, without the head. Near: inside "
    "the frame. Cross: further away, in the target's row or column. Off: in another row and another column. Pale grey "
    "squares did not occur."
)
ONE_PASS = "rcca is criss-cross attention applied twice, rcca_r1 applied once."
COSTS = ("params", "gflops", "train_images_per_s", "latency_ms", "peak_mib")


def write_probe_report(results: ProbeResults, out: Path, command: str) -> None:
    """Writes OUT/report.html and a PNG of each head's picture. command: for the shell, of this probe."""
    groups = [_group(results, index) for index in range(len(results.tasks))]
    for task, group in zip(results.tasks, groups, strict=True):
        for picture in group.pictures:
            name = f"{task.task}-{picture.title}.png"
            write_atomic(out / name, marked(sight_png(picture, chance=CHANCE, reach=group.reach), "probe"))
    study = results.studies[0]
    columns, rows = _table(results)
    verdicts = [sentence for task in results.tasks for sentence in task_verdicts(task)]
    verdicts += [ONE_PASS] if {"rcca", "rcca_r1"} <= {*study.heads} else []
    page = Page(
        title="What each head can see",
        kicker="segnl probe: from how far away each head can use information; same backbone, images and training",
        verdicts=verdicts,
        facts=_facts(results),
        columns=columns,
        rows=rows,
        gallery={"classes": [], "heads": list(study.heads), "pairs": [], "images": [], "available": 0},
        sights=groups,
        refused=[f"{name} {reason}" for name, reason in results.refused.items()],
        commands=[f"{command}    # again; finished runs are not trained again"],
    )
    write_page(out / "report.html", page, "probe")


def _group(results: ProbeResults, index: int) -> SightGroup:
    task, study = results.tasks[index], results.studies[index]
    pictures = [
        SightPicture(sight.name, sight.map, sight_sentence(sight)) for sight in task.sights if sight.map is not None
    ]
    data = build_data(study.runs[0].recipe, "val")
    return SightGroup(
        name=f"sights-{task.task}",
        title=TITLES[task.task],
        meaning=ABOUT[task.task] + (FRAME if pictures else ""),
        chance=CHANCE,
        reach=(task.reach.rows, task.reach.columns),
        pictures=pictures,
        examples=[png_url(data.read(i).image) for i in range(NUM_EXAMPLES)],
        details=[
            f"{region}: {pair_verdict(pair, len(pairs))}" for region, pairs in task.pairs.items() for pair in pairs
        ],
    )


def _facts(results: ProbeResults) -> list[tuple[str, str]]:
    study = results.studies[0]
    recipe = study.runs[0].recipe
    rows, columns = recipe.data.crop_hw
    backbone = recipe.model.backbone
    return [
        ("Images", f"{rows}x{columns} pixels, generated during training"),
        ("Budget", f"{recipe.train.num_steps:,} steps of {recipe.train.batch_size} images"),
        ("Seeds", ", ".join(map(str, study.seeds_of(study.heads[0])))),
        ("Backbone", backbone.name),
        ("Chance", f"{100 * CHANCE:.0f} %"),
        ("Machine", str(machine()["cpu"])),
    ]


def _table(results: ProbeResults) -> tuple[list[Column], dict[str, list[Cell]]]:
    """Returns accuracy by task and region, and the costs."""
    columns: list[Column] = []
    rows: dict[str, list[Cell]] = {head: [] for head in results.studies[0].heads}
    for task in results.tasks:
        regions = [region for region in REGIONS if any(region in sight.accuracy for sight in task.sights)]
        for region in regions:
            columns.append(Column(f"{task.task}, {region} %", f"Accuracy on targets whose cue lies {REGIONS[region]}."))
            for sight in task.sights:
                rows[sight.name].append(_accuracy_cell(sight, region))
    for key in COSTS:
        columns.append(OF_HEAD[key])
        for head, cells in rows.items():
            cells.append(Cell(_cost_text(key, results.costs[head].get(key))))
    return columns, rows


def _accuracy_cell(sight: Sight, region: str) -> Cell:
    own = sight.accuracy.get(region)
    if own is None or own.mean is None:
        return Cell("–")
    note = "" if own.low is None or own.high is None else f"[{100 * own.low:.1f}, {100 * own.high:.1f}]"
    return Cell(f"{100 * own.mean:.1f}", own.mean, note)


def _cost_text(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if key in ("params", "train_images_per_s") else f"{value:.3g}"


def terminal_text(results: ProbeResults, *, width: int | None = None) -> str:
    """Returns a table for each task and, last, the verdicts."""
    blocks = []
    for task in results.tasks:
        regions = [region for region in REGIONS if any(region in sight.accuracy for sight in task.sights)]
        rows: list[Sequence[str]] = [[task.task, *(f"{region} %" for region in regions)]]
        for sight in task.sights:
            cells = [_accuracy_cell(sight, region) for region in regions]
            rows.append([sight.name, *(f"{cell.text} {cell.note}".strip() for cell in cells)])
        blocks.append(aligned(rows, width=width))
    blocks += [f"refused: {name} {reason}" for name, reason in results.refused.items()]
    blocks.append("\n".join(sentence for task in results.tasks for sentence in task_verdicts(task)))
    return "\n\n".join(blocks)
