"""Servers that the command line asks for a prediction: what their URLs say, and the one question, over HTTP.

What goes over gRPC is in `remote_grpc`, which needs packages that may not be there.
"""

from __future__ import annotations

import json
import re
from http.client import BadStatusLine, HTTPException, HTTPResponse, InvalidURL
from typing import Literal, NamedTuple
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from handlers.settings import SettingsError, silence_grpc
from model_cache.errors import StorageUnavailable
from runtime.answers import JSON_SIZE
from runtime.errors import InferenceError, InvalidRequest

Protocol = Literal["tfs", "v2"]
Transport = Literal["http", "grpc"]
PROTOCOLS: tuple[Protocol, ...] = ("tfs", "v2")
TRANSPORTS: tuple[Transport, ...] = ("http", "grpc")
TIMEOUT = 60.0
"""Seconds of silence over HTTP; over gRPC those of all there is to ask."""
MAX_ANSWER = 1 << 30
"""Bytes."""
MAX_TOLD = 1000
"""Bytes of an error that are read."""
_TRANSPORTS: dict[str, Transport] = {"http": "http", "https": "http", "grpc": "grpc", "grpcs": "grpc"}
_SCHEME = re.compile(r"(https?|grpcs?)://", re.IGNORECASE)
_NO_SCHEME = re.compile(r"[\w.-]+:\d+/")
# What is before the path may be a gateway's. What a client would add is there where an address was copied.
_URLS: dict[Protocol, re.Pattern[str]] = {
    "tfs": re.compile(r"(?P<model>.*/v1/models/[^/:]+(?P<choice>/versions/\d+|/labels/[^/:]+)?)(?::predict)?"),
    "v2": re.compile(r"(?P<model>.*/v2/models/[^/]+(?P<choice>/versions/\d+)?)(?:/infer)?"),
}
_VERBS: dict[Protocol, str] = {"tfs": ":predict", "v2": "/infer"}
_WANTED = "want http://HOST:PORT/v1/models/NAME, http://HOST:PORT/v2/models/NAME, or grpc://HOST:PORT/NAME"


class Remote(NamedTuple):
    """A model that a server has."""

    url: str
    protocol: Protocol
    transport: Transport
    address: str = ""
    """Host and port, over gRPC."""
    name: str = ""
    """The model's, over gRPC."""
    is_tls: bool = False
    has_version: bool = False
    """Whether the URL says which, or has a label for one."""


def remote_of(model: str, protocol: Protocol | None, transport: Transport | None) -> Remote | None:
    """Return where to ask, or None if ``model`` is no server's.

    Args:
        model: as it was typed.
        protocol: None for the URL's, or else TensorFlow Serving's.
        transport: None for the scheme's.

    Raises:
        SettingsError: the three contradict each other, or the URL is malformed, or has what should not be shown.
    """
    found = _SCHEME.match(model)
    if found is None:
        if transport is not None:
            raise SettingsError(f"transport is {transport}, and the model is no server; {_WANTED}")
        if _NO_SCHEME.match(model) and "@" not in model:
            raise SettingsError(f"{model} begins with a port and no scheme; {_WANTED}")
        return None
    scheme = found[1].lower()
    # Passwords may have any character, and no name that has an @ need be written with it.
    if "@" in model:
        raise SettingsError(f"the {scheme}:// URL has an @ in it, as if there were a password before it; {_WANTED}")
    if "?" in model or "#" in model:
        raise SettingsError(f"the {scheme}:// URL has a query or a fragment; {_WANTED}")
    implied = _TRANSPORTS[scheme]
    if transport not in (None, implied):
        raise SettingsError(f"transport is {transport}, and {model} is for {implied}; {_WANTED}")
    if implied == "grpc":
        return _over_grpc(model, protocol or "tfs", is_tls=scheme == "grpcs")
    return _over_http(model, protocol)


def ask(remote: Remote, version: int | None, body: bytes) -> bytes:
    """Answer a request as the server does, in the JSON of the protocol.

    Raises:
        SettingsError: there can be no such server, or its URL has a version already.
        StorageUnavailable: it cannot be reached.
        InferenceError: it says so, or the request cannot be sent.
    """
    if version is not None and remote.has_version:
        raise SettingsError(f"version is {version}, and {remote.url} says which; want one of them")
    if remote.transport == "http":
        return _ask_over_http(remote, version, body)
    # What a call has failed with is told in one line.
    silence_grpc()
    try:
        from handlers.remote_grpc import ask_over_grpc
    except ModuleNotFoundError as exc:
        raise StorageUnavailable(
            f"{remote.url} needs {exc.name}, which is not installed; try: pip install 'decant[grpc]'"
        ) from exc
    return ask_over_grpc(remote, version, body)


def is_of_v2(body: bytes) -> bool:
    """Return whether this is a request of the Open Inference Protocol, by what the other one's never have."""
    try:
        inputs = json.loads(body)["inputs"]
        return bool(inputs) and all({"name", "shape", "datatype"} <= one.keys() for one in inputs)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def binary_answer() -> InvalidRequest:
    return InvalidRequest("the answer has binary tensors, which are not printed; want a request without binary_data")


def one_line(text: str) -> str:
    """Return text of a server as an error may show it, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))


def _over_http(url: str, protocol: Protocol | None) -> Remote:
    try:
        parts = urlsplit(url)
        # It raises ValueError, too.
        if not parts.hostname or parts.port == 0:
            raise ValueError("host or port is missing")
    except ValueError as exc:
        raise SettingsError(f"cannot ask {url}: {one_line(str(exc))}; {_WANTED}") from exc
    for own, pattern in _URLS.items():
        found = pattern.fullmatch(url.rstrip("/"))
        if found is not None:
            if protocol not in (None, own):
                raise SettingsError(f"protocol is {protocol}, and {url} is for {own}; {_WANTED}")
            return Remote(found["model"], own, "http", has_version=found["choice"] is not None)
    raise SettingsError(f"cannot ask {url}: it is no model's; {_WANTED}")


def _over_grpc(url: str, protocol: Protocol, *, is_tls: bool) -> Remote:
    try:
        parts = urlsplit(url)
        name = unquote(parts.path, errors="strict").strip("/")
        # It raises ValueError, too.
        if not parts.hostname or not parts.port or not name:
            raise ValueError("host, port or name is missing")
    except ValueError as exc:
        raise SettingsError(f"cannot ask {url}: {one_line(str(exc))}; {_WANTED}") from exc
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Remote(url.rstrip("/"), protocol, "grpc", f"{host}:{parts.port}", name, is_tls)


def _ask_over_http(remote: Remote, version: int | None, body: bytes) -> bytes:
    model = remote.url if version is None else f"{remote.url}/versions/{version}"
    where = f"{model}{_VERBS[remote.protocol]}"
    try:
        return _post(where, body)
    # The server may have sent us to a port that is too large, which overflows.
    except (ValueError, OverflowError, InvalidURL) as exc:
        raise SettingsError(f"cannot ask {remote.url}: {one_line(str(exc))}") from exc
    except (OSError, HTTPException) as exc:
        # Of one that is no OSError the text is what the server has sent.
        if isinstance(exc, BadStatusLine) and not isinstance(exc, OSError):
            raise StorageUnavailable(f"cannot reach {where}: it speaks no HTTP; is the port gRPC's?") from exc
        raise StorageUnavailable(f"cannot reach {where}: {one_line(str(exc) or repr(exc))}") from exc


def _post(url: str, body: bytes) -> bytes:
    try:
        answer: HTTPResponse
        with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=TIMEOUT) as answer:
            if answer.headers.get(JSON_SIZE):
                raise binary_answer()
            content = answer.read(MAX_ANSWER)
            # Told the length, http.client takes less without a word.
            if answer.length:
                raise StorageUnavailable(f"{url} did not send all of its answer")
            return content
    except HTTPError as exc:
        told = one_line(exc.read(MAX_TOLD).decode(errors="replace"))
        raise InferenceError(f"{url} answered {exc.code}: {told}") from exc
