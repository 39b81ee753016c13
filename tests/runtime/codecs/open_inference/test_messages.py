"""gRPC's messages of the Open Inference Protocol, both ways, against the tests' own schema."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.codecs.open_inference import infer_wire, messages
from runtime.codecs.open_inference.datatypes import dtype_of
from runtime.codecs.open_inference.inference import InferRequest, InferResponse, Output, Wanted
from runtime.codecs.open_inference.reports import Duration, IndexRow, ModelStatistics
from runtime.codecs.schema import open_inference as schema
from runtime.errors import InvalidRequest
from runtime.signature import MAX_RANK, Dtype, Signature, TensorSpec
from tests.runtime.codecs.open_inference.test_infer_wire import LEN, field
from tests.runtime.codecs.specs import BFLOAT16, BOOL, DTYPES, INTS, arrays, assert_same, limits, string_arrays
from tests.runtime.open_inference import oracle

reproducibly = settings(deadline=None, derandomize=True, max_examples=200)
MEBIBYTE = 1 << 20
X = np.array([[1, 2], [3, 4]], np.float32)
any_arrays = arrays() | string_arrays(st.binary(max_size=5))


def decoded(wire: bytes, large: int = infer_wire.LARGE) -> InferRequest:
    return messages.decode(infer_wire.receive(wire, large))


def read(wire: bytes, large: int = infer_wire.LARGE) -> dict[str, NDArray[Any]]:
    """All inputs of a request."""
    found = {}
    for one in decoded(wire, large).inputs:
        found[one.name] = array = one.read(None)
        assert (array.dtype, array.shape) == (one.dtype, one.shape)
    return found


@reproducibly
@given(st.lists(any_arrays, max_size=3), st.sampled_from([0, infer_wire.LARGE]))
def test_raw_contents_are_read(given_: list[NDArray[Any]], large: int) -> None:
    inputs: dict[str, Any] = {f"x{i}": array for i, array in enumerate(given_)}
    found = read(oracle.request("m", **inputs).SerializeToString(), large)
    assert found.keys() == inputs.keys()
    for name, array in inputs.items():
        assert_same(found[name], array)


@reproducibly
@given(st.lists(any_arrays.filter(lambda array: oracle.DATATYPES[array.dtype.name][1] != ""), max_size=3))
def test_contents_are_read(given_: list[NDArray[Any]]) -> None:
    inputs: dict[str, Any] = {f"x{i}": array for i, array in enumerate(given_)}
    found = read(oracle.request("m", is_raw=False, **inputs).SerializeToString())
    assert found.keys() == inputs.keys()
    for name, array in inputs.items():
        assert_same(found[name], array)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if oracle.DATATYPES[dtype.name][1]], ids=str)
def test_numbers_may_be_packed_or_not(dtype: Dtype) -> None:
    datatype, name = oracle.DATATYPES[dtype.name]
    array = np.array([1, 0, 1]).astype(dtype)
    head = oracle.message("Tensor")(name="x", datatype=datatype, shape=[3]).SerializeToString()
    unpacked = oracle.message("Unpacked")(**{name: array.tolist()}).SerializeToString()
    packed = oracle.message("InferTensorContents")(**{name: array.tolist()}).SerializeToString()
    assert unpacked != packed
    for values in (unpacked, packed):
        assert_same(read(field(5, LEN, head + field(5, LEN, values)))["x"], array)


def test_the_limits_of_integers_are_theirs() -> None:
    for dtype in INTS:
        array = np.array(limits(dtype), dtype)
        assert_same(read(oracle.request("m", is_raw=False, x=array).SerializeToString())["x"], array)


@pytest.mark.parametrize("dtype", [dtype for dtype in INTS if dtype.itemsize < 4], ids=str)
@pytest.mark.parametrize("end", [0, 1])
def test_a_number_that_is_out_of_range_is_refused_and_not_wrapped(dtype: Dtype, end: int) -> None:
    value = limits(dtype)[end] + (1 if end else -1)
    if value < 0 and dtype.kind == "u":
        return
    datatype, field = oracle.DATATYPES[dtype.name]
    made = oracle.request("m", is_raw=False, x=np.zeros(2, dtype))
    getattr(made.inputs[0].contents, field)[1] = value
    request = decoded(made.SerializeToString())
    least, most = limits(dtype)
    with pytest.raises(
        InvalidRequest, match=f"^input 'x' has the value {value}; want {datatype}, from {least} to {most}$"
    ):
        request.inputs[0].read(None)


def test_large_raw_contents_are_views_of_the_message() -> None:
    wire = oracle.request("m", x=np.zeros(MEBIBYTE, np.uint8), y=X).SerializeToString()
    tracemalloc.start()
    try:
        x, y = read(wire).values()
        assert tracemalloc.get_traced_memory()[1] < MEBIBYTE // 8
    finally:
        tracemalloc.stop()
    assert not x.flags.writeable
    assert_same(y, X)


def test_what_a_request_says_is_told() -> None:
    made = oracle.request("m", version="3", id="7", x=X, outputs=["b", "a"])
    made.parameters["sequence_id"].int64_param = -(2**63)
    made.parameters["sequence_start"].bool_param = False
    made.parameters["name"].string_param = "é"
    made.parameters["rate"].double_param = 0.5
    made.parameters["large"].uint64_param = 2**64 - 1
    made.inputs[0].parameters["of"].string_param = "x"
    made.outputs[1].parameters["classification"].int64_param = 3
    request = decoded(made.SerializeToString())
    assert request.id == "7"
    assert request.is_binary
    assert request.parameters == {
        "sequence_id": -(2**63),
        "sequence_start": False,
        "name": "é",
        "rate": 0.5,
        "large": 2**64 - 1,
    }
    assert [(one.name, one.parameters) for one in request.inputs] == [("x", {"of": "x"})]
    assert request.outputs == [Wanted("b"), Wanted("a", classes=3, parameters={"classification": 3})]


def made(**inputs: NDArray[Any]) -> Any:
    given: dict[str, Any] = {**inputs} or {"x": X}
    return oracle.request("m", **given)


def changed(change: Callable[[Any], object], **inputs: NDArray[Any]) -> bytes:
    """A request in which something is not right."""
    request = made(**inputs)
    change(request)
    wire: bytes = request.SerializeToString()
    return wire


def contents(datatype: str, shape: list[int], **values: Any) -> bytes:
    """A request with one input of values one by one."""
    one = {"name": "x", "datatype": datatype, "shape": shape, "contents": values}
    wire: bytes = oracle.ModelInferRequest(inputs=[one]).SerializeToString()
    return wire


BOTH = (
    "Passing buffers both in InferInputTensor contents and in raw_input_contents is not allowed. Detected buffer in "
    "InferInputTensor contents for input: y"
)


def both(request: Any) -> None:
    request.inputs[1].contents.fp32_contents.append(1)


def again(request: Any) -> None:
    request.inputs[1].name = "x"


def renamed(name: str) -> Callable[[Any], object]:
    return lambda request: setattr(request.inputs[0], "name", name)


def datatype(name: str) -> Callable[[Any], object]:
    return lambda request: setattr(request.inputs[0], "datatype", name)


def shape(*sizes: int) -> Callable[[Any], object]:
    def change(request: Any) -> None:
        request.inputs[0].shape[:] = sizes

    return change


def raw(*buffers: bytes) -> Callable[[Any], object]:
    def change(request: Any) -> None:
        request.raw_input_contents[:] = buffers

    return change


def classification(field: str, value: Any) -> Callable[[Any], object]:
    def change(request: Any) -> None:
        setattr(request.outputs.add(name="y").parameters["classification"], field, value)

    return change


def parameter(field: str, of: Callable[[Any], Any]) -> Callable[[Any], object]:
    return lambda request: of(request).parameters[field].SetInParent()


def in_shared_memory(of: Callable[[Any], Any]) -> Callable[[Any], object]:
    return lambda request: setattr(of(request).parameters["shared_memory_region"], "string_param", "r")


def one_in_shared_memory(request: Any) -> None:
    """As Triton's client sends it: of this input there is no buffer."""
    in_shared_memory(lambda request: request.inputs[1])(request)
    raw(X.tobytes())(request)


REFUSED = [
    (changed(both, x=X, y=X), BOTH),
    (changed(raw(), x=X, y=X), "input 'x' has 0 values in fp32_contents; want 4 for"),
    (changed(raw(X.tobytes()), x=X, y=X), "raw_input_contents has 1 buffers; want 2, one for each input"),
    (changed(raw(X.tobytes(), b"")), "raw_input_contents has 2 buffers; want 1, one for each input"),
    (changed(raw(b"1234567890abcdef0")), "input 'x' has 17 bytes; want 16 for"),
    (changed(raw(b"1234567890abcde")), "input 'x' has 15 bytes; want 16 for"),
    (changed(shape(2, -1)), "input 'x' has shape (2, -1); want"),
    (changed(shape(2**40, 2**40)), "input 'x' has shape"),
    (changed(shape(*[1] * (MAX_RANK + 1))), f"input 'x' has a shape of {MAX_RANK + 1} sizes; want at most {MAX_RANK}"),
    (changed(shape(2**62)), "input 'x'"),
    (changed(again, x=X, y=X), "input 'x' is there twice, again as input 1; want it once"),
    (changed(renamed("")), "the name of input 0 is empty; want one"),
    (changed(datatype("FP8")), "input 'x' has the datatype 'FP8'; want one of BOOL, UINT8, "),
    (changed(datatype("")), "input 'x' has the datatype ''; want one of BOOL, "),
    (changed(datatype("fp32")), "input 'x' has the datatype 'fp32'; want one of BOOL, "),
    (changed(datatype("x" * 1000)), f"input 'x' has the datatype '{'x' * 80}...'; want one of"),
    (changed(lambda request: request.outputs.add()), "the name of output 0 is empty; want one"),
    (
        changed(lambda request: [request.outputs.add(name="y") for _ in range(2)]),
        "output 'y' is there twice, again as output 1; want it once",
    ),
    (changed(classification("int64_param", 0)), "output 'y' has the parameter 'classification' 0; want an int64_param"),
    (changed(classification("bool_param", True)), "output 'y' has the parameter 'classification' true; want an int64"),
    (changed(classification("string_param", "1")), "output 'y' has the parameter 'classification' '1'; want an int64"),
    (changed(parameter("p", lambda request: request)), "the request has a parameter 'p' without a value"),
    (changed(parameter("p", lambda request: request.inputs[0])), "input 'x' has a parameter 'p' without a value"),
    (changed(in_shared_memory(lambda request: request.inputs[0])), "input 'x' is in shared memory, which is not"),
    (
        changed(lambda request: [in_shared_memory(lambda r: r.inputs[1])(request), raw(b"")(request)], x=X, y=X),
        "input 'y' is in shared memory, which is not",
    ),
    (changed(one_in_shared_memory, x=X, y=X), "input 'y' is in shared memory, which is not supported; want it in the"),
    (changed(in_shared_memory(lambda request: request.outputs.add(name="y"))), "output 'y' is in shared memory"),
    (contents("FP32", [2], fp32_contents=[1]), "has 1 values in fp32_contents; want 2 for"),
    (contents("FP32", [2], fp32_contents=[1] * 3), "Invalid value count - Expected: 2 values; Actual: 3 values; input"),
    (contents("FP32", [2], fp64_contents=[1] * 2), "has 0 values in fp32_contents; want 2"),
    (contents("INT8", [2], int64_contents=[1] * 2), "has 0 values in int_contents; want 2"),
    (contents("UINT8", [2], int_contents=[1] * 2), "has 0 values in uint_contents; want 2"),
    (contents("BYTES", [2], bytes_contents=[b"a"]), "has 1 values in bytes_contents; want 2"),
    (contents("BYTES", [2**40]), "has 0 values in bytes_contents; want 1099511627776"),
    (contents("FP16", [1], fp32_contents=[1]), "input 'x' is of FP16, which contents has no field for; want raw_input"),
    (contents("BF16", [1], fp32_contents=[1]), "input 'x' is of BF16, which contents has no field for; want raw_input"),
]


@pytest.mark.parametrize(("wire", "why"), REFUSED)
def test_what_does_not_go_together_is_refused_before_anything_is_read(wire: bytes, why: str) -> None:
    for large in (0, infer_wire.LARGE):
        with pytest.raises(InvalidRequest, match=re.escape(why)):
            decoded(wire, large)


def test_strings_of_raw_contents_are_refused_when_they_are_read() -> None:
    request = decoded(changed(raw(b"\x05\0\0\0abc\0"), x=np.array([b"a", b"b"], object)))
    with pytest.raises(InvalidRequest, match=r"^input 'x' has"):
        request.inputs[0].read(None)


# Of who leaves the data out of what has none.
@pytest.mark.parametrize("datatype", ["FP32", "FP16", "BF16", "BYTES", "BOOL", "INT8"])
def test_what_is_empty_needs_no_contents(datatype: str) -> None:
    (x,) = read(contents(datatype, [0, 3])).values()
    assert (x.shape, x.dtype) == ((0, 3), dtype_of(datatype))


def test_contents_that_are_there_and_empty_are_none() -> None:
    assert_same(read(changed(lambda request: request.inputs[0].contents.SetInParent()))["x"], X)


def test_any_byte_but_0_is_true() -> None:
    (x,) = read(changed(raw(b"\0\1\2\xff"), x=np.zeros(4, BOOL))).values()
    assert x.tolist() == [False, True, True, True]


@reproducibly
@given(st.lists(any_arrays, max_size=3), st.booleans())
def test_answers_are_read_by_clients(given_: list[NDArray[Any]], is_in_stream: bool) -> None:
    outputs = [Output(f"y{i}", array, parameters={"i": i}) for i, array in enumerate(given_)]
    response = InferResponse("m", "3", outputs, "7", {"a": True})
    if is_in_stream:
        streamed = oracle.ModelStreamInferResponse.FromString(messages.encode_in_stream(response))
        assert not streamed.error_message
        answer = streamed.infer_response
        assert answer.parameters["triton_final_response"].bool_param
    else:
        answer = oracle.ModelInferResponse.FromString(messages.encode(response))
        assert "triton_final_response" not in answer.parameters
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "7")
    assert answer.parameters["a"].bool_param
    found = oracle.arrays(answer)
    assert list(found) == [f"y{i}" for i in range(len(given_))]
    for i, array in enumerate(given_):
        assert_same(found[f"y{i}"], array)
        assert answer.outputs[i].parameters["i"].int64_param == i
        assert not answer.outputs[i].HasField("contents")


def test_an_array_that_is_not_in_order_is_written_in_order() -> None:
    array = np.arange(12, dtype=np.int16).reshape(3, 4)[:, ::2].T
    answer = oracle.ModelInferResponse.FromString(messages.encode(InferResponse("m", "1", [Output("y", array)])))
    assert_same(oracle.arrays(answer)["y"], array)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (False, "bool_param"),
        (-(2**63), "int64_param"),
        (2**63 - 1, "int64_param"),
        (2**63, "uint64_param"),
        (0.5, "double_param"),
        ("", "string_param"),
    ],
)
def test_parameters_are_written_by_their_type(value: Any, field: str) -> None:
    wire = messages.encode(InferResponse("m", "1", [], parameters={"p": value}))
    parameter = oracle.ModelInferResponse.FromString(wire).parameters["p"]
    assert (parameter.WhichOneof("parameter_choice"), getattr(parameter, field)) == (field, value)


def test_a_large_answer_is_copied_once() -> None:
    array = np.zeros(8 * MEBIBYTE, np.uint8)
    tracemalloc.start()
    try:
        messages.encode(InferResponse("m", "1", [Output("y", array)]))
        assert tracemalloc.get_traced_memory()[1] < 9 * MEBIBYTE
    finally:
        tracemalloc.stop()


def test_an_error_in_a_stream_says_what_it_was_an_answer_to() -> None:
    request = schema.ModelInferRequest(model_name="m", model_version="3", id="7")
    answer = oracle.ModelStreamInferResponse.FromString(messages.encode_error(request, "too late"))
    assert answer.error_message == "too late"
    head = answer.infer_response
    assert (head.model_name, head.model_version, head.id) == ("m", "3", "7")
    assert head.parameters["triton_final_response"].bool_param
    assert not head.outputs


def test_metadata_tells_datatypes_and_shapes() -> None:
    specs = [
        TensorSpec("a", np.dtype(np.float32), (-1, 3)),
        TensorSpec("b", np.dtype(object), None),
        TensorSpec("c", BFLOAT16, ()),
    ]
    signature = Signature({spec.name: spec for spec in specs}, {"d": TensorSpec("d", BOOL, (2,))})
    wire = messages.model_metadata("m", ["1", "2"], signature).SerializeToString()
    told = oracle.message("ModelMetadataResponse").FromString(wire)
    assert (told.name, list(told.versions), told.platform) == ("m", ["1", "2"], "openvino")
    inputs = [(one.name, one.datatype, list(one.shape)) for one in told.inputs]
    assert inputs == [("a", "FP32", [-1, 3]), ("b", "BYTES", [-1]), ("c", "BF16", [])]
    assert [(one.name, one.datatype, list(one.shape)) for one in told.outputs] == [("d", "BOOL", [2])]


def test_the_index_and_the_statistics_are_written_whole() -> None:
    rows = [IndexRow("m", "1", "READY", ""), IndexRow("n", "", "UNAVAILABLE", "broken")]
    wire = messages.index(rows).SerializeToString()
    told = oracle.message("RepositoryIndexResponse").FromString(wire)
    assert [(one.name, one.version, one.state, one.reason) for one in told.models] == [tuple(row) for row in rows]
    fields: dict[str, Any] = {name: i + 1 for i, name in enumerate(ModelStatistics._fields[2:5])}
    durations: dict[str, Any] = {name: Duration(i, 2**40 + i) for i, name in enumerate(ModelStatistics._fields[5:])}
    wire = messages.statistics([ModelStatistics("m", "1", **fields, **durations)]).SerializeToString()
    (told,) = oracle.message("ModelStatisticsResponse").FromString(wire).model_stats
    assert (told.name, told.version) == ("m", "1")
    assert {name: getattr(told, name) for name in fields} == fields
    written = {name: getattr(told.inference_stats, name) for name in durations}
    assert {name: (one.count, one.ns) for name, one in written.items()} == durations


def test_the_messages_are_in_no_pool_that_clients_could_meet() -> None:
    from google.protobuf import descriptor_pool

    assert schema.ModelInferRequest
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
