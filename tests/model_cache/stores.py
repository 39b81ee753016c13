"""Stores for the tests of downloads: they keep account of what is read from them, and break off as told."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from model_cache.disk import DiskCache
from model_cache.local import LocalStorage
from model_cache.repository import ModelRepository, ModelVersion
from model_cache.storage import PIECE, Blob, Storage
from tests.fakes import MemoryStorage

SAVED_MODEL = {
    "saved_model.pb": b"graph",
    "variables/variables.index": b"index" * 10,
    "variables/variables.data-00000-of-00001": b"weights" * 1000,
    "assets/vocabularies/de/words.txt": "Käse\n".encode(),
    "assets/empty.txt": b"",
}
BIG = 1 << 40
"""A budget that is never in the way."""


class Read(NamedTuple):
    """Bytes of a blob, from ``start`` up to ``stop``."""

    key: str
    start: int
    stop: int


class AccountedStorage(MemoryStorage):
    """Notes what it is asked for and what it gives, in pieces of ``piece`` bytes at most."""

    def __init__(
        self, blobs: Mapping[str, bytes] | None = None, *, has_checksums: bool = False, piece: int = PIECE
    ) -> None:
        super().__init__(blobs, has_checksums=has_checksums)
        self.reads: list[Read] = []
        """What was asked for."""
        self.given: list[Read] = []
        """What was handed out."""
        self.most_at_once = 0
        self.before_piece: Callable[[Blob, int], object] = lambda blob, position: None
        """Called with the position of each piece before it is given; what it raises ends the read."""
        self._piece = piece
        self._lock = threading.Lock()
        self._at_once = 0

    @property
    def at_once(self) -> int:
        """How many reads are under way."""
        return self._at_once

    @property
    def given_bytes(self) -> int:
        return sum(read.stop - read.start for read in self.given)

    def forget(self) -> None:
        self.reads.clear()
        self.given.clear()

    def fetch(self, blob: Blob, start: int, stop: int) -> Generator[bytes | memoryview, None, None]:
        self.reads.append(Read(blob.key, start, stop))
        with self._counted():
            for piece in super().fetch(blob, start, stop):
                for at in range(0, len(piece), self._piece):
                    part = piece[at : at + self._piece]
                    self.before_piece(blob, start)
                    self.given.append(Read(blob.key, start, start + len(part)))
                    start += len(part)
                    yield part

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1


class DirectoryStorage(LocalStorage):
    """A directory that several processes use like a bucket: nothing is read in place, and ``log`` has what was read."""

    def __init__(self, root: Path, log: Path, *, pause: float = 0.0, piece: int = PIECE) -> None:
        super().__init__(root)
        self.in_place = None
        self._log = log
        self._pause = pause
        self._piece = piece

    def fetch(self, blob: Blob, start: int, stop: int) -> Generator[bytes | memoryview, None, None]:
        for piece in super().fetch(blob, start, stop):
            for at in range(0, len(piece), self._piece):
                part = piece[at : at + self._piece]
                time.sleep(self._pause)
                with self._log.open("ab", buffering=0) as log:
                    log.write(f"{os.getpid()} {blob.key} {start} {start + len(part)}\n".encode())
                start += len(part)
                yield part


def given_by(log: Path) -> list[Read]:
    """Return what was read from a `DirectoryStorage`."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [Read(key, int(start), int(stop)) for _, key, start, stop in lines]


def stored(files: Mapping[str, bytes] = SAVED_MODEL, number: int = 1, *, piece: int = PIECE) -> AccountedStorage:
    return AccountedStorage({f"{number}/{name}": data for name, data in files.items()}, piece=piece)


def listed(storage: Storage, number: int = 1, name: str = "m") -> ModelVersion:
    return ModelRepository(name, storage).find(number)


def version_of(size: int, seed: int = 0) -> ModelVersion:
    """Return a version of so many bytes, stored in an `AccountedStorage` of its own."""
    return listed(stored({"model.onnx": bytes([seed % 256]) * size, "model.onnx_data": b"%d" % seed}))


def store_of(version: ModelVersion) -> AccountedStorage:
    assert isinstance(version.storage, AccountedStorage)
    return version.storage


def files_below(directory: Path) -> dict[str, bytes]:
    """Return a model's files, by their paths; what is ours beside them is left out."""
    files = (path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".decant"))
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def leased_files(cache: DiskCache, version: ModelVersion) -> dict[str, bytes]:
    with cache.lease(version) as files:
        return files_below(files.directory)


def names_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir()) if root.exists() else []
