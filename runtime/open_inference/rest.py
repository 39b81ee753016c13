"""The requests of ``/v2``, over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from runtime import urls
from runtime.answers import Operation
from runtime.errors import NoSuchPath


def begin(method: str, path: bytes, headers: Mapping[str, str]) -> Operation:
    raise NoSuchPath(f"Not Found: {urls.line(method, path)}")
