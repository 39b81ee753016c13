"""Triton's classification extension."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from runtime.errors import InvalidRequest
from runtime.open_inference.classification import MAX_STRINGS, classify
from runtime.signature import Dtype
from tests.runtime.codecs.specs import BFLOAT16, BOOL, FLOATS, INTS, STRING, limits


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


NAN, INF = np.nan, np.inf

# What is asked of which array; and shape and strings of what is answered.
CASES: list[tuple[NDArray[Any], int, tuple[int, ...], list[str]]] = [
    # The extension's own examples.
    (np.array([1, 5, 10, 4]), 2, (2,), ["10:2", "5:1"]),
    (f32([1.1, 3.3, 0.5, 2.4]), 2, (2,), ["3.3:1", "2.4:3"]),
    # Each row of a batch for itself, of whatever rank it is.
    (f32([[1, 2, 3], [6, 5, 4]]), 1, (2, 1), ["3.0:2", "6.0:0"]),
    (f32([[1, 2, 3], [6, 5, 4]]), 2, (2, 2), ["3.0:2", "2.0:1", "6.0:0", "5.0:1"]),
    (np.arange(12, dtype=np.int8).reshape(2, 2, 3), 2, (2, 2), ["5:5", "4:4", "11:5", "10:4"]),
    (f32([[[[7]]]]), 1, (1, 1), ["7.0:0"]),
    # No more than there are.
    (f32([[1, 2]]), 1000, (1, 2), ["2.0:1", "1.0:0"]),
    (np.arange(2), 2**60, (2,), ["1:1", "0:0"]),
    # Of equal values the first is first.
    (np.array([7, 7, 9, 7]), 3, (3,), ["9:2", "7:0", "7:1"]),
    (f32([0.0, -0.0]), 2, (2,), ["0.0:0", "-0.0:1"]),
    (np.zeros(100, np.uint8), 3, (3,), ["0:0", "0:1", "0:2"]),
    # What is no number is less than any.
    (f32([NAN, -INF, NAN, 1, INF]), 5, (5,), ["Infinity:4", "1.0:3", "-Infinity:1", "NaN:0", "NaN:2"]),
    (f32([NAN, 1, NAN, 3, 2]), 2, (2,), ["3.0:3", "2.0:4"]),
    (f32([NAN, 1, NAN]), 2, (2,), ["1.0:1", "NaN:0"]),
    (f32([[NAN, NAN], [1, NAN]]), 1, (2, 1), ["NaN:0", "1.0:0"]),
    (np.array([NAN, 2], BFLOAT16), 2, (2,), ["2.0:1", "NaN:0"]),
    # Values as short as they can be, and no shorter.
    (f32([0.1, 1e-7]), 2, (2,), ["0.1:0", "1e-7:1"]),
    (np.array([0.1]), 1, (1,), ["0.1:0"]),
    (np.array([1.5, 2.5], np.float16), 1, (1,), ["2.5:1"]),
    # Nothing to classify.
    (f32([]), 2, (0,), []),
    (np.zeros((0, 3)), 2, (0, 2), []),
    (np.zeros((3, 0)), 2, (3, 0), []),
    (np.zeros((10**9, 0)), 2, (10**9, 0), []),
]


@pytest.mark.parametrize(("array", "classes", "shape", "strings"), CASES)
def test_the_largest_are_told_so(array: NDArray[Any], classes: int, shape: tuple[int, ...], strings: list[str]) -> None:
    given = classify("y", array, classes)
    assert (given.dtype, given.shape) == (STRING, shape)
    assert given.ravel().tolist() == [string.encode() for string in strings]


@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_integers_are_compared_as_such(dtype: Dtype) -> None:
    low, high = limits(dtype)
    array = np.array([low, high, low + 1, high - 1], dtype)
    wanted = [f"{high}:1", f"{high - 1}:3", f"{low + 1}:2", f"{low}:0"]
    for classes in range(1, 5):
        assert classify("y", array, classes).tolist() == [text.encode() for text in wanted[:classes]]


@pytest.mark.parametrize("dtype", [*FLOATS, *INTS], ids=str)
def test_an_array_is_classified_alike_however_it_lies_in_memory(dtype: Dtype) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    wanted = classify("y", array, 2).tolist()
    for other in (np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2]):
        assert classify("y", other, 2).tolist() == wanted


@settings(deadline=None, derandomize=True)
@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.sampled_from([0, 1, 2, NAN])
    ),
    st.integers(1, 8),
)
def test_they_are_those_of_a_plain_sort(array: NDArray[Any], classes: int) -> None:
    def by_value(row: NDArray[Any]) -> list[int]:
        return sorted(range(row.size), key=lambda i: (-INF if np.isnan(row[i]) else row[i], -i), reverse=True)

    given = [[int(text.split(b":")[1]) for text in row] for row in classify("y", array, classes).tolist()]
    assert given == [by_value(row)[:classes] for row in array]


REFUSED = [
    (np.array([b"a"], object), 1, "output 'y' cannot be classified: .*unsupported type 'BYTES'; want numbers"),
    (np.array([True], BOOL), 1, "unsupported type 'BOOL'"),
    (f32(1), 1, "output 'y' has one value and no dimension"),
    (np.zeros((2, MAX_STRINGS), np.uint8), MAX_STRINGS, f"would have {2 * MAX_STRINGS} classifications; want"),
    (np.zeros((MAX_STRINGS + 1, 1), np.uint8), 1, "want 65536 at most"),
]


@pytest.mark.parametrize(("array", "classes", "message"), REFUSED)
def test_what_cannot_be_classified_is_refused(array: NDArray[Any], classes: int, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        classify("y", array, classes)
