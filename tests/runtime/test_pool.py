"""The pool of infer requests: one caller each, first come first served."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.pool import Pool
from tests.fakes import until


def test_each_thing_is_lent_to_one_at_a_time() -> None:
    pool = Pool([1, 2])
    assert {pool.take(), pool.take()} == {1, 2}
    with pytest.raises(TimeoutError):
        pool.take(0)
    pool.give_back(2)
    assert pool.take(0) == 2


def test_what_was_used_last_is_lent_first() -> None:
    """Its memory is still in the processor's caches."""
    pool = Pool("ab")
    first, second = pool.take(), pool.take()
    pool.give_back(second)
    pool.give_back(first)
    assert pool.take() == first


def test_whoever_has_waited_longest_comes_first() -> None:
    pool = Pool(["it"])
    pool.take()
    order: list[int] = []

    def wait(number: int) -> None:
        thing = pool.take(10)
        order.append(number)
        pool.give_back(thing)

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        until(lambda number=number: len(pool._waiting) == number + 1)  # type: ignore[misc]
    pool.give_back("it")
    # Behind all of them, although it was here to begin with.
    thing = pool.take(10)
    assert order == list(range(8))
    pool.give_back(thing)
    for thread in threads:
        thread.join()


def test_a_thing_is_never_lost_between_giving_back_and_giving_up() -> None:
    pool = Pool(["it"])

    def use(number: int) -> int:
        done = 0
        for _ in range(300):
            try:
                thing = pool.take(0.0001 * (number % 3))
            except TimeoutError:
                continue
            assert thing == "it"
            time.sleep(0.0001)
            pool.give_back(thing)
            done += 1
        return done

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(use, range(8)))
    assert pool.take(0) == "it"
    with pytest.raises(TimeoutError):
        pool.take(0)
