"""TFRecord files, from a writer of their own: intact, cut off, corrupted and hostile."""

from __future__ import annotations

import io
import struct
import tracemalloc

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.codecs.tfrecord import BrokenRecord, read_records


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def read(data: bytes) -> list[bytes]:
    return list(read_records(io.BytesIO(data)))


@given(st.lists(st.binary(max_size=50)))
def test_what_is_written_is_read(records: list[bytes]) -> None:
    assert read(b"".join(map(framed, records))) == records


@given(st.binary(max_size=100))
def test_whatever_is_read_is_records_or_broken(data: bytes) -> None:
    try:
        records = read(data)
    except BrokenRecord:
        return
    assert b"".join(map(framed, records)) == data


def test_the_mask_is_tensorflows() -> None:
    # With these twelve bytes begin TensorBoard's event files, whose first record has 24 bytes.
    record = b"." * 24
    assert read(bytes.fromhex("1800000000000000 a37f4b22") + record + masked(record)) == [record]


def test_records_are_read_as_they_are_wanted() -> None:
    records = read_records(io.BytesIO(framed(b"first") + b"no record"))
    assert next(records) == b"first"
    with pytest.raises(BrokenRecord, match=r"^truncated record at 21$"):
        next(records)


@pytest.mark.parametrize("size", range(1, len(framed(b"hello"))))
def test_a_record_that_is_cut_off_is_truncated(size: int) -> None:
    with pytest.raises(BrokenRecord, match=r"^truncated record at 17$"):
        read(framed(b"1") + framed(b"hello")[:size])


@pytest.mark.parametrize("at", range(len(framed(b"hello"))))
def test_a_bit_that_has_changed_is_found(at: int) -> None:
    data = bytearray(framed(b"hello"))
    data[at] ^= 1
    with pytest.raises(BrokenRecord, match=r"^corrupted record at 0$"):
        read(bytes(data))


@pytest.mark.parametrize("length", [1 << 33, (1 << 63) - 1, (1 << 64) - 1])
def test_a_length_that_is_not_there_takes_no_memory(length: int) -> None:
    head = struct.pack("<Q", length)
    tracemalloc.start()
    with pytest.raises(BrokenRecord, match="truncated"):
        read(head + masked(head) + b"hello")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_file_that_shrinks_is_truncated() -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size)[:12]

    with pytest.raises(BrokenRecord, match="truncated"):
        list(read_records(Shrinking(framed(b"hello, hello"))))
