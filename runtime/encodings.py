"""Content encodings: gzip, deflate and zstd of requests, gzip and zstd of answers. RFC 9110, sections 8.4 and 12.5.3.

What a body inflates to is counted piece by piece, before the next is made: a few bytes may stand for gigabytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

from runtime.bodies import Take, too_large
from runtime.errors import InvalidRequest

COMPRESS_FROM = 16 << 10
"""Bytes from which an answer is compressed for who accepts it.

Less leaves in TCP's first window, ten packets, so that fewer bytes would not be there sooner. Of an answer in floats
gzip leaves 46 % at 100 MB/s and zstd 42 % at 300 MB/s, so that it pays where the network is slower than 0.4 Gbit/s and
1.4 Gbit/s. Higher levels cost three to seven times as much for another 2 to 4 %.
"""
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 1
_PIECE = 256 << 10
_ZSTD_PIECE = 512
"""Bytes that are inflated at once: 16 MiB at most, as a block of four bytes may stand for 128 KiB."""
_ZSTD_WINDOW = 8 << 20
"""Bytes; RFC 9659 lets no sender of HTTP use more."""
_WBITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
# Those of HTTP that we cannot read. Anything else is no encoding, as the utf-8 that clients say by mistake: TensorFlow
# Serving ignores it.
_UNREADABLE = ("br", "compress", "x-compress", "dcb", "dcz")
_WEIGHT = re.compile(r"\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*")


def coding_of(header: str) -> str:
    """Return gzip, deflate, zstd, or "" for a body that is not encoded, of a Content-Encoding.

    Raises:
        InvalidRequest: it is encoded in a way that we cannot read.
    """
    if not header:
        return ""
    header = header.lower()
    # Anywhere in it, as TensorFlow Serving.
    if "gzip" in header:
        return "gzip"
    codings = [coding.strip() for coding in header.split(",")]
    for coding in codings:
        if coding in _UNREADABLE:
            raise InvalidRequest(f"Content-Encoding is {coding!r}; want gzip, deflate, zstd or none")
    return next((coding for coding in codings if coding in ("deflate", "zstd")), "")


def inflate(body: bytes, coding: str, max_body: int, take: Take) -> bytes:
    """Return what a body stands for.

    A gzip file of several members and a zstd file of several frames are refused: nobody sends them, and reading
    millions of empty ones takes time without end.

    Raises:
        InvalidRequest: it is not of that coding.
        PayloadTooLarge: it stands for more than ``max_body`` bytes.
        Overloaded: see `Take`.
    """
    # As TensorFlow Serving has it.
    if not body:
        return body
    pieces, size = [], 0
    for piece in _zstd_pieces(body) if coding == "zstd" else _zlib_pieces(body, coding):
        size += len(piece)
        if size > max_body:
            raise too_large(max_body)
        take(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


def choose(accepted: str, size: int) -> str:
    """Return zstd, gzip, or "" for none, for an answer of ``size`` bytes to a client with this Accept-Encoding."""
    if not accepted or (size < COMPRESS_FROM and "q=0" not in accepted.lower()):
        return ""
    weights = {coding.strip(): _weight(weight) for coding, _, weight in map(_split, accepted.lower().split(","))}
    others = weights.get("*")
    # Acceptable unless it is said not to be, and then less welcome than any that is named.
    plain = weights.get("identity", 0.0 if others == 0 else None)
    if size < COMPRESS_FROM and plain != 0:
        return ""
    # Of two that are equally welcome zstd, which is three times as fast. Who takes anything may not know it, though.
    weight, coding = max((weights.get("gzip", others or 0.0), "gzip"), (weights.get("zstd", 0.0), "zstd"))
    return coding if weight and weight >= (plain or 0.0) else ""


def compress(content: bytes, coding: str) -> bytes:
    if coding == "gzip":
        compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _WBITS["gzip"])
        return compressor.compress(content) + compressor.flush()
    # Most clients do not know it, and a cold start should not pay for it.
    import zstandard

    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(content)


def _zlib_pieces(body: bytes, coding: str) -> Iterator[bytes]:
    inflater = zlib.decompressobj(_WBITS[coding])
    end = 0
    try:
        # In pieces also what goes in, as what is left of that is copied each time.
        while end < len(body) and not inflater.eof:
            left = body[end : end + _PIECE]
            end += len(left)
            while left and not inflater.eof:
                yield inflater.decompress(left, _PIECE)
                left = inflater.unconsumed_tail
        if not inflater.eof:
            yield inflater.flush()
    except zlib.error as exc:
        raise _not_of(coding, str(exc)) from exc
    _check_end(coding, inflater, len(body) - end)


def _zstd_pieces(body: bytes) -> Iterator[bytes]:
    import zstandard

    inflater = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj(read_across_frames=False)
    end = 0
    try:
        while end < len(body) and not inflater.eof:
            # All that these stand for is made at once.
            part = body[end : end + _ZSTD_PIECE]
            end += len(part)
            yield inflater.decompress(part)
    except zstandard.ZstdError as exc:
        raise _not_of("zstd", str(exc)) from exc
    _check_end("zstd", inflater, len(body) - end)


def _check_end(coding: str, inflater: Any, left: int) -> None:
    if not inflater.eof:
        raise _not_of(coding, "it ends too early")
    if surplus := left + len(inflater.unused_data):
        raise _not_of(coding, f"{surplus} bytes come after its end")


def _not_of(coding: str, reason: str) -> InvalidRequest:
    # TensorFlow Serving reads such a body as an empty one, and says this of it.
    text = "JSON Parse error: The document is empty at offset: 0"
    return InvalidRequest(f"{text}, as the body is not {coding}, which its Content-Encoding says: {reason}")


def _split(part: str) -> tuple[str, str, str]:
    return part.partition(";")


def _weight(parameter: str) -> float:
    match = _WEIGHT.fullmatch(parameter)
    # What makes no sense is not asked for.
    return float(match[1]) if match else float(not parameter)
