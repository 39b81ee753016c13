"""A cache of things that are costly to load: single-flight, leases, a byte budget, eviction of the idle.

Decide under the lock, act outside it: every method that takes the lock does no I/O while it has it; loading and
closing happen between two such decisions.

The invariant that everything rests on: a lease is counted where it is decided, and a caller waiting for a load has
one. So an entry without leases is loaded and nobody is about to use it, and only such an entry is ever evicted.

Whoever waits for room has no entry and no lease yet, only a place in the queue: it is decided anew, from the beginning
and under the lock, each time there may be room.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

from cachetools import LRUCache

from model_cache.errors import (
    BlobChanged,
    CacheFull,
    DiskFull,
    DiskUnusable,
    LoadFailed,
    LoadPending,
    ModelCacheError,
    ModelTooLarge,
    StorageUnavailable,
)
from model_cache.timeline import timeline

logger = logging.getLogger(__name__)

FAILURE_TTL = 30.0
"""Seconds for which a broken model is not loaded again: compiling it costs as much as compiling a good one."""
OUTAGE_TTL = 2.0
"""Seconds for which what could not be reached is not tried again: each try has its own retries and waits, and all the
requests that come meanwhile would begin one after the other what has just failed."""
ROOM_TIMEOUT = 10.0
"""Seconds to wait for others to end their leases, if everything that is in the way of a load is leased."""
_FAILURES = 1024

REMEMBERED: Mapping[type[ModelCacheError], float] = {
    LoadFailed: FAILURE_TTL,
    StorageUnavailable: OUTAGE_TTL,
    DiskUnusable: OUTAGE_TTL,
    # What was listed has changed; listed anew it is another key, and good for all that is known.
    BlobChanged: 0.0,
    # Found out before the first byte, at no cost.
    DiskFull: 0.0,
}
"""Seconds for which a failed load is not tried again, by its error or the nearest base of it.

Errors that are not here are not remembered: what is too large, too full or pending is decided anew at no cost, and a
bug tells nothing of the model.
"""


class Resident(Protocol):
    """What the cache holds: it occupies ``size`` bytes until `close`, which is called once and by nobody else."""

    size: int

    def close(self) -> None: ...


K = TypeVar("K", bound=Hashable)
K_contra = TypeVar("K_contra", bound=Hashable, contravariant=True)
T = TypeVar("T", bound=Resident)
T_co = TypeVar("T_co", bound=Resident, covariant=True)


class Loader(Protocol[K_contra, T_co]):
    def estimate(self, key: K_contra, /) -> int:
        """Return what the loaded thing will occupy in bytes, or an upper bound of that. Cheap, no I/O."""
        ...

    def load(self, key: K_contra, /) -> T_co: ...


class Failure(NamedTuple):
    error: ModelCacheError
    at: float


class Holding(NamedTuple, Generic[K, T]):
    """One thing in a cache, at one moment."""

    key: K
    state: Literal["loading", "loaded", "retired"]
    """``retired`` is what gets no more leases and is closed when the last one ends."""
    size: int
    leases: int
    """Callers that use it or wait for it."""
    leased_at: float
    """When the last lease began, in seconds since the epoch."""
    value: T | None
    """To be looked at and not to be used, as it may be closed at any moment. None while it loads."""


class Snapshot(NamedTuple, Generic[K, T]):
    holdings: list[Holding[K, T]]
    """Least recently leased first, then the retired."""
    budget: int
    used: int
    evictions: int = 0
    """Since the cache is there."""


class _Entry(Generic[K, T]):
    __slots__ = ("future", "is_loaded", "is_retired", "key", "leased_at", "leases", "size", "value")

    value: T
    """There once ``is_loaded``."""

    def __init__(self, key: K, size: int) -> None:
        self.key = key
        self.size = size
        # Includes callers still waiting for the load and the load itself, so an entry with no leases
        # is always loaded and never about to be used.
        self.leases = 1
        self.leased_at = 0.0
        self.is_loaded = False
        self.is_retired = False
        self.future: Future[T] = Future()

    def __str__(self) -> str:
        return f"{self.key} loaded {self.leases}" if self.is_loaded else f"{self.key} loading {self.leases - 1}"


_Admission = tuple[_Entry[K, T], list[_Entry[K, T]] | None]
"""An entry that is leased. If there is a list it is new, and to be loaded after those in the list are closed."""


class _Here(threading.local):
    """What is said of the thread that asks."""

    is_not_to_wait = False


_here = _Here()


def close_elsewhere() -> None:
    """Have what this thread would close be closed in another: that takes as long as it takes, and others wait here."""
    _here.is_not_to_wait = True


class _Place(NamedTuple, Generic[K]):
    """A caller's place in the queue for room."""

    key: K
    size: int
    called: threading.Condition


class _Lease(Generic[K, T]):
    """A with block's lease. A class, as a generator would cost a hit more than all the rest of it."""

    __slots__ = ("_cache", "_entry", "_key", "_timeout")

    _entry: _Entry[K, T]

    def __init__(self, cache: ModelCache[K, T], key: K, timeout: float | None) -> None:
        self._cache = cache
        self._key = key
        self._timeout = timeout

    def __enter__(self) -> T:
        entry = self._cache._hit(self._key)
        if entry is None:
            entry = self._cache._miss(self._key, self._timeout)
        self._entry = entry
        return entry.value

    def __exit__(self, *_: object) -> None:
        self._cache._release(self._entry)


class _LeaseIfLoaded(Generic[K, T]):
    __slots__ = ("_cache", "_entry", "_key")

    _entry: _Entry[K, T] | None

    def __init__(self, cache: ModelCache[K, T], key: K) -> None:
        self._cache = cache
        self._key = key

    def __enter__(self) -> T | None:
        self._entry = self._cache._hit(self._key)
        return self._entry.value if self._entry else None

    def __exit__(self, *_: object) -> None:
        if self._entry:
            self._cache._release(self._entry)


class ModelCache(Generic[K, T]):
    """Holds what ``loader`` makes, at most ``budget`` bytes of it at any moment. Thread-safe."""

    def __init__(
        self,
        loader: Loader[K, T],
        budget: int,
        *,
        room_timeout: float = ROOM_TIMEOUT,
        is_kept: Callable[[T], bool] = lambda value: False,
        # Not the monotonic clock: it stands still while a platform has the process frozen.
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            room_timeout: see `ROOM_TIMEOUT`.
            is_kept: whether a thing is not to be evicted, though nobody leases it. It may become so only while it is
                leased, and if it ceases to be so while nobody leases it, `look_again` is to be called. Cheap, as it is
                called under the lock; what is retired is closed whatever it says.
        """
        self._loader = loader
        self._budget = budget
        self._room_timeout = room_timeout
        self._is_kept = is_kept
        self._clock = clock
        # Guards everything below.
        self._lock = threading.Lock()
        # Least recently leased first.
        self._entries: OrderedDict[K, _Entry[K, T]] = OrderedDict()
        # No longer in _entries, and leased.
        self._retired: set[_Entry[K, T]] = set()
        # Bytes of everything loading or loaded, in _entries or _retired; and of what is being closed at this moment.
        # A load is admitted when the first fits the budget, and begins when both together do.
        self._used = 0
        self._closing = 0
        self._closed = threading.Condition(self._lock)
        self._closes = 0
        # Those that had to make room, ever.
        self._evictions = 0
        # Callers for whom there is no room, first come first; in it as long as they wait.
        self._queue: list[_Place[K]] = []
        # The last failed load of each key, until it succeeds. Bounded, as keys come from requests.
        self._failures: LRUCache[K, Failure] = LRUCache(_FAILURES)

    def __repr__(self) -> str:
        with self._lock:
            entries = ", ".join(map(str, self._entries.values()))
            waiting = f" {len(self._queue)} waiting" if self._queue else ""
            return f"<ModelCache {self._used}/{self._budget} [{entries}]{waiting}>"

    def lease(self, key: K, timeout: float | None = None) -> _Lease[K, T]:
        """Hold the thing for the length of a with block, loading it first if it is not there.

        Args:
            key: what to load; one load at a time, in a thread of its own, whose outcome all callers share.
            timeout: seconds to wait for room and for the load; None for as long as it takes. For room alone nobody
                waits longer than ``room_timeout``.

        Raises:
            ModelTooLarge, CacheFull: there is no room, and there can be none or was none in time.
            LoadPending: the time is over; the load goes on.
            LoadFailed, StorageUnavailable, DiskUnusable: it failed, now or as lately as `REMEMBERED` says.
            Exception: whatever else the loader raised.
        """
        return _Lease(self, key, timeout)

    def lease_if_loaded(self, key: K) -> _LeaseIfLoaded[K, T]:
        """Hold the thing for the length of a with block if it is loaded; else the block gets None and holds nothing."""
        return _LeaseIfLoaded(self, key)

    def peek(self, key: K) -> T | None:
        """Return the thing if it is loaded, to be looked at and not to be used, as it may be closed at any moment."""
        # Without the lock: one look-up, and an entry is only ever changed from loading to loaded.
        entry = self._entries.get(key)
        return entry.value if entry is not None and entry.is_loaded else None

    def retire(self, key: K, *, unless_kept: bool = False) -> bool:
        """Give no more leases of what is there now; the last one out closes it. A later lease loads anew.

        Even if what retires is still loading: the two loads then overlap, and each counts.

        Args:
            unless_kept: whether it stays if it is not to be evicted.

        Returns:
            Whether it was for that that it has stayed.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return False
            if unless_kept and entry.is_loaded and self._is_kept(entry.value):
                return True
            del self._entries[key]
            entry.is_retired = True
            self._retired.add(entry)
            unwanted = self._begin_close([entry] if entry.leases == 0 else [])
            # If it was kept, its room was nobody's until now.
            self._call_queue()
        self._close(unwanted, "closing")
        return False

    def close(self) -> None:
        """Retire everything."""
        with self._lock:
            keys = list(self._entries)
        for key in keys:
            self.retire(key)

    def look_again(self) -> None:
        """Offer room to those who wait for it, as something may not be kept any more."""
        with self._lock:
            self._call_queue()

    def is_loaded(self, key: K) -> bool:
        with self._lock:
            entry = self._entries.get(key)
            return entry is not None and entry.is_loaded

    def is_loading(self, key: K) -> bool:
        with self._lock:
            entry = self._entries.get(key)
            return entry is not None and not entry.is_loaded

    def waiting(self, key: K) -> int:
        """Return how many callers wait for a load that is under way, with the one that began it; 0 if there is none."""
        with self._lock:
            entry = self._entries.get(key)
            # One of its leases is the load's own.
            return 0 if entry is None or entry.is_loaded else entry.leases - 1

    def failure(self, key: K) -> ModelCacheError | None:
        """Return the error of the last load if it failed, however long ago."""
        with self._lock:
            failure = self._failures.get(key)
            return _fresh(failure.error) if failure else None

    def forgive(self, which: Callable[[K], bool] = lambda key: True) -> None:
        """Have what has failed be tried again by whoever wants it next, however lately that was.

        Args:
            which: whether it is to be. Cheap, as it is called under the lock.
        """
        with self._lock:
            for key, failure in list(self._failures.items()):
                if which(key):
                    self._failures[key] = failure._replace(at=-math.inf)

    def snapshot(self) -> Snapshot[K, T]:
        """Return what is in the cache. Cheap: what is held is copied under the lock."""
        with self._lock:
            holdings = [self._holding(entry) for entry in (*self._entries.values(), *self._retired)]
            return Snapshot(holdings, self._budget, self._used, self._evictions)

    def _holding(self, entry: _Entry[K, T]) -> Holding[K, T]:
        state: Literal["loading", "loaded", "retired"] = "loaded" if entry.is_loaded else "loading"
        return Holding(
            entry.key,
            "retired" if entry.is_retired else state,
            entry.size,
            entry.leases - (not entry.is_loaded),
            entry.leased_at,
            entry.value if entry.is_loaded else None,
        )

    def _hit(self, key: K) -> _Entry[K, T] | None:
        """Lease what is loaded: the path that every request takes, and nothing on it that could be elsewhere."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or not entry.is_loaded:
                return None
            self._begin_lease(entry)
            return entry

    def _miss(self, key: K, timeout: float | None) -> _Entry[K, T]:
        """Lease what is not loaded, and wait until it is."""
        began = time.monotonic()
        entry, victims = self._admit(key, self._loader.estimate(key), timeout)
        if victims is not None:
            self._begin_load(entry, victims)
        try:
            self._wait(entry, timeout, time.monotonic() - began)
        except BaseException:
            self._release(entry)
            raise
        return entry

    def _admit(self, key: K, size: int, timeout: float | None) -> _Admission[K, T]:
        """Lease the entry of ``key``, once there is room for one."""
        with self._lock:
            admitted = self._try_admit(key, size)
            if admitted is None:
                patience = self._room_timeout if timeout is None else min(timeout, self._room_timeout)
                admitted = self._queue_up(key, size, patience)
            if admitted is None:
                raise CacheFull(
                    f"{key} needs {size} bytes; {self._used} of {self._budget} are used, most by requests now"
                )
            return admitted

    def _try_admit(self, key: K, size: int) -> _Admission[K, T] | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._begin_lease(entry)
            return entry, None
        self._check_failure(key)
        if size > self._budget:
            error = ModelTooLarge(f"{key} needs {size} bytes; the whole budget is {self._budget}")
            # For the status; it is decided anew each time.
            self._failures[key] = Failure(error, self._clock())
            raise _fresh(error)
        excess = self._used + size - self._budget
        idle = self._idle(excess)
        if sum(victim.size for victim in idle) < excess:
            return None
        victims = self._begin_close(idle)
        entry = self._entries[key] = _Entry(key, size)
        self._used += size
        self._begin_lease(entry)
        # Others may be waiting to load the same.
        self._call_queue()
        return entry, victims

    def _queue_up(self, key: K, size: int, patience: float) -> _Admission[K, T] | None:
        """Wait until `_try_admit` succeeds, which lets go of the lock meanwhile; None if patience ends first."""
        place = _Place(key, size, threading.Condition(self._lock))
        self._queue.append(place)
        try:
            return place.called.wait_for(lambda: self._try_admit(key, size), patience)
        finally:
            self._queue.remove(place)
            # If it leaves by an error, what it was called for is the next one's.
            self._call_queue()

    def _call_queue(self) -> None:
        """Wake those for whom there is something now. To be called, with the lock, when there may be.

        First come first, but whoever fits goes ahead of who does not: a load that finds no room for a long time must
        not hold up all others. Nor is room kept for those who are called, so a newcomer may take it.
        """
        if not self._queue:
            return
        idle = sum(entry.size for entry in self._entries.values() if self._is_evictable(entry))
        room = self._budget - self._used + idle
        for place in self._queue:
            if place.key in self._entries:
                place.called.notify()
            elif place.size <= room:
                place.called.notify()
                room -= place.size

    def _check_failure(self, key: K) -> None:
        failure = self._failures.get(key)
        if failure is None:
            return
        ttl = next((REMEMBERED[base] for base in type(failure.error).__mro__ if base in REMEMBERED), 0.0)
        # Not before, as a clock may be set back.
        if 0 <= self._clock() - failure.at < ttl:
            raise _fresh(failure.error, is_repeated=True)

    def _idle(self, excess: int) -> list[_Entry[K, T]]:
        """Return the idle entries that make up ``excess`` bytes, or all if they do not, least recently leased first."""
        idle = []
        for entry in self._entries.values():
            if excess <= 0:
                break
            if self._is_evictable(entry):
                idle.append(entry)
                excess -= entry.size
        return idle

    def _is_evictable(self, entry: _Entry[K, T]) -> bool:
        return entry.leases == 0 and not self._is_kept(entry.value)

    def _begin_lease(self, entry: _Entry[K, T]) -> None:
        entry.leases += 1
        entry.leased_at = self._clock()
        self._entries.move_to_end(entry.key)

    def _begin_close(self, entries: list[_Entry[K, T]]) -> list[_Entry[K, T]]:
        """Take idle or retired entries out of the account; the caller closes them."""
        for entry in entries:
            if entry.is_retired:
                self._retired.remove(entry)
            else:
                del self._entries[entry.key]
                self._evictions += 1
            self._used -= entry.size
            self._closing += entry.size
        return entries

    def _begin_load(self, entry: _Entry[K, T], victims: list[_Entry[K, T]]) -> None:
        name = f"load {entry.key}"
        try:
            threading.Thread(target=self._load, args=(entry, victims), name=name, daemon=True).start()
        # The process may have no more threads.
        except RuntimeError as exc:
            self._close(victims, "evicting")
            self._fail(entry, exc)

    def _load(self, entry: _Entry[K, T], victims: list[_Entry[K, T]]) -> None:
        try:
            self._close(victims, "evicting")
            with self._lock:
                # Others may be closing what made room for this one. Closing waits for nobody, so this ends.
                self._closed.wait_for(lambda: not self._closing or self._used + self._closing <= self._budget)
            with timeline.load(str(entry.key)):
                value = self._make(entry.key)
            size = value.size
        # Raised again in every thread that waits for it, and nowhere else.
        except BaseException as exc:  # noqa: BLE001
            self._fail(entry, exc)
        else:
            self._settle(entry, value, size)

    def _make(self, key: K) -> T:
        """Load; as long as the loader finds no room for it, let go of what is idle, one after the other.

        What is in the cache may hold more than its bytes: a model holds its files on disk. A disk that is full all the
        same is another matter.
        """
        deadline = time.monotonic() + self._room_timeout
        while True:
            try:
                return self._loader.load(key)
            except CacheFull:
                with self._lock:
                    victims = self._begin_close(self._idle(1))
                    self._call_queue()
                    if not victims and not self._wait_for_close(deadline - time.monotonic()):
                        raise
            self._close(victims, "evicting")

    def _wait_for_close(self, timeout: float) -> bool:
        """Wait until something that is leaving has left; return whether it has. Needs the lock."""
        if not self._closing and not self._retired:
            return False
        closes = self._closes
        return self._closed.wait_for(lambda: self._closes != closes, timeout)

    def _settle(self, entry: _Entry[K, T], value: T, size: int) -> None:
        """Correct the estimate by what the thing says it occupies, and let the waiters go."""
        with self._lock:
            self._failures.pop(entry.key, None)
            self._used += size - entry.size
            entry.size = size
            entry.value = value
            entry.is_loaded = True
            # Only if the estimate was too low, and then as a rule by little.
            victims = self._begin_close(self._idle(self._used - self._budget))
            entry.future.set_result(value)
            unwanted = self._end_lease(entry)
            self._call_queue()
        self._close(victims, "evicting")
        self._close(unwanted, "closing")

    def _fail(self, entry: _Entry[K, T], error: BaseException) -> None:
        with self._lock:
            if isinstance(error, ModelCacheError):
                self._failures[entry.key] = Failure(_fresh(error), self._clock())
            else:
                # A bug tells nothing of the model.
                self._failures.pop(entry.key, None)
            if entry.is_retired:
                self._retired.remove(entry)
            else:
                del self._entries[entry.key]
            # Nothing came of it, so there is nothing to close.
            entry.is_retired = False
            self._used -= entry.size
            entry.future.set_exception(error)
            self._call_queue()

    def _wait(self, entry: _Entry[K, T], timeout: float | None, waited: float) -> None:
        try:
            error = entry.future.exception(None if timeout is None else max(0.0, timeout - waited))
        # Not the load's own: that would be returned.
        except TimeoutError:
            raise LoadPending(f"{entry.key} is still loading after {timeout} s; try again later") from None
        if isinstance(error, ModelCacheError):
            # An error that the future holds would hold, by its traceback, this frame and so the future: a circle,
            # and all that the callers' frames hold, such as bodies of requests, waits in it for the collector.
            raise _fresh(error) from error.__cause__
        entry.future.result()

    def _release(self, entry: _Entry[K, T]) -> None:
        with self._lock:
            unwanted = self._end_lease(entry)
        if unwanted and not (_here.is_not_to_wait and self._begin_closing(unwanted)):
            self._close(unwanted, "closing")

    def _end_lease(self, entry: _Entry[K, T]) -> list[_Entry[K, T]]:
        """End a lease; return the entry if it is retired and that was the last."""
        entry.leases -= 1
        if entry.leases:
            return []
        unwanted = self._begin_close([entry] if entry.is_retired else [])
        self._call_queue()
        return unwanted

    def _begin_closing(self, entries: list[_Entry[K, T]]) -> bool:
        """Have a thread close these; return whether there is one."""
        try:
            threading.Thread(target=self._close, args=(entries, "closing"), name="close", daemon=True).start()
        # The process may have no more threads.
        except RuntimeError:
            return False
        return True

    def _close(self, entries: list[_Entry[K, T]], verb: str) -> None:
        for entry in entries:
            logger.info("%s %s, %d bytes", verb, entry.key, entry.size)
            try:
                entry.value.close()
            # Whoever closes has another business, which this is no reason to fail.
            except Exception:
                logger.exception("closing %s failed", entry.key)
            finally:
                with self._lock:
                    self._closing -= entry.size
                    self._closes += 1
                    self._closed.notify_all()


def _fresh(error: ModelCacheError, *, is_repeated: bool = False) -> ModelCacheError:
    """Return the same error as never raised: a traceback keeps alive what its frames hold, such as a request's body.

    For the same reason no frame may hold what it raises.
    """
    fresh = type(error)(*error.args)
    fresh.is_repeated = is_repeated
    return fresh
