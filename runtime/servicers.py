"""TensorFlow Serving's gRPC services, PredictionService and ModelService.

Each method is a function from message to message; `service_handlers` puts them on the wire.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError, EncodeError

from model_cache.repository import ServableId
from model_cache.timeline import lap, timeline
from runtime import calls
from runtime.codecs import schema
from runtime.codecs.dtypes import tf_number
from runtime.codecs.model_json import SIGNATURE_DEF_MAP
from runtime.errors import NAME, InvalidRequest, Overloaded, PayloadTooLarge, Unsupported, quoted
from runtime.server import Lease, ModelServer
from runtime.signature import Signature, TensorSpec
from runtime.status import KNOWN, Code, code_of, is_ours, public_message

if TYPE_CHECKING:
    from runtime.observing import ObservedServices

logger = logging.getLogger(__name__)

SERVICES = (f"{schema.PACKAGE}.PredictionService", f"{schema.PACKAGE}.ModelService")
MAX_MESSAGE = 2**31 - 1
"""Bytes, both ways; TensorFlow Serving's limit, and gRPC's."""
_MAX_DETAILS = 1024
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
_NO_DEADLINE = 1e9
"""Seconds; gRPC says the end of time for a call without a deadline."""

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
) -> list[grpc.GenericRpcHandler]:
    """Return what a gRPC server needs to serve both.

    Args:
        server: what it serves.
        max_in_flight: calls at a time; further ones are refused.
        max_requests: bytes of all their requests together; what is larger is answered by itself.
        max_response: bytes of one answer.
        reload: what HandleReloadConfigRequest does, which is UNIMPLEMENTED without.
        tensor_content_from: bytes from which on a tensor is answered in ``tensor_content``; 0 for none.
    """
    observed = _observed(server)
    server = server if observed is None else observed.server
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
    admission = _Admission(max_in_flight, max_requests)
    return [
        grpc.method_handlers_generic_handler(
            service,
            {name: _unary(admission, max_response, observed, service, name, *method) for name, method in named.items()},
        )
        for service, named in methods.items()
    ]


def _observed(server: ModelServer) -> ObservedServices | None:
    """Return what looks at calls, if metrics or DEBUG want that now."""
    if server.metrics is None and not logger.isEnabledFor(logging.DEBUG):
        return None
    from runtime.observing import ObservedServices

    return ObservedServices(server)


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


def serialize(message: Any, max_size: int = MAX_MESSAGE) -> bytes:
    """Return what a message is on the wire.

    Raises:
        PayloadTooLarge: that has more than so many bytes.
    """
    try:
        content: bytes = message.SerializeToString()
    # A message within it is larger than protobuf's limit.
    except EncodeError as exc:
        raise PayloadTooLarge(f"the answer cannot be written: {exc}; want {MAX_MESSAGE} bytes at most") from exc
    if len(content) > max_size:
        raise PayloadTooLarge(f"the answer has {len(content)} bytes; want {max_size} at most")
    return content


class _Admission:
    """How many calls are being answered, and how many bytes their requests have. Thread-safe."""

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        # Guards the two below: what all calls have that are admitted now.
        self._lock = threading.Lock()
        self._calls = 0
        self._bytes = 0

    @contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """Count a call and the bytes of its request.

        Raises:
            Overloaded: there are too many calls, or bytes.
        """
        with self._lock:
            if self._calls >= self._max_calls:
                raise Overloaded("as many calls are in flight as may be; see --max_in_flight")
            # By itself, however large it is: there will never be more room.
            if self._bytes and self._bytes + size > self._max_bytes:
                raise Overloaded(f"the requests of {self._calls} calls take {self._bytes} bytes already")
            self._calls += 1
            self._bytes += size
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                self._bytes -= size


def _unary(
    admission: _Admission,
    max_response: int,
    observed: ObservedServices | None,
    service: str,
    name: str,
    method: Method,
    request_class: Any,
) -> grpc.RpcMethodHandler[bytes, bytes]:
    def call(content: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            with admission.admitted(len(content)):
                return serialize(method(_parse(request_class, content), _deadline(context)), max_response)
        except KNOWN as exc:
            code, message = code_of(exc), public_message(exc)
            if is_ours(exc):
                logger.warning("%s: %s", name, exc)
        # The edge: whatever else comes this far is a bug, is logged here and shown to nobody.
        except Exception:
            logger.exception("%s failed", name)
            code, message = Code.INTERNAL, "internal error"
        context.abort(_STATUS_CODES[code], _cut(message))

    # Parsed and written in the call and not by gRPC, which logs a traceback for what is no message or is too large.
    return grpc.unary_unary_rpc_method_handler(call if observed is None else observed.around(service, name, call))


def _deadline(context: grpc.ServicerContext) -> float | None:
    """Return when the client's deadline is, in seconds of the monotonic clock.

    It has not passed: gRPC does not begin a call that is over before there is a thread for it.
    """
    left: float = context.time_remaining()
    return time.monotonic() + left if left < _NO_DEADLINE else None


def _parse(request_class: Any, content: bytes) -> Any:
    try:
        return request_class.FromString(content)
    except DecodeError as exc:
        raise InvalidRequest(f"the message is no {request_class.DESCRIPTOR.name}: {exc}") from exc


def _cut(message: str) -> str:
    # In bytes: details travel in a header, and a proxy has a limit for those.
    encoded = message.encode(errors="replace")
    if len(encoded) <= _MAX_DETAILS:
        return encoded.decode()
    return encoded[:_MAX_DETAILS].decode(errors="ignore") + "...TRUNCATED"
