"""Image files: what comes out is OpenCV's, to the last bit; what cannot be had exactly, is damaged or is too large is
refused."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from runtime.errors import DeadlineExceeded
from runtime.image_files import BadImage, EncodedImage
from runtime.image_limits import MAX_PIXELS_OF_ONE as MAX_PIXELS
from tests.runtime.image_samples import HEIGHT, WIDTH, by_opencv, by_pillow, chunk, picture, png, samples
from tests.runtime.test_image_heads import LONG, PLAIN, tiff

SAMPLES = samples()
# It reads what it is given after the import, and says which modules of Pillow there are then.
_LOOK = """
import sys
from runtime.image_files import BadImage, EncodedImage
try:
    EncodedImage(sys.stdin.buffer.read()).decode()
except BadImage as exc:
    print(exc, file=sys.stderr)
print(*(name for name in sys.modules if name.startswith("PIL.") and name.endswith("Plugin")))
"""


def by_cv2(data: bytes) -> NDArray[Any]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels.reshape(*pixels.shape[:2], -1)


@pytest.mark.parametrize("name", SAMPLES)
def test_an_image_is_decoded_as_opencv_does(name: str) -> None:
    image = EncodedImage(SAMPLES[name])
    pixels, want = image.decode(), by_cv2(SAMPLES[name])
    assert (image.height, image.width) == want.shape[:2]
    assert (pixels.dtype, pixels.shape) == (want.dtype, want.shape)
    np.testing.assert_array_equal(pixels, want)


def test_what_is_transparent_in_a_gif_has_alpha_and_any_color() -> None:
    data = by_pillow(Image.fromarray(picture(3)).quantize(200), "GIF", transparency=3)
    pixels, want = EncodedImage(data).decode(), by_cv2(data)
    is_there = want[..., 3] > 0
    assert not is_there.all()
    np.testing.assert_array_equal(pixels[is_there], want[is_there])
    np.testing.assert_array_equal(pixels[..., 3], want[..., 3])


@pytest.mark.parametrize(
    "data",
    [
        by_pillow(Image.frombytes("CMYK", (WIDTH, HEIGHT), picture(4).tobytes()), "TIFF"),
        by_pillow(Image.frombytes("LA", (WIDTH, HEIGHT), picture(2).tobytes()), "TIFF"),
        by_opencv(".tiff", picture(3, np.uint16).astype(np.float32)),
    ],
    ids=["cmyk", "grey and alpha", "floats of three channels"],
)
def test_what_would_not_come_out_exactly_is_refused(data: bytes) -> None:
    assert by_cv2(data).size
    with pytest.raises(BadImage, match=r"is not supported|unknown pixel mode"):
        EncodedImage(data).decode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"RIFF....WAVE",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        by_pillow(picture(3), "PPM"),
        by_pillow(picture(3), "ICO"),
        by_pillow(picture(3), "PDF"),
        by_pillow(picture(3), "JPEG2000"),
    ],
    ids=["nothing", "a letter", "a sound", "postscript", "ppm", "ico", "pdf", "jpeg 2000"],
)
def test_other_formats_are_none(data: bytes) -> None:
    with pytest.raises(BadImage, match="it is none of JPEG, PNG, WebP, BMP, GIF and TIFF"):
        EncodedImage(data)


@pytest.mark.parametrize("sample", [b"%!PS-Adobe-3.0 EPSF-3.0\n", by_pillow(picture(3), "JPEG")], ids=["eps", "jpeg"])
def test_only_the_reader_of_the_format_is_imported(sample: bytes) -> None:
    seen = subprocess.run([sys.executable, "-c", _LOOK], input=sample, capture_output=True, check=True, timeout=30)
    assert set(seen.stdout.decode().split()) <= {"PIL.JpegImagePlugin"}


@pytest.mark.parametrize("name", ["jpeg by OpenCV", "png rgb", "bmp rgb", "webp lossy rgb", "gif", "tiff rgb raw"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_an_incomplete_file_is_an_error(name: str, share: float) -> None:
    data = SAMPLES[name]
    with pytest.raises(BadImage):
        EncodedImage(data[: int(len(data) * share)]).decode()


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_a_damaged_file_is_an_image_or_an_error(name: str, draw: st.DataObject) -> None:
    data = bytearray(SAMPLES[name])
    for _ in range(draw.draw(st.integers(1, 8))):
        data[draw.draw(st.integers(0, min(len(data), 200) - 1))] = draw.draw(st.integers(0, 255))
    with suppress(BadImage):
        image = EncodedImage(bytes(data))
        # It may claim to be large, which takes its time.
        if image.width * image.height < 1 << 20:
            assert image.decode().ndim == 3


def claiming(name: str, width: int, height: int) -> bytes:
    """A small file that says it has so many pixels."""
    if name == "png":
        plain = png(picture(1)[:1, :1], 0)
        head = chunk(b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + plain[24:29])
        return plain[:8] + head + plain[33:]
    if name == "bmp":
        data = SAMPLES["bmp rgb"]
        return data[:18] + width.to_bytes(4, "little") + height.to_bytes(4, "little") + data[26:]
    if name == "gif":
        data = SAMPLES["gif"]
        return data[:6] + width.to_bytes(2, "little") + height.to_bytes(2, "little") + data[10:]
    if name == "jpeg":
        data = SAMPLES["jpeg grey"]
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]
    data = SAMPLES["webp rgba of two frames"]
    return data[:24] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + data[30:]


@pytest.mark.parametrize("name", ["png", "bmp", "gif", "jpeg", "webp"])
def test_a_bomb_is_refused_by_what_it_claims(name: str) -> None:
    width = 1 << 13
    assert EncodedImage(claiming(name, width, MAX_PIXELS // width)).height == MAX_PIXELS // width
    with pytest.raises(BadImage, match=f"it has {width} x {MAX_PIXELS // width + 1} pixels; want 1 to {MAX_PIXELS}"):
        EncodedImage(claiming(name, width, MAX_PIXELS // width + 1))


def test_the_frames_of_an_animation_are_not_looked_at() -> None:
    frames = [Image.fromarray(picture(1).squeeze() ^ i) for i in range(1, 200)]
    data = by_pillow(Image.fromarray(picture(1).squeeze()), "GIF", save_all=True, append_images=frames)
    assert EncodedImage(data).decode().shape == (HEIGHT, WIDTH, 3)


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    # Each begins with these two bytes and may hold next to nothing.
    data = by_pillow(picture(3, height=1024, width=1024), "JPEG", progressive=True)
    end = data.rindex(b"\xff\xda")
    with pytest.raises(BadImage, match="it has 2009 scans of 1024 x 1024 pixels"):
        EncodedImage(data[:end] + data[end:-2] * 2000 + data[-2:])


def test_a_jpeg_of_endless_scans_that_is_not_progressive_is_refused() -> None:
    data = by_pillow(picture(3, height=1024, width=1024), "JPEG")
    with pytest.raises(BadImage, match="it has 2001 scans of 1024 x 1024 pixels"):
        EncodedImage(data[:-2] + bytes.fromhex("ffda 0008 01 0100 003f00 00") * 2000 + data[-2:])
    # What thumbnails have is not counted.
    thumbnail = b"\xff\xe1\x40\0Exif\0\0" + b"\xff\xda" * 8188
    assert EncodedImage(data[:2] + thumbnail + data[2:]).width == 1024


@pytest.mark.parametrize("compression", [1, 5, 7, 8, 32773])
def test_a_tile_that_is_larger_than_the_image_counts_as_a_whole(compression: int) -> None:
    side = math.isqrt(MAX_PIXELS)
    fields = {**PLAIN, 259: compression, 322: side, 324: 8, 325: 64}
    assert EncodedImage(tiff({**fields, 323: side})).cost == MAX_PIXELS
    with pytest.raises(BadImage, match=f"it takes as much as {side * (side + 1)} pixels; want at most {MAX_PIXELS}"):
        EncodedImage(tiff({**fields, 323: side + 1}))


def test_strips_are_no_more_than_the_image() -> None:
    # Each is all rows but one, and so every other begins anew.
    offsets = np.arange(8, 58, dtype="<u4").tobytes()
    fields = {field: value for field, value in PLAIN.items() if field != 273} | {278: 7}
    with pytest.raises(BadImage, match="its tiles have 1600 pixels; want 8 x 8"):
        EncodedImage(tiff(fields, (273, LONG, 50, 8), data=offsets))


def test_strips_are_no_more_than_the_file() -> None:
    sizes = np.full(8, 400, "<u4").tobytes()
    fields = {field: value for field, value in PLAIN.items() if field != 279} | {259: 8, 278: 1}
    data = tiff(fields, (279, LONG, 8, 8), data=sizes)
    with pytest.raises(BadImage, match=f"its tiles have {8 * len(data)} bytes of a file of {len(data)}"):
        EncodedImage(data)


def test_a_bitmap_with_run_length_encoding_counts_for_more() -> None:
    # Of an empty row, which Pillow fills byte by byte.
    head = struct.pack("<IiiHHIIiiII", 40, MAX_PIXELS // 16, 1, 1, 8, 1, 0, 0, 0, 0, 0) + bytes(1024)
    data = b"BM" + struct.pack("<IHHI", 1082, 0, 0, 1078) + head + b"\0\1"
    assert EncodedImage(data).cost == MAX_PIXELS
    with pytest.raises(BadImage, match="it takes as much as"):
        EncodedImage(data[:18] + struct.pack("<i", MAX_PIXELS // 16 + 1) + data[22:])


def test_rows_count_for_some_pixels_however_narrow_they_are() -> None:
    assert EncodedImage(claiming("png", 1, MAX_PIXELS // 8)).cost == MAX_PIXELS
    with pytest.raises(BadImage, match="it takes as much as"):
        EncodedImage(claiming("png", 1, MAX_PIXELS // 8 + 1))


def test_what_libtiff_says_of_a_file_is_not_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    data = tiff({**PLAIN, 259: 8})
    with pytest.raises(BadImage, match="decoder error"):
        EncodedImage(data).decode()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["jpeg by OpenCV", "png rgb", "bmp rgb", "gif", "tiff rgb raw"])
def test_a_file_is_read_until_the_deadline(name: str) -> None:
    assert EncodedImage(SAMPLES[name], time.monotonic() + 60).decode().size
    with pytest.raises(DeadlineExceeded, match="while its images were decoded"):
        EncodedImage(SAMPLES[name], time.monotonic() - 1)


def test_pixels_are_read_until_the_deadline() -> None:
    deadline = time.monotonic() + 0.05
    image = EncodedImage(SAMPLES["jpeg by OpenCV"], deadline)
    while time.monotonic() <= deadline:
        pass
    with pytest.raises(DeadlineExceeded):
        image.decode()
