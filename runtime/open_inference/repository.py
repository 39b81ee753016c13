"""Triton's model repository extension: which models there are, and loading and unloading them by a client's word.

Forms: ``docs/protocol/extension_model_repository.md`` of Triton's server. What Decant unloads comes back for the next
request, as anything does that is not in memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import orjson

from runtime.codecs.open_inference.reports import IndexRow
from runtime.errors import NAME, InvalidRequest, PayloadTooLarge, PreconditionFailed, Unsupported, quoted, shown
from runtime.server import ModelServer, State, VersionStatus
from runtime.status import Code

if TYPE_CHECKING:
    from runtime.open_inference.statistics import Counts

READY = "READY"
_UNAVAILABLE = "UNAVAILABLE"
_UNKNOWN = "UNKNOWN"
STATES = {
    # It may still be uploaded.
    State.START: _UNAVAILABLE,
    State.LOADING: "LOADING",
    State.AVAILABLE: READY,
    State.UNLOADING: "UNLOADING",
    State.END: _UNAVAILABLE,
}
"""Triton's words."""
# Where the status has no reason.
_REASONS = {
    State.START: "it has only just appeared in storage and may still be uploaded",
    # Triton's text.
    State.END: "unloaded",
}
# Of a model's files that a client sends along.
_FILE = "file:"
_MAX_BODY = 64 << 10
"""Bytes of a request's body: a few words, which are read at once whatever there is of them."""


class Peers(Protocol):
    """All processes that serve the same models on the same ports, this one among them."""

    def load(self, name: str, until: float | None) -> None:
        """As `ModelServer.load`, in each of them."""
        ...

    def unload(self, name: str) -> None:
        """As `ModelServer.unload`, in each of them."""
        ...

    def statistics(self) -> Counts:
        """Return what all of them have counted, added up."""
        ...


class IndexRequest(NamedTuple):
    ready_only: bool = False
    repository_name: str = ""


def index(
    server: ModelServer, ready_only: bool = False, repository_name: str = "", until: float | None = None
) -> list[IndexRow]:
    """Return all versions of all models, also of those that are served no more.

    Args:
        server: whose models these are.
        ready_only: whether only what would answer a request is wanted.
        repository_name: of one repository of several; Triton does not know any either.
        until: in seconds of the monotonic clock, when first listings are not waited for any more; None for as long as
            a request waits.

    Raises:
        Unsupported: it is for one repository of several.
    """
    if repository_name:
        raise Unsupported(
            f"'repository_name' is '{quoted(repository_name, NAME)}'; want none, as there is one index for all models"
        )
    patience = None if until is None else max(0.0, until - time.monotonic())
    rows = [row for name, statuses in server.statuses(patience).items() for row in _rows(server, name, statuses)]
    return [row for row in rows if not ready_only or row.state == READY]


def load(
    server: ModelServer, name: str, until: float | None = None, parameters: Mapping[str, object] | None = None
) -> None:
    """List a model anew and load what is to serve, in all processes.

    Args:
        server: that has the model.
        name: of the model.
        until: as `ModelServer.load`.
        parameters: the request's.

    Raises:
        PreconditionFailed: clients may not.
        InvalidRequest: a parameter is for what Decant does not do.
        Overloaded: one of several processes has not answered in time.
        ModelCacheError: as `ModelServer.load`.
    """
    _check_control(server)
    for key in parameters or ():
        if key == "config" or key.startswith(_FILE):
            raise InvalidRequest(
                f"parameter '{quoted(key, NAME)}' is not supported: a model is served as it is configured and stored"
            )
    if server.peers is None or name not in server.repositories:
        server.load(name, until)
    else:
        server.peers.load(name, until)


def unload(server: ModelServer, name: str, parameters: Mapping[str, object] | None = None) -> None:
    """Have a model leave the memory of all processes.

    Args:
        server: that has the model.
        name: of the model.
        parameters: the request's.

    Raises:
        PreconditionFailed: clients may not; or as `ModelServer.unload`.
        InvalidRequest: a parameter makes no sense.
        Overloaded: one of several processes has not answered in time.
        ModelNotFound: as `ModelServer.unload`.
    """
    _check_control(server)
    # No model has others that depend on it.
    dependents = (parameters or {}).get("unload_dependents", False)
    if not isinstance(dependents, bool):
        raise InvalidRequest(f"parameter 'unload_dependents' is {shown(dependents)}; want true or false")
    if server.peers is None or name not in server.repositories:
        server.unload(name)
    else:
        server.peers.unload(name)


def read_index(body: bytes) -> IndexRequest:
    """Read the body of a request for the index, which may be empty.

    Raises:
        InvalidRequest: it makes no sense.
        PayloadTooLarge: it says more than there is to say.
    """
    fields = _object(body)
    ready, repository = _given(fields, "ready", False), _given(fields, "repository_name", "")
    if not isinstance(ready, bool):
        raise InvalidRequest(f"'ready' is {shown(ready)}; want true or false")
    if not isinstance(repository, str):
        raise InvalidRequest(f"'repository_name' is {shown(repository)}; want a string")
    return IndexRequest(ready, repository)


def read_parameters(body: bytes) -> Mapping[str, object]:
    """Read the body of a request to load or unload, which may be empty.

    Raises:
        InvalidRequest: it makes no sense.
        PayloadTooLarge: it says more than there is to say.
    """
    parameters = _given(_object(body), "parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"'parameters' is {shown(parameters)}; want an object")
    return parameters


def _check_control(server: ModelServer) -> None:
    if not server.is_controlled:
        # Triton's words are the first of ours.
        raise PreconditionFailed("explicit model load / unload is not allowed; see --model_control")


def _given(fields: Mapping[str, Any], name: str, default: Any) -> Any:
    # Pydantic's clients send null for what they leave out.
    value = fields.get(name)
    return default if value is None else value


def _object(body: bytes) -> dict[str, Any]:
    if len(body) > _MAX_BODY:
        raise PayloadTooLarge(f"the body has {len(body)} bytes; want {_MAX_BODY} at most, as models cannot be sent")
    if not body.strip():
        return {}
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the body is no JSON: {quoted(str(exc))}") from None
    if not isinstance(found, dict):
        raise InvalidRequest(f"the body is {shown(found)}; want an object")
    return found


def _rows(server: ModelServer, name: str, statuses: Sequence[VersionStatus]) -> Iterator[IndexRow]:
    if not statuses:
        yield IndexRow(name, "", _UNAVAILABLE, f"Could not find any versions of model {name}")
    repository = server.repositories.get(name)
    has_zero = repository is not None and 0 in repository.stored
    for status in statuses:
        if status.version == 0 and status.code and not has_zero:
            # The first listing may still be under way.
            state = _UNKNOWN if status.code == Code.UNAVAILABLE else _UNAVAILABLE
            yield IndexRow(name, "", state, status.message)
        else:
            reason = status.message or _REASONS.get(status.state, "")
            yield IndexRow(name, str(status.version), STATES[status.state], reason)
