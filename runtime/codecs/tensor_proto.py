"""TensorProto <-> arrays, as tensorflow/core/framework/tensor.cc reads and writes them.

Reading: ``tensor_content`` wins if it is not empty, and then is exactly the elements, little-endian, row by row. Else
the field of the dtype counts: as many values as elements, or more (the rest is ignored), or fewer (the last one is
repeated: ``tf.make_tensor_proto`` with a shape relies on it), or none (zeros).

Writing: the field of the dtype with all values, as clients written for TensorFlow Serving look into ``float_val``.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from runtime.codecs.dtypes import from_tf_number, tf_name, tf_number
from runtime.errors import InvalidRequest
from runtime.signature import MAX_RANK, Dtype

MAX_REPEATED = 256 << 20
"""Bytes that a tensor may grow to by repetition or as zeros: they cost the sender nothing."""

_INT = ("int_val", np.dtype(np.int32))
_BITS = ("half_val", np.dtype(np.int32))
# numpy's name -> field and the dtype of the values in it.
_FIELDS: dict[str, tuple[str, Dtype]] = {
    "float32": ("float_val", np.dtype("<f4")),
    "float64": ("double_val", np.dtype("<f8")),
    "int32": _INT,
    "int16": _INT,
    "int8": _INT,
    "uint16": _INT,
    "uint8": _INT,
    "int64": ("int64_val", np.dtype(np.int64)),
    "uint32": ("uint32_val", np.dtype(np.uint32)),
    "uint64": ("uint64_val", np.dtype(np.uint64)),
    "bool": ("bool_val", np.dtype(np.bool_)),
    "float16": _BITS,
    "bfloat16": _BITS,
}
# The fields that the schema declares as bytes: number on the wire, and the struct of one value that came unpacked,
# of which protobuf's unknown fields give the bits as an integer.
_PACKED = {"float_val": (5, "<I"), "double_val": (6, "<Q")}


def decode(name: str, proto: Any) -> NDArray[Any]:
    """Return the array; it may be read-only, a view of the message's bytes.

    Raises:
        InvalidRequest: the dtype is none that Decant carries, or shape and values contradict each other.
    """
    dtype = from_tf_number(proto.dtype)
    if dtype is None:
        raise InvalidRequest(f"tensor parsing error: {name}: DataType {proto.dtype} is not supported")
    shape = _shape(name, proto.tensor_shape)
    count = math.prod(shape)
    if proto.tensor_content:
        return _from_content(name, proto.tensor_content, dtype, count).reshape(shape)
    values = _typed(proto, dtype)
    if count > len(values) and count * dtype.itemsize > MAX_REPEATED:
        raise InvalidRequest(
            f"tensor parsing error: {name}: {len(values)} values for shape {shape}; "
            f"at most {MAX_REPEATED} bytes are made by repetition"
        )
    return _fill(values, count, dtype).reshape(shape)


def encode(array: NDArray[Any], proto: Any) -> None:
    """Write the array into an empty TensorProto, its values in the field of its dtype."""
    proto.dtype = tf_number(array.dtype)
    # Present for a scalar too, and then empty.
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    field, wire = _FIELDS[array.dtype.name]
    if field in _PACKED:
        # An empty packed field is not written at all.
        if array.size:
            getattr(proto, field).append(array.astype(wire, copy=False).tobytes())
    else:
        bits = array.view(np.uint16) if field == "half_val" else array
        getattr(proto, field).extend(bits.ravel().tolist())


def _shape(name: str, proto: Any) -> tuple[int, ...]:
    shape = tuple(dim.size for dim in proto.dim)
    if proto.unknown_rank or min(shape, default=0) < 0 or len(shape) > MAX_RANK:
        given = "unknown" if proto.unknown_rank else str(shape)[:100]
        raise InvalidRequest(
            f"tensor parsing error: {name}: shape is {given}; want at most {MAX_RANK} sizes, none below 0"
        )
    return shape


def _from_content(name: str, content: bytes, dtype: Dtype, count: int) -> NDArray[Any]:
    if len(content) != count * dtype.itemsize:
        raise InvalidRequest(
            f"tensor parsing error: {name}: tensor_content has {len(content)} bytes; "
            f"want {count * dtype.itemsize} for {count} of {tf_name(dtype)}"
        )
    if dtype == np.bool_:
        # Any byte but 0 is true; as a bool of numpy's it would be neither.
        nonzero: NDArray[Any] = np.frombuffer(content, np.uint8) != 0
        return nonzero
    return np.frombuffer(content, dtype)


def _typed(proto: Any, dtype: Dtype) -> NDArray[Any]:
    field, wire = _FIELDS[dtype.name]
    if field in _PACKED:
        return _packed(proto, field, wire)
    values = np.array(getattr(proto, field), wire)
    if field == "half_val":
        return values.astype(np.uint16).view(dtype)
    return values.astype(dtype)


def _packed(proto: Any, field: str, wire: Dtype) -> NDArray[Any]:
    chunks = b"".join(getattr(proto, field))
    number, bits = _PACKED[field]
    unknowns: Any = UnknownFieldSet(proto)
    for unknown in unknowns:
        if unknown.field_number == number and isinstance(unknown.data, int):
            chunks += struct.pack(bits, unknown.data)
    if len(chunks) % wire.itemsize:
        raise InvalidRequest(f"{field} has {len(chunks)} bytes; want a multiple of {wire.itemsize}")
    return np.frombuffer(chunks, wire)


def _fill(values: NDArray[Any], count: int, dtype: Dtype) -> NDArray[Any]:
    if len(values) >= count:
        return values[:count]
    array = np.zeros(count, dtype)
    if len(values):
        array[: len(values)] = values
        array[len(values) :] = values[-1]
    return array
