"""Image files without what is not needed of them, so that who reads their heads has little to do.

Comments, thumbnails, colour profiles and the like change no pixel here, and each costs its reader: some are unpacked to
a thousand times their size, some copied as often as there are of them. So a head is walked through first, part by part,
and no further than heads go that are meant well. What is wrong otherwise is left for the reader to find.
"""

from __future__ import annotations

import re
import struct

MAX_PARTS = 1 << 16
"""Of a file that are looked at: segments, chunks, blocks, entries."""
MAX_HEAD = 1 << 20
"""Bytes of a JPEG before its pixels, less what is left out."""
MAX_VALUES = 1 << 14
"""Of a TIFF's field, unless it has one for each strip or tile, of which there may be `MAX_PARTS`."""

_MARKER = re.compile(rb"\xff[^\0\xff]")
_SCAN, _END, _COMMENT = b"\xff\xda", b"\xff\xd9", 0xFE
# Of APP0 and APP14 libjpeg has what its colours are.
_METADATA = {*range(0xE1, 0xF0), _COMMENT} - {0xEE}
_ALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}

_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_LAST_CHUNK = b"\0\0\0\0IEND\xaeB\x60\x82"

_IMAGE, _EXTENSION = 0x2C, 0x21
_CONTROL = 0xF9

# All that says how the pixels of the first page lie, and how they are compressed.
_FIELDS = {
    *(254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
    *(332, 334, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
}
_OF_EACH_STRIP = {273, 279, 324, 325}
_TILE_SIZE = {322, 323}
_NUMBER = {(3, 1), (4, 1)}
"""One of two or four bytes, which all readers have alike."""


class BadHead(ValueError):
    """A head that no reader should be given; the message says why."""


def without_metadata(data: bytes) -> bytes:
    """Return the file as its reader is to have it.

    Raises:
        BadHead: it has too many parts, or is cut off before its pixels.
    """
    for magic, strip in _STRIPPED.items():
        if data.startswith(magic):
            try:
                return strip(data)
            # Beyond its end.
            except (IndexError, struct.error) as exc:
                raise BadHead("image file is truncated") from exc
    return data


def _jpeg(data: bytes) -> bytes:
    kept, size, frames, at = [data[:2]], 0, 0, 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, at)
        if not found or found[0] == _END:
            raise BadHead("image file is truncated")
        if found[0] == _SCAN:
            return b"".join([*kept, data[found.start() :]])
        marker, at = found[0][1], found.end()
        if marker in _ALONE:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        at += length
        if marker in _METADATA:
            continue
        kept.append(data[found.start() : at])
        size += length
        frames += marker in _FRAMES
        if size > MAX_HEAD or frames > 1:
            raise BadHead(f"it has {frames} frames and {size} bytes before its pixels; want 1, and at most {MAX_HEAD}")
    raise _too_many("segments")


def _png(data: bytes) -> bytes:
    kept, at, has_pixels = [data[:8]], 8, False
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        start, at = at, at + 12 + length
        if kind == b"IEND" or (has_pixels and kind != b"IDAT"):
            return b"".join([*kept, _LAST_CHUNK])
        if kind in _CHUNKS:
            kept.append(data[start:at])
        has_pixels |= kind == b"IDAT"
        if at >= len(data):
            # Without its end, which would be taken for pixels.
            return b"".join(kept)
    raise _too_many("chunks")


def _gif(data: bytes) -> bytes:
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    head, control, is_extension = data[:at], b"", False
    for _ in range(MAX_PARTS):
        size = data[at]
        if is_extension:
            is_extension = size > 0
            at += size + 1
        elif size == _IMAGE:
            return b"".join([head, control, data[at:]])
        elif size == _EXTENSION:
            if data[at + 1] == _CONTROL and data[at + 2] >= 4 and data[at + 3] & 1:
                # Which color is none; and not how the frame is followed by the next.
                control = bytes([_EXTENSION, _CONTROL, 4, 1, 0, 0, data[at + 6], 0])
            is_extension = True
            at += 2
        else:
            at += 1
    raise _too_many("blocks")


def _tiff(data: bytes) -> bytes:
    order = "<" if data.startswith(b"II") else ">"
    (at,) = struct.unpack_from(f"{order}L", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    kept: dict[int, bytes] = {}
    for start in range(at + 2, at + 2 + 12 * count, 12):
        field, kind, values = struct.unpack_from(f"{order}HHL", data, start)
        if field not in _FIELDS:
            continue
        if values > (MAX_PARTS if field in _OF_EACH_STRIP else MAX_VALUES):
            raise BadHead(f"field {field} has {values} values")
        if field in _TILE_SIZE and (kind, values) not in _NUMBER:
            raise BadHead(f"field {field} has {values} values of type {kind}; want a number")
        # Of several the first counts, as for those who read it.
        kept.setdefault(field, data[start : start + 12])
    # In its place, as all else is found by where it is; and no page after it.
    fields = struct.pack(f"{order}H", len(kept)) + b"".join(kept.values())
    end = at + 2 + 12 * count + 4
    return b"".join([data[:at], fields.ljust(end - at, b"\0"), data[end:]])


def _too_many(parts: str) -> BadHead:
    return BadHead(f"it has more than {MAX_PARTS} {parts}")


_STRIPPED = {b"\xff\xd8": _jpeg, b"\x89PNG": _png, b"GIF8": _gif, b"II*\0": _tiff, b"MM\0*": _tiff}
