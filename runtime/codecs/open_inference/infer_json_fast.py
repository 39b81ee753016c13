"""The fast reader of infer JSON: numbers in rectangular lists, copied out of simdjson's tape.

As `json_fast`, whose lists these are, it answers None for whatever it does not take, which `infer_json_exact` reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import simdjson
from numpy.typing import NDArray

from runtime.codecs.dtypes import is_string
from runtime.codecs.json_fast import (
    SATURATED,
    Irregular,
    buffer_dtype,
    cast,
    count_brackets,
    count_lists,
    numbers_of,
    rectangle,
)
from runtime.codecs.open_inference.infer_json_shapes import Tensor, check_fit
from runtime.signature import MAX_RANK, Dtype

if TYPE_CHECKING:
    from runtime.codecs.json_dialect import Json

_INT8: Dtype = np.dtype(np.int8)
_FEW = 64
"""Members of an object, which are looked at one by one."""
_MANY = 1 << 10
"""Inputs, or outputs."""


def load(body: bytes) -> Mapping[str, Json] | None:
    """Return what is known of a request's members; the ``data`` of its inputs are simdjson's, which keep its tape."""
    try:
        root = simdjson.Parser().parse(body)
    # Its errors have no class of their own: ValueError, RuntimeError and UnicodeDecodeError, by kind of error.
    except (ValueError, RuntimeError):
        return None
    try:
        return _request(_members(root))
    except Irregular:
        return None


def read(
    body: bytes,
    lists: int,
    tensors: Sequence[Tensor],
    values: Sequence[Any],
    deadline: float | None,
) -> list[NDArray[Any]] | None:
    """Return the arrays of all tensors, or None.

    Args:
        body: what has been loaded.
        lists: how many there are in it that are not part of ``values``.
        tensors: what the values are of.
        values: simdjson's.
        deadline: in seconds of the monotonic clock.

    Raises:
        InvalidRequest: their shapes are not what the tensors have.
        DeadlineExceeded: it is over.
    """
    # Of strings simdjson has no buffers.
    if any(is_string(tensor.dtype) for tensor in tensors):
        return None
    if not all(isinstance(value, simdjson.Array) for value in values):
        return None
    try:
        shapes = [rectangle(value, deadline) for value in values]
        # A buffer flattens whatever nests in it: see `json_fast`.
        if count_brackets(body) != lists + sum(map(count_lists, shapes)):
            return None
        for tensor, shape in zip(tensors, shapes, strict=True):
            if SATURATED not in shape:
                check_fit(tensor, shape)
        return [_array(tensor, value) for tensor, value in zip(tensors, values, strict=True)]
    except Irregular:
        return None


def _array(tensor: Tensor, value: simdjson.Array) -> NDArray[Any]:
    # simdjson has no buffers of booleans, but some clients have 0 and 1 for them.
    dtype = _INT8 if tensor.dtype == np.bool_ else tensor.dtype
    flat = np.frombuffer(numbers_of(value, dtype), buffer_dtype(dtype))
    if flat.size != prod(tensor.shape):
        # Nothing but a list of more than simdjson counts.
        check_fit(tensor, (flat.size,))
    if tensor.dtype != np.bool_:
        return cast(flat, dtype, tensor.shape)
    if flat.min() < 0 or flat.max() > 1:
        raise Irregular
    return flat.astype(np.bool_).reshape(tensor.shape)


def _request(members: Mapping[str, Any]) -> Mapping[str, Json]:
    request: dict[str, Json] = {"id": _scalar(members.get("id")), "parameters": _parameters(members)}
    request["inputs"] = [_input(_members(one)) for one in _listed(members.get("inputs"))]
    if members.get("outputs") is not None:
        request["outputs"] = [_output(_members(one)) for one in _listed(members["outputs"])]
    return request


def _input(members: Mapping[str, Any]) -> Mapping[str, Json]:
    shape = members.get("shape")
    if not isinstance(shape, simdjson.Array) or len(shape) > MAX_RANK:
        raise Irregular
    return {
        **_output(members),
        "datatype": _scalar(members.get("datatype")),
        "shape": [_scalar(size) for size in shape],
        "data": members.get("data"),
    }


def _output(members: Mapping[str, Any]) -> dict[str, Json]:
    return {"name": _scalar(members.get("name")), "parameters": _parameters(members)}


def _parameters(members: Mapping[str, Any]) -> Mapping[str, Json] | None:
    parameters = members.get("parameters")
    if parameters is None:
        return None
    return {name: _scalar(value) for name, value in _members(parameters).items()}


def _listed(value: Any) -> simdjson.Array:
    if not isinstance(value, simdjson.Array) or len(value) > _MANY:
        raise Irregular
    return value


def _members(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, simdjson.Object) or len(value) > _FEW:
        raise Irregular
    names = list(value)
    # simdjson is asked for what is before a zero.
    if any("\0" in name for name in names):
        raise Irregular
    # Not items(), which makes Python's lists of all that is below. Of a key given twice this is the first value, which
    # counts everywhere.
    return {name: value[name] for name in names}


def _scalar(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, str | int | float):
        return value
    raise Irregular
