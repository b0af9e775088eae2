"""Show what each head can see: from how far away it can use information."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from segnl.cli.arguments import add_count, add_set, path_of
from segnl.core.errors import ConfigError

if TYPE_CHECKING:
    from segnl.studies.probe_results import ProbeResults


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add("--config", type=path_of, metavar="FILE", help="probe this recipe's network instead of a small one")
    heads_help = "any heads, rcca_r1 (rcca with one pass), or modules such as mylab.heads.swirl"
    add(
        "--heads",
        type=_names,
        default=(),
        metavar="A,B",
        help=f"{heads_help} (default fcn,aspp,rcca_r1,rcca,non_local)",
    )
    add(
        "--tasks",
        type=_names,
        default=("reach",),
        metavar="A,B",
        help="reach, association, counting: what the head must do (docs/probe.md; default reach)",
    )
    add_count(command, "--seeds", 3, "training runs of each head", most=1000)
    add("--jobs", type=int, default=2, metavar="N", help="runs at a time, one thread each (default 2)")
    add(
        "--out",
        type=path_of,
        required=True,
        metavar="DIR",
        help="folder for the runs, probe.json, pictures and the page",
    )
    add_set(command)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:  # as with a shell's variable that is not set
        raise ConfigError(f"--heads or --tasks '{text}': names nothing; expected names such as fcn,rcca")
    return names


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.core.limits import require_jobs
    from segnl.studies.probe import ProbeRequest, probe

    require_jobs(args.jobs)
    request = ProbeRequest(args.out, args.config, args.heads, args.seeds, args.tasks, tuple(args.overrides))
    print_probe(probe(request, num_jobs=args.jobs), args.out)


def print_probe(results: "ProbeResults", out: Path) -> None:
    """Prints tables and verdicts, and the names of the written files."""
    from segnl.studies.probe_report import terminal_text

    print(terminal_text(results, width=shutil.get_terminal_size((120, 40)).columns))
    print(f"numbers: {out / 'probe.json'}")
    print(f"page: {out / 'report.html'} (opens in any browser, from disk)")
