"""Standard output and error that cannot fail: no terminal, pipe or full disk costs a result. Imports no torch."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from segnl.core.log import printable


class Output:
    """A text stream that escapes what its encoding does not have, and remembers an error instead of raising it.

    stream: None for one that was closed when the process started, as by `>&-`. is_escaped: whether control characters
    are escaped too; on standard error, a progress bar needs them.
    """

    def __init__(self, stream: TextIO | None, *, is_escaped: bool) -> None:
        self.stream, self.is_escaped = stream, is_escaped
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Writes `text`, unless an earlier write has failed; returns its length."""
        if self.stream is not None and self.error is None:
            shown = printable(text) if self.is_escaped else text
            encoding = self.stream.encoding or "utf-8"
            try:
                self.stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
            except OSError as err:
                self.error = err
        return len(text)

    def flush(self) -> None:
        """Writes what the stream holds back, unless an earlier write has failed."""
        if self.stream is not None and self.error is None:
            try:
                self.stream.flush()
            except OSError as err:
                self.error = err

    @property
    def is_lost(self) -> bool:
        """Whether text was lost although its reader had not gone away: on a full disk, for example."""
        return self.error is not None and self.error.errno != errno.EPIPE

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.stream is not None and self.stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def safe_output() -> Iterator[Output]:
    """Replaces sys.stdout and sys.stderr until the context is left; yields the new standard output."""
    streams = sys.stdout, sys.stderr
    output = Output(sys.stdout, is_escaped=True)
    sys.stdout, sys.stderr = output, Output(sys.stderr, is_escaped=False)
    try:
        yield output
    finally:
        sys.stdout, sys.stderr = streams
