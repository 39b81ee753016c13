"""What a compiled OpenVINO model takes and gives, as a signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from model_cache.errors import LoadFailed
from runtime.codecs.dtypes import bfloat16
from runtime.openvino_core import openvino
from runtime.signature import ANY_SIZE, DYNAMIC, Dtype, Signature, TensorSpec

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


class Names(NamedTuple):
    """What clients call a model's tensors, by what they are called in the model."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


NO_NAMES = Names({}, {})
"""Where there is no such file."""


def signature_of(compiled: Any, names: Names = NO_NAMES) -> Signature:
    """Return the signature of OpenVINO's CompiledModel, or Model, by the names that clients use.

    Raises:
        LoadFailed: two of its ports have one name, or one is of a type that has no dtype.
    """
    inputs = _specs("input", compiled.inputs, names.inputs)
    outputs = _specs("output", compiled.outputs, names.outputs)
    # What comes out is not checked.
    return Signature(inputs, {name: spec._replace(bounds=None) for name, spec in outputs.items()})


def public_name(port: Any, names: Mapping[str, str]) -> str:
    """Return what clients call one of a model's ports."""
    # Any of its names is right; the least one is the same at every start.
    own: list[str] = sorted(port.names) or [port.get_node().get_friendly_name()]
    return next((names[name] for name in own if name in names), own[0])


def layout_of(port: Any) -> str:
    """Return a port's layout as it is written in a configuration, such as NHWC; empty if it has none."""
    text = openvino().layout_helpers.get_layout(port).to_string().strip("[]")
    parts = text.split(",") if text else []
    # Dimensions may have whole words for names.
    if parts == ["..."] or any(len(part) != 1 and part != "..." for part in parts):
        return ""
    return "".join(parts)


def _specs(kind: str, ports: list[Any], names: Mapping[str, str]) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    for port in ports:
        spec = _spec(kind, port, names)
        if spec.name in specs:
            raise LoadFailed(f"two {kind}s are named {spec.name!r}")
        specs[spec.name] = spec
    return specs


def _spec(kind: str, port: Any, names: Mapping[str, str]) -> TensorSpec:
    name = public_name(port, names)
    shape = port.get_partial_shape()
    layout = layout_of(port)
    if shape.rank.is_dynamic:
        return TensorSpec(name, _dtype(kind, name, port), None, layout)
    dims = tuple(dim.get_length() if dim.is_static else DYNAMIC for dim in shape)
    bounds = tuple((dim.get_min_length(), dim.get_max_length()) for dim in shape)
    is_bounded = any(size == DYNAMIC and bound != ANY_SIZE for size, bound in zip(dims, bounds, strict=True))
    return TensorSpec(name, _dtype(kind, name, port), dims, layout, bounds if is_bounded else None)


def _dtype(kind: str, name: str, port: Any) -> Dtype:
    element_type = port.get_element_type().get_type_name()
    if element_type == "bf16":
        return bfloat16()
    if element_type not in _DTYPES:
        raise LoadFailed(f"{kind} {name!r} is of type {element_type}; want one of {', '.join(_DTYPES)}, bf16")
    return np.dtype(_DTYPES[element_type])
