"""Work that whoever asks for it waits for no longer than until a moment."""

from __future__ import annotations

import threading
import time

import pytest

from model_cache.errors import LoadPending
from runtime.within import begin, outcome, within


def test_what_the_work_returns_or_raises_is_had_in_time() -> None:
    end = time.monotonic() + 10
    assert within(lambda: 7, end) == 7
    with pytest.raises(ZeroDivisionError):
        within(lambda: 1 // 0, end)


def test_its_own_time_out_is_the_works() -> None:
    def work() -> None:
        raise TimeoutError("of the work")

    with pytest.raises(TimeoutError, match="of the work"):
        within(work, time.monotonic() + 10)


def test_work_goes_on_behind_who_no_longer_waits_and_may_be_waited_for_again() -> None:
    release, before = threading.Event(), set(threading.enumerate())
    future = begin(lambda: release.wait(10))
    (thread,) = set(threading.enumerate()) - before
    # A process ends without it.
    assert thread.daemon
    began = time.monotonic()
    with pytest.raises(LoadPending, match="it lasts; try again later"):
        outcome(future, began + 0.05, "it lasts")
    assert 0.05 <= time.monotonic() - began < 5
    release.set()
    assert outcome(future, time.monotonic() + 10, "") is True
    # What has ended is had, even if no time is left.
    assert outcome(future, 0.0, "") is True
