"""What a benchmark found: tables, figures, and how each compares with its target."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, and where we are."""

    what: str
    figure: float
    unit: str
    target: float
    at_least: bool = False

    @property
    def is_reached(self) -> bool:
        return self.figure >= self.target if self.at_least else self.figure <= self.target


@dataclass(slots=True)
class Findings:
    title: str
    tables: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was skipped and why, what the figures contain."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Everything measured, for JSON."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least this part of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median_difference(ours: Sequence[float], others: Sequence[float]) -> float:
    """The median of what rounds differ by: what came and went between rounds does not count."""
    return statistics.median(our - other for our, other in zip(ours, others, strict=True))


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Markdown. A column whose name begins with a blank is text, others are numbers."""
    lines = [_line(name.strip() for name in head)]
    lines.append(_line("---" if name.startswith(" ") else "---:" for name in head))
    lines += [_line(map(show, row)) for row in rows]
    return "\n".join(lines)


def show(cell: Cell) -> str:
    """Three digits of a number with a point, all of what is left of it."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:,.{max(0, 2 - math.floor(math.log10(abs(cell))))}f}" if cell else "0"


def verdicts(found: Iterable[Verdict]) -> str:
    head = (" what", "now", "target", " reached")
    return table(head, ((v.what, *_figures(v), "yes" if v.is_reached else "no") for v in found))


def as_json(facts: Mapping[str, str], found: Sequence[Findings]) -> dict[str, Any]:
    return {
        "machine": dict(facts),
        "targets": [
            {"what": v.what, "now": v.figure, "unit": v.unit, "target": v.target, "reached": v.is_reached}
            for findings in found
            for v in findings.verdicts
        ],
        "notes": {findings.title: findings.notes for findings in found},
        "figures": {findings.title: findings.figures for findings in found},
    }


def say(line: str) -> None:
    """Tell whoever waits how far we are. Results go to standard output."""
    print(line, file=sys.stderr, flush=True)


def _figures(verdict: Verdict) -> tuple[str, str]:
    sign = ">=" if verdict.at_least else "<="
    # Not rounded to three digits: 1.304 shown as 1.30 would look like a target of 1.3 reached.
    return f"{verdict.figure:.3f} {verdict.unit}", f"{sign} {verdict.target:g} {verdict.unit}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
