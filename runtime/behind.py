"""Work that a model brings along and that nobody waits for: done when it has answered and is idle."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

QUIET = 1.0
"""Seconds from the first answer to the work, and between two looks whether the model is idle."""
PATIENCE = 30.0
"""Seconds after which it is done even if the model never is."""
_AT_ONCE = 2


class Chore:
    """Something to be done once, behind the answers, in a thread that is there only while there is something to do."""

    # Of all models together: where many load at once, each has its turn at a later answer.
    _turns = threading.BoundedSemaphore(_AT_ONCE)

    def __init__(self, work: Callable[[], None], is_idle: Callable[[], bool], quiet: float = QUIET) -> None:
        """``work`` is called in a thread of its own; what it raises is a bug."""
        # Held no longer than needed: the former holds the model, and the latter whoever has this.
        self._what: tuple[Callable[[], None], Callable[[], bool]] | None = (work, is_idle)
        self._quiet = quiet
        self._is_over = threading.Event()
        self._has_ended = threading.Event()
        # Guards what is here: what is over does not begin.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.is_due = True
        """Whether it is still to begin. May be read without the lock."""

    def begin(self) -> None:
        """Begin, unless that has been done or too many others are at it."""
        with self._lock:
            if not self.is_due or not self._turns.acquire(blocking=False):
                return
            self.is_due = False
            what, self._what = self._what, None
            thread = threading.Thread(target=self._run, args=what or (), name="behind", daemon=True)
            try:
                thread.start()
            # The process may have no more threads. Then it is not done.
            except RuntimeError:
                self._turns.release()
            else:
                self._thread = thread

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has been done; return whether it has. Without an end, if it never begins."""
        return self._has_ended.wait(timeout)

    def close(self) -> None:
        """Return when nothing of it is under way any more, nor will be."""
        with self._lock:
            self.is_due = False
            self._what = None
            self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, work: Callable[[], None], is_idle: Callable[[], bool]) -> None:
        try:
            deadline = time.monotonic() + PATIENCE
            while not self._is_over.wait(self._quiet):
                if is_idle() or time.monotonic() > deadline:
                    work()
                    return
        # Nobody waits for it who could be told.
        except Exception:
            logger.exception("what was to be done behind the answers failed")
        finally:
            self._turns.release()
            self._has_ended.set()
