"""The Open Inference Protocol's messages by another way than the product's: compiled here from a schema of the tests'
own. What the two exchange has to be the same bytes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray

from tests.runtime.codecs.specs import BFLOAT16
from tests.runtime.oracle import compile_schema

_POOL = compile_schema(Path(__file__).with_name("oracle.proto"))

# numpy's name -> the protocol's, and the field of contents that holds the values, if there is one.
DATATYPES = {
    "bool": ("BOOL", "bool_contents"),
    "int8": ("INT8", "int_contents"),
    "int16": ("INT16", "int_contents"),
    "int32": ("INT32", "int_contents"),
    "int64": ("INT64", "int64_contents"),
    "uint8": ("UINT8", "uint_contents"),
    "uint16": ("UINT16", "uint_contents"),
    "uint32": ("UINT32", "uint_contents"),
    "uint64": ("UINT64", "uint64_contents"),
    "float16": ("FP16", ""),
    "bfloat16": ("BF16", ""),
    "float32": ("FP32", "fp32_contents"),
    "float64": ("FP64", "fp64_contents"),
    "object": ("BYTES", "bytes_contents"),
}


def message(name: str) -> Any:
    return GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
ModelStreamInferResponse = message("ModelStreamInferResponse")


def request(
    name: str = "", *, version: str = "", id: str = "", is_raw: bool = True, outputs: Any = (), **inputs: NDArray[Any]
) -> Any:
    """A request to infer; of values one by one if it is not raw."""
    made = ModelInferRequest(model_name=name, model_version=version, id=id)
    for key, array in inputs.items():
        datatype, field = DATATYPES[array.dtype.name]
        tensor = made.inputs.add(name=key, datatype=datatype, shape=array.shape)
        if is_raw:
            made.raw_input_contents.append(raw(array))
        else:
            getattr(tensor.contents, field).extend(array.ravel().tolist())
    for output in outputs:
        made.outputs.add(name=output)
    return made


def raw(array: NDArray[Any]) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    return b"".join(struct.pack("<I", len(string)) + string for string in array.ravel().tolist())


def arrays(response: Any) -> dict[str, NDArray[Any]]:
    """The outputs of an answer, in its order."""
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {tensor.name: _array(tensor, content) for tensor, content in pairs}


def _array(tensor: Any, content: bytes) -> NDArray[Any]:
    (name,) = [name for name, (datatype, _) in DATATYPES.items() if datatype == tensor.datatype]
    if name != "object":
        return np.frombuffer(content, BFLOAT16 if name == "bfloat16" else name).reshape(tensor.shape)
    strings = []
    while content:
        (size,) = struct.unpack_from("<I", content)
        strings.append(content[4 : 4 + size])
        content = content[4 + size :]
    array = np.empty(len(strings), object)
    array[:] = strings
    return array.reshape(tensor.shape)
