"""Calls in other threads: bounded, started in order, no error lost. Imports no torch."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Thread pool with at most `max_pending` unfinished calls; `submit` blocks until there are fewer.

    threads: number of threads; a single thread makes the calls in the order of submission.
    As a context manager it waits for all calls at its end; after an exception it drops the calls that have not begun.
    """

    def __init__(self, threads: int, *, max_pending: int) -> None:
        if threads < 1 or max_pending < 1:
            raise ValueError(f"threads {threads}, max_pending {max_pending}; expected at least 1 each")
        self.max_pending = max_pending
        self._pool = ThreadPoolExecutor(threads)
        self._unfinished: deque[Future[object]] = deque()

    def submit(self, call: Callable[[], object]) -> None:
        """Makes `call` in another thread. Raises what an earlier call raised."""
        while self._unfinished and (len(self._unfinished) >= self.max_pending or self._unfinished[0].done()):
            self._unfinished.popleft().result()
        self._unfinished.append(self._pool.submit(call))

    def wait(self) -> None:
        """Waits for every call. Raises what the earliest failed call raised."""
        while self._unfinished:
            self._unfinished.popleft().result()

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
