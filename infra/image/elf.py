"""Programs and shared libraries in ELF, 64 bits and little-endian as both architectures' are.

Format: the System V ABI's chapters 4 and 5, https://gabi.xinuos.com.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MAGIC = b"\x7fELF\x02\x01"
_HEADER_SIZE = 64
_PT_INTERP = 3


class Segment(NamedTuple):
    kind: int
    start: int
    end: int
    """Offsets in the file."""


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def interpreter(program: Path) -> Path:
    """Return the dynamic linker that a program names."""
    content = program.read_bytes()
    segment = next(segment for segment in segments(content) if segment.kind == _PT_INTERP)
    return Path(content[segment.start : segment.end].rstrip(b"\0").decode())


def segments(content: bytes | bytearray) -> Iterator[Segment]:
    start, size, count = _program_headers(content)
    for offset in range(start, start + size * count, size):
        kind, begin, length = struct.unpack_from("<I4xQ16xQ", content, offset)
        yield Segment(kind, begin, begin + length)


def strip(path: Path) -> None:
    """Drop what is for linkers and debuggers only: all that no program header covers, and the section headers.

    The dynamic linker reads program headers alone. What lies between segments is zeroed and not cut out, as nothing
    may move; zeros compress to nothing.
    """
    content = bytearray(path.read_bytes())
    start, size, count = _program_headers(content)
    used = [(0, _HEADER_SIZE), (start, start + size * count)]
    used += [(segment.start, segment.end) for segment in segments(content)]
    end = 0
    for begin, until in sorted(used):
        if begin > end:
            content[end:begin] = bytes(begin - end)
        end = max(end, until)
    del content[end:]
    struct.pack_into("<Q", content, 40, 0)  # e_shoff
    struct.pack_into("<3H", content, 58, 0, 0, 0)  # e_shentsize, e_shnum, e_shstrndx
    path.write_bytes(content)


def _program_headers(content: bytes | bytearray) -> tuple[int, int, int]:
    """Return their offset, the size of one, and how many there are."""
    (start,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<2H", content, 54)
    return start, size, count
