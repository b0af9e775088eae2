"""`python -m segnl ...` and the installed `segnl ...`."""

import os
import signal
import sys
from collections.abc import Sequence

from segnl.cli.main import main
from segnl.core.memory import keep_freed_memory


def run(words: Sequence[str] | None = None) -> int:
    """Runs the command of this process, or `words`; returns its exit code (segnl/core/errors.py).

    The process is about to end: after a command has stopped as asked, another Ctrl-C must not spoil its exit.
    """
    _fill_closed_descriptors()
    keep_freed_memory()
    code = main(sys.argv[1:] if words is None else words)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more, as behind `| head`: Python's flush at exit would fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _fill_closed_descriptors() -> None:
    """Opens /dev/null in place of a closed standard stream (`>&-`): the next file to be opened would take its number,
    and receive what a library prints.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    sys.exit(run())
