"""Which shapes a tensor spec admits."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.signature import TensorSpec


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
