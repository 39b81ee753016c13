"""gRPC's messages <-> inference requests, their answers, and what is told of the server and its models.

Names, numbers and meanings: KServe's grpc_predict_v2.proto and Triton's grpc_service.proto. The values of an input are
in the field of its ``contents`` that is for its datatype, or those of all inputs are in ``raw_input_contents``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.codecs.dtypes import is_string, name_of
from runtime.codecs.open_inference import documents, infer_wire, raw
from runtime.codecs.open_inference.datatypes import datatype_of, dtype_of, known
from runtime.codecs.open_inference.infer_wire import Received
from runtime.codecs.open_inference.inference import (
    NO_PARAMETERS,
    InferRequest,
    InferResponse,
    Input,
    Parameter,
    Parameters,
    Wanted,
)
from runtime.codecs.open_inference.reports import Duration, IndexRow, ModelStatistics
from runtime.codecs.schema import open_inference as schema
from runtime.errors import NAME, InvalidRequest, quoted, shown
from runtime.signature import Dtype, Signature, TensorSpec

# numpy's name -> the field of `contents`, and what is in it. The 16-bit floats have none.
_INT32, _UINT32 = np.dtype(np.int32), np.dtype(np.uint32)
_FIELDS: Mapping[str, tuple[str, Dtype]] = {
    "bool": ("bool_contents", np.dtype(np.bool_)),
    "int8": ("int_contents", _INT32),
    "int16": ("int_contents", _INT32),
    "int32": ("int_contents", _INT32),
    "int64": ("int64_contents", np.dtype(np.int64)),
    "uint8": ("uint_contents", _UINT32),
    "uint16": ("uint_contents", _UINT32),
    "uint32": ("uint_contents", _UINT32),
    "uint64": ("uint64_contents", np.dtype(np.uint64)),
    "float32": ("fp32_contents", np.dtype(np.float32)),
    "float64": ("fp64_contents", np.dtype(np.float64)),
    "object": ("bytes_contents", np.dtype(object)),
}
_LARGEST_INT64 = (1 << 63) - 1
MAX_PARAMETERS = 1000
"""Of a request, or of one of its tensors; each becomes twenty times its size."""
_FINAL: Parameters = {"triton_final_response": True}
"""Triton's, of every answer in a stream: clients of models that may answer more than once wait for it."""


def decode(received: Received) -> InferRequest:
    """Return the request of a message, all but the values of its inputs.

    Raises:
        InvalidRequest: names, datatypes, shapes and the bytes there are do not go together.
    """
    message, contents = received
    if contents:
        for one in message.inputs:
            # OpenVINO Model Server's text is part of ours.
            if one.HasField("contents") and one.contents.ByteSize():
                raise InvalidRequest(
                    "Passing buffers both in InferInputTensor contents and in raw_input_contents is not allowed. "
                    f"Detected buffer in InferInputTensor contents for input: {quoted(one.name, NAME)}"
                )
        if len(contents) != len(message.inputs):
            # Of an input that is elsewhere there is none.
            for one in message.inputs:
                _parameters(one, f"input '{quoted(one.name, NAME)}'")
            raise InvalidRequest(
                f"raw_input_contents has {len(contents)} buffers; want {len(message.inputs)}, one for each input"
            )
    names: set[str] = set()
    inputs = [
        _input(one, _name(one, "input", i, names), contents[i] if contents else None)
        for i, one in enumerate(message.inputs)
    ]
    names = set()
    outputs = [_wanted(one, _name(one, "output", i, names)) for i, one in enumerate(message.outputs)]
    return InferRequest(inputs, outputs, message.id, parameters(message, "the request"), is_binary=True)


def encode(response: InferResponse, max_size: int = infer_wire.MAX_MESSAGE) -> bytes:
    """Return the answer to ModelInfer on the wire: outputs are raw contents, whatever the inputs were.

    Raises:
        PayloadTooLarge: it would have more than so many bytes.
    """
    return _written(response, max_size, is_in_stream=False)


def encode_in_stream(response: InferResponse, max_size: int = infer_wire.MAX_MESSAGE) -> bytes:
    """Return the answer to a message of ModelStreamInfer on the wire; as `encode`."""
    final = response._replace(parameters={**response.parameters, **_FINAL})
    return _written(final, max_size, is_in_stream=True)


def encode_error(message: Any, error: str) -> bytes:
    """Return what is answered to a message of ModelStreamInfer that has failed, and which one that was.

    Args:
        message: the ModelInferRequest; an empty one if it could not be read.
        error: what the client is told.
    """
    answer = schema.ModelStreamInferResponse(error_message=error)
    head = answer.infer_response
    head.id, head.model_name, head.model_version = message.id, message.model_name, message.model_version
    _write_parameters(head.parameters, _FINAL)
    content: bytes = answer.SerializeToString()
    return content


def parameters(of: Any, where: str) -> Mapping[str, Any]:
    """Return the values of a message's parameters; only a request to load a model has some that are bytes.

    Raises:
        InvalidRequest: there are too many, or one has no value that this protocol knows.
    """
    # Most have none.
    if not of.parameters:
        return NO_PARAMETERS
    if len(of.parameters) > MAX_PARAMETERS:
        raise InvalidRequest(f"{where} has {len(of.parameters)} parameters; want {MAX_PARAMETERS} at most")
    return {name: _parameter(name, one, where) for name, one in of.parameters.items()}


def server_metadata(is_controlled: bool = True) -> Any:
    return schema.ServerMetadataResponse(
        name=documents.SERVER, version=documents.server_version(), extensions=documents.extensions(is_controlled)
    )


def model_metadata(name: str, versions: Iterable[str], signature: Signature) -> Any:
    message = schema.ModelMetadataResponse(name=name, versions=versions, platform=documents.PLATFORM)
    for tensors, specs in ((message.inputs, signature.inputs), (message.outputs, signature.outputs)):
        for tensor, spec in specs.items():
            _write_tensor(tensors.add(), tensor, spec)
    return message


def model_config(name: str, signature: Signature) -> Any:
    return schema.ModelConfigResponse(config=documents.model_config(name, signature))


def index(rows: Iterable[IndexRow]) -> Any:
    message = schema.RepositoryIndexResponse()
    for row in rows:
        message.models.add(name=row.name, version=row.version, state=row.state, reason=row.reason)
    return message


def statistics(rows: Iterable[ModelStatistics]) -> Any:
    message = schema.ModelStatisticsResponse()
    for row in rows:
        one = message.model_stats.add()
        for field, value in row._asdict().items():
            if isinstance(value, Duration):
                duration = getattr(one.inference_stats, field)
                duration.count, duration.ns = value
            else:
                setattr(one, field, value)
    return message


def _name(one: Any, what: str, i: int, names: set[str]) -> str:
    """Return the name of an input or an output that is none of those so far, which it is put to."""
    name: str = one.name
    if not name:
        raise InvalidRequest(f"the name of {what} {i} is empty; want one")
    if name in names:
        raise InvalidRequest(f"{what} '{quoted(name, NAME)}' is there twice, again as {what} {i}; want it once")
    names.add(name)
    return name


def _input(one: Any, name: str, content: memoryview | bytes | None) -> Input:
    dtype = dtype_of(one.datatype)
    if dtype is None:
        raise raw.error(name, f"has the datatype '{quoted(one.datatype, NAME)}'; want one of {known()}")
    shape = raw.check_shape(name, one.shape)
    given = _parameters(one, f"input '{quoted(name, NAME)}'")
    if content is None:
        return Input(name, dtype, shape, _check_contents(one, name, dtype, shape), given)
    raw.check(name, dtype, shape, len(content))
    packed = content if is_string(dtype) else b""
    return Input(name, dtype, shape, partial(raw.decode, name, dtype, shape, content), given, packed)


def _check_contents(one: Any, name: str, dtype: Dtype, shape: tuple[int, ...]) -> partial[NDArray[Any]]:
    """Return what reads the values of an input that are one by one, as many as its shape has."""
    count = prod(shape)
    if name_of(dtype) not in _FIELDS:
        if count:
            raise raw.error(name, f"is of {one.datatype}, which contents has no field for; want raw_input_contents")
        return partial(_empty, dtype, shape)
    field, stored = _FIELDS[name_of(dtype)]
    values: Sequence[Any] = getattr(one.contents, field)
    if len(values) != count:
        raise raw.error(
            name,
            f"has {len(values)} values in {field}; want {count} for {shown(shape)} of {one.datatype}: Invalid value "
            f"count - Expected: {count} values; Actual: {len(values)} values; input name: {quoted(name, NAME)}",
        )
    if is_string(dtype):
        raw.check_strings(name, count)
    return partial(_contents, name, dtype, shape, values, stored)


def _empty(dtype: Dtype, shape: tuple[int, ...], deadline: float | None) -> NDArray[Any]:
    return np.empty(shape, dtype)


def _contents(
    name: str, dtype: Dtype, shape: tuple[int, ...], values: Sequence[Any], stored: Dtype, deadline: float | None
) -> NDArray[Any]:
    array = np.array(values, stored)
    if stored is not dtype and stored != dtype:
        least, most = np.iinfo(dtype.name).min, np.iinfo(dtype.name).max
        for value in (array.min(initial=0), array.max(initial=0)):
            if not least <= value <= most:
                raise raw.error(name, f"has the value {value}; want {datatype_of(dtype)}, from {least} to {most}")
        array = array.astype(dtype)
    return array.reshape(shape)


def _wanted(one: Any, name: str) -> Wanted:
    where = f"output '{quoted(name, NAME)}'"
    given = _parameters(one, where)
    classes = given.get("classification", 0)
    if not isinstance(classes, int) or isinstance(classes, bool) or ("classification" in given and classes < 1):
        raise InvalidRequest(
            f"{where} has the parameter 'classification' {shown(classes)}; want an int64_param above 0"
        )
    return Wanted(name, classes=classes, parameters=given)


def _parameters(of: Any, where: str) -> Parameters:
    """Return those of a tensor."""
    given = parameters(of, where)
    if "shared_memory_region" in given:
        raise InvalidRequest(f"{where} is in shared memory, which is not supported; want it in the message")
    return given


def _parameter(name: str, one: Any, where: str) -> Any:
    choice = one.WhichOneof("parameter_choice")
    if choice is None:
        raise InvalidRequest(f"{where} has a parameter '{quoted(name, NAME)}' without a value, or of no known type")
    return getattr(one, choice)


def _written(response: InferResponse, max_size: int, *, is_in_stream: bool) -> bytes:
    head = schema.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    _write_parameters(head.parameters, response.parameters)
    contents = []
    for output in response.outputs:
        array = output.array
        tensor = head.outputs.add(name=output.name, datatype=datatype_of(array.dtype), shape=array.shape)
        _write_parameters(tensor.parameters, output.parameters)
        contents.append(raw.encode(array))
    return infer_wire.write(head, contents, is_in_stream, max_size)


def _write_parameters(written: Any, given: Mapping[str, Parameter]) -> None:
    for name, value in given.items():
        one = written[name]
        if isinstance(value, bool):
            one.bool_param = value
        elif isinstance(value, int):
            field = "int64_param" if value <= _LARGEST_INT64 else "uint64_param"
            setattr(one, field, value)
        elif isinstance(value, float):
            one.double_param = value
        else:
            one.string_param = value


def _write_tensor(written: Any, name: str, spec: TensorSpec) -> None:
    written.name = name
    written.datatype = datatype_of(spec.dtype)
    written.shape.extend(documents.shape_of(spec))
