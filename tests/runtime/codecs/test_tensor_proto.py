"""TensorProto both ways, against messages that an independent schema writes and reads, and against bytes by hand."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.codecs import schema, tensor_proto
from runtime.codecs.schema.compile import compile_schema
from runtime.errors import InvalidRequest
from runtime.signature import Dtype
from tests.runtime import oracle
from tests.runtime.codecs.specs import BOOL, DTYPES, FLOATS, INTS, arrays, assert_same, limits

reproducibly = settings(deadline=None, derandomize=True)

# Wire types: Protocol Buffers' encoding, "Message structure".
VARINT, I64, LEN, I32 = 0, 1, 2, 5
FLOAT_VAL, DOUBLE_VAL, INT64_VAL = 5, 6, 10


def decode(message: Any) -> NDArray[Any]:
    """Decode a message of the oracle's, or bytes, as it arrives."""
    wire = message if isinstance(message, bytes) else message.SerializeToString()
    return tensor_proto.decode("x", schema.TensorProto.FromString(wire))


def encode(array: NDArray[Any]) -> bytes:
    proto = schema.TensorProto()
    tensor_proto.encode(array, proto)
    wire: bytes = proto.SerializeToString()
    return wire


def header(dtype: str, *shape: int) -> bytes:
    """A tensor without values, on the wire."""
    proto = oracle.TensorProto(dtype=oracle.data_type(dtype))
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    wire: bytes = proto.SerializeToString()
    return wire


def tag(field: int, wire_type: int) -> bytes:
    return bytes([field << 3 | wire_type])


def packed(field: int, values: bytes) -> bytes:
    assert len(values) < 0x80
    return tag(field, LEN) + bytes([len(values)]) + values


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def some(dtype: Dtype) -> NDArray[Any]:
    """Six values, among them those at the dtype's limits."""
    if dtype == BOOL:
        return np.array([[True, False, True], [False, False, True]])
    if dtype in FLOATS:
        return np.array([[0, -0.0, 1.5], [np.inf, -np.inf, np.nan]]).astype(dtype)
    low, high = limits(dtype)
    return np.array([[0, 1, 2], [3, low, high]], dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("written", [oracle.typed, oracle.content])
def test_every_dtype_is_read_from_either_field(dtype: Dtype, written: Any) -> None:
    assert_same(decode(written(some(dtype))), some(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_written_byte_for_byte_as_tensorflow_writes_it(dtype: Dtype) -> None:
    wire = encode(some(dtype))
    assert wire == oracle.typed(some(dtype)).SerializeToString()
    assert_same(oracle.array(oracle.TensorProto.FromString(wire)), some(dtype))


def test_a_tensor_has_these_bytes() -> None:
    wire = b"\x08\x01" + b"\x12\x08\x12\x02\x08\x02\x12\x02\x08\x01" + b"\x2a\x08" + floats(1, -2)
    assert encode(np.array([[1], [-2]], np.float32)) == wire
    assert_same(decode(wire), np.array([[1], [-2]], np.float32))


@reproducibly
@given(arrays())
def test_every_array_survives_every_way(array: NDArray[Any]) -> None:
    assert encode(array) == oracle.typed(array).SerializeToString()
    assert_same(decode(oracle.typed(array)), array)
    assert_same(decode(oracle.content(array)), array)
    assert_same(decode(encode(array)), array)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_array_is_written_alike_however_it_lies_in_memory(dtype: Dtype) -> None:
    array = some(dtype)
    for other in (np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2], array[::-1][::-1]):
        assert encode(other) == encode(array)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("given_count", "shape", "want"),
    [
        (1, (2, 2), [0, 0, 0, 0]),
        (2, (2, 2), [0, 1, 1, 1]),
        (3, (2, 2), [0, 1, 0, 0]),
        (4, (2, 2), [0, 1, 0, 1]),
        (4, (3,), [0, 1, 0]),
        (4, (), [0]),
        (4, (0, 7), []),
        (1, (0,), []),
        (0, (0,), []),
    ],
)
def test_the_last_of_too_few_values_repeats_and_too_many_are_ignored(
    dtype: Dtype, given_count: int, shape: tuple[int, ...], want: list[int]
) -> None:
    proto = oracle.typed(np.array([0, 1, 0, 1][:given_count]).astype(dtype))
    proto.tensor_shape.Clear()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    assert_same(decode(proto), np.array(want).astype(dtype).reshape(shape))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_values_are_zeros(dtype: Dtype) -> None:
    name, _ = oracle.DATA_TYPES[dtype.name]
    assert_same(decode(header(name, 2, 3)), np.zeros((2, 3), dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_shape_is_a_scalar(dtype: Dtype) -> None:
    one = np.ones((), dtype)
    for proto in (oracle.typed(one), oracle.content(one)):
        proto.ClearField("tensor_shape")
        assert_same(decode(proto), one)
    # Written, a scalar has a shape, and an empty one.
    assert oracle.TensorProto.FromString(encode(one)).HasField("tensor_shape")


def test_a_scalar_takes_the_first_of_its_values() -> None:
    assert decode(oracle.TensorProto(dtype=1, float_val=[7, 8])) == 7


def test_content_wins_over_values() -> None:
    proto = oracle.content(np.array([1, 2], np.int32))
    proto.int_val.extend([3, 4])
    assert decode(proto).tolist() == [1, 2]


def test_values_in_the_field_of_another_dtype_are_ignored() -> None:
    proto = oracle.TensorProto(dtype=oracle.data_type("DT_INT64"), int_val=[1, 2], float_val=[3], int64_val=[5, 6])
    proto.tensor_shape.dim.add(size=2)
    assert decode(proto).tolist() == [5, 6]
    proto.ClearField("int64_val")
    assert decode(proto).tolist() == [0, 0]


def test_any_byte_but_0_is_true() -> None:
    proto = oracle.content(np.array([True, False, True]))
    proto.tensor_content = b"\x02\x00\xff"
    array = decode(proto)
    assert array.view(np.uint8).tolist() == [1, 0, 1]


def test_half_values_are_bits_of_which_16_count() -> None:
    proto = oracle.TensorProto(dtype=oracle.data_type("DT_HALF"), half_val=[0x3C00, 0xBC00 - 0x10000, 0x7C00])
    proto.tensor_shape.dim.add(size=3)
    assert decode(proto).tolist() == [1, -1, np.inf]


def test_writing_to_what_was_read_leaves_the_message_alone() -> None:
    proto = schema.TensorProto.FromString(oracle.content(np.array([1, 2], np.float32)).SerializeToString())
    array = tensor_proto.decode("x", proto)
    if array.flags.writeable:
        array[0] = 9
    assert tensor_proto.decode("x", proto).tolist() == [1, 2]


# Legal and rare: senders written before packing was the default, and those that append to a message on the wire.
@pytest.mark.parametrize(
    "values",
    [
        packed(FLOAT_VAL, floats(1, 2, 3)),
        packed(FLOAT_VAL, floats(1)) + packed(FLOAT_VAL, floats(2, 3)),
        packed(FLOAT_VAL, floats(1, 2, 3)) + packed(FLOAT_VAL, b""),
        b"".join(packed(FLOAT_VAL, floats(value)) for value in (1, 2, 3)),
        b"".join(tag(FLOAT_VAL, I32) + floats(value) for value in (1, 2, 3)),
    ],
    ids=["packed", "two chunks", "an empty chunk", "chunks of one", "unpacked"],
)
def test_floats_are_read_however_they_are_packed(values: bytes) -> None:
    wire = header("DT_FLOAT", 3) + values
    assert oracle.array(oracle.TensorProto.FromString(wire)).tolist() == [1, 2, 3]
    assert_same(decode(wire), np.array([1, 2, 3], np.float32))


@pytest.mark.parametrize(
    "values",
    [
        packed(FLOAT_VAL, floats(1, 2)) + tag(FLOAT_VAL, I32) + floats(3),
        tag(FLOAT_VAL, I32) + floats(1) + packed(FLOAT_VAL, floats(2, 3)),
    ],
    ids=["packed first", "unpacked first"],
)
def test_a_mixture_of_packed_and_unpacked_is_refused_or_read_in_its_order(values: bytes) -> None:
    wire = header("DT_FLOAT", 3) + values
    assert oracle.array(oracle.TensorProto.FromString(wire)).tolist() == [1, 2, 3]
    with contextlib.suppress(InvalidRequest):
        assert decode(wire).tolist() == [1, 2, 3]


def test_the_last_unpacked_float_repeats() -> None:
    assert decode(header("DT_FLOAT", 3) + tag(FLOAT_VAL, I32) + floats(1.5)).tolist() == [1.5, 1.5, 1.5]


@pytest.mark.parametrize("is_packed", [True, False])
def test_doubles_are_read_however_they_are_packed(is_packed: bool) -> None:
    numbers = [1e300, -0.0]
    each = [struct.pack("<d", number) for number in numbers]
    values = packed(DOUBLE_VAL, b"".join(each)) if is_packed else b"".join(tag(DOUBLE_VAL, I64) + one for one in each)
    wire = header("DT_DOUBLE", 2) + values
    assert oracle.array(oracle.TensorProto.FromString(wire)).tolist() == numbers
    assert_same(decode(wire), np.array(numbers))


def test_integers_are_read_unpacked_too() -> None:
    wire = header("DT_INT64", 2) + tag(INT64_VAL, VARINT) + b"\x05" + tag(INT64_VAL, VARINT) + b"\x06"
    assert decode(wire).tolist() == [5, 6]


# To protobuf these are fields it does not know, which are to be ignored.
@pytest.mark.parametrize(
    "unknown",
    [
        tag(FLOAT_VAL, VARINT) + b"\x05",
        tag(FLOAT_VAL, VARINT) + b"\xff\xff\xff\xff\xff\xff\x7f",
        tag(FLOAT_VAL, I64) + struct.pack("<d", 1),
        tag(DOUBLE_VAL, I32) + floats(1),
        tag(DOUBLE_VAL, VARINT) + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        tag(14, LEN) + b"\x00",
        bytes([0xFA, 0x3E, 0x01, 0x00]),
    ],
    ids=["small varint", "large varint", "64 bits", "32 bits", "huge varint", "resource", "field 1007"],
)
@pytest.mark.parametrize(("dtype", "zeros"), [("DT_FLOAT", np.zeros(2, np.float32)), ("DT_DOUBLE", np.zeros(2))])
def test_a_field_of_another_wire_type_is_not_this_field(unknown: bytes, dtype: str, zeros: NDArray[Any]) -> None:
    wire = header(dtype, 2) + unknown
    assert oracle.TensorProto.FromString(wire) is not None
    assert_same(decode(wire), zeros)


@pytest.mark.parametrize("length", [1, 3, 5, 7])
def test_packed_floats_of_broken_length_are_refused(length: int) -> None:
    wire = header("DT_FLOAT", 2) + packed(FLOAT_VAL, bytes(length))
    with pytest.raises(DecodeError):
        oracle.TensorProto.FromString(wire)
    with pytest.raises(InvalidRequest, match=f"float_val has {length} bytes; want a multiple of 4"):
        decode(wire)


def test_chunks_of_broken_length_are_refused_also_if_together_they_are_whole() -> None:
    wire = header("DT_FLOAT", 2) + packed(FLOAT_VAL, bytes(3)) + packed(FLOAT_VAL, bytes(5))
    with pytest.raises(DecodeError):
        oracle.TensorProto.FromString(wire)
    with pytest.raises(InvalidRequest):
        decode(wire)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTS, BOOL], ids=str)
@pytest.mark.parametrize("difference", [-1, 1])
def test_content_of_the_wrong_length_is_refused(dtype: Dtype, difference: int) -> None:
    proto = oracle.content(np.zeros(4, dtype))
    proto.tensor_content = bytes(4 * dtype.itemsize + difference)
    want = rf"x: tensor_content has {4 * dtype.itemsize + difference} bytes; want {4 * dtype.itemsize}"
    with pytest.raises(InvalidRequest, match=want):
        decode(proto)


@pytest.mark.parametrize("shape", [(-1,), (2, -1), (-2, -2), (-(2**63), 2), (0, -1)])
def test_a_size_below_0_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="x: shape is"):
        decode(header("DT_FLOAT", *shape))


def test_an_unknown_rank_is_refused() -> None:
    proto = oracle.TensorProto(dtype=1, float_val=[1])
    proto.tensor_shape.unknown_rank = True
    with pytest.raises(InvalidRequest, match="x: shape is unknown"):
        decode(proto)


def test_a_rank_beyond_numpys_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="x: shape is"):
        decode(header("DT_FLOAT", *[1] * 100))


CARRIED = {name for name, _ in oracle.DATA_TYPES.values()}


@pytest.mark.parametrize("name", [name for name in oracle.DATA_TYPE.values_by_name if name not in CARRIED])
def test_a_dtype_that_is_not_carried_is_refused_by_its_number(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"x: DataType {oracle.data_type(name)} is not supported"):
        decode(header(name, 1))


@pytest.mark.parametrize("number", [999, -1, 2**31 - 1])
def test_a_number_that_is_no_dtype_is_refused(number: int) -> None:
    with pytest.raises(InvalidRequest, match=f"DataType {number} is not supported"):
        tensor_proto.decode("x", schema.TensorProto(dtype=number))


@pytest.mark.parametrize("shape", [(2**40,), (2**62, 2**62), (2**31, 2**31, 2**31), (1 << 20, 1 << 10)])
@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_INT64", "DT_HALF", "DT_BOOL"])
@pytest.mark.parametrize("values", [{}, {"float_val": [1], "int64_val": [1], "half_val": [1], "bool_val": [True]}])
def test_a_huge_shape_is_refused_before_it_takes_memory(
    shape: tuple[int, ...], dtype: str, values: dict[str, list[Any]]
) -> None:
    wire = header(dtype, *shape) + oracle.TensorProto(**values).SerializeToString()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match="x: "):
            decode(wire)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


# No elements, whatever the other sizes; numpy has no such array of every shape.
@pytest.mark.parametrize("shape", [(0, 2**62), (2**62, 0), (0, 2**62, 2**62), (0, 2**63 - 1), (0, 2**40)])
@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_UINT8"])
def test_an_empty_tensor_of_a_huge_shape_is_that_or_refused(shape: tuple[int, ...], dtype: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert decode(header(dtype, *shape)).shape == shape


@settings(deadline=None, derandomize=True, max_examples=300)
@given(arrays(), st.booleans(), st.lists(st.tuples(st.integers(0, 80), st.binary(max_size=3), st.integers(0, 3))))
def test_broken_bytes_are_refused_or_read_as_a_tensor(
    array: NDArray[Any], is_typed: bool, edits: list[tuple[int, bytes, int]]
) -> None:
    wire: bytes = (oracle.typed if is_typed else oracle.content)(array).SerializeToString()
    for at, inserted, removed in edits:
        wire = wire[:at] + inserted + wire[at + removed :]
    try:
        proto = schema.TensorProto.FromString(wire)
    except DecodeError:
        return
    with contextlib.suppress(InvalidRequest):
        assert isinstance(tensor_proto.decode("x", proto), np.ndarray)


def test_the_compiled_schema_is_what_its_source_gives() -> None:
    assert schema.COMPILED.read_bytes() == compile_schema()


def test_the_messages_are_in_no_pool_that_tensorflow_could_meet() -> None:
    from google.protobuf import descriptor_pool

    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("tensorflow.serving.PredictRequest")
