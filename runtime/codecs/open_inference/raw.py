"""One tensor <-> its raw bytes, as REST's binary tensors and gRPC's raw contents have them.

Numbers are little-endian, row by row; BOOL is a byte each; BYTES is each string behind its length, 4 bytes.
https://github.com/kserve/open-inference-protocol, "Binary Tensor Data", and ``raw_input_contents`` of its gRPC.
"""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.codecs.dtypes import is_bfloat16, is_string
from runtime.codecs.json_limits import MAX_VALUES, in_time
from runtime.codecs.open_inference.datatypes import datatype_of
from runtime.codecs.open_inference.inference import Input
from runtime.errors import NAME, QUOTED, InvalidRequest, quoted, shown
from runtime.signature import MAX_RANK, Dtype

_LENGTH = struct.Struct("<I")
MAX_STRINGS = MAX_VALUES
"""Of one tensor; each takes a hundred bytes for the two or four that it may be in a request."""
# How the files of images begin that are taken: JPEG, PNG, bitmaps up to the size of their second header, GIF, TIFF and
# WebP. That is enough to be hardly the length of a string, or some pixels.
_IMAGE = re.compile(
    rb"\xff\xd8\xff[\xc0-\xfe]|\x89PNG\r\n\x1a\n|BM.{4}\0{4}.{4}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0{3}|GIF8[79]a"
    rb"|II\*\0|MM\0\*|RIFF.{4}WEBP",
    re.DOTALL,
)
_TOGETHER = 4096
"""Strings that are joined at a time: each takes 160 bytes while it is."""
_LARGEST_ITEM = 8
"""Bytes of a number, or of what numpy has for a string."""


def error(name: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"input '{quoted(name, NAME)}' {reason}")


def sizes(shape: Sequence[object]) -> str:
    """Return a shape as errors quote it."""
    return quoted(shown(tuple(shape)), QUOTED - NAME)


def check_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape that numpy can have of any dtype, whatever is in it.

    Raises:
        InvalidRequest: it is none.
    """
    if len(shape) > MAX_RANK:
        raise error(name, f"has a shape of {len(shape)} sizes; want at most {MAX_RANK}")
    # Not isinstance: to Python a bool is an int.
    if any(type(size) is not int or size < 0 for size in shape):
        raise error(name, f"has shape {sizes(shape)}; want whole numbers from 0 on")
    # numpy's limit, which it applies to the other sizes of an empty array too.
    if math.prod(size for size in shape if size) * _LARGEST_ITEM > sys.maxsize:
        raise error(name, f"has shape {sizes(shape)}, of too many elements")
    return tuple(shape)


def check(name: str, dtype: Dtype, shape: tuple[int, ...], size: int) -> None:
    """Refuse bytes that are too many or too few, before anything is made of them.

    Raises:
        InvalidRequest: a number is not right for dtype and shape. Of strings it is not known yet which would be.
    """
    count = math.prod(shape)
    if is_string(dtype):
        if size < _LENGTH.size * count or (size and not count):
            least = f"at least {_LENGTH.size * count}" if count else "0"
            raise error(name, f"has {size} bytes; want {least} for {_kind(dtype, shape)}, {_PREFIXED}")
        check_strings(name, count)
    elif size != count * dtype.itemsize:
        want = count * dtype.itemsize
        # OpenVINO Model Server's text is part of ours.
        raise error(
            name,
            f"has {size} bytes; want {want} for {_kind(dtype, shape)}: Invalid content size of tensor proto - "
            f"Expected: {want} bytes; Actual: {size} bytes; input name: {quoted(name, NAME)}",
        )


def check_strings(name: str, count: int) -> None:
    """Raise InvalidRequest if these are more than may be."""
    if count > MAX_STRINGS:
        raise error(name, f"has {count} strings; want {MAX_STRINGS} at most")


def decode(
    name: str, dtype: Dtype, shape: tuple[int, ...], raw: memoryview | bytes, deadline: float | None = None
) -> NDArray[Any]:
    """Return the array: of numbers a view of the bytes, which may be read-only and not aligned.

    Args:
        name: for what is said of errors.
        dtype: one of the protocol's.
        shape: what `check_shape` has returned.
        raw: contiguous.
        deadline: in seconds of the monotonic clock; strings are read one by one.

    Raises:
        InvalidRequest: there are more bytes than those of the shape, or fewer.
        DeadlineExceeded: it is over.
    """
    check(name, dtype, shape, len(raw))
    if is_string(dtype):
        return _strings(name, shape, raw, deadline)
    if dtype == np.bool_:
        # Any byte but 0 is true; as a bool of numpy's it would be neither.
        nonzero: NDArray[Any] = np.frombuffer(raw, np.uint8) != 0
        return nonzero.reshape(shape)
    return np.frombuffer(raw, dtype).reshape(shape)


def decode_bare(
    shape: tuple[int, ...], sizes: Sequence[int], raw: memoryview | bytes, deadline: float | None = None
) -> NDArray[Any]:
    """Return strings that are one behind the other, without lengths: OpenVINO Model Server's way until 2022.3.

    Args:
        sizes: in bytes, as many as the shape has elements, and of as many bytes together as there are.
    """
    array = np.empty(len(sizes), object)
    at = 0
    for i, size in enumerate(in_time(sizes, deadline)):
        array[i] = bytes(raw[at : at + size])
        at += size
    return array.reshape(shape)


def begins_as_image(raw: memoryview | bytes) -> bool:
    return _IMAGE.match(raw) is not None


def as_image(given: Input) -> Input:
    """Return strings that are meant for an input of images.

    One image may be there without its length before it, if what is standard makes no sense: so clients of OpenVINO
    Model Server send it until 2022.3.
    """
    packed = given.packed
    if math.prod(given.shape) != 1 or not begins_as_image(packed):
        return given
    (size,) = _LENGTH.unpack_from(packed)
    if size == len(packed) - _LENGTH.size:
        return given
    return given._replace(read=partial(decode_bare, given.shape, [len(packed)], packed))


def encode(array: NDArray[Any]) -> memoryview:
    """Return the bytes: those of the array itself if they are little-endian and in order."""
    if is_string(array.dtype):
        return memoryview(_packed(array.reshape(-1)))
    # numpy has no bytes of a dtype that is not its own.
    numbers = array.view(np.uint16) if is_bfloat16(array.dtype) else array
    in_order = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<"))
    return in_order.reshape(-1).view(np.uint8).data


_PREFIXED = "a length of 4 bytes before each string"


def _kind(dtype: Dtype, shape: tuple[int, ...]) -> str:
    return f"{sizes(shape)} of {datatype_of(dtype)}"


def _strings(name: str, shape: tuple[int, ...], raw: memoryview | bytes, deadline: float | None) -> NDArray[Any]:
    # No more than twice the bytes that are there, as each has at least a length.
    array = np.empty(math.prod(shape), object)
    at, end, unpack = 0, len(raw), _LENGTH.unpack_from
    for i in in_time(range(array.size), deadline):
        start = at + _LENGTH.size
        if start > end:
            raise error(name, f"ends after {i} of {array.size} strings, {_PREFIXED}")
        (size,) = unpack(raw, at)
        at = start + size
        if at > end:
            raise error(name, f"has {end - start} bytes from its string {i} on; want {size}, {_PREFIXED}")
        array[i] = bytes(raw[start:at])
    if at != end:
        raise error(name, f"has {end - at} bytes behind its {array.size} strings, {_PREFIXED}")
    return array.reshape(shape)


def _packed(strings: NDArray[Any]) -> bytearray:
    packed = bytearray()
    for i in range(0, strings.size, _TOGETHER):
        some = strings[i : i + _TOGETHER].tolist()
        packed += b"".join(chain.from_iterable(zip(map(_LENGTH.pack, map(len, some)), some, strict=True)))
    return packed
