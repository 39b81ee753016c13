"""TFRecord, the file format: tensorflow/core/lib/io/record_writer.h.

A record is its length (u64), the masked CRC-32C of these eight bytes (u32), its data, and the masked CRC-32C of that
(u32), all little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8


class BrokenRecord(ValueError):
    """What is there is no whole record. TensorFlow calls this DATA_LOSS."""


def read_records(file: BinaryIO) -> Iterator[bytes]:
    """Yield one record after the other, reading no further than that.

    A record takes memory once the file is known to have as many bytes as its length says.

    Raises:
        BrokenRecord: a record is cut off, or a checksum is not its own.
    """
    start, end = file.tell(), file.seek(0, os.SEEK_END)
    file.seek(start)
    while start < end:
        yield _read_record(file, start, end)
        start = file.tell()


def _read_record(file: BinaryIO, start: int, end: int) -> bytes:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise BrokenRecord(f"truncated record at {start}")
    length, checksum = _HEAD.unpack(head)
    _check(head[:8], checksum, start)
    rest = length + _TAIL.size
    # Asked first, as to read so much is to allocate it.
    if rest > end - file.tell() or len(body := file.read(rest)) < rest:
        raise BrokenRecord(f"truncated record at {start}")
    data = body[:length]
    (checksum,) = _TAIL.unpack(body[length:])
    _check(data, checksum, start)
    return data


def _check(data: bytes, masked: int, start: int) -> None:
    # Rotated and shifted, as the checksum of data that has checksums in it would be a poor one.
    checksum = google_crc32c.value(data)
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    if (rotated + _MASK_DELTA) & 0xFFFFFFFF != masked:
        raise BrokenRecord(f"corrupted record at {start}")
