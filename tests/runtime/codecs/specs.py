"""Tensor specs and arrays as the tests of the codecs write them down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from runtime.servable import Tensors
from runtime.signature import Dtype, TensorSpec

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS: list[Dtype] = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
INTS: list[Dtype] = [np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
BOOL: Dtype = np.dtype(np.bool_)
STRING: Dtype = np.dtype(object)
DTYPES: list[Dtype] = [*FLOATS, *INTS, BOOL]


def specs(**dtypes: Any) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, np.dtype(dtype), None) for name, dtype in dtypes.items()}


def arrays(dtype: Dtype | None = None) -> st.SearchStrategy[NDArray[Any]]:
    """Small arrays of every rank up to 4, of any dtype if none is given."""
    if dtype is None:
        return st.sampled_from(DTYPES).flatmap(arrays)
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    # Hypothesis knows numpy's own dtypes only.
    return hnp.arrays(np.uint16, shapes).map(_as_bfloat16) if dtype == BFLOAT16 else hnp.arrays(dtype, shapes)


def string_arrays(elements: st.SearchStrategy[bytes]) -> st.SearchStrategy[NDArray[Any]]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    return shapes.flatmap(
        lambda shape: st.lists(elements, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))).map(
            lambda values: np.array(values, STRING).reshape(shape)
        )
    )


def _as_bfloat16(bits: NDArray[np.uint16]) -> NDArray[Any]:
    return bits.view(BFLOAT16)


def limits(dtype: Dtype) -> tuple[int, int]:
    bits = 8 * dtype.itemsize
    return (0, 2**bits - 1) if dtype.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def is_float(dtype: Dtype) -> bool:
    return dtype in FLOATS


def assert_same(given: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Alike in dtype, shape and every bit, but that one NaN is like another."""
    assert (given.dtype, given.shape) == (wanted.dtype, wanted.shape)
    if wanted.dtype == STRING:
        # Its bytes are addresses.
        assert given.tolist() == wanted.tolist()
        return
    assert given.dtype.isnative
    if is_float(wanted.dtype):
        nans = np.isnan(wanted)
        np.testing.assert_array_equal(np.isnan(given), nans)
        given, wanted = given[~nans], wanted[~nans]
    assert given.tobytes() == wanted.tobytes()


def assert_all_same(given: Tensors, wanted: Mapping[str, NDArray[Any]]) -> None:
    assert given.keys() == wanted.keys()
    for name in wanted:
        assert_same(given[name], wanted[name])
