"""Tensors as raw bytes, both ways."""

from __future__ import annotations

import re
import struct
import sys
import time
import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.codecs.open_inference import raw
from runtime.codecs.open_inference.inference import Input
from runtime.errors import DeadlineExceeded, InvalidRequest
from runtime.signature import MAX_RANK, Dtype
from tests.runtime import image_samples
from tests.runtime.codecs.specs import BFLOAT16, BOOL, DTYPES, STRING, arrays, assert_same, string_arrays

FLOAT: Dtype = np.dtype(np.float32)


def prefixed(*strings: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(string)) + string for string in strings)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(arrays() | string_arrays(st.binary(max_size=5)))
def test_what_is_written_is_read(array: NDArray[Any]) -> None:
    written = raw.encode(array)
    assert (written.format, written.ndim, written.contiguous) == ("B", 1, True)
    assert_same(raw.decode("x", array.dtype, array.shape, written), array)


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.array([1, 258], np.uint16), b"\1\0\2\1"),
        (np.array([1, 258], ">u2"), b"\1\0\2\1"),
        (np.array([[1, 2], [3, 4]], np.uint8).T, b"\1\3\2\4"),
        (np.array(-2, np.int32), b"\xfe\xff\xff\xff"),
        (np.array([True, False]), b"\1\0"),
        (np.array([1.0], BFLOAT16), b"\x80\x3f"),
        (np.array([1.0], np.float16), b"\0\x3c"),
        (np.zeros((2, 0), np.float64), b""),
        (np.array([b"", b"ab"], object), b"\0\0\0\0\2\0\0\0ab"),
        (np.array(b"\0", object), b"\1\0\0\0\0"),
        (np.zeros(0, object), b""),
    ],
)
def test_the_bytes_are_those_of_the_protocol(array: NDArray[Any], wanted: bytes) -> None:
    assert bytes(raw.encode(array)) == wanted


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_are_not_copied(dtype: Dtype) -> None:
    array = np.zeros((2, 3), dtype)
    written = raw.encode(array)
    array[0, 0] = 1
    assert np.array_equal(raw.decode("x", dtype, (2, 3), written), array)
    if dtype != BOOL:
        assert np.shares_memory(raw.decode("x", dtype, (2, 3), written), array)


def test_numbers_may_begin_anywhere() -> None:
    array = raw.decode("x", FLOAT, (2,), memoryview(b"." + np.array([1, 2], np.float32).tobytes())[1:])
    assert array.tolist() == [1, 2]


def test_any_byte_but_zero_is_true() -> None:
    array = raw.decode("x", BOOL, (4,), b"\0\1\2\xff")
    assert array.tolist() == [False, True, True, True]
    assert array.view(np.uint8).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("dtype", "shape", "given", "message"),
    [
        (FLOAT, (2,), bytes(7), "'x' has 7 bytes; want 8 for (2,) of FP32: Invalid content size of tensor proto - "),
        (FLOAT, (2,), bytes(9), "Expected: 8 bytes; Actual: 9 bytes; input name: x"),
        (FLOAT, (), b"", "has 0 bytes; want 4 for () of FP32"),
        (FLOAT, (0, 5), b"1", "has 1 bytes; want 0 for (0, 5) of FP32"),
        (FLOAT, (1 << 40, 1 << 10), bytes(8), "has 8 bytes; want 4503599627370496 for"),
        (BOOL, (3,), b"\0", "want 3 for (3,) of BOOL"),
        (BFLOAT16, (3,), bytes(3), "want 6 for (3,) of BF16"),
        (STRING, (3,), bytes(11), "has 11 bytes; want at least 12 for (3,) of BYTES, a length of 4 bytes before each"),
        (STRING, (1 << 50,), prefixed(b"a"), "has 5 bytes; want at least 4503599627370496 for"),
        (STRING, (0,), bytes(4), "has 4 bytes; want 0 for (0,) of BYTES"),
        (STRING, (1,), b"\5\0\0\0abcd", "has 4 bytes from its string 0 on; want 5"),
        (STRING, (1,), b"\xff\xff\xff\xff", "has 0 bytes from its string 0 on; want 4294967295"),
        (STRING, (2,), prefixed(b"abcdefgh"), "ends after 1 of 2 strings"),
        (STRING, (2,), prefixed(b"ab", b"") + b"..", "has 2 bytes behind its 2 strings"),
        (STRING, (1,), b"\xff\xd8\xff", "has 3 bytes; want at least 4"),
    ],
)
def test_bytes_that_are_too_many_or_too_few_are_refused(
    dtype: Dtype, shape: tuple[int, ...], given: bytes, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)) as refused:
        raw.decode("x", dtype, shape, given)
    assert str(refused.value).startswith("input 'x' ")


@pytest.mark.parametrize("shape", [[], [0], [1, 2], [0, 1 << 40], [1] * MAX_RANK, [sys.maxsize // 8]])
def test_shapes_that_numpy_can_have_are_taken(shape: list[int]) -> None:
    assert raw.check_shape("x", shape) == tuple(shape)
    np.broadcast_to(np.float64(0), shape)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([1] * (MAX_RANK + 1), "a shape of 33 sizes; want at most 32"),
        ([-1], "shape (-1,); want whole numbers from 0 on"),
        ([2, -(1 << 63)], "want whole numbers from 0 on"),
        ([1.0], "shape (1.0,); want whole numbers"),
        ([True], "shape (true,); want whole numbers"),
        (["1"], "shape ('1',); want whole numbers"),
        ([None], "shape (null,); want whole numbers"),
        ([1 << 62], "of too many elements"),
        ([0, 1 << 62], "of too many elements"),
        ([1 << 40] * MAX_RANK, "of too many elements"),
        ([10**4000], "of too many elements"),
    ],
)
def test_other_shapes_are_refused(shape: list[Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)) as refused:
        raw.check_shape("x", shape)
    assert len(str(refused.value)) < 500


def received(shape: tuple[int, ...], packed: bytes) -> Input:
    return Input("x", STRING, shape, partial(raw.decode, "x", STRING, shape, packed), packed=packed)


IMAGES = image_samples.samples()


@pytest.mark.parametrize("name", IMAGES)
def test_one_image_needs_no_length(name: str) -> None:
    """As OpenVINO Model Server's clients send it until 2022.3; but only where images are wanted."""
    file = IMAGES[name]
    assert raw.begins_as_image(file)
    for packed in (file, prefixed(file)):
        assert raw.as_image(received((1,), packed)).read(None).tolist() == [file]
    with pytest.raises(InvalidRequest, match="from its string 0 on"):
        received((1,), file).read(None)


def test_several_images_need_lengths() -> None:
    given = received((2,), IMAGES["8 bits"] * 2 if "8 bits" in IMAGES else b"\xff\xd8\xff\xe0" * 2)
    assert raw.as_image(given) is given


@pytest.mark.parametrize("head", [b"BM", b"RIFF", b"\xff\xd8\xff", b"\x89PNG", b"GIF8"])
def test_the_length_of_a_string_is_no_image(head: bytes) -> None:
    """Of one that is cut off, above all."""
    packed = (head + bytes(2))[:4] + b"a" * 20
    given = received((1,), packed)
    assert raw.as_image(given) is given
    assert not raw.begins_as_image(packed)


def test_a_string_that_begins_as_an_image_may_be_as_long_as_that_says() -> None:
    head = b"II*\0"
    (size,) = struct.unpack("<I", head)
    given = received((1,), head + bytes(size))
    assert raw.as_image(given) is given
    assert given.read(None).tolist() == [bytes(size)]


def test_strings_are_no_more_than_may_be() -> None:
    raw.check("x", STRING, (raw.MAX_STRINGS,), raw.MAX_STRINGS * 4)
    with pytest.raises(InvalidRequest, match="input 'x' has 4000001 strings; want 4000000 at most"):
        raw.check("x", STRING, (raw.MAX_STRINGS + 1,), raw.MAX_STRINGS * 8)


def test_strings_that_are_written_take_little_more_than_their_bytes() -> None:
    array = np.full((10, 50_000), b"", object)
    tracemalloc.start()
    try:
        written = raw.encode(array)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bytes(written) == bytes(4 * array.size)
    # As pieces to be joined, all at once, they took fifty times as much.
    assert peak < 3 * len(written) + (2 << 20)


def test_strings_may_be_one_behind_the_other() -> None:
    assert raw.decode_bare((2, 1), [2, 0], memoryview(b"ab")).tolist() == [[b"ab"], [b""]]


def test_strings_are_read_until_the_deadline() -> None:
    with pytest.raises(DeadlineExceeded):
        raw.decode("x", STRING, (1,), prefixed(b"a"), time.monotonic() - 1)
