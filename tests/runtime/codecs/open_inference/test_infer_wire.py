"""Raw contents found without protobuf, against protobuf's own reading; and written behind what it writes."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.codecs.open_inference import infer_wire
from runtime.codecs.schema import open_inference as schema
from runtime.errors import InvalidRequest, PayloadTooLarge
from tests.runtime.open_inference import oracle
from tests.runtime.oracle import varint

reproducibly = settings(deadline=None, derandomize=True, max_examples=300)
VARINT, I64, LEN, START, END, I32 = range(6)
RAW = 7
MEBIBYTE = 1 << 20


def field(number: int, kind: int, payload: bytes = b"") -> bytes:
    return varint(number << 3 | kind) + (varint(len(payload)) if kind == LEN else b"") + payload


def raw(content: bytes) -> bytes:
    return field(RAW, LEN, content)


def check(wire: bytes) -> None:
    """What protobuf reads is read the same, however small it is; what it does not is refused."""
    try:
        wanted = oracle.ModelInferRequest.FromString(wire)
    except DecodeError:
        for large in (0, len(wire) + 1):
            with pytest.raises(InvalidRequest, match="the message is no ModelInferRequest"):
                infer_wire.receive(wire, large)
        return
    message, found = infer_wire.receive(wire, 0)
    assert list(map(bytes, found)) == list(wanted.raw_input_contents)
    assert not message.raw_input_contents
    wanted.ClearField("raw_input_contents")
    # The unknown ones of a product's message are in the oracle's schema in part.
    assert oracle.ModelInferRequest.FromString(message.SerializeToString()) == wanted


NAME = field(1, LEN, b"digits")
ID = field(3, LEN, b"7")
INPUT = field(5, LEN, field(1, LEN, b"x") + field(2, LEN, b"FP32") + field(3, VARINT, b"\x04"))
GROUP = field(20, START) + raw(b"within") + field(21, START) + field(21, END) + field(20, END)
WIRES = {
    "nothing": b"",
    "no raw contents": NAME + INPUT,
    "at the end": NAME + INPUT + raw(b"abcd"),
    "in front": raw(b"abcd") + NAME + INPUT,
    "between": NAME + raw(b"ab") + INPUT + raw(b"") + ID + raw(b"cd"),
    "nothing else": raw(b"abcd"),
    "an empty one": raw(b""),
    "of a size of two bytes": NAME + raw(b"x" * 300) + ID,
    "fields that are not known": field(30, VARINT, b"\x80\x01") + raw(b"a") + field(31, I64, b"12345678") + ID,
    "a fixed one at the end": raw(b"a") + field(31, I32, b"1234"),
    "a number that is no raw content": field(RAW, VARINT, b"\x01") + raw(b"a"),
    "a group, which is its own": GROUP + raw(b"a") + ID,
    "a tag that is longer than it has to be": b"\xba\x00\x01a" + ID,
    "a size that is longer than it has to be": b"\x3a\x81\x80\x00a" + ID,
    "a tag and a size of as many bytes as may be": b"\xba\x80\x80\x80\x00\x81\x80\x80\x80\x00a" + ID,
}
BROKEN = {
    "a tag without an end": NAME + b"\x80",
    "a tag of too many bytes": NAME + b"\xff" * 11,
    "a tag that is longer than it may be": NAME + b"\xba\x80\x80\x80\x80\x00\x00",
    "a size that is longer than it may be": NAME + b"\x3a\x80\x80\x80\x80\x80\x00",
    "a field without its size": raw(b"a") + b"\x3a",
    "more than there is": NAME + b"\x3a\x05abcd",
    "far more than there is": NAME + b"\x3a" + varint(2**63) + b"abcd",
    "less than 8 bytes": NAME + field(31, I64, b"1234567"),
    "less than 4 bytes": NAME + field(31, I32, b"123"),
    "a number without an end": field(30, VARINT, b"\xff"),
    "a wire type there is not": b"\x3e",
    "another one": b"\x3f",
    "a group without an end": GROUP[:-2],
    "an end without a group": raw(b"a") + field(20, END),
    "the end of another group": field(20, START) + field(21, END),
    "a field of number 0": raw(b"a") + b"\x02\x00",
    "a field of a number above all": raw(b"a") + varint(1 << 35 | LEN) + b"\x00",
    "text that is none": raw(b"a") + field(1, LEN, b"\xff"),
}


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES.keys())
def test_messages_are_read_as_protobuf_does(wire: bytes) -> None:
    oracle.ModelInferRequest.FromString(wire)
    check(wire)


@pytest.mark.parametrize("wire", BROKEN.values(), ids=BROKEN.keys())
def test_what_protobuf_refuses_is_refused(wire: bytes) -> None:
    with pytest.raises(DecodeError):
        oracle.ModelInferRequest.FromString(wire)
    check(wire)


@reproducibly
@given(st.lists(st.sampled_from([NAME, ID, INPUT, GROUP, raw(b""), raw(b"abc"), raw(bytes(200)), *WIRES.values()])))
def test_fields_may_come_in_any_order(pieces: list[bytes]) -> None:
    check(b"".join(pieces))


@reproducibly
@given(
    st.lists(st.sampled_from([*WIRES.values(), *BROKEN.values()]), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=2), st.integers(0, 3)), max_size=3),
)
def test_broken_messages_are_read_as_protobuf_does(pieces: list[bytes], edits: list[tuple[int, bytes, int]]) -> None:
    wire = b"".join(pieces)
    for at, put, taken in edits:
        wire = wire[:at] + put + wire[at + taken :]
    check(wire)


def test_small_messages_are_protobufs_and_large_ones_are_where_they_lie() -> None:
    small = NAME + raw(bytes(infer_wire.LARGE - len(NAME) - 10))
    large = NAME + raw(bytes(infer_wire.LARGE))
    assert isinstance(infer_wire.receive(small).raw[0], bytes)
    (view,) = infer_wire.receive(large).raw
    assert isinstance(view, memoryview)
    assert view.obj is large


def test_a_large_message_of_raw_contents_costs_nothing() -> None:
    wire = NAME + raw(bytes(64 * MEBIBYTE)) + INPUT
    infer_wire.receive(wire)
    tracemalloc.start()
    try:
        received = infer_wire.receive(wire)
        assert tracemalloc.get_traced_memory()[1] < MEBIBYTE
    finally:
        tracemalloc.stop()
    assert len(received.raw[0]) == 64 * MEBIBYTE


# Two bytes each, which would be objects of a hundred.
@pytest.mark.parametrize(
    ("one", "fields"), [(b"\x2a\x00", 1), (raw(b""), 1), (b"\x32\x00", 1), (field(20, START) + field(20, END), 2)]
)
def test_a_large_message_has_no_more_fields_than_there_may_be(one: bytes, fields: int) -> None:
    most = infer_wire.MAX_FIELDS // fields
    infer_wire.receive(one * most, 0)
    with pytest.raises(InvalidRequest, match=f"more than {infer_wire.MAX_FIELDS} fields"):
        infer_wire.receive(one * (most + 1), 0)


@pytest.mark.parametrize("sizes", [(), (0,), (1, 127, 128), (16383, 16384), (3 << 20, 0, 5)])
@pytest.mark.parametrize("is_in_stream", [False, True])
def test_what_is_written_is_what_protobuf_writes(sizes: tuple[int, ...], is_in_stream: bool) -> None:
    contents = [bytes([i]) * size for i, size in enumerate(sizes)]
    head = schema.ModelInferResponse(model_name="digits", model_version="1", id="7")
    written = infer_wire.write(head, [memoryview(content) for content in contents], is_in_stream)
    wanted: Any = oracle.ModelInferResponse(model_name="digits", model_version="1", id="7")
    wanted.raw_output_contents.extend(contents)
    if is_in_stream:
        wanted = oracle.ModelStreamInferResponse(infer_response=wanted)
    assert written == wanted.SerializeToString()
    assert infer_wire.write(head, [memoryview(content) for content in contents], is_in_stream, len(written)) == written
    with pytest.raises(PayloadTooLarge, match=f"has {len(written)} bytes; want {len(written) - 1} at most"):
        infer_wire.write(head, [memoryview(content) for content in contents], is_in_stream, len(written) - 1)


def test_an_answer_is_refused_before_it_is_made() -> None:
    head = schema.ModelInferResponse(model_name="digits")
    many = [memoryview(bytes(MEBIBYTE))] * 3000
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            infer_wire.write(head, many, False)
        assert tracemalloc.get_traced_memory()[1] < 8 * MEBIBYTE
    finally:
        tracemalloc.stop()
