"""Which shapes a tensor spec admits."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import InvalidRequest
from runtime.signature import TensorSpec

F32 = np.dtype(np.float32)


@pytest.mark.parametrize(
    ("wanted", "given", "admits"),
    [
        ((), (), True),
        ((), (1,), False),
        ((3,), (3,), True),
        ((3,), (4,), False),
        ((3,), (3, 1), False),
        ((3,), (), False),
        ((-1,), (0,), True),
        ((-1,), (10**9,), True),
        ((-1, 2), (5, 2), True),
        ((-1, 2), (2, 5), False),
        ((0,), (0,), True),
        ((0,), (1,), False),
        (None, (), True),
        (None, (1, 2, 3), True),
    ],
)
def test_a_spec_admits_its_sizes_and_any_where_it_is_open(
    wanted: tuple[int, ...] | None, given: tuple[int, ...], admits: bool
) -> None:
    assert TensorSpec("x", np.dtype(np.float32), wanted).admits(given) is admits


@pytest.mark.parametrize(("size", "admits"), [(1, False), (2, True), (6, True), (7, False), (0, False)])
def test_a_dimension_with_bounds_admits_what_is_within_them(size: int, admits: bool) -> None:
    spec = TensorSpec("x", F32, (3, -1, -1), bounds=((3, 3), (2, 6), (1, -1)))
    assert spec.admits((3, size, 10**9)) is admits
    assert not spec.admits((3, 3, 0))
    assert not spec.admits((4, 3, 3))
    assert not spec.admits((3, 3))


@pytest.mark.parametrize(
    ("spec", "given", "text"),
    [
        (
            TensorSpec("b", F32, (1, 10)),
            (1, 11),
            "want (1, 10): Invalid input shape - Expected: (1,10); Actual: (1,11); input name: b",
        ),
        (
            TensorSpec("b", F32, (1, 10)),
            (2, 11),
            "want (1, 10): Invalid input batch size - Expected: 1; Actual: 2; input name: b",
        ),
        (
            TensorSpec("b", F32, (1, 10)),
            (1, 10, 1),
            "want (1, 10): Invalid number of shape dimensions - Expected: (1,10); Actual: (1,10,1); input name: b",
        ),
        (
            TensorSpec("b", F32, (4, 2), "CN"),
            (5, 2),
            "want (4, 2): Invalid input shape - Expected: (4,2); Actual: (5,2); input name: b",
        ),
        (
            TensorSpec("b", F32, (4, 2), "CN"),
            (4, 3),
            "want (4, 2): Invalid input batch size - Expected: 2; Actual: 3; input name: b",
        ),
        (
            TensorSpec("b", F32, (4, 2), "HW"),
            (5, 2),
            "want (4, 2): Invalid input shape - Expected: (4,2); Actual: (5,2); input name: b",
        ),
        (
            TensorSpec("b", F32, (4, 2), "...N"),
            (5, 2),
            "want (4, 2): Invalid input shape - Expected: (4,2); Actual: (5,2); input name: b",
        ),
        (
            TensorSpec("b", F32, (-1,), bounds=((1, 8),)),
            (9,),
            "want (1:8,): Invalid input batch size - Expected: [1~8]; Actual: 9; input name: b",
        ),
        (
            TensorSpec("b", F32, (1, -1), bounds=((1, 1), (2, -1))),
            (1, 1),
            "want (1, 2:-1): Invalid input shape - Expected: (1,[2~-1]); Actual: (1,1); input name: b",
        ),
        (
            TensorSpec("b", F32, ()),
            (1,),
            "want (): Invalid number of shape dimensions - Expected: (); Actual: (1); input name: b",
        ),
    ],
)
def test_what_is_refused_is_told_in_model_servers_words_too(
    spec: TensorSpec, given: tuple[int, ...], text: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        spec.require(given)
    assert str(caught.value) == f"input 'b' has shape {given}; {text}"
