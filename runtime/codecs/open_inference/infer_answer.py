"""The answers of infer over REST: JSON, and binary tensors behind it.

https://github.com/kserve/open-inference-protocol, "Inference Response JSON Object", and Triton's
extension_binary_data.md. ``data`` is flat, row by row. What is not finite is a bare token, as in `json_answer`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.answers import JSON_SIZE_KEY, Reply
from runtime.codecs import json_answer
from runtime.codecs.dtypes import is_string
from runtime.codecs.open_inference import raw
from runtime.codecs.open_inference.datatypes import datatype_of
from runtime.codecs.open_inference.inference import InferResponse, Output, Parameters
from runtime.errors import NAME, InvalidRequest, quoted

BINARY = "application/octet-stream"


def encode(response: InferResponse) -> Reply:
    """Write the answer; of binary outputs it has the bytes where they are.

    Raises:
        InvalidRequest: a string is to be written as JSON's, which it cannot be.
    """
    # In the order of the text: those whose floats it has.
    arrays: list[NDArray[Any]] = []
    tail: list[memoryview] = []
    value: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        value["id"] = response.id
    if response.parameters:
        value["parameters"] = _parameters(response.parameters, arrays)
    value["outputs"] = [_output(output, arrays, tail) for output in response.outputs]
    content = json_answer.write(value, arrays)
    if not any(output.is_binary for output in response.outputs):
        return Reply(content)
    return Reply(content, BINARY, headers={JSON_SIZE_KEY: str(len(content))}, tail=tail)


def _output(output: Output, arrays: list[NDArray[Any]], tail: list[memoryview]) -> dict[str, Any]:
    array = output.array
    value: dict[str, Any] = {"name": output.name, "shape": array.shape, "datatype": datatype_of(array.dtype)}
    parameters = _parameters(output.parameters, arrays) if output.parameters else {}
    if output.is_binary:
        data = raw.encode(array)
        # What is empty need not be written.
        if data.nbytes:
            tail.append(data)
        parameters["binary_data_size"] = data.nbytes
    if parameters:
        value["parameters"] = parameters
    if not output.is_binary:
        value["data"] = _data(output.name, array, arrays)
    return value


def _parameters(parameters: Parameters, arrays: list[NDArray[Any]]) -> dict[str, Any]:
    arrays.extend(np.array([value]) for value in parameters.values() if isinstance(value, float))
    return dict(parameters)


def _data(name: str, array: NDArray[Any], arrays: list[NDArray[Any]]) -> Any:
    if is_string(array.dtype):
        return _strings(name, array)
    flat = json_answer.plain(array).reshape(-1)
    arrays.append(flat)
    return flat


def _strings(name: str, array: NDArray[Any]) -> list[str]:
    try:
        return [string.decode() for string in array.ravel().tolist()]
    except UnicodeDecodeError as exc:
        raise InvalidRequest(
            f"output '{quoted(name, NAME)}' has a string that is no UTF-8, which JSON does not carry; "
            "ask for the output with the parameter binary_data"
        ) from exc
