"""Sections of docs/results.md on studies and of docs/statistics.md on A/A studies, made from kept result files."""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from command import commit_text

from segnl.metrics.statistics.comparison import Comparison
from segnl.studies.results import HeadResult
from segnl.studies.verdicts import head_verdicts, pair_verdict, same_recipe_verdicts

Result = dict[str, Any]

AA = """\
## The same head twice

In the simulation above, the true differences are known by construction. Here they are known for real training runs:
one recipe under two names with different seeds, so every difference is chance. One study is one sample; therefore its
runs are also split into two halves in every possible way, and each split is compared as a separate study. The splits
share runs, so they are not independent tests: on average over many such sets of runs, 5 % of the splits would be called
different; in a single set it may be none or several.
"""


def studies_section(folder: Path) -> list[str]:
    """Returns every stored study, its verdict first."""
    lines = ["## Studies: is one head better?", ""]
    results = _read(folder)
    if not results:
        return [*lines, "Not run yet: `./run.sh bench study --config configs/compare/camvid.yaml`."]
    lines += [
        "Several seeds per head under equal conditions (`segnl compare`). Differences are in points of mIoU, with the",
        "95 % interval for new seeds and images in brackets; [compare.md](compare.md) explains columns and verdicts,",
        "[statistics.md](statistics.md) the intervals. Images/s, latency and memory are measurements on one machine.",
    ]
    for result in results:
        lines += ["", *study_lines(result)]
    return lines


def study_lines(result: Result) -> list[str]:
    """Returns one study: its recipe, verdicts, table, every run, and the ablations."""
    first, *rest = head_verdicts(heads_of(result), _pairs(result))
    size = "x".join(map(str, result["crop_hw"]))
    lines = [
        f"### {result['study']}: {', '.join(result['heads'])}",
        "",
        f"`{result['config']}`: {result['data']}, {result['steps']:,} steps of {result['batch_size']} crops of {size}; "
        f"{result['num_images']} images of {result['split']}; {seeds_text(result['seeds'])}."
        + (f" {result['note']}" if result["note"] else ""),
        "",
        f"**{first}**",
        "",
        *(f"- {line}" for line in rest),
        *(f"- refused: {name} {reason}" for name, reason in result["refused"].items()),
        "",
        *head_table(result),
        "",
        *searched_rates(result),
        "mIoU of every run, in the order of the seeds:",
        *("; ".join(f"{head} {_listed(runs.values())}" for head, runs in result["runs"].items()) + ".",),
    ]
    if result["ablations"]:
        lines += ["", *ablation_table(result["ablations"])]
    return [*lines, "", origin(result)]


def searched_rates(result: Result) -> list[str]:
    """Returns the learning rates that a search chose, and its cost; nothing for a study without one."""
    search = result.get("learning_rates")
    if search is None:
        return []
    rates = ", ".join(f"{head} {rate:g}" for head, rate in search["rates"].items())
    num_runs, minutes = sum(map(len, search["miou"].values())), search["train_s"] / 60
    return [f"Learning rates of the search ({num_runs} runs, {minutes:.0f} minutes of training): {rates}.", ""]


def heads_of(result: Result) -> list[HeadResult]:
    """Returns the heads with their scores, for the verdicts."""
    scores = {name: [miou for miou in runs.values() if miou is not None] for name, runs in result["runs"].items()}
    return [
        HeadResult(name, statistics.fmean(miou) if miou else None, None, len(miou), None, 0, 0.0, None)
        for name, miou in scores.items()
    ]


def _pairs(result: Result) -> list[Comparison]:
    names = [field.name for field in dataclasses.fields(Comparison)]
    pairs = [{name: pair[name] for name in names if name in pair} for pair in result["pairs"]]
    lists = ("seeds_needed", "single_classes")
    return [Comparison(**pair | {name: tuple(pair[name]) for name in lists if pair.get(name)}) for pair in pairs]


def seeds_text(seeds: dict[str, list[int]]) -> str:
    """Returns the seeds, as one list if all heads have the same."""
    texts = {head: ", ".join(map(str, own)) for head, own in seeds.items()}
    if len(set(texts.values())) == 1:
        (text,) = set(texts.values())
        return f"seed{'s' if ',' in text else ''} {text}"
    return "seeds " + "; ".join(f"of {head} {text}" for head, text in texts.items())


def head_table(result: Result) -> list[str]:
    """Returns the study's table without empty columns."""
    control = next(iter(result["heads"]))
    against = {pair["a"]: pair for pair in result["pairs"] if pair["b"] == control}
    columns = {
        "mIoU %": lambda name, head: _mean_sd(head["miou_mean"], head["miou_sd"]),
        f"vs {control}": lambda name, head: "control" if name == control else _interval(against[name]),
        "boundary IoU %": lambda name, head: _percent(head["boundary_iou"]),
        "ambiguous pairs %": lambda name, head: _percent(head["ambiguous_acc"], digits=1),
        "channels": lambda name, head: _plain(head["matched_channels"], "{:.0f}"),
        "parameters, M": lambda name, head: _plain(head["params"] / 1e6, "{:.2f}"),
        "GFLOPs": lambda name, head: _plain(head["gflops"], "{:.2f}"),
        "training images/s": lambda name, head: _plain(head["train_images_per_s"], "{:.1f}"),
        "latency, ms": lambda name, head: _plain(head["latency_ms"], "{:.1f}"),
        "peak, MiB": lambda name, head: _plain(head["peak_mib"], "{:.1f}"),
    }
    cells = {title: [cell(*head) for head in result["heads"].items()] for title, cell in columns.items()}
    known = {title: column for title, column in cells.items() if set(column) != {"-"}}
    lines = [f"| head | {' | '.join(known)} |", "|---|" + "---:|" * len(known)]
    for i, name in enumerate(result["heads"]):
        lines.append(f"| {name} | {' | '.join(column[i] for column in known.values())} |")
    return lines


def ablation_table(ablations: Result) -> list[str]:
    """Returns the change of mIoU when trained attention is disabled or scrambled, mean over the runs."""
    meanings = {name: mapping["meaning"] for own in ablations.values() for name, mapping in own.items()}
    lines = [
        "Change of mIoU in points when a trained head's attention is disabled or scrambled at evaluation, mean over",
        "the runs ± their standard deviation:",
        "",
        f"| head | {' | '.join(f'{name}: {meaning}' for name, meaning in meanings.items())} |",
        "|---|" + "---:|" * len(meanings),
    ]
    for head, own in ablations.items():
        lines.append(f"| {head} | {' | '.join(_change(own.get(name)) for name in meanings)} |")
    return lines


def origin(result: Result) -> str:
    """Returns machine, versions and commits of a study."""
    machine, jobs = result["machine"], result["jobs"]
    commits = ", ".join(commit_text(git) for git in result["git"])
    parallel = f", {jobs} training runs at a time" if jobs > 1 else ""
    return (
        f"{machine['cpu']}, {machine['cores']} cores{parallel}; torch {result['versions']['torch']}; "
        f"commit{'s' if len(result['git']) > 1 else ''} {commits}."
    )


def aa_section(folder: Path) -> str:
    """Returns the A/A studies: the verdict, the splits, and the result of an interval over images alone."""
    results = _read(folder)
    if not results:
        return f"{AA}\nNot run yet: `./run.sh bench aa`.\n"
    return "\n".join([AA, *("\n".join(aa_lines(result)) + "\n" for result in results)])


def aa_lines(result: Result) -> list[str]:
    """Returns one A/A study."""
    runs = [miou for own in result["runs"].values() for miou in own.values()]
    splits, half = result["splits"], len(result["splits"][0]["a"])
    differ = [split for split in splits if split["p"] is not None and split["p"] < 0.05]
    images = [split for split in splits if split["images_low"] is not None]
    by_images = [split for split in images if split["images_low"] > 0 or split["images_high"] < 0]
    sizes = sorted(100 * abs(split["difference"]) for split in splits)
    widths = [100 * (split["high"] - split["low"]) / 2 for split in splits if split["low"] is not None]
    sd, reach = 100 * statistics.stdev(runs), 100 * (max(runs) - min(runs))
    return [
        f"`{result['config']}`: {result['data']}, {result['steps']:,} steps of {result['batch_size']} crops; "
        f"{result['num_images']} images of {result['split']}; {seeds_text(result['seeds'])}.",
        "",
        *(f"- {pair_verdict(pair, len(result['pairs']))}" for pair in _pairs(result)),
        *(f"- {line}" for line in same_recipe_verdicts([list(result["heads"])])),
        f"- The {len(runs)} runs: mIoU {_listed(runs)}; standard deviation {sd:.2f} points, range {reach:.2f}.",
        "",
        f"| of the {len(splits)} splits into {half} and {len(runs) - half} runs | number | fraction |",
        "|---|---:|---:|",
        f"| called different, p < 0.05 (no difference exists; 5 % expected) | {_fraction(differ, splits)} |",
        f"| called different by the common interval over images alone | {_fraction(by_images, splits)} |",
        "",
        f"The median difference between the halves is {statistics.median(sizes):.2f} points, the largest "
        f"{sizes[-1]:.2f}; the median half-width of the intervals is {statistics.median(widths):.2f} points.",
        "",
        origin(result),
    ]


def _fraction(some: list[Result], splits: list[Result]) -> str:
    return f"{len(some)} | {100 * len(some) / len(splits):.0f} %"


def _read(folder: Path) -> list[Result]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def _listed(values: Any) -> str:
    return ", ".join(_percent(value) for value in values)


def _percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _plain(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _mean_sd(mean: float | None, sd: float | None) -> str:
    return _percent(mean) + ("" if sd is None else f" ± {_percent(sd)}")


def _interval(pair: Result) -> str:
    if pair["difference"] is None:
        return "-"
    has_seeds = pair["low"] is not None
    low, high = (pair["low"], pair["high"]) if has_seeds else (pair["images_low"], pair["images_high"])
    scope = "" if has_seeds else " images only"
    bracket = "" if low is None else f" [{100 * low:+.2f}, {100 * high:+.2f}]{scope}"
    return f"{100 * pair['difference']:+.2f}{bracket}"


def _change(mapping: Result | None) -> str:
    if mapping is None or mapping["miou_change"] is None:
        return "-"
    changes = list(mapping["miou_changes"].values())
    spread = f" ± {100 * statistics.stdev(changes):.2f}" if len(changes) > 1 else ""
    return f"{100 * mapping['miou_change']:+.2f}{spread}"
