"""TensorProto <-> arrays, as tensorflow/core/framework/tensor.cc reads and writes them.

Reading: ``tensor_content`` wins if it is not empty, and then is exactly the elements, little-endian, row by row. Else
the field of the dtype counts: as many values as elements, or more (the rest is ignored), or fewer (the last one is
repeated: ``tf.make_tensor_proto`` with a shape relies on it), or none (zeros).

Writing: the field of the dtype with all values, as clients written for TensorFlow Serving look into ``float_val``.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

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
# The fields that the schema declares as bytes: number on the wire; and of one value that comes unpacked, the wire type
# (5: 32 bits, 1: 64 bits) and the struct of the integer that protobuf's unknown fields give for it.
_PACKED = {"float_val": (5, 5, "<I"), "double_val": (6, 1, "<Q")}


class Head(NamedTuple):
    """What a message says of its tensor, before any of its values is touched."""

    dtype: Dtype
    shape: tuple[int, ...]


def decode_head(name: str, proto: Any) -> Head:
    """Return the dtype and shape.

    Raises:
        InvalidRequest: the dtype is none that Decant carries, or the shape none that a tensor can have.
    """
    dtype = from_tf_number(proto.dtype)
    if dtype is None:
        raise InvalidRequest(f"tensor parsing error: {name}: DataType {proto.dtype} is not supported")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0 or len(shape) > MAX_RANK:
        given = "unknown" if proto.tensor_shape.unknown_rank else str(shape)[:100]
        raise InvalidRequest(
            f"tensor parsing error: {name}: shape is {given}; want at most {MAX_RANK} sizes, none below 0"
        )
    # numpy's limit, which it applies to the other sizes of an empty array too.
    if math.prod(size for size in shape if size) * dtype.itemsize > sys.maxsize:
        raise InvalidRequest(f"tensor parsing error: {name}: shape {str(shape)[:100]} has too many elements")
    return Head(dtype, shape)


def decode(name: str, proto: Any) -> NDArray[Any]:
    """Return the array; it may be read-only, a view of the message's bytes.

    Raises:
        InvalidRequest: as `decode_head`, or shape and values contradict each other.
    """
    dtype, shape = decode_head(name, proto)
    count = math.prod(shape)
    if proto.tensor_content:
        return _from_content(name, proto.tensor_content, dtype, count).reshape(shape)
    values = _typed(name, proto, dtype)
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


def _typed(name: str, proto: Any, dtype: Dtype) -> NDArray[Any]:
    field, wire = _FIELDS[dtype.name]
    if field in _PACKED:
        return _packed(name, proto, field, wire)
    values = np.array(getattr(proto, field), wire)
    if field == "half_val":
        return values.astype(np.uint16).view(dtype)
    return values.astype(dtype)


def _packed(name: str, proto: Any, field: str, wire: Dtype) -> NDArray[Any]:
    chunks = list(getattr(proto, field))
    single = list(_unpacked(proto, field))
    if chunks and single:
        # Both are legal, also together, but which came first is not to be told any more.
        raise InvalidRequest(f"tensor parsing error: {name}: {field} is packed in part; want all of it or none")
    for chunk in chunks or single:
        if len(chunk) % wire.itemsize:
            raise InvalidRequest(
                f"tensor parsing error: {name}: {field} has {len(chunk)} bytes; want a multiple of {wire.itemsize}"
            )
    return np.frombuffer(b"".join(chunks or single), wire)


def _unpacked(proto: Any, field: str) -> Iterator[bytes]:
    number, wire_type, bits = _PACKED[field]
    unknowns: Any = UnknownFieldSet(proto)
    for unknown in unknowns:
        if (unknown.field_number, unknown.wire_type) == (number, wire_type):
            yield struct.pack(bits, unknown.data)


def _fill(values: NDArray[Any], count: int, dtype: Dtype) -> NDArray[Any]:
    if len(values) >= count:
        return values[:count]
    array = np.zeros(count, dtype)
    if len(values):
        array[: len(values)] = values
        array[len(values) :] = values[-1]
    return array
