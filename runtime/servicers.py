"""TensorFlow Serving's gRPC services, PredictionService and ModelService.

Each method is a function from message to message; `service_handlers` puts them on the wire.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from runtime.codecs import schema, tensor_proto
from runtime.codecs.dtypes import tf_number
from runtime.codecs.model_json import SIGNATURE_DEF_MAP
from runtime.errors import InvalidRequest, Overloaded, SignatureNotFound
from runtime.inputs import check_inputs
from runtime.servable import Servable
from runtime.server import ModelServer
from runtime.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from runtime.status import KNOWN, Code, code_of, is_ours, public_message

logger = logging.getLogger(__name__)

SERVICES = (f"{schema.PACKAGE}.PredictionService", f"{schema.PACKAGE}.ModelService")
_MAX_DETAILS = 1024
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

Method = Callable[[ModelServer, Any], Any]


Reload = Callable[[Any], None]
"""Serve what a ModelServerConfig says, from when this returns; raises what the client is to be told if it cannot."""


def service_handlers(
    server: ModelServer, max_in_flight: int = 256, *, reload: Reload | None = None, tensor_content_from: int = 0
) -> list[grpc.GenericRpcHandler]:
    """Return what a gRPC server needs to serve both.

    Args:
        server: what it serves.
        max_in_flight: calls at a time; further ones are refused.
        reload: what HandleReloadConfigRequest does, which is UNIMPLEMENTED without.
        tensor_content_from: bytes from which on a tensor is answered in ``tensor_content``; 0 for none.
    """
    prediction, model = SERVICES
    slots = threading.BoundedSemaphore(max_in_flight)
    return [
        grpc.method_handlers_generic_handler(
            prediction,
            {
                "Predict": _unary(server, slots, predict, schema.PredictRequest),
                "GetModelMetadata": _unary(server, slots, get_model_metadata, schema.GetModelMetadataRequest),
            },
        ),
        grpc.method_handlers_generic_handler(
            model, {"GetModelStatus": _unary(server, slots, get_model_status, schema.GetModelStatusRequest)}
        ),
    ]


def predict(server: ModelServer, request: Any) -> Any:
    name, version = _model(request)
    signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    with server.lease(name, version) as lease:
        signature = _signature(lease.servable, signature_name)
        # Before any of them is decoded: a few bytes may stand for a large tensor.
        check_inputs(
            signature.inputs, {key: tensor_proto.decode_head(key, proto) for key, proto in request.inputs.items()}
        )
        inputs = {key: tensor_proto.decode(key, proto) for key, proto in request.inputs.items()}
        outputs = lease.servable.predict(signature_name, inputs)
    response = schema.PredictResponse()
    for key in _filter(request.output_filter, outputs.keys()):
        tensor_proto.encode(outputs[key], response.outputs[key])
    response.model_spec.name = name
    response.model_spec.version.value = lease.id.version
    response.model_spec.signature_name = signature_name
    return response


def get_model_metadata(server: ModelServer, request: Any) -> Any:
    name, version = _model(request)
    if not request.metadata_field:
        raise InvalidRequest("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise InvalidRequest(f"Metadata field {field[:100]} is not supported")
    with server.lease(name, version) as lease:
        signatures = lease.servable.signatures
    packed = schema.SignatureDefMap()
    for key, signature in signatures.items():
        _write_signature(packed.signature_def[key], signature)
    response = schema.GetModelMetadataResponse()
    response.model_spec.name = name
    response.model_spec.version.value = lease.id.version
    response.metadata["signature_def"].type_url = SIGNATURE_DEF_MAP
    response.metadata["signature_def"].value = packed.SerializeToString()
    return response


def get_model_status(server: ModelServer, request: Any) -> Any:
    response = schema.GetModelStatusResponse()
    # A label is ignored here, as TensorFlow Serving does.
    for status in server.status(*_model(request, reads_label=False)):
        written = response.model_version_status.add(version=status.version, state=status.state)
        written.status.error_code = status.code
        written.status.error_message = status.message
    return response


def _model(request: Any, *, reads_label: bool = True) -> tuple[str, int | None]:
    if not request.HasField("model_spec"):
        raise InvalidRequest("Missing ModelSpec")
    spec = request.model_spec
    if not spec.name:
        raise InvalidRequest("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    if choice == "version_label" and reads_label:
        raise InvalidRequest(f"Unrecognized servable version label: {spec.version_label[:100]}")
    return spec.name, spec.version.value if choice == "version" else None


def _signature(servable: Servable, name: str) -> Signature:
    if name not in servable.signatures:
        raise SignatureNotFound(f'Serving signature key "{name[:100]}" not found.')
    return servable.signatures[name]


def _filter(wanted: Collection[str], outputs: Collection[str]) -> Collection[str]:
    for i, name in enumerate(wanted):
        if name not in outputs:
            raise InvalidRequest(
                f"output tensor alias not found in signature: {name[:100]} Outputs expected to be in the set "
                f"{{{','.join(sorted(outputs))}}}."
            )
        if name in list(wanted)[:i]:
            raise InvalidRequest(f"duplicate output tensor alias: {name[:100]}")
    return wanted or outputs


def _write_signature(proto: Any, signature: Signature) -> None:
    for infos, specs in ((proto.inputs, signature.inputs), (proto.outputs, signature.outputs)):
        for name, spec in specs.items():
            _write_tensor_info(infos[name], spec)
    proto.method_name = signature.method_name


def _write_tensor_info(proto: Any, spec: TensorSpec) -> None:
    proto.name = spec.name
    proto.dtype = tf_number(spec.dtype)
    proto.tensor_shape.SetInParent()
    proto.tensor_shape.unknown_rank = spec.shape is None
    for size in spec.shape or ():
        proto.tensor_shape.dim.add(size=size)


def _unary(
    server: ModelServer, slots: threading.BoundedSemaphore, method: Method, request_class: Any
) -> grpc.RpcMethodHandler[bytes, Any]:
    def call(content: bytes, context: grpc.ServicerContext) -> Any:
        try:
            with _slot(slots):
                return method(server, _parse(request_class, content))
        except KNOWN as exc:
            code, message = code_of(exc), public_message(exc)
            if is_ours(exc):
                logger.warning("%s: %s", method.__name__, exc)
        # The edge: whatever else comes this far is a bug, is logged here and shown to nobody.
        except Exception:
            logger.exception("%s failed", method.__name__)
            code, message = Code.INTERNAL, "internal error"
        return context.abort(_STATUS_CODES[code], _cut(message))

    # Parsed in the call and not by gRPC, which logs a traceback for whatever a client sends that is no message.
    return grpc.unary_unary_rpc_method_handler(call, response_serializer=_serialize)


@contextmanager
def _slot(slots: threading.BoundedSemaphore) -> Iterator[None]:
    if not slots.acquire(blocking=False):
        raise Overloaded("as many calls are in flight as may be; see --max_in_flight")
    try:
        yield
    finally:
        slots.release()


def _parse(request_class: Any, content: bytes) -> Any:
    try:
        return request_class.FromString(content)
    except DecodeError as exc:
        raise InvalidRequest(f"the message is no {request_class.DESCRIPTOR.name}: {exc}") from exc


def _serialize(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized


def _cut(message: str) -> str:
    # In bytes: details travel in a header, and a proxy has a limit for those.
    encoded = message.encode(errors="replace")
    if len(encoded) <= _MAX_DETAILS:
        return encoded.decode()
    return encoded[:_MAX_DETAILS].decode(errors="ignore") + "...TRUNCATED"
