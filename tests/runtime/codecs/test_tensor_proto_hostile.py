"""TensorProtos from whoever likes to send some: read as TensorFlow reads them, or refused, and at a bounded price."""

from __future__ import annotations

import contextlib
import json
import math
import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.codecs import schema, tensor_proto
from runtime.errors import InvalidRequest
from runtime.signature import MAX_REPEATED
from tests.runtime import oracle
from tests.runtime.codecs import specs
from tests.runtime.codecs.specs import arrays, is_float

CORPUS = Path(__file__).with_name("corpus") / "tensor_proto"
"""Files of one message each, named by what is to become of it: ``read-...`` or ``refused-...``."""
FACTOR = 32
"""How many times its own size a message may cost in memory, repetition apart; protobuf's own objects are most of it."""
MEBIBYTE = 1 << 20
VARINT, I64, LEN, I32 = 0, 1, 2, 5
MILLION = 1_000_000

CARRIED = {name: dtype for dtype, (name, _) in oracle.DATA_TYPES.items()}


def decode(wire: bytes) -> NDArray[Any]:
    return tensor_proto.decode("x", schema.TensorProto.FromString(wire))


def field(number: int, wire_type: int, payload: bytes) -> bytes:
    length = oracle.varint(len(payload)) if wire_type == LEN else b""
    return oracle.varint(number << 3 | wire_type) + length + payload


def header(dtype: str, *shape: int) -> bytes:
    """A tensor without values, on the wire."""
    proto = oracle.TensorProto(dtype=oracle.data_type(dtype))
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    wire: bytes = proto.SerializeToString()
    return wire


class Refused(Exception):
    """By TensorFlow."""


class Unreadable(Refused):
    """No message, or more than this is to take."""


def as_tensorflow(wire: bytes) -> NDArray[Any]:
    """Tensor::FromProto of tensorflow/core/framework/tensor.cc, value by value, from protobuf's own reading."""
    try:
        proto = oracle.TensorProto.FromString(wire)
    except DecodeError as exc:
        raise Unreadable from exc
    number = oracle.DATA_TYPE.values_by_number.get(proto.dtype)
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if number is None or number.name not in CARRIED or proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise Refused
    name = CARRIED[number.name]
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    count = math.prod(shape)
    if not count:
        return np.zeros(shape, dtype)
    if count > MILLION:
        raise Unreadable
    if proto.tensor_content:
        return content_as_tensorflow(proto.tensor_content, dtype, count).reshape(shape)
    values = list(getattr(proto, oracle.DATA_TYPES[name][1]))[:count]
    values += (values[-1:] or [b"" if dtype.hasobject else 0]) * (count - len(values))
    if dtype.hasobject:
        return strings(values).reshape(shape)
    if oracle.DATA_TYPES[name][1] == "half_val":
        return np.array([value % 2**16 for value in values], np.uint16).view(dtype).reshape(shape)
    if is_float(dtype) or name == "bool":
        return np.array(values, dtype).reshape(shape)
    bits = 8 * dtype.itemsize
    return np.array([value % 2**bits for value in values], f"u{dtype.itemsize}").view(dtype).reshape(shape)


def content_as_tensorflow(content: bytes, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    if not dtype.hasobject:
        if len(content) != count * dtype.itemsize:
            raise Refused
        return np.frombuffer(content, np.uint8) != 0 if dtype == np.bool_ else np.frombuffer(content, dtype)
    sizes, rest = [], content
    for _ in range(count):
        match = re.match(rb"[\x80-\xff]{0,4}[\x00-\x7f]", rest)
        if match is None:
            raise Refused
        sizes.append(sum((byte & 0x7F) << 7 * i for i, byte in enumerate(match[0])))
        rest = rest[match.end() :]
    if sum(sizes) != len(rest):
        raise Refused
    starts = np.cumsum([0, *sizes]).tolist()
    return strings([rest[start : start + size] for start, size in zip(starts, sizes, strict=False)])


def strings(values: list[bytes]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


# What TensorFlow reads and Decant does not: see the texts.
OURS = re.compile(r"is packed in part|want at most 32 sizes|has too many elements|made by repetition")


def check(wire: bytes) -> None:
    """Fail unless the message is read as TensorFlow does, or refused for a reason that is one."""
    with contextlib.suppress(DecodeError):
        try:
            array = decode(wire)
        except InvalidRequest as exc:
            if OURS.search(str(exc)) is None:
                with pytest.raises(Refused):
                    as_tensorflow(wire)
        else:
            # Numbers that are none are found when they are read, which those of other fields are not.
            with contextlib.suppress(Unreadable):
                wanted = as_tensorflow(wire)
                if not is_packed_in_part(wire):
                    assert_same(array, wanted)


def is_packed_in_part(wire: bytes) -> bool:
    """Whether a field comes packed and one by one: it is refused then, unless what is packed will do."""
    proto = schema.TensorProto.FromString(wire)
    unknowns: Any = UnknownFieldSet(proto)
    return not {unknown.field_number for unknown in unknowns}.isdisjoint(
        field.number for field, _ in proto.ListFields()
    )


def assert_same(given: NDArray[Any], wanted: NDArray[Any]) -> None:
    assert (given.dtype, given.shape) == (wanted.dtype, wanted.shape)
    if wanted.dtype.hasobject:
        assert given.tolist() == wanted.tolist()
    else:
        specs.assert_same(given, wanted)


def corpus() -> list[Path]:
    return sorted(CORPUS.iterdir())


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.stem)
def test_every_message_of_the_corpus_is_read_or_refused(path: Path) -> None:
    wire = path.read_bytes()
    check(wire)
    if path.name.startswith("read-"):
        assert isinstance(decode(wire), np.ndarray)
    else:
        with pytest.raises((InvalidRequest, DecodeError)):
            decode(wire)


edits = st.lists(st.tuples(st.integers(0, 80), st.binary(max_size=3), st.integers(0, 3)), max_size=4)


def edited(wire: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    for at, inserted, removed in edits:
        wire = wire[:at] + inserted + wire[at + removed :]
    return wire


@settings(deadline=None, derandomize=True, max_examples=300)
@given(arrays(), st.booleans(), edits)
def test_broken_tensors_are_read_or_refused(
    array: NDArray[Any], is_typed: bool, edits: list[tuple[int, bytes, int]]
) -> None:
    wire: bytes = (oracle.typed if is_typed else oracle.content)(array).SerializeToString()
    check(edited(wire, edits))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.sampled_from(corpus()), edits)
def test_broken_messages_of_the_corpus_are_read_or_refused(path: Path, edits: list[tuple[int, bytes, int]]) -> None:
    check(edited(path.read_bytes()[:4096], edits))


def varints() -> st.SearchStrategy[bytes]:
    """Sound ones, and some that are too long or come to no end."""
    sound = st.integers(0, 2**64 - 1).map(oracle.varint)
    small = st.integers(0, 300).map(oracle.varint)
    return st.one_of(small, sound, st.sampled_from([b"\x80\x00", b"\xff" * 9 + b"\x01", b"\xff" * 11, b"\x80"]))


def values_of(number: int) -> st.SearchStrategy[bytes]:
    """A field of values, in any of the forms that protobuf has, fitting or not."""
    packed = st.lists(varints(), max_size=4).map(lambda each: field(number, LEN, b"".join(each)))
    return st.one_of(
        packed,
        st.binary(max_size=16).map(lambda payload: field(number, LEN, payload)),
        varints().map(lambda value: field(number, VARINT, value)),
        st.binary(min_size=4, max_size=4).map(lambda value: field(number, I32, value)),
        st.binary(min_size=8, max_size=8).map(lambda value: field(number, I64, value)),
    )


dims = st.one_of(st.integers(0, 3), st.sampled_from([7, 100, -1, 2**31, 2**62, -(2**63)]))
shapes = st.lists(dims, max_size=3).map(
    lambda sizes: field(2, LEN, b"".join(field(2, LEN, field(1, VARINT, oracle.varint(n % 2**64))) for n in sizes))
)
numbers = {field.name: field.number for field in oracle.TensorProto.DESCRIPTOR.fields}


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.data())
def test_messages_made_of_any_fields_are_read_or_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(oracle.DATA_TYPES)))
    dtype = field(1, VARINT, oracle.varint(oracle.data_type(oracle.DATA_TYPES[name][0])))
    number = numbers[oracle.DATA_TYPES[name][1]]
    others = st.sampled_from([*numbers.values(), 19, 1007]).flatmap(values_of)
    parts = data.draw(st.lists(st.one_of(values_of(number), values_of(number), others, shapes), max_size=5))
    check(b"".join([dtype, *parts]))


@pytest.mark.parametrize("shape", [(2**40,), (2**62, 2**62), (2**31, 2**31, 2**31), (1 << 20, 1 << 10)])
@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_INT64", "DT_HALF", "DT_BOOL", "DT_STRING"])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"float_val": [1], "int64_val": [1], "half_val": [1], "bool_val": [True], "string_val": [b"a"]},
        {"tensor_content": b"\x01"},
    ],
)
def test_a_huge_shape_is_refused_before_it_takes_memory(
    shape: tuple[int, ...], dtype: str, values: dict[str, Any]
) -> None:
    wire = header(dtype, *shape) + oracle.TensorProto(**values).SerializeToString()
    with traced() as peak, pytest.raises(InvalidRequest, match="x: "):
        decode(wire)
    assert peak[0] < MEBIBYTE


@contextlib.contextmanager
def traced() -> Iterator[list[int]]:
    """The most that numpy and Python took meanwhile, in bytes."""
    peak: list[int] = []
    tracemalloc.start()
    try:
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


# Each copy of a string costs an engine what the string has and more; here a reference does.
def test_a_long_string_is_not_repeated_beyond_the_bound() -> None:
    string = b"s" * MEBIBYTE
    most = MAX_REPEATED // (MEBIBYTE + 32)
    repeated = decode(header("DT_STRING", most) + field(8, LEN, string))
    assert repeated[0] == repeated[-1] == string
    with pytest.raises(InvalidRequest, match="made by repetition"):
        decode(header("DT_STRING", most + 1) + field(8, LEN, string))


def test_numbers_are_repeated_up_to_the_bound() -> None:
    most = MAX_REPEATED
    assert decode(header("DT_UINT8", most)).nbytes == most
    with pytest.raises(InvalidRequest, match="made by repetition"):
        decode(header("DT_UINT8", most + 1))


# No elements, whatever the other sizes; numpy has no such array of every shape.
@pytest.mark.parametrize("shape", [(0, 2**62), (2**62, 0), (0, 2**62, 2**62), (0, 2**63 - 1), (0, 2**40)])
@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_UINT8", "DT_STRING"])
def test_an_empty_tensor_of_a_huge_shape_is_that_or_refused(shape: tuple[int, ...], dtype: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert decode(header(dtype, *shape)).shape == shape


def test_values_beyond_the_shape_take_no_memory() -> None:
    wire = header("DT_INT64", 1) + field(numbers["int64_val"], LEN, b"\x81\x01" * MILLION)
    with traced() as peak:
        assert decode(wire).tolist() == [129]
    # The field, as bytes and joined, and where its varints end.
    assert peak[0] < 4 * len(wire)


DEAR = {
    "floats one by one": header("DT_FLOAT", MILLION) + (b"\x2d" + struct.pack("<f", 1)) * MILLION,
    "integers one by one": header("DT_INT64", MILLION) + b"\x50\x01" * MILLION,
    "small integers": header("DT_INT64", 4 * MILLION) + field(10, LEN, b"\x01" * 4 * MILLION),
    "small integers but one": header("DT_INT64", 2 * MILLION)
    + field(10, LEN, b"\x01" * (2 * MILLION - 1) + b"\x80\x01"),
    "chunks of one": header("DT_INT64", MILLION) + b"\x52\x01\x01" * MILLION,
    "empty chunks": header("DT_INT64", MILLION) + b"\x52\x00" * 2 * MILLION,
    "short strings": header("DT_STRING", MILLION) + b"\x42\x02ab" * MILLION,
    "empty strings": header("DT_STRING", 2 * MILLION) + b"\x42\x00" * 2 * MILLION,
    "short strings in content": header("DT_STRING", MILLION) + field(4, LEN, b"\x02" * MILLION + b"ab" * MILLION),
    "empty strings in content": header("DT_STRING", 2 * MILLION) + field(4, LEN, b"\x00" * 2 * MILLION),
    "many sizes": header("DT_INT64") + field(2, LEN, b"\x12\x00" * 2 * MILLION),
    "unknown fields": header("DT_FLOAT", 2) + b"\x70\x01" * 2 * MILLION,
    "another dtype's values": header("DT_FLOAT", 2) + field(10, LEN, b"\x01" * 4 * MILLION),
}


@pytest.mark.parametrize("wire", DEAR.values(), ids=DEAR.keys())
def test_a_message_costs_no_more_than_a_factor_of_its_size(wire: bytes) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.runtime.codecs.peak"], input=wire, capture_output=True, check=True
    )
    told = json.loads(run.stdout)
    assert told["bytes"] < FACTOR * len(wire) + 4 * MEBIBYTE, told
    # A tenth of that, as a rule.
    assert told["seconds"] < 1e-6 * len(wire) + 1, told


def test_the_factor_is_measured_at_all() -> None:
    # Numbers made by repetition: as much as may be from a few bytes.
    wire = header("DT_FLOAT", MAX_REPEATED // 4) + field(5, LEN, struct.pack("<f", 1))
    run = subprocess.run(
        [sys.executable, "-m", "tests.runtime.codecs.peak"], input=wire, capture_output=True, check=True
    )
    assert json.loads(run.stdout)["bytes"] > 15 * MEBIBYTE
