"""What ``/v2`` answers over HTTP without running a model."""

from __future__ import annotations

import orjson

from runtime.answers import Reply, error
from runtime.codecs.open_inference import documents
from runtime.open_inference import metadata, repository, statistics
from runtime.server import ModelServer


def look(server: ModelServer, verb: str, name: str, version: int | None, body: bytes, until: float | None) -> Reply:
    """Answer it.

    Args:
        verb: see `urls.Target`.
        until: in seconds of the monotonic clock, when an answer is of no use any more.

    Raises:
        InferenceError, ModelCacheError: it cannot be answered, or not now.
    """
    match verb:
        case "server":
            return Reply(documents.server_metadata(server.is_controlled))
        case "ready":
            return _readiness(name, metadata.readiness(server, name, version, until=until))
        case "config":
            signature = metadata.signature_of(server, name, version, until=until)
            return Reply(orjson.dumps(documents.model_config(name, signature)))
        case "stats":
            return Reply(documents.statistics(statistics.rows(server, name, version, until)))
        case "index":
            return Reply(documents.index(repository.index(server, *repository.read_index(body), until)))
        case "load":
            repository.load(server, name, until, repository.read_parameters(body))
            return _done(name, verb)
        case "unload":
            repository.unload(server, name, repository.read_parameters(body))
            return _done(name, verb)
    return Reply(documents.model_metadata(*metadata.of_model(server, name, version, until=until)))


def _readiness(name: str, why_not: str) -> Reply:
    if not why_not:
        return Reply(orjson.dumps({"name": name, "ready": True}))
    answer = error(503, why_not)
    return Reply(answer.body, status=answer.status, headers=answer.headers)


def _done(name: str, verb: str) -> Reply:
    # kserve's server says so, and its client reads it; to Triton's the status is enough.
    return Reply(orjson.dumps({"name": name, verb: True}))
