"""Arguments that several commands share."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from segnl.core.errors import ConfigError


def repeat_set(words: Sequence[str]) -> list[str]:
    """Returns `--set a=1 --set b=2 FILE` for `--set a=1 b=2 FILE`; argparse's own lists would take the file too."""
    out: list[str] = []
    is_value = follows_value = False
    for word in words:
        if follows_value and re.match(r"[A-Za-z_][\w.]*=", word):
            out += ["--set", word]
            continue
        out.append(word)
        follows_value = is_value or word.startswith("--set=")
        is_value = word == "--set"
    return out


def add_config(command: argparse.ArgumentParser) -> None:
    """Adds --config and --set."""
    command.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="a recipe, such as configs/camvid/rcca_r18.yaml"
    )
    add_set(command)


def add_set(command: argparse.ArgumentParser) -> None:
    """Adds --set."""
    command.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="A.B=C",
        help="change one key; several may follow one --set, and it may be repeated",
    )


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """Adds --checkpoint."""
    command.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="RUN_OR_FILE",
        help="a run's folder (its last checkpoint) or a file",
    )


def size_of(text: str) -> tuple[int, int]:
    """Returns (256, 512) for `256x512`; raises ConfigError for anything else."""
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal()):
        raise ConfigError(f"{text}: expected rows x columns, such as 256x512")
    return int(rows), int(columns)
