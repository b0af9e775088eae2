"""`python -m segnl ...` and the installed `segnl ...`."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from segnl.cli.main import main
from segnl.core.errors import TerminatedError
from segnl.core.memory import keep_freed_memory


def run(words: Sequence[str] | None = None) -> int:
    """Runs the command of this process, or `words`; returns its exit code (segnl/core/errors.py).

    The process is about to end: after a command has stopped as asked, another Ctrl-C must not spoil its exit.
    """
    _fill_closed_descriptors()
    keep_freed_memory()
    stop_signals = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]  # not nohup's
    for number in stop_signals:
        signal.signal(number, _terminate)
    try:
        code = main(sys.argv[1:] if words is None else words)
    except KeyboardInterrupt as err:  # before the command began
        code = err.exit_code if isinstance(err, TerminatedError) else 130
    for number in (signal.SIGINT, *stop_signals):
        signal.signal(number, signal.SIG_IGN)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more, as behind `| head`: Python's flush at exit would fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


_PID = os.getpid()


def _terminate(number: int, frame: FrameType | None) -> None:
    """Ends the command as Ctrl-C does, children included, instead of leaving them behind.

    A forked child inherits this function, and may get the signal before it has set its own: it just ends.
    """
    if os.getpid() != _PID:
        os._exit(128 + number)
    raise TerminatedError(signal.Signals(number))


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
