"""What callers wait for: a few things that are lent to one at a time each, and a lock that many hold, or one alone."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


def receive(inbox: queue.SimpleQueue[T], timeout: float | None = None) -> T:
    """Return what is put into an inbox that nobody else reads; wait for it up to ``timeout`` seconds.

    Raises:
        queue.Empty: there was nothing.
    """
    # Not with the timeout at once: before Python 3.13, one that is over while `get` looks for the first time is taken
    # for none at all, and it waits forever. If it looks in vain here it does not do so again.
    with contextlib.suppress(queue.Empty):
        return inbox.get_nowait()
    return inbox.get(timeout=timeout)


class Pool(Generic[T]):
    """Whoever has waited longest comes first.

    A queue of Python's would let whoever has just given one back take it again, before those who wait wake up.
    """

    def __init__(self, things: Iterable[T]) -> None:
        # Guards the two below, of which one is empty at any time.
        self._lock = threading.Lock()
        self._idle = list(things)
        self._count = len(self._idle)
        self._waiting: deque[queue.SimpleQueue[T]] = deque()

    @property
    def is_idle(self) -> bool:
        """Whether nobody has any of them."""
        return len(self._idle) == self._count

    @property
    def usage(self) -> tuple[int, int]:
        """How many of them are lent, and how many callers wait for one."""
        with self._lock:
            return self._count - len(self._idle), len(self._waiting)

    def take(self, timeout: float | None = None) -> T:
        """Return one of the things, to be given back; wait for it up to ``timeout`` seconds.

        Raises:
            TimeoutError: there was none.
        """
        with self._lock:
            if self._idle:
                return self._idle.pop()
            mine: queue.SimpleQueue[T] = queue.SimpleQueue()
            self._waiting.append(mine)
        try:
            return receive(mine, timeout)
        except queue.Empty:
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                    raise TimeoutError from None
            # It has come in the last moment.
            return mine.get()

    def give_back(self, thing: T) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().put(thing)
            else:
                self._idle.append(thing)


class SharedLock:
    """Whoever wants it alone waits for those who hold it, and those who come later wait for him."""

    def __init__(self) -> None:
        # Guards the next three, of which the second is true only if there is one holder.
        self._changed = threading.Condition()
        self._holders = 0
        self._is_exclusive = False
        self._waiting_alone = 0

    def acquire(self, timeout: float, *, is_exclusive: bool) -> bool:
        """Return whether it was to be had within so many seconds."""
        timeout = min(timeout, threading.TIMEOUT_MAX)
        with self._changed:
            is_free = self._wait_alone(timeout) if is_exclusive else self._changed.wait_for(self._is_open, timeout)
            if is_free:
                self._holders += 1
                self._is_exclusive = is_exclusive
            return is_free

    def release(self) -> None:
        with self._changed:
            self._holders -= 1
            self._is_exclusive = False
            if not self._holders:
                self._changed.notify_all()

    def _is_open(self) -> bool:
        return not self._is_exclusive and not self._waiting_alone

    def _wait_alone(self, timeout: float) -> bool:
        self._waiting_alone += 1
        try:
            return self._changed.wait_for(lambda: not self._holders, timeout)
        finally:
            self._waiting_alone -= 1
            # If the time was over, those behind wait for nobody any more.
            self._changed.notify_all()
