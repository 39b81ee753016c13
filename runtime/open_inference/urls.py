"""The Open Inference Protocol's URLs: what a request line asks for.

As in `runtime.urls`, a path is matched as it was sent and decoded after that; cases count. Paths: the protocol's, and
Triton's extensions ``model_configuration``, ``statistics`` and ``model_repository``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from runtime import urls
from runtime.errors import MethodNotAllowed, NoSuchPath

_PATH = re.compile(
    rb"/v2(?:"
    # Before the model of that name, whose metadata is at its versions alone.
    rb"/models/(?P<all>stats)"
    rb"|/models/(?P<model>[^/]+)(?:/versions/(?P<version>[0-9]+))?(?:/(?P<verb>infer|ready|config|stats))?"
    rb"|/repository/(?P<index>index)"
    rb"|/repository/models/(?P<managed>[^/]+)/(?P<control>load|unload)"
    rb")?/?"
)
_READS = ("GET", "HEAD")
_POSTED = frozenset({"infer", "index", "load", "unload"})


class Target(NamedTuple):
    verb: str
    """infer, ready, metadata, config, load, unload; stats, of a model or of all; server, index, which have no model."""
    name: str = ""
    version: int | None = None


def parse(method: str, path: bytes) -> Target:
    """Return what is asked for.

    Args:
        method: of HTTP.
        path: as it was sent, without its query.

    Raises:
        NoSuchPath: there is nothing at this path.
        MethodNotAllowed: there is, and it is asked for by another method.
        InvalidRequest: there is no version of such a number.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise NoSuchPath(f"Not Found: {urls.line(method, path)}")
    target = _target(match)
    allowed = ("POST",) if target.verb in _POSTED else _READS
    if method not in allowed:
        raise MethodNotAllowed(
            f"Method Not Allowed: {urls.line(method, path)}; want {' or '.join(allowed)}", ", ".join(allowed)
        )
    return target


def _target(match: re.Match[bytes]) -> Target:
    model, version, verb = match.group("model", "version", "verb")
    if model is not None:
        number = None if version is None else urls.number_of(version)
        return Target(verb.decode() if verb else "metadata", urls.decoded(model), number)
    if match["managed"] is not None:
        return Target(match["control"].decode(), urls.decoded(match["managed"]))
    if match["index"]:
        return Target("index")
    return Target("stats" if match["all"] else "server")
