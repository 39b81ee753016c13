"""TensorFlow Serving's URLs: what a request line asks for.

A path is matched as it was sent and decoded after that, so that a name may have a slash in it. Queries are not looked
at. Patterns, their order and texts: tensorflow_serving's ``model_servers/http_rest_api_util.cc``.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from runtime.errors import InvalidRequest

# Cases are ignored in bytes as RE2 does it: those of ASCII.
_MODEL = rb"([^/:]+)"
_VERSION = rb"(?:/versions/([0-9]+)|/labels/([^/:]+))?"
_PATTERNS = {
    "POST": re.compile(rb"(?i)/v1/models/" + _MODEL + _VERSION + rb":(classify|regress|predict)"),
    "GET": re.compile(rb"(?i)/v1/models(?:/" + _MODEL + rb")?" + _VERSION + rb"(?:/(metadata))?"),
}
# Those that have no model: OpenVINO Model Server's, and our own.
_OTHERS = {
    b"/v1/config": ("GET", "config"),
    b"/v1/config/reload": ("POST", "reload"),
    b"/v1/cache": ("GET", "cache"),
    b"/v1/coldstart": ("GET", "coldstart"),
    b"/v1/coldstart.svg": ("GET", "coldstart.svg"),
}
LIVE = (b"/v2/health/live", b"/v2/health/live/")
HEALTH = (*LIVE, b"/v2/health/ready", b"/v2/health/ready/")
"""The Open Inference Protocol's, answered by whoever knows what is to be up."""
_LARGEST_VERSION = (1 << 63) - 1
_QUOTED = 256
"""Bytes of a URL that a message has at most."""


class Target(NamedTuple):
    verb: str
    """predict, classify, regress; status, metadata; or one that has no model."""
    name: str
    version: int | None
    label: str | None
    """Not together with a version."""


def parse(method: str, path: bytes) -> Target:
    """Return what is asked for.

    Args:
        method: of HTTP.
        path: as it was sent, without its query.

    Raises:
        InvalidRequest: TensorFlow Serving has no such URL; it has this answer where others have 404 and 405.
    """
    if path in _OTHERS and method == _OTHERS[path][0]:
        return Target(_OTHERS[path][1], "", None, None)
    pattern = _PATTERNS.get(method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        raise _malformed(method, path)
    name, version, label, verb = match.groups()
    if method == "GET":
        # METADATA matches and is the status.
        verb = b"metadata" if verb == b"metadata" else b"status"
    elif verb != verb.lower():
        raise _malformed(method, path)
    number = None if version is None else number_of(version)
    if name is None:
        raise InvalidRequest("Missing model name in request.")
    return Target(verb.decode(), decoded(name), number, None if label is None else decoded(label))


def is_tfserving(path: bytes) -> bool:
    """Whether a path is one that `parse` has an answer to, be it that it is malformed."""
    return path[:4].lower() == b"/v1/"


def is_contract(path: bytes) -> bool:
    """Whether a path is the contract's to answer, in one of its two protocols, be it that there is no such."""
    return is_tfserving(path) or (path not in HEALTH and (path.startswith(b"/v2/") or path == b"/v2"))


def model_of(path: bytes) -> str:
    """Return the name of the model that a path is about; empty if it is about none."""
    match = re.match(rb"(?i)/v1/models/" + _MODEL, path) or re.match(rb"/v2/(?:repository/)?models/([^/]+)", path)
    return decoded(match[1]) if match else ""


def path_of(scope: Any) -> bytes:
    """Return the path of an ASGI scope as it was sent, or something that decodes to the same."""
    raw: bytes | None = scope.get("raw_path")
    return quote(scope["path"], safe="/:").encode() if raw is None else raw


def excerpt(path: bytes) -> str:
    return path[:_QUOTED].decode(errors="replace")


def line(method: str, path: bytes) -> str:
    """Return a request line as the log has it."""
    # Quoted, as a path may have line breaks in it.
    return f"{method} {excerpt(path)!r}"


def _malformed(method: str, path: bytes) -> InvalidRequest:
    return InvalidRequest(f"Malformed request: {method[:_QUOTED]} {excerpt(path)}")


def number_of(digits: bytes) -> int:
    """Return a version's number.

    Raises:
        InvalidRequest: it is larger than there are.
    """
    # Python refuses to convert very long numbers.
    significant = digits.lstrip(b"0")
    number = int(significant or b"0") if len(significant) < 20 else _LARGEST_VERSION + 1
    if number > _LARGEST_VERSION:
        raise InvalidRequest(f"Failed to convert version: {excerpt(digits)} to numeric.")
    return number


def decoded(piece: bytes) -> str:
    """Return a name in a path, of which its pattern has been matched."""
    # What is no UTF-8 is no name of a model either.
    return unquote_to_bytes(piece).decode(errors="replace")
