"""Protocol Buffers' varints, many at a time: seven bits a byte, the low ones first, the eighth set in all but the last.

https://protobuf.dev/programming-guides/encoding/#varints
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 10
"""Bytes of the longest one, of 64 bits."""
PIECE = 32 << 10
"""At a time: as many as fit into the processor's cache with what is made of them."""


def encode(integers: NDArray[Any]) -> bytes:
    """Write integers of any dtype and shape; a negative one as that of 64 bits which has the same bits."""
    if integers.min(initial=0) >= 0 and integers.max(initial=0) < 0x80:
        return integers.astype(np.uint8).tobytes()
    flat = integers.ravel()
    pieces = (flat[i : i + PIECE].astype(np.int64).view(np.uint64) for i in range(0, len(flat), PIECE))
    return b"".join(map(_encode, pieces))


def split(packed: NDArray[np.uint8]) -> Iterator[bytes]:
    """Cut into pieces of whole varints.

    Raises:
        ValueError: one of them is too long, or the last has no end.
    """
    start = 0
    while start < len(packed):
        stop = min(start + PIECE, len(packed))
        tail = packed[max(start, stop - LONGEST) : stop]
        (ends,) = np.nonzero(tail < 0x80)
        if not len(ends):
            raise ValueError(f"a varint has more than {LONGEST} bytes, or no end")
        stop -= len(tail) - 1 - int(ends[-1])
        yield packed[start:stop].tobytes()
        start = stop


def decode_lengths(content: bytes, count: int) -> tuple[list[int], int]:
    """Read as many varints of 32 bits; return them and where they end.

    Raises:
        ValueError: there are fewer, or one of them is too long.
    """
    # One byte each, as a rule.
    if content[:count].isascii() and len(content) >= count:
        return list(content[:count]), count
    lengths: list[int] = []
    at = 0
    for _ in range(count):
        length = shift = 0
        while True:
            # 32 bits are five times seven and some.
            if at == len(content) or shift > 28:
                raise ValueError(f"{len(lengths)} lengths; want {count}")
            byte = content[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    return lengths, at


def _encode(numbers: NDArray[np.uint64]) -> bytes:
    longest = max(1, -(-int(numbers.max()).bit_length() // 7))
    sizes = np.ones(len(numbers), np.int64)
    for i in range(1, longest):
        sizes += numbers >= np.uint64(1 << 7 * i)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    written = np.empty(int(ends[-1]) + longest, np.uint8)
    # Every number writes as many bytes as the longest one, from the last to the first: what is too much is written over
    # by bytes, further to the front in them, of the numbers behind. That is quicker than to choose.
    for i in reversed(range(longest)):
        byte = (numbers >> np.uint64(7 * i)).astype(np.uint8) & 0x7F
        written[starts + i] = byte | (sizes > i + 1).view(np.uint8) << 7
    return written[: ends[-1]].tobytes()
