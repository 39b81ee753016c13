"""How much memory this process has, giving back what is free of it, and what a load adds to it."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

LARGE = 16 << 20
"""Bytes from which on a block of memory goes back to the system the moment it is freed. To get one anew then costs up
to 0.3 ms for each MiB, so it is not for the arrays of every request, nor for what the JSON of an image is parsed into:
eight times its size."""
PATIENCE = 0.25
"""Seconds that a load waits for another to be measured alone: of small models, several; for a large one, hardly worth
mentioning."""
_OVERHEAD = 8 << 20
_STATM = Path("/proc/self/statm")
# mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


class Resident(NamedTuple):
    """Bytes of memory that the process has now."""

    total: int
    own: int
    """Those that are no file's: what other processes cannot have taken from it."""


def resident() -> Resident | None:
    """Return what the process has; None where the system does not tell. Takes some 10 us."""
    try:
        # proc(5): size, resident, shared, ..., in pages. Unlike smaps_rollup it is counted and not walked through.
        _, total, shared = _STATM.read_bytes().split()[:3]
    except FileNotFoundError:
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    return Resident(int(total) * page, (int(total) - int(shared)) * page)


def upper_bound(size: int) -> int:
    """Return the bytes that a model will hardly take more than, whose files have so many."""
    # The weights as mapped from the file, and once more as the plugin lays them out for its kernels, where those that
    # are stored as float16 are float32 on most CPUs.
    return 3 * size + _OVERHEAD


def trim() -> None:
    """Give back to the system what has been freed, which glibc otherwise keeps for the next who needs some."""
    malloc_trim = _libc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


@cache
def keep_little() -> None:
    """Have glibc give back large blocks when they are freed, and all that is free when it is trimmed.

    By itself it does the former only until the first is freed: it takes that for what will come again, and keeps blocks
    of up to 32 MiB. And by itself it makes an arena for each of the first threads, and `trim` leaves what is free at
    the end of an arena, if it is not the main one. Threads that have an arena already keep it.
    """
    mallopt = _libc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, 2 * LARGE)
        mallopt(_M_ARENA_MAX, 1)


@cache
def _libc(name: str) -> Callable[..., int] | None:
    # musl and macOS have neither.
    return getattr(ctypes.CDLL(None), name, None)


class Change:
    growth: int | None = None
    """Bytes by which the process's own memory has grown, negative if it has shrunk; None if that is not known."""


class Meter:
    """Measures loads and closes, which are what changes the process's memory by much. Thread-safe.

    They take turns, as two at the same time cannot be told apart; but whoever has waited for a while goes ahead, and
    then neither is measured. What requests take meanwhile is measured with it, so what comes out is to be taken within
    bounds.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        # Held by whoever has its turn.
        self._turn = threading.Lock()
        # Guards how many changes are under way, with or without a turn, and how many have begun ever.
        self._lock = threading.Lock()
        self._under_way = 0
        self._begun = 0

    @contextmanager
    def change(self) -> Iterator[Change]:
        """Measure what the with block adds to the memory that is left once the process has been trimmed."""
        change = Change()
        has_turn = self._turn.acquire(timeout=self._patience)
        with self._lock:
            is_alone = self._under_way == 0
            self._under_way += 1
            self._begun += 1
            number = self._begun
        trim()
        before = resident()
        try:
            yield change
        finally:
            trim()
            after = resident()
            with self._lock:
                self._under_way -= 1
                # Nobody was there before, and nobody has come since.
                if is_alone and number == self._begun and before and after:
                    change.growth = after.own - before.own
            if has_turn:
                self._turn.release()
