"""A cold start as a picture: a row for each span, threads one below the other, time from left to right.

An SVG document of its own, without scripts, for browsers in light and in dark. Names come from users, so all text is
escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from runtime.coldstart import Bar, Start, Step, amount

_WIDTH = 1080
_MARGIN = 16
_NAMES = 200
"""Pixels of the column of names."""
_INDENT = 10
_ROW = 18
_TEXT = 6.2
"""Pixels of a character, about: to tell whether a label has room, and where to cut it."""
_MAX_NAME = 26
_MAX_FACT = 60
_MAX_TITLE = 120
_MAX_LINE = 200
_TICKS = 8
_IDLE = 80
_MIN_BAR = 1.5
_CUT = 0.02
"""What is left of a stretch in which nothing happened, as a part of the whole."""
_COLOURS = {
    "python": "#8b93a1",
    "imports": "#8e6fd1",
    "configure": "#8b93a1",
    "list": "#1f9d8f",
    "download": "#2f7fd6",
    "read": "#2f7fd6",
    "compile": "#dd7a1f",
    "import": "#dd7a1f",
    "warm_up": "#c9a316",
    "first_predict": "#3d9a43",
    "predict": "#3d9a43",
    "infer": "#3d9a43",
}
_OTHERS = "#7f8a99"
_STYLE = """
svg { background: #fff; font: 11px system-ui, sans-serif }
text { fill: #1c2128 }
.title { font-size: 13px; font-weight: 600 }
.thread, .tick, .fact { fill: #59636e }
.thread { font-weight: 600 }
.tick { font-size: 10px }
.grid { stroke: #d8dee4 }
.mark { stroke: #3d9a43; stroke-dasharray: 3 3 }
.cut { stroke: #59636e; stroke-dasharray: 1 3 }
.aside { opacity: 0.4 }
text.inside { fill: #fff }
@media (prefers-color-scheme: dark) {
  svg { background: #14181d }
  text { fill: #e6eaef }
  .thread, .tick, .fact { fill: #9aa5b1 }
  .grid { stroke: #2b323a }
  .cut { stroke: #9aa5b1 }
}
"""
_SPECIAL = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}


class _Axis(NamedTuple):
    """Where moments are, with the stretches cut out in which nothing happened."""

    left: float
    scale: float
    cuts: Sequence[tuple[float, float]]
    kept: float
    """Seconds that are left of a stretch."""

    def x(self, at: float) -> float:
        return self.left + self.scale * (at - sum(self._lost(at, begin, end) for begin, end in self.cuts))

    def _lost(self, at: float, begin: float, end: float) -> float:
        if at <= begin:
            return 0.0
        lost = end - begin - self.kept
        return lost if at >= end else lost * (at - begin) / (end - begin)


def draw(title: str, start: Start, path: Sequence[Step], loads: Iterable[tuple[str, Sequence[Bar]]]) -> bytes:
    """
    Args:
        title: its beginning, up to a colon, is drawn; all of it is what readers for the blind say.
        path: what of the start was on its critical path; the other spans are drawn paler.
        loads: those since then, with when they began.
    """
    lines: list[str] = []
    y = _section(lines, _MARGIN, title.partition(":")[0], start.bars, path, start.ready)
    for at, bars in loads:
        y = _section(lines, y + _ROW, f"{at}: {_duration(bars[0].seconds)} for {bars[0].model}", bars, None, None)
    size = f'width="{_WIDTH}" height="{y + _MARGIN:.0f}" viewBox="0 0 {_WIDTH} {y + _MARGIN:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<style>{_STYLE}</style>\n'
    return "".join([head, f"<title>{_escape(title, _MAX_LINE)}</title>\n", *lines, "</svg>\n"]).encode()


def _section(
    lines: list[str],
    y: float,
    title: str,
    bars: Sequence[Bar],
    path: Sequence[Step] | None,
    ready: float | None,
) -> float:
    """Draw spans from there downwards; return where they end."""
    rows = list(_rows(bars))
    axis = _axis(bars, ready)
    lines.append(_text(_MARGIN, y + 10, title, "title", most=_MAX_TITLE))
    top = y + 2.2 * _ROW
    bottom = top + sum(_ROW for _ in rows)
    for at in _ticks(bars, axis):
        lines.append(_line(axis.x(at), top - 4, bottom, "grid"))
        lines.append(_text(axis.x(at), top - 8, _duration(at), "tick", "middle"))
    for begin, end in axis.cuts:
        middle = (axis.x(begin) + axis.x(end)) / 2
        lines.append(_line(middle, top - 4, bottom, "cut"))
        x, anchor = (middle + 2, "start") if middle < _WIDTH - _IDLE else (float(_WIDTH - _MARGIN), "end")
        lines.append(_text(x, bottom + 10, f"idle {_duration(end - begin)}", "tick", anchor))
    if ready is not None:
        lines.append(_line(axis.x(ready), top - 4, bottom, "mark"))
        lines.append(_text(axis.x(ready), bottom + 10, f"ready {_duration(ready)}", "tick", "end"))
    for number, (bar, depth) in enumerate(rows):
        middle = top + (number + 0.5) * _ROW
        if isinstance(bar, str):
            lines.append(_text(_MARGIN, middle + 4, bar, "thread", most=_MAX_NAME))
        elif bar.name != "ready":
            is_critical = path is None or any(map(bar.has, path))
            lines.extend(_bar(bar, depth, middle, axis, is_aside=not is_critical))
    return bottom + _ROW


def _rows(bars: Sequence[Bar]) -> Iterator[tuple[Bar | str, int]]:
    """Yield each thread's name and then its spans, with how many others of the thread each is within."""
    for thread in dict.fromkeys(bar.thread for bar in bars):
        yield thread, 0
        around: list[Bar] = []
        for bar in bars:
            if bar.thread != thread or bar.name == "ready":
                continue
            while around and around[-1].end < bar.end:
                around.pop()
            yield bar, len(around)
            around.append(bar)


def _bar(bar: Bar, depth: int, middle: float, axis: _Axis, *, is_aside: bool) -> Iterator[str]:
    left, right = axis.x(bar.start), axis.x(bar.end)
    width = max(right - left, _MIN_BAR)
    hover = _escape(f"{bar.name}, {_duration(bar.start)} to {_duration(bar.end)}; {bar.thread}{_facts(bar)}", _MAX_LINE)
    aside = ' class="aside"' if is_aside else ""
    colour = _COLOURS.get(bar.phase, _OTHERS)
    yield f"<g><title>{hover}</title>"
    yield _text(_MARGIN + _INDENT * (depth + 1), middle + 4, bar.name, "name", most=_MAX_NAME)
    yield f'<rect{aside} x="{left:.1f}" y="{middle - 6:.1f}" width="{width:.1f}" height="12" rx="2" fill="{colour}"/>'
    label = _duration(bar.seconds) + _detail(bar)
    room = _TEXT * len(label) + 4
    if left + width + room < _WIDTH - _MARGIN:
        yield _text(left + width + 4, middle + 4, label, "fact", most=_MAX_FACT)
    elif left - room > _MARGIN + _NAMES:
        yield _text(left - 4, middle + 4, label, "fact", "end", _MAX_FACT)
    else:
        yield _text(left + width - 4, middle + 4, label, "inside", "end", _MAX_FACT)
    yield "</g>\n"


def _axis(bars: Sequence[Bar], ready: float | None) -> _Axis:
    left = float(_MARGIN + _NAMES)
    # Room for the label of what comes first, which is behind it, and of the last moment's tick.
    room = _WIDTH - left - 2 * _MARGIN
    cuts = list(_cuts(bars, ready))
    busy = max((bar.end for bar in bars), default=0.0) - sum(end - begin for begin, end in cuts)
    kept = _CUT * busy
    return _Axis(left, room / max(busy + kept * len(cuts), 1e-6), cuts, kept)


def _cuts(bars: Sequence[Bar], ready: float | None) -> Iterator[tuple[float, float]]:
    """Yield the stretches after the process was ready in which it had nothing to do."""
    if ready is None:
        return
    until = ready
    for bar in bars:
        if bar.start - until > _CUT * until:
            yield until, bar.start
        until = max(until, bar.end)


def _ticks(bars: Sequence[Bar], axis: _Axis) -> Iterator[float]:
    end = max((bar.end for bar in bars), default=0.0)
    # Beyond a cut the distances would be others.
    end = min([end, *(begin for begin, _ in axis.cuts)])
    step = _step(end)
    # Not below what is said of the moment of being ready, nor a number of ticks that rounding decides.
    yield from (number * step for number in range(int(end / step + 1e-9) + 1))


def _step(seconds: float) -> float:
    """Return the least of 1, 2 and 5 times a power of ten that makes few enough ticks of so many seconds."""
    step = 1e-6
    while True:
        for factor in (1, 2, 5):
            if seconds <= step * factor * _TICKS:
                return step * factor
        step *= 10


def _duration(seconds: float) -> str:
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1e3, "ms")
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _detail(bar: Bar) -> str:
    size = bar.facts.get("bytes")
    parts = []
    if isinstance(size, int):
        parts.append(amount(size, bar.rate))
    parts.extend(str(bar.facts[name])[:_MAX_NAME] for name in ("model", "error") if name in bar.facts)
    if not bar.is_over:
        parts.append("under way")
    return "".join(f", {part}" for part in parts)


def _facts(bar: Bar) -> str:
    return "".join(f"; {name} {value}" for name, value in bar.facts.items())


def _line(x: float, top: float, bottom: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>\n'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start", most: int = _MAX_LINE) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_escape(text, most)}</text>\n'


def _escape(text: str, most: int) -> str:
    cut = text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
    # XML has no way to write control characters, nor halves of surrogate pairs.
    return "".join(_SPECIAL.get(char, char if char.isprintable() else "\N{REPLACEMENT CHARACTER}") for char in cut)
