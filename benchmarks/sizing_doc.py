"""Put the tables of the last ``make bench BENCH_ARGS='--parts sizing'`` into ``docs/sizing.md``.

Each goes between ``<!-- sizing: NAME -->`` and ``<!-- end -->``, whatever is there; so nobody types a figure.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping

from benchmarks.sizing import TITLE
from benchmarks.sizing_tables import TABLES
from tests.servers import ROOT

BENCH = ROOT / "build" / "bench" / "bench.json"
PAGE = ROOT / "docs" / "sizing.md"
MACHINE = "machine"

_PLACE = re.compile(r"(<!-- sizing: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def written(page: str, tables: Mapping[str, str]) -> str:
    """Return the page with these tables in their places.

    Raises:
        ValueError: there is a place for a table that is not there, or no place for one that is.
    """
    places = [match[2] for match in _PLACE.finditer(page)]
    if sorted(places) != sorted(tables):
        raise ValueError(f"the page has places for {', '.join(sorted(places))}; there are {', '.join(sorted(tables))}")
    return _PLACE.sub(lambda match: f"{match[1]}{tables[match[2]]}\n{match[3]}", page)


def tables_of(bench: Mapping[str, object]) -> dict[str, str]:
    """Return the tables of a run, and what it ran on."""
    figures = bench["figures"]
    if not isinstance(figures, dict) or TITLE not in figures:
        raise ValueError("the last benchmark had no part sizing: make bench BENCH_ARGS='--parts sizing'")
    machine = bench["machine"]
    assert isinstance(machine, dict)
    tables: dict[str, str] = figures[TITLE]["tables"]
    return {**tables, MACHINE: "\n".join(f"- {fact}: {value}" for fact, value in machine.items())}


def main() -> None:
    try:
        tables = tables_of(json.loads(BENCH.read_text()))
        if missing := sorted({*TABLES, MACHINE} - set(tables)):
            raise ValueError(f"the last benchmark could not measure {', '.join(missing)}")
        PAGE.write_text(written(PAGE.read_text(), tables))
    except (OSError, ValueError) as exc:
        sys.exit(f"{PAGE.relative_to(ROOT)} is as it was: {exc}")


if __name__ == "__main__":
    main()
