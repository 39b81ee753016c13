"""Varints in bulk against varints one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.codecs import varints
from tests.runtime import oracle

reproducibly = settings(deadline=None, derandomize=True)
# Of every length alike, which numbers drawn evenly would not be.
numbers = st.integers(0, 63).flatmap(lambda bits: st.integers(-(2**bits), 2**bits - 1))


@reproducibly
@given(st.lists(numbers))
def test_integers_are_written_as_one_by_one(values: list[int]) -> None:
    assert varints.encode(np.array(values, np.int64)) == b"".join(oracle.varint(value % 2**64) for value in values)


@reproducibly
@given(st.lists(st.integers(0, 2**64 - 1)))
def test_unsigned_integers_are_written_as_one_by_one(values: list[int]) -> None:
    assert varints.encode(np.array(values, np.uint64)) == b"".join(map(oracle.varint, values))


@pytest.mark.parametrize("value", [1, 300, 2**35, 2**64 - 1])
@pytest.mark.parametrize("count", [1, 50_000, 100_001])
def test_pieces_are_whole_and_together_all(value: int, count: int) -> None:
    one = oracle.varint(value)
    pieces = list(varints.split(np.frombuffer(one * count, np.uint8)))
    assert b"".join(pieces) == one * count
    assert all(len(piece) % len(one) == 0 and 0 < len(piece) <= varints.PIECE for piece in pieces)


@pytest.mark.parametrize(
    "packed", [b"\x80", b"\x01" * 9 + b"\xff" * 10, b"\xff" * 100_000, b"\x01\xff" * 9 + b"\x80" * 10]
)
def test_a_piece_without_an_end_is_an_error(packed: bytes) -> None:
    with pytest.raises(ValueError, match="more than 10 bytes, or no end"):
        list(varints.split(np.frombuffer(packed, np.uint8)))


@reproducibly
@given(st.lists(st.one_of(st.integers(0, 127), st.integers(0, 2**32 - 1))), st.binary(max_size=3))
def test_lengths_are_read_up_to_where_they_end(lengths: list[int], rest: bytes) -> None:
    written = b"".join(map(oracle.varint, lengths))
    assert varints.decode_lengths(written + rest, len(lengths)) == (lengths, len(written))


@pytest.mark.parametrize(
    ("content", "count"), [(b"", 1), (b"\x00", 2), (b"\x80", 1), (b"\x80\x01", 2), (b"\x80" * 9, 1)]
)
def test_too_few_lengths_are_an_error(content: bytes, count: int) -> None:
    with pytest.raises(ValueError, match=f"want {count}"):
        varints.decode_lengths(content, count)
