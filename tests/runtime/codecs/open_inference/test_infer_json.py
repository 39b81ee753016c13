"""Requests of REST: what is taken, and what is said of the rest."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.codecs.open_inference import infer_json, raw
from runtime.codecs.open_inference.datatypes import datatype_of, dtype_of
from runtime.codecs.open_inference.inference import InferRequest
from runtime.errors import DeadlineExceeded, InvalidRequest
from runtime.signature import TensorSpec
from tests.runtime import image_samples
from tests.runtime.codecs.specs import BFLOAT16, STRING, arrays, assert_same, string_arrays

X = {"name": "x", "shape": [1, 4], "datatype": "FP32"}
DATA = {**X, "data": [1, 2, 3, 4]}
FLOATS = np.array([1, 2, 3, 4], np.float32).tobytes()


def body(*inputs: Any, **others: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **others}).encode()


def parse(text: bytes, tail: bytes | None = None) -> InferRequest:
    """Parse JSON, with its size in the header if something is behind it."""
    return infer_json.parse(text + (tail or b""), None if tail is None else len(text))


def read(request: InferRequest) -> Mapping[str, NDArray[Any]]:
    return {one.name: one.read(None) for one in request.inputs}


def x(datatype: str, shape: Any, data: Any) -> NDArray[Any]:
    """Return what is read of one input."""
    (one,) = parse(body({"name": "x", "shape": shape, "datatype": datatype, "data": data})).inputs
    array = one.read(None)
    assert (array.dtype, array.shape) == (one.dtype, one.shape)
    assert datatype_of(one.dtype) == datatype
    return array


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "wanted"),
    [
        ("FP32", [4], [1, 2.5, -0.0, 1e-50], [1, 2.5, -0.0, 0]),
        ("FP32", [2, 2], [1, 2, 3, 4], [[1, 2], [3, 4]]),
        ("FP32", [2, 2], [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ("FP32", [1, 2, 1], [[[1], [2]]], [[[1], [2]]]),
        ("FP32", [], [1], 1),
        ("FP32", [], 1, 1),
        ("BYTES", [], "a", b"a"),
        ("FP32", [0], [], []),
        ("FP32", [2, 0], [], [[], []]),
        ("FP32", [2, 0], [[], []], [[], []]),
        ("FP32", [0, 3], [], []),
        ("INT64", [2], [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
        ("UINT64", [2], [0, 2**64 - 1], [0, 2**64 - 1]),
        ("FP64", [2], [0.1, 1e308], [0.1, 1e308]),
        ("FP64", [1], [2**53 + 2], [2**53 + 2]),
        ("FP16", [3], [1.5, 65504, 1e9], [1.5, 65504, np.inf]),
        ("BF16", [2], [1.5, 1e39], [1.5, np.inf]),
        ("FP32", [2], [1e39, -1e39], [np.inf, -np.inf]),
        ("FP32", [3], [float("nan"), float("inf"), float("-inf")], [np.nan, np.inf, -np.inf]),
        ("INT8", [2], [-128, 127], [-128, 127]),
        ("UINT8", [1], [255], [255]),
        ("BOOL", [1, 2], [True, False], [[True, False]]),
        ("BOOL", [1, 2], [[1, 0]], [[True, False]]),
        ("BOOL", [2], [1, False], [True, False]),
        ("BYTES", [2, 1], ["a", "ä\0["], [[b"a"], ["ä\0[".encode()]]),
        ("BYTES", [2, 1], [["a"], [""]], [[b"a"], [b""]]),
    ],
)
def test_data_may_be_flat_or_nested(datatype: str, shape: Any, data: Any, wanted: Any) -> None:
    dtype = dtype_of(datatype)
    assert dtype is not None
    assert_same(x(datatype, shape, data), np.array(wanted, dtype).reshape(shape))


def test_half_floats_are_rounded_once() -> None:
    # Halfway but for a bit that a float of 32 bits does not have.
    assert x("FP16", [1], [1 + 2**-11 + 2**-40]).tolist() == [1 + 2**-10]


def named(name: str, array: NDArray[Any], way: str) -> tuple[dict[str, Any], bytes]:
    """Return an input and what it has behind the JSON."""
    one: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype_of(array.dtype)}
    if way in ("sized", "unsized"):
        data = bytes(raw.encode(array))
        if way == "sized":
            one["parameters"] = {"binary_data_size": len(data)}
        return one, data
    values: NDArray[Any] = array
    if array.dtype == STRING:
        values = np.array([value.decode() for value in array.ravel().tolist()], object).reshape(array.shape)
    elif array.dtype == BFLOAT16:
        values = array.astype(np.float64)
    one["data"] = values.ravel().tolist() if way == "flat" else values.tolist()
    return one, b""


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4).map(str.encode)
ways = st.sampled_from(["flat", "nested", "sized", "unsized"])


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.lists(st.tuples(arrays() | string_arrays(texts), ways), min_size=1, max_size=3), st.text("[{x\\", max_size=1))
def test_what_is_sent_is_read_bit_by_bit(sent: list[tuple[NDArray[Any], str]], odd: str) -> None:
    # Only the last may leave to the server how many bytes its strings have.
    sent = [
        (array, "sized" if way == "unsized" and array.dtype == STRING and i < len(sent) - 1 else way)
        for i, (array, way) in enumerate(sent)
    ]
    inputs = [named(f"{odd}{i}", array, way) for i, (array, way) in enumerate(sent)]
    request = parse(body(*[one for one, _ in inputs]), b"".join(data for _, data in inputs))
    assert [one.name for one in request.inputs] == [f"{odd}{i}" for i in range(len(sent))]
    for one, (array, _) in zip(request.inputs, sent, strict=True):
        assert_same(one.read(None), array)
        # A request that is begun again reads again.
        assert_same(one.read(None), array)


def test_all_of_a_request_is_read() -> None:
    request = parse(
        body(
            {**DATA, "parameters": {"a": 1}},
            id="7",
            parameters={"binary_data_output": True, "b": "c", "d": 0.5, "e": False, "f": 2**64 - 1},
            outputs=[
                {"name": "y"},
                {"name": "z", "parameters": {"binary_data": False, "classification": 3, "g": 1}},
            ],
            model_name="not looked at",
        )
    )
    assert (request.id, request.is_binary) == ("7", True)
    assert request.parameters == {"binary_data_output": True, "b": "c", "d": 0.5, "e": False, "f": 2**64 - 1}
    assert request.inputs[0].parameters == {"a": 1}
    plain, special = request.outputs
    assert plain == ("y", None, 0, {})
    assert special == ("z", False, 3, {"binary_data": False, "classification": 3, "g": 1})


def test_what_may_be_left_out_may_be_null() -> None:
    """As pydantic's clients have it, and KServe's have no data and no header for nothing in binary."""
    nothing = {**X, "shape": [0], "data": None, "parameters": {"binary_data_size": 0}}
    request = parse(body(nothing, id=None, parameters=None, outputs=None))
    assert request._replace(inputs=()) == InferRequest(())
    assert read(request)["x"].shape == (0,)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b'{"inputs":[{"name":"x","name":"y","shape":[1],"shape":[2],"datatype":"INT8","data":[1],"data":[2]}]}', [1]),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}],"inputs":[]}', [1]),
        (b'{"a":[],"inputs":[{"name":"x","shape":[1],"shape":[2],"datatype":"INT8","data":[1],"data":[2]}]}', [1]),
        (b'{"a":[],"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}],"inputs":[]}', [1]),
        (b'\xef\xbb\xbf{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]} \n', [1]),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\xff"]}]}', [b"\xff"]),
        (b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[-Inf,Infinity]}]}', [-np.inf, np.inf]),
    ],
)
def test_json_is_read_as_it_is_of_the_other_protocol(text: bytes, wanted: Any) -> None:
    """Of a key given twice the first value counts, whichever reader it is."""
    assert read(parse(text))["x"].tolist() == wanted


BIG = {"name": "x", "shape": [2], "datatype": "BYTES"}


def test_a_name_may_have_a_zero_in_it() -> None:
    request = parse(body({**DATA, "name": "x\0"}, parameters={"a\0b": 1, "a": 2, "id\0": 3}))
    assert request.parameters == {"a\0b": 1, "a": 2, "id\0": 3}
    assert read(request)["x\0"].shape == (1, 4)


@pytest.mark.parametrize(
    ("inputs", "tail", "wanted"),
    [
        ([{**X, "parameters": {"binary_data_size": 16}}], FLOATS, {"x": [[1, 2, 3, 4]]}),
        ([X], FLOATS, {"x": [[1, 2, 3, 4]]}),
        ([{**X, "data": None}], FLOATS, {"x": [[1, 2, 3, 4]]}),
        ([DATA], b"", {"x": [[1, 2, 3, 4]]}),
        ([X, {**DATA, "name": "y"}, {**X, "name": "z", "shape": [1]}], FLOATS + FLOATS[4:8],
         {"x": [[1, 2, 3, 4]], "y": [[1, 2, 3, 4]], "z": [2]}),
        ([BIG], b"\1\0\0\0a\2\0\0\0bc", {"x": [b"a", b"bc"]}),
        ([{**BIG, "parameters": {"binary_data_size": 11}}, {**X, "name": "y"}], b"\1\0\0\0a\2\0\0\0bc" + FLOATS,
         {"x": [b"a", b"bc"], "y": [[1, 2, 3, 4]]}),
        ([{**BIG, "parameters": {"binary_data_size": "1,2"}}, {**X, "name": "y"}], b"abc" + FLOATS,
         {"x": [b"a", b"bc"], "y": [[1, 2, 3, 4]]}),
        ([{**BIG, "shape": [1], "parameters": {"binary_data_size": "3"}}], b"abc", {"x": [b"abc"]}),
    ],
)  # fmt: skip
def test_binary_data_are_behind_the_json(inputs: list[Any], tail: bytes, wanted: Mapping[str, Any]) -> None:
    assert {name: array.tolist() for name, array in read(parse(body(*inputs), tail)).items()} == wanted


def test_binary_numbers_are_views_of_the_body() -> None:
    text = body(X)
    whole = text + FLOATS
    (one,) = infer_json.parse(whole, len(text)).inputs
    assert np.shares_memory(one.read(None), np.frombuffer(whole, np.uint8))


def with_x(**changes: Any) -> bytes:
    return body({**DATA, **changes})


WRONG_COUNT = (
    "Invalid number of values in tensor proto container - Expected: 4 values; Actual: {} values; input name: x"
)
BAD_JSON: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "JSON Parse error: The document is empty"),
    "no JSON": (b"{", "JSON Parse error: Missing a name for object member. at offset: 1"),
    "a list": (b"[]", "JSON Value: [] Is not object"),
    "something behind": (body(DATA) + b"..", "The document root must not be followed by other values. at offset: 86"),
    "tensors without the header": (
        body(X) + FLOATS,
        "followed by other values. at offset: 64; want the header Inference-Header-Content-Length if tensors follow",
    ),
    "the other protocol": (
        b'{"instances":[1]}',
        "'inputs' are not there; want a list of one or more, or /v1/ in the path for 'instances'",
    ),
    "no inputs": (b"{}", "Invalid JSON structure, missing inputs: 'inputs' are not there; want a list of one or more"),
    "empty inputs": (b'{"inputs":[]}', "missing inputs: 'inputs' are []"),
    "inputs by name": (b'{"inputs":{"x":[1]}}', """'inputs' are {"x":[1]}; want a list"""),
    "an input of another kind": (body(1), "input 0 is 1; want an object"),
    "no name": (body({"shape": [1]}), "input 0 has no name; want one"),
    "a name of another kind": (with_x(name=["x"]), 'the name of input 0 is ["x"]; want a string'),
    "an empty name": (with_x(name=""), "the name of input 0 is empty; want one"),
    "a name that is no UTF-8": (with_x(name="?").replace(b"?", b"\xff"), "the name of input 0 is '?'; want UTF-8"),
    "a name twice": (body(DATA, DATA), "input 'x' is there twice, again as input 1; want it once"),
    "an id of another kind": (body(DATA, id=7), "id is 7; want a string"),
    "no datatype": (body({**DATA, "datatype": None}), "input 'x' has no datatype; want one of BOOL, UINT8,"),
    "a datatype of another kind": (with_x(datatype=["FP32"]), """datatype ["FP32"]; want one of BOOL"""),
    "an unknown datatype": (
        with_x(datatype="FP8"),
        """input 'x' has the datatype "FP8"; want one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, """
        "INT64, FP16, FP32, FP64, BF16, BYTES",
    ),
    "no shape": (with_x(shape=None), "input 'x' has no shape; want a list of sizes"),
    "a shape of another kind": (with_x(shape=4), "input 'x' has the shape 4; want a list of sizes"),
    "a shape below 0": (with_x(shape=[-1, 4]), "input 'x' has shape (-1, 4); want whole numbers from 0 on"),
    "a shape of fractions": (with_x(shape=[1, 4.0]), "shape (1, 4.0); want whole numbers"),
    "a shape of strings": (with_x(shape=["4"]), "shape ('4',); want whole numbers"),
    "a shape of lists": (with_x(shape=[[4]]), "shape ([4],); want whole numbers"),
    "a shape of booleans": (with_x(shape=[True, 4]), "shape (true, 4); want whole numbers"),
    "a huge shape": (with_x(shape=[10**30]), "of too many elements"),
    "a shape that overflows": (with_x(shape=[2**33, 2**33]), "of too many elements"),
    "too many sizes": (with_x(shape=[1] * 33), "input 'x' has a shape of 33 sizes; want at most 32"),
    "more than there is": (
        with_x(shape=[10**15]),
        "has data of shape (4,); want shape (1000000000000000,), or a flat list of 1000000000000000: Invalid number",
    ),
    "no data": (body(X), "input 'x' has neither data nor binary data: there is no Inference-Header-Content-Length"),
    "data of another kind": (with_x(data="abcd"), """input 'x' has the data "abcd"; want a list"""),
    "a number for a list": (with_x(data=1), "input 'x' has the data 1; want a list"),
    "too few values": (
        with_x(data=[1, 2, 3]),
        "input 'x' has data of shape (3,); want shape (1, 4), or a flat list of 4: " + WRONG_COUNT.format(3),
    ),
    "too many values": (with_x(data=[1, 2, 3, 4, 5]), WRONG_COUNT.format(5)),
    "too few values, nested": (with_x(data=[[1, 2, 3]]), "has data of shape (1, 3); want shape (1, 4), or a flat"),
    "no values": (with_x(data=[]), WRONG_COUNT.format(0)),
    "too many strings": (with_x(datatype="BYTES", data=["a"] * 5), WRONG_COUNT.format(5)),
    "another nesting": (with_x(data=[[1, 2], [3, 4]]), "data of shape (2, 2); want shape (1, 4), or a flat list of 4"),
    "another rank": (with_x(data=[[[1, 2, 3, 4]]]), "data of shape (1, 1, 4); want shape (1, 4), or a flat list of 4"),
    "ragged lists": (
        body({**DATA, "shape": [2, 2], "data": [[1, 2], [3]]}),
        "input 'x' has a list of 1 as data[1]; want shape (2, 2), or a flat list of 4: " + WRONG_COUNT.format(3),
    ),
    "ragged lists of the right count": (
        body({**DATA, "shape": [2, 2], "data": [[1, 2, 3], [4]]}),
        "input 'x' has a list of 3 as data[0]; want shape (2, 2), or a flat list of 4",
    ),
    "lists and numbers": (body({**DATA, "shape": [2, 2], "data": [[1, 2], 3]}), "has 3 as data[1]; want shape (2, 2)"),
    "numbers and lists": (with_x(data=[1, 2, 3, [4]]), "input 'x' has [4] as data[3]; want a number for FP32"),
    "a string for a number": (with_x(data=[1, 2, 3, "4"]), """has "4" as data[3]; want a number for FP32"""),
    "a boolean for a number": (with_x(data=[[1, True, 3, 4]]), "has true as data[0][1]; want a number for FP32"),
    "null for a number": (with_x(data=[1, 2, None, 4]), "has null as data[2]; want a number for FP32"),
    "a fraction for an integer": (
        with_x(datatype="INT8", data=[1, 2, 3.0, 4]),
        "input 'x' has 3.0 as data[2]; want a whole number from -128 to 127 for INT8",
    ),
    "a number out of range": (with_x(datatype="UINT8", data=[1, 256, -1, 4]), "has 256 as data[1]; want a whole"),
    "a number below range": (with_x(datatype="UINT64", data=[1, 2, 3, -1]), "has -1 as data[3]; want a whole number"),
    "a number beyond 64 bits": (with_x(datatype="UINT64", data=[2**64, 2, 3, 4]), "has 18446744073709551616 as data"),
    "NaN for an integer": (with_x(datatype="INT32", data=[1, 2, 3, float("nan")]), "has NaN as data[3]; want a whole"),
    "a number for a boolean": (with_x(datatype="BOOL", data=[1, 0, 2, 0]), "has 2 as data[2]; want true or false for"),
    "a number below a boolean": (with_x(datatype="BOOL", data=[1, 0, -1, 0]), "has -1 as data[2]; want true or false"),
    "a fraction for a boolean": (with_x(datatype="BOOL", data=[1, 0, 1.0, 0]), "has 1.0 as data[2]; want true or fa"),
    "a number for a string": (with_x(datatype="BYTES", data=["a", 1, "c", "d"]), "has 1 as data[1]; want a string for"),
    "an object for a string": (
        with_x(datatype="BYTES", data=["a", "b", "c", {"b64": ""}]),
        """has {"b64":""} as data[3]; want a string for BYTES""",
    ),
    "parameters of another kind": (with_x(parameters=[1]), "those of input 'x' are [1]; want an object"),
    "a parameter that is null": (
        with_x(parameters={"a": None}),
        """Could not parse request parameters: input 'x' has a parameter {"a":null}; want a string, a number, true""",
    ),
    "a parameter that is a list": (
        body(DATA, parameters={"a": [1]}),
        """the request has a parameter {"a":[1]}; w""",
    ),
    "a parameter that is an object": (body(DATA, parameters={"a": {}}), """has a parameter {"a":{}}; want a string"""),
    "a parameter of many bits": (body(DATA, parameters={"a": 2**64}), "want a whole number of 64 bits"),
    "a parameter below": (body(DATA, parameters={"a": -(2**63) - 1}), "want a whole number of 64 bits"),
    "a parameter that is no UTF-8": (body(DATA, parameters={"a": "?"}).replace(b"?", b"\xff"), "want UTF-8"),
    "shared memory": (with_x(parameters={"shared_memory_region": "r"}), "input 'x' is in shared memory, which is not"),
    "binary_data_output of another kind": (
        body(DATA, parameters={"binary_data_output": 1}),
        "the request has the parameter 'binary_data_output' 1; want true or false",
    ),
    "outputs of another kind": (
        body(DATA, outputs="y"),
        """Could not parse output content. 'outputs' are "y"; want""",
    ),
    "an output of another kind": (body(DATA, outputs=["y"]), """output 0 is "y"; want an object"""),
    "an output without a name": (body(DATA, outputs=[{}]), "output 0 has no name; want one"),
    "an output twice": (body(DATA, outputs=[{"name": "y"}, {"name": "y"}]), "output 'y' is there twice, again as ou"),
    "an output in shared memory": (
        body(DATA, outputs=[{"name": "y", "parameters": {"shared_memory_region": "r"}}]),
        "output 'y' is in shared memory",
    ),
    **{
        f"{name} {value!r}": (
            body(DATA, outputs=[{"name": "y", "parameters": {name: value}}]),
            f"output 'y' has the parameter '{name}' {json.dumps(value)}; want {want}",
        )
        for name, values, want in (
            ("binary_data", (1, "true", 0.5), "true or false"),
            ("classification", (0, -1, True, 1.0, "3"), "a whole number from 1 on"),
        )
        for value in values
    },
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_refused_by_name(name: str) -> None:
    text, message = BAD_JSON[name]
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        read(parse(text))


@pytest.mark.parametrize(
    ("one", "tail", "message"),
    [
        (X, FLOATS[:-1], "input 'x' wants 16 bytes of binary data; 15 are left behind the JSON: Received buffer size "
         "is smaller than binary_data_size parameter indicates"),
        (X, FLOATS + b"1", "1 bytes are left behind those of input 'x', the last; want none"),
        (DATA, FLOATS, "16 bytes are left behind the JSON, which has all data; want none"),
        ({**DATA, "parameters": {"binary_data_size": 16}}, FLOATS, "input 'x' has both data and a binary_data_size; "
         "want one of them: Request contains values both in binary data and in content value"),
        ({**X, "parameters": {"binary_data_size": 16}}, None, "input 'x' wants 16 bytes of binary data; 0 are left "
         "behind the JSON, as there is no Inference-Header-Content-Length"),
        ({**X, "parameters": {"binary_data_size": 12}}, FLOATS, "input 'x' has 12 bytes; want 16 for (1, 4) of FP32"),
        ({**X, "shape": [2**50]}, FLOATS, "input 'x' wants 4503599627370496 bytes of binary data; 16 are left"),
        ({**X, "parameters": {"binary_data_size": 10**18}}, FLOATS, "wants 1000000000000000000 bytes of binary data"),
        ({**X, "parameters": {"binary_data_size": -1}}, FLOATS, "input 'x' has the binary_data_size -1; want a number "
         "of bytes: binary_data_size parameter is invalid and cannot be parsed"),
        ({**X, "parameters": {"binary_data_size": True}}, FLOATS, "binary_data_size true; want a number of bytes"),
        ({**X, "parameters": {"binary_data_size": 16.0}}, FLOATS, "binary_data_size 16.0; want a number of bytes"),
        ({**X, "parameters": {"binary_data_size": "16"}}, FLOATS, "binary_data_size '16'; want a number of bytes"),
        (BIG, b"\1\0\0\0a\2\0\0\0b", "input 'x' has 1 bytes from its string 1 on; want 2, a length of 4 bytes before"),
        (BIG, b"\1\0\0\0", "input 'x' has 4 bytes; want at least 8 for (2,) of BYTES"),
        ({**BIG, "parameters": {"binary_data_size": "1"}}, b"abc", "want a number of bytes, or 2 with commas between"),
        ({**BIG, "parameters": {"binary_data_size": "1,2,"}}, b"abc", "has the binary_data_size '1,2,'; want a number"),
        ({**BIG, "parameters": {"binary_data_size": "1,-2"}}, b"abc", "has the binary_data_size '1,-2'; want a number"),
        ({**BIG, "parameters": {"binary_data_size": "1,²"}}, b"abc", "has the binary_data_size '1,²'; want a number"),
        ({**BIG, "parameters": {"binary_data_size": "1,9" + "9" * 18}}, b"abc", "want a number of bytes, or 2 with"),
        ({**BIG, "parameters": {"binary_data_size": "1,3"}}, b"abc", "input 'x' wants 4 bytes of binary data; 3 are"),
    ],
)  # fmt: skip
def test_bad_binary_data_are_refused_by_name(one: Mapping[str, Any], tail: bytes | None, message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        read(parse(body(one), tail))


def test_the_sizes_of_strings_are_no_more_than_images_may_be() -> None:
    """Two bytes each, which become a hundred."""
    for count, is_fine in ((4096, True), (4097, False)):
        one = {**BIG, "shape": [count], "parameters": {"binary_data_size": ",".join(["1"] * count)}}
        if is_fine:
            assert read(parse(body(one), b"a" * count))["x"].tolist() == [b"a"] * count
            continue
        with pytest.raises(InvalidRequest, match="want at most 4096 with commas between them: binary_data_size param"):
            parse(body(one), b"a" * count)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (body(*[{**DATA, "name": str(i)} for i in range(10_001)]), "'inputs' are 10001; want 10000 at most"),
        (body(DATA, outputs=[{"name": str(i)} for i in range(10_001)]), "'outputs' are 10001; want 10000 at most"),
        (
            body(
                {**DATA, "parameters": {str(i): i for i in range(4000)}},
                outputs=[{"name": "y", "parameters": {str(i): i for i in range(4000)}}],
                parameters={str(i): i for i in range(2001)},
            ),
            "the request has 10001 parameters; want 10000 at most",
        ),
    ],
)
def test_what_stays_until_the_model_is_there_is_bounded(text: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse(text)


def test_many_inputs_are_read() -> None:
    inputs = [{**DATA, "name": str(i)} for i in range(10_000)]
    request = parse(body(*inputs, parameters={str(i): i for i in range(10_000)}))
    assert len(request.inputs) == len(request.parameters) == 10_000


def test_the_header_is_named_if_it_may_be_wrong() -> None:
    whole = body(X) + FLOATS
    for size in (len(body(X)) - 1, len(body(X)) + 1):
        with pytest.raises(InvalidRequest, match=f"Inference-Header-Content-Length says that {size} bytes of 80 are"):
            infer_json.parse(whole, size)


def test_strings_before_other_binary_data_have_their_size() -> None:
    with pytest.raises(InvalidRequest, match=r"input 'x' has no binary_data_size; want it, as other binary"):
        parse(body(BIG, {**X, "name": "y"}), b"\1\0\0\0a\2\0\0\0bc" + FLOATS)


def test_the_header_says_no_more_than_there_is() -> None:
    with pytest.raises(InvalidRequest, match=r"Inference-Header-Content-Length is 87; the body has 86 bytes"):
        infer_json.parse(body(DATA), 87)


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("123", 123), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_the_header_is_a_number(text: str, size: int) -> None:
    assert infer_json.json_size(text) == size


@pytest.mark.parametrize("text", ["", " 1", "-1", "+1", "1.0", "0x1", "1, 1", "١", "1_000", "9" * 19, "a" * 1000])
def test_the_header_is_nothing_else(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"Inference-Header-Content-Length header is invalid") as refused:
        infer_json.json_size(text)
    assert len(str(refused.value)) < 400


def test_values_are_read_until_the_deadline() -> None:
    for text in (with_x(datatype="BYTES", data=["a"] * 4), with_x(data=[[1, 2, 3, float("nan")]])):
        (one,) = parse(text).inputs
        with pytest.raises(DeadlineExceeded):
            one.read(time.monotonic() - 1)
        # As a request that was not waited for is begun again.
        assert one.read(time.monotonic() + 60).shape == (1, 4)


def spec(dtype: Any, *shape: int) -> TensorSpec:
    return TensorSpec("x", np.dtype(dtype), shape)


@pytest.mark.parametrize(
    ("wanted", "sent", "array"),
    [
        (spec(np.float32, 1, 4), FLOATS, [[1, 2, 3, 4]]),
        (spec(np.float32, -1, 2), FLOATS, [[1, 2], [3, 4]]),
        (spec(np.float32, -1, -1), FLOATS, [[1, 2, 3, 4]]),
        (spec(np.float32, -1, -1, 2), FLOATS, [[[1, 2], [3, 4]]]),
        (spec(np.float32), FLOATS[:4], 1),
        (spec(np.float32, 0), b"", []),
        (spec(np.float32, -1), b"", []),
        (spec(object, 1), b"abc", [b"abc"]),
        (spec(object, -1, 1), b"", [[b""]]),
        (spec(np.uint8, -1, 1, 1, 2), b"\xff\xd8\xff\xff", [[[[255, 216]]], [[[255, 255]]]]),
    ],
)
def test_a_body_may_be_nothing_but_a_tensor(wanted: TensorSpec, sent: bytes, array: Any) -> None:
    (one,) = infer_json.parse_raw(sent, wanted).inputs
    assert (one.name, one.dtype) == ("x", wanted.dtype)
    assert_same(one.read(None), np.array(array, wanted.dtype))
    assert one.shape == np.shape(array)


def test_a_body_may_be_nothing_but_an_image() -> None:
    for file in image_samples.samples().values():
        (one,) = infer_json.parse_raw(file, spec(np.uint8, -1, -1, -1, 3)).inputs
        assert (one.dtype, one.shape, one.read(None).tolist()) == (STRING, (1,), [file])
        # Nor is it one for a model that takes none.
        assert infer_json.parse_raw(file, spec(np.uint8, -1, 1)).inputs[0].shape == (len(file), 1)


@pytest.mark.parametrize(
    ("wanted", "sent", "message"),
    [
        (spec(np.float32, 1, 5), FLOATS, "input 'x' has 16 bytes; want 20 for (1, 5) of FP32"),
        (spec(np.float32, -1, 3), FLOATS, "input 'x' has 16 bytes; want 12 for (1, 3) of FP32"),
        (spec(np.float32, -1, 4), FLOATS + b"1", "input 'x' has 17 bytes; want 16 for (1, 4) of FP32"),
        (spec(np.float32, -1, 0), FLOATS, "input 'x' has 16 bytes; want 0 for (0, 0) of FP32"),
        (spec(np.float32, 1, -1, -1), FLOATS, "input 'x' has shape (1, -1, -1); want one of which one size is open"),
        (TensorSpec("x", np.dtype(np.float32), None), FLOATS, "input 'x' has any shape; want one that is known"),
        (spec(object, 2), b"abc", "input 'x' has shape (2,); want one of one string for a request without JSON"),
    ],
)
def test_a_tensor_alone_is_refused_if_its_shape_does_not_follow(wanted: TensorSpec, sent: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        infer_json.parse_raw(sent, wanted)
