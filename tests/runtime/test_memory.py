"""How much memory the process has, giving it back, and measuring what is added to it."""

from __future__ import annotations

import psutil
import pytest

from runtime.memory import Meter
from tests.alone import alone
from tests.runtime import measured
from tests.runtime.measured import MIB, now

SLACK = 4 * MIB
"""What else may come and go in a process meanwhile."""


def test_what_the_process_has_is_what_others_say_it_has() -> None:
    told = psutil.Process().memory_info()
    assert now().total == pytest.approx(told.rss, abs=SLACK)
    assert now().own == pytest.approx(told.rss - told.shared, abs=SLACK)


def test_memory_that_is_written_to_is_the_processs_own() -> None:
    before, after = alone(measured.an_array, 32 * MIB)
    assert after.own - before.own == pytest.approx(32 * MIB, abs=SLACK)
    assert after.total - before.total == pytest.approx(32 * MIB, abs=SLACK)


def test_trimming_gives_back_what_was_freed_below_what_is_still_used() -> None:
    assert alone(measured.trimming) > 16 * MIB


def test_a_change_is_measured_in_both_directions() -> None:
    coming, going, both = alone(measured.changes, 32 * MIB)
    assert coming == pytest.approx(32 * MIB, abs=SLACK)
    assert going == pytest.approx(-32 * MIB, abs=SLACK)
    # What is gone by the end is not measured.
    assert both == pytest.approx(0, abs=SLACK)


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
