"""`python -m segnl ...` and the installed `segnl ...`."""

import os
import signal
import sys
from collections.abc import Sequence

from segnl.cli.main import main


def run(words: Sequence[str] | None = None) -> int:
    """One command, the process's own where none is given; the exit codes are those of `segnl.core.errors`.

    The process is about to end: pressed again after a command has stopped as asked, Ctrl-C would only spoil its exit.
    """
    code = main(sys.argv[1:] if words is None else words)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it any more, as behind `| head`: Python's own flush at the end would fail as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


if __name__ == "__main__":
    sys.exit(run())
