"""docs/performance.md as text, from the files under benchmarks/results/. benchmarks/pages.py writes it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from command import commit_text

Result = dict[str, Any]

NAMES = {
    "embedded_gaussian": "embedded Gaussian (softmax)",
    "dot_product": "dot product",
    "concatenation": "concatenation",
    "criss_cross": "criss-cross",
}

PARTS = (("forward", "seconds", 1000), ("forward_backward", "seconds", 1000), ("memory", "peak_mib", 1))
"""Of a case: its keys, and what a value is multiplied by."""


def performance_page(results: Path) -> str:
    """Every benchmark that has a result file; the others are said not to have been run."""
    parts = [
        "# Performance",
        "",
        "Made by `benchmarks/pages.py` from the files under `benchmarks/results/`. In every table all contestants took",
        "turns in one run, and a time is the median of their rounds. The machines are shared and noisy: the ratios",
        "hold, the absolute times mean little. `2.0x` says that the other one takes twice what segnl takes.",
        "",
    ]
    sections = [
        ("Context operators", "bench ops", results / "ops" / "context.json", _operators),
        ("Whole heads", "bench heads", results / "heads" / "cpu.json", _heads),
        ("The pixel loss", "bench loss", results / "ops" / "loss.json", _losses),
        ("Dilated convolutions", "bench dilated", results / "ops" / "dilated.json", _dilated),
        ("Evaluation", "bench eval", results / "eval" / "eval.json", _evaluation),
        ("Training steps", "bench train", results / "train" / "cpu.json", _steps),
        ("Memory allocation", "bench malloc", results / "malloc" / "cpu.json", _malloc),
    ]
    for title, command, path, section in sections:
        parts += [f"## {title}", "", f"`./run.sh {command}`", ""]
        if path.is_file():
            found = json.loads(path.read_text())
            parts += [*section(found), "", _origin(found), ""]
        else:
            parts += ["Not run yet.", ""]
    return "\n".join(parts).rstrip() + "\n"


def _origin(found: Result) -> str:
    commit = commit_text(found)
    machine = found["machine"]
    packages = found["versions"]
    return (
        f"{machine['cpu']}, {found['threads']} threads; torch {packages['torch']}; median of {found['rounds']} rounds; "
        f"load before the run {found['load_before']:.1f}; commit {commit}."
    )


def _operators(found: Result) -> list[str]:
    lines = [
        "Batch 1, float32. `op`: the operator on channels-first maps (256 channels; criss-cross 64 and 512). `block`:",
        "the whole 512-channel block. `plain`: the textbook form, with all pairs of positions (`plain_` in segnl/ops).",
        "`mmcv`: mmcv-lite's module. Memory is the peak above the inputs, forward and backward.",
        "",
        "| what | map | forward, ms | plain | mmcv | and backward, ms | plain | mmcv | peak, MiB | plain | mmcv |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in found["results"]:
        rounds = case.get("rounds", found["rounds"])
        size = "x".join(map(str, case["hw"])) + ("" if rounds == found["rounds"] else f", rounds: {rounds}")
        cells = [f"{NAMES[case['kind']]}, {case['level']}", size]
        cells += [cell for part in PARTS for cell in _cells(case[part[0]], *part[1:], ("plain", "mmcv"))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines + _reasons(found, lambda case: f"{NAMES[case['kind']]} {case['level']}")


def _reasons(found: Result, name_of: Callable[[Result], str]) -> list[str]:
    """Why a contestant has no number in a case, a line each."""
    reasons = sorted(
        {
            f"- {name}, {name_of(case)} at {'x'.join(map(str, case['hw']))}: {why}"
            for case in found["results"]
            for part, _, _ in PARTS
            for name, why in case[part].get("cannot", {}).items()
        }
    )
    return ["", "Where a contestant has no number:", "", *reasons] if reasons else []


def _cells(part: Result, key: str, factor: float, others: tuple[str, ...]) -> list[str]:
    own = part[key].get("segnl")
    ratios = part["ratio_to_segnl"]
    return [
        "-" if own is None else f"{factor * own:.1f}",
        *(f"{ratios[name]:.2f}x" if name in ratios else "-" for name in others),
    ]


def _heads(found: Result) -> list[str]:
    lines = [
        "Every head with its published settings and classifier, batch 1, float32, beside mmsegmentation's: as",
        "evaluation runs it, and as training does. Memory is the peak in training above weights and stages.",
        "",
        "| head | map | evaluation, ms | mmseg | training, ms | mmseg | peak, MiB | mmseg |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in found["results"]:
        cells = [case["head"], "x".join(map(str, case["hw"]))]
        cells += [cell for part in PARTS for cell in _cells(case[part[0]], *part[1:], ("mmseg",))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines + _reasons(found, lambda case: str(case["head"]))


def _losses(found: Result) -> list[str]:
    lines = [
        "Value and gradient of upsampled logits, float32. `plain`: F.interpolate, then cross-entropy. The error",
        "is the largest one of the gradient over the largest gradient, against the plain form in float64.",
        "",
        "| loss | classes | from, to | ms | plain | peak, MiB | plain | gradient error | plain's |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in found["results"]:
        sizes = " to ".join("x".join(map(str, case[key])) for key in ("in_hw", "out_hw"))
        timed = _cells(case, "seconds", 1000, ("plain",))
        memory = _cells(case["memory"], "peak_mib", 1, ("plain",))
        errors = [f"{case['gradient_error'][name]:.0e}" for name in ("segnl", "plain")]
        cells = [
            case["loss"].replace("_", "-"),
            str(case["classes"]),
            f"{sizes}, batch {case['batch']}",
            *timed,
            *memory,
            *errors,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _dilated(found: Result) -> list[str]:
    lines = [
        "ASPP's 3x3 convolutions, CPU, bfloat16, channels last (segnl/ops/dilated_conv.py), beside torch's.",
        "",
        "| channels | map, batch | dilation | forward, ms | torch | and backward, ms | torch |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in found["results"]:
        timed = [
            cell for way in ("forward", "forward_backward") for cell in _cells(case[way], "seconds", 1000, ("torch",))
        ]
        (channels, out_channels), (h, w) = case["channels"], case["hw"]
        cells = [f"{channels} to {out_channels}", f"{h}x{w}, {case['batch']}", str(case["dilation"]), *timed]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _evaluation(found: Result) -> list[str]:
    lines = [
        f"Images of {'x'.join(map(str, found['hw']))}; {found.get('clock', 'wall time')}.",
        "A peer in brackets behind a method is not run: its method is, written anew. `cityscapesscripts` by itself is",
        "its own `evaluatePair`, called as its command line calls it.",
        "",
        "| task | way | ms | over segnl |",
        "|---|---|---|---|",
    ]
    for task, seconds in found["seconds"].items():
        for name, value in seconds.items():
            lines.append(f"| {task} | {name} | {1000 * value:.1f} | {value / seconds['segnl']:.2f}x |")
    whole = found.get("end_to_end")
    return [*lines, "", *([*_whole_evaluations(whole), ""] if whole else []), *_peaks(found["memory"])]


def _whole_evaluations(by_workers: Result) -> list[str]:
    lines = [
        "A whole evaluation, 19 classes, the network replaced by a fixed map of logits, beside reading the same files",
        "with as many workers and nothing else. Images a second are wall time; ms of processor time an image are of",
        "the evaluating process (normalising, labelling, counting) and of its workers (decoding).",
        "",
        "| workers | images/s | reading alone | share of its speed | own ms | workers' ms |",
        "|---|---|---|---|---|---|",
    ]
    for workers, one in by_workers.items():
        speed, cpu = one["images_a_second"], one["cpu_ms"]["segnl"]
        cells = [workers.split()[0], f"{speed['segnl']:.1f}", f"{speed['decoding alone']:.1f}", f"{one['ratio']:.2f}"]
        cells += [f"{cpu[part]:.0f}" for part in ("own", "workers")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _peaks(memory: Result) -> list[str]:
    lines = ["Peak memory above what goes in:", "", "| task | way | MiB | over segnl |", "|---|---|---|---|"]
    for task, one in memory.items():
        for name, value in one["peak_mib"].items():
            lines.append(f"| {task} | {name} | {value:.1f} | {one['ratio_to_segnl'].get(name, 1):.2f}x |")
    return lines


def _steps(found: Result) -> list[str]:
    lines = [
        "Seconds of a step: ResNet-50, output stride 8, forward, upsampled cross-entropy, backward, SGD, on the CPU.",
        "The peers' models run in a plain loop, in float32, with heads of the same shape; segnl in float32 too, and by",
        "`train.precision: bf16` with `train.channels_last: true`. A ratio is the peer's time over that of segnl.",
        *_allocator_note(found),
        "",
        "| head | crop, batch | peer | its s | segnl float32, s | ratio | segnl bf16, s | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in found["results"]:
        seconds = case["seconds"]
        size = f"{'x'.join(map(str, case['hw']))}, {case['batch']}"
        theirs = seconds[case["peer"]]
        cells = [case["head"], size, case["peer"], "-" if theirs is None else f"{theirs:.2f}"]
        for own in ("segnl", "segnl bf16"):
            cells += [f"{seconds[own]:.2f}", "-" if theirs is None else f"{theirs / seconds[own]:.2f}x"]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *_where_time_goes(found)]


def _allocator_note(found: Result) -> list[str]:
    if found.get("malloc") == "freed memory kept by all":
        return ["All contestants keep freed memory, as `segnl train` does (see Memory allocation)."]
    return [
        "In this run only segnl kept freed memory, as `segnl train` does: a part of the float32 ratio is that, not the",
        "network (see Memory allocation).",
    ]


def _malloc(found: Result) -> list[str]:
    lines = [
        "On Linux with glibc, the command line makes malloc keep freed memory (segnl/core/memory.py).",
        "One training step, ResNet-18, batch 2, with and without that, all else equal. The ratio is with over without,",
        "taken round by round: median, and quartiles in brackets. Processor time is the steady measure; wall time also",
        "holds what other programs of the machine do.",
        "",
        "| head | crop | precision | CPU s without | with | ratio | wall ratio | peak MiB without | with |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in found["results"]:
        without, kept = (case["medians"][side] for side in ("default", "kept"))
        ratios = [
            f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
            for ratio in (case["kept_over_default"][key] for key in ("cpu_s", "wall_s"))
        ]
        cells = [case["head"], "x".join(map(str, case["hw"])), case["precision"]]
        cells += [f"{without['cpu_s']:.2f}", f"{kept['cpu_s']:.2f}", *ratios]
        cells += [f"{without['peak_mib']:.0f}", f"{kept['peak_mib']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _where_time_goes(found: Result) -> list[str]:
    keys = ("backbone", "head", "loss", "backward", "optimiser")
    lines = [
        "Where segnl's time goes, in percent of the step. Loss: both classifiers, the upsampling, the value, and the",
        "gradient down to the classifiers' logits, which is formed in the same pass.",
        "",
        f"| head | peer's shape | precision | {' | '.join(keys)} |",
        "|---" * (len(keys) + 3) + "|",
    ]
    for case in found["results"]:
        for own, precision in (("segnl", "float32"), ("segnl bf16", "bf16")):
            parts = case["parts"][own]
            shares = [f"{100 * parts[key] / sum(parts.values()):.0f}" for key in keys]
            lines.append(f"| {' | '.join([case['head'], case['peer'], precision, *shares])} |")
    return lines
