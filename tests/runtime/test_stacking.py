"""Requests stacked into batches and answers cut out of them, as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.errors import InvalidRequest
from runtime.stacking import join, rows_of, stack, unstack
from tests.runtime.models import DTYPES

STRING = np.dtype(object)


def of(dtype: Any, *rows: Any) -> NDArray[Any]:
    return np.array(rows, dtype)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_dtype_is_stacked_and_padded_as_what_it_is(dtype: Any) -> None:
    stacked = stack([{"x": of(dtype, [1], [0])}, {"x": of(dtype, [0])}], 4)["x"]
    assert stacked.dtype == dtype
    assert stacked.astype(int).tolist() == [[1], [0], [0], [1]]


def test_strings_are_stacked_and_padded() -> None:
    short, long = of(STRING, [b"a"]), of(STRING, [b"b", b"a longer one"])
    assert stack([{"x": short}, {"x": short}], 3)["x"].tolist() == [[b"a"], [b"a"], [b"a"]]
    assert stack([{"x": short}, {"x": long}], 2)["x"].tolist() == [[b"a", b"a"], [b"b", b"a longer one"]]


def test_what_is_shorter_is_padded_with_its_own_first_element_and_missing_rows_are_the_first() -> None:
    wide = of(np.int32, [[1, 2, 3]])
    high = of(np.int32, [[4], [5]], [[6], [7]])
    assert stack([{"x": wide}, {"x": high}], 4)["x"].tolist() == [
        [[1, 2, 3], [1, 1, 1]],
        [[4, 4, 4], [5, 4, 4]],
        [[6, 4, 4], [7, 4, 4]],
        [[1, 2, 3], [1, 1, 1]],
    ]


def test_each_input_is_stacked_by_its_name() -> None:
    parts = [{"a": of(np.int32, n), "b": of(np.float32, [n, -n])} for n in (1, 2)]
    stacked = stack(parts, 2)
    assert stacked["a"].tolist() == [1, 2]
    assert stacked["b"].tolist() == [[1, -1], [2, -2]]


sizes = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@given(sizes, st.integers(0, 4), st.lists(st.integers(1, 3), max_size=2))
def test_what_is_stacked_comes_apart_again(sizes: list[int], padding: int, inner: list[int]) -> None:
    parts = [{"x": np.full((size, *inner), number)} for number, size in enumerate(sizes)]
    rows = sum(sizes) + padding
    apart = unstack(stack(parts, rows), sizes, rows)
    assert apart is not None
    assert [part["x"].tolist() for part in apart] == [part["x"].tolist() for part in parts]
    whole = join(apart, sum(sizes))
    assert whole is not None
    assert whole["x"].tolist() == np.concatenate([part["x"] for part in parts]).tolist()


def test_the_parts_of_an_answer_share_no_memory() -> None:
    apart = unstack({"y": np.zeros((4, 2))}, [1, 3], 4)
    assert apart is not None
    one, three = (part["y"] for part in apart)
    assert not np.shares_memory(one, three)
    assert three.flags.c_contiguous


@pytest.mark.parametrize("shape", [(), (3,), (5, 4), (1, 4)])
def test_an_output_that_is_not_by_rows_cannot_come_apart(shape: tuple[int, ...]) -> None:
    assert unstack({"good": np.zeros(4), "y": np.zeros(shape)}, [1, 3], 4) is None


def test_answers_of_other_shapes_cannot_be_joined() -> None:
    assert join([{"y": np.zeros((3, 1))}, {"y": np.zeros((2, 2))}], 5) is None


def test_inputs_have_as_many_rows_as_all_of_them() -> None:
    assert rows_of({"a": np.zeros((3, 1)), "b": np.zeros(3)}) == 3
    with pytest.raises(
        InvalidRequest,
        match=r"^Batching Run\(\) input tensors must have equal 0th-dimension size; input 'a' has 3, 'b' has 2$",
    ):
        rows_of({"a": np.zeros((3, 1)), "b": np.zeros(2)})
