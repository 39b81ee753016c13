"""What ``/v1/`` answers without running a model: status, metadata, what is cached, the start, a reload."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from runtime.answers import Reply
from runtime.codecs.model_json import encode_config, encode_inventory, encode_metadata, encode_status
from runtime.errors import Unsupported
from runtime.server import ModelServer, VersionStatus

if TYPE_CHECKING:
    from runtime.contract import Contract
    from runtime.tfserving import TfsOperation

T = TypeVar("T")

_MOMENT = 1.0
"""Seconds for what should be known."""


def look(contract: Contract, asked: TfsOperation, until: float | None) -> Reply:
    """Answer it.

    Args:
        until: in seconds of the monotonic clock, when an answer is of no use any more.

    Raises:
        InferenceError, ModelCacheError: it cannot be answered, or not now.
    """
    if asked.verb == "coldstart":
        from runtime import coldstart

        return Reply(coldstart.as_json())
    if asked.verb == "coldstart.svg":
        from runtime import coldstart

        return Reply(coldstart.as_svg(), "image/svg+xml")
    if asked.verb == "reload":
        return _reload(contract, until)
    return Reply(_look(contract.server, asked, until))


def _reload(contract: Contract, until: float | None) -> Reply:
    if contract.reload is None:
        raise Unsupported("this server has no configuration that could be reloaded")
    # As in OpenVINO Model Server: 201 for what has changed.
    status = 201 if _in_time(contract.reload, until) else 200
    # What cannot be listed has been waited for.
    return Reply(_look_at_all(contract.server, _MOMENT), status=status)


def _in_time(work: Callable[[], T], until: float | None) -> T:
    if until is None:
        return work()
    from runtime.within import within

    return within(work, until)


def _look(server: ModelServer, asked: TfsOperation, until: float | None) -> bytes:
    patience = None if until is None else max(0.0, until - time.monotonic())
    if asked.verb == "cache":
        return encode_inventory(server.inventory(patience))
    if asked.verb == "config":
        return _look_at_all(server, patience)
    if asked.verb == "status":
        # Of all versions if there is a label, as TensorFlow Serving.
        return encode_status(_rows(server.status(asked.name, asked.version, until=until)))
    with server.lease(asked.name, asked.version, label=asked.label, until=until) as lease:
        return encode_metadata(asked.name, lease.id.version, lease.servable.signatures)


def _look_at_all(server: ModelServer, patience: float | None = None) -> bytes:
    return encode_config({name: _rows(states) for name, states in server.statuses(patience).items()})


def _rows(states: Iterable[VersionStatus]) -> Iterator[tuple[int, str, str, str]]:
    return ((state.version, state.state.name, state.code.name, state.message) for state in states)
