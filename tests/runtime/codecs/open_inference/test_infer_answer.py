"""Answers of infer over REST: their form, and that every tensor reads back as it was."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.answers import Reply
from runtime.codecs.open_inference.infer_answer import encode
from runtime.codecs.open_inference.inference import InferResponse, Output, Parameters
from runtime.errors import InvalidRequest
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

NUMPYS = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
}


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def strings(values: Any) -> NDArray[Any]:
    return np.array(values, object)


def answered(*outputs: Output, id: str = "", parameters: Parameters | None = None) -> Reply:
    return encode(InferResponse("m", "3", outputs, id, parameters or {}))


def text_of(*outputs: Output) -> str:
    """What is written of outputs, without what is around them."""
    content = answered(*outputs).content.decode()
    start, end = '{"model_name":"m","model_version":"3","outputs":[', "]}"
    assert content.startswith(start)
    assert content.endswith(end)
    return content[len(start) : -len(end)]


def read(reply: Reply) -> dict[str, NDArray[Any]]:
    """The tensors of an answer, as a client reads them."""
    head = json.loads(reply.content)
    rest = b"".join(reply.tail)
    if reply.content_type:
        assert reply.content_type == "application/octet-stream"
        assert reply.headers == {"inference-header-content-length": str(len(reply.content))}
    else:
        assert not reply.headers
        assert not rest
    tensors = {}
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        assert ("data" in output) is (size is None)
        if size is None:
            flat = as_array(output["datatype"], output["data"])
        else:
            mine, rest = rest[:size], rest[size:]
            assert len(mine) == size
            flat = as_strings(mine) if output["datatype"] == "BYTES" else binary(output["datatype"], mine)
        tensors[output["name"]] = flat.reshape(output["shape"])
    assert not rest
    return tensors


def as_array(datatype: str, data: list[Any]) -> NDArray[Any]:
    if datatype == "BYTES":
        return strings([text.encode() for text in data])
    wide = np.float64 if datatype in {"FP16", "FP32", "FP64", "BF16"} else NUMPYS[datatype]
    return np.array(data, wide).astype(NUMPYS[datatype])


def binary(datatype: str, data: bytes) -> NDArray[Any]:
    return np.frombuffer(data, np.dtype(NUMPYS[datatype]).newbyteorder("<") if datatype != "BF16" else BFLOAT16)


def as_strings(data: bytes) -> NDArray[Any]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "little")
        assert len(data) >= 4 + size
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    array = np.empty(len(found), object)
    array[:] = found
    return array


OUTPUTS: list[tuple[Output, str]] = [
    (Output("y", f32([[1, 2.5]])), '{"name":"y","shape":[1,2],"datatype":"FP32","data":[1.0,2.5]}'),
    # Flat, whatever the rank.
    (
        Output("y", np.array([[[1], [2]]], np.int8)),
        '{"name":"y","shape":[1,2,1],"datatype":"INT8","data":[1,2]}',
    ),
    (Output("y", f32(7)), '{"name":"y","shape":[],"datatype":"FP32","data":[7.0]}'),
    (Output("y", f32([])), '{"name":"y","shape":[0],"datatype":"FP32","data":[]}'),
    (Output("y", np.zeros((2, 0, 3))), '{"name":"y","shape":[2,0,3],"datatype":"FP64","data":[]}'),
    (Output("y", np.array([True, False])), '{"name":"y","shape":[2],"datatype":"BOOL","data":[true,false]}'),
    (
        Output("y", np.array([0, 2**64 - 1], np.uint64)),
        '{"name":"y","shape":[2],"datatype":"UINT64","data":[0,18446744073709551615]}',
    ),
    (
        Output("y", np.array([0.1, 65504], np.float16)),
        '{"name":"y","shape":[2],"datatype":"FP16","data":[0.099975586,65504.0]}',
    ),
    (Output("y", np.array([1.5], BFLOAT16)), '{"name":"y","shape":[1],"datatype":"BF16","data":[1.5]}'),
    (
        Output("y", f32([np.nan, np.inf, -np.inf, 1])),
        '{"name":"y","shape":[4],"datatype":"FP32","data":[NaN,Infinity,-Infinity,1.0]}',
    ),
    (
        Output("y", np.array([np.nan, 1], BFLOAT16)),
        '{"name":"y","shape":[2],"datatype":"BF16","data":[NaN,1.0]}',
    ),
    (
        Output("null", strings([[b"null"], ['é"'.encode()]])),
        '{"name":"null","shape":[2,1],"datatype":"BYTES","data":["null","é\\""]}',
    ),
    (Output("y", strings(b"")), '{"name":"y","shape":[],"datatype":"BYTES","data":[""]}'),
    (
        Output("y", f32([1]), parameters={"a": True, "b": 2, "c": 0.5, "d": "null"}),
        '{"name":"y","shape":[1],"datatype":"FP32","parameters":{"a":true,"b":2,"c":0.5,"d":"null"},"data":[1.0]}',
    ),
    (
        Output("y", f32([[1, 2]]), is_binary=True),
        '{"name":"y","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}',
    ),
    (
        Output("y", strings([b"ab", b"\xff"]), is_binary=True),
        '{"name":"y","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":11}}',
    ),
    (
        Output("y", f32([]), is_binary=True),
        '{"name":"y","shape":[0],"datatype":"FP32","parameters":{"binary_data_size":0}}',
    ),
    (
        Output("y", f32([1]), is_binary=True, parameters={"a": "b"}),
        '{"name":"y","shape":[1],"datatype":"FP32","parameters":{"a":"b","binary_data_size":4}}',
    ),
]


@pytest.mark.parametrize(("output", "text"), OUTPUTS)
def test_an_output_is_written_so(output: Output, text: str) -> None:
    assert text_of(output) == text


def test_an_answer_has_what_its_request_had() -> None:
    reply = answered(Output("y", f32([1])), id="null", parameters={"a": float("nan"), "b": -1, "c": float("-inf")})
    assert reply.content == (
        b'{"model_name":"m","model_version":"3","id":"null","parameters":{"a":NaN,"b":-1,"c":-Infinity},'
        b'"outputs":[{"name":"y","shape":[1],"datatype":"FP32","data":[1.0]}]}'
    )
    assert answered().content == b'{"model_name":"m","model_version":"3","outputs":[]}'


def test_json_alone_is_a_plain_answer() -> None:
    reply = answered(Output("y", f32([1])))
    assert reply == Reply(reply.content)


def test_binary_and_json_are_mixed_in_the_order_of_the_outputs() -> None:
    outputs = [
        Output("d", np.array([2**40], np.int64), is_binary=True),
        Output("c", f32([np.nan])),
        Output("b", f32([]), is_binary=True),
        Output("a", strings([b"x", b""]), is_binary=True),
        Output("e", np.array([[True]])),
        Output("f", np.array([True, False]), is_binary=True),
    ]
    reply = answered(*outputs)
    assert b"".join(reply.tail) == (2**40).to_bytes(8, "little") + b"\1\0\0\0x\0\0\0\0" + b"\1\0"
    assert [output["name"] for output in json.loads(reply.content)["outputs"]] == list("dcbaef")
    tensors = read(reply)
    for output in outputs:
        assert_same(tensors[output.name], output.array)


def test_nothing_but_an_empty_binary_output_is_binary_still() -> None:
    reply = answered(Output("y", f32([]), is_binary=True))
    assert read(reply)["y"].shape == (0,)
    assert reply.content_type


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_binary_output_is_not_copied(dtype: Dtype) -> None:
    array = np.zeros((3, 5), dtype)
    (data,) = answered(Output("y", array, is_binary=True)).tail
    assert np.shares_memory(np.frombuffer(data, np.uint8), array.view(np.uint8))


def test_what_is_not_finite_is_told_in_order_over_all_that_is_written() -> None:
    parameters: Parameters = {"null": float("inf"), "s": '"null'}
    reply = answered(
        Output("null", f32([np.nan, 1]), parameters=parameters),
        Output("t", strings([b'null,"null"', b"\\"])),
        # Its bits are not text, and not looked at.
        Output("b", f32([np.nan]), is_binary=True),
        Output("z", f32([[-np.inf]])),
        parameters={"p": float("-inf")},
    )
    head = json.loads(reply.content)
    assert head["parameters"] == {"p": -np.inf}
    assert head["outputs"][0]["parameters"] == parameters
    np.testing.assert_array_equal(head["outputs"][0]["data"], [np.nan, 1])
    assert head["outputs"][1]["data"] == ['null,"null"', "\\"]
    assert head["outputs"][3]["data"] == [-np.inf]


def test_a_string_that_json_does_not_carry_is_told_how_to_be_asked_for() -> None:
    with pytest.raises(InvalidRequest, match=r"output 'y' has a string that is no UTF-8.*binary_data"):
        answered(Output("y", strings([b"ok", b"\xff"])))


@pytest.mark.parametrize("dtype", INTS, ids=str)
@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "json"])
def test_integers_are_carried_up_to_their_limits(dtype: Dtype, is_binary: bool) -> None:
    array = np.array([*limits(dtype), 0], dtype)
    assert_same(read(answered(Output("y", array, is_binary)))["y"], array)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_limits_of_floats_read_back(dtype: Dtype) -> None:
    width = 8 * dtype.itemsize
    (infinity,) = np.array([np.inf], dtype).view(f"u{dtype.itemsize}").tolist()
    # The least, the largest, and the sign of zero.
    bits = [1, infinity - 1, infinity, (1 << width) - 1, 1 << (width - 1), (1 << (width - 1)) | 1]
    array = np.array(bits, f"u{dtype.itemsize}").view(dtype)
    assert_same(read(answered(Output("y", array)))["y"], array)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "json"])
def test_an_array_is_written_alike_however_it_lies_in_memory(dtype: Dtype, is_binary: bool) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    wanted = read(answered(Output("y", array, is_binary)))["y"]
    others = [np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2], array[::-1][::-1]]
    if dtype != BFLOAT16:
        others.append(array.astype(dtype.newbyteorder()))
    for other in others:
        assert_same(read(answered(Output("y", other, is_binary)))["y"], wanted)


@reproducibly
@given(st.lists(st.tuples(arrays(), st.booleans()), max_size=4), st.text(st.characters(exclude_categories=["Cs"])))
def test_every_answer_reads_back_as_it_was(parts: list[tuple[NDArray[Any], bool]], id: str) -> None:
    outputs = [Output(f"y{i}", array, is_binary) for i, (array, is_binary) in enumerate(parts)]
    reply = answered(*outputs, id=id)
    tensors = read(reply)
    assert json.loads(reply.content).get("id", "") == id
    assert list(tensors) == [output.name for output in outputs]
    for output in outputs:
        if output.is_binary and is_float(output.array.dtype):
            # To the bit, be it one NaN or another.
            assert tensors[output.name].tobytes() == output.array.tobytes()
        assert_same(tensors[output.name], output.array)


@reproducibly
@given(string_arrays(st.binary(max_size=5)))
def test_every_string_reads_back_as_it_was_if_it_is_binary(array: NDArray[Any]) -> None:
    assert_same(read(answered(Output("y", array, is_binary=True)))["y"], array)


@reproducibly
@given(string_arrays(st.text(st.characters(exclude_categories=["Cs"]), max_size=5).map(str.encode)))
def test_every_text_reads_back_as_it_was(array: NDArray[Any]) -> None:
    assert_same(read(answered(Output("y", array)))["y"], array)
