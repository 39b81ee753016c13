"""The Open Inference Protocol's JSON as gRPC's messages, and back, for who asks a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from handlers.remote import one_line
from runtime.codecs.open_inference import infer_answer, infer_json, messages, raw
from runtime.codecs.open_inference.datatypes import datatype_of
from runtime.codecs.open_inference.infer_wire import Received
from runtime.codecs.open_inference.inference import InferResponse, Output, Parameters
from runtime.codecs.schema import open_inference as schema
from runtime.errors import InferenceError, InvalidRequest

METHOD = "inference.GRPCInferenceService/ModelInfer"
_MAX_INT64 = (1 << 63) - 1
_OF_REST = ("binary_data", "binary_data_output", "binary_data_size")
"""Parameters that say where tensors are in a body, which over gRPC there is no choice of."""


def infer(call: Callable[[str, Any, Any], Any], name: str, version: int | None, body: bytes) -> bytes:
    """Return the answer to a request, as REST has both.

    Args:
        call: from a method, its request and the type of its answer to that.

    Raises:
        InferenceError: the request is none, or the answer is none; or as ``call``.
    """
    answer = call(METHOD, _request(name, version, body), schema.ModelInferResponse)
    try:
        response = _response(answer)
    # Written for requests, and it is the server's fault here.
    except InvalidRequest as exc:
        raise InferenceError(f"the server's answer cannot be read: {one_line(str(exc))}") from exc
    return infer_answer.encode(response).content


def _request(name: str, version: int | None, body: bytes) -> Any:
    given = infer_json.parse(body, None)
    message = schema.ModelInferRequest(model_name=name, id=given.id)
    message.model_version = "" if version is None else str(version)
    _write_parameters(message.parameters, given.parameters)
    for one in given.inputs:
        tensor = message.inputs.add(name=one.name, datatype=datatype_of(one.dtype), shape=one.shape)
        _write_parameters(tensor.parameters, one.parameters)
        message.raw_input_contents.append(bytes(raw.encode(one.read(None))))
    for wanted in given.outputs:
        output = message.outputs.add(name=wanted.name)
        _write_parameters(output.parameters, wanted.parameters)
    return message


def _write_parameters(written: Any, parameters: Parameters) -> None:
    for name, value in parameters.items():
        if name in _OF_REST:
            continue
        # To Python a bool is an int.
        if isinstance(value, bool):
            written[name].bool_param = value
        elif isinstance(value, int):
            field = "int64_param" if value <= _MAX_INT64 else "uint64_param"
            setattr(written[name], field, value)
        elif isinstance(value, float):
            written[name].double_param = value
        else:
            written[name].string_param = value


def _response(answer: Any) -> InferResponse:
    """Return an answer, whose outputs are written as a request's inputs are.

    Raises:
        InvalidRequest: names, datatypes, shapes and bytes do not go together.
    """
    same = schema.ModelInferRequest(id=answer.id)
    for name, value in answer.parameters.items():
        same.parameters[name].CopyFrom(value)
    for output in answer.outputs:
        same.inputs.add().MergeFromString(output.SerializeToString())
    read = messages.decode(Received(same, answer.raw_output_contents))
    outputs = [Output(one.name, one.read(None), parameters=one.parameters) for one in read.inputs]
    return InferResponse(answer.model_name, answer.model_version, outputs, read.id, read.parameters)
