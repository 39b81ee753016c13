"""What the recorder of a cold start has, for those who ask: JSON, a picture, a line for the log, a header, metrics.

All of it is shown to whoever can reach the server, so nothing but names of phases, models, threads and numbers may be
in it. It is imported by the first answer, so it is light.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import orjson

from model_cache.timeline import Fact, Record, Timeline, timeline

_FIRST = "first_predict"
# These last as long as what they hold, or wait for.
_ENVELOPES = frozenset({"load", "wait", "ready"})
_PARTS = frozenset({"decode", "wait", "infer", "encode"})
_OF_REQUESTS = _PARTS | {_FIRST, "predict"}
_MOVING = frozenset({"download", "read"})
_NEAR = 0.002
"""Seconds between the end of a span and the beginning of the next one of its thread that say the one led to the
other, although a span of another thread may have ended in between."""
_NOTHING = 0.0002
"""Seconds between two steps that are not worth a step of their own."""
_MIB = 1 << 20
_DIMENSION_SIZE = 1024


class Step(NamedTuple):
    """What a thread did for a while: the innermost of its spans, or "other", by no thread, if there is none."""

    name: str
    thread: str
    start: float
    end: float


class Bar(NamedTuple):
    """A span as it is now, in seconds since its record began."""

    name: str
    thread: str
    start: float
    end: float
    is_over: bool
    facts: Mapping[str, Fact]

    @property
    def phase(self) -> str:
        return self.name.partition(".")[0]

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def model(self) -> str:
        return str(self.facts.get("model", ""))

    @property
    def rate(self) -> float | None:
        """In bytes/s, of what moves bytes."""
        size = self.facts.get("bytes")
        if self.phase not in _MOVING or not isinstance(size, int) or not size or not self.seconds:
            return None
        return size / self.seconds

    def has(self, step: Step) -> bool:
        return step.thread == self.thread and self.start <= step.start < self.end


class Start(NamedTuple):
    bars: list[Bar]
    ready: float | None
    first: Bar | None
    """The first predict request that was answered, or is being."""
    now: float

    @property
    def idle(self) -> float:
        """Seconds between being ready and the first request, for which nobody waited."""
        return max(0.0, self.first.start - self.ready) if self.first and self.ready is not None else 0.0

    @property
    def seconds(self) -> float:
        """Until the first predict request was answered; as far as it has come, if it has not."""
        if self.first:
            return self.first.end - self.idle
        return self.now if self.ready is None else self.ready


def as_json(of: Timeline = timeline) -> bytes:
    """Return the start and the loads since.

    ``seconds`` is from the process's start to the end of the first predict request, without the time in which a server
    that was ready waited for it. The steps of ``critical_path`` add up to it; ``phases`` do not, as they overlap.
    """
    start = _start(of)
    first = start.first
    document = {
        "started_at": _iso(of.started_at),
        "seconds": _round(start.seconds),
        "ready": _round(start.ready),
        "first_predict": _round(first.seconds) if first and first.is_over else None,
        "is_over": bool(start.ready is not None and first and first.is_over),
        "phases": _phases(_of(start, first)),
        "critical_path": [
            {**step._asdict(), "start": _round(step.start), "end": _round(step.end)} for step in critical_path(start)
        ],
        "spans": [_span(bar) for bar in start.bars],
        "dropped": of.start.dropped,
        "loads": [_load(record, of) for record in of.loads],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def as_svg(of: Timeline = timeline) -> bytes:
    # Nothing of it is needed by an answer that is not this one.
    from runtime.waterfall import draw

    start = _start(of)
    loads = [(_iso(_moment(_beginning(record), of)), _bars_of_load(record)) for record in of.loads]
    return draw(summary(of), start, critical_path(start), [(at, bars) for at, bars in loads if bars])


def summary(of: Timeline = timeline) -> str:
    """Return the start in a line: how long each phase was under way, in seconds."""
    start = _start(of)
    parts = [
        f"{phase.replace('_', ' ')} {_amount(total)}{total['seconds']:.3f}"
        for phase, total in _phases(_of(start, start.first)).items()
        # The line has room for a request, but not for its parts.
        if phase not in _ENVELOPES | _PARTS
    ]
    return f"cold start {start.seconds:.3f} s: {', '.join(parts)}"


def server_timing(of: Timeline = timeline) -> str:
    """Return the value of a Server-Timing header for this thread's request; empty when the first answers are over.

    In milliseconds: the phases of the start, those of the request, and ``total``, which is the start's.
    """
    if not of.is_fresh:
        return ""
    start = _start(of)
    thread = threading.current_thread().name
    mine = [bar for bar in start.bars if bar.thread == thread and bar.name in (_FIRST, "predict")]
    phases = _phases(_of(start, mine[-1] if mine else None))
    durations = {phase: total["seconds"] for phase, total in phases.items() if phase not in ("load", "ready")}
    durations["total"] = start.seconds
    return ", ".join(f"{name};dur={seconds * 1e3:.1f}" for name, seconds in durations.items())


def phase_seconds(of: Timeline = timeline) -> tuple[float, Mapping[str, float]]:
    """Return the seconds of the start, and those for which each of its phases was under way."""
    start = _start(of)
    phases = _phases(_of(start, start.first))
    return start.seconds, {phase: total["seconds"] for phase, total in phases.items() if phase not in _ENVELOPES}


def emf(dimensions: Mapping[str, str], of: Timeline = timeline) -> str:
    """Return the start as one line of CloudWatch's Embedded Metric Format.

    Args:
        dimensions: what the metrics are kept apart by, each within those before it, such as a function's name and
            version; empty ones are left out.
    """
    start = _start(of)
    known = {name: _dimension(value) for name, value in dimensions.items() if value.strip()}
    sets = [list(known)[: size + 1] for size in range(len(known))] or [[]]
    return metrics_line(_metrics(start), known, sets)


def metrics_line(
    metrics: Iterable[tuple[str, float, str]],
    dimensions: Mapping[str, str],
    sets: Sequence[Sequence[str]],
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Return metrics as one line of CloudWatch's Embedded Metric Format, in the namespace Decant.

    Args:
        metrics: name, value and unit of each.
        dimensions: what they are kept apart by, with its value.
        sets: those of the dimensions, by name, by which they are kept apart together.
        facts: what else the line says, for who reads it.
    """
    found = list(metrics)
    described = [{"Name": name, "Unit": unit} for name, _, unit in found]
    directive = {"Namespace": "Decant", "Dimensions": sets, "Metrics": described}
    metadata = {"Timestamp": int(time.time() * 1e3), "CloudWatchMetrics": [directive]}
    values = {name: value for name, value, _ in found}
    return orjson.dumps({"_aws": metadata, **dimensions, **values, **(facts or {})}).decode()


def amount(size: float, rate: float | None) -> str:
    """Return bytes, and bytes/s if they are known, for people."""
    text = f"{size / _MIB:.1f} MiB" if size >= _MIB else f"{size / 1024:.1f} KiB"
    return text if rate is None else f"{text} at {rate / 1e6:.{0 if rate >= 1e7 else 1}f} MB/s"


def critical_path(start: Start) -> list[Step]:
    """Return what the end of the start had to wait for, as far as the times tell.

    Nobody has recorded what waits for what. So this goes back from the end, each time to what ended last before that,
    if nothing ended just then in the same thread.
    """
    steps = [step for thread in {bar.thread for bar in start.bars} for step in _steps(start.bars, thread)]
    first = start.first
    if first is None:
        return _path(steps, 0.0, start.seconds, "")
    if not start.idle:
        return _path(steps, 0.0, first.end, first.thread)
    return [*_path(steps, 0.0, start.ready or 0.0, ""), *_path(steps, first.start, first.end, first.thread)]


def _steps(bars: Iterable[Bar], thread: str) -> list[Step]:
    """Return what a thread did, as far as it is recorded, without what was only waiting."""
    own = [bar for bar in bars if bar.thread == thread]
    edges = sorted({at for bar in own for at in (bar.start, bar.end)})
    steps = []
    for start, end in pairwise(edges):
        around = [bar for bar in own if bar.start <= start and end <= bar.end]
        innermost = max(around, key=lambda bar: (bar.start, -bar.end), default=None)
        if innermost and innermost.name not in _ENVELOPES:
            steps.append(Step(innermost.name, thread, start, end))
    return steps


def _path(steps: Sequence[Step], begin: float, end: float, thread: str) -> list[Step]:
    path: list[Step] = []
    at = end
    while at > begin:
        step = _before(steps, at, thread)
        if step is None or step.end <= begin:
            path.append(Step("other", "", begin, at))
            break
        if at - step.end > _NOTHING:
            path.append(Step("other", "", step.end, at))
            at = step.end
        path.append(step._replace(start=max(step.start, begin), end=at))
        at, thread = step.start, step.thread
    return path[::-1]


def _before(steps: Iterable[Step], at: float, thread: str) -> Step | None:
    """Return what ended last before that moment, rather by this thread."""
    ended = [step for step in steps if step.end <= at and step.start < at]
    own = [step for step in ended if step.thread == thread and at - step.end < _NEAR]
    return max(own or ended, key=lambda step: step.end, default=None)


def _of(start: Start, request: Bar | None) -> list[Bar]:
    """Return the spans without those of other predict requests."""
    return [
        bar
        for bar in start.bars
        if bar.name not in _OF_REQUESTS
        or (request and bar.thread == request.thread and request.start <= bar.start and bar.end <= request.end)
    ]


def _start(of: Timeline) -> Start:
    now = time.perf_counter_ns()
    bars = _bars(of.start, of.origin, now)
    ready = next((bar.end for bar in bars if bar.name == "ready"), None)
    tries = [bar for bar in bars if bar.name == _FIRST]
    return Start(bars, ready, next((bar for bar in tries if not _has_failed(bar)), None), (now - of.origin) / 1e9)


def _has_failed(bar: Bar) -> bool:
    status = bar.facts.get("status", 0)
    return "error" in bar.facts or (isinstance(status, int) and status >= 400)


def _bars(record: Record, origin: int, now: int) -> list[Bar]:
    """Return the spans as they are at that moment."""
    bars = []
    for span in list(record.spans):
        end = span.end
        # One may have begun since.
        last = max(now if end is None else end, span.begin)
        facts = {name: _text(fact) if isinstance(fact, str) else fact for name, fact in span.facts.items()}
        times = (span.begin - origin) / 1e9, (last - origin) / 1e9
        bars.append(Bar(span.name, _text(span.thread), *times, end is not None, facts))
    return sorted(bars, key=lambda bar: (bar.start, -bar.end))


def _phases(bars: Iterable[Bar]) -> dict[str, dict[str, Any]]:
    """Return for each phase how long it was under way, in the order of their beginnings."""
    phases: dict[str, list[Bar]] = {}
    for bar in bars:
        phases.setdefault(bar.phase, []).append(bar)
    return {phase: _total(some) for phase, some in phases.items()}


def _total(bars: Sequence[Bar]) -> dict[str, Any]:
    seconds = _union(bars)
    total: dict[str, Any] = {"count": len(bars), "seconds": _round(seconds)}
    sizes = [size for bar in bars if isinstance(size := bar.facts.get("bytes"), int)]
    if sizes:
        total["bytes"] = sum(sizes)
    if any(bar.rate for bar in bars):
        total["mb_per_s"] = round(sum(sizes) / seconds / 1e6, 1)
    return total


def _union(bars: Iterable[Bar]) -> float:
    """Return the seconds for which at least one of them was under way; they are in the order of their beginnings."""
    seconds, until = 0.0, 0.0
    for bar in bars:
        seconds += max(0.0, bar.end - max(bar.start, until))
        until = max(until, bar.end)
    return seconds


def _span(bar: Bar) -> dict[str, Any]:
    rate = {} if bar.rate is None else {"mb_per_s": round(bar.rate / 1e6, 1)}
    return {
        "name": bar.name,
        "thread": bar.thread,
        "start": _round(bar.start),
        "end": _round(bar.end) if bar.is_over else None,
        "facts": {**bar.facts, **rate},
    }


def _load(record: Record, of: Timeline) -> dict[str, Any]:
    bars = _bars_of_load(record)
    return {
        "model": bars[0].model if bars else "",
        "started_at": _iso(_moment(_beginning(record), of)),
        "seconds": _round(bars[0].seconds) if bars and bars[0].is_over else None,
        "phases": _phases(bars),
        "spans": [_span(bar) for bar in bars],
        "dropped": record.dropped,
    }


def _bars_of_load(record: Record) -> list[Bar]:
    return _bars(record, _beginning(record), time.perf_counter_ns())


def _beginning(record: Record) -> int:
    # It is there before its first span is.
    return record.spans[0].begin if record.spans else time.perf_counter_ns()


def _moment(at: int, of: Timeline) -> float:
    return of.started_at + (at - of.origin) / 1e9


def _text(text: str) -> str:
    # A name from a command line may have what UTF-8 has not.
    return text.encode(errors="replace").decode()


def _metrics(start: Start) -> Iterable[tuple[str, float, str]]:
    yield "ColdStart", _milliseconds(start.seconds), "Milliseconds"
    for phase, total in _phases(_of(start, start.first)).items():
        if phase in _ENVELOPES:
            continue
        name = "".join(word.capitalize() for word in phase.split("_"))
        yield name, _milliseconds(total["seconds"]), "Milliseconds"
        if "bytes" in total:
            yield f"{name}Bytes", total["bytes"], "Bytes"


def _dimension(value: str) -> str:
    """Return what CloudWatch takes as a dimension's value: ASCII that can be printed, and not too long."""
    return "".join(char if " " <= char <= "~" else "?" for char in value[:_DIMENSION_SIZE])


def _amount(total: Mapping[str, Any]) -> str:
    if not total.get("bytes"):
        return ""
    rate = total["bytes"] / total["seconds"] if "mb_per_s" in total else None
    return f"{amount(total['bytes'], rate)} "


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _iso(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1e3):03d}Z"
