import threading
import time
from functools import partial

import pytest

from segnl.core.background import Background


def test_one_thread_keeps_the_order_and_leaving_waits_for_all() -> None:
    made: list[int] = []

    def call(number: int) -> None:
        time.sleep(0.002 * (number % 3))
        made.append(number)

    with Background(1, max_pending=3) as background:
        for number in range(12):
            background.submit(partial(call, number))
    assert made == list(range(12))


def test_no_more_calls_wait_than_are_allowed() -> None:
    gate, begun = threading.Event(), []
    with Background(1, max_pending=2) as background:
        background.submit(lambda: gate.wait(20))
        background.submit(lambda: begun.append(2))
        third = threading.Thread(target=lambda: background.submit(lambda: begun.append(3)))
        third.start()
        third.join(0.1)
        assert third.is_alive()  # it waits for the first to end
        gate.set()
        third.join(20)
        assert not third.is_alive()
    assert begun == [2, 3]


def fail() -> None:
    raise OSError("disk full")


def failing_call_then(made: list[int], calls_after: int) -> None:
    with Background(1, max_pending=2) as background:
        background.submit(fail)
        for number in range(calls_after):
            background.submit(partial(made.append, number))
            time.sleep(0.002)


def interrupted_beside_an_error() -> None:
    with Background(1, max_pending=5) as background:
        background.submit(fail)
        raise KeyboardInterrupt


def test_an_error_is_raised_and_later_calls_are_dropped() -> None:
    made: list[int] = []
    with pytest.raises(OSError, match="disk full"):
        failing_call_then(made, 200)
    assert len(made) < 200


def test_an_error_of_the_last_call_is_raised_at_the_end() -> None:
    with pytest.raises(OSError, match="disk full"):
        failing_call_then([], 0)


def test_an_error_of_the_caller_is_not_hidden_by_one_of_a_call() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_beside_an_error()


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="threads 0"):
        Background(0, max_pending=1)
