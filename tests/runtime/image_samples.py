"""Image files of many kinds, by name: what OpenCV, Pillow or a few lines write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 37, 53
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_ROTATED = 6


def picture(channels: int, dtype: Any = np.uint8, height: int = HEIGHT, width: int = WIDTH) -> NDArray[Any]:
    """Waves and noise, over all of the dtype's range."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([(np.sin(x / 7 + i) + np.cos(y / 5 - i) + 2) / 4 for i in range(channels)], -1)
    noisy = np.clip(waves + np.random.default_rng(0).normal(0, 0.05, waves.shape), 0, 1)
    return (noisy * np.iinfo(dtype).max).astype(dtype)


def by_opencv(extension: str, pixels: NDArray[Any], *parameters: int) -> bytes:
    is_written, data = cv2.imencode(extension, pixels, parameters)
    assert is_written
    return data.tobytes()


def by_pillow(image: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image.squeeze())).save(file, kind, **options)
    return file.getvalue()


def png(
    pixels: NDArray[Any], color_type: int, *chunks: tuple[bytes, bytes], bits: int = 0, is_interlaced: bool = False
) -> bytes:
    """Write a PNG file by hand, each row as it is in memory; of less than eight bits the rows are packed already."""
    height, width = pixels.shape[:2]
    bits = bits or 8 * pixels.dtype.itemsize
    parts = [pixels[y::down, x::right] for y, x, down, right in _ADAM7] if is_interlaced else [pixels]
    rows = b"".join(b"\0" + np.ascontiguousarray(row).tobytes() for part in parts if part.size for row in part)
    width = width * 8 // bits if bits < 8 else width
    head = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, is_interlaced)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, data) for kind, data in ((b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bmp(bits: int, rows: bytes, height: int = HEIGHT, masks: tuple[int, ...] = ()) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, 3 if masks else 0, len(rows), 0, 0, 0, 0)
    head += b"".join(struct.pack("<I", mask) for mask in masks)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 14 + len(head)) + head + rows


def samples() -> dict[str, bytes]:
    """Return what is to come out exactly as OpenCV decodes it."""
    return dict([*_jpeg(), *_png(), *_deep_png(), *_bmp(), *_webp(), *_tiff(), *_gif()])


Samples = Iterator[tuple[str, bytes]]


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = _ROTATED
    return exif


def _palette(colors: int = 200) -> Image.Image:
    return Image.fromarray(picture(3)).quantize(colors)


def _bilevel() -> Image.Image:
    return Image.fromarray(picture(1).squeeze()).convert("1")


def _jpeg() -> Samples:
    rgb = picture(3)
    for subsampling in range(3):
        yield f"jpeg subsampling {subsampling}", by_pillow(rgb, "JPEG", subsampling=subsampling)
    yield "jpeg by OpenCV", by_opencv(".jpg", picture(3, height=480, width=641))
    yield "jpeg progressive", by_pillow(rgb, "JPEG", progressive=True)
    yield "jpeg grey", by_pillow(picture(1), "JPEG")
    yield "jpeg rotated by EXIF", by_pillow(rgb, "JPEG", exif=_exif())
    yield "jpeg cmyk", by_pillow(Image.frombytes("CMYK", (WIDTH, HEIGHT), picture(4).tobytes()), "JPEG")


def _png() -> Samples:
    grey, rgb, rgba = picture(1), picture(3), picture(4)
    for name, pixels in (("grey", grey), ("rgb", rgb), ("rgba", rgba)):
        yield f"png {name}", by_pillow(pixels, "PNG")
    yield (
        "png grey, alpha",
        by_pillow(Image.frombytes("LA", (WIDTH, HEIGHT), np.ascontiguousarray(rgba[..., :2]).tobytes()), "PNG"),
    )
    yield "png bilevel", by_pillow(_bilevel(), "PNG")
    yield "png 2 bits", png(grey[:, :40, 0], 0, bits=2)
    yield "png 4 bits, one level none", png(grey[:, :40, 0], 0, (b"tRNS", b"\0\1"), bits=4)
    yield "png palette", by_pillow(_palette(), "PNG")
    yield "png palette of 4 bits", by_pillow(_palette(11), "PNG", bits=4)
    yield "png palette, alpha", by_pillow(_palette(), "PNG", transparency=bytes(range(200)))
    yield "png palette, one color none", by_pillow(_palette(), "PNG", transparency=3)
    yield "png rgb, one color none", by_pillow(rgb, "PNG", transparency=tuple(rgb[3, 4].tolist()))
    yield "png grey, one level none", by_pillow(grey, "PNG", transparency=int(grey[3, 4, 0]))
    yield "png interlaced", png(rgb, 2, is_interlaced=True)
    yield "png with gamma", png(rgb, 2, (b"gAMA", struct.pack(">I", 45455)), (b"sRGB", b"\0"))
    yield "png rotated by EXIF", by_pillow(rgb, "PNG", exif=_exif())
    frames = [Image.fromarray(255 - rgb)]
    yield "png of two frames", by_pillow(rgb, "PNG", save_all=True, append_images=frames)


def _deep_png() -> Samples:
    for name, channels, color_type in (("grey", 1, 0), ("rgb", 3, 2), ("grey, alpha", 2, 4), ("rgba", 4, 6)):
        pixels = picture(channels, np.uint16).astype(">u2")
        yield f"png 16 bits {name}", png(pixels, color_type)
        yield f"png 16 bits {name} interlaced", png(pixels, color_type, is_interlaced=True)
        if channels != 2:
            yield f"png 16 bits {name} by OpenCV", by_opencv(".png", picture(channels, np.uint16))
        if color_type in (0, 2):
            yield f"png 16 bits {name}, one color none", png(pixels, color_type, (b"tRNS", pixels[3, 4].tobytes()))


def _bmp() -> Samples:
    rgb, rgba = picture(3), picture(4)
    for name, pixels in (("grey", picture(1)), ("rgb", rgb), ("rgba", rgba)):
        yield f"bmp {name}", by_opencv(".bmp", pixels)
    yield "bmp palette", by_pillow(_palette(), "BMP")
    yield "bmp bilevel", by_pillow(_bilevel(), "BMP")
    yield "bmp rgb of 32 bits", bmp(32, rgba.tobytes())
    yield "bmp top down", bmp(24, b"".join(row.tobytes() + b"\0" * (-3 * WIDTH % 4) for row in rgb), -HEIGHT)
    words = picture(1, np.uint16, HEIGHT, WIDTH + 1).tobytes()
    yield "bmp 5 bits", bmp(16, words)
    yield "bmp 5, 6 and 5 bits", bmp(16, words, masks=(0xF800, 0x7E0, 0x1F))


def _webp() -> Samples:
    for name, pixels in (("rgb", picture(3)), ("rgba", picture(4))):
        yield f"webp lossless {name}", by_pillow(pixels, "WEBP", lossless=True)
        yield f"webp lossy {name}", by_pillow(pixels, "WEBP", quality=80)
        frames = [Image.fromarray(255 - pixels)]
        yield (
            f"webp {name} of two frames",
            by_pillow(pixels, "WEBP", save_all=True, append_images=frames, lossless=True),
        )


def _tiff() -> Samples:
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        for name, channels in (("grey", 1), ("rgb", 3), ("rgba", 4)):
            yield f"tiff {name} {compression}", by_pillow(picture(channels), "TIFF", compression=compression)
    yield "tiff jpeg", by_pillow(picture(3), "TIFF", compression="jpeg")
    yield "tiff bilevel", by_pillow(_bilevel(), "TIFF")
    yield "tiff fax", by_pillow(_bilevel(), "TIFF", compression="group4")
    yield "tiff palette", by_pillow(_palette(), "TIFF")
    yield "tiff rotated", by_pillow(picture(3), "TIFF", exif=_exif())
    yield (
        "tiff of two pages",
        by_pillow(picture(3), "TIFF", save_all=True, append_images=[Image.fromarray(255 - picture(3))]),
    )
    for channels in (1, 3, 4):
        yield f"tiff 16 bits {channels} channels", by_opencv(".tiff", picture(channels, np.uint16))
    uncompressed = (cv2.IMWRITE_TIFF_COMPRESSION, 1)
    yield "tiff 16 bits 3 channels raw", by_opencv(".tiff", picture(3, np.uint16), *uncompressed)
    yield "tiff 32 bits", by_pillow(picture(1, np.int32), "TIFF")
    yield "tiff floats", by_pillow((picture(1, np.uint16) / 7).astype(np.float32), "TIFF")


def _gif() -> Samples:
    yield "gif", by_pillow(_palette(), "GIF")
    yield "gif grey", by_pillow(picture(1), "GIF")
