"""What a body of JSON may cost: how many values are read one by one, by how many requests at a time, and until when.

Python's parser makes an object of each value, dozens of bytes for one or two of the body, and lets no other thread run
until it is done. So what is to go through it is counted first, in arrays of bytes, while others run.
"""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.errors import DeadlineExceeded, InvalidRequest, Overloaded

T = TypeVar("T")

MAX_VALUES = 4_000_000
"""How many values and names of members."""
MAX_CONTAINERS = 1_000_000
"""How many of the values are lists or objects, which cost four times what a number does."""
PATIENCE = 30.0
"""Seconds that a large body waits for others to be read."""
LARGE = (1 << 14) + 1
"""Values above which a body is read alone. Fewer take 6 MB at most. One of 16 KiB cannot have more, so that it may be
read where others wait: it does not wait for large ones."""
_BLOCK = 1 << 16
_ROWS = 1 << 12

# Who holds it reads a large body, and Python's collector of cycles is off: a parser that makes a million lists, none of
# them in a cycle, would have it go through all of them again and again. One at a time: no two parsers run at once
# anyway, and so there is not more in memory than what one large body becomes.
_alone = threading.RLock()


@contextmanager
def alone(body: bytes, deadline: float | None = None) -> Iterator[bool]:
    """Let a body be read value by value, if it is large when no other is; give whether it is.

    What is read of a large one should be gone, or in arrays, by the end.

    Raises:
        InvalidRequest: it has too many values.
        Overloaded: others are being read all the time.
        DeadlineExceeded: it is over.
    """
    if _count(body) <= LARGE:
        check(deadline)
        yield False
        return
    patience = PATIENCE if deadline is None else min(PATIENCE, deadline - time.monotonic())
    if not _alone.acquire(timeout=max(patience, 0)):
        check(deadline)
        raise Overloaded(f"other large bodies of JSON were being read for {PATIENCE:.0f} s")
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        check(deadline)
        yield True
    finally:
        if was_enabled:
            gc.enable()
        _alone.release()


def check(deadline: float | None) -> None:
    """Raise DeadlineExceeded if it has passed; in seconds of the monotonic clock."""
    if deadline is not None and time.monotonic() >= deadline:
        raise DeadlineExceeded("the request's time was over while its JSON was read")


def in_time(values: Iterable[T], deadline: float | None) -> Iterator[T]:
    """Go through values, looking at the deadline now and then."""
    for i, value in enumerate(values):
        if not i % _ROWS:
            check(deadline)
        yield value


def blocks(body: bytes) -> Iterator[NDArray[np.uint8]]:
    # An array of the body's size that comes and goes makes malloc give back the pages of all else on top of its heap,
    # and ask for them again next time.
    codes = np.frombuffer(body, np.uint8)
    return (codes[i : i + _BLOCK] for i in range(0, codes.size, _BLOCK))


def _count(body: bytes) -> int:
    """Return how many values and names there may be in a body; an empty list counts as if something were in it.

    Raises:
        InvalidRequest: more than may be.
    """
    values, containers = _sum(blocks(body))
    if values > MAX_VALUES or containers > MAX_CONTAINERS:
        # Perhaps most of the commas are in strings.
        values, containers = _sum(_outside_strings(body))
    if values > MAX_VALUES or containers > MAX_CONTAINERS:
        raise InvalidRequest(
            f"JSON has up to {values} values and names, of which {containers} are lists or objects; want at most "
            f"{MAX_VALUES} and {MAX_CONTAINERS} where they are other than finite numbers in lists of equal size"
        )
    return values


def _sum(parts: Iterable[NDArray[np.uint8]]) -> tuple[int, int]:
    """Return how many values and names there may be in parts of JSON, and how many lists and objects."""
    others = containers = 0
    for codes in parts:
        others += _times(",", codes) + _times(":", codes)
        containers += _times("[", codes) + _times("{", codes)
    # Each follows a comma, a colon or a bracket, but for the root.
    return others + containers + 1, containers


def _times(char: str, codes: NDArray[np.uint8]) -> int:
    return int(np.count_nonzero(codes == ord(char)))


_ESCAPED = re.compile(rb"\\*+.?", re.DOTALL)


def _outside_strings(body: bytes) -> Iterator[NDArray[np.uint8]]:
    start, in_string = 0, False
    while start < len(body):
        end = start + _BLOCK
        if body[end - 1 : end] == b"\\":
            # Not between a backslash and what it escapes.
            end = _ESCAPED.match(body, end).end()  # type: ignore[union-attr]
        # Escapes first: of the quotation marks that are left every other one ends a string.
        codes = np.frombuffer(body[start:end].replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
        is_inside = np.logical_xor.accumulate(codes == ord('"')) ^ in_string
        yield codes[~is_inside]
        in_string = bool(is_inside[-1]) if codes.size else in_string
        start = end
