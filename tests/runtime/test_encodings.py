"""Content encodings. Compressed here by Python's own libraries, and by hand where they would not."""

from __future__ import annotations

import gzip
import io
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard

from runtime.encodings import COMPRESS_FROM, choose, coding_of, compress, inflate
from runtime.errors import InvalidRequest, Overloaded, PayloadTooLarge

TEXT = b'{"instances": [1.0, 2.0, 5.0]}'
LARGE = 64 << 20
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
# What is made before it is counted.
AT_ONCE = {"gzip": 256 << 10, "deflate": 256 << 10, "zstd": 16 << 20}


def nothing(size: int) -> None:
    pass


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", ""),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, identity", "gzip"),
        ("not gzip", "gzip"),
        ("deflate", "deflate"),
        ("zstd", "zstd"),
        ("identity,Zstd", "zstd"),
        ("identity", ""),
        # By mistake, and TensorFlow Serving does not look at it.
        ("utf-8", ""),
        ("application/json", ""),
    ],
)
def test_what_a_body_is_encoded_in(header: str, coding: str) -> None:
    assert coding_of(header) == coding


@pytest.mark.parametrize("header", ["br", "BR", "identity, br", "compress"])
def test_an_encoding_that_cannot_be_read_is_said_to_be_so(header: str) -> None:
    with pytest.raises(InvalidRequest, match=r"Content-Encoding is '(br|compress)'; want gzip, deflate, zstd or none"):
        coding_of(header)


@pytest.mark.parametrize("coding", COMPRESS)
@pytest.mark.parametrize("size", [0, 1, 1000, 256 << 10, (256 << 10) + 1, 3_000_000])
def test_a_body_is_what_was_compressed(coding: str, size: int) -> None:
    for body in (random.Random(size).randbytes(size), b"7" * size):
        counted: list[int] = []
        assert inflate(COMPRESS[coding](body), coding, size, counted.append) == body
        assert sum(counted) == size


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_body_larger_than_may_be_is_refused(coding: str) -> None:
    with pytest.raises(PayloadTooLarge, match="larger than 2999 bytes; see --max_body_size"):
        inflate(COMPRESS[coding](b"7" * 3000), coding, 2999, nothing)


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_bomb_takes_no_more_memory_than_a_body_may(coding: str) -> None:
    bomb = COMPRESS[coding](bytes(LARGE))
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            inflate(bomb, coding, 1 << 20, nothing)
        # Once in pieces, and once whole.
        assert tracemalloc.get_traced_memory()[1] < (1 << 20) + 2 * AT_ONCE[coding] + (1 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_bomb_is_stopped_when_there_is_no_more_room_for_all_bodies_together(coding: str) -> None:
    taken = 0

    def take(size: int) -> None:
        nonlocal taken
        taken += size
        if taken > 1 << 20:
            raise Overloaded("enough")

    with pytest.raises(Overloaded):
        inflate(COMPRESS[coding](bytes(LARGE)), coding, LARGE, take)
    assert taken <= (1 << 20) + AT_ONCE[coding]


def test_a_zstd_window_larger_than_http_has_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    source = io.BytesIO(bytes(LARGE))
    frame = b"".join(zstandard.ZstdCompressor(compression_params=parameters).read_to_iter(source))
    with pytest.raises(InvalidRequest, match="the body is not zstd"):
        inflate(frame, "zstd", 2 * LARGE, nothing)


@pytest.mark.parametrize("coding", COMPRESS)
@pytest.mark.parametrize("body", [TEXT, b"\x1f\x8b", b"\x00" * 100, b"(\xb5/\xfd\x00\xff\xff\xff\xff"])
def test_a_body_that_is_not_what_it_says_is_an_error_with_tensorflow_servings_text(coding: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"JSON Parse error: The document is empty .* is not {coding}, which"):
        inflate(body, coding, 1000, nothing)


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_body_that_is_cut_or_goes_on_is_an_error(coding: str) -> None:
    whole = COMPRESS[coding](TEXT)
    for size in range(1, len(whole)):
        with pytest.raises(InvalidRequest, match="it ends too early"):
            inflate(whole[:size], coding, 1000, nothing)
    for surplus in (b"x", whole, whole * 100_000):
        with pytest.raises(InvalidRequest, match=f"{len(surplus)} bytes come after its end"):
            inflate(whole + surplus, coding, 1000, nothing)


# By hand: the head of a frame without a checksum, and heads of blocks. One of kind 1 is a byte again and again, so that
# four bytes stand for 128 KiB.
ZSTD_HEAD = b"(\xb5/\xfd\x00\x58"
ZSTD_END = b"\x01\x00\x00"


def zstd_block(kind: int, size: int) -> bytes:
    return (size << 3 | kind << 1).to_bytes(3, "little")


def test_of_the_densest_zstd_body_little_is_made_at_once() -> None:
    counted: list[int] = []
    body = ZSTD_HEAD + (zstd_block(1, 128 << 10) + b"7") * 400 + ZSTD_END
    assert inflate(body, "zstd", LARGE, counted.append) == b"7" * (400 * (128 << 10))
    assert sum(counted) == 400 * (128 << 10)
    assert max(counted) == AT_ONCE["zstd"]


@pytest.mark.parametrize("block", [zstd_block(0, 0), zstd_block(0, 1) + b"7", zstd_block(1, 1) + b"7"])
def test_a_zstd_body_of_many_small_blocks_takes_time_in_proportion(block: bytes) -> None:
    count = (8 << 20) // len(block)
    started = time.process_time()
    body = inflate(ZSTD_HEAD + block * count + ZSTD_END, "zstd", LARGE, nothing)
    assert time.process_time() - started < 2
    assert body == b"7" * (count if len(block) > 3 else 0)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", ""),
        ("identity", ""),
        ("gzip", "gzip"),
        ("gzip, deflate", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("GZip", "gzip"),
        ("zstd;q=0.5, gzip;q=0.8", "gzip"),
        ("zstd;q=0.8,gzip;q=0.5", "zstd"),
        ("zstd;q=0,gzip", "gzip"),
        ("gzip;q=0", ""),
        ("gzip;q=0, zstd;q=0.000", ""),
        ("gzip ; q=1.000", "gzip"),
        ("gzip;Q=0.001", "gzip"),
        ("br, deflate", ""),
        ("*", "gzip"),
        ("*;q=0.1", "gzip"),
        ("*;q=0", ""),
        ("gzip;q=0, *", ""),
        ("identity, gzip;q=0.5", ""),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity;q=0", ""),
        ("identity;q=0, *;q=0.5", "gzip"),
        ("identity;q=0, zstd", "zstd"),
        # No weights, so that they are not asked for.
        ("gzip;q=2", ""),
        ("gzip;q=-1", ""),
        ("gzip;q=nan", ""),
        ("gzip;q=", ""),
        ("gzip;level=9", ""),
        (",,;,", ""),
    ],
)
def test_an_answer_is_compressed_as_it_is_asked_for(accepted: str, coding: str) -> None:
    assert choose(accepted, COMPRESS_FROM) == coding


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, zstd", ""),
        ("gzip;q=0.5", ""),
        ("identity;q=0.5, gzip", ""),
        ("identity;q=0, gzip", "gzip"),
        ("*;q=0, zstd", "zstd"),
        ("gzip;q=0", ""),
    ],
)
def test_a_small_answer_is_compressed_only_for_who_takes_nothing_else(accepted: str, coding: str) -> None:
    assert choose(accepted, COMPRESS_FROM - 1) == coding


def test_what_is_compressed_is_what_others_read() -> None:
    content = TEXT * 10_000
    assert gzip.decompress(compress(content, "gzip")) == content
    assert zstandard.ZstdDecompressor().decompress(compress(content, "zstd")) == content
