"""gRPC's services: TensorFlow Serving's PredictionService and ModelService, and where the Open Inference Protocol's is.

Each method is a function from message to message; `service_handlers` puts them on the wire. Those of the latter are in
`open_inference.services`, which is imported by the first that is called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from model_cache.repository import ServableId
from model_cache.timeline import lap, timeline
from runtime import calls, rpc
from runtime.codecs import schema
from runtime.codecs.dtypes import tf_number
from runtime.errors import NAME, InvalidRequest, Unsupported, quoted
from runtime.rpc import MAX_MESSAGE, Admission, Attempt, Outcome, Waits
from runtime.server import Lease, ModelServer
from runtime.signature import SIGNATURE_DEF_MAP, Signature, TensorSpec
from runtime.status import Code
from runtime.streams import Streams

if TYPE_CHECKING:
    from runtime.observing import ObservedServices
    from runtime.open_inference.services import Service

logger = logging.getLogger(__name__)

OPEN_INFERENCE = "inference.GRPCInferenceService"
SERVICES = (f"{schema.PACKAGE}.PredictionService", f"{schema.PACKAGE}.ModelService", OPEN_INFERENCE)
_STREAM = "ModelStreamInfer"
OPEN_INFERENCE_METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)
"""Those with one answer."""

Method = Callable[[Any, float | None], Any]
"""From a request, and when nobody wants its answer any more, to the answer."""

Reload = Callable[[Any, float | None], None]
"""Serve what a ModelServerConfig says when it returns, by the deadline; raises what the client is to be told."""


class Target(NamedTuple):
    """Which version of which model a ModelSpec means."""

    name: str
    version: int | None
    label: str | None


def service_handlers(
    server: ModelServer,
    max_in_flight: int = 256,
    *,
    max_requests: int = MAX_MESSAGE,
    max_response: int = MAX_MESSAGE,
    reload: Reload | None = None,
    tensor_content_from: int = 0,
    is_ready: Callable[[], bool] = lambda: True,
    streams: Streams | None = None,
    waits: Waits | None = None,
) -> list[grpc.GenericRpcHandler]:
    """Return what a gRPC server needs to serve all three.

    Args:
        server: what it serves.
        max_in_flight: calls and messages of streams at a time; further ones are refused.
        max_requests: bytes of all their requests and of answers on their way together; what is larger is answered by
            itself.
        max_response: bytes of one answer.
        reload: what HandleReloadConfigRequest does, which is UNIMPLEMENTED without.
        tensor_content_from: bytes from which on a tensor is answered in ``tensor_content``; 0 for none.
        is_ready: what ServerReady is answered with.
        streams: those of ModelStreamInfer; None for as many as there may be calls.
        waits: what ends calls that wait for their clients for too long; None for nothing.
    """
    observed = _observed(server)
    server = server if observed is None else observed.server
    admission = Admission(max_in_flight, max_requests)
    # One that is not started ends nothing.
    waits = Waits(max_in_flight) if waits is None else waits
    methods: Mapping[str, Mapping[str, tuple[Method, Any]]] = {
        SERVICES[0]: {
            "Predict": (
                partial(predict, server, tensor_content_from=tensor_content_from),
                schema.PredictRequest,
            ),
            "Classify": (partial(_infer, server, calls.classify), schema.ClassificationRequest),
            "Regress": (partial(_infer, server, calls.regress), schema.RegressionRequest),
            "MultiInference": (partial(multi_inference, server), schema.MultiInferenceRequest),
            "GetModelMetadata": (partial(get_model_metadata, server), schema.GetModelMetadataRequest),
        },
        SERVICES[1]: {
            "GetModelStatus": (partial(get_model_status, server), schema.GetModelStatusRequest),
            "HandleReloadConfigRequest": (partial(handle_reload_config, reload), schema.ReloadConfigRequest),
        },
    }
    attempts: dict[str, dict[str, Attempt]] = {
        service: {
            name: rpc.attempt(admission, name, partial(_call, *method, max_response)) for name, method in named.items()
        }
        for service, named in methods.items()
    }
    attempts[OPEN_INFERENCE] = _open_inference(server, admission, is_ready, max_response)
    if observed is not None:
        attempts = {
            service: {name: observed.around(service, name, attempt) for name, attempt in named.items()}
            for service, named in attempts.items()
        }
    handlers: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {
        service: {name: rpc.unary(attempt, waits) for name, attempt in named.items() if name != _STREAM}
        for service, named in attempts.items()
    }
    streams = Streams(max_in_flight, waits) if streams is None else streams
    handlers[OPEN_INFERENCE][_STREAM] = streams.handler(attempts[OPEN_INFERENCE][_STREAM])
    return [grpc.method_handlers_generic_handler(service, named) for service, named in handlers.items()]


def _observed(server: ModelServer) -> ObservedServices | None:
    """Return what looks at calls, if metrics or DEBUG want that now."""
    if server.metrics is None and not logger.isEnabledFor(logging.DEBUG):
        return None
    from runtime.observing import ObservedServices

    return ObservedServices(server)


def _call(method: Method, request_class: Any, max_response: int, content: bytes, deadline: float | None) -> bytes:
    return rpc.serialize(method(schema.parse(request_class, content), deadline), max_response)


def _open_inference(
    server: ModelServer, admission: Admission, is_ready: Callable[[], bool], max_response: int
) -> dict[str, Attempt]:
    """Return the methods of the Open Inference Protocol's service, which import what answers when they are called."""

    def service() -> Service:
        from runtime.open_inference.services import Service

        return Service(server, is_ready, max_response)

    def call(name: str, content: bytes, deadline: float | None) -> bytes:
        return service().answer(name, content, deadline)

    def answer_in_stream(content: bytes, deadline: float | None) -> Outcome:
        return service().answer_in_stream(admission, content, deadline)

    attempts = {name: rpc.attempt(admission, name, partial(call, name)) for name in OPEN_INFERENCE_METHODS}
    return {**attempts, _STREAM: answer_in_stream}


def predict(server: ModelServer, request: Any, deadline: float | None = None, tensor_content_from: int = 0) -> Any:
    return _infer(server, partial(calls.predict, tensor_content_from=tensor_content_from), request, deadline)


def multi_inference(server: ModelServer, request: Any, deadline: float | None = None) -> Any:
    # The first task's picks the version for all.
    spec = request.tasks[0].model_spec if request.tasks else schema.ModelSpec()
    target = _target(spec)
    with _lease(server, target, deadline) as lease:
        response = calls.multi_inference(lease.servable, request, deadline)
    for result in response.results:
        _write_id(result.model_spec, lease.id)
    return response


def get_model_metadata(server: ModelServer, request: Any, deadline: float | None = None) -> Any:
    spec = _spec(request)
    if not request.metadata_field:
        raise InvalidRequest("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise InvalidRequest(f"Metadata field {quoted(field, NAME)} is not supported")
    with _lease(server, _target(spec), deadline) as lease:
        signatures = lease.servable.signatures
    packed = schema.SignatureDefMap()
    for key, signature in signatures.items():
        _write_signature(packed.signature_def[key], signature)
    response = schema.GetModelMetadataResponse()
    _write_id(response.model_spec, lease.id)
    response.metadata["signature_def"].type_url = SIGNATURE_DEF_MAP
    response.metadata["signature_def"].value = packed.SerializeToString()
    return response


def get_model_status(server: ModelServer, request: Any, deadline: float | None = None) -> Any:
    # A label is ignored here, as TensorFlow Serving does.
    name, version, _ = _target(_spec(request))
    response = schema.GetModelStatusResponse()
    for status in server.status(name, version, deadline=deadline):
        written = response.model_version_status.add(version=status.version, state=status.state)
        written.status.error_code = status.code
        written.status.error_message = status.message
    return response


def handle_reload_config(reload: Reload | None, request: Any, deadline: float | None = None) -> Any:
    if reload is None:
        raise Unsupported("this server's configuration cannot be changed by requests")
    if request.config.WhichOneof("config") != "model_config_list":
        raise InvalidRequest(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
            "supported"
        )
    reload(request.config, deadline)
    response = schema.ReloadConfigResponse()
    # Of a failure the client has only the call's status: gRPC sends no message with it.
    response.status.error_code = Code.OK
    return response


def _infer(server: ModelServer, call: Callable[..., Any], request: Any, deadline: float | None = None) -> Any:
    with timeline.predict(), _lease(server, _target(_spec(request)), deadline) as lease:
        lap("wait")
        response = call(lease.servable, request, deadline)
    _write_id(response.model_spec, lease.id)
    return response


def _spec(request: Any) -> Any:
    if not request.HasField("model_spec"):
        raise InvalidRequest("Missing ModelSpec")
    return request.model_spec


def _target(spec: Any) -> Target:
    if not spec.name:
        raise InvalidRequest("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    return Target(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _lease(server: ModelServer, target: Target, deadline: float | None) -> AbstractContextManager[Lease]:
    return server.lease(target.name, target.version, label=target.label, deadline=deadline)


def _write_id(spec: Any, id: ServableId) -> None:
    spec.name = id.name
    spec.version.value = id.version


def _write_signature(proto: Any, signature: Signature) -> None:
    for infos, specs in ((proto.inputs, signature.inputs), (proto.outputs, signature.outputs)):
        for name, spec in specs.items():
            _write_tensor_info(infos[name], spec)
    proto.method_name = signature.method_name


def _write_tensor_info(proto: Any, spec: TensorSpec) -> None:
    proto.name = spec.name
    proto.dtype = tf_number(spec.dtype)
    proto.tensor_shape.SetInParent()
    proto.tensor_shape.unknown_rank = spec.told_shape is None
    for size in spec.told_shape or ():
        proto.tensor_shape.dim.add(size=size)
