"""Arguments that several commands share."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from segnl.core.errors import ConfigError
from segnl.core.limits import require_count

_VALUE_OF = {"--set": r"[A-Za-z_][\w.]*=", "--ignore": r"\d+$"}
"""How a further value of an option looks that may have several."""


def path_of(text: str) -> Path:
    """Returns the path that an argument gives; an empty one, as of an unset variable, is none, and not this folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; is a variable of the shell unset?")
    if "\0" in text:
        raise argparse.ArgumentTypeError("holds a NUL")
    return Path(text)


def repeat_options(words: Sequence[str]) -> list[str]:
    """Returns `--set a=1 --set b=2 FILE` for `--set a=1 b=2 FILE`, and the same for --ignore.

    argparse's own lists would take the file too.
    """
    out: list[str] = []
    for word in words:
        options = [*out[-2:-1], *(last.partition("=")[0] for last in out[-1:] if last.startswith("--") and "=" in last)]
        option = next((name for name in options if name in _VALUE_OF), None)
        if option is not None and re.match(_VALUE_OF[option], word):
            out.append(option)
        out.append(word)
    return out


def add_config(command: argparse.ArgumentParser) -> None:
    """Adds --config and --set."""
    about = "a recipe, such as configs/camvid/rcca_r18.yaml"
    command.add_argument("--config", type=path_of, required=True, metavar="FILE", help=about)
    add_set(command)


def add_set(command: argparse.ArgumentParser) -> None:
    """Adds --set."""
    about = "change a key of the recipe, such as optim.lr=0.02; several may follow, and --set may be repeated"
    command.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C", help=about)


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """Adds --checkpoint."""
    about = "a run's folder (its last checkpoint) or a file"
    command.add_argument("--checkpoint", type=path_of, required=True, metavar="RUN_OR_FILE", help=about)
    add_trust_modules(command)


def add_json(command: argparse.ArgumentParser, about: str = "also write the numbers there") -> None:
    """Adds --json; `main` refuses a file that the command did not write."""

    def json_path(text: str) -> Path:
        if Path(text).suffix.lower() != ".json":  # as a checkpoint, say, which a later training would take for its own
            raise ConfigError(f"--json {text}: expected a file that ends in .json")
        return path_of(text)

    command.add_argument("--json", type=json_path, metavar="FILE.json", help=about)


def add_trust_modules(command: argparse.ArgumentParser) -> None:
    """Adds --trust-modules."""
    about = (
        "Python module, or package of modules, that a checkpoint's recipe may import; its code runs on this machine "
        "(may be repeated)"
    )
    command.add_argument("--trust-modules", action="append", default=[], metavar="NAME", help=about)


def add_count(
    command: argparse.ArgumentParser, option: str, default: int, about: str, *, most: int, least: int = 1
) -> None:
    """Adds an option for a whole number from `least` to `most`."""

    def count(text: str) -> int:
        require_count(option, number := int(text), least=least, most=most)
        return number

    count.__name__ = "int"  # as argparse names the type in its message
    command.add_argument(option, type=count, default=default, metavar="N", help=f"{about} (default {default})")


def size_of(text: str) -> tuple[int, int]:
    """Returns (256, 512) for `256x512`; raises ConfigError for anything else."""
    rows, _, columns = text.partition("x")
    if not all(side.isdecimal() and len(side) < 10 and int(side) for side in (rows, columns)):
        raise ConfigError(f"{text[:40]}: expected rows x columns, such as 256x512")
    return int(rows), int(columns)


def pixel_of(text: str) -> tuple[int, int]:
    """Returns (64, 120) for `64,120`; raises ConfigError for anything else."""
    row, _, column = text.partition(",")
    if not (row.isdecimal() and column.isdecimal() and len(row) < 10 and len(column) < 10):
        raise ConfigError(f"--attention {text[:40]}: expected ROW,COLUMN in pixels, such as 64,120")
    return int(row), int(column)
