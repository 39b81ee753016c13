"""Any sequence of calls, by one thread, against a model of the cache that is simple enough to be read at a glance."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model_cache.cache import ModelCache
from model_cache.errors import CacheFull, LoadFailed, ModelCacheError, ModelTooLarge, StorageUnavailable
from tests.fakes import Clock, FakeLoader, Thing, until

BUDGET = 100
FAILURE_TTL = 30
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


@dataclass
class Lease:
    """A with block that has been entered and not yet left."""

    entry: Entry
    block: AbstractContextManager[Thing]
    use: AbstractContextManager[None]


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.loader = FakeLoader(SIZES)
        self.loader.estimates = ESTIMATES
        self.cache = ModelCache(self.loader, BUDGET, failure_ttl=FAILURE_TTL, clock=self.clock)
        self.entries: OrderedDict[str, Entry] = OrderedDict()
        self.retired: list[Entry] = []
        self.failures: dict[str, tuple[type[ModelCacheError], float]] = {}
        self.leases: list[Lease] = []

    @rule(key=KEYS)
    def lease(self, key: str) -> None:
        block = self.cache.lease(key)
        if error := self._lease(key):
            with pytest.raises(error):
                block.__enter__()
            return
        thing = block.__enter__()
        assert thing.key == key
        use = thing.in_use()
        use.__enter__()
        self.leases.append(Lease(self.entries[key], block, use))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self._release(self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1), label="lease")))

    @rule(key=KEYS)
    def retire(self, key: str) -> None:
        self.cache.retire(key)
        if entry := self.entries.pop(key, None):
            self.retired.append(entry)

    @rule(key=KEYS, error=st.sampled_from([LoadFailed, StorageUnavailable]))
    def break_model(self, key: str, error: type[ModelCacheError]) -> None:
        self.loader.load_errors[key] = error(f"{key} is broken")

    @rule(key=KEYS)
    def repair_model(self, key: str) -> None:
        self.loader.load_errors.pop(key, None)

    @rule(seconds=st.sampled_from([1, FAILURE_TTL - 1, FAILURE_TTL]))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def the_cache_is_as_the_model_says(self) -> None:
        story = ", ".join(f"{entry.key} loaded {entry.leases}" for entry in self.entries.values())
        assert repr(self.cache) == f"<ModelCache {self._used()}/{BUDGET} [{story}]>"
        # A load lets those who wait for it go before it closes what had to make room for more than was estimated.
        until(lambda: self.loader.present == sorted(entry.key for entry in self._present()))
        assert self.loader.violations == []

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
        assert self.loader.present == []
        assert self.loader.violations == []

    def _lease(self, key: str) -> type[ModelCacheError] | None:
        """Do in the model what a lease does, and return the error it ends with."""
        if key not in self.entries:
            if error := self._remembered(key):
                return error
            if ESTIMATES[key] > BUDGET:
                return ModelTooLarge
            idle = sum(entry.size for entry in self.entries.values() if not entry.leases)
            if self._used() - idle + ESTIMATES[key] > BUDGET:
                return CacheFull
            self._evict_until(BUDGET - ESTIMATES[key])
            if broken := self.loader.load_errors.get(key):
                assert isinstance(broken, ModelCacheError)
                self.failures[key] = type(broken), self.clock.now
                return type(broken)
            self.failures.pop(key, None)
            self.entries[key] = Entry(key, SIZES[key], leases=1)
            self._evict_until(BUDGET)
            return None
        self.entries[key].leases += 1
        self.entries.move_to_end(key)
        return None

    def _remembered(self, key: str) -> type[ModelCacheError] | None:
        error, at = self.failures.get(key, (None, 0))
        return LoadFailed if error is LoadFailed and self.clock.now - at < FAILURE_TTL else None

    def _evict_until(self, used: int) -> None:
        for entry in list(self.entries.values()):
            if self._used() > used and not entry.leases:
                del self.entries[entry.key]

    def _release(self, lease: Lease) -> None:
        lease.entry.leases -= 1
        lease.use.__exit__(None, None, None)
        lease.block.__exit__(None, None, None)

    def _present(self) -> list[Entry]:
        return [*self.entries.values(), *(entry for entry in self.retired if entry.leases)]

    def _used(self) -> int:
        return sum(entry.size for entry in self._present())


CacheMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, database=None)
TestCache = CacheMachine.TestCase
