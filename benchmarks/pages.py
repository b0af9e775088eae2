"""Makes docs/results.md, performance.md and statistics.md from benchmarks/results/; no number there is typed.

./run.sh python benchmarks/pages.py          tests/test_pages.py makes the pages anew and compares
"""

import json
from pathlib import Path
from typing import Any

from command import commit_text
from performance_page import performance_page
from statistics_page import statistics_page
from studies_page import studies_section

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

Result = dict[str, Any]


def results_page(results: Path = RESULTS) -> str:
    """docs/results.md as text."""
    parts = [
        "# Results",
        "",
        "Made by `benchmarks/pages.py` from the files under `benchmarks/results/`, which hold the configuration,",
        "commit, seed, steps, split, versions and machine of every number. Which head is better is a question for the",
        "studies. A table of one seed speaks of these networks, nothing about the heads: runs of one recipe with other",
        "seeds are known to lie 1 to 2 points apart.",
        "",
    ]
    parts += [*studies_section(results / "studies"), ""]
    parts += [*camvid_section(results / "camvid"), "", *best_section(results / "camvid_best" / "result.json"), ""]
    return "\n".join([*parts, *long_section(results / "streets_long")]) + "\n"


def camvid_section(folder: Path) -> list[str]:
    """The table of the four heads and the IoU of every class; says so where nothing has been run."""
    lines = ["## CamVid, one seed a head: 11 classes, validation split (101 frames of 360x480)", ""]
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not found:
        return [*lines, "Not run yet."]
    found.sort(key=lambda result: -result["metrics"]["single"]["miou"])
    lines += [
        "`configs/camvid/`: ResNet-18 of half width from scratch on the 367 training frames; see the configs' notes.",
        "mIoU is the mean over the classes in truth or prediction, at the labels' own size; `+ flip` averages with the",
        "flipped image.",
        "",
        "| head | mIoU | + flip | pixel acc. | steps | s a step (median) | training, min | seed | commit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [row(result) for result in found]
    names = list(found[0]["metrics"]["single"]["per_class"])
    lines += [
        "",
        "IoU of each class, in percent:",
        "",
        f"| head | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for result in found:
        values = result["metrics"]["single"]["per_class"]
        lines.append(f"| {head_of(result)} | {' | '.join(percent(values[name]) for name in names)} |")
    cpus = sorted({f"{result['machine']['cpu']}, {result['machine']['cores']} cores" for result in found})
    lines += ["", *(f"{head_of(result)}: {result['note']}." for result in found if "note" in result)]
    return [*lines, "", f"Machine: {'; '.join(cpus)}; torch {found[0]['versions']['torch']}."]


def best_section(path: Path) -> list[str]:
    """The recipe that gets furthest on CamVid, scored as it says, plainly, and with its float16 weights."""
    lines = ["## CamVid, as far as we get from scratch", ""]
    if not path.exists():
        return [*lines, "Not run yet."]
    result = json.loads(path.read_text())
    ways = {"recipe": "flip and scales as the recipe says", "half": "the same, float16 weights", "single": "neither"}
    names = list(result["metrics"]["recipe"]["per_class"])
    run = f"{result['steps']:,} steps, seed {result['seed']}, commit {commit_text(result['git'])}"
    lines += [
        f"`{result['config']}`, {run}; validation split.",
        "The weights lie in `benchmarks/results/camvid_best/`: `segnl eval --checkpoint FILE` scores them.",
        "",
        f"| scored with | mIoU | pixel acc. | {' | '.join(names)} |",
        "|---" * (len(names) + 3) + "|",
    ]
    for key, way in ways.items():
        scores = result["metrics"][key]
        values = [scores["miou"], scores["pixel_acc"], *(scores["per_class"][name] for name in names)]
        lines.append(f"| {way} | {' | '.join(map(percent, values))} |")
    return [*lines, *(["", f"Note: {result['note']}."] if "note" in result else [])]


def long_section(folder: Path) -> list[str]:
    """The long runs on streets: what each head reaches on every ambiguous pair."""
    lines = ["## Streets, long: accuracy on the ambiguous pairs, 200 validation streets of 128x256", ""]
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not found:
        return [*lines, "Not run yet."]
    names = list(found[0]["pairs"])
    lines += [
        "`./run.sh bench streets_long`, recipes `configs/streets/long_*.yaml`. Whoever knows the objects but not the",
        "cues comes to 50 % (docs/streets.md). Heads that are not in the table have not been run.",
        "",
        f"| head | mIoU | {' | '.join(names)} | mean of pairs | steps | batch | seed | commit |",
        "|---" * (len(names) + 7) + "|",
    ]
    for result in found:
        pairs = [percent(result["pairs"][name]) for name in names]
        commit = commit_text(result["git"])
        cells = [result["head"], percent(result["miou"]), *pairs, percent(result["pairs_mean"])]
        cells += [str(result[key]) for key in ("steps", "batch_size", "seed")]
        lines.append(f"| {' | '.join([*cells, commit])} |")
    return lines


def head_of(result: Result) -> str:
    return Path(result["config"]).stem.removesuffix("_r18")


def row(result: Result) -> str:
    single, flip = result["metrics"]["single"], result["metrics"]["flip"]
    commit = commit_text(result["git"])
    cells = [
        head_of(result),
        percent(single["miou"]),
        percent(flip["miou"]),
        percent(single["pixel_acc"]),
        str(result["steps"]),
        f"{result['step_s_median']:.2f}",
        f"{result['train_s'] / 60:.1f}",
        str(result["seed"]),
        commit,
    ]
    return f"| {' | '.join(cells)} |"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


if __name__ == "__main__":
    (ROOT / "docs" / "results.md").write_text(results_page(), encoding="utf-8")
    (ROOT / "docs" / "performance.md").write_text(performance_page(RESULTS), encoding="utf-8")
    (ROOT / "docs" / "statistics.md").write_text(statistics_page(RESULTS), encoding="utf-8")
