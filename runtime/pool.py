"""A few things that many callers need: each is lent to one at a time, and whoever has waited longest comes first."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """A queue of Python's would let whoever has just given one back take it again, before those who wait wake up."""

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
            return mine.get(timeout=timeout)
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
