"""How much memory the process has, giving it back, and measuring what is added to it."""

from __future__ import annotations

import ctypes

import numpy as np
import psutil
import pytest

from runtime.memory import Meter, Resident, resident, trim

MIB = 1 << 20
SLACK = 4 * MIB
"""What else may come and go in this process meanwhile."""


def now() -> Resident:
    found = resident()
    assert found is not None
    return found


def test_what_the_process_has_is_what_others_say_it_has() -> None:
    told = psutil.Process().memory_info()
    assert now().total == pytest.approx(told.rss, abs=SLACK)
    assert now().own == pytest.approx(told.rss - told.shared, abs=SLACK)


def test_memory_that_is_written_to_is_the_processs_own() -> None:
    before = now()
    array = np.ones(32 * MIB, np.uint8)
    after = now()
    assert after.own - before.own == pytest.approx(array.nbytes, abs=SLACK)
    assert after.total - before.total == pytest.approx(array.nbytes, abs=SLACK)


def test_trimming_gives_back_what_was_freed_below_what_is_still_used() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    # Of a size that glibc takes from its heap, which it shortens by itself only at the end.
    size = 64 << 10
    blocks = [libc.malloc(size) for _ in range(512)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:
        libc.free(block)
    before = now().own
    trim()
    assert before - now().own > 16 * MIB
    libc.free(blocks[-1])


def test_a_change_is_measured_in_both_directions() -> None:
    meter = Meter()
    with meter.change() as change:
        array = np.ones(32 * MIB, np.uint8)
    assert change.growth == pytest.approx(array.nbytes, abs=SLACK)
    with meter.change() as change:
        del array
    assert change.growth == pytest.approx(-32 * MIB, abs=SLACK)


def test_what_is_gone_by_the_end_is_not_measured() -> None:
    with Meter().change() as change:
        np.ones(32 * MIB, np.uint8)
    assert change.growth == pytest.approx(0, abs=SLACK)


def test_of_changes_at_the_same_time_none_is_measured() -> None:
    meter = Meter()
    first, second, third = meter.change(), meter.change(), meter.change()
    changes = [first.__enter__(), second.__enter__()]
    first.__exit__(None, None, None)
    # Not with the first, but with the second.
    changes.append(third.__enter__())
    second.__exit__(None, None, None)
    third.__exit__(None, None, None)
    assert [change.growth for change in changes] == [None, None, None]
    with meter.change() as alone:
        pass
    assert alone.growth is not None


def test_a_change_that_fails_is_over_all_the_same() -> None:
    meter = Meter()
    with pytest.raises(ZeroDivisionError), meter.change():
        _ = 1 / 0
    with meter.change() as change:
        pass
    assert change.growth is not None
