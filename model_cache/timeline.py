"""What a process has spent its first seconds on: the one recorder, below everything that may want to record.

It is on every path that a start takes, so it imports nothing that a start has not imported anyway, keeps a bounded
number of spans whatever happens, and costs next to nothing once a start is over. What is made of the spans, JSON, a
picture, a line, is `runtime.coldstart`'s.

A start is open until the process is ready, and again while the first predict requests are answered; what is recorded
meanwhile belongs to it. Later only loads are of interest, each with a record of its own, of which the last ones are
kept. All else goes nowhere.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Self

FIRST_LINE = time.perf_counter_ns()
"""When the first line of ours ran; ``handlers/__init__.py`` has it."""

Fact = int | float | str

MAX_SPANS = 400
"""Spans of a start; what comes on top is counted only."""
MAX_SPANS_OF_LOAD = 32
MAX_LOADS = 16
"""Loads after the start that are kept, the last ones."""
FIRST_PREDICTS = 3
"""Predict requests that are recorded until as many are answered: the first one pays for what the others do not."""
FAILED_PREDICTS = 10
"""Of those that fail, how many stay recorded: anybody can send them, and the first answer is to have its place."""
_PLAUSIBLE_START = 60 * 10**9
"""Nanoseconds. A process that is older when our first line runs has had another life before."""


class Record:
    """The spans of one start or one load, in the order in which they began."""

    def __init__(self, limit: int) -> None:
        self.spans: list[Span] = []
        self.dropped = 0
        self._limit = limit
        # One more span is either within the limit or counted.
        self._lock = threading.Lock()

    def append(self, span: Span) -> None:
        with self._lock:
            if len(self.spans) < self._limit:
                self.spans.append(span)
            else:
                self.dropped += 1

    def remove(self, span: Span) -> None:
        """Remove a span with what its thread has recorded since it began."""
        with self._lock:
            # Not in place, as others may be reading.
            self.spans = [one for one in self.spans if one.thread != span.thread or one.begin < span.begin]

    def put(self, name: str, begin: int, end: int, **facts: Fact) -> Span:
        """Record what is over already."""
        span = Span(self, name, facts)
        span.begin, span.end = begin, end
        self.append(span)
        return span


class Span:
    """From the beginning of a with block to its end, in nanoseconds of `time.perf_counter_ns`."""

    __slots__ = ("_record", "begin", "end", "facts", "name", "thread")

    def __init__(self, record: Record, name: str, facts: dict[str, Fact]) -> None:
        self._record = record
        self.name = name
        self.facts = facts
        self.thread = threading.current_thread().name
        self.begin = 0
        # None while it is under way.
        self.end: int | None = None

    def __enter__(self) -> Self:
        self.begin = time.perf_counter_ns()
        self._record.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Its type and no more: messages may have paths and URLs in them, and what is recorded is shown to anybody.
        if kind is not None:
            self.add(error=kind.__name__)
        self.end = time.perf_counter_ns()

    def add(self, **facts: Fact) -> None:
        # Not in place, as others may be reading.
        self.facts = {**self.facts, **facts}


class _Nothing:
    """The span that is not recorded."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, **facts: Fact) -> None:
        pass


NOTHING = _Nothing()


class _Load(Span):
    """A span whose thread's other spans go where it goes, also when the start is over meanwhile."""

    __slots__ = ("_here",)

    def __init__(self, here: _Here, record: Record, facts: dict[str, Fact]) -> None:
        super().__init__(record, "load", facts)
        self._here = here

    def __enter__(self) -> Self:
        self._here.record = self._record
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._here.record = None
        super().__exit__(kind)


class _Predict(Span):
    """A span that knows the laps of its thread."""

    __slots__ = ("_here", "_timeline")

    def __init__(self, timeline: Timeline, here: _Here, record: Record, name: str) -> None:
        super().__init__(record, name, {})
        self._timeline = timeline
        self._here = here

    def __enter__(self) -> Self:
        super().__enter__()
        self._here.lapped = self.begin
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._here.lapped = None
        super().__exit__(kind)
        status = self.facts.get("status", 0)
        self._timeline._end_predict(self, is_good=kind is None and isinstance(status, int) and status < 400)


class _Here(threading.local):
    record: Record | None = None
    lapped: int | None = None


class Timeline:
    """The spans of this process. Thread-safe."""

    def __init__(self, origin: int | None = None) -> None:
        """
        Args:
            origin: when the process began, of `time.perf_counter_ns`; now, if None.
        """
        self._here = _Here()
        # Guards what follows, but for reading single attributes.
        self._lock = threading.Lock()
        self._begin(time.perf_counter_ns() if origin is None else origin)

    def _begin(self, origin: int) -> None:
        self.origin = origin
        self.started_at = time.time() - (time.perf_counter_ns() - origin) / 1e9
        """Seconds since the epoch."""
        self.start = Record(MAX_SPANS)
        self.is_fresh = True
        """Whether predict requests are still recorded. To be asked before `predict`, as this costs nothing."""
        self._loads: deque[Record] = deque(maxlen=MAX_LOADS)
        self._is_ready = False
        self._predicts = 0
        self._failures = 0
        self._under_way = 0
        self._is_answered = False
        # The start, while it is open.
        self._open: Record | None = self.start

    def span(self, name: str, **facts: Fact) -> Span | _Nothing:
        """Record the length of a with block. Model names may be facts; paths, hosts and URLs may not."""
        record = self._here.record or self._open
        return NOTHING if record is None else Span(record, name, facts)

    def arrived(self, name: str) -> None:
        """Record the time from our first line to this one, which went to the imports of an entry point."""
        self.start.put(name, FIRST_LINE, time.perf_counter_ns())

    def load(self, model: str) -> Span:
        """Record the load of a version, with whatever its thread records meanwhile."""
        record = self._open
        if record is None:
            record = Record(MAX_SPANS_OF_LOAD)
            # Appending to a deque is atomic.
            self._loads.append(record)
        return _Load(self._here, record, {"model": model})

    def predict(self) -> Span | _Nothing:
        """Record a predict request, if it is one of the first. What fails adds ``status=`` its HTTP code, or raises."""
        if not self.is_fresh:
            return NOTHING
        with self._lock:
            self._under_way += 1
            self._open = self.start
            return _Predict(self, self._here, self.start, "predict" if self._is_answered else "first_predict")

    def lap(self, name: str) -> None:
        """Record what this thread's predict request has done since its last lap, or since it began.

        For the hot path, which has no time for with blocks.
        """
        if not self.is_fresh:
            return
        since = self._here.lapped
        if since is not None:
            self._here.lapped = now = time.perf_counter_ns()
            self.start.put(name, since, now)

    def _end_predict(self, predict: _Predict, *, is_good: bool) -> None:
        with self._lock:
            self._under_way -= 1
            self._predicts += is_good
            self._failures += not is_good
            self._is_answered = self._is_answered or is_good
            if not is_good and self._failures > FAILED_PREDICTS:
                self.start.remove(predict)
            self.is_fresh = self._predicts < FIRST_PREDICTS
            self._close_if_over()

    def ready(self) -> None:
        """Record that the process is ready; only the first time counts."""
        with self._lock:
            if self._is_ready:
                return
            self._is_ready = True
            now = time.perf_counter_ns()
            self.start.put("ready", now, now)
            self._close_if_over()

    def _close_if_over(self) -> None:
        if self._is_ready and not self._under_way:
            self._open = None

    def restart(self) -> None:
        """Begin anew: what was recorded is in the snapshot that this process has just been restored from."""
        with self._lock:
            self._begin(time.perf_counter_ns())

    @property
    def loads(self) -> list[Record]:
        """Those after the start, oldest first."""
        return list(self._loads)


def _age() -> int:
    """Return for how many nanoseconds this process has been there, as far as the kernel says; 0 if it does not.

    Its start is given in clock ticks, of 10 ms on Linux: so much may be missing of precision. And it is the process's,
    which may have been another program before: what a shell did until it said exec counts.
    """
    try:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - pathlib would be an import
            fields = file.read().rpartition(b")")[2].split()
        # proc_pid_stat(5): the 22nd, of which the first two are cut off.
        ticks = int(fields[19])
        age = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    # Not Linux, or not all of it.
    except (AttributeError, OSError, ValueError, IndexError):
        return 0
    return age if 0 < age < _PLAUSIBLE_START else 0


def _new_timeline() -> Timeline:
    timeline = Timeline(FIRST_LINE - _age())
    timeline.start.put("python", timeline.origin, FIRST_LINE)
    return timeline


timeline = _new_timeline()
span = timeline.span
lap = timeline.lap
