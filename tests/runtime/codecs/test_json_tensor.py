"""Predict requests in JSON: what each body means, which are refused and with which words, and that the two readers
never mean different things."""

from __future__ import annotations

import base64
import json
import re
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.codecs import json_exact, json_fast
from runtime.codecs.json_tensor import parse_predict
from runtime.errors import InvalidRequest
from runtime.servable import Tensors
from runtime.signature import DEFAULT_SIGNATURE, Dtype, TensorSpec
from tests.runtime.codecs.specs import (
    BFLOAT16,
    BOOL,
    DTYPES,
    FLOATS,
    INTS,
    arrays,
    assert_all_same,
    limits,
    specs,
    string_arrays,
)

Specs = Mapping[str, TensorSpec]

reproducibly = settings(deadline=None, derandomize=True)


def read(body: str | bytes, wanted: Specs) -> Tensors:
    return parse_predict(encoded(body)).inputs(wanted)


def read_exactly(body: str | bytes, wanted: Specs) -> Tensors:
    document = json_exact.parse(encoded(body))
    return json_exact.read(document, wanted)


def read_fast(body: str | bytes, wanted: Specs) -> Tensors | None:
    document = json_fast.parse(encoded(body))
    return None if document is None else json_fast.read(document, wanted)


def strings(values: Any) -> NDArray[Any]:
    return np.array(values, object)


def encoded(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else body


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


X = specs(x=np.float32)
INT = specs(x=np.int32)
TEXT = specs(x=object)
FLAG = specs(x=np.bool_)
XY = specs(x=np.float32, y=np.int64)

ACCEPTED: list[tuple[Specs, str | bytes, dict[str, NDArray[Any]]]] = [
    # Rows, one input, its name left out and given.
    (X, '{"instances": [1]}', {"x": f32([1])}),
    (X, '{"instances": [1.5, 2, -3e2]}', {"x": f32([1.5, 2, -300])}),
    (X, '{"instances": [[1, 2], [3, 4]]}', {"x": f32([[1, 2], [3, 4]])}),
    (X, '{"instances": [[[[1]]], [[[2]]]]}', {"x": f32([1, 2]).reshape(2, 1, 1, 1)}),
    (X, '{"instances": [[]]}', {"x": f32([[]])}),
    (X, '{"instances": [[], []]}', {"x": f32([[], []])}),
    (X, '{"instances": [[[], []]]}', {"x": f32([[[], []]])}),
    (X, '{"instances": [{"x": 1}, {"x": 2}]}', {"x": f32([1, 2])}),
    (X, '{"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}', {"x": f32([[1, 2], [3, 4]])}),
    (X, '{"instances": [{"x": []}]}', {"x": f32([[]])}),
    # Rows, several inputs, whose rows are of different shapes.
    (XY, '{"instances": [{"x": 1, "y": [2, 3]}]}', {"x": f32([1]), "y": np.array([[2, 3]])}),
    (
        XY,
        '{"instances": [{"x": [[1]], "y": 2}, {"y": 3, "x": [[4]]}]}',
        {"x": f32([[[1]], [[4]]]), "y": np.array([2, 3])},
    ),
    # Columns, one input, its name left out and given.
    (X, '{"inputs": 1}', {"x": f32(1)}),
    (X, '{"inputs": [1]}', {"x": f32([1])}),
    (X, '{"inputs": []}', {"x": f32([])}),
    (X, '{"inputs": [[], []]}', {"x": f32([[], []])}),
    (X, '{"inputs": [[1, 2, 3], [4, 5, 6]]}', {"x": f32([[1, 2, 3], [4, 5, 6]])}),
    (X, '{"inputs": {"x": 1}}', {"x": f32(1)}),
    (X, '{"inputs": {"x": [[1, 2]]}}', {"x": f32([[1, 2]])}),
    # Columns, several inputs, which need share no dimension; names that are not asked for are ignored.
    (XY, '{"inputs": {"x": 1, "y": [2, 3]}}', {"x": f32(1), "y": np.array([2, 3])}),
    (XY, '{"inputs": {"y": [[2], [3]], "x": [1, 2, 3]}}', {"x": f32([1, 2, 3]), "y": np.array([[2], [3]])}),
    (X, '{"inputs": {"x": [1], "z": [2]}}', {"x": f32([1])}),
    (XY, '{"inputs": {"x": [1], "z": {"x": [5]}, "y": [2]}}', {"x": f32([1]), "y": np.array([2])}),
    # Floats take any number, and the three tokens.
    (X, '{"inputs": [1, -0.0, 0.1, 1E2, 1e-2]}', {"x": f32([1, -0.0, 0.1, 100, 0.01])}),
    (X, '{"inputs": [NaN, Infinity, -Infinity]}', {"x": f32([np.nan, np.inf, -np.inf])}),
    (X, '{"instances": [[1, NaN], [Infinity, 2]]}', {"x": f32([[1, np.nan], [np.inf, 2]])}),
    (X, '{"instances": [{"x": -Infinity}]}', {"x": f32([-np.inf])}),
    # What a float cannot hold becomes an infinity or a zero of its sign.
    (X, '{"inputs": [3.4028235e38, 1e39, -1e39]}', {"x": f32([3.4028235e38, np.inf, -np.inf])}),
    (X, '{"inputs": [1e-45, 1e-46, -1e-46]}', {"x": f32([1e-45, 0.0, -0.0])}),
    (X, '{"inputs": [1e308, -1e308, 1e-400]}', {"x": f32([np.inf, -np.inf, 0])}),
    (specs(x=np.float64), '{"inputs": [1e308, 1.7976931348623157e308]}', {"x": np.array([1e308, np.finfo(float).max])}),
    (specs(x=np.float16), '{"inputs": [65504, 65520, -1e9]}', {"x": np.array([65504, np.inf, -np.inf], np.float16)}),
    (specs(x=BFLOAT16), '{"inputs": [1, 3.4e38, 1e39]}', {"x": f32([1, np.inf, np.inf]).astype(BFLOAT16)}),
    (X, f'{{"inputs": [1{"0" * 308}, -1{"0" * 308}]}}', {"x": f32([np.inf, -np.inf])}),
    (specs(x=np.float64), '{"inputs": [18446744073709551616, 9007199254740993]}', {"x": np.array([2.0**64, 2.0**53])}),
    # bool takes true and false.
    (FLAG, '{"instances": [true, false]}', {"x": np.array([True, False])}),
    (FLAG, '{"inputs": [[true], [false]]}', {"x": np.array([[True], [False]])}),
    (FLAG, '{"instances": [{"x": true}]}', {"x": np.array([True])}),
    # Of a key given twice the first counts, at every level; what is not asked for is ignored.
    (X, '{"inputs": [1], "inputs": [2]}', {"x": f32([1])}),
    (X, '{"instances": [[1]], "instances": 7}', {"x": f32([[1]])}),
    (X, '{"inputs": {"x": [1], "x": "two"}}', {"x": f32([1])}),
    (X, '{"instances": [{"x": 1, "x": 2}]}', {"x": f32([1])}),
    (X, '{"inputs": [1], "context": [[[2]], {"a": [3]}], "n": null}', {"x": f32([1])}),
    (X, '{"context": "[[[ not lists ]]] {", "inputs": [1]}', {"x": f32([1])}),
    (X, '{"inputs": {"x": [1], "y": "["}}', {"x": f32([1])}),
    # Strings, and base64 objects in their place (json_tensor_test.cc, SingleUnnamedTensorBase64Scalars and following).
    (TEXT, '{"instances": ["a", "", "\\u00e9\\ud83c\\udf89\\n"]}', {"x": strings([b"a", b"", "é🎉\n".encode()])}),
    (TEXT, '{"instances": [{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]}', {"x": strings([b"hello", b"world"])}),
    (TEXT, '{"instances": [[{"b64": "aGVsbG8="}], [{"b64": "d29ybGQ="}]]}', {"x": strings([[b"hello"], [b"world"]])}),
    (
        TEXT,
        '{"instances": [{"x": [[{"b64": "aGVsbG8="}], [{"b64": "d29ybGQ="}]]}]}',
        {"x": strings([[[b"hello"], [b"world"]]])},
    ),
    (TEXT, '{"inputs": {"b64": "aGVsbG8="}}', {"x": strings(b"hello")}),
    (TEXT, '{"inputs": {"x": {"b64": "aGVsbG8="}}}', {"x": strings(b"hello")}),
    (TEXT, '{"inputs": ["mixed", {"b64": "AP8="}]}', {"x": strings([b"mixed", b"\x00\xff"])}),
    (TEXT, b'{"inputs": ["\xff\x80", "\xc3"]}', {"x": strings([b"\xff\x80", b"\xc3"])}),
    (TEXT, '{"inputs": [[], []]}', {"x": strings([[], []])}),
    # An input of that name (IsValBase64Object does not ask for names).
    (specs(b64=object), '{"instances": [{"b64": "aGk="}]}', {"b64": strings([b"hi"])}),
    # absl::Base64Unescape: blanks anywhere, no padding, full stops as padding, bits left over.
    (TEXT, '{"inputs": {"b64": " aGVs\\nbG8 = "}}', {"x": strings(b"hello")}),
    (TEXT, '{"inputs": [{"b64": "aA"}, {"b64": "aA=="}, {"b64": "aA.."}]}', {"x": strings([b"h"] * 3)}),
    (TEXT, '{"inputs": [{"b64": "aGk"}, {"b64": "aGk."}, {"b64": "aGl="}]}', {"x": strings([b"hi"] * 3)}),
    (TEXT, '{"inputs": {"b64": ""}}', {"x": strings(b"")}),
    # MultipleNamedTensor and MultipleNamedTensorColumnarFormat.
    (
        specs(int_tensor=np.int32, str_tensor=object, float_tensor=np.float32, dbl_tensor=np.float64),
        """{"instances": [
            {"int_tensor": [[1,2],[3,4]], "str_tensor": ["foo", "bar"], "float_tensor": [1.0, NaN],
             "dbl_tensor": [NaN]},
            {"int_tensor": [[7,8],[9,0]], "str_tensor": ["baz", "bat"], "float_tensor": [2.0, Infinity],
             "dbl_tensor": [2.0]}
        ]}""",
        {
            "int_tensor": np.array([[[1, 2], [3, 4]], [[7, 8], [9, 0]]], np.int32),
            "str_tensor": strings([[b"foo", b"bar"], [b"baz", b"bat"]]),
            "float_tensor": f32([[1, np.nan], [2, np.inf]]),
            "dbl_tensor": np.array([[np.nan], [2.0]]),
        },
    ),
    (
        specs(int_tensor=np.int32, str_tensor=object, bin_tensor=object),
        """{"inputs": {
            "int_tensor": [[[1,2],[3,4],[5,6]]], "str_tensor": ["foo", "bar"], "bin_tensor": {"b64": "aGVsbG8="}
        }}""",
        {
            "int_tensor": np.array([[[1, 2], [3, 4], [5, 6]]], np.int32),
            "str_tensor": strings([b"foo", b"bar"]),
            "bin_tensor": strings(b"hello"),
        },
    ),
    # rapidjson's flags NanAndInf and StopWhenDone (json_tensor.cc, ParseJson).
    (X, '{"inputs": [Inf, -Inf, -NaN, -Infinity]}', {"x": f32([np.inf, -np.inf, np.nan, -np.inf])}),
    (X, '{"inputs": [1]}}', {"x": f32([1])}),
    (X, '{"inputs": [1]} {"inputs": [2]}', {"x": f32([1])}),
    (X, b'{"inputs": [1]}\x00\xff"', {"x": f32([1])}),
    (X, '{"inputs": [1e2, Inf]} 1e999 "', {"x": f32([100, np.inf])}),
    (X, b'{"\xff": "\xff", "inputs": [1]}', {"x": f32([1])}),
    # The text itself: blanks, a byte order mark, escapes in names.
    (X, ' \t\r\n{ "inputs" :\n[ 1 , 2 ] } \n', {"x": f32([1, 2])}),
    (X, b'\xef\xbb\xbf{"inputs": [1]}', {"x": f32([1])}),
    (X, '{"\\u0069nputs": {"\\u0078": [1]}}', {"x": f32([1])}),
    (specs(**{"a/b": np.int8}), '{"instances": [{"a/b": 1}]}', {"a/b": np.array([1], np.int8)}),
    (specs(**{"~1": np.int8}), '{"inputs": {"~1": [1]}}', {"~1": np.array([1], np.int8)}),
    (specs(**{"é ☃": np.int8}), '{"inputs": {"é ☃": [1]}}', {"é ☃": np.array([1], np.int8)}),
    (specs(**{'"q"\\': np.int8}), '{"inputs": {"\\"q\\"\\\\": [1]}}', {'"q"\\': np.array([1], np.int8)}),
]


@pytest.mark.parametrize(("wanted", "body", "tensors"), ACCEPTED)
def test_a_good_body_means_the_same_to_every_reader(
    wanted: Specs, body: str | bytes, tensors: dict[str, NDArray[Any]]
) -> None:
    check_meaning(body, wanted, tensors)


def check_meaning(body: str | bytes, wanted: Specs, tensors: Mapping[str, NDArray[Any]]) -> None:
    assert_all_same(read(body, wanted), tensors)
    assert_all_same(read_exactly(body, wanted), tensors)
    fast = read_fast(body, wanted)
    if fast is not None:
        assert_all_same(fast, tensors)


REJECTED: list[tuple[Specs, str | bytes, str]] = [
    # Not JSON: see test_json_dialect.py.
    (X, "", "JSON Parse error: The document is empty"),
    (X, '{"inputs": [1,]}', "JSON Parse error: Invalid value. at offset: 14"),
    (X, '{"inputs": [1e400]}', "JSON Parse error: Number too big to be stored in double. at offset: 12"),
    (INT, f'{{"inputs": [-1{"0" * 5000}]}}', "Number too big to be stored in double. at offset: 12"),
    # Not the form.
    (X, "1", "JSON Value: 1 Is not object"),
    (X, "[1]", "JSON Value: [1] Is not object"),
    (X, "null", "JSON Value: null Is not object"),
    (X, "NaN", "Is not object"),
    (X, "{}", "Missing 'inputs' or 'instances' key"),
    (X, '{"instance": [1]}', "Missing 'inputs' or 'instances' key"),
    (X, '{"instances": [1], "inputs": [1]}', "only one of 'inputs' or 'instances' keys to exist"),
    (X, '{"instances": [1], "inputs": null}', "only one of 'inputs' or 'instances' keys to exist"),
    (X, '{"instances": null, "inputs": [1]}', "only one of 'inputs' or 'instances' keys to exist"),
    (X, '{"instances": null}', "JSON Value: {\"instances\":null} Expecting 'instances' to be an list/array"),
    (X, '{"instances": 1}', "Expecting 'instances' to be an list/array"),
    (X, '{"instances": {"x": [1]}}', "Expecting 'instances' to be an list/array"),
    (X, '{"instances": []}', "JSON Value: {\"instances\":[]} No values in 'instances' array"),
    ({}, '{"instances": [1]}', "Failed to get input map for signature: DEFAULT"),
    ({}, '{"signature_name": "s"}', "Failed to get input map for signature: s"),
    (X, '{"signature_name": 1, "inputs": [1]}', "'signature_name' key must be a string value"),
    (X, '{"signature_name": null, "inputs": [1]}', "'signature_name' key must be a string value"),
    # Names.
    (XY, '{"instances": [1]}', "expecting list of objects as multiple input tensors required"),
    (XY, '{"inputs": [1]}', "expecting an object as multiple input tensors required"),
    (XY, '{"inputs": {"x": 1}}', "Missing named input: y in 'inputs' object"),
    (X, '{"inputs": {"z": [1]}}', "Missing named input: x in 'inputs' object"),
    (X, '{"inputs": {}}', "Missing named input: x in 'inputs' object"),
    (XY, '{"instances": [{"x": 1}]}', "0 of 'instances' list. JSON object: {\"x\":1} keys must be equal to: x,y"),
    (
        XY,
        '{"instances": [{"x": 1, "z": 2}]}',
        "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
        "JSON object: does not have named input: z",
    ),
    (X, '{"instances": [{"x": 1}, {"x": 1, "y": 2}]}', "Failed to process element: 1 key: y of 'instances' list."),
    (XY, '{"instances": [{"b64": "AA=="}]}', "expecting list of objects as multiple input tensors required"),
    (XY, '{"inputs": {"b64": "AA=="}}', "expecting an object as multiple input tensors required"),
    # The first of several is named, whatever comes later.
    (XY, '{"instances": [{"x": 1, "y": 2}, {"x": 1, "y": true}, {"x": []}, 7]}', "element: 1 key: y of 'instances'"),
    (X, '{"instances": [1, 2, 3, [4], "5", {"x": 6}]}', "Failed to process element: 3 of 'instances' list."),
    (X, '{"instances": [{}]}', "keys must be equal to: x"),
    (X, '{"instances": [1, {"x": 1}]}', "Expecting value/list but got object at item 1 of input list"),
    (X, '{"instances": [{"x": 1}, 1]}', "Expecting object but got list at item 1 of input list"),
    (X, '{"instances": [{"x": 1}, [1]]}', "Expecting object but got list at item 1 of input list"),
    # Values.
    (X, '{"inputs": ["1"]}', 'JSON Value: "1" Type: String is not of expected type: float'),
    (X, '{"inputs": [null]}', "JSON Value: null Type: Null is not of expected type: float"),
    (X, '{"inputs": [true]}', "JSON Value: true Type: True is not of expected type: float"),
    (X, '{"inputs": [[1, 2], [3, false]]}', "JSON Value: false Type: False is not of expected type: float"),
    (X, '{"inputs": [1, {}]}', "JSON Value: {} Type: Object is not of expected type: float"),
    (X, '{"inputs": [1, {"a": 2}]}', "Type: Object is not of expected type: float"),
    (X, '{"inputs": "text"}', "Type: String is not of expected type: float"),
    (X, '{"inputs": null}', "Type: Null is not of expected type: float"),
    (X, '{"instances": ["a"]}', "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "),
    (X, '{"instances": [{"x": 1}, {"x": null}]}', "Failed to process element: 1 key: x of 'instances' list."),
    (X, '{"instances": [{"x": 1}, {"x": true}]}', "Type: True is not of expected type: float"),
    (
        X,
        '{"instances": [{"x": {"b64": "AA=="}}]}',
        'JSON Value: {"b64":"AA=="} Type: Object is not of expected type: float',
    ),
    (TEXT, '{"inputs": [1]}', "JSON Value: 1 Type: Number is not of expected type: string"),
    (TEXT, '{"inputs": ["a", null]}', "JSON Value: null Type: Null is not of expected type: string"),
    (TEXT, '{"inputs": [{}]}', "JSON Value: {} not formatted correctly for base64 data"),
    (TEXT, '{"inputs": [{"b64": 1}]}', 'JSON Value: {"b64":1} not formatted correctly for base64 data'),
    (TEXT, '{"inputs": [{"b64": "AA==", "a": 1}]}', "not formatted correctly for base64 data"),
    (TEXT, '{"inputs": [{"b64": "A"}]}', "Unable to base64 decode"),
    (TEXT, '{"inputs": [{"b64": "AA="}]}', "Unable to base64 decode"),
    (TEXT, '{"inputs": [{"b64": "AA==="}]}', "Unable to base64 decode"),
    (TEXT, '{"inputs": [{"b64": "AAA=="}]}', "Unable to base64 decode"),
    (TEXT, '{"inputs": [{"b64": "="}]}', "Unable to base64 decode"),
    (TEXT, '{"inputs": [{"b64": "A=A="}]}', "Unable to base64 decode"),
    (TEXT, '{"inputs": [{"b64": "AA==AA=="}]}', "Unable to base64 decode"),
    (TEXT, '{"inputs": [{"b64": "-_-_"}]}', "Unable to base64 decode"),
    (TEXT, '{"inputs": [{"b64": "\\u00e9AA="}]}', "Unable to base64 decode"),
    (TEXT, '{"inputs": [{"b64": "AA\\u0000A"}]}', "Unable to base64 decode"),
    (
        TEXT,
        '{"instances": ["a", {"b64": "?"}]}',
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARG",
    ),
    (TEXT, '{"instances": ["a", {"x": "b"}]}', "Expecting value/list but got object at item 1 of input list"),
    (TEXT, '{"instances": [{"x": "b"}, {"b64": "AA=="}]}', "Expecting object but got list at item 1 of input list"),
    (specs(x=np.float64), '{"inputs": [null]}', "Type: Null is not of expected type: double"),
    (specs(x=np.float16), '{"inputs": [null]}', "Type: Null is not of expected type: half"),
    (specs(x=BFLOAT16), '{"inputs": [null]}', "Type: Null is not of expected type: bfloat16"),
    (INT, '{"inputs": [1.0]}', "JSON Value: 1.0 Type: Number is not of expected type: int32"),
    (INT, '{"inputs": [1, 1e0]}', "Type: Number is not of expected type: int32"),
    (INT, '{"inputs": [true]}', "Type: True is not of expected type: int32"),
    (INT, '{"inputs": [NaN]}', "Type: Number is not of expected type: int32"),
    (INT, '{"inputs": [1, -Infinity]}', "Type: Number is not of expected type: int32"),
    (INT, '{"instances": [{"x": 1.5}]}', "Type: Number is not of expected type: int32"),
    (INT, '{"instances": [{"x": true}, {"x": 1}]}', "Type: True is not of expected type: int32"),
    (INT, '{"instances": [{"x": 1}, {"x": true}]}', "Type: True is not of expected type: int32"),
    (INT, '{"inputs": [100000000000000000000000000]}', "is not of expected type: int32 (-2147483648 to 2147483647)"),
    (FLAG, '{"inputs": [1]}', "JSON Value: 1 Type: Number is not of expected type: bool"),
    (FLAG, '{"instances": [0, 1]}', "Type: Number is not of expected type: bool"),
    (FLAG, '{"instances": [{"x": 1}, {"x": 0}]}', "JSON Value: 1 Type: Number is not of expected type: bool"),
    (FLAG, '{"instances": [{"x": [1]}]}', "Type: Number is not of expected type: bool"),
    (FLAG, '{"inputs": ["true"]}', "Type: String is not of expected type: bool"),
    (FLAG, '{"inputs": [null]}', "Type: Null is not of expected type: bool"),
    # Ragged lists, of which many have as many elements as a rectangle would.
    (X, '{"inputs": [[1, 2], [3], [4, 5, 6]]}', "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    (X, '{"inputs": [[1], [2, 3]]}', "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
    (X, '{"inputs": [1, [2]]}', "Encountered list at unexpected level: 1 expected < 1"),
    (X, '{"inputs": [1, []]}', "Encountered list at unexpected level: 1 expected < 1"),
    (X, '{"inputs": [[1], 2]}', "JSON Value: 2 found at incorrect level: 1 in the JSON DOM. Expected at level: 2"),
    (X, '{"inputs": [[], 1]}', "JSON Value: 1 found at incorrect level: 1 in the JSON DOM. Expected at level: 2"),
    (X, '{"inputs": [[], [1, 2]]}', "Encountered list at unexpected size: 2 at level: 1 expected size: 0"),
    (X, '{"inputs": [[1, 2], []]}', "Encountered list at unexpected size: 0 at level: 1 expected size: 2"),
    (X, '{"inputs": [[1, 2], [3, [4]]]}', "Encountered list at unexpected level: 2 expected < 2"),
    (X, '{"inputs": [[1, 2], [[3], 4]]}', "Encountered list at unexpected level: 2 expected < 2"),
    (X, '{"inputs": [[1, 2], [[3, 4]]]}', "Encountered list at unexpected"),
    (X, '{"inputs": [[1, 2], [[], 3, 4]]}', "Encountered list at unexpected size: 3 at level: 1 expected size: 2"),
    (X, '{"inputs": [[[1, 2]], [[3], [4]]]}', "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
    (X, '{"inputs": [[[1], [2]], [[3, 4]]]}', "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    (X, '{"inputs": [[[1, 2], [3]], [[4, 5], [6, 7, 8]]]}', "unexpected size: 1 at level: 2 expected size: 2"),
    (X, '{"instances": [[1, 2], [3], [4, 5, 6]]}', "INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1"),
    (
        X,
        '{"instances": [[1, 2], [3, 4], [5, 6, 7]]}',
        "element: 2 of 'instances' list. Error: INVALID_ARGUMENT: Expecting",
    ),
    (X, '{"instances": [[1, 2], [3, 4], [[5, 6]]]}', "Expecting shape [2] but got: [1,2]"),
    (
        X,
        '{"instances": [[1, 2], [[3], [4, 5]]]}',
        "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
    ),
    (X, '{"instances": [[[]], [[], []]]}', "Expecting shape [1,0] but got: [2,0]"),
    (X, '{"instances": [1, [2]]}', "Expecting shape [] but got: [1]"),
    (X, '{"instances": [[], [1, 2]]}', "Expecting tensor size: 0 but got: 2"),
    (X, '{"instances": [[1, 2], [[1, 2]]]}', "Expecting shape [2] but got: [1,2]"),
    (X, '{"instances": [[1, 2], [3, [4]]]}', "Encountered list at unexpected level: 1 expected < 1"),
    (X, '{"instances": [{"x": [1, 2]}, {"x": [3]}]}', "1 key: x of 'instances' list. Error: INVALID_ARGUMENT"),
    (X, '{"instances": [{"x": 1}, {"x": [2]}]}', "Expecting shape [] but got: [1]"),
    (X, '{"instances": [{"x": [1]}, {"x": 2}]}', "Expecting shape [1] but got: []"),
    (XY, '{"instances": [{"x": 1, "y": [1, 2]}, {"x": 1, "y": [[1], [2]]}]}', "Expecting shape [2] but got: [2,1]"),
]


@pytest.mark.parametrize(("wanted", "body", "message"), REJECTED)
def test_a_bad_body_is_refused_with_what_is_wrong_with_it(wanted: Specs, body: str | bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body, wanted)
    assert message in str(caught.value)
    assert read_fast(body, wanted) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("template", "shape"),
    [
        ('{{"inputs": {0}}}', ()),
        ('{{"inputs": [{0}, {0}]}}', (2,)),
        ('{{"inputs": {{"x": [[{0}], [{0}]]}}}}', (2, 1)),
        ('{{"instances": [{0}, {0}, {0}]}}', (3,)),
        ('{{"instances": [[[{0}, {0}]]]}}', (1, 1, 2)),
        ('{{"instances": [{{"x": {0}}}, {{"x": {0}}}]}}', (2,)),
        ('{{"instances": [{{"x": [{0}]}}]}}', (1, 1)),
    ],
)
def test_every_dtype_in_every_form(dtype: Dtype, template: str, shape: tuple[int, ...]) -> None:
    body = template.format("true" if dtype == BOOL else "1")
    check_meaning(body, specs(x=dtype), {"x": np.ones(shape, dtype)})


@pytest.mark.parametrize("dtype", INTS, ids=str)
@pytest.mark.parametrize("template", ['{{"inputs": [{}]}}', '{{"inputs": {}}}', '{{"instances": [{{"x": {}}}]}}'])
def test_an_integer_is_taken_up_to_its_limits_and_not_beyond(dtype: Dtype, template: str) -> None:
    wanted = specs(x=dtype)
    low, high = limits(dtype)
    for number in (low, high):
        assert [int(x) for x in read(template.format(number), wanted)["x"].ravel()] == [number]
    for number in (low - 1, high + 1):
        shown = re.escape(f"JSON Value: {number} Type: Number is not of expected type: {dtype.name} ({low} to {high})")
        with pytest.raises(InvalidRequest, match=shown):
            read(template.format(number), wanted)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"inputs": 1}', DEFAULT_SIGNATURE),
        ('{"signature_name": "", "inputs": 1}', DEFAULT_SIGNATURE),
        ('{"signature_name": "other", "inputs": [1]}', "other"),
        ('{"signature_name": "other", "inputs": NaN}', "other"),
        ('{"signature_name": "first", "signature_name": "second", "inputs": [1]}', "first"),
    ],
)
def test_a_signature_is_named_or_the_default(body: str, name: str) -> None:
    assert parse_predict(body.encode()).signature_name == name


@pytest.mark.parametrize(
    "body",
    ['{"instances": [1], "inputs": [1]}', "{}", '{"instances": 1}', '{"inputs": "what"}', '{"instances": []}'],
)
def test_what_is_in_a_request_is_looked_at_when_the_model_is_known(body: str) -> None:
    parsed = parse_predict(body.encode())
    with pytest.raises(InvalidRequest):
        parsed.inputs(X)


@pytest.mark.parametrize("body", ['{"inputs": [1}', "[1]", '{"signature_name": 7, "inputs": [1]}'])
def test_what_is_no_request_is_refused_before_the_model_is_known(body: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_predict(body.encode())


@pytest.mark.parametrize(
    ("body", "is_row"),
    [
        ('{"instances": [1]}', True),
        ('{"instances": [NaN]}', True),
        ('{"inputs": [1]}', False),
        ('{"inputs": [NaN]}', False),
    ],
)
def test_the_form_of_the_answer_is_that_of_the_request(body: str, is_row: bool) -> None:
    assert parse_predict(body.encode()).is_row is is_row


@pytest.mark.parametrize("rank", [32, 33])
@pytest.mark.parametrize("key", ["inputs", "instances"])
def test_lists_nest_32_deep_and_not_deeper(key: str, rank: int) -> None:
    body = f'{{"{key}": {"[" * rank}1{"]" * rank}}}'
    if rank == 32:
        assert read(body, X)["x"].shape == (1,) * 32
        return
    with pytest.raises(InvalidRequest, match="32"):
        read(body, X)


DEEP = {
    "lists": ("[", "]"),
    "objects": ('{"x":', "}"),
    "both": ('[{"x":', "}]"),
}


@pytest.mark.parametrize("depth", [500, 5_000, 100_000, 1_000_000])
@pytest.mark.parametrize("brackets", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize(
    "template", ["{}", '{{"inputs": {}}}', '{{"instances": {}}}', '{{"instances": [{{"x": {}}}]}}']
)
def test_deep_nesting_is_refused_at_once(template: str, is_closed: bool, brackets: tuple[str, str], depth: int) -> None:
    opening, closing = brackets
    body = template.format(f"{opening * depth}1{closing * depth if is_closed else ''}").encode()
    started = time.process_time()
    with pytest.raises(InvalidRequest) as caught:
        read(body, X)
    assert time.process_time() - started < 1
    assert len(str(caught.value)) < 1000


def test_deep_nesting_is_refused_in_a_worker_thread_too() -> None:
    body = b'{"inputs": ' + b"[" * 1_000_000
    with ThreadPoolExecutor(1) as pool, pytest.raises(InvalidRequest):
        pool.submit(read, body, X).result()


def test_the_interpreters_recursion_limit_is_left_alone() -> None:
    before = sys.getrecursionlimit()
    with pytest.raises(InvalidRequest):
        read(b"[" * 100_000, X)
    assert sys.getrecursionlimit() == before


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(["x" * 1_000_000]),
        json.dumps({"instances": "x" * 1_000_000}),
        json.dumps({"inputs": [["x" * 1_000_000]]}),
        json.dumps({"inputs": {"x" * 1_000_000: 1}}),
        json.dumps({"instances": [{"x" * 1_000_000: 1}]}),
        json.dumps({"instances": [1], "inputs": list(range(100_000))}),
        json.dumps({"signature_name": list(range(100_000)), "inputs": 1}),
        json.dumps({"instances": [{"x" * 100_000: {"y" * 100_000: 1}}]}),
        json.dumps({"instances": [1, {"☃" * 100_000: 1}]}, ensure_ascii=False),
        '{"inputs": ' + '[{"x":' * 200 + "1" + "}]" * 200 + "}",
        '{"inputs": [1' + "0" * 4000 + "]}",
        '{"' + "x" * 1_000_000 + '": }',
    ],
    ids=str.__len__,
)
def test_a_message_quotes_no_more_than_a_piece_of_the_body(body: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body, INT)
    quoted = str(caught.value).encode()
    # Of the body; our own words come on top.
    assert len(quoted) < 256 + 200


def as_read(array: NDArray[Any]) -> NDArray[Any]:
    """Nothing is left in JSON of the sizes behind a size of 0."""
    shape = array.shape
    return array.reshape(shape[: shape.index(0) + 1]) if 0 in shape else array


def jsonable(array: NDArray[Any]) -> Any:
    return array.astype(np.float64).tolist() if array.dtype == BFLOAT16 else array.tolist()


@reproducibly
@given(st.lists(arrays(), min_size=1, max_size=3), st.booleans(), st.sampled_from([(",", ":"), (" ,\n", " : ")]))
def test_columns_that_python_writes_are_read_as_they_were(
    tensors: list[NDArray[Any]], is_elided: bool, separators: tuple[str, str]
) -> None:
    named = {f"input {i}": array for i, array in enumerate(tensors)}
    columns: Any = {name: jsonable(array) for name, array in named.items()}
    if is_elided and len(columns) == 1:
        (columns,) = columns.values()
    body = json.dumps({"inputs": columns}, separators=separators)
    check_readers(body, named)


@reproducibly
@given(st.lists(arrays(), min_size=1, max_size=3), st.integers(1, 3), st.booleans())
def test_rows_that_python_writes_are_read_as_they_were(tensors: list[NDArray[Any]], size: int, is_elided: bool) -> None:
    named = {f"input {i}": np.stack([array] * size) for i, array in enumerate(tensors)}
    if is_elided and len(named) == 1:
        (rows,) = (jsonable(array) for array in named.values())
    else:
        rows = [{name: jsonable(array[i]) for name, array in named.items()} for i in range(size)]
    check_readers(json.dumps({"instances": rows}), named)


utf_8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@reproducibly
@given(string_arrays(utf_8.map(str.encode)), st.booleans(), st.booleans())
def test_strings_that_python_writes_are_read_as_they_were(array: NDArray[Any], is_ascii: bool, is_row: bool) -> None:
    texts = np.array([text.decode() for text in array.ravel()], object).reshape(array.shape).tolist()
    value = [texts, texts] if is_row else texts
    body = json.dumps({"instances" if is_row else "inputs": value}, ensure_ascii=is_ascii)
    check_meaning(body, TEXT, {"x": as_read(np.stack([array, array]) if is_row else array)})


@reproducibly
@given(string_arrays(st.binary(max_size=5)), st.booleans())
def test_bytes_in_base64_are_read_as_they_were(array: NDArray[Any], is_padded: bool) -> None:
    objects = [{"b64": base64.b64encode(value).decode().rstrip("" if is_padded else "=")} for value in array.ravel()]
    value = np.array(objects, object).reshape(array.shape).tolist()
    check_meaning(json.dumps({"inputs": {"x": value}}), TEXT, {"x": as_read(array)})


def test_megabytes_in_base64_take_about_as_long_as_a_look_at_them() -> None:
    image = np.random.default_rng(0).bytes(8_000_000)
    body = b'{"instances":[{"b64":"%b"}]}' % base64.b64encode(image)
    started = time.process_time()
    assert read(body, TEXT)["x"].tolist() == [image]
    assert time.process_time() - started < 1


def check_readers(body: str, named: dict[str, NDArray[Any]]) -> None:
    wanted = specs(**{name: array.dtype for name, array in named.items()})
    check_meaning(body, wanted, {name: as_read(array) for name, array in named.items()})


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != BOOL], ids=str)
@pytest.mark.parametrize("template", ['{"instances": %s}', '{"inputs": %s}', '{"inputs": {"x": %s}}'])
def test_rectangles_of_numbers_are_read_the_fast_way(template: str, dtype: Dtype) -> None:
    body = template % json.dumps(np.ones((2, 3, 4), np.int8).tolist())
    assert read_fast(body, specs(x=dtype)) is not None


def test_named_rows_are_read_the_fast_way() -> None:
    assert read_fast('{"instances": [{"x": [1, 2], "y": 3}, {"x": [4, 5], "y": 6}]}', XY) is not None


SEEDS = [
    '{"instances":[[1,2],[3,4]]}',
    '{"instances":[{"x":[1,2]},{"x":[3,4]}]}',
    '{"instances":[{"x":1},{"x":2}]}',
    '{"signature_name":"s","inputs":{"x":[[1,2],[3,4]]}}',
    '{"inputs":[[[1],[2]],[[3],[4]]],"more":[5]}',
    '{"inputs":1}',
    '{"instances":[true,false]}',
    '{"instances":[-1.5e3,NaN,0.25]}',
]
PIECES = [
    *'[]{},:"0123456789.-eE +x\\',
    *("[[", "]]", "[]", "{}", "],[", "null", "true", "false", "NaN", "Infinity", '"x":', '"a"', "1e400", "-0", "256"),
    *("9223372036854775808", "18446744073709551616", '"inputs":', '"instances":', '"signature_name":', "\\u0078", "é"),
]
# Where, how many characters are taken out, and what is put in.
edits = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 4), st.lists(st.sampled_from(PIECES), max_size=3)),
    min_size=1,
    max_size=4,
)


def edited(text: str, changes: list[tuple[int, int, list[str]]]) -> str:
    for at, length, pieces in changes:
        text = text[:at] + "".join(pieces) + text[at + length :]
    return text


@settings(deadline=None, derandomize=True, max_examples=1500)
@given(st.sampled_from(SEEDS), edits, st.sampled_from([*DTYPES, np.dtype(np.float32)]), st.booleans())
@example('{"instances":[1],"inputs":null}', [], np.dtype(np.float32), True)
@example('{"instances":[{"x":1}]}', [], BOOL, True)
def test_the_fast_reader_never_means_anything_else(
    seed: str, changes: list[tuple[int, int, list[str]]], dtype: Dtype, has_one: bool
) -> None:
    body = edited(seed, changes).encode(errors="replace")
    wanted = specs(x=dtype) if has_one else specs(x=dtype, y=dtype)
    try:
        exact = read_exactly_and_strictly(body, wanted)
    except InvalidRequest:
        assert read_fast(body, wanted) is None
        with pytest.raises(InvalidRequest):
            read(body, wanted)
        return
    check_meaning(body, wanted, exact)


def read_exactly_and_strictly(body: bytes, wanted: Specs) -> Tensors:
    """Read without the fast reader, with what `parse_predict` checks."""
    json_exact.signature_name(json_exact.parse(body))
    return read_exactly(body, wanted)


@reproducibly
@given(st.floats(), st.sampled_from(FLOATS))
def test_a_number_is_rounded_as_numpy_rounds_it(number: float, dtype: Dtype) -> None:
    with np.errstate(over="ignore"):
        want = np.array([number]).astype(dtype)
    check_readers(json.dumps({"inputs": {"x": [number]}}), {"x": want})


def test_a_list_longer_than_simdjson_counts_is_read_fast_and_whole() -> None:
    count = 0xFFFFFF + 5
    wanted = {"x": TensorSpec("x", np.dtype(np.int8), (-1,))}
    body = b'{"inputs":[' + b"7," * (count - 1) + b"8]}"
    parsed = parse_predict(body)
    assert parsed.fast is not None
    array = json_fast.read(parsed.fast, wanted)
    assert array is not None
    assert array["x"].shape == (count,)
    assert array["x"][-2:].tolist() == [7, 8]


@pytest.mark.parametrize("element", ["0", "NaN"])
def test_a_large_list_of_a_shape_that_is_not_wanted_is_refused_unread(element: str) -> None:
    wanted = {"x": TensorSpec("x", np.dtype(np.float32), (-1, 8, 8))}
    body = f'{{"inputs":[{",".join([element] * 100_000)}]}}'.encode()
    with pytest.raises(InvalidRequest, match=r"input 'x' has shape \(100000,\); want \(-1, 8, 8\)"):
        parse_predict(body).inputs(wanted)
