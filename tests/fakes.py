"""Fakes that behave like the real thing until a test tells them to misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model_cache.errors import BlobChanged
from model_cache.storage import PIECE, Blob

PATIENCE = 10.0
"""Seconds after which what a test waits for is not going to happen."""


def until(true: Callable[[], bool]) -> None:
    """Return once ``true()``; for what sends no event, such as another thread that has begun to wait."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.001)


@contextlib.contextmanager
def no_more_threads() -> Iterator[None]:
    """As in a container at its limit of processes: no thread can be started, as each would need too large a stack."""
    before = threading.stack_size(1 << 47)
    try:
        yield
    finally:
        threading.stack_size(before)


class Clock:
    """A clock that stands still until ``now`` is set."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Gate:
    """A place where a thread waits: ``reached`` is set by who comes there, who may go on once ``opened`` is set."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def pass_through(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE), "nobody opened the gate"

    def wait_until_reached(self) -> None:
        assert self.reached.wait(PATIENCE), "nobody came to the gate"

    def open(self) -> None:
        self.opened.set()


class MemoryStorage:
    """Blobs in a dict, which a test may change at any time. Hooks run first, and what they raise is raised."""

    def __init__(self, blobs: Mapping[str, bytes] | None = None, *, has_checksums: bool = False) -> None:
        self.blobs = dict(blobs or {})
        self.in_place: Path | None = None
        self._has_checksums = has_checksums
        self.before_list: Callable[[], object] = lambda: None
        self.before_fetch: Callable[[Blob], object] = lambda blob: None
        self.before_put: Callable[[str], object] = lambda key: None

    def __str__(self) -> str:
        return "memory://bucket"

    def list(self, prefix: str = "") -> Iterator[Blob]:
        self.before_list()
        yield from (self._blob(key, data) for key, data in sorted(self.blobs.items()) if key.startswith(prefix))

    def fetch(self, blob: Blob, start: int, stop: int) -> Generator[bytes | memoryview, None, None]:
        self.before_fetch(blob)
        data = self.blobs.get(blob.key)
        if data is None or hashlib.sha256(data).hexdigest() != blob.etag:
            raise BlobChanged(f"{self}/{blob.key} is gone or no longer what was listed")
        for at in range(start, stop, PIECE):
            yield data[at : min(at + PIECE, stop)]

    def put(self, key: str, data: bytes) -> None:
        self.before_put(key)
        self.blobs[key] = data

    def _blob(self, key: str, data: bytes) -> Blob:
        checksum = f"md5:{hashlib.md5(data, usedforsecurity=False).hexdigest()}" if self._has_checksums else ""
        return Blob(key, len(data), hashlib.sha256(data).hexdigest(), checksum)


class Thing:
    """A resident of a cache. A user of it says so by ``with thing.in_use()``, so that it notices a close too early."""

    def __init__(self, key: str, size: int, loader: FakeLoader) -> None:
        self.key = key
        self.size = size
        self.is_loaded = False
        self.is_closed = False
        self.users = 0
        self._loader = loader

    def __repr__(self) -> str:
        return f"<Thing {self.key}>"

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        with self._loader.lock:
            self.users += 1
            self._loader.expect(not self.is_closed, f"{self} was handed out closed")
        try:
            yield
        finally:
            with self._loader.lock:
                self._loader.expect(not self.is_closed, f"{self} was closed while leased")
                self.users -= 1

    def close(self) -> None:
        self._loader.close(self)


class FakeLoader:
    """Loads things named by strings, and keeps account of them.

    What breaks one of the cache's promises at the moment of a load or close is kept in ``violations``.
    """

    def __init__(self, sizes: Mapping[str, int], budget: int | None = None) -> None:
        self.sizes = dict(sizes)
        self.estimates: dict[str, int] = {}
        """Where they differ from the sizes."""
        self.load_errors: dict[str, BaseException] = {}
        """What loading raises."""
        self.close_errors: dict[str, BaseException] = {}
        """What closing raises, after it has closed."""
        self.events: list[str] = []
        """``load`` as it begins, ``close`` as it ends."""
        self.violations: list[str] = []
        self.may_load_twice_at_once = False
        self.duration = 0.0
        """Seconds that a load or a close takes."""
        self.lock = threading.RLock()
        self._gates: dict[str, Gate] = {}
        self._budget = budget
        # Whatever occupies bytes: loading, loaded or closing.
        self._present: list[Thing] = []

    @property
    def present(self) -> list[str]:
        """The keys of what occupies memory now, sorted."""
        with self.lock:
            return sorted(thing.key for thing in self._present)

    def estimate(self, key: str) -> int:
        return self.estimates.get(key, self.sizes[key])

    def load(self, key: str) -> Thing:
        thing = self._begin_load(key)
        try:
            self._pass_through(f"load {key}")
            if error := self.load_errors.get(key):
                raise error
        except BaseException:
            with self.lock:
                self._present.remove(thing)
            raise
        thing.is_loaded = True
        return thing

    def close(self, thing: Thing) -> None:
        with self.lock:
            self.expect(not thing.is_closed, f"{thing} was closed twice")
            self.expect(not thing.users, f"{thing} was closed while leased by {thing.users}")
            thing.is_closed = True
        self._pass_through(f"close {thing.key}")
        with self.lock:
            self._present.remove(thing)
            self.events.append(f"close {thing.key}")
        if error := self.close_errors.get(thing.key):
            raise error

    def expect(self, is_so: bool, violation: str) -> None:
        if not is_so:
            self.violations.append(violation)

    def hold(self, event: str) -> Gate:
        """Let nobody through ``load KEY`` or ``close KEY`` until the gate is opened."""
        self._gates[event] = Gate()
        return self._gates[event]

    def _pass_through(self, event: str) -> None:
        if self.duration:
            time.sleep(self.duration)
        if gate := self._gates.get(event):
            gate.pass_through()

    def _begin_load(self, key: str) -> Thing:
        thing = Thing(key, self.sizes[key], self)
        with self.lock:
            self.events.append(f"load {key}")
            is_loading = any(other.key == key and not other.is_loaded for other in self._present)
            self.expect(self.may_load_twice_at_once or not is_loading, f"{key} is loaded twice at once")
            self._present.append(thing)
            used = sum(other.size for other in self._present)
            self.expect(self._budget is None or used <= self._budget, f"{used} bytes are in use, of {self._budget}")
        return thing
