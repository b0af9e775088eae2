"""Messages of the toolkit: every package writes to the one logger `segnl`, and only the command line prints them."""

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

log = logging.getLogger("segnl")
"""Silent below WARNING until somebody listens, as loggers of libraries are."""


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LONG_LINE = re.compile("(.{2000}).+(.{2000})")


def printable(text: str) -> str:
    """Returns `text` with control characters escaped, apart from newline and tab, and without the middle of long lines.

    A name from a foreign file may hold escape sequences, which a terminal would obey, and marks that reverse text.
    """
    escaped = _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)
    return _LONG_LINE.sub(r"\1 ... \2", escaped)


def one_line(text: str) -> str:
    """Returns `printable(text)` with line breaks escaped too: what follows one could pass for another's words."""
    return printable(text.replace("\n", "\\n"))


class _ConsoleHandler(logging.Handler):
    """Prints information plainly on standard output, warnings as `segnl: warning: ...` on standard error.

    Of other packages, which may name what is in a foreign file, only warnings, as `timm: warning: ...`.
    A message that can no longer be written, because the terminal or the pipe's reader is gone, is dropped: that is no
    reason to lose a training.
    """

    def emit(self, record: logging.LogRecord) -> None:
        stream, prefix, package = sys.stdout, "", record.name.partition(".")[0]
        if record.levelno >= logging.WARNING:
            stream, prefix = sys.stderr, f"{package}: {record.levelname.lower()}: "
        elif package != log.name:
            return
        text = f"{prefix}{one_line(record.getMessage())}\n"
        with suppress(OSError):
            stream.write(text)  # one write, because several processes share a terminal
            stream.flush()


def _log_user_warning(message: Warning | str, category: type[Warning], *_location: object) -> None:
    if issubclass(category, UserWarning):
        log.warning("%s", message)


@contextmanager
def console_log() -> Iterator[None]:
    """Prints messages of segnl, warnings of other packages and Python's UserWarnings until the context is left.

    Other Python warnings, such as deprecations inside libraries, say nothing to a user and are dropped.
    """
    handler, level, root = _ConsoleHandler(), log.level, logging.getLogger()
    with warnings.catch_warnings():
        warnings.showwarning = _log_user_warning  # type: ignore[assignment]
        root.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.setLevel(level)
            root.removeHandler(handler)
