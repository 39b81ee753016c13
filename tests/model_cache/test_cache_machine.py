"""Any sequence of calls against a model of the cache that is simple enough to be read at a glance.

By one thread, and a second one that waits for room whenever the first finds none.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model_cache.cache import ModelCache
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
from tests.fakes import PATIENCE, Clock, FakeLoader, Thing, until

BUDGET = 100
REMEMBERED: dict[type[ModelCacheError], int] = {
    LoadFailed: 30,
    StorageUnavailable: 2,
    StorageInterrupted: 2,
    DiskUnusable: 2,
    DiskFull: 0,
    BlobChanged: 0,
    CacheFull: 0,
    LoadPending: 0,
}
"""Seconds for which a failure is not tried again."""
# b is smaller than it is thought to be, c is larger; the last two can never be loaded, by size or by estimate.
SIZES = {"a": 10, "b": 20, "c": 50, "d": 60, "e": 101, "f": 10}
ESTIMATES = SIZES | {"b": 40, "c": 30, "f": 120}
KEYS = st.sampled_from(sorted(SIZES))


@dataclass
class Entry:
    """What the model knows of a thing that is loaded."""

    key: str
    size: int
    leases: int = 0
    leased_at: float = 0.0


@dataclass
class Lease:
    """A with block that has been entered and not yet left."""

    entry: Entry
    block: AbstractContextManager[Thing]
    use: AbstractContextManager[None]


@dataclass
class Waiter:
    """A thread that waits for room."""

    key: str
    block: AbstractContextManager[Thing]
    outcome: list[Thing | ModelCacheError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._enter)
        self.thread.start()

    def _enter(self) -> None:
        try:
            self.outcome.append(self.block.__enter__())
        except ModelCacheError as exc:
            self.outcome.append(exc)


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.loader = FakeLoader(SIZES)
        self.loader.estimates = ESTIMATES
        self.cache = ModelCache(self.loader, BUDGET, room_timeout=PATIENCE, clock=self.clock)
        self.entries: OrderedDict[str, Entry] = OrderedDict()
        self.retired: list[Entry] = []
        self.failures: dict[str, tuple[type[ModelCacheError], float]] = {}
        self.leases: list[Lease] = []
        self.waiter: Waiter | None = None

    @rule(key=KEYS)
    def lease(self, key: str) -> None:
        # With no patience, so that what finds no room says so at once.
        block = self.cache.lease(key, 0 if self._is_there_no_room(key) else None)
        if error := self._lease(key):
            with pytest.raises(error):
                block.__enter__()
        else:
            self._hold(key, block, block.__enter__())
        self._serve_waiter()

    @precondition(lambda self: not self.waiter)
    @rule(key=KEYS)
    def wait_for_room(self, key: str) -> None:
        if not self._is_there_no_room(key):
            return
        self.waiter = Waiter(key, self.cache.lease(key))
        until(lambda: repr(self.cache).endswith(" 1 waiting>"))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self._release(self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1), label="lease")))

    @rule(key=KEYS)
    def retire(self, key: str) -> None:
        self.cache.retire(key)
        if entry := self.entries.pop(key, None):
            self.retired.append(entry)
        self._serve_waiter()

    @rule(key=KEYS, error=st.sampled_from(sorted(REMEMBERED, key=str)))
    def break_model(self, key: str, error: type[ModelCacheError]) -> None:
        self.loader.load_errors[key] = error(f"{key} is broken")

    @rule(key=KEYS)
    def repair_model(self, key: str) -> None:
        self.loader.load_errors.pop(key, None)

    @rule(seconds=st.sampled_from([1, 2, 29, 30, -1, -3600]))
    def set_clock(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def the_cache_is_as_the_model_says(self) -> None:
        story = ", ".join(f"{entry.key} loaded {entry.leases}" for entry in self.entries.values())
        waiting = " 1 waiting" if self.waiter else ""
        assert repr(self.cache) == f"<ModelCache {self._used()}/{BUDGET} [{story}]{waiting}>"
        # A load lets those who wait for it go before it closes what had to make room for more than was estimated.
        until(lambda: self.loader.present == sorted(entry.key for entry in self._present()))
        assert self.loader.violations == []

    @invariant()
    def the_snapshot_is_as_the_model_says(self) -> None:
        snapshot = self.cache.snapshot()
        assert snapshot[1:3] == (BUDGET, self._used())
        assert {(held.key, held.state, held.size, held.leases, held.leased_at) for held in snapshot.holdings} == {
            (entry.key, self._state(entry), entry.size, entry.leases, entry.leased_at) for entry in self._present()
        }

    @invariant()
    def states_are_told_as_they_are(self) -> None:
        for key in SIZES:
            error, _ = self.failures.get(key, (None, 0))
            assert self.cache.is_loaded(key) == (key in self.entries)
            assert not self.cache.is_loading(key)
            assert type(self.cache.failure(key)) is (error or type(None))

    def teardown(self) -> None:
        while self.leases:
            self._release(self.leases.pop())
        self.cache.close()
        assert not self.waiter
        assert self.loader.present == []
        assert self.loader.violations == []

    def _lease(self, key: str) -> type[ModelCacheError] | None:
        """Do in the model what a lease does, and return the error it ends with."""
        if key not in self.entries:
            if error := self._remembered(key):
                return error
            if ESTIMATES[key] > BUDGET:
                self.failures[key] = ModelTooLarge, self.clock.now
                return ModelTooLarge
            if self._is_there_no_room(key):
                return CacheFull
            self._evict_until(BUDGET - ESTIMATES[key])
            if broken := self.loader.load_errors.get(key):
                assert isinstance(broken, ModelCacheError)
                # What is idle may be what takes the room that the loader has found none of.
                self._evict_until(0 if isinstance(broken, CacheFull) else BUDGET)
                self.failures[key] = type(broken), self.clock.now
                return type(broken)
            self.failures.pop(key, None)
            self.entries[key] = Entry(key, SIZES[key])
            self._evict_until(BUDGET, sparing=key)
        self.entries[key].leases += 1
        self.entries[key].leased_at = self.clock.now
        self.entries.move_to_end(key)
        return None

    def _is_there_no_room(self, key: str) -> bool:
        """Whether all that is in the way of what could be loaded is leased."""
        if key in self.entries or self._remembered(key) or ESTIMATES[key] > BUDGET:
            return False
        idle = sum(entry.size for entry in self.entries.values() if not entry.leases)
        return self._used() - idle + ESTIMATES[key] > BUDGET

    def _remembered(self, key: str) -> type[ModelCacheError] | None:
        error, at = self.failures.get(key, (None, 0.0))
        return error if error and 0 <= self.clock.now - at < REMEMBERED.get(error, 0) else None

    def _evict_until(self, used: int, sparing: str = "") -> None:
        for entry in list(self.entries.values()):
            if self._used() > used and not entry.leases and entry.key != sparing:
                del self.entries[entry.key]

    def _hold(self, key: str, block: AbstractContextManager[Thing], thing: Thing) -> None:
        assert thing.key == key
        use = thing.in_use()
        use.__enter__()
        self.leases.append(Lease(self.entries[key], block, use))

    def _release(self, lease: Lease) -> None:
        lease.entry.leases -= 1
        lease.use.__exit__(None, None, None)
        lease.block.__exit__(None, None, None)
        self._serve_waiter()

    def _serve_waiter(self) -> None:
        """Do in the model what the waiter does if there is room for it now."""
        waiter = self.waiter
        if waiter is None or self._is_there_no_room(waiter.key):
            return
        self.waiter = None
        error = self._lease(waiter.key)
        waiter.thread.join(PATIENCE)
        (outcome,) = waiter.outcome
        if error:
            assert type(outcome) is error
        else:
            assert isinstance(outcome, Thing)
            self._hold(waiter.key, waiter.block, outcome)

    def _state(self, entry: Entry) -> str:
        return "loaded" if entry is self.entries.get(entry.key) else "retired"

    def _present(self) -> list[Entry]:
        return [*self.entries.values(), *(entry for entry in self.retired if entry.leases)]

    def _used(self) -> int:
        return sum(entry.size for entry in self._present())


CacheMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, database=None)
TestCache = CacheMachine.TestCase
