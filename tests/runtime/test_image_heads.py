"""What is left of image files for those who read them: what their pixels need, and no more parts than files have
that are meant well."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from runtime.image_files import BadImage, EncodedImage
from runtime.image_heads import MAX_HEAD, MAX_PARTS, MAX_VALUES, BadHead, without_metadata
from tests.runtime.image_samples import by_pillow, chunk, picture, png, samples

JPEG = by_pillow(picture(3), "JPEG")
PNG = by_pillow(picture(3), "PNG")
GIF = by_pillow(picture(1), "GIF")
GIF_HEAD = 13 + (3 << (GIF[10] & 7) + 1)
# Of a file of eight by eight pixels of one byte, all of them in one strip.
PLAIN = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def tiff(fields: dict[int, int], *more: tuple[int, int, int, int], data: bytes = bytes(64)) -> bytes:
    """Write a TIFF file of these numbers, and of other fields: what, of which type, how many, the value or where."""
    entries = sorted([*((field, LONG, 1, value) for field, value in fields.items()), *more])
    head = struct.pack("<2sHLH", b"II", 42, 8 + len(data), len(entries))
    return head[:8] + data + head[8:] + b"".join(struct.pack("<HHLL", *entry) for entry in entries) + bytes(4)


@pytest.mark.parametrize("name", samples())
def test_what_is_left_is_the_same_picture(name: str) -> None:
    data = samples()[name]
    before, after = (
        cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED) for file in (data, without_metadata(data))
    )
    np.testing.assert_array_equal(after, before)


# Pillow copies what it has of EXIF for each more that it finds.
@pytest.mark.parametrize("marker", [*range(0xE1, 0xEE), 0xEF, 0xFE])
def test_a_jpeg_has_no_metadata(marker: int) -> None:
    crowded = JPEG[:2] + segment(marker, b"Exif\0\0and so on") * 1000 + b"\xff\xff\0" + JPEG[2:]
    assert without_metadata(crowded) == JPEG
    np.testing.assert_array_equal(EncodedImage(crowded).decode(), EncodedImage(JPEG).decode())


@pytest.mark.parametrize("marker", [0xE0, 0xEE])
def test_a_jpeg_has_what_its_colors_are(marker: int) -> None:
    data = JPEG[:2] + segment(marker, b"Adobe\0\0\0\0\0\0\1") + JPEG[2:]
    assert without_metadata(data) == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (JPEG[:2] + segment(0xFE, b"") * MAX_PARTS + JPEG[2:], f"more than {MAX_PARTS} segments"),
        (JPEG[:2] + segment(0xDB, bytes(65)) * (MAX_HEAD // 65) + JPEG[2:], f"at most {MAX_HEAD}"),
        (JPEG[:2] + segment(0xC0, bytes(15)) + JPEG[2:], "it has 2 frames"),
        (JPEG[:2] + b"\xff\xd9" + JPEG[2:], "truncated"),
        (JPEG[:20] + b"\xff\xdb", "truncated"),
        (PNG[:33] + chunk(b"IDAT", b"") * MAX_PARTS + PNG[33:], f"more than {MAX_PARTS} chunks"),
        (PNG[:12], "truncated"),
        (GIF[:GIF_HEAD] + bytes(MAX_PARTS) + GIF[GIF_HEAD:], f"more than {MAX_PARTS} blocks"),
        (b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\1c" * MAX_PARTS, f"more than {MAX_PARTS} blocks"),
        (GIF[:12], "truncated"),
        (tiff(PLAIN)[:80], "truncated"),
        (tiff(PLAIN, (320, SHORT, MAX_VALUES + 1, 8)), f"field 320 has {MAX_VALUES + 1} values"),
        (tiff(PLAIN, (324, SHORT, MAX_PARTS + 1, 8)), f"field 324 has {MAX_PARTS + 1} values"),
        (tiff(PLAIN, (322, 16, 1, 8)), "field 322 has 1 values of type 16"),
        (tiff(PLAIN, (323, SHORT, 2, 8)), "field 323 has 2 values of type 3"),
    ],
)
def test_heads_that_are_not_meant_well_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BadHead, match=reason):
        without_metadata(data)
    with pytest.raises(BadImage, match=reason):
        EncodedImage(data)


def test_a_png_has_no_chunks_that_are_unpacked_for_nothing() -> None:
    bomb = zlib.compress(bytes(1 << 20))
    metadata = b"".join(chunk(kind, b"a\0\0" + bomb) for kind in (b"iCCP", b"zTXt", b"acTL", b"eXIf"))
    assert without_metadata(PNG[:33] + metadata + PNG[33:-12] + metadata + PNG[-12:]) == PNG
    # Its end is none of its pixels.
    assert without_metadata(PNG[:-20]) == PNG[:-20]
    transparent = png(picture(3), 2, (b"tRNS", bytes(6)))
    assert without_metadata(transparent) == transparent


def test_a_gif_has_no_extensions_but_which_color_is_none() -> None:
    control = b"!\xf9\4\1\0\0\5\0"
    comments = b"!\xfe" + b"\3abc" * 1000 + b"\0"
    bare = GIF[:GIF_HEAD] + GIF[GIF.index(b",", GIF_HEAD) :]
    assert without_metadata(GIF[:GIF_HEAD] + comments + bare[GIF_HEAD:]) == bare
    # What is to become of the frame afterwards is none of its business: Pillow fills a picture for that.
    assert (
        without_metadata(GIF[:GIF_HEAD] + b"!\xf9\4\x09\1\1\5\0" + comments + bare[GIF_HEAD:])
        == GIF[:GIF_HEAD] + control + bare[GIF_HEAD:]
    )
    assert without_metadata(GIF[:GIF_HEAD] + b"!\xf9\4\x08\1\1\5\0" + bare[GIF_HEAD:]) == bare


def test_a_tiff_has_no_fields_that_its_pixels_do_not_need() -> None:
    crowded = tiff(PLAIN, (282, RATIONAL, 1 << 24, 8), *((field, UNDEFINED, 64, 8) for field in range(40000, 40100)))
    stripped = without_metadata(crowded)
    assert len(stripped) == len(crowded)
    assert struct.unpack_from("<H", stripped, 72) == (len(PLAIN),)
    assert EncodedImage(crowded).decode().shape == (8, 8, 1)
    # The first of two counts.
    assert EncodedImage(tiff(PLAIN, (257, LONG, 1, 9))).height == 8


def test_what_is_no_such_file_is_left_alone() -> None:
    for data in (b"", b"BM", b"RIFF....WEBP", b"x" * 100):
        assert without_metadata(data) == data
