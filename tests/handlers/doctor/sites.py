"""Places to be looked at: real settings, and variables and directories as a test wants them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from handlers.doctor.finding import Finding, Level, Site
from handlers.doctor.platforms import platform_of
from handlers.settings import Settings


def site_of(
    environ: Mapping[str, str] | None = None,
    root: Path = Path("/"),
    *,
    remaining: float | None = None,
    writes: bool = False,
    **settings: Any,
) -> Site:
    environ = environ or {}
    return Site(Settings(**settings), environ, platform_of(environ, root), root, remaining, writes)


def one(findings: Iterable[Finding], id: str) -> Finding:
    """Return the only finding of that id."""
    found = list(findings)
    (finding,) = (finding for finding in found if finding.id == id)
    return finding


def levels(findings: Iterable[Finding]) -> dict[str, Level]:
    """Return the worst level of each id."""
    ranks = list(Level)
    worst: dict[str, Level] = {}
    for finding in findings:
        worst[finding.id] = max(worst.get(finding.id, Level.OK), finding.level, key=ranks.index)
    return worst


def make_root(directory: Path, files: Mapping[str, str]) -> Path:
    """Write files as they are in /proc and /sys, and return the directory that stands for ``/``."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return directory
