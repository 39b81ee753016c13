"""A prediction asked of a server over gRPC: JSON as a REST client would send it, made a message, and the answer back.

TensorFlow Serving's JSON does not say of which dtypes its numbers are, so the server is asked for that first.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from handlers.remote import MAX_ANSWER, MAX_TOLD, TIMEOUT, Remote, one_line
from handlers.settings import SettingsError
from model_cache.errors import StorageUnavailable
from runtime.codecs import json_answer, json_tensor, schema, tensor_proto
from runtime.codecs.dtypes import from_tf_number
from runtime.errors import NAME, InferenceError, SignatureNotFound, quoted
from runtime.rpc import serialize
from runtime.signature import DYNAMIC, MAX_RANK, TensorSpec
from runtime.stateful_servable import CONTROL, ID

_MAX_VERSION = (1 << 63) - 1
_MOMENT = 5.0
"""Seconds."""
_OPTIONS = [("grpc.max_receive_message_length", MAX_ANSWER), ("grpc.max_send_message_length", -1)]
_SPECIAL = {spec.name: spec for spec in (ID, CONTROL)}


def ask_over_grpc(remote: Remote, version: int | None, body: bytes) -> bytes:
    """As `remote.ask`."""
    if version is not None and not 0 <= version <= _MAX_VERSION:
        raise SettingsError(f"version is {version}; want a number from 0 to {_MAX_VERSION}")
    with _channel(remote) as channel:
        server = _Server(remote, channel)
        if remote.protocol == "tfs":
            return _predict(server, remote.name, version, body)
        from handlers.remote_v2 import infer

        return infer(server.call, remote.name, version, body)


class _Server:
    """A server, for as long as there is time to ask it."""

    def __init__(self, remote: Remote, channel: grpc.Channel) -> None:
        self._url = remote.url
        self._channel = channel
        self._deadline = time.monotonic() + TIMEOUT

    def call(self, method: str, request: Any, answer_type: Any) -> Any:
        """Return the answer of a method, whose name is that on the wire.

        Raises:
            StorageUnavailable: the server cannot be reached.
            InferenceError: it answers an error, or what is no answer; or the request is larger than gRPC's are.
        """
        ask: Any = self._channel.unary_unary(f"/{method}")
        try:
            content = ask(serialize(request), timeout=max(0.0, self._deadline - time.monotonic()))
        # What it raises is the call that has failed.
        except grpc.RpcError as exc:
            raise self._failed(exc) from exc
        try:
            return answer_type.FromString(content)
        except DecodeError as exc:
            raise InferenceError(f"{self._url} answered what is no {answer_type.DESCRIPTOR.name}") from exc

    def _failed(self, call: Any) -> Exception:
        told = quoted(one_line(call.details() or ""), MAX_TOLD)
        # It is also what a server answers that has too much to do.
        if call.code() is grpc.StatusCode.UNAVAILABLE and not self._is_connected():
            return StorageUnavailable(f"cannot reach {self._url}: {told}")
        return InferenceError(f"{self._url} answered {call.code().name}: {told}")

    def _is_connected(self) -> bool:
        states: SimpleQueue[grpc.ChannelConnectivity] = SimpleQueue()
        listener = states.put
        # It is told at once which one it is.
        self._channel.subscribe(listener)
        try:
            return states.get(timeout=_MOMENT) is grpc.ChannelConnectivity.READY
        except Empty:
            return False
        finally:
            self._channel.unsubscribe(listener)


def _channel(remote: Remote) -> grpc.Channel:
    # With a scheme of gRPC's, so that no host can be taken for one.
    target = f"dns:///{remote.address}"
    if not remote.is_tls:
        return grpc.insecure_channel(target, _OPTIONS)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(_authorities()), _OPTIONS)


def _authorities() -> bytes | None:
    """Return the certificates that this system trusts, in PEM; None for those that gRPC brings, if it has none."""
    found = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, found)).encode() or None


def _predict(server: _Server, name: str, version: int | None, body: bytes) -> bytes:
    parsed = json_tensor.parse_predict(body)
    specs = _inputs(server, name, version, parsed.signature_name)
    special = {name: spec for name, spec in _SPECIAL.items() if name not in specs}
    request = schema.PredictRequest()
    _write_model(request.model_spec, name, version)
    request.model_spec.signature_name = parsed.signature_name
    for tensor, array in parsed.inputs(specs, None, special).items():
        tensor_proto.encode(array, request.inputs[tensor], tensor_content_from=1)
    answer = server.call("tensorflow.serving.PredictionService/Predict", request, schema.PredictResponse)
    # A map on the wire has no order, and JSON is to have one.
    outputs = {tensor: tensor_proto.decode(tensor, answer.outputs[tensor]) for tensor in sorted(answer.outputs)}
    return json_answer.encode(outputs, parsed.is_row)


def _inputs(server: _Server, name: str, version: int | None, signature_name: str) -> Mapping[str, TensorSpec]:
    request = schema.GetModelMetadataRequest()
    _write_model(request.model_spec, name, version)
    request.metadata_field.append("signature_def")
    method = "tensorflow.serving.PredictionService/GetModelMetadata"
    answer = server.call(method, request, schema.GetModelMetadataResponse)
    try:
        signatures = schema.SignatureDefMap.FromString(answer.metadata["signature_def"].value).signature_def
    except DecodeError as exc:
        raise InferenceError(f"the server's metadata of {quoted(name, NAME)} cannot be read") from exc
    if signature_name not in signatures:
        raise SignatureNotFound(f'Serving signature name: "{quoted(signature_name, NAME)}" not found in signature def')
    return {tensor: _spec(tensor, info) for tensor, info in signatures[signature_name].inputs.items()}


def _spec(name: str, info: Any) -> TensorSpec:
    dtype = from_tf_number(info.dtype)
    if dtype is None:
        raise InferenceError(
            f"input '{quoted(one_line(name), NAME)}' of the model is of DataType {info.dtype}, which JSON has not"
        )
    rank = len(info.tensor_shape.dim)
    # How many dimensions there are tells images from numbers. What sizes they may have is for the server to say: it
    # tells those of the model's file, and may take others.
    shape = None if info.tensor_shape.unknown_rank or rank > MAX_RANK else (DYNAMIC,) * rank
    return TensorSpec(name, dtype, shape)


def _write_model(spec: Any, name: str, version: int | None) -> None:
    spec.name = name
    if version is not None:
        spec.version.value = version
