"""The command line as argparse can take it. Imports nothing that `--help` would have to wait for."""

import re
from collections.abc import Sequence


def one_set_each(words: Sequence[str]) -> list[str]:
    """A command line's `--set a=1 b=2 FILE` as `--set a=1 --set b=2 FILE`: argparse's lists would take the file too."""
    out: list[str] = []
    is_value = may_go_on = False
    for word in words:
        if may_go_on and re.match(r"[A-Za-z_][\w.]*=", word):
            out += ["--set", word]
            continue
        out.append(word)
        may_go_on = is_value or word.startswith("--set=")
        is_value = word == "--set"
    return out
