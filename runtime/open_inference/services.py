"""GRPCInferenceService of the Open Inference Protocol, with Triton's extensions: each method from bytes to bytes.

Imported by the first call. What is around methods is in `runtime.rpc`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from model_cache.timeline import lap, timeline
from runtime import rpc, urls
from runtime.codecs.open_inference import infer_wire, messages
from runtime.codecs.open_inference.infer_wire import Received
from runtime.codecs.open_inference.inference import InferResponse
from runtime.codecs.schema import open_inference as schema
from runtime.codecs.schema import parse
from runtime.errors import NAME, InvalidRequest, quoted
from runtime.open_inference import infer, metadata, repository, statistics
from runtime.rpc import Admission, Outcome
from runtime.server import ModelServer

_DIGITS = re.compile("[0-9]+")


class Service(NamedTuple):
    server: ModelServer
    is_ready: Callable[[], bool]
    max_response: int
    """Bytes of one answer."""

    def answer(self, method: str, content: bytes, deadline: float | None) -> bytes:
        """Answer a call.

        Args:
            method: one of those with one answer.
            content: its request, as received.
            deadline: in seconds of the monotonic clock.

        Raises:
            InferenceError, ModelCacheError: it cannot be answered, or not now.
        """
        if method == "ModelInfer":
            received = infer_wire.receive(content)
            with timeline.predict():
                written = messages.encode(self._infer(received, deadline), self.max_response)
                lap("encode")
            return written
        request, respond = _METHODS[method]
        return rpc.serialize(respond(self, parse(getattr(schema, request), content), deadline), self.max_response)

    def answer_in_stream(self, admission: Admission, content: bytes, deadline: float | None) -> Outcome:
        """Answer one message of a stream as a call is answered; what has failed with a message that says so.

        Raises nothing.
        """
        received = Received(schema.ModelInferRequest(), ())
        try:
            # If it is small, before it may be refused, for the client to be told which one that was.
            is_small = len(content) < infer_wire.LARGE
            if is_small:
                received = infer_wire.receive(content)
            with admission.admitted(len(content)):
                if not is_small:
                    received = infer_wire.receive(content)
                with timeline.predict():
                    written = messages.encode_in_stream(self._infer(received, deadline), self.max_response)
                    lap("encode")
                return Outcome(written, release=admission.hold(len(written)))
        except Exception as exc:  # noqa: BLE001
            failed = rpc.failure("ModelStreamInfer", exc)
            # Without a text it would be no error.
            return failed._replace(content=messages.encode_error(received.message, failed.message or failed.code.name))

    def _infer(self, received: Received, deadline: float | None) -> InferResponse:
        message = received.message
        request = messages.decode(received)
        lap("decode")
        return infer.run(self.server, message.model_name, _version(message.model_version), request, deadline=deadline)


def _version(text: str) -> int | None:
    """Return the version's number; None for the one that serves."""
    if not text:
        return None
    if not _DIGITS.fullmatch(text):
        # OpenVINO Model Server's text is part of ours.
        raise InvalidRequest(f"invalid model version format in request: it is '{quoted(text, NAME)}'; want a number")
    return urls.number_of(text.encode())


def _server_live(service: Service, request: Any, deadline: float | None) -> Any:
    return schema.ServerLiveResponse(live=True)


def _server_ready(service: Service, request: Any, deadline: float | None) -> Any:
    return schema.ServerReadyResponse(ready=service.is_ready())


def _model_ready(service: Service, request: Any, deadline: float | None) -> Any:
    why_not = metadata.readiness(service.server, request.name, _version(request.version), deadline=deadline)
    return schema.ModelReadyResponse(ready=not why_not)


def _server_metadata(service: Service, request: Any, deadline: float | None) -> Any:
    return messages.server_metadata(service.server.is_controlled)


def _model_metadata(service: Service, request: Any, deadline: float | None) -> Any:
    version = _version(request.version)
    return messages.model_metadata(*metadata.of_model(service.server, request.name, version, deadline=deadline))


def _model_config(service: Service, request: Any, deadline: float | None) -> Any:
    signature = metadata.signature_of(service.server, request.name, _version(request.version), deadline=deadline)
    return messages.model_config(request.name, signature)


def _model_statistics(service: Service, request: Any, deadline: float | None) -> Any:
    return messages.statistics(statistics.rows(service.server, request.name, _version(request.version), until=deadline))


def _repository_index(service: Service, request: Any, deadline: float | None) -> Any:
    return messages.index(repository.index(service.server, request.ready, request.repository_name, until=deadline))


def _repository_model_load(service: Service, request: Any, deadline: float | None) -> Any:
    name = _managed(request)
    repository.load(service.server, name, deadline, messages.parameters(request, "the request"))
    return schema.RepositoryModelLoadResponse(model_name=name, isLoaded=True)


def _repository_model_unload(service: Service, request: Any, deadline: float | None) -> Any:
    name = _managed(request)
    repository.unload(service.server, name, messages.parameters(request, "the request"))
    return schema.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)


def _managed(request: Any) -> str:
    """Return the model's name, which KServe's clients send in the field of Triton's repository's."""
    name: str = request.model_name or request.repository_name
    return name


# The request's message, and what answers it.
_METHODS: Mapping[str, tuple[str, Callable[[Service, Any, float | None], Any]]] = {
    "ServerLive": ("ServerLiveRequest", _server_live),
    "ServerReady": ("ServerReadyRequest", _server_ready),
    "ModelReady": ("ModelReadyRequest", _model_ready),
    "ServerMetadata": ("ServerMetadataRequest", _server_metadata),
    "ModelMetadata": ("ModelMetadataRequest", _model_metadata),
    "ModelConfig": ("ModelConfigRequest", _model_config),
    "ModelStatistics": ("ModelStatisticsRequest", _model_statistics),
    "RepositoryIndex": ("RepositoryIndexRequest", _repository_index),
    "RepositoryModelLoad": ("RepositoryModelLoadRequest", _repository_model_load),
    "RepositoryModelUnload": ("RepositoryModelUnloadRequest", _repository_model_unload),
}
