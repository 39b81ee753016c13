"""What a request may bring to a signature, and TensorFlow Serving's texts for what it may not.

Source: tensorflow_serving's ``servables/tensorflow/predict_util.cc``; the text on dtypes is the executor's, which
``predict_impl_test.cc`` quotes.
"""

from __future__ import annotations

import re
import time

import ml_dtypes
import numpy as np
import pytest

from runtime.errors import InvalidRequest
from runtime.inputs import check_inputs, check_names
from runtime.signature import Dtype, TensorSpec

F32 = np.dtype(np.float32)


def specs(**dtypes: Dtype) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, dtype, (-1,)) for name, dtype in dtypes.items()}


@pytest.mark.parametrize(
    ("wanted", "given", "text"),
    [
        (
            ["x"],
            ["b", "a"],
            "input size does not match signature: 2!=1 len({a,b}) != len({x}). Sent extra: {a,b}. "
            "Missing but required: {x}.",
        ),
        (
            ["x", "y"],
            ["x"],
            "input size does not match signature: 1!=2 len({x}) != len({x,y}). Sent extra: {}. "
            "Missing but required: {y}.",
        ),
        (
            ["x", "y"],
            [],
            "input size does not match signature: 0!=2 len({}) != len({x,y}). Sent extra: {}. "
            "Missing but required: {x,y}.",
        ),
        (
            ["x"],
            ["z"],
            "Signature input alias: x(feed name: x) not found in request and no default value provided. Inputs "
            "expected to be in the request {z}, or default input alias set: ",
        ),
        (
            ["b", "a", "c"],
            ["c", "z", "y"],
            "Signature input alias: a(feed name: a) not found in request and no default value provided. Inputs "
            "expected to be in the request {c,y,z}, or default input alias set: ",
        ),
    ],
)
def test_names_that_are_not_the_signatures(wanted: list[str], given: list[str], text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(text)}"):
        check_names(specs(**dict.fromkeys(wanted, F32)), given)


def test_names_in_any_order_are_the_signatures() -> None:
    check_names(specs(a=F32, b=F32), ["b", "a"])


def test_a_long_list_of_names_is_cut() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_names(specs(x=F32), [f"name{i}" for i in range(100_000)])
    assert len(str(caught.value)) < 1000


def test_a_million_names_take_little_time() -> None:
    """A message of a few megabytes may have them."""
    names = {f"{i}": None for i in range(1_000_000)}
    began = time.process_time()
    with pytest.raises(InvalidRequest, match="1000000!=1"):
        check_names(specs(x=F32), names)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("wanted", "given", "text"),
    [
        (np.dtype(np.float32), np.dtype(np.bool_), "Expects arg[1] to be float but bool is provided"),
        (np.dtype(np.float64), np.dtype(np.float32), "Expects arg[1] to be double but float is provided"),
        (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), "Expects arg[1] to be half but bfloat16 is provided"),
        (np.dtype(np.uint8), np.dtype(np.int64), "Expects arg[1] to be uint8 but int64 is provided"),
        (np.dtype(object), np.dtype(np.int32), "Expects arg[1] to be string but int32 is provided"),
    ],
)
def test_a_dtype_that_is_not_the_signatures(wanted: Dtype, given: Dtype, text: str) -> None:
    arrays = {"a": np.zeros(1, np.float32), "b": np.zeros(1, given)}
    with pytest.raises(InvalidRequest, match=f"^input 'b' has dtype .*{re.escape(text)}$"):
        check_inputs(specs(a=F32, b=wanted), arrays)
