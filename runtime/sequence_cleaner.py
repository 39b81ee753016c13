"""OpenVINO Model Server's sequence cleaner: what was started and never ended is dropped when it has long been idle."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from runtime.sequences import Sequences

logger = logging.getLogger(__name__)


class Alarm(Protocol):
    """An event, or what a test has instead of one."""

    def set(self) -> None: ...

    def wait(self, timeout: float, /) -> bool:
        """Return whether it was set before so many seconds have passed."""
        ...


class SequenceCleaner:
    """Sweeps every ``interval`` seconds, in one thread, which is there for as long as there is something to watch."""

    def __init__(
        self,
        interval: float,
        make_alarm: Callable[[], Alarm] = threading.Event,
        *,
        on_drop: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            interval: what is idle is dropped after once to twice as long; 0 for never.
            on_drop: called after a look that has dropped something.
        """
        self._interval = interval
        self._on_drop = on_drop
        self._make_alarm = make_alarm
        # Guards the two below: there is an alarm, and a thread that waits for it, while there are sequences.
        self._lock = threading.Lock()
        self._watched: dict[Sequences[Any], str] = {}
        self._over: Alarm | None = None

    def watch(self, name: str, sequences: Sequences[Any]) -> None:
        if not self._interval:
            return
        with self._lock:
            if self._over is None:
                over = self._make_alarm()
                threading.Thread(target=self._run, args=(over,), name="sequences", daemon=True).start()
                self._over = over
            self._watched[sequences] = name

    def forget(self, sequences: Sequences[Any]) -> None:
        with self._lock:
            self._watched.pop(sequences, None)
            if self._over is not None and not self._watched:
                self._over.set()
                self._over = None

    def _run(self, over: Alarm) -> None:
        while not over.wait(self._interval):
            with self._lock:
                watched = list(self._watched.items())
            total = 0
            for sequences, name in watched:
                count = sequences.sweep()
                total += count
                if count:
                    logger.info("dropped %d idle sequences of %s", count, name)
            if total:
                self._on_drop()
