"""TensorProto both ways, against messages that an independent schema writes and reads, and against bytes by hand."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from runtime.codecs import schema, tensor_proto
from runtime.codecs.schema.compile import SOURCES, compile_schema
from runtime.errors import InvalidRequest
from runtime.signature import Dtype
from tests.runtime import oracle
from tests.runtime.codecs import specs
from tests.runtime.codecs.specs import BOOL, FLOATS, INTS, limits

reproducibly = settings(deadline=None, derandomize=True)

STRING: Dtype = np.dtype(object)
DTYPES = [*FLOATS, *INTS, BOOL, STRING]

# Wire types: Protocol Buffers' encoding, "Message structure".
VARINT, I64, LEN, I32 = 0, 1, 2, 5
FLOAT_VAL, DOUBLE_VAL, INT64_VAL = 5, 6, 10


def decode(message: Any) -> NDArray[Any]:
    """Decode a message of the oracle's, or bytes, as it arrives."""
    wire = message if isinstance(message, bytes) else message.SerializeToString()
    return tensor_proto.decode("x", schema.TensorProto.FromString(wire))


def encode(array: NDArray[Any], tensor_content_from: int = 0) -> bytes:
    proto = schema.TensorProto()
    tensor_proto.encode(array, proto, tensor_content_from)
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
    return tag(field, LEN) + oracle.varint(len(values)) + values


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def of(dtype: Dtype, values: Any) -> NDArray[Any]:
    """An array of these numbers; as strings, their digits, and none for 0."""
    numbers = np.array(values)
    if dtype != STRING:
        return numbers.astype(dtype)
    strings = np.empty(numbers.shape, object)
    strings.ravel()[:] = [str(number).encode() if number else b"" for number in numbers.ravel().tolist()]
    return strings


def some(dtype: Dtype) -> NDArray[Any]:
    """Six values, among them those at the dtype's limits."""
    if dtype == BOOL:
        return np.array([[True, False, True], [False, False, True]])
    if dtype in FLOATS:
        return np.array([[0, -0.0, 1.5], [np.inf, -np.inf, np.nan]]).astype(dtype)
    if dtype == STRING:
        return np.array([[b"", b"a", b"\x00\xff"], [b"x" * 127, b"y" * 128, b"z" * 20_000]], object)
    low, high = limits(dtype)
    return np.array([[0, 1, 2], [3, low, high]], dtype)


def arrays() -> st.SearchStrategy[NDArray[Any]]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    strings = st.one_of(st.binary(max_size=3), st.binary(min_size=120, max_size=140))
    return st.one_of(specs.arrays(), hnp.arrays(STRING, shapes, elements=strings))


def assert_same(given: NDArray[Any], wanted: NDArray[Any]) -> None:
    if wanted.dtype == STRING:
        assert (given.dtype, given.shape, given.tolist()) == (STRING, wanted.shape, wanted.tolist())
    else:
        specs.assert_same(given, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("written", [oracle.typed, oracle.content])
def test_every_dtype_is_read_from_either_field(dtype: Dtype, written: Any) -> None:
    assert_same(decode(written(some(dtype))), some(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_written_byte_for_byte_as_tensorflow_writes_it(dtype: Dtype) -> None:
    wire = encode(some(dtype))
    assert wire == oracle.typed(some(dtype)).SerializeToString()
    assert_same(oracle.array(oracle.TensorProto.FromString(wire)), some(dtype))


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != STRING], ids=str)
def test_numbers_are_written_as_content_from_a_size_on(dtype: Dtype) -> None:
    array = some(dtype)
    for size in (1, array.nbytes):
        assert encode(array, size) == oracle.content(array).SerializeToString()
    for never in (0, array.nbytes + 1):
        assert encode(array, never) == oracle.typed(array).SerializeToString()


def test_strings_are_never_written_as_content() -> None:
    assert encode(some(STRING), 1) == oracle.typed(some(STRING)).SerializeToString()


@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_large_integers_are_written_and_read_as_protobuf_does(dtype: Dtype) -> None:
    low, high = limits(dtype)
    # More than are read or written at once, of every length that a varint has.
    powers = [value for bits in range(64) for value in (2**bits - 1, 2**bits, -(2**bits)) if low <= value <= high]
    array = np.resize(np.array(powers, dtype), 100_003)
    wire = encode(array)
    assert wire == oracle.typed(array).SerializeToString()
    assert_same(decode(wire), array)


def test_a_tensor_has_these_bytes() -> None:
    wire = b"\x08\x01" + b"\x12\x08\x12\x02\x08\x02\x12\x02\x08\x01" + b"\x2a\x08" + floats(1, -2)
    assert encode(np.array([[1], [-2]], np.float32)) == wire
    assert_same(decode(wire), np.array([[1], [-2]], np.float32))
    strings = np.array([b"ab", b"c"], object)
    wire = b"\x08\x07" + b"\x12\x04\x12\x02\x08\x02"
    assert encode(strings) == wire + b"\x42\x02ab" + b"\x42\x01c"
    assert_same(decode(wire + b"\x22\x05\x02\x01abc"), strings)
    minus_one = b"\xff" * 9 + b"\x01"
    assert encode(np.array(-1, np.int8)) == b"\x08\x06" + b"\x12\x00" + b"\x3a\x0a" + minus_one


@reproducibly
@given(arrays())
def test_every_array_survives_every_way(array: NDArray[Any]) -> None:
    assert encode(array) == oracle.typed(array).SerializeToString()
    assert_same(decode(oracle.typed(array)), array)
    assert_same(decode(oracle.content(array)), array)
    assert_same(decode(encode(array)), array)
    assert_same(decode(encode(array, 1)), array)


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
    proto = oracle.typed(of(dtype, [0, 1, 0, 1][:given_count]))
    proto.tensor_shape.Clear()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    assert_same(decode(proto), of(dtype, want).reshape(shape))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_values_are_zeros(dtype: Dtype) -> None:
    name, _ = oracle.DATA_TYPES[dtype.name]
    assert_same(decode(header(name, 2, 3)), of(dtype, np.zeros((2, 3), int)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_without_elements_ignores_its_values(dtype: Dtype) -> None:
    for proto in (oracle.typed(some(dtype)), oracle.content(some(dtype))):
        proto.tensor_shape.dim[0].size = 0
        assert_same(decode(proto), of(dtype, np.zeros((0, 3), int)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_shape_is_a_scalar(dtype: Dtype) -> None:
    one = of(dtype, 1)
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


NOT_FLOATS = [dtype for dtype in DTYPES if dtype not in (np.float32, np.float64, STRING)]


@pytest.mark.parametrize("dtype", NOT_FLOATS, ids=str)
def test_integers_are_read_however_they_are_packed(dtype: Dtype) -> None:
    array = some(dtype).ravel()
    if dtype in FLOATS:
        # All NaNs are alike here, but not in the message.
        array = array[:5]
    name, field = oracle.DATA_TYPES[dtype.name]
    number = oracle.TensorProto.DESCRIPTOR.fields_by_name[field].number
    bits = array.view(np.uint16) if field == "half_val" else array
    each = [oracle.varint(value % 2**64) for value in bits.astype(object).tolist()]
    chunk, one = (oracle.varint(number << 3 | wire_type) for wire_type in (LEN, VARINT))
    for values in (
        [chunk + oracle.varint(len(b"".join(each))) + b"".join(each)],
        [chunk + bytes([len(value)]) + value for value in each],
        [chunk + b"\x00", *[chunk + bytes([len(value)]) + value for value in each]],
        [one + value for value in each],
    ):
        wire = header(name, len(array)) + b"".join(values)
        assert_same(oracle.array(oracle.TensorProto.FromString(wire)), array)
        assert_same(decode(wire), array)


# TensorFlow casts what protobuf has read: int32, of which the low bits count.
@pytest.mark.parametrize(
    ("dtype", "value", "want"),
    [
        ("DT_UINT8", 300, 44),
        ("DT_INT8", 255, -1),
        ("DT_UINT16", -1, 65535),
        ("DT_INT16", 2**15, -(2**15)),
        ("DT_INT32", -1, -1),
    ],
)
def test_integers_too_wide_for_the_dtype_lose_their_high_bits(dtype: str, value: int, want: int) -> None:
    proto = oracle.TensorProto(dtype=oracle.data_type(dtype), int_val=[value, 1])
    proto.tensor_shape.dim.add(size=2)
    assert decode(proto).tolist() == [want, 1]


@pytest.mark.parametrize(
    "value", [b"\x01", b"\x02", b"\x7f", b"\x80\x01", b"\x80\x80\x80\x80\x10", b"\xff" * 9 + b"\x01"]
)
def test_any_number_but_0_is_true(value: bytes) -> None:
    wire = header("DT_BOOL", 2) + packed(11, value + b"\x00")
    assert list(oracle.TensorProto.FromString(wire).bool_val) == [True, False]
    assert decode(wire).view(np.uint8).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.int64)], ids=str)
def test_any_number_of_chunks_is_read(dtype: Dtype) -> None:
    array = np.arange(100_000).astype(dtype)
    proto = schema.TensorProto(dtype=oracle.data_type(oracle.DATA_TYPES[dtype.name][0]))
    proto.tensor_shape.dim.add(size=len(array))
    if dtype.kind == "f":
        proto.float_val.extend(value.tobytes() for value in array)
    else:
        proto.int64_val.extend(map(oracle.varint, array.tolist()))
    assert_same(tensor_proto.decode("x", proto), array)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (packed(INT64_VAL, b"\x01\x80"), "ends within a varint"),
        (packed(INT64_VAL, b"\x80") + packed(INT64_VAL, b"\x01"), "ends within a varint"),
        (packed(INT64_VAL, b"\xff" * 10 + b"\x01"), "more than 10 bytes, or no end|cannot be read"),
        (packed(INT64_VAL, b"\xff" * 40 + b"\x01"), "more than 10 bytes, or no end|cannot be read"),
        (packed(INT64_VAL, b"\xff" * 100_000 + b"\x01"), "int64_val: a varint has more than 10 bytes, or no end"),
    ],
)
def test_broken_varints_are_refused(values: bytes, why: str) -> None:
    wire = header("DT_INT64", 2) + values
    with pytest.raises(DecodeError):
        oracle.TensorProto.FromString(wire)
    with pytest.raises(InvalidRequest, match=why):
        decode(wire)


# DecodeStringList of tensorflow/core/platform/coding: all lengths, then all bytes, and nothing else.
@pytest.mark.parametrize(
    ("count", "content", "want"),
    [
        (2, b"\x01\x02abb", [b"a", b"bb"]),
        (2, b"\x00\x00", [b"", b""]),
        (1, b"\x80\x01" + b"x" * 128, [b"x" * 128]),
        (1, b"\x81\x00a", [b"a"]),
        (2, b"\x01", None),
        (2, b"\x01\x80", None),
        (2, b"\x01\x02ab", None),
        (2, b"\x01\x02abbb", None),
        (1, b"\xff\xff\xff\xff\x0f", None),
        (1, b"\x80\x80\x80\x80\x80\x00", None),
        (1, b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", None),
    ],
)
def test_strings_in_content_are_lengths_and_bytes(count: int, content: bytes, want: list[bytes] | None) -> None:
    proto = oracle.TensorProto(dtype=oracle.data_type("DT_STRING"), tensor_content=content)
    proto.tensor_shape.dim.add(size=count)
    if want is None:
        with pytest.raises(InvalidRequest, match=r"x: tensor_content (of strings )?has "):
            decode(proto)
    else:
        assert decode(proto).tolist() == want


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
    with pytest.raises(InvalidRequest, match=rf"x: DataType {oracle.data_type(name)} (\({name}\) )?is not supported"):
        decode(header(name, 1))


@pytest.mark.parametrize("number", [999, -1, 2**31 - 1])
def test_a_number_that_is_no_dtype_is_refused(number: int) -> None:
    with pytest.raises(InvalidRequest, match=f"DataType {number} is not supported"):
        tensor_proto.decode("x", schema.TensorProto(dtype=number))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.stem))
def test_the_compiled_schemas_are_what_their_sources_give(source: Path) -> None:
    assert source.with_suffix(".binpb").read_bytes() == compile_schema(source)


def test_the_messages_are_in_no_pool_that_tensorflow_could_meet() -> None:
    from google.protobuf import descriptor_pool

    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("tensorflow.serving.PredictRequest")
