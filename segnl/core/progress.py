"""Progress of a long job on standard error: a bar on a terminal, otherwise a line from time to time."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from segnl.core.log import one_line

LINE_EVERY_S = 10.0


class Progress:
    """Counter up to `total`, of which `done` came from an earlier start.

    It falls silent once standard error cannot be written (its terminal was closed, its reader has ended), because that
    is no reason to lose a training.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, unit: str = "step", is_shown: bool = True) -> None:
        """title: what the line begins with. is_shown: False on all ranks but one, which then write nothing."""
        self.is_shown = is_shown
        title = one_line(title)  # a run or a video may have any name
        self.title, self.total, self.done, self.unit = title, total, done, unit
        self._began = self._last_line = time.monotonic()
        self._first = done
        self._bar = tqdm(desc=title, total=total, initial=done, unit=unit) if is_shown and sys.stderr.isatty() else None

    def advance(self, note: str = "") -> None:
        """Counts one more; note: how it went, such as `loss 0.71`."""
        self.done += 1
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._write(self._bar.update)
        elif now - self._last_line >= LINE_EVERY_S or self.done in (self._first + 1, self.total):
            self._last_line = now
            rate = (self.done - self._first) / max(now - self._began, 1e-9)
            speed = f"{rate:.3g} {self.unit}s/s, " if self.unit != "step" else ""  # training reports images/s itself
            left = _clock((self.total - self.done) / rate)
            text = f"{self.title}: {self.done}/{self.total} {self.unit}s, {speed}{left} left"
            self.say(f"{text}, {note}" if note else text)

    def say(self, text: str) -> None:
        """Writes a line of its own without breaking the bar."""
        write = print if self._bar is None else self._bar.write
        self._write(lambda: write(one_line(text), file=sys.stderr))

    def _write(self, write: Callable[[], object]) -> None:
        """Calls `write` unless this is silent; falls silent where it fails."""
        try:
            if self.is_shown:
                write()
        except OSError:
            self.is_shown = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._write(self._bar.close)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
