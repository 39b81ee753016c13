"""The pool of infer requests: one caller each, first come first served; and a lock that many hold, or one alone."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.pool import Pool, SharedLock, receive
from tests.fakes import PATIENCE, until


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


def test_a_wait_that_is_hardly_one_comes_to_its_end() -> None:
    """One of some thousand would not, by Python's own `get` on a machine that has more to do."""
    for _ in range(5_000):
        with pytest.raises(queue.Empty):
            receive(queue.SimpleQueue[int](), 1e-6)


def test_what_has_come_is_received_without_a_wait() -> None:
    inbox: queue.SimpleQueue[int] = queue.SimpleQueue()
    inbox.put(1)
    inbox.put(2)
    assert [receive(inbox, 0), receive(inbox)] == [1, 2]


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


@pytest.fixture
def lock() -> SharedLock:
    return SharedLock()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_many_hold_it_together_and_one_alone(lock: SharedLock) -> None:
    assert lock.acquire(0, is_exclusive=False)
    assert lock.acquire(0, is_exclusive=False)
    assert not lock.acquire(0, is_exclusive=True)
    lock.release()
    assert not lock.acquire(0, is_exclusive=True)
    lock.release()
    assert lock.acquire(math.inf, is_exclusive=True)
    assert not lock.acquire(0, is_exclusive=False)
    assert not lock.acquire(0, is_exclusive=True)
    lock.release()
    assert lock.acquire(math.inf, is_exclusive=False)


def test_who_wants_it_alone_comes_before_those_who_come_later(lock: SharedLock, threads: ThreadPoolExecutor) -> None:
    lock.acquire(0, is_exclusive=False)
    alone = threads.submit(lock.acquire, PATIENCE, is_exclusive=True)
    until(lambda: lock._waiting_alone == 1)
    later = threads.submit(lock.acquire, PATIENCE, is_exclusive=False)
    assert not lock.acquire(0, is_exclusive=False)
    lock.release()
    assert alone.result()
    assert not later.done()
    lock.release()
    assert later.result()


def test_whose_time_is_over_holds_up_nobody(lock: SharedLock, threads: ThreadPoolExecutor) -> None:
    lock.acquire(0, is_exclusive=False)
    alone = threads.submit(lock.acquire, 0.05, is_exclusive=True)
    until(lambda: lock._waiting_alone == 1)
    later = threads.submit(lock.acquire, PATIENCE, is_exclusive=False)
    assert not alone.result()
    assert later.result()


def test_nobody_is_beside_who_has_it_alone(lock: SharedLock, threads: ThreadPoolExecutor) -> None:
    inside: list[bool] = []
    guard = threading.Lock()

    def work(number: int) -> None:
        is_alone = number % 3 == 0
        assert lock.acquire(PATIENCE, is_exclusive=is_alone)
        with guard:
            assert not any(inside)
            assert not (is_alone and inside)
            inside.append(is_alone)
        with guard:
            inside.remove(is_alone)
        lock.release()

    list(threads.map(work, range(600)))
