"""Parameters, FLOPs, memory and time of a recipe's network, its head or its attention."""

import argparse
from typing import TYPE_CHECKING

from segnl.cli.arguments import add_config, add_json, size_of
from segnl.core.outputs import json_file

if TYPE_CHECKING:
    from segnl.profiling.cost import CostReport


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add_config(command)
    add("--input", type=size_of, default="769x769", metavar="HxW", help="size of the image (default 769x769)")
    add("--module", choices=("attention", "head", "model"), default="model", help="default model")
    add("--classes", type=int, metavar="N", help="number of classes, if the data set's class table is missing")
    add_json(command)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.core.files import ensure_writable, write_atomic
    from segnl.core.limits import require_count, require_memory
    from segnl.profiling.cost import cost
    from segnl.runs.recipe import load_recipe

    if args.json is not None:
        ensure_writable(args.json.parent)
    recipe = load_recipe(args.config, args.overrides)
    rows, columns = args.input
    require_memory(f"--input {rows}x{columns}", 64 * rows * columns)  # the stem's map: 64 channels at half the size
    if args.classes is not None:
        require_count("--classes", args.classes, most=65_536)
    report = cost(recipe, hw=args.input, module=args.module, num_classes=args.classes)
    if args.json is not None:
        write_atomic(args.json, json_file(report.to_dict(), "cost"))
    print("\n".join(_lines(report)))


def _lines(report: "CostReport") -> list[str]:
    """Returns the table: one line per number, with its meaning."""
    counts, profile = report.counts, report.profile
    if report.module == "attention":
        algorithm = "the algorithm at the published widths (q, k c/8, v c): see below"
    else:
        algorithm = "counted as in the papers: all pairs of positions of a non-local block"
    threads = f", {profile.threads} thread{'s' if profile.threads > 1 else ''}" if profile.device == "cpu" else ""
    rows = [
        ("params", f"{counts.params:,}", "parameters, without the auxiliary head"),
        ("gflops", f"{counts.gflops:.2f}", "executed to predict an image; a multiplication with its addition is 2"),
        ("gflops_algorithm", f"{counts.gflops_algorithm:.2f}", algorithm),
        ("saved_mib", f"{profile.saved_mib:.1f}", "stored by forward for backward, without parameters"),
        ("peak_mib", f"{profile.peak_mib:.1f}", "of forward and backward, above weights, gradients and input"),
        (
            "latency_ms",
            f"{profile.latency_ms:.1f}",
            f"to predict; approximate: median of {profile.passes} passes on {profile.device}{threads}",
        ),
    ]
    size = "x".join(map(str, report.hw))
    lines = [f"{report.module}, one image of {size}, {report.num_classes} classes, {profile.arithmetic}"]
    lines += [f"  {name:<17}{value:>13}   {meaning}" for name, value, meaning in rows]
    if counts.comparison:
        _, c, h, w = counts.input_shapes[0]
        lines.append(f"published comparison, GFLOPs on a map of {c}x{h}x{w} (q, k {max(1, c // 8)}; v {c}):")
        lines += [f"  {name:<17}{value:>13.2f}" for name, value in counts.comparison.items()]
    return lines
