"""What a compiled OpenVINO model takes and gives, as a signature."""

from __future__ import annotations

from typing import Any

import numpy as np

from model_cache.errors import LoadFailed
from runtime.codecs.dtypes import bfloat16
from runtime.signature import DYNAMIC, Dtype, Signature, TensorSpec

# OpenVINO's name of an element type -> numpy's, where they differ and where they do not.
_DTYPES = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "boolean": "bool",
    "string": "object",
}


def signature_of(compiled: Any) -> Signature:
    """Return the signature of OpenVINO's CompiledModel.

    Raises:
        LoadFailed: two of its ports have one name, or one is of a type that has no dtype.
    """
    return Signature(_specs("input", compiled.inputs), _specs("output", compiled.outputs))


def _specs(kind: str, ports: list[Any]) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    for port in ports:
        spec = _spec(kind, port)
        if spec.name in specs:
            raise LoadFailed(f"two {kind}s are named {spec.name!r}")
        specs[spec.name] = spec
    return specs


def _spec(kind: str, port: Any) -> TensorSpec:
    # Any of its names is right; the least one is the same at every start.
    name = min(port.names) if port.names else port.get_node().get_friendly_name()
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return TensorSpec(name, _dtype(kind, name, port), None)
    dims = tuple(dim.get_length() if dim.is_static else DYNAMIC for dim in shape)
    return TensorSpec(name, _dtype(kind, name, port), dims)


def _dtype(kind: str, name: str, port: Any) -> Dtype:
    element_type = port.get_element_type().get_type_name()
    if element_type == "bf16":
        return bfloat16()
    if element_type not in _DTYPES:
        raise LoadFailed(f"{kind} {name!r} is of type {element_type}; want one of {', '.join(_DTYPES)}, bf16")
    return np.dtype(_DTYPES[element_type])
