"""Encoded images as arrays: what OpenCV's ``imdecode`` makes of them with ``IMREAD_UNCHANGED``, by Pillow.

That is rows, columns and channels, of the file's own depth: one channel, or blue, green and red, or these and alpha.
Orientation by EXIF, colour profiles and gamma are ignored, and of several frames or pages the first counts.

Pillow's own way to open a file tries what it knows, one after the other, and imports more if nothing fits. Here the
first bytes choose one of few readers, and no other is ever imported. None of them starts a program.
"""

from __future__ import annotations

import time
import warnings
from functools import cache
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from PIL.ImageFile import ImageFile

from runtime.errors import DeadlineExceeded
from runtime.image_heads import without_metadata
from runtime.image_limits import MAX_PIXELS_OF_ONE, too_late

_MAX_SCANNED = 16 * MAX_PIXELS_OF_ONE
"""Pixels times scans of a JPEG, each of which is a few bytes in the file and work on every pixel."""
_RUN_LENGTH_COST = 16
"""Pixels that are decoded in the time of one of a bitmap with run-length encoding, which Pillow does in Python."""
_NARROWEST = 8
"""Pixels that a row counts as at the least: Pillow keeps where each row is."""
_MAX_PLANES = 6
"""How often the strips or tiles of a TIFF may cover the image: once for each sample, if these lie apart."""
_MAX_REPEATED = 4
"""How often, on average, a byte of a TIFF may be part of a strip or tile, each of which is read."""

_READERS = {
    b"\xff\xd8\xff": ("JpegImagePlugin", "JpegImageFile"),
    b"\x89PNG\r\n\x1a\n": ("PngImagePlugin", "PngImageFile"),
    b"BM": ("BmpImagePlugin", "BmpImageFile"),
    b"GIF8": ("GifImagePlugin", "GifImageFile"),
    b"II*\0": ("TiffImagePlugin", "TiffImageFile"),
    b"MM\0*": ("TiffImagePlugin", "TiffImageFile"),
    b"RIFF": ("WebPImagePlugin", "WebPImageFile"),
}
# Pillow has no pixels of three times 16 bits: it unpacks the upper byte of each, which is the lower one to whoever
# unpacks in the other order of bytes. On a little-endian machine, which N is.
_OTHER_BYTE = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGB;16N": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGBA;16N": "RGBA;16B",
}
# What 5 and 6 bits are to OpenCV, which does not scale them.
_HIGH_BITS = {"BGR;15": (0xF8, 0xF8, 0xF8), "BGR;16": (0xF8, 0xFC, 0xF8)}
# Of a TIFF file, what Pillow unpacks as OpenCV does. Associated alpha, for one, it divides by.
_TIFF_MODES = {
    ("1", "1"),
    ("1", "1;I"),
    ("L", "L"),
    ("P", "P"),
    ("RGB", "RGB"),
    ("I;16", "I;16"),
    ("I;16", "I;16N"),
    ("I;16B", "I;16B"),
    ("I;16B", "I;16N"),
    ("I", "I;32S"),
    ("I", "I;32BS"),
    ("F", "F;32F"),
    ("F", "F;32BF"),
}
_TILE_SIZE = (322, 323)
_BYTE_COUNTS = (279, 325)
_SAMPLE_FORMAT = 339
_SIGNED = 2
_AS = {"1": "L", "P": "RGB", "LA": "RGBA"}
_BGRA = [2, 1, 0, 3]


# Of files that are odd; a client's are no concern of the process's standard error.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class BadImage(ValueError):
    """No image that can be decoded, or not exactly; the message says why."""


class _File(BytesIO):
    """A file that is read until the deadline: Pillow's loops all read, and what is in C reads a block at a time."""

    def __init__(self, data: bytes, deadline: float | None) -> None:
        super().__init__(data)
        self._deadline = deadline

    def read(self, size: int | None = -1, /) -> bytes:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise too_late()
        return super().read(size)


class EncodedImage:
    """A file whose head has been read, and no pixel yet."""

    def __init__(self, data: bytes, deadline: float | None = None) -> None:
        """Read the head of a file that is to be decoded by the deadline, in seconds of the monotonic clock.

        Raises:
            BadImage: it is of none of the formats, or claims too much.
            DeadlineExceeded: it has passed.
        """
        self._deadline = deadline
        self._image, self._data = _open(data, deadline)
        self.width, self.height = self._image.size
        self.cost = _cost(self._image)
        """Pixels that would take as long, and as much memory, at the least."""

    def decode(self) -> NDArray[Any]:
        """Return the pixels, of shape (height, width, channels); perhaps a view. Once.

        Raises:
            BadImage: the file is damaged or incomplete, or Pillow has not all that is in it.
            DeadlineExceeded: it has passed.
        """
        try:
            pixels = _pixels(self._image, self._data, self._deadline)
        except (BadImage, DeadlineExceeded, MemoryError):
            raise
        # Whatever a reader comes to in a damaged file: OSError, SyntaxError, ValueError, struct.error and others.
        except Exception as exc:
            raise BadImage(str(exc) or type(exc).__name__) from exc
        return pixels.reshape(*pixels.shape[:2], -1)


def _open(data: bytes, deadline: float | None) -> tuple[ImageFile, bytes]:
    """Return what reads the file, and what that was given of it."""
    module, name = _reader(data)
    if module == "TiffImagePlugin":
        _silence_libtiff()
    reader = getattr(import_module(f"PIL.{module}"), name)
    try:
        data = without_metadata(data)
        image: ImageFile = reader(_File(data, deadline))
        _check_size(image, data)
    except (BadImage, DeadlineExceeded, MemoryError):
        raise
    # As above.
    except Exception as exc:
        raise BadImage(str(exc) or type(exc).__name__) from exc
    return image, data


@cache
def _silence_libtiff() -> None:
    """Keep what libtiff says of damaged files, which is raised as well, off the process's standard error."""
    import ctypes

    from PIL import _imaging

    # Found through Pillow's own library, which as a rule is linked to it.
    library = ctypes.CDLL(_imaging.__file__)
    for setter in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        if hasattr(library, setter):
            getattr(library, setter)(None)


def _reader(data: bytes) -> tuple[str, str]:
    for magic, reader in _READERS.items():
        if data.startswith(magic) and (magic != b"RIFF" or data[8:12] == b"WEBP"):
            return reader
    raise BadImage("it is none of JPEG, PNG, WebP, BMP, GIF and TIFF")


def _check_size(image: ImageFile, data: bytes) -> None:
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS_OF_ONE:
        raise BadImage(f"it has {width} x {height} pixels; want 1 to {MAX_PIXELS_OF_ONE}")
    if image.format == "JPEG":
        # Within coded pixels these two bytes do not occur.
        scans = data.count(b"\xff\xda")
        if scans * width * height > _MAX_SCANNED:
            raise BadImage(f"it has {scans} scans of {width} x {height} pixels; want at most {_MAX_SCANNED} in all")
    if image.format == "TIFF":
        _check_tiles(image, len(data))
    if _cost(image) > MAX_PIXELS_OF_ONE:
        raise BadImage(f"it takes as much as {_cost(image)} pixels; want at most {MAX_PIXELS_OF_ONE}")


def _check_tiles(image: ImageFile, size: int) -> None:
    """Raise BadImage if a TIFF's strips or tiles, which may lie anywhere, are more than what they make up."""
    boxes = (tile.extents for tile in image.tile if tile.extents is not None)
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
    if covered > _MAX_PLANES * image.width * image.height:
        raise BadImage(f"its tiles have {covered} pixels; want {image.width} x {image.height}")
    for field in _BYTE_COUNTS:
        counts = image.tag_v2.get(field, ())  # type: ignore[attr-defined]
        read = sum(min(count, size) for count in counts)
        if len(counts) > _MAX_REPEATED and read > _MAX_REPEATED * size:
            raise BadImage(f"its tiles have {read} bytes of a file of {size}")


def _cost(image: ImageFile) -> int:
    pixels = max(image.width, _NARROWEST) * image.height
    if image.tile and image.tile[0].codec_name == "bmp_rle":
        return _RUN_LENGTH_COST * pixels
    if image.format == "TIFF":
        # Each tile is decoded as a whole, and may be larger than the image.
        fields = image.tag_v2  # type: ignore[attr-defined]
        width, length = (int(fields.get(field, 0)) for field in _TILE_SIZE)
        return max(pixels, width * length)
    return pixels


def _pixels(image: ImageFile, data: bytes, deadline: float | None) -> NDArray[Any]:
    rawmode = _rawmode(image)
    if image.format == "TIFF":
        return _from_tiff(image, data, rawmode, deadline)
    if image.mode in ("RGB", "RGBA") and ";16" in rawmode and image.format == "PNG":
        return _deep(image, data, rawmode, deadline)
    if image.mode == "CMYK":
        return _from_cmyk(np.asarray(image))
    if rawmode in _HIGH_BITS:
        return _as_bgr(np.asarray(image) & np.array(_HIGH_BITS[rawmode], np.uint8))
    # One colour may be none, which makes a fourth channel, but not of a grey image.
    if image.format == "GIF" or (image.mode in ("P", "RGB") and "transparency" in image.info):
        return _as_bgr(np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB")))
    return _plain(image)


def _from_tiff(image: ImageFile, data: bytes, rawmode: str, deadline: float | None) -> NDArray[Any]:
    if image.mode in ("RGB", "RGBA") and rawmode in _OTHER_BYTE:
        return _deep(image, data, rawmode, deadline)
    if image.mode == "RGBA" and rawmode == "RGBA":
        # As libtiff gives them to OpenCV.
        pixels = np.asarray(image).astype(np.uint16)
        pixels[..., :3] = (pixels[..., :3] * pixels[..., 3:] + 127) // 255
        return _as_bgr(pixels.astype(np.uint8))
    is_signed = _SIGNED in image.tag_v2.get(_SAMPLE_FORMAT, ())  # type: ignore[attr-defined]
    if (image.mode, rawmode) not in _TIFF_MODES or (is_signed and image.mode == "L"):
        raise _unsupported(image)
    return _plain(image)


def _plain(image: Image) -> NDArray[Any]:
    if image.mode in _AS:
        return _plain(image.convert(_AS[image.mode]))
    if image.mode in ("RGB", "RGBA"):
        return _as_bgr(np.asarray(image))
    if image.mode in ("L", "F", "I") or image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    raise _unsupported(image)


def _rawmode(image: ImageFile) -> str:
    """Return how the file has its pixels, in Pillow's words, where the reader says so."""
    # A WebP file has no tiles until it is decoded.
    args: Any = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _deep(image: ImageFile, data: bytes, rawmode: str, deadline: float | None) -> NDArray[Any]:
    """Return three or four channels of 16 bits."""
    if rawmode == "LA;16B":
        # Eight bits each of what is to Pillow four channels.
        _unpack_as(image, "RGBA")
        grey, alpha = np.moveaxis(np.asarray(image).view(">u2"), -1, 0)
        return np.stack([grey, grey, grey, alpha], -1).astype(np.uint16)
    if rawmode not in _OTHER_BYTE:
        raise _unsupported(image)
    low, _ = _open(data, deadline)
    _unpack_as(low, _OTHER_BYTE[rawmode])
    pixels = np.asarray(image).astype(np.uint16) << 8
    pixels |= np.asarray(low)
    transparent = image.info.get("transparency")
    if transparent is not None:
        alpha = np.where((pixels == transparent).all(-1), 0, 0xFFFF).astype(np.uint16)
        pixels = np.concatenate([pixels, alpha[..., None]], -1)
    return _as_bgr(pixels)


def _unpack_as(image: ImageFile, rawmode: str) -> None:
    image.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile
    ]


def _from_cmyk(inverted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return blue, green and red as OpenCV makes them of a JPEG's four inks, as they are in the file."""
    black = (255 - inverted[..., 3:]).astype(np.uint16)
    # 255 less each ink is what is there.
    return (black - (inverted[..., 2::-1] * black >> 8)).astype(np.uint8)


def _as_bgr(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels[..., ::-1] if pixels.shape[-1] == 3 else pixels[..., _BGRA]


def _unsupported(image: Image) -> BadImage:
    return BadImage(f"{image.format} with pixels of mode {image.mode} is not supported")
