"""DECANT_* variables that mean nothing: misspelt ones, and those that Kubernetes makes."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import fields
from difflib import get_close_matches

from handlers.doctor.finding import Findings, Site, ok, warning
from handlers.settings import PREFIX, Settings, without_effect

_LINK = re.compile(r"(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$")
_OF_LINK = re.compile(r"(tcp|udp|sctp)://")


def check_variables(site: Site) -> Findings:
    given = [name for name in sorted(site.environ) if name.startswith(PREFIX)]
    links = [name for name in given if _LINK.search(name) or _OF_LINK.match(site.environ[name])]
    if links:
        detail = f"{len(links)} are of a Kubernetes Service and count for nothing: {', '.join(links[:3])}"
        yield ok("variables.links", "variables", detail, "enableServiceLinks: false in the pod leaves them out")
    known = set(known_variables())
    unknown = [name for name in given if name not in known and name not in links]
    for name in unknown:
        yield warning("variables.unknown", f"variable {name}", "no setting has this name", _advice(name, known))
    for line in without_effect(site.settings):
        yield warning("variables.without_effect", "settings", line, "leave it out")
    count = len(given) - len(links) - len(unknown)
    if not unknown:
        yield ok("variables", "variables", f"{count} DECANT_* variables, each of a setting")


def known_variables() -> Collection[str]:
    return {PREFIX + setting.name.upper() for setting in fields(Settings)}


def _advice(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, 1, 0.8)
    return f"did you mean {near[0]}?" if near else "leave it out; decant serve --help names all of them"
