"""TensorProto <-> arrays, as tensorflow/core/framework/tensor.cc reads and writes them.

Reading: a tensor without elements ignores its values. ``tensor_content`` wins if it is not empty, and then is exactly
the elements, little-endian, row by row; of strings first all lengths, as varints, then all bytes. Else the field of the
dtype counts: as many values as elements, or more (the rest is ignored), or fewer (the last one is repeated:
``tf.make_tensor_proto`` with a shape relies on it), or none (zeros).

Writing: the field of the dtype with all values, as clients written for TensorFlow Serving look into ``float_val``; or
``tensor_content``, but for strings: TensorFlow's own ``tf.make_ndarray`` cannot read these there.

The schema has the numbers' fields as bytes, as they are on the wire: floats are just that, of varints numpy writes
150,000 in 1 to 6 ms where protobuf takes 4 to 14 from a list. Protobuf reads them, in pieces.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from runtime.codecs import schema, varints
from runtime.codecs.dtypes import from_tf_number, is_string, name_of, tf_name, tf_number
from runtime.errors import InvalidRequest
from runtime.signature import MAX_RANK, MAX_REPEATED, STRING_COST, Dtype

# numpy's name -> the field.
_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int32": "int_val",
    "int16": "int_val",
    "int8": "int_val",
    "uint16": "int_val",
    "uint8": "int_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "bool": "bool_val",
    "float16": "half_val",
    "bfloat16": "half_val",
}
_STRINGS = "string_val"
# Those that are no varints.
_FIXED: dict[str, Dtype] = {"float_val": np.dtype(np.float32), "double_val": np.dtype(np.float64)}
_UINT64: Dtype = np.dtype(np.uint64)
# TensorFlow's DataTypes without an equivalent, to be named in answers.
_FOREIGN = {
    8: "DT_COMPLEX64",
    11: "DT_QINT8",
    12: "DT_QUINT8",
    13: "DT_QINT32",
    15: "DT_QINT16",
    16: "DT_QUINT16",
    18: "DT_COMPLEX128",
    20: "DT_RESOURCE",
    21: "DT_VARIANT",
}
_CHUNKS = 32 << 10


class Head(NamedTuple):
    """What a message says of its tensor, before any of its values is touched."""

    dtype: Dtype
    shape: tuple[int, ...]
    content: bytes
    """``tensor_content``, of the right size unless it is of strings; empty if the values are elsewhere."""


def decode_head(name: str, proto: Any) -> Head:
    """Return what is known before any value is read.

    Raises:
        InvalidRequest: the dtype is none that Decant carries, the shape none that a tensor can have, or not that of
            ``tensor_content``.
    """
    dtype = from_tf_number(proto.dtype)
    if dtype is None:
        foreign = f" ({_FOREIGN[proto.dtype]})" if proto.dtype in _FOREIGN else ""
        raise _error(name, f"DataType {proto.dtype}{foreign} is not supported")
    sizes = proto.tensor_shape
    if sizes.unknown_rank or len(sizes.dim) > MAX_RANK:
        rank = "unknown" if sizes.unknown_rank else f"one of {len(sizes.dim)} sizes"
        raise _error(name, f"shape is {rank}; want at most {MAX_RANK} sizes")
    shape = tuple(dim.size for dim in sizes.dim)
    if min(shape, default=0) < 0:
        raise _error(name, f"shape is {shape}; want no size below 0")
    # numpy's limit, which it applies to the other sizes of an empty array too.
    if math.prod(size for size in shape if size) * dtype.itemsize > sys.maxsize:
        raise _error(name, f"shape {shape} has too many elements")
    # Read once, as each time is a copy.
    content = proto.tensor_content
    size = math.prod(shape) * dtype.itemsize
    # Of strings nothing is known before they are read.
    if content and size and len(content) != size and not is_string(dtype):
        raise _error(name, f"tensor_content has {len(content)} bytes; want {size} for {shape} of {tf_name(dtype)}")
    return Head(dtype, shape, content)


def decode(name: str, proto: Any, head: Head | None = None) -> NDArray[Any]:
    """Return the array; it may be read-only, a view of the message's bytes.

    Args:
        name: for what is said of errors.
        proto: the message.
        head: what `decode_head` has returned for it, if it has been asked.

    Raises:
        InvalidRequest: as `decode_head`, or shape and values contradict each other.
    """
    dtype, shape, content = head or decode_head(name, proto)
    count = math.prod(shape)
    if not count:
        return np.zeros(shape, dtype)
    if is_string(dtype):
        values = np.array(_split(name, content, count) if content else proto.string_val[:count], object)
    elif content:
        values = _from_content(content, dtype)
    else:
        values = _numbers(name, proto, dtype, count)
    return _fill(name, values, count, dtype).reshape(shape)


def encode(array: NDArray[Any], proto: Any, tensor_content_from: int = 0) -> None:
    """Write the array into an empty TensorProto.

    Args:
        array: of any of the dtypes; strings as bytes objects.
        proto: what is written to.
        tensor_content_from: bytes from which on numbers are written as ``tensor_content``; 0 for never.
    """
    proto.dtype = tf_number(array.dtype)
    # Present for a scalar too, and then empty.
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if is_string(array.dtype):
        proto.string_val.extend(array.ravel().tolist())
    elif 0 < tensor_content_from <= array.nbytes:
        proto.tensor_content = array.tobytes()
    # An empty packed field is not written at all.
    elif array.size:
        field = _FIELDS[name_of(array.dtype)]
        getattr(proto, field).append(_packed(array, field))


def _error(name: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"tensor parsing error: {name}: {reason}")


def _from_content(content: bytes, dtype: Dtype) -> NDArray[Any]:
    if dtype == np.bool_:
        # Any byte but 0 is true; as a bool of numpy's it would be neither.
        nonzero: NDArray[Any] = np.frombuffer(content, np.uint8) != 0
        return nonzero
    return np.frombuffer(content, dtype)


def _fill(name: str, values: NDArray[Any], count: int, dtype: Dtype) -> NDArray[Any]:
    if len(values) >= count:
        return values[:count]
    last: Any = values[-1] if len(values) else b"" if is_string(dtype) else 0
    size = STRING_COST + len(last) if is_string(dtype) else dtype.itemsize
    if count * size > MAX_REPEATED:
        raise _error(
            name,
            f"{len(values)} values for {count} elements of {size} bytes; at most {MAX_REPEATED} bytes are made by "
            "repetition",
        )
    # Not written to if they are zeros already, which the system has ready.
    array = np.zeros(count, dtype)
    array[: len(values)] = values
    if len(values) or is_string(dtype):
        array[len(values) :] = last
    return array


def _split(name: str, content: bytes, count: int) -> list[bytes]:
    """Take apart as many strings: all lengths, then all bytes. DecodeStringList of tensorflow/core's coding."""
    try:
        sizes, start = varints.decode_lengths(content, count)
    except ValueError as exc:
        raise _error(name, f"tensor_content of strings has {exc}") from exc
    if start + sum(sizes) != len(content):
        raise _error(
            name, f"tensor_content of strings has {len(content) - start} bytes after their lengths; want {sum(sizes)}"
        )
    strings = []
    for size in sizes:
        strings.append(content[start : start + size])
        start += size
    return strings


def _numbers(name: str, proto: Any, dtype: Dtype, count: int) -> NDArray[Any]:
    """Return the values in the field of the dtype, at most as many as are wanted."""
    field = _FIELDS[name_of(dtype)]
    # Floats of 16 bits are in the low ones of a varint.
    stored: Dtype = np.dtype(np.uint16) if field == "half_val" else dtype
    read = _fixed if field in _FIXED else _integers
    values = read(name, field, getattr(proto, field), stored, count)
    if len(values) < count:
        others = _unpacked(name, field, proto, stored)[:count]
        if len(others) and len(values):
            # Both are legal, also together, but which came first is not to be told any more. (Nor is it looked for if
            # what is packed will do: no sender mixes them.)
            raise _error(name, f"{field} is packed in part; want all of it or none")
        values = others if len(others) else values
    return values.view(dtype)


def _fixed(name: str, field: str, chunks: Sequence[bytes], dtype: Dtype, most: int) -> NDArray[Any]:
    def check(chunk: bytes) -> None:
        if len(chunk) % dtype.itemsize:
            raise _error(name, f"{field} has {len(chunk)} bytes; want a multiple of {dtype.itemsize}")

    return np.frombuffer(_joined(chunks, check), dtype)[:most]


def _integers(name: str, field: str, chunks: Sequence[bytes], dtype: Dtype, most: int) -> NDArray[Any]:
    """Read varints, of which the low bits count: protobuf's, and then C's, conversion to a narrower type."""

    def check(chunk: bytes) -> None:
        if chunk and chunk[-1] >= 0x80:
            raise _error(name, f"{field} ends within a varint")

    packed = np.frombuffer(_joined(chunks, check), np.uint8)
    if packed.max(initial=0) < 0x80:
        return packed[:most].astype(dtype)
    # Each ends with a byte below 0x80, so that it is known how many there are before any is made.
    values = np.empty(min(most, int(np.count_nonzero(packed < 0x80))), dtype)
    pieces, at = varints.split(packed), 0
    try:
        while at < len(values):
            numbers = _parse(name, field, schema.TensorProto(**{field: [next(pieces)]}))[: len(values) - at]
            values[at : at + len(numbers)] = numbers
            at += len(numbers)
    except ValueError as exc:
        raise _error(name, f"{field}: {exc}") from exc
    return values


def _joined(chunks: Sequence[bytes], check: Callable[[bytes], None]) -> bytes:
    """Return what a field has packed: one chunk as a rule, but any number is legal, each of whole numbers."""
    parts = []
    # Not all at once: an object for each is many times what it was in the message.
    for i in range(0, len(chunks), _CHUNKS):
        piece = chunks[i : i + _CHUNKS]
        for chunk in piece:
            check(chunk)
        parts.append(b"".join(piece))
    return b"".join(parts)


def _unpacked(name: str, field: str, proto: Any, dtype: Dtype) -> NDArray[Any]:
    """Return the values that came each with a tag of its own, which to our schema are fields it does not know."""
    unknown = schema.TensorProto()
    unknown.CopyFrom(proto)
    for known in (*_FIELDS.values(), _STRINGS):
        unknown.ClearField(known)
    return _parse(name, field, unknown).astype(dtype)


def _parse(name: str, field: str, proto: Any) -> NDArray[Any]:
    """Return a field as protobuf reads it."""
    try:
        values = getattr(schema.UnpackedTensorProto.FromString(proto.SerializeToString()), field)
    except DecodeError as exc:
        raise _error(name, f"{field} cannot be read: {exc}") from exc
    array: NDArray[Any] = np.array(values, _FIXED.get(field, _UINT64))
    return array


def _packed(array: NDArray[Any], field: str) -> bytes:
    if field in _FIXED or field == "bool_val":
        return array.tobytes()
    return varints.encode(array.view(np.uint16) if field == "half_val" else array)
