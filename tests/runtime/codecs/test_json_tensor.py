"""Predict requests in JSON: what each body means, which are refused and with which words, and that the two readers
never mean different things."""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
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
from tests.runtime.codecs.specs import BFLOAT16, BOOL, DTYPES, FLOATS, INTS, arrays, assert_all_same, limits, specs

Specs = Mapping[str, TensorSpec]

reproducibly = settings(deadline=None, derandomize=True)


def read(body: str | bytes, wanted: Specs) -> Tensors:
    return parse_predict(encoded(body)).inputs(wanted)


def read_exactly(body: str | bytes, wanted: Specs) -> Tensors:
    document = json_exact.parse(encoded(body))
    return json_exact.read(document, "instances" in document, wanted)


def read_fast(body: str | bytes, wanted: Specs) -> Tensors | None:
    document = json_fast.parse(encoded(body))
    return None if document is None else json_fast.read(document, document.is_row, wanted)


def encoded(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else body


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


X = specs(x=np.float32)
INT = specs(x=np.int32)
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
    (X, '{"inputs": [1e400, -1e400, 1e-400]}', {"x": f32([np.inf, -np.inf, 0])}),
    (specs(x=np.float64), '{"inputs": [1e308, 1e309]}', {"x": np.array([1e308, np.inf])}),
    (specs(x=np.float16), '{"inputs": [65504, 65520, -1e9]}', {"x": np.array([65504, np.inf, -np.inf], np.float16)}),
    (specs(x=BFLOAT16), '{"inputs": [1, 3.4e38, 1e39]}', {"x": f32([1, np.inf, np.inf]).astype(BFLOAT16)}),
    (X, f'{{"inputs": [1{"0" * 400}, -1{"0" * 400}]}}', {"x": f32([np.inf, -np.inf])}),
    # More digits than Python converts to an integer.
    (X, f'{{"inputs": [1, 1{"0" * 5000}, -1{"0" * 5000}]}}', {"x": f32([1, np.inf, -np.inf])}),
    (X, f'{{"instances": [1{"0" * 5000}]}}', {"x": f32([np.inf])}),
    (XY, f'{{"inputs": {{"x": 1{"0" * 5000}, "y": 7}}}}', {"x": f32(np.inf), "y": np.array(7)}),
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
    # Not JSON.
    (X, "", "JSON Parse error: The document is empty"),
    (X, " \n", "JSON Parse error: The document is empty"),
    (X, "{", "JSON Parse error: "),
    (X, '{"inputs": [1]', "JSON Parse error: "),
    (X, '{"inputs": [1]}}', "JSON Parse error: "),
    (X, '{"inputs": [1,]}', "JSON Parse error: "),
    (X, '{"inputs": [01]}', "JSON Parse error: "),
    (X, '{"inputs": [1.]}', "JSON Parse error: "),
    (X, '{"inputs": [.5]}', "JSON Parse error: "),
    (X, '{"inputs": [+1]}', "JSON Parse error: "),
    (X, '{"inputs": [0x10]}', "JSON Parse error: "),
    (X, '{"inputs": [nan]}', "JSON Parse error: "),
    (X, "{'inputs': [1]}", "JSON Parse error: "),
    (X, '{"inputs": [1] /* one */}', "JSON Parse error: "),
    (X, '{"inputs": [1]} {"inputs": [2]}', "JSON Parse error: "),
    (X, b'{"inputs": [1], "\xff": 1}', "not UTF-8"),
    (X, '{"inputs": [1]}'.encode("utf-16"), "JSON Parse error: "),
    (INT, f'{{"inputs": [-1{"0" * 5000}]}}', "JSON Value: -Infinity Type: Number is not of expected type: int32"),
    (X, f'{{"inputs": [1{"0" * 5000}}}', "JSON Parse error: "),
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
    (X, '{"instances": null}', "Expecting 'instances' to be an list/array"),
    (X, '{"instances": 1}', "Expecting 'instances' to be an list/array"),
    (X, '{"instances": {"x": [1]}}', "Expecting 'instances' to be an list/array"),
    (X, '{"instances": []}', "No values in 'instances' array"),
    (X, '{"signature_name": 1, "inputs": [1]}', "'signature_name' key must be a string value"),
    (X, '{"signature_name": null, "inputs": [1]}', "'signature_name' key must be a string value"),
    # Names.
    (XY, '{"instances": [1]}', "expecting list of objects as multiple input tensors required"),
    (XY, '{"inputs": [1]}', "expecting an object as multiple input tensors required"),
    (XY, '{"inputs": {"x": 1}}', "Missing named input: y in 'inputs' object"),
    (X, '{"inputs": {"z": [1]}}', "Missing named input: x in 'inputs' object"),
    (X, '{"inputs": {}}', "Missing named input: x in 'inputs' object"),
    (XY, '{"instances": [{"x": 1}]}', "0 of 'instances' list. JSON object: {\"x\":1} keys must be equal to: x,y"),
    (XY, '{"instances": [{"x": 1, "z": 2}]}', "keys must be equal to: x,y"),
    (X, '{"instances": [{"x": 1}, {"x": 1, "y": 2}]}', "Failed to process element: 1 of 'instances' list."),
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
    (X, '{"instances": [{"x": {"b64": "AA=="}}]}', "Type: Object is not of expected type: float"),
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
    (X, '{"instances": [[1, 2], [3], [4, 5, 6]]}', "1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting"),
    (X, '{"instances": [1, [2]]}', "Expecting shape [] but got: [1]"),
    (X, '{"instances": [[], [1, 2]]}', "Expecting shape [0] but got: [2]"),
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
        with pytest.raises(InvalidRequest, match=rf"JSON Value: {number} .*{dtype.name} \({low} to {high}\)"):
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


@pytest.mark.parametrize(("body", "is_row"), [('{"instances": [1]}', True), ('{"inputs": [1]}', False)])
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
        '{"inputs": [1' + "0" * 4000 + "]}",
        '{"' + "x" * 1_000_000 + '": }',
    ],
    ids=str.__len__,
)
def test_a_message_quotes_no_more_than_a_piece_of_the_body(body: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body, INT)
    assert len(str(caught.value)) < 1000


# Python's objects for such bodies are some 25 times as large as the text, and what is made of them must not be much
# more; an array for each row would be.
@pytest.mark.parametrize(
    "row", ["[]", "[1]", "1.5", '{"x":1}', '{"x":[1]}', '{"x":[NaN]}', "[[1]]", "NaN", "[NaN]"], ids=str
)
def test_many_small_rows_take_memory_in_proportion(row: str) -> None:
    body = b'{"instances":[' + b",".join([row.encode()] * 5_000) + b"]}"
    tracemalloc.start()
    try:
        array = read(body, X)["x"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(array) == 5_000
    assert peak < 60 * len(body)


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
    """Read without the fast reader, with what `parse_predict` checks of the form."""
    document = json_exact.parse(body)
    if ("instances" in document) == ("inputs" in document):
        raise InvalidRequest("one of the two")
    if not isinstance(document.get("signature_name", ""), str):
        raise InvalidRequest("no name")
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
    array = json_fast.read(parsed.fast, False, wanted)
    assert array is not None
    assert array["x"].shape == (count,)
    assert array["x"][-2:].tolist() == [7, 8]


@pytest.mark.parametrize("element", ["0", "NaN"])
def test_a_large_list_of_a_shape_that_is_not_wanted_is_refused_unread(element: str) -> None:
    wanted = {"x": TensorSpec("x", np.dtype(np.float32), (-1, 8, 8))}
    body = f'{{"inputs":[{",".join([element] * 100_000)}]}}'.encode()
    with pytest.raises(InvalidRequest, match=r"input 'x' has shape \(100000,\); want \(-1, 8, 8\)"):
        parse_predict(body).inputs(wanted)
