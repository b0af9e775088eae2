"""Train and compare every head of a study, or compare results that exist already."""

import argparse
import shutil
from typing import TYPE_CHECKING

from segnl.cli.arguments import add_json, add_set, add_trust_modules, path_of
from segnl.core.errors import ConfigError
from segnl.core.outputs import json_file

if TYPE_CHECKING:
    from segnl.studies.results import StudyResults


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add(
        "results",
        nargs="*",
        metavar="RUN_OR_COUNTS",
        help="instead of a study: trained runs, or out.json and out.counts.npz of segnl score; NAME=FILE,FILE for "
        "the seeds of one model",
    )
    add(
        "--config",
        type=path_of,
        metavar="FILE",
        help="a study: a YAML file that lists heads and seeds, such as configs/compare/camvid.yaml (docs/compare.md)",
    )
    add("--jobs", type=int, default=1, metavar="N", help="training runs at a time, on one GPU each (default 1)")
    add(
        "--engine",
        default="local",
        metavar="ENGINE",
        help="where runs are trained: local, this machine (default); ray, a Ray cluster that this machine belongs to, "
        "or a new one; ray://HOST:PORT, the one with that head node (docs/clusters.md)",
    )
    add("--only", type=int, metavar="N", help="train run N of the study, from 1, and stop: for array jobs of SLURM")
    add_set(command)
    add("--split", help="with RUN_OR_COUNTS only: the split to evaluate (default val)")
    add(
        "--group",
        metavar="PATTERN",
        help="with RUN_OR_COUNTS only: images to count as one, such as the frames of a video: `folder`, "
        "a regular expression that matches the start of every sample id, such as '[^_]+' for the text before the "
        "first underscore, or a list such as groups.tsv (data.group)",
    )
    add_trust_modules(command)
    add_json(command, "also write the numbers there; of RUN_OR_COUNTS, which have no page, those of every class too")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if (args.config is None) == (not args.results):
        raise ConfigError("compare: give either --config STUDY, or results that exist already")
    if args.only is not None and (args.results or args.engine != "local" or args.jobs != 1 or args.json):
        raise ConfigError("--only: trains one run of a study in this process; give --config STUDY and nothing else")
    if args.results:
        if args.engine != "local" or args.overrides or args.jobs != 1:
            raise ConfigError("--jobs, --engine, --set: belong to a study; results that exist already are not trained")
        _compare_scored(args)
        return
    if args.split is not None or args.group is not None:
        raise ConfigError("--split, --group: belong to results that exist already; a study's file has the split")
    from segnl.core.limits import require_jobs
    from segnl.studies.run import compare, train_only

    if args.only is not None:
        train_only(args.config, args.only, overrides=args.overrides)
        return
    require_jobs(args.jobs)
    results = compare(args.config, args.json, num_jobs=args.jobs, engine=args.engine, overrides=args.overrides)
    print_results(results)


def _compare_scored(args: argparse.Namespace) -> None:
    """Compares results that exist already, and prints the verdict. Imports no torch if all are counts."""
    from segnl.core.files import ensure_writable, write_atomic
    from segnl.studies.compare_scored import compare_scored
    from segnl.studies.scored_text import scored_dict, scored_text

    if args.json is not None:
        ensure_writable(args.json.parent)
    comparison = compare_scored(
        args.results,
        split="val" if args.split is None else args.split,
        group=args.group,
        trust_modules=args.trust_modules,
    )
    if args.json is not None:
        write_atomic(args.json, json_file(scored_dict(comparison), "compare"))
    print(scored_text(comparison, width=min(120, shutil.get_terminal_size((120, 40)).columns)))


def print_results(results: "StudyResults") -> None:
    """Prints verdicts and table, and the names of the written files."""
    from segnl.studies.table import terminal_text

    folder = results.study.folder
    files = ", ".join(str(folder / name) for name in ("table.md", "table.csv", "compare.json"))
    print(terminal_text(results, width=shutil.get_terminal_size((200, 40)).columns))
    print(f"table and numbers: {files}")
    print(f"page: {folder / 'report.html'} (opens in any browser, from disk)")
