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
    keep_freed_memory()
    code = main(sys.argv[1:] if words is None else words)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more, as behind `| head`: Python's own flush at exit would fail as well
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


if __name__ == "__main__":
    sys.exit(run())
