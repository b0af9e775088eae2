"""Arguments that several commands share."""

import argparse
import json
import re
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from segnl.core.errors import ConfigError
from segnl.core.files import read_bytes

_VALUE_OF = {"--set": r"[A-Za-z_][\w.]*=", "--ignore": r"\d+$"}
"""How a further value of an option looks that may have several."""


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
    command.add_argument("--config", type=Path, required=True, metavar="FILE", help=about)
    add_set(command)


def add_set(command: argparse.ArgumentParser) -> None:
    """Adds --set."""
    about = "change a key of the recipe, such as optim.lr=0.02; several may follow, and --set may be repeated"
    command.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C", help=about)


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """Adds --checkpoint."""
    about = "a run's folder (its last checkpoint) or a file"
    command.add_argument("--checkpoint", type=Path, required=True, metavar="RUN_OR_FILE", help=about)
    add_trust_modules(command)


def add_json(
    command: argparse.ArgumentParser, keys: Collection[str], about: str = "also write the numbers there"
) -> None:
    """Adds --json. keys: of what the command writes there, by which it knows its own file again."""
    command.add_argument("--json", type=partial(_json_file, keys), metavar="FILE", help=about)


def _json_file(keys: Collection[str], text: str) -> Path:
    """Returns the path; refuses a file that this command did not write, so that nothing else is replaced."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: is a folder; expected the name of a file")
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return path
    except (OSError, ValueError) as err:  # ValueError: a NUL in the name
        reason = err.strerror if isinstance(err, OSError) else err
        raise argparse.ArgumentTypeError(f"{text!r}: cannot be replaced ({reason}); give another name") from err
    try:
        old = json.loads(content) if content else dict.fromkeys(keys)
    except (ValueError, RecursionError):
        old = None
    if not isinstance(old, dict) or not old.keys() >= set(keys):
        raise argparse.ArgumentTypeError(f"{path}: exists and is no result of this command; give another name")
    return path


def add_trust_modules(command: argparse.ArgumentParser) -> None:
    """Adds --trust-modules."""
    about = (
        "Python module, or package of modules, that a checkpoint's recipe may import; its code runs on this machine "
        "(may be repeated)"
    )
    command.add_argument("--trust-modules", action="append", default=[], metavar="NAME", help=about)


def size_of(text: str) -> tuple[int, int]:
    """Returns (256, 512) for `256x512`; raises ConfigError for anything else."""
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and len(rows) < 10 and len(columns) < 10):
        raise ConfigError(f"{text[:40]}: expected rows x columns, such as 256x512")
    return int(rows), int(columns)


def pixel_of(text: str) -> tuple[int, int]:
    """Returns (64, 120) for `64,120`; raises ConfigError for anything else."""
    row, _, column = text.partition(",")
    if not (row.isdecimal() and column.isdecimal() and len(row) < 10 and len(column) < 10):
        raise ConfigError(f"--attention {text[:40]}: expected ROW,COLUMN in pixels, such as 64,120")
    return int(row), int(column)
