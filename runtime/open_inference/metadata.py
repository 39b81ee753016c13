"""What is told of a model, and whether it is ready, for both transports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from model_cache.errors import ModelNotFound
from runtime.errors import NAME, quoted
from runtime.open_inference.repository import STATES
from runtime.server import ModelServer, State, VersionStatus
from runtime.signature import DEFAULT_SIGNATURE, Signature
from runtime.status import Code

_TOLD = 8
"""Versions of which it is said why they are not ready."""


class ModelMetadata(NamedTuple):
    name: str
    versions: Sequence[str]
    """Those that would be answered now, lowest first."""
    signature: Signature


def of_model(
    server: ModelServer,
    name: str,
    version: int | None,
    *,
    until: float | None = None,
    deadline: float | None = None,
) -> ModelMetadata:
    """Return a model's metadata, for which it is loaded if it is not.

    Args:
        version: whose tensors are told; None for the one that serves.
        until: as `ModelServer.lease`.
        deadline: as there.

    Raises:
        InferenceError, ModelCacheError: as `ModelServer.lease`.
    """
    signature = signature_of(server, name, version, until=until, deadline=deadline)
    statuses = server.status(name, deadline=deadline, until=until)
    answering = sorted(status.version for status in statuses if _is_answering(status))
    return ModelMetadata(name, [str(number) for number in answering], signature)


def signature_of(
    server: ModelServer,
    name: str,
    version: int | None,
    *,
    until: float | None = None,
    deadline: float | None = None,
) -> Signature:
    """Return what a model takes and gives. Arguments and errors: as `of_model`."""
    with server.lease(name, version, deadline=deadline, until=until) as lease:
        return lease.servable.signatures[DEFAULT_SIGNATURE]


def readiness(
    server: ModelServer,
    name: str,
    version: int | None,
    *,
    until: float | None = None,
    deadline: float | None = None,
) -> str:
    """Return why a request sent now would not be answered; empty if it would be. Loads nothing.

    Args:
        version: None for any.

    Raises:
        ModelNotFound: no such model or version, or none any more.
        InferenceError, ModelCacheError: as `ModelServer.status`.
    """
    statuses = server.status(name, version, deadline=deadline, until=until)
    if any(_is_answering(status) for status in statuses):
        return ""
    failed = [status for status in statuses if not _is_gone(status)]
    if not failed:
        asked = quoted(name, NAME) if version is None else f"{quoted(name, NAME)}/{version}"
        raise ModelNotFound(f"Servable not found for request: {asked} is served no more")
    return "; ".join(_told(name, status) for status in failed[:_TOLD])


def _is_answering(status: VersionStatus) -> bool:
    # For a version that is being loaded a request waits; what has failed will most likely fail again.
    return status.state is State.AVAILABLE or (status.state is State.LOADING and not status.last_failure)


def _told(name: str, status: VersionStatus) -> str:
    why = status.message or status.last_failure
    return f"{quoted(name, NAME)}/{status.version} is {STATES[status.state]}{why and f': {why}'}"


def _is_gone(status: VersionStatus) -> bool:
    return status.code is Code.OK and status.state in (State.UNLOADING, State.END)
