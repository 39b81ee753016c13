"""Answers in JSON: their form, and that every number reads back as it was."""

from __future__ import annotations

import base64
import json
import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from runtime.codecs.json_answer import encode
from runtime.errors import InvalidRequest
from runtime.servable import Tensors
from runtime.signature import Dtype
from tests.runtime.codecs.specs import (
    BFLOAT16,
    DTYPES,
    FLOATS,
    INTS,
    arrays,
    assert_same,
    is_float,
    limits,
    string_arrays,
)

reproducibly = settings(deadline=None, derandomize=True)


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def strings(values: Any) -> NDArray[Any]:
    return np.array(values, object)


ONE: Tensors = {"y": f32([[1, 2.5], [-3, 4]])}
TWO: Tensors = {"y": f32([1, 2]), "z": np.array([[1, 2], [3, 4]], np.int64)}

ANSWERS: list[tuple[Tensors, bool, str]] = [
    # Rows: one output has no name, several are an object a row.
    (ONE, True, '{"predictions":[[1.0,2.5],[-3.0,4.0]]}'),
    (TWO, True, '{"predictions":[{"y":1.0,"z":[1,2]},{"y":2.0,"z":[3,4]}]}'),
    ({"y": f32([1, 2])}, True, '{"predictions":[1.0,2.0]}'),
    ({"y": f32([[[1]], [[2]]])}, True, '{"predictions":[[[1.0]],[[2.0]]]}'),
    # Columns: one output has no name, several are one object.
    (ONE, False, '{"outputs":[[1.0,2.5],[-3.0,4.0]]}'),
    (TWO, False, '{"outputs":{"y":[1.0,2.0],"z":[[1,2],[3,4]]}}'),
    ({"y": f32(1)}, False, '{"outputs":1.0}'),
    ({"y": f32(1), "z": np.array(True)}, False, '{"outputs":{"y":1.0,"z":true}}'),
    ({"y": f32([1, 2]), "z": np.array([1, 2, 3], np.uint8)}, False, '{"outputs":{"y":[1.0,2.0],"z":[1,2,3]}}'),
    # Nothing in it.
    ({"y": f32([])}, True, '{"predictions":[]}'),
    ({"y": np.zeros((0, 3), np.float32)}, True, '{"predictions":[]}'),
    ({"y": np.zeros((0, 3), np.float32), "z": np.zeros((0,), np.int64)}, True, '{"predictions":[]}'),
    ({"y": np.zeros((2, 0), np.float32)}, True, '{"predictions":[[],[]]}'),
    (
        {"y": np.zeros((2, 0), np.float32), "z": f32([1, 2])},
        True,
        '{"predictions":[{"y":[],"z":1.0},{"y":[],"z":2.0}]}',
    ),
    ({"y": f32([])}, False, '{"outputs":[]}'),
    ({"y": np.zeros((0, 3), np.float32)}, False, '{"outputs":[]}'),
    ({"y": np.zeros((2, 0, 3), np.float32)}, False, '{"outputs":[[],[]]}'),
    ({"y": np.zeros((1, 2, 0), np.float32)}, False, '{"outputs":[[[],[]]]}'),
    # Not finite.
    ({"y": f32([np.nan, np.inf, -np.inf, 1])}, True, '{"predictions":[NaN,Infinity,-Infinity,1.0]}'),
    ({"y": f32([[1, np.nan], [-np.inf, np.inf]])}, False, '{"outputs":[[1.0,NaN],[-Infinity,Infinity]]}'),
    ({"y": f32(np.nan)}, False, '{"outputs":NaN}'),
    ({"y": f32(-np.inf), "z": f32([np.nan])}, False, '{"outputs":{"y":-Infinity,"z":[NaN]}}'),
    # Strings; a name that ends in _bytes asks for base64 (json_tensor_test.cc, FromJsonSingleBytesTensor and
    # FromJsonMultipleNamedTensors).
    ({"y": strings([b"a", 'é\n"'.encode()])}, True, '{"predictions":["a","é\\n\\""]}'),
    ({"y": strings(b"a")}, False, '{"outputs":"a"}'),
    ({"y": strings([])}, True, '{"predictions":[]}'),
    ({"y": strings([[], []])}, True, '{"predictions":[[],[]]}'),
    (
        {"str_tensor_bytes": strings([[b"hello", b"world"], [b"tf", b"serving"]])},
        True,
        '{"predictions":[[{"b64":"aGVsbG8="},{"b64":"d29ybGQ="}],[{"b64":"dGY="},{"b64":"c2VydmluZw=="}]]}',
    ),
    ({"y_bytes": strings(b"hello")}, False, '{"outputs":{"b64":"aGVsbG8="}}'),
    ({"y_bytes": f32([1])}, True, '{"predictions":[1.0]}'),
    (
        {"s": strings([[b"foo"], [b"bar"]]), "t_bytes": strings([b"tf", b""]), "f": f32([1, np.nan])},
        True,
        '{"predictions":[{"s":["foo"],"t_bytes":{"b64":"dGY="},"f":1.0},{"s":["bar"],"t_bytes":{"b64":""},"f":NaN}]}',
    ),
    (
        {"s": strings([b"null", b'"null']), "f": f32([np.inf, np.nan])},
        False,
        '{"outputs":{"s":["null","\\"null"],"f":[Infinity,NaN]}}',
    ),
    # What is no UTF-8 cannot be a JSON string, and then all of that output are base64; TensorFlow Serving's is no JSON.
    ({"y": strings([b"ok", b"\xff"])}, True, '{"predictions":[{"b64":"b2s="},{"b64":"/w=="}]}'),
    # The order of what is not finite, over rows and outputs, with outputs between that cannot be other than finite.
    (
        {"a": f32([np.inf, np.nan]), "b": np.array([True, False]), "c": np.array([[1, -np.inf], [np.inf, np.nan]])},
        True,
        '{"predictions":[{"a":Infinity,"b":true,"c":[1.0,-Infinity]},{"a":NaN,"b":false,"c":[Infinity,NaN]}]}',
    ),
    (
        {
            "c": np.array([[1, -np.inf], [np.inf, np.nan]]),
            "i": np.array([1, 2]),
            "a": np.array([np.nan, 1], np.float16),
        },
        False,
        '{"outputs":{"c":[[1.0,-Infinity],[Infinity,NaN]],"i":[1,2],"a":[NaN,1.0]}}',
    ),
]


@pytest.mark.parametrize(("outputs", "is_row", "text"), ANSWERS)
def test_an_answer_has_the_form_of_its_request(outputs: Tensors, is_row: bool, text: str) -> None:
    assert encode(outputs, is_row) == text.encode()


ODD = np.array([np.nan, np.inf, -np.inf, 1.5, -2])


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [(np.float16, (20_000,)), (np.float32, (7, 10_000)), (np.float64, (10_000, 7)), (np.float16, (1, 70_000))],
)
def test_what_is_not_finite_stays_where_it_is_in_long_answers(dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).choice(ODD.astype(dtype), shape)
    other = np.random.default_rng(1).choice(ODD, (shape[0], 3))
    texts = strings(["null,", '"null', "n" * 300, ""] * shape[0])[: shape[0]]
    texts[:] = [text.encode() for text in texts]
    outputs = {"y": array, "null": other, 'a "name"': texts}
    columns = json.loads(encode(outputs, False))["outputs"]
    rows = json.loads(encode(outputs, True))["predictions"]
    for name, wanted in (("y", array), ("null", other)):
        np.testing.assert_array_equal(np.array(columns[name], wanted.dtype), wanted)
        np.testing.assert_array_equal(np.array([row[name] for row in rows], wanted.dtype), wanted)
    assert columns['a "name"'] == [row['a "name"'] for row in rows] == [text.decode() for text in texts]
    np.testing.assert_array_equal(np.array(json.loads(encode({"y": array}, True))["predictions"], dtype), array)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize(
    "outputs",
    [
        {"y": np.empty(500_000, np.float16)},
        {"y": np.empty((50, 10_000), np.float16)},
        {"y": np.empty((50, 9_000), np.float16), "z": np.empty((50, 100), np.float32)},
    ],
    ids=["flat", "rows", "rows of two"],
)
def test_what_is_not_finite_takes_memory_in_proportion_to_its_text(outputs: Tensors, value: float) -> None:
    for array in outputs.values():
        array.fill(value)
    encode({"y": f32([np.nan] * 2000)}, True)
    tracemalloc.start()
    try:
        encode(outputs, True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # As pieces to be joined, all at once, each took 200 bytes; orjson itself takes 32 of a vector.
    assert peak < 80 * sum(array.size for array in outputs.values())


REFUSED: list[tuple[Tensors, str]] = [
    ({"y": f32(1)}, "Tensor name: y has no shape information"),
    ({"y": f32([1]), "z": f32(1)}, "Tensor name: z has no shape information"),
    ({"y": f32([1, 2]), "z": f32([1])}, "Tensor name: z has inconsistent batch size: 1 expecting: 2"),
    ({"y": f32([]), "z": f32([1])}, "Tensor name: z has inconsistent batch size: 1 expecting: 0"),
]


@pytest.mark.parametrize(("outputs", "message"), REFUSED)
def test_rows_of_what_has_no_rows_are_refused(outputs: Tensors, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        encode(outputs, True)
    assert encode(outputs, False)


@pytest.mark.parametrize("is_row", [True, False], ids=["rows", "columns"])
def test_no_outputs_are_refused(is_row: bool) -> None:
    with pytest.raises(InvalidRequest, match="Cannot convert empty tensor map to JSON"):
        encode({}, is_row)


HARD_NAMES = ["null", 'a"null', "\\", '\\"null\\"', "a,null,b", "é ☃ 𝄞", "\n\t\x00", "NaN", "", "[null]"]


@pytest.mark.parametrize("name", HARD_NAMES)
@pytest.mark.parametrize("is_row", [True, False], ids=["rows", "columns"])
def test_names_stay_as_they_are_beside_what_is_not_finite(name: str, is_row: bool) -> None:
    outputs = {name: f32([np.nan, 1]), "other": f32([np.inf, -np.inf]), f"{name}null": f32([1, np.nan])}
    answer = json.loads(encode(outputs, is_row))
    if is_row:
        rows = answer["predictions"]
        columns = {key: [row[key] for row in rows] for key in rows[0]}
    else:
        columns = answer["outputs"]
    assert columns.keys() == outputs.keys()
    for key, array in outputs.items():
        np.testing.assert_array_equal(columns[key], array)


@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_integers_are_written_up_to_their_limits(dtype: Dtype) -> None:
    low, high = limits(dtype)
    assert json.loads(encode({"y": np.array([low, high, 0], dtype)}, True)) == {"predictions": [low, high, 0]}
    assert json.loads(encode({"y": np.array(high, dtype)}, False)) == {"outputs": high}


def test_booleans_are_written_as_such() -> None:
    assert encode({"y": np.array([[True], [False]])}, True) == b'{"predictions":[[true],[false]]}'


FLOAT = re.compile(r"-?[0-9]+(\.[0-9]+([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)|NaN|-?Infinity")


@reproducibly
@given(arrays(), st.booleans())
def test_every_array_reads_back_as_it_was(array: NDArray[Any], is_row: bool) -> None:
    if is_row and not array.ndim:
        return
    text = encode({"y": array}, is_row)
    check(array, json.loads(text)["predictions" if is_row else "outputs"])
    if is_float(array.dtype):
        assert all(FLOAT.fullmatch(number) for number in re.findall(r"[^\[\],{}:]+", text.decode().split(":", 1)[1]))


@reproducibly
@given(string_arrays(st.binary(max_size=5)), st.sampled_from(["y", "y_bytes"]))
def test_every_string_reads_back_as_it_was(array: NDArray[Any], name: str) -> None:
    value = json.loads(encode({name: array}, False))["outputs"]
    flat: list[Any] = [value]
    for _ in array.shape:
        flat = [element for values in flat for element in values]
    kinds = {type(element) for element in flat}
    assert len(kinds) <= 1
    assert kinds != {str} or name == "y"
    given = [base64.b64decode(x["b64"], validate=True) if isinstance(x, dict) else x.encode() for x in flat]
    assert given == array.ravel().tolist()


@reproducibly
@given(st.lists(arrays(), min_size=2, max_size=3), st.integers(1, 3))
def test_rows_of_several_arrays_read_back_as_they_were(parts: list[NDArray[Any]], size: int) -> None:
    outputs = {f"y{i}": np.stack([part] * size) for i, part in enumerate(parts)}
    rows = json.loads(encode(outputs, True))["predictions"]
    assert len(rows) == size
    for name, array in outputs.items():
        check(array, [row[name] for row in rows])


def check(array: NDArray[Any], value: Any) -> None:
    shape = array.shape
    # Nothing is left in JSON of the sizes behind a size of 0.
    visible = shape[: shape.index(0) + 1] if 0 in shape else shape
    read = np.array(value, np.float64 if is_float(array.dtype) else array.dtype).astype(array.dtype)
    assert_same(read, array.reshape(visible))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(hnp.arrays(np.uint32, 8).map(lambda bits: bits.view(np.float32)))
def test_float32_is_written_in_no_more_digits_than_it_needs(array: NDArray[np.float32]) -> None:
    finite = array[np.isfinite(array)]
    numbers = encode({"y": finite}, True).decode().removeprefix('{"predictions":[').removesuffix("]}")
    for text, number in zip(filter(None, numbers.split(",")), finite, strict=True):
        shortest = np.format_float_scientific(number, unique=True, trim="-")
        assert len(significant(text)) <= len(significant(shortest))
        assert np.float32(text).tobytes() == number.tobytes()


def significant(text: str) -> str:
    digits = re.split("[eE]", text.lstrip("-"))[0].replace(".", "").lstrip("0").rstrip("0")
    return digits or "0"


@pytest.mark.parametrize("text", ["0.1", "0.33333334", "16777216.0", "-0.0", "1e-45", "3.4028235e38", "1.1754944e-38"])
def test_float32_is_written_as_such_and_not_as_the_double_it_would_be(text: str) -> None:
    (given,) = json.loads(encode({"y": f32([float(text)])}, True), parse_float=str)["predictions"]
    assert significant(given) == significant(text)
    assert given.startswith("-") is text.startswith("-")


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_limits_of_floats_read_back(dtype: Dtype) -> None:
    # All bits but one of the exponent: the largest; one bit: the least; and the sign of zero.
    width = 8 * dtype.itemsize
    bits = np.array([1, 1 << (width - 1), (1 << (width - 1)) | 1], f"u{dtype.itemsize}")
    array = np.concatenate([bits.view(dtype), np.array([np.finfo(np.float16).max, np.inf, -np.inf, np.nan], dtype)])
    check(array, json.loads(encode({"y": array}, True))["predictions"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_row", [True, False], ids=["rows", "columns"])
def test_an_array_is_written_alike_however_it_lies_in_memory(dtype: Dtype, is_row: bool) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    text = encode({"y": array}, is_row)
    for other in (np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2], array[::-1][::-1]):
        assert encode({"y": other}, is_row) == text


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != BFLOAT16], ids=str)
@pytest.mark.parametrize("is_row", [True, False], ids=["rows", "columns"])
def test_an_array_is_written_alike_in_either_byte_order(dtype: Dtype, is_row: bool) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    assert encode({"y": array.astype(dtype.newbyteorder())}, is_row) == encode({"y": array}, is_row)
