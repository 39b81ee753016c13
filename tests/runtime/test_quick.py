"""Which models are quick: those that are answered on the thread that reads, where others wait for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.engine import OpenVinoServable
from runtime.errors import DeadlineExceeded
from runtime.pool import Pool
from runtime.signature import DEFAULT_SIGNATURE
from tests.fakes import until
from tests.runtime import models
from tests.runtime.servables import NAME, HalfPlusTwo, stage

MANY = 20_000


@pytest.fixture
def servable(tmp_path: Path) -> Iterator[OpenVinoServable]:
    """Quick for a row, and not for many."""
    with models.serving(models.slow(steps=1), tmp_path, NUM_STREAMS="1") as made:
        yield made


def run(servable: OpenVinoServable, rows: int) -> None:
    servable.predict(DEFAULT_SIGNATURE, {"x": np.ones((rows, 512), np.float32)})


def become_quick(servable: OpenVinoServable) -> None:
    def is_quick() -> bool:
        run(servable, 1)
        return servable.is_quick

    until(is_quick)


def test_a_model_is_quick_once_it_has_been_several_times(servable: OpenVinoServable) -> None:
    assert not servable.is_quick
    # Not by that alone, as the first one tells little.
    run(servable, 1)
    assert not servable.is_quick
    become_quick(servable)


def test_a_model_that_becomes_slow_is_quick_no_more_until_it_is_again(servable: OpenVinoServable) -> None:
    become_quick(servable)
    for _ in range(3):
        run(servable, MANY)
    assert not servable.is_quick
    become_quick(servable)


def test_a_model_that_was_not_waited_for_is_quick_no_more(servable: OpenVinoServable) -> None:
    become_quick(servable)
    many = np.ones((MANY, 512), np.float32)
    with pytest.raises(DeadlineExceeded, match="while it ran"):
        servable.predict(DEFAULT_SIGNATURE, {"x": many}, time.monotonic() + 0.01)
    assert not servable.is_quick


def test_a_model_whose_answers_are_large_is_not_quick(tmp_path: Path) -> None:
    with models.serving(models.doubler(), tmp_path) as servable:
        for _ in range(50):
            servable.predict(DEFAULT_SIGNATURE, {"x": np.ones((20_000, 2), np.float32)})
        assert not servable.is_quick


def test_nobody_is_quick_who_has_to_wait() -> None:
    pool = Pool([1])
    assert pool.has_idle
    pool.take()
    assert not pool.has_idle
    pool.give_back(1)
    assert pool.has_idle


class Quick(HalfPlusTwo):
    is_quick = True


def test_only_what_is_loaded_is_quick_and_to_ask_loads_nothing() -> None:
    with stage(1, 2, make=Quick) as s:
        s.server.configure({NAME: s.repository}, {NAME: {"stable": 1}})
        assert not s.server.is_quick(NAME)
        assert not s.server.is_quick(NAME, 1)
        with s.server.lease(NAME):
            assert s.server.is_quick(NAME)
        assert s.server.is_quick(NAME, 2)
        assert not s.server.is_quick(NAME, 1)
        assert not s.server.is_quick(NAME, label="stable")
        with s.server.lease(NAME, 1):
            assert s.server.is_quick(NAME, 1)
            assert s.server.is_quick(NAME, label="stable")
        assert not s.server.is_quick(NAME, 3)
        assert not s.server.is_quick(NAME, label="none")
        assert not s.server.is_quick("other")
        assert s.loader.loads == [2, 1]
        s.cache.retire(s.repository.find(2))
        assert not s.server.is_quick(NAME)


def test_a_model_that_was_never_listed_is_not_quick_and_is_not_listed_for_that() -> None:
    with stage(1, make=Quick) as s:
        s.storage.before_list = lambda: pytest.fail("listed")
        assert not s.server.is_quick(NAME)
        assert not s.server.is_quick(NAME, 1)
