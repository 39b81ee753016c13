"""Threads for calls that block, for an event loop: with less between the two than asyncio's executor has.

An executor makes two futures and a task's turn of each call; here a call goes into a queue, and its result into a
callback on the loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

_Job = tuple[Callable[[], Any], Callable[[Any], None]]


class Threads:
    """As many threads as there are calls at once, up to a limit, made when they are first needed; other calls wait.

    Used on the loop's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = 0
        self.busy = 0
        """Calls whose results have not been delivered."""

    def run(self, call: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Have a thread call something, which must not raise, and the loop call ``done`` with its result.

        Raises:
            RuntimeError: there is no thread, and none can be started.
        """
        if self.busy >= self._threads and self._threads < self._limit:
            self._start()
        self.busy += 1
        self._jobs.put((call, done))

    def close(self) -> None:
        """Let the threads end, each when its call has."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _start(self) -> None:
        try:
            threading.Thread(target=self._work, name=f"rest_{self._threads}", daemon=True).start()
        # The process may have no more threads. Then those that there are have to do.
        except RuntimeError:
            if not self._threads:
                raise
        else:
            self._threads += 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, done = job
            result = call()
            # The loop has ended without waiting for this, as the process does.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver, done, result)
            # So that they are gone while this waits for another.
            del job, call, done, result

    def _deliver(self, done: Callable[[Any], None], result: Any) -> None:
        self.busy -= 1
        done(result)
