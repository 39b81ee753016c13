"""The cache's promises: one load at a time, leases, the budget, eviction, failures, retiring; then all at once."""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from model_cache.cache import Holding, ModelCache, Snapshot
from model_cache.errors import (
    BlobChanged,
    CacheFull,
    DiskFull,
    DiskUnusable,
    LoadFailed,
    LoadPending,
    ModelCacheError,
    ModelTooLarge,
    StorageInterrupted,
    StorageUnavailable,
)
from tests.fakes import PATIENCE, Clock, FakeLoader, Thing, no_more_threads, until

Cache = ModelCache[str, Thing]
MakeCache = Callable[..., tuple[FakeLoader, Cache]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_cache(clock: Clock) -> Iterator[MakeCache]:
    """Make caches which, closed after the test, must have closed all they loaded and have broken no promise."""
    made: list[tuple[FakeLoader, Cache]] = []

    def make(
        sizes: Mapping[str, int],
        budget: int = 100,
        room_timeout: float = 0,
        is_kept: Callable[[Thing], bool] = lambda thing: False,
    ) -> tuple[FakeLoader, Cache]:
        loader = FakeLoader(sizes, budget)
        made.append((loader, ModelCache(loader, budget, room_timeout=room_timeout, is_kept=is_kept, clock=clock)))
        return made[-1]

    yield make
    for loader, cache in made:
        cache.close()
        assert loader.violations == []
        assert loader.present == []


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def use(cache: Cache, key: str, timeout: float | None = None) -> Thing:
    """Lease and release."""
    with cache.lease(key, timeout) as thing, thing.in_use():
        return thing


def start_and_wait(pool: ThreadPoolExecutor, cache: Cache, loading: str, waiters: int) -> list[Future[Thing]]:
    """Let one thread load and others wait for it; return when all do."""
    futures = [pool.submit(use, cache, loading) for _ in range(1 + waiters)]
    until(lambda: f"[{loading} loading {1 + waiters}]" in repr(cache))
    return futures


def test_many_callers_share_one_load(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 10})
    gate = loader.hold("load a")
    futures = start_and_wait(pool, cache, "a", waiters=15)
    gate.open()
    assert len({future.result(PATIENCE) for future in futures}) == 1
    assert loader.events == ["load a"]
    assert repr(cache) == "<ModelCache 10/100 [a loaded 0]>"


def test_different_things_load_at_the_same_time(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 10, "b": 10})
    gates = [loader.hold("load a"), loader.hold("load b")]
    futures = [pool.submit(use, cache, key) for key in "ab"]
    for gate in gates:
        gate.wait_until_reached()
    for gate in gates:
        gate.open()
    assert [future.result(PATIENCE).key for future in futures] == ["a", "b"]


def test_a_hit_is_not_held_up_by_a_load(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 10, "b": 10})
    there = use(cache, "a")
    gate = loader.hold("load b")
    loading = pool.submit(use, cache, "b")
    gate.wait_until_reached()
    assert use(cache, "a") is there
    gate.open()
    loading.result(PATIENCE)


def test_waiters_share_the_failure_and_nothing_of_it_stays(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 10})
    gate = loader.hold("load a")
    loader.load_errors["a"] = ValueError("no such operator")
    futures = start_and_wait(pool, cache, "a", waiters=5)
    gate.open()
    assert [str(future.exception(PATIENCE)) for future in futures] == ["no such operator"] * 6
    assert loader.events == ["load a"]
    assert repr(cache) == "<ModelCache 0/100 []>"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_a_load_that_is_interrupted_leaves_nobody_waiting(
    make_cache: MakeCache, pool: ThreadPoolExecutor, error: BaseException
) -> None:
    loader, cache = make_cache({"a": 10})
    gate = loader.hold("load a")
    loader.load_errors["a"] = error
    futures = start_and_wait(pool, cache, "a", waiters=2)
    gate.open()
    assert all(future.exception(PATIENCE) is not None for future in futures)
    assert repr(cache) == "<ModelCache 0/100 []>"
    del loader.load_errors["a"]
    assert use(cache, "a").key == "a"


def test_a_broken_model_is_not_tried_again_for_a_while(make_cache: MakeCache, clock: Clock) -> None:
    loader, cache = make_cache({"a": 10})
    loader.load_errors["a"] = LoadFailed("no model in a")
    for _ in range(3):
        with pytest.raises(LoadFailed, match=r"^no model in a$"):
            use(cache, "a")
    clock.now += 29.9
    with pytest.raises(LoadFailed):
        use(cache, "a")
    assert loader.events == ["load a"]
    del loader.load_errors["a"]
    clock.now += 0.1
    use(cache, "a")
    assert loader.events == ["load a", "load a"]


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (LoadFailed("no model in a"), 30),
        (StorageUnavailable("no network"), 2),
        (StorageInterrupted("cut"), 2),
        (DiskUnusable("read-only"), 2),
    ],
)
def test_each_failure_is_remembered_for_its_time_and_told_as_a_memory(
    make_cache: MakeCache, clock: Clock, error: ModelCacheError, seconds: float
) -> None:
    loader, cache = make_cache({"a": 10})
    loader.load_errors["a"] = error
    with pytest.raises(type(error)) as caught:
        use(cache, "a")
    assert not caught.value.is_repeated
    clock.now += seconds - 0.1
    with pytest.raises(type(error), match=f"^{error}$") as caught:
        use(cache, "a")
    assert caught.value.is_repeated
    assert loader.events == ["load a"]
    del loader.load_errors["a"]
    clock.now += 0.1
    use(cache, "a")
    assert loader.events == ["load a", "load a"]


@pytest.mark.parametrize(
    "error",
    [
        BlobChanged("uploaded anew"),
        DiskFull("no space left"),
        CacheFull("busy"),
        LoadPending("not yet"),
        ModelTooLarge("too large for the disk"),
        RuntimeError("a bug"),
        TimeoutError(),
    ],
)
def test_what_may_be_over_by_now_is_tried_again_at_once(make_cache: MakeCache, error: Exception) -> None:
    loader, cache = make_cache({"a": 10})
    loader.load_errors["a"] = error
    with pytest.raises(type(error)):
        use(cache, "a")
    del loader.load_errors["a"]
    use(cache, "a")
    assert loader.events == ["load a", "load a"]


def test_a_clock_that_is_set_back_does_not_prolong_the_memory_of_a_failure(make_cache: MakeCache, clock: Clock) -> None:
    loader, cache = make_cache({"a": 10})
    loader.load_errors["a"] = LoadFailed("no model in a")
    with pytest.raises(LoadFailed):
        use(cache, "a")
    del loader.load_errors["a"]
    clock.now -= 3600
    use(cache, "a")
    assert loader.events == ["load a", "load a"]


def test_what_is_forgiven_is_tried_again_at_once_and_still_told(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 10})
    loader.load_errors["a"] = LoadFailed("no model in a")
    with pytest.raises(LoadFailed):
        use(cache, "a")
    cache.forgive()
    assert isinstance(cache.failure("a"), LoadFailed)
    del loader.load_errors["a"]
    use(cache, "a")
    assert loader.events == ["load a", "load a"]


def test_one_may_be_forgiven_and_others_not(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 10, "b": 10})
    for key in ("a", "b"):
        loader.load_errors[key] = LoadFailed(f"no model in {key}")
        with pytest.raises(LoadFailed):
            use(cache, key)
    loader.load_errors.clear()
    cache.forgive(lambda key: key == "a")
    use(cache, "a")
    with pytest.raises(LoadFailed, match="no model in b"):
        use(cache, "b")
    assert loader.events == ["load a", "load b", "load a"]


def test_the_last_failure_is_told_until_a_load_succeeds(make_cache: MakeCache, clock: Clock) -> None:
    loader, cache = make_cache({"a": 10, "b": 10})
    error = loader.load_errors["a"] = LoadFailed("no model in a")
    assert cache.failure("a") is None
    with pytest.raises(LoadFailed):
        use(cache, "a")
    clock.now += 1e6
    assert str(cache.failure("a")) == str(error)
    assert isinstance(cache.failure("a"), LoadFailed)
    assert cache.failure("b") is None
    del loader.load_errors["a"]
    use(cache, "a")
    assert cache.failure("a") is None


def test_a_model_known_to_be_broken_evicts_nothing(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"bad": 60, "a": 60})
    loader.load_errors["bad"] = LoadFailed("no model in bad")
    with pytest.raises(LoadFailed):
        use(cache, "bad")
    use(cache, "a")
    with pytest.raises(LoadFailed):
        use(cache, "bad")
    assert repr(cache) == "<ModelCache 60/100 [a loaded 0]>"


def test_memory_of_failures_is_bounded(make_cache: MakeCache) -> None:
    keys = [f"m{number}" for number in range(1500)]
    loader, cache = make_cache(dict.fromkeys(keys, 1))
    loader.load_errors.update((key, LoadFailed(key)) for key in keys)
    for key in keys:
        with pytest.raises(LoadFailed):
            use(cache, key)
    assert sum(cache.failure(key) is not None for key in keys) < 1200
    assert cache.failure(keys[-1]) is not None


class Body:
    """A request's body; unlike bytes it can be watched."""


def test_a_failure_does_not_keep_the_request_that_met_it(
    make_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    # pytest keeps what is logged, and that the error.
    caplog.set_level(logging.CRITICAL)
    loader, cache = make_cache({"a": 10})
    loader.load_errors["a"] = LoadFailed("no model in a")

    def fails(body: Body) -> bool:
        try:
            use(cache, "a")
        except LoadFailed:
            return True
        return False

    gc.disable()
    try:
        for _ in ("the failure itself", "the memory of it"):
            body = Body()
            watched = weakref.ref(body)
            assert fails(body)
            del body
            # At once, and not when the collector next comes by: a body may be hundreds of megabytes.
            assert watched() is None
    finally:
        gc.enable()


def test_a_leased_thing_is_never_evicted(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 60, "b": 60})
    with cache.lease("a") as thing, thing.in_use():
        with pytest.raises(CacheFull, match="b needs 60 bytes; 60 of 100"):
            use(cache, "b")
        assert repr(cache) == "<ModelCache 60/100 [a loaded 1]>"
    use(cache, "b")
    assert loader.events == ["load a", "close a", "load b"]


def test_one_of_two_leases_is_enough_to_keep_a_thing(make_cache: MakeCache) -> None:
    _, cache = make_cache({"a": 60, "b": 60})
    with cache.lease("a") as thing, thing.in_use():
        use(cache, "a")
        with pytest.raises(CacheFull):
            use(cache, "b")


def test_what_is_loading_counts_as_leased_and_used(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 60, "b": 60})
    gate = loader.hold("load a")
    loading = pool.submit(use, cache, "a")
    gate.wait_until_reached()
    assert repr(cache) == "<ModelCache 60/100 [a loading 1]>"
    with pytest.raises(CacheFull):
        use(cache, "b")
    gate.open()
    loading.result(PATIENCE)


def test_the_least_recently_leased_goes_first(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 30, "b": 30, "c": 30, "d": 30, "e": 30})
    for key in "abcad":
        use(cache, key)
    assert repr(cache) == "<ModelCache 90/100 [c loaded 0, a loaded 0, d loaded 0]>"
    use(cache, "e")
    assert loader.events[-4:] == ["close b", "load d", "close c", "load e"]


def test_recency_is_of_the_lease_not_of_its_end(make_cache: MakeCache) -> None:
    _, cache = make_cache({"a": 40, "b": 40, "c": 40})
    with cache.lease("a"):
        use(cache, "b")
    use(cache, "c")
    assert repr(cache) == "<ModelCache 80/100 [b loaded 0, c loaded 0]>"


def test_a_leased_one_is_passed_over_for_an_idle_one_leased_later(make_cache: MakeCache) -> None:
    _, cache = make_cache({"a": 40, "b": 40, "c": 40})
    with cache.lease("a") as thing, thing.in_use():
        use(cache, "b")
        use(cache, "c")
        assert repr(cache) == "<ModelCache 80/100 [a loaded 1, c loaded 0]>"


def test_what_is_kept_is_passed_over_though_nobody_leases_it(make_cache: MakeCache) -> None:
    kept = {"a"}
    loader, cache = make_cache({"a": 50, "b": 50, "c": 50, "d": 100}, is_kept=lambda thing: thing.key in kept)
    for key in "abc":
        use(cache, key)
    assert loader.events == ["load a", "load b", "close b", "load c"]
    with pytest.raises(CacheFull):
        use(cache, "d")
    assert cache.is_loaded("c")
    kept.clear()
    use(cache, "d")
    assert not cache.is_loaded("a")


def test_who_waits_for_room_gets_that_of_what_is_kept_no_more(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    kept = {"a"}
    _, cache = make_cache({"a": 100, "b": 100}, room_timeout=PATIENCE, is_kept=lambda thing: thing.key in kept)
    use(cache, "a")
    waiting = pool.submit(use, cache, "b")
    until(lambda: "1 waiting" in repr(cache))
    use(cache, "a")
    assert not waiting.done()
    with cache.lease("a"):
        kept.clear()
    assert waiting.result(PATIENCE / 2).key == "b"


def test_who_waits_for_room_is_told_of_what_ceases_to_be_kept_though_nobody_uses_it(
    make_cache: MakeCache, pool: ThreadPoolExecutor
) -> None:
    kept = {"a"}
    _, cache = make_cache({"a": 100, "b": 100}, room_timeout=PATIENCE, is_kept=lambda thing: thing.key in kept)
    use(cache, "a")
    waiting = pool.submit(use, cache, "b")
    until(lambda: "1 waiting" in repr(cache))
    cache.look_again()
    assert not waiting.done()
    kept.clear()
    cache.look_again()
    assert waiting.result(PATIENCE / 2).key == "b"


def test_what_is_kept_is_no_room_for_who_waits_first(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    sizes = {"kept": 50, "leased": 50, "large": 60, "small": 50}
    _, cache = make_cache(sizes, room_timeout=PATIENCE, is_kept=lambda thing: thing.key == "kept")
    use(cache, "kept")
    with cache.lease("leased"):
        large = pool.submit(use, cache, "large")
        until(lambda: "1 waiting" in repr(cache))
        small = pool.submit(use, cache, "small")
        until(lambda: "2 waiting" in repr(cache))
    assert small.result(PATIENCE / 2).key == "small"
    cache.retire("kept")
    assert large.result(PATIENCE / 2).key == "large"


def test_what_is_kept_retires_all_the_same(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 50}, is_kept=lambda thing: True)
    use(cache, "a")
    cache.retire("a")
    assert loader.events == ["load a", "close a"]


def test_what_is_kept_does_not_retire_where_that_counts(make_cache: MakeCache) -> None:
    kept = {"a"}
    loader, cache = make_cache({"a": 40, "b": 40}, is_kept=lambda thing: thing.key in kept)
    for key in ("a", "b"):
        use(cache, key)
    assert cache.retire("a", unless_kept=True)
    assert not cache.retire("b", unless_kept=True)
    # It is not there.
    assert not cache.retire("b", unless_kept=True)
    assert loader.present == ["a"]
    kept.clear()
    assert not cache.retire("a", unless_kept=True)
    assert loader.present == []


def test_no_more_is_evicted_than_has_to_be(make_cache: MakeCache) -> None:
    _, cache = make_cache({"a": 30, "b": 30, "c": 30, "d": 40})
    for key in "abcd":
        use(cache, key)
    assert repr(cache) == "<ModelCache 100/100 [b loaded 0, c loaded 0, d loaded 0]>"


def test_a_thing_as_large_as_the_budget_fits_it(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 1, "all": 100})
    use(cache, "a")
    use(cache, "all")
    assert loader.events == ["load a", "close a", "load all"]


def test_a_thing_larger_than_the_budget_is_refused_and_evicts_nothing(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 50, "b": 101})
    use(cache, "a")
    with pytest.raises(ModelTooLarge, match="b needs 101 bytes; the whole budget is 100"):
        use(cache, "b")
    assert loader.events == ["load a"]


def test_when_evicting_all_that_is_idle_would_not_do_nothing_is_evicted(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"idle": 20, "a": 60, "b": 60})
    use(cache, "idle")
    with cache.lease("a"), pytest.raises(CacheFull):
        use(cache, "b")
    assert loader.events == ["load idle", "load a"]


def test_refusals_are_not_failures_of_the_model(make_cache: MakeCache) -> None:
    _, cache = make_cache({"a": 60, "b": 60})
    with cache.lease("a"), pytest.raises(CacheFull):
        use(cache, "b")
    assert cache.failure("b") is None
    use(cache, "b")


def waiting(cache: Cache, number: int) -> bool:
    return repr(cache).endswith(f"] {number} waiting>")


def test_a_load_for_which_there_is_no_room_waits_for_it(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 60, "b": 60}, room_timeout=PATIENCE)
    with cache.lease("a") as thing, thing.in_use():
        waiter = pool.submit(use, cache, "b")
        until(lambda: waiting(cache, 1))
        assert repr(cache) == "<ModelCache 60/100 [a loaded 1] 1 waiting>"
    assert waiter.result(PATIENCE).key == "b"
    assert loader.events == ["load a", "close a", "load b"]
    assert repr(cache) == "<ModelCache 60/100 [b loaded 0]>"


@pytest.mark.parametrize(("room_timeout", "timeout"), [(0.05, None), (0.05, PATIENCE), (PATIENCE, 0.05), (PATIENCE, 0)])
def test_whoever_waits_for_room_in_vain_leaves_nothing_behind(
    make_cache: MakeCache, room_timeout: float, timeout: float | None
) -> None:
    loader, cache = make_cache({"a": 60, "b": 60}, room_timeout=room_timeout)
    with cache.lease("a") as thing, thing.in_use():
        with pytest.raises(CacheFull, match="b needs 60 bytes; 60 of 100"):
            use(cache, "b", timeout)
        assert repr(cache) == "<ModelCache 60/100 [a loaded 1]>"
    assert repr(cache) == "<ModelCache 60/100 [a loaded 0]>"
    assert loader.events == ["load a"]


def test_the_wait_for_room_is_part_of_a_callers_patience(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 60, "b": 60}, room_timeout=PATIENCE)
    gate = loader.hold("load b")
    with cache.lease("a"):
        waiter = pool.submit(use, cache, "b", 0.3)
        until(lambda: waiting(cache, 1))
    with pytest.raises(LoadPending, match=r"b is still loading after 0\.3 s"):
        waiter.result(PATIENCE)
    gate.open()
    until(lambda: cache.is_loaded("b"))


def test_what_is_too_large_does_not_wait(make_cache: MakeCache) -> None:
    _, cache = make_cache({"a": 60, "b": 101}, room_timeout=PATIENCE)
    with cache.lease("a"), pytest.raises(ModelTooLarge):
        use(cache, "b")


def test_all_who_wait_for_room_for_the_same_thing_share_one_load(
    make_cache: MakeCache, pool: ThreadPoolExecutor
) -> None:
    loader, cache = make_cache({"a": 60, "b": 60}, room_timeout=PATIENCE)
    gate = loader.hold("load b")
    with cache.lease("a"):
        waiters = [pool.submit(use, cache, "b") for _ in range(8)]
        until(lambda: waiting(cache, 8))
    # From now on they wait for the load, for which they have more patience.
    until(lambda: repr(cache) == "<ModelCache 60/100 [b loading 8]>")
    gate.open()
    assert len({waiter.result(PATIENCE) for waiter in waiters}) == 1
    assert loader.events == ["load a", "close a", "load b"]


def test_all_who_wait_for_room_for_the_same_thing_share_its_failure(
    make_cache: MakeCache, pool: ThreadPoolExecutor
) -> None:
    loader, cache = make_cache({"a": 60, "b": 60}, room_timeout=PATIENCE)
    loader.load_errors["b"] = LoadFailed("no model in b")
    with cache.lease("a"):
        waiters = [pool.submit(use, cache, "b") for _ in range(8)]
        until(lambda: waiting(cache, 8))
    assert [str(waiter.exception(PATIENCE)) for waiter in waiters] == ["no model in b"] * 8
    assert loader.events == ["load a", "close a", "load b"]
    assert repr(cache) == "<ModelCache 0/100 []>"


def test_room_is_given_to_those_who_wait_in_the_order_they_came(
    make_cache: MakeCache, pool: ThreadPoolExecutor
) -> None:
    loader, cache = make_cache({"a": 60, "b": 60, "c": 60, "d": 60}, room_timeout=PATIENCE)
    gates = [loader.hold(f"load {key}") for key in "bcd"]
    with cache.lease("a"):
        waiters = []
        for number, key in enumerate("bcd", start=1):
            waiters.append(pool.submit(use, cache, key))
            until(lambda number=number: waiting(cache, number))  # type: ignore[misc]
    for gate, waiter, key in zip(gates, waiters, "bcd", strict=True):
        gate.wait_until_reached()
        gate.open()
        assert waiter.result(PATIENCE).key == key
    assert [event for event in loader.events if event.startswith("load")] == ["load a", "load b", "load c", "load d"]


def test_who_fits_does_not_wait_behind_who_does_not(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    _, cache = make_cache({"a": 60, "large": 90, "small": 30}, room_timeout=PATIENCE)
    with cache.lease("a"):
        waiter = pool.submit(use, cache, "large")
        until(lambda: waiting(cache, 1))
        assert use(cache, "small", timeout=PATIENCE).key == "small"
        assert waiting(cache, 1)
    assert waiter.result(PATIENCE).key == "large"


def test_room_of_what_retires_goes_to_who_waits_once_it_is_released(
    make_cache: MakeCache, pool: ThreadPoolExecutor
) -> None:
    loader, cache = make_cache({"a": 60, "b": 60}, room_timeout=PATIENCE)
    with cache.lease("a") as thing, thing.in_use():
        waiter = pool.submit(use, cache, "b")
        until(lambda: waiting(cache, 1))
        cache.retire("a")
        assert repr(cache) == "<ModelCache 60/100 [] 1 waiting>"
    assert waiter.result(PATIENCE).key == "b"
    assert loader.events == ["load a", "close a", "load b"]


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "is smaller than it was thought to be"])
def test_room_that_a_load_gives_back_goes_to_who_waits(
    make_cache: MakeCache, pool: ThreadPoolExecutor, fails: bool
) -> None:
    loader, cache = make_cache({"a": 30, "b": 60}, room_timeout=PATIENCE)
    loader.estimates["a"] = 60
    if fails:
        loader.load_errors["a"] = LoadFailed("no model in a")
    gate = loader.hold("load a")
    with contextlib.ExitStack() as leases:
        loading = pool.submit(leases.enter_context, cache.lease("a"))
        gate.wait_until_reached()
        waiter = pool.submit(use, cache, "b")
        until(lambda: waiting(cache, 1))
        gate.open()
        assert isinstance(loading.exception(PATIENCE), LoadFailed) == fails
        assert waiter.result(PATIENCE).key == "b"


def test_room_that_a_waiter_leaves_unused_goes_to_the_next(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 60, "b": 60, "c": 60}, room_timeout=PATIENCE)
    with cache.lease("a"):
        first = pool.submit(use, cache, "b", 0.2)
        until(lambda: waiting(cache, 1))
        second = pool.submit(use, cache, "c")
        until(lambda: waiting(cache, 2))
        assert isinstance(first.exception(PATIENCE), CacheFull)
        assert waiting(cache, 1)
    assert second.result(PATIENCE).key == "c"
    assert loader.events == ["load a", "close a", "load c"]


def test_room_that_is_left_because_of_a_failure_goes_to_the_next(
    make_cache: MakeCache, pool: ThreadPoolExecutor, clock: Clock
) -> None:
    loader, cache = make_cache({"a": 60, "bad": 60, "c": 60}, room_timeout=PATIENCE)
    loader.load_errors["bad"] = LoadFailed("no model in bad")
    # Who of them comes to know of the failure when is up to the threads.
    for _ in range(20):
        with cache.lease("a"):
            failing = [pool.submit(use, cache, "bad") for _ in range(8)]
            until(lambda: waiting(cache, 8))
            waiter = pool.submit(use, cache, "c")
            until(lambda: waiting(cache, 9))
        assert waiter.result(PATIENCE).key == "c"
        assert [str(future.exception(PATIENCE)) for future in failing] == ["no model in bad"] * 8
        clock.now += 30


def test_who_waits_for_room_joins_another_who_loads_the_same(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 50, "b": 60}, room_timeout=2 * PATIENCE)
    gate = loader.hold("load b")
    with cache.lease("a"):
        waiter = pool.submit(use, cache, "b")
        until(lambda: waiting(cache, 1))
        # To another it is smaller, as if it had shrunk in between.
        loader.estimates["b"] = loader.sizes["b"] = 50
        loading = pool.submit(use, cache, "b")
        until(lambda: repr(cache) == "<ModelCache 100/100 [a loaded 1, b loading 2]>")
        gate.open()
        assert waiter.result(PATIENCE) is loading.result(PATIENCE)
    assert loader.events == ["load a", "load b"]


def test_who_waits_for_room_begins_only_when_what_made_it_is_closed(
    make_cache: MakeCache, pool: ThreadPoolExecutor
) -> None:
    loader, cache = make_cache({"a": 60, "b": 60}, room_timeout=PATIENCE)
    closing, loading = loader.hold("close a"), loader.hold("load b")
    with contextlib.ExitStack() as leases:
        leases.enter_context(cache.lease("a"))
        waiter = pool.submit(use, cache, "b")
        until(lambda: waiting(cache, 1))
        cache.retire("a")
        releasing = pool.submit(leases.close)
        closing.wait_until_reached()
        until(lambda: repr(cache) == "<ModelCache 60/100 [b loading 1]>")
        assert not loading.reached.wait(0.1)
        closing.open()
        releasing.result(PATIENCE)
    loading.open()
    assert waiter.result(PATIENCE).key == "b"


def test_a_load_begins_only_when_its_victims_are_closed(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 60, "b": 30, "c": 90})
    use(cache, "a")
    use(cache, "b")
    gate = loader.hold("close a")
    newcomer = pool.submit(use, cache, "c")
    gate.wait_until_reached()
    assert repr(cache) == "<ModelCache 90/100 [c loading 1]>"
    assert "load c" not in loader.events
    gate.open()
    newcomer.result(PATIENCE)
    assert set(loader.events[2:4]) == {"close a", "close b"}
    assert loader.events[4:] == ["load c"]


def test_of_two_loads_neither_begins_in_the_room_of_what_the_other_still_closes(
    make_cache: MakeCache, pool: ThreadPoolExecutor
) -> None:
    loader, cache = make_cache({"a": 40, "b": 40, "c": 60, "d": 40})
    use(cache, "a")
    use(cache, "b")
    closing, loading = loader.hold("close a"), loader.hold("load d")
    first = pool.submit(use, cache, "c")
    closing.wait_until_reached()
    # Admitted: c and d are 100 of 100, by the room of a and b. But a is still there.
    second = pool.submit(use, cache, "d")
    until(lambda: "close b" in loader.events)
    assert not loading.reached.wait(0.1)
    closing.open()
    loading.open()
    assert [first.result(PATIENCE).key, second.result(PATIENCE).key] == ["c", "d"]


def test_a_load_waits_for_what_a_release_is_closing(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 60, "b": 60})
    use(cache, "a")
    closing, loading = loader.hold("close a"), loader.hold("load b")
    retiring = pool.submit(cache.retire, "a")
    closing.wait_until_reached()
    newcomer = pool.submit(use, cache, "b")
    assert not loading.reached.wait(0.1)
    closing.open()
    loading.open()
    retiring.result(PATIENCE)
    newcomer.result(PATIENCE)
    assert loader.events == ["load a", "close a", "load b"]


def test_an_estimate_too_high_is_corrected_once_loaded(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 10, "b": 50})
    loader.estimates["a"] = 90
    with cache.lease("a") as thing, thing.in_use():
        assert repr(cache) == "<ModelCache 10/100 [a loaded 1]>"
        use(cache, "b")
    cache.retire("a")
    assert repr(cache) == "<ModelCache 50/100 [b loaded 0]>"


def test_an_estimate_too_low_costs_the_idle_their_place(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"idle": 40, "kept": 10, "a": 70}, budget=100)
    loader.estimates["a"] = 50
    use(cache, "idle")
    use(cache, "kept")
    with cache.lease("a"):
        assert repr(cache) == "<ModelCache 80/100 [kept loaded 0, a loaded 1]>"
    # By the load, which lets those who wait for it go first.
    until(lambda: loader.events == ["load idle", "load kept", "load a", "close idle"])
    # The loader is the one who broke a promise.
    assert loader.violations == ["120 bytes are in use, of 100"]
    loader.violations.clear()


def test_an_estimate_of_what_failed_is_given_back(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 60, "b": 60})
    loader.load_errors["a"] = LoadFailed("no model in a")
    with pytest.raises(LoadFailed):
        use(cache, "a")
    use(cache, "b")
    assert loader.events == ["load a", "load b"]


class FilesLoader(FakeLoader):
    """What it has loaded keeps its files, and there is room for those of ``most`` things."""

    most = 2
    error: type[ModelCacheError] = CacheFull

    def load(self, key: str) -> Thing:
        if len(self.present) >= self.most:
            raise self.error(f"no room for the files of {key}")
        return super().load(key)


def test_what_is_idle_leaves_if_the_loader_finds_no_room() -> None:
    loader = FilesLoader(dict.fromkeys("abcd", 10))
    cache = ModelCache(loader, 100)
    for key in "abc":
        use(cache, key)
    assert repr(cache) == "<ModelCache 20/100 [b loaded 0, c loaded 0]>"
    with cache.lease("b"), cache.lease("c"), pytest.raises(CacheFull):
        use(cache, "d")
    assert repr(cache) == "<ModelCache 20/100 [b loaded 0, c loaded 0]>"
    cache.close()


def test_what_is_idle_stays_if_its_leaving_would_not_help() -> None:
    loader = FilesLoader(dict.fromkeys("abc", 10))
    loader.error = DiskFull
    cache = ModelCache(loader, 100)
    for key in "ab":
        use(cache, key)
    with pytest.raises(DiskFull):
        use(cache, "c")
    assert repr(cache) == "<ModelCache 20/100 [a loaded 0, b loaded 0]>"
    cache.close()


def test_an_idle_thing_is_closed_as_it_retires(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 10})
    use(cache, "a")
    cache.retire("a")
    assert loader.events == ["load a", "close a"]
    assert repr(cache) == "<ModelCache 0/100 []>"
    use(cache, "a")
    assert loader.events == ["load a", "close a", "load a"]


def test_retiring_what_is_not_there_does_nothing(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 10})
    cache.retire("a")
    assert loader.events == []


def test_a_leased_thing_that_retires_is_closed_by_the_last_one_out(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 10})
    with cache.lease("a") as first, first.in_use():
        with cache.lease("a") as second, second.in_use():
            cache.retire("a")
            assert not cache.is_loaded("a")
            # Its bytes are in use as long as it is.
            assert repr(cache) == "<ModelCache 10/100 []>"
        assert loader.events == ["load a"]
    assert loader.events == ["load a", "close a"]
    assert repr(cache) == "<ModelCache 0/100 []>"


def test_a_lease_after_retiring_gets_a_new_thing(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 10})
    with cache.lease("a") as old, old.in_use():
        cache.retire("a")
        with cache.lease("a") as new, new.in_use():
            assert new is not old
            assert repr(cache) == "<ModelCache 20/100 [a loaded 1]>"
    assert loader.events == ["load a", "load a", "close a"]
    assert repr(cache) == "<ModelCache 10/100 [a loaded 0]>"


def test_what_retires_while_it_loads_serves_those_who_wait_and_is_closed(
    make_cache: MakeCache, pool: ThreadPoolExecutor
) -> None:
    loader, cache = make_cache({"a": 10})
    gate = loader.hold("load a")
    futures = start_and_wait(pool, cache, "a", waiters=3)
    cache.retire("a")
    assert not cache.is_loading("a")
    gate.open()
    assert len({future.result(PATIENCE) for future in futures}) == 1
    assert loader.events == ["load a", "close a"]
    assert repr(cache) == "<ModelCache 0/100 []>"


def test_what_retires_while_it_loads_and_then_fails_is_gone(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 10})
    gate = loader.hold("load a")
    loader.load_errors["a"] = StorageUnavailable("gone")
    futures = start_and_wait(pool, cache, "a", waiters=3)
    cache.retire("a")
    gate.open()
    assert [str(future.exception(PATIENCE)) for future in futures] == ["gone"] * 4
    assert repr(cache) == "<ModelCache 0/100 []>"


def test_a_caller_whose_patience_is_over_leaves_the_load_going(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 10})
    gate = loader.hold("load a")
    loading = pool.submit(use, cache, "a")
    gate.wait_until_reached()
    with pytest.raises(LoadPending, match=r"a is still loading after 0\.01 s"):
        use(cache, "a", timeout=0.01)
    assert repr(cache) == "<ModelCache 10/100 [a loading 1]>"
    gate.open()
    thing = loading.result(PATIENCE)
    assert use(cache, "a", timeout=0) is thing
    assert loader.events == ["load a"]


def test_the_patience_of_the_first_caller_ends_too_and_the_next_one_gets_what_it_began(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 10, "b": 100})
    gate = loader.hold("load a")
    with pytest.raises(LoadPending, match=r"a is still loading after 0\.01 s"):
        use(cache, "a", timeout=0.01)
    assert repr(cache) == "<ModelCache 10/100 [a loading 0]>"
    # Though nobody waits for it.
    with pytest.raises(CacheFull):
        use(cache, "b")
    gate.open()
    until(lambda: cache.is_loaded("a"))
    assert repr(cache) == "<ModelCache 10/100 [a loaded 0]>"
    assert use(cache, "a", timeout=0).key == "a"
    assert loader.events == ["load a"]
    use(cache, "b")
    assert loader.events == ["load a", "close a", "load b"]


def test_a_load_that_fails_with_nobody_waiting_is_remembered_all_the_same(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 10})
    gate = loader.hold("load a")
    loader.load_errors["a"] = LoadFailed("no model in a")
    with pytest.raises(LoadPending):
        use(cache, "a", timeout=0.01)
    gate.open()
    until(lambda: not cache.is_loading("a"))
    with pytest.raises(LoadFailed, match=r"^no model in a$"):
        use(cache, "a")
    assert loader.events == ["load a"]
    assert repr(cache) == "<ModelCache 0/100 []>"


def test_what_retires_while_it_loads_with_nobody_waiting_is_closed(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 10})
    gate = loader.hold("load a")
    with pytest.raises(LoadPending):
        use(cache, "a", timeout=0.01)
    cache.retire("a")
    gate.open()
    until(lambda: loader.events == ["load a", "close a"])
    until(lambda: repr(cache) == "<ModelCache 0/100 []>")


def test_a_load_that_cannot_even_begin_is_an_error_and_leaves_nothing(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"old": 60, "a": 60})
    use(cache, "old")
    with no_more_threads(), pytest.raises(RuntimeError, match="can't start new thread"):
        use(cache, "a", timeout=PATIENCE)
    assert repr(cache) == "<ModelCache 0/100 []>"
    assert use(cache, "a", timeout=PATIENCE).key == "a"
    assert loader.events == ["load old", "close old", "load a"]


def test_a_load_that_itself_times_out_is_no_lack_of_patience(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 10})
    gate = loader.hold("load a")
    loader.load_errors["a"] = TimeoutError("the driver did not answer")
    loading = pool.submit(use, cache, "a", PATIENCE)
    gate.wait_until_reached()
    waiting = pool.submit(use, cache, "a", PATIENCE)
    until(lambda: "[a loading 2]" in repr(cache))
    gate.open()
    for future in (loading, waiting):
        assert str(future.exception(PATIENCE)) == "the driver did not answer"


def test_what_goes_on_in_a_cache_can_be_read_from_its_repr(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"resnet/1": 40, "resnet/2": 40, "bert/7": 50})
    assert repr(cache) == "<ModelCache 0/100 []>"
    use(cache, "resnet/1")
    assert repr(cache) == "<ModelCache 40/100 [resnet/1 loaded 0]>"
    gate = loader.hold("load resnet/2")
    loading = pool.submit(use, cache, "resnet/2")
    gate.wait_until_reached()
    assert repr(cache) == "<ModelCache 80/100 [resnet/1 loaded 0, resnet/2 loading 1]>"
    with cache.lease("resnet/1"):
        assert repr(cache) == "<ModelCache 80/100 [resnet/2 loading 1, resnet/1 loaded 1]>"
        gate.open()
        loading.result(PATIENCE)
        assert repr(cache) == "<ModelCache 80/100 [resnet/2 loaded 0, resnet/1 loaded 1]>"
        use(cache, "bert/7")
        assert repr(cache) == "<ModelCache 90/100 [resnet/1 loaded 1, bert/7 loaded 0]>"
    cache.retire("bert/7")
    assert repr(cache) == "<ModelCache 40/100 [resnet/1 loaded 0]>"


def test_a_snapshot_tells_of_all_that_is_there(make_cache: MakeCache, pool: ThreadPoolExecutor, clock: Clock) -> None:
    loader, cache = make_cache({"idle": 10, "leased": 20, "gone": 30, "coming": 40})
    assert cache.snapshot() == Snapshot([], 100, 0)
    idle = use(cache, "idle")
    clock.now += 1
    gate = loader.hold("load coming")
    with cache.lease("leased") as leased, cache.lease("leased"), cache.lease("gone") as gone:
        cache.retire("gone")
        clock.now += 1
        loading = pool.submit(use, cache, "coming")
        gate.wait_until_reached()
        assert cache.snapshot() == Snapshot(
            [
                Holding("idle", "loaded", 10, 0, clock.now - 2, idle),
                Holding("leased", "loaded", 20, 2, clock.now - 1, leased),
                Holding("coming", "loading", 40, 1, clock.now, None),
                Holding("gone", "retired", 30, 1, clock.now - 1, gone),
            ],
            budget=100,
            used=100,
        )
    gate.open()
    loading.result(PATIENCE)
    assert [holding.key for holding in cache.snapshot().holdings] == ["idle", "leased", "coming"]


@pytest.mark.parametrize("fails", [True, False])
def test_what_retires_while_it_loads_is_in_the_snapshot_until_it_is_gone(
    make_cache: MakeCache, pool: ThreadPoolExecutor, fails: bool
) -> None:
    loader, cache = make_cache({"a": 10})
    if fails:
        loader.load_errors["a"] = LoadFailed("no model in a")
    gate = loader.hold("load a")
    loading = pool.submit(use, cache, "a")
    gate.wait_until_reached()
    cache.retire("a")
    (holding,) = cache.snapshot().holdings
    assert holding[:4] == ("a", "retired", 10, 1)
    gate.open()
    assert isinstance(loading.exception(PATIENCE), LoadFailed) == fails
    assert cache.snapshot() == Snapshot([], 100, 0)


def test_who_waits_for_a_load_is_counted(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 10})
    assert cache.waiting("a") == 0
    gate = loader.hold("load a")
    first = pool.submit(use, cache, "a")
    gate.wait_until_reached()
    assert cache.waiting("a") == 1
    second = pool.submit(use, cache, "a")
    until(lambda: cache.waiting("a") == 2)
    gate.open()
    first.result(PATIENCE)
    second.result(PATIENCE)
    with cache.lease("a"):
        assert cache.waiting("a") == 0


def test_states_are_told_as_they_are(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    loader, cache = make_cache({"a": 10})
    assert (cache.is_loading("a"), cache.is_loaded("a")) == (False, False)
    gate = loader.hold("load a")
    loading = pool.submit(use, cache, "a")
    gate.wait_until_reached()
    assert (cache.is_loading("a"), cache.is_loaded("a")) == (True, False)
    gate.open()
    loading.result(PATIENCE)
    assert (cache.is_loading("a"), cache.is_loaded("a")) == (False, True)


def test_close_closes_the_idle_at_once_and_the_others_as_they_are_released(
    make_cache: MakeCache, pool: ThreadPoolExecutor
) -> None:
    loader, cache = make_cache({"idle": 10, "leased": 10, "loading": 10})
    use(cache, "idle")
    gate = loader.hold("load loading")
    loading = pool.submit(use, cache, "loading")
    gate.wait_until_reached()
    with cache.lease("leased") as thing, thing.in_use():
        cache.close()
        assert loader.present == ["leased", "loading"]
    assert loader.present == ["loading"]
    gate.open()
    loading.result(PATIENCE)
    assert loader.present == []


def test_close_closes_all_even_if_one_of_them_cannot_be(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 10, "b": 10, "c": 10})
    for key in "abc":
        use(cache, key)
    loader.close_errors["a"] = OSError("the files are gone")
    with contextlib.suppress(OSError):
        cache.close()
    assert loader.present == []


def test_a_victim_that_cannot_be_closed_neither_fails_the_newcomer_nor_keeps_its_room(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 30, "b": 30, "c": 90})
    use(cache, "a")
    use(cache, "b")
    loader.close_errors.update(a=OSError("the files are gone"), b=OSError("the files are gone"))
    assert use(cache, "c").key == "c"
    assert set(loader.events[2:4]) == {"close a", "close b"}
    assert repr(cache) == "<ModelCache 90/100 [c loaded 0]>"


def test_what_was_done_with_a_lease_is_not_undone_by_a_close_that_fails(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 30})
    loader.close_errors["a"] = OSError("the files are gone")
    with cache.lease("a"):
        cache.retire("a")
    assert loader.present == []


def test_a_body_that_raises_gives_its_lease_back(make_cache: MakeCache) -> None:
    _, cache = make_cache({"a": 10})
    with pytest.raises(ZeroDivisionError), cache.lease("a"):
        _ = 1 / 0
    assert repr(cache) == "<ModelCache 10/100 [a loaded 0]>"


class Onlooker(logging.Handler):
    """Asks, with every record, whether the cache can be used at that moment."""

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self.records: list[str] = []
        self.stuck: list[str] = []
        self._cache = cache

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())
        other = threading.Thread(target=repr, args=(self._cache,))
        other.start()
        other.join(0.5)
        if other.is_alive():
            self.stuck.append(record.getMessage())


def test_a_slow_log_holds_up_nobody_but_who_writes_it(make_cache: MakeCache) -> None:
    loader, cache = make_cache({"a": 60, "b": 60, "bad": 60})
    loader.load_errors["bad"] = LoadFailed("no model in bad")
    onlooker = Onlooker(cache)
    logger = logging.getLogger("model_cache.cache")
    before = logger.level
    logger.addHandler(onlooker)
    logger.setLevel(logging.DEBUG)
    try:
        use(cache, "a")
        use(cache, "b")
        with pytest.raises(LoadFailed):
            use(cache, "bad")
    finally:
        logger.removeHandler(onlooker)
        logger.setLevel(before)
    assert any("evicting a" in record for record in onlooker.records)
    assert onlooker.stuck == []


@pytest.fixture
def restless_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


SIZES = {"a": 10, "b": 20, "c": 30, "d": 40, "e": 45, "huge": 101}


def hammer(loader: FakeLoader, cache: Cache, clock: Clock, seed: int, rounds: int, retiring: bool) -> set[str]:
    """Do a bit of everything, and return what came of it."""
    dice = random.Random(seed)
    outcomes = set()
    for _ in range(rounds):
        keys = [dice.choice("aaabbcde") if dice.random() < 0.99 else "huge" for _ in range(dice.choice([1, 1, 2, 3]))]
        if retiring and dice.random() < 0.1:
            cache.retire(keys[0])
        clock.now += dice.choice([0, 0, 0, 1, 3, 40, -40])
        try:
            with contextlib.ExitStack() as leases:
                for key in keys:
                    thing = leases.enter_context(cache.lease(key, dice.choice([None, 0, 0.001, PATIENCE])))
                    leases.enter_context(thing.in_use())
                    loader.expect(thing.key == key, f"{thing} was handed out for {key}")
                    used = cache.snapshot().used
                    loader.expect(used <= 100, f"{used} bytes are accounted for, of 100")
            outcomes.add("used")
        except ModelCacheError as exc:
            outcomes.add(type(exc).__name__)
    return outcomes


@pytest.mark.usefixtures("restless_threads")
@pytest.mark.parametrize("room_timeout", [0, 0.01])
@pytest.mark.parametrize("retiring", [False, True], ids=["leasing", "leasing and retiring"])
def test_no_promise_is_broken_by_many_threads(
    make_cache: MakeCache, pool: ThreadPoolExecutor, clock: Clock, retiring: bool, room_timeout: float
) -> None:
    loader, cache = make_cache(SIZES, room_timeout=room_timeout)
    loader.duration = 1e-4
    # What has retired while loading may load anew beside it.
    loader.may_load_twice_at_once = retiring
    loader.load_errors["e"] = StorageUnavailable("no network")
    loader.estimates.update(a=15, c=35)
    threads = [pool.submit(hammer, loader, cache, clock, seed, 400, retiring) for seed in range(8)]
    outcomes = set().union(*(thread.result(45) for thread in threads))
    # These happen even if the threads happen to run one after the other.
    assert outcomes >= {"used", "CacheFull", "ModelTooLarge", "StorageUnavailable"}
    assert outcomes <= {"used", "CacheFull", "ModelTooLarge", "StorageUnavailable", "LoadPending"}
    assert loader.violations == []
    until(lambda: is_at_rest(loader, cache))


@pytest.mark.usefixtures("restless_threads")
def test_whoever_waits_for_room_gets_it_in_the_end(make_cache: MakeCache, pool: ThreadPoolExecutor) -> None:
    # Each needs all of it, and nobody more than one: a call that is lost would leave all who are left waiting.
    keys = "abcdefgh"
    loader, cache = make_cache(dict.fromkeys(keys, 100), room_timeout=PATIENCE)

    def use_often(key: str) -> int:
        return sum(use(cache, key).key == key for _ in range(50))

    assert list(pool.map(use_often, keys)) == [50] * len(keys)
    assert loader.violations == []
    until(lambda: is_at_rest(loader, cache, dict.fromkeys(keys, 100)))


def is_at_rest(loader: FakeLoader, cache: Cache, sizes: Mapping[str, int] = SIZES) -> bool:
    """Whether the cache's account of what is left is the loader's, and nobody has a lease."""
    story, left = repr(cache), loader.present
    entries = filter(None, story[story.index("[") + 1 : -2].split(", "))
    used = sum(sizes[key] for key in left)
    return story.startswith(f"<ModelCache {used}/100 [") and sorted(entries) == [f"{key} loaded 0" for key in left]
