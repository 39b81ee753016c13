"""The large parts of gRPC's messages without protobuf, which copies each of them twice: the raw contents of tensors.

Both of a ModelInferRequest and of a ModelInferResponse they are a repeated field of bytes, each element a tag, its size
and the bytes. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from google.protobuf.message import EncodeError

from runtime.codecs import schema
from runtime.codecs.schema import open_inference
from runtime.errors import InvalidRequest, PayloadTooLarge

LARGE = 64 << 10
"""Bytes of a message from which on its raw contents are found without protobuf; below that it costs a few µs."""
MAX_FIELDS = 10_000
"""Of a large message, each raw content one: two bytes of an empty input become a hundred."""
MAX_MESSAGE = 2**31 - 1
"""Bytes; protobuf's limit."""
_LONGEST = 10
"""Bytes of a varint."""
_LONGEST_HEAD = 5
"""Bytes of one that is a tag or a size."""
_VARINT, _FIXED64, _SIZED, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
# The fields' numbers and that a size follows: raw_input_contents, raw_output_contents, a stream's infer_response.
_RAW_INPUT = 7 << 3 | _SIZED
_RAW_OUTPUT = bytes([6 << 3 | _SIZED])
_IN_STREAM = bytes([2 << 3 | _SIZED])


class Received(NamedTuple):
    message: Any
    """A ModelInferRequest; if it was large, without raw contents."""
    raw: Sequence[memoryview | bytes]
    """Its raw contents in order; of a large one as they lie in what was received."""


def receive(content: bytes, large: int = LARGE) -> Received:
    """Read a ModelInferRequest.

    Args:
        content: as received.
        large: bytes from which on it is not all read by protobuf.

    Raises:
        InvalidRequest: it is none, or has too many fields.
    """
    if len(content) < large:
        message = schema.parse(open_inference.ModelInferRequest, content)
        return Received(message, message.raw_input_contents)
    rest, raw = _split(content)
    return Received(schema.parse(open_inference.ModelInferRequest, rest), raw)


def write(head: Any, raw: Sequence[memoryview], is_in_stream: bool, max_size: int = MAX_MESSAGE) -> bytes:
    """Return a ModelInferResponse on the wire, with a single copy of what is large.

    Args:
        head: the message without raw contents.
        raw: its raw contents, each one of bytes.
        is_in_stream: whether it is to be the answer in a ModelStreamInferResponse.
        max_size: bytes that it may have.

    Raises:
        PayloadTooLarge: it would have more.
    """
    try:
        pieces: list[bytes | memoryview] = [b"", head.SerializeToString()]
    except EncodeError as exc:
        raise PayloadTooLarge(f"the answer cannot be written: {exc}; want {max_size} bytes at most") from exc
    for one in raw:
        pieces += (_RAW_OUTPUT + _written(len(one)), one)
    size = sum(map(len, pieces))
    if is_in_stream:
        pieces[0] = _IN_STREAM + _written(size)
        size += len(pieces[0])
    if size > max_size:
        raise PayloadTooLarge(f"the answer has {size} bytes; want {max_size} at most")
    return b"".join(pieces)


def _split(content: bytes) -> tuple[bytes, list[memoryview]]:
    """Take the raw contents out of a message, and leave the rest to protobuf, with all that is wrong in it."""
    view = memoryview(content)
    raw: list[memoryview] = []
    rest: list[memoryview] = []
    at = begins = fields = depth = 0
    while at < len(content):
        if fields == MAX_FIELDS:
            raise InvalidRequest(f"the message of {len(content)} bytes has more than {MAX_FIELDS} fields")
        fields += 1
        field = at
        tag, at = _varint(content, at, _LONGEST_HEAD)
        kind = tag & 7
        if kind == _SIZED:
            size, at = _varint(content, at, _LONGEST_HEAD)
            end = at + size
            if end > len(content):
                raise _malformed(f"a field at byte {field} of {size} bytes does not end")
            # Not within a group, which nobody knows any more, and whose fields are its own.
            if tag == _RAW_INPUT and not depth:
                raw.append(view[at:end])
                rest.append(view[begins:field])
                begins = end
            at = end
        elif kind == _VARINT:
            _, at = _varint(content, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind in (_START_GROUP, _END_GROUP):
            depth += 1 if kind == _START_GROUP else -1
            if depth < 0:
                raise _malformed(f"a group ends at byte {field} that has not begun")
        else:
            raise _malformed(f"a field at byte {field} has the wire type {kind}")
    if at > len(content) or depth:
        raise _malformed("its last field does not end")
    if not raw:
        return content, raw
    rest.append(view[begins:])
    return b"".join(rest), raw


def _varint(content: bytes, at: int, longest: int = _LONGEST) -> tuple[int, int]:
    """Return a number and where it ends."""
    number = shift = 0
    for i, byte in enumerate(content[at : at + longest]):
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at + i + 1
        shift += 7
    raise _malformed(f"the number at byte {at} does not end")


def _written(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _malformed(why: str) -> InvalidRequest:
    return InvalidRequest(f"the message is no ModelInferRequest: {why}")
