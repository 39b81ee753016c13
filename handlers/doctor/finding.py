"""What a check has found, and where it looks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from handlers.doctor.platforms import PLAIN, Platform
from handlers.settings import Settings

# KEYCLOAK_REALM is none, nor is MONKEY_MODE.
_SECRETS = re.compile(
    r"SECRET|PASSWORD|PASSWD|CONNECTION_STRING|AUTHORIZATION|IDENTITY_HEADER|(^|_|API)(KEY|KEYS|TOKEN|TOKENS|SAS)(_|$)"
)
_NO_SECRETS = re.compile(r"_(FILE|PATH|DIR|URI|URL|ENDPOINT|ID)$|^(?!.*(SECRET|KEY)).*CREDENTIALS$")
_PEM = re.compile(r"-----BEGIN [^-]*PRIVATE KEY-----.*?(-----END [^-]*-----|$)", re.DOTALL)
_URL = re.compile(r"\w+://\S+")
_SHORT = 6
"""Characters of a value that would be found in any text."""
_SHOWN = 500


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(NamedTuple):
    id: str
    """Stays the same from release to release: ``disk.room``."""
    level: Level
    title: str
    """What it is about: a few words, with the model's or the directory's name if there are several."""
    detail: str
    """What was found and, if that is not right, what is wanted."""
    advice: str = ""
    """How to mend it."""

    def redacted(self, redact: Callable[[str], str]) -> Finding:
        # The title and the advice are Decant's own words.
        title, advice = (" ".join(text.split())[:_SHOWN] for text in (self.title, self.advice))
        return self._replace(title=title, detail=redact(self.detail), advice=advice)


class Site(NamedTuple):
    """Where checks look."""

    settings: Settings
    environ: Mapping[str, str]
    platform: Platform = PLAIN
    root: Path = Path("/")
    """Where ``/proc``, ``/sys`` and ``/dev`` are."""
    remaining: float | None = None
    """Seconds that the platform gives to the call that asks; None if nobody says."""
    writes: bool = False
    """Whether to look into publishing compiled models, too."""


Findings = Iterator[Finding]


def ok(id: str, title: str, detail: str, advice: str = "") -> Finding:
    return Finding(id, Level.OK, title, detail, advice)


def warning(id: str, title: str, detail: str, advice: str) -> Finding:
    return Finding(id, Level.WARNING, title, detail, advice)


def problem(id: str, title: str, detail: str, advice: str) -> Finding:
    return Finding(id, Level.PROBLEM, title, detail, advice)


def worst(findings: Iterable[Finding]) -> Level:
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.PROBLEM, Level.WARNING) if level in levels), Level.OK)


def redaction(environ: Mapping[str, str], urls: Iterable[str] = ()) -> Callable[[str], str]:
    """Return what takes secrets out of a text, and makes a line of it.

    Checks do not show any. But they show what libraries say, who may quote what they were given.

    Args:
        environ: variables, some of which hold secrets.
        urls: others that may have a password in them.
    """
    names = (name for name in environ if _SECRETS.search(name.upper()) and not _NO_SECRETS.search(name.upper()))
    given = {part for name in names for part in (environ[name], *_parts(environ[name]))}
    for text in (*environ.values(), *urls):
        given.update(part for url in _URL.findall(text) for part in _of_url(url))
    given |= {" ".join(value.split()) for value in given}
    # The longest first, as one may be part of another.
    values = sorted((value for value in given if len(value) >= _SHORT), key=len, reverse=True)

    def redact(text: str) -> str:
        for value in values:
            text = text.replace(value, "***")
        text = _PEM.sub("***", text)
        # Queries may be signed, and what comes before an @ in a URL are a name and a password.
        text = re.sub(r"(\w+://[^\s?'\"]*)\?[^\s'\";]*", r"\1", text)
        text = re.sub(r"(\w+://)[^\s/]+@", r"\1", text)
        return " ".join(text.split())[:_SHOWN]

    return redact


def _parts(text: str) -> Iterator[str]:
    """Yield the secrets in a connection string: ``AccountName=…;AccountKey=…;SharedAccessSignature=…``."""
    for field in text.split(";"):
        name, _, value = field.partition("=")
        if name.strip().lower() in ("accountkey", "sharedaccesssignature"):
            yield value


def _of_url(url: str) -> Iterator[str]:
    """Yield what a URL has before its host, and the password in it, which may have an @ or a slash."""
    before, mark, _ = url.partition("://")[2].rpartition("@")
    if mark and ":" in before:
        yield before
        yield before.partition(":")[2]


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
