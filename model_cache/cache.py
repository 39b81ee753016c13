"""A cache of things that are costly to load: single-flight, leases, a byte budget, eviction of the idle.

Decide under the lock, act outside it: every method that takes the lock does no I/O while it has it; loading and
closing happen between two such decisions.

The invariant that everything rests on: a lease is counted where it is decided, and a caller waiting for a load has
one. So an entry without leases is loaded and nobody is about to use it, and only such an entry is ever evicted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, NamedTuple, Protocol, TypeVar

from cachetools import LRUCache

from model_cache.errors import CacheFull, LoadFailed, LoadPending, ModelCacheError, ModelTooLarge

logger = logging.getLogger(__name__)

FAILURE_TTL = 30.0
"""Seconds for which a failed load is not tried again: compiling a broken model costs as much as a good one."""
_FAILURES = 1024


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
        """Return an upper bound of what the loaded thing will occupy, in bytes. Cheap, no I/O."""
        ...

    def load(self, key: K_contra, /) -> T_co: ...


class Failure(NamedTuple):
    error: ModelCacheError
    at: float


class _Entry(Generic[T]):
    __slots__ = ("future", "key", "leases", "retired", "size")

    def __init__(self, key: object, size: int) -> None:
        self.key = key
        self.size = size
        # Includes callers still waiting for the load and the load itself, so an entry with no leases
        # is always loaded and never about to be used.
        self.leases = 1
        self.retired = False
        self.future: Future[T] = Future()


class ModelCache(Generic[K, T]):
    """Holds what ``loader`` makes, at most ``budget`` bytes of it at any moment. Thread-safe."""

    def __init__(
        self,
        loader: Loader[K, T],
        budget: int,
        *,
        failure_ttl: float = FAILURE_TTL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._loader = loader
        self._budget = budget
        self._failure_ttl = failure_ttl
        self._clock = clock
        # Guards everything below; notified when bytes become free.
        self._lock = threading.Condition()
        # Least recently leased first.
        self._entries: OrderedDict[K, _Entry[T]] = OrderedDict()
        # Bytes of everything loading or loaded, in _entries or retired and still leased; and of what is being closed
        # at this moment. A load is admitted when the first fits the budget, and begins when both together do.
        self._used = 0
        self._closing = 0
        # The last failed load of each key, until it succeeds. Bounded, as keys come from requests.
        self._failures: LRUCache[K, Failure] = LRUCache(_FAILURES)

    def __repr__(self) -> str:
        with self._lock:
            entries = ", ".join(
                f"{key} loaded {entry.leases}" if entry.future.done() else f"{key} loading {entry.leases - 1}"
                for key, entry in self._entries.items()
            )
            return f"<ModelCache {self._used}/{self._budget} [{entries}]>"

    @contextmanager
    def lease(self, key: K, timeout: float | None = None) -> Iterator[T]:
        """Hold the thing for the length of a with block, loading it first if it is not there.

        Args:
            key: what to load; one load at a time, in a thread of its own, whose outcome all callers share.
            timeout: seconds to wait for the load; None for as long as it takes.

        Raises:
            ModelTooLarge, CacheFull: there is no room, and there can be none or is none now.
            LoadPending: the time is over; the load goes on.
            LoadFailed: it failed, now or less than ``failure_ttl`` seconds ago.
            Exception: whatever else the loader raised.
        """
        entry, victims = self._admit(key, self._loader.estimate(key))
        if victims is not None:
            self._begin_load(key, entry, victims)
        try:
            yield self._wait(key, entry, timeout)
        finally:
            self._release(entry)

    def retire(self, key: K) -> None:
        """Give no more leases of what is there now; the last one out closes it. A later lease loads anew."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return
            del self._entries[key]
            entry.retired = True
            unwanted = self._begin_close([entry] if entry.leases == 0 else [])
        self._close(unwanted, "closing")

    def close(self) -> None:
        """Retire everything."""
        with self._lock:
            keys = list(self._entries)
        for key in keys:
            self.retire(key)

    def is_loaded(self, key: K) -> bool:
        with self._lock:
            entry = self._entries.get(key)
            return entry is not None and entry.future.done()

    def is_loading(self, key: K) -> bool:
        with self._lock:
            entry = self._entries.get(key)
            return entry is not None and not entry.future.done()

    def failure(self, key: K) -> ModelCacheError | None:
        """Return the error of the last load if it failed, however long ago."""
        with self._lock:
            failure = self._failures.get(key)
            return _fresh(failure.error) if failure else None

    def _admit(self, key: K, size: int) -> tuple[_Entry[T], list[_Entry[T]] | None]:
        """Lease the entry of ``key``. If it is new the caller must load it, after closing the victims returned."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                entry.leases += 1
                self._entries.move_to_end(key)
                return entry, None
            self._check_failure(key)
            victims = self._evict(key, size)
            entry = self._entries[key] = _Entry(key, size)
            entry.leases += 1
            self._used += size
            return entry, victims

    def _check_failure(self, key: K) -> None:
        failure = self._failures.get(key)
        if failure is None or self._clock() - failure.at >= self._failure_ttl:
            return
        # Broken files stay broken; whatever else went wrong may be over by now.
        if isinstance(failure.error, LoadFailed):
            raise _fresh(failure.error, is_repeated=True)

    def _evict(self, key: K, size: int) -> list[_Entry[T]]:
        """Take out idle entries until ``size`` more bytes fit; the caller closes them."""
        if size > self._budget:
            raise ModelTooLarge(f"{key} needs {size} bytes; the whole budget is {self._budget}")
        excess = self._used + size - self._budget
        victims = self._idle(excess)
        if sum(self._entries[victim].size for victim in victims) < excess:
            raise CacheFull(f"{key} needs {size} bytes; {self._used} of {self._budget} are used, most by requests now")
        return self._take(victims)

    def _idle(self, excess: int) -> list[K]:
        """Return the idle entries that make up ``excess`` bytes, or all if they do not, least recently leased first."""
        idle = []
        for key, entry in self._entries.items():
            if excess <= 0:
                break
            if entry.leases == 0:
                idle.append(key)
                excess -= entry.size
        return idle

    def _take(self, victims: list[K]) -> list[_Entry[T]]:
        return self._begin_close([self._entries.pop(victim) for victim in victims])

    def _begin_close(self, entries: list[_Entry[T]]) -> list[_Entry[T]]:
        for entry in entries:
            self._used -= entry.size
            self._closing += entry.size
        return entries

    def _begin_load(self, key: K, entry: _Entry[T], victims: list[_Entry[T]]) -> None:
        try:
            threading.Thread(target=self._load, args=(key, entry, victims), name=f"load {key}", daemon=True).start()
        # The process may have no more threads.
        except RuntimeError as exc:
            self._close(victims, "evicting")
            self._fail(key, entry, exc)

    def _load(self, key: K, entry: _Entry[T], victims: list[_Entry[T]]) -> None:
        try:
            self._close(victims, "evicting")
            with self._lock:
                # Others may be closing what made room for this one. Closing waits for nobody, so this ends.
                self._lock.wait_for(lambda: not self._closing or self._used + self._closing <= self._budget)
            value = self._loader.load(key)
            size = value.size
        # Raised again in every thread that waits for it, and nowhere else.
        except BaseException as exc:  # noqa: BLE001
            self._fail(key, entry, exc)
        else:
            self._settle(key, entry, value, size)

    def _settle(self, key: K, entry: _Entry[T], value: T, size: int) -> None:
        """Correct the estimate by what the thing says it occupies, and let the waiters go."""
        with self._lock:
            self._failures.pop(key, None)
            self._used += size - entry.size
            entry.size = size
            # Only if the estimate was too low, which a loader promises it is not.
            victims = self._take(self._idle(self._used - self._budget))
            entry.future.set_result(value)
            unwanted = self._give_back(entry)
        self._close(victims, "evicting")
        self._close(unwanted, "closing")

    def _fail(self, key: K, entry: _Entry[T], error: BaseException) -> None:
        with self._lock:
            if isinstance(error, ModelCacheError):
                self._failures[key] = Failure(_fresh(error), self._clock())
            else:
                # A bug tells nothing of the model.
                self._failures.pop(key, None)
            if self._entries.get(key) is entry:
                del self._entries[key]
            # Nothing came of it, so there is nothing to close.
            entry.retired = False
            self._used -= entry.size
            entry.future.set_exception(error)

    def _wait(self, key: K, entry: _Entry[T], timeout: float | None) -> T:
        try:
            error = entry.future.exception(timeout)
        # Not the load's own: that would be returned.
        except TimeoutError:
            raise LoadPending(f"{key} is still loading after {timeout} s; try again later") from None
        if isinstance(error, ModelCacheError):
            # An error that the future holds would hold, by its traceback, this frame and so the future: a circle,
            # and all that the callers' frames hold, such as bodies of requests, waits in it for the collector.
            raise _fresh(error) from error.__cause__
        return entry.future.result()

    def _release(self, entry: _Entry[T]) -> None:
        with self._lock:
            unwanted = self._give_back(entry)
        self._close(unwanted, "closing")

    def _give_back(self, entry: _Entry[T]) -> list[_Entry[T]]:
        """End a lease; return the entry if it is retired and that was the last."""
        entry.leases -= 1
        return self._begin_close([entry] if entry.retired and entry.leases == 0 else [])

    def _close(self, entries: list[_Entry[T]], verb: str) -> None:
        for entry in entries:
            logger.info("%s %s, %d bytes", verb, entry.key, entry.size)
            try:
                entry.future.result().close()
            # Whoever closes has another business, which this is no reason to fail.
            except Exception:
                logger.exception("closing %s failed", entry.key)
            finally:
                with self._lock:
                    self._closing -= entry.size
                    self._lock.notify_all()


def _fresh(error: ModelCacheError, *, is_repeated: bool = False) -> ModelCacheError:
    """Return the same error as never raised: a traceback keeps alive what its frames hold, such as a request's body.

    For the same reason no frame may hold what it raises.
    """
    fresh = type(error)(*error.args)
    fresh.is_repeated = is_repeated
    return fresh
