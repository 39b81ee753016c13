"""What was found, as lines for people and as JSON for machines."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from handlers.doctor.finding import Finding, Level, Site, problem, redaction, worst
from handlers.doctor.platforms import platform_of
from handlers.doctor.run import TOTAL, examine
from handlers.settings import Settings, SettingsError, read_settings

FORMAT = 1
"""Of the JSON. Fields and ids are added to it, and none is taken away, as long as it is this."""
_MARGIN = 1.0
_BAD = 50
"""Settings that cannot be read, after which the defaults are looked at."""


class Report(NamedTuple):
    findings: Sequence[Finding]
    platform: str
    seconds: float
    is_complete: bool
    """Whether nothing is left that still waits for an answer; else the process is best ended without waiting for it."""

    @property
    def exit_code(self) -> int:
        return 1 if worst(self.findings) is Level.PROBLEM else 0

    def lines(self) -> Iterator[str]:
        for finding in self.findings:
            advice = f" -> {finding.advice}" if finding.advice else ""
            yield f"{finding.level:<7}  {finding.title}: {finding.detail}{advice}  [{finding.id}]"
        counts = {level: sum(finding.level is level for finding in self.findings) for level in Level}
        told = ", ".join(f"{count} {level if count == 1 else _PLURALS[level]}" for level, count in counts.items())
        yield f"{told}; {self.platform}, {self.seconds:.1f} s"

    def json(self) -> str:
        return json.dumps(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "decant": _decant(),
            "platform": self.platform,
            "level": str(worst(self.findings)),
            "seconds": round(self.seconds, 3),
            "findings": [{**finding._asdict(), "level": str(finding.level)} for finding in self.findings],
        }


_PLURALS = {Level.OK: "ok", Level.WARNING: "warnings", Level.PROBLEM: "problems"}


def as_json(settings: Settings, remaining: float | None = None) -> dict[str, Any]:
    """Return the report as an object for JSON.

    Args:
        settings: what is to be served here.
        remaining: seconds that the platform gives to this call; it ends before that.
    """
    return report_on(settings, remaining=remaining).as_dict()


def report_on(
    settings: Settings,
    *,
    timeout: float = TOTAL,
    patience: float | None = None,
    remaining: float | None = None,
    writes: bool = False,
    before: Collection[Finding] = (),
) -> Report:
    """
    Args:
        timeout: seconds that all checks have.
        patience: seconds that each check has at most; None for what is usual.
        writes: whether to try to publish compiled models, too.
        before: what has been found already.
    """
    began = time.monotonic()
    environ = settings.storage_options().environ
    platform = platform_of(environ)
    site = Site(settings, environ, platform, remaining=remaining, writes=writes)
    total = timeout if remaining is None else min(timeout, max(0.0, remaining - _MARGIN))
    found = examine(site, total, patience)
    redact = redaction(environ, (settings.model_path, settings.model_config_file, settings.s3_endpoint))
    findings = [finding.redacted(redact) for finding in (*before, *found.findings)]
    return Report(findings, platform.name, time.monotonic() - began, found.is_complete)


def read(flags: Mapping[str, str | None]) -> tuple[Settings, list[Finding]]:
    """Return the settings as far as they can be read, and what is wrong with the others, which are passed over.

    Args:
        flags: by field name, as typed.
    """
    left, passed_over, findings = dict(flags), set[str](), list[Finding]()
    for _ in range(_BAD):
        try:
            return read_settings(left, passed_over=passed_over), findings
        except SettingsError as exc:
            findings.append(problem("settings.value", "settings", str(exc), "decant serve would not start: mend it"))
            # It names what it is of, first: --port or DECANT_PORT.
            source = str(exc).partition(" ")[0]
            if left.pop(source.removeprefix("--"), None) is None:
                if source in passed_over:
                    break
                passed_over.add(source)
    return Settings(), findings


def _decant() -> str:
    try:
        return version("decant")
    except PackageNotFoundError:
        return ""
