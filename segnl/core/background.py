"""Calls in other threads: bounded, started in order, no error lost. Imports no torch."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Thread pool with at most `waiting` unfinished calls: `do` blocks while there are more.

    threads: number of threads; a single one makes the calls in the order in which they were given.
    As a context manager it waits for all calls at its end; after an exception it drops the calls that have not begun.
    """

    def __init__(self, threads: int, *, waiting: int) -> None:
        if threads < 1 or waiting < 1:
            raise ValueError(f"threads {threads}, waiting {waiting}; expected at least 1 each")
        self.waiting = waiting
        self._pool = ThreadPoolExecutor(threads)
        self._unfinished: deque[Future[object]] = deque()

    def do(self, call: Callable[[], object]) -> None:
        """Makes `call` in another thread. Raises what an earlier call raised."""
        while self._unfinished and (len(self._unfinished) >= self.waiting or self._unfinished[0].done()):
            self._unfinished.popleft().result()
        self._unfinished.append(self._pool.submit(call))

    def finish(self) -> None:
        """Waits for every call. Raises what the earliest failed call raised."""
        while self._unfinished:
            self._unfinished.popleft().result()

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
