"""Work that goes on behind whoever has to answer before it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from model_cache.errors import LoadPending

T = TypeVar("T")


def within(work: Callable[[], T], until: float, what: str = "the models are still being looked at") -> T:
    """Return what the work returns.

    Args:
        work: done in a thread of its own, to its end, whoever waits for that.
        until: in seconds of the monotonic clock.
        what: is said if it has not ended by then.

    Raises:
        LoadPending: it has not ended by then.
        Exception: whatever the work raises.
    """
    return outcome(begin(work), until, what)


def begin(work: Callable[[], T]) -> Future[T]:
    """Begin work in a thread of its own, for whoever waits for its outcome."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        # Raised again for who waits.
        except BaseException as exc:  # noqa: BLE001
            future.set_exception(exc)

    # Not to be waited for at the end of the process.
    threading.Thread(target=run, name="within", daemon=True).start()
    return future


def outcome(future: Future[T], until: float, what: str) -> T:
    """Wait for work that has begun; as `within`."""
    wait([future], max(0.0, until - time.monotonic()))
    if future.done():
        return future.result()
    raise LoadPending(f"{what}; try again later")
