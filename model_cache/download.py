"""A version's files on their way from a storage into a directory: in parts, several at once, straight into place.

What has arrived is kept account of in a journal, with its CRC-32C, so that a later download into the same directory
goes on where this one was cut off, by an error or by the end of the process.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from model_cache.errors import LoadFailed, StorageInterrupted, StorageUnavailable
from model_cache.repository import ModelVersion
from model_cache.storage import Blob, Storage, VouchesForChecksums

logger = logging.getLogger(__name__)

RESERVED = ".decant"
"""What files of ours begin with, beside a model's; no blob's path may."""
JOURNAL = f"{RESERVED}-journal"
STREAMS = 8
"""Parts of one version that are read at once."""
MIN_PART = 8 << 20
MAX_PART = 64 << 20
"""Bytes: a part's first byte takes a round trip, and a connection that is lost loses no more than one part's place."""
PAUSES = (0.1, 0.2, 0.4, 0.8)
"""Seconds between tries of a part that brought nothing; a try that brought something starts the count anew."""
PART_TIMEOUT = 300.0
"""Seconds that one part may take as a whole; a server that trickles is not waited for for ever."""
_CHECKPOINT = 8 << 20
_CHECKPOINT_SECONDS = 0.5
_MOST_PER_PIECE = 30.0
_READ = 1 << 20
_LOOK_AGAIN = 0.2
_MAX_NAME = 255
_MAX_DIGITS = 20
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

Progress = Callable[[int], object]
"""Called with the number of bytes that have come since the last call, by any thread."""


class Span(NamedTuple):
    """Bytes of a file, from ``start`` up to ``stop``, that have arrived."""

    start: int
    stop: int
    crc32c: int


class _Part(NamedTuple):
    path: PurePosixPath
    blob: Blob
    start: int
    stop: int


class Checksum(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


def paths_of(version: ModelVersion) -> dict[PurePosixPath, Blob]:
    """Return where below a directory each of the version's files belongs.

    Raises:
        LoadFailed: a blob's name would leave the directory, or is none that a disk can have.
    """
    paths = {_relative(blob, version.prefix): blob for blob in version.files}
    directories = {parent for path in paths for parent in path.parents}
    for path, blob in paths.items():
        # A bucket may hold both "a" and "a/b"; a disk does not.
        if path in directories:
            raise LoadFailed(f"blob name {blob.key!r} is that of a directory too")
    return paths


def reserve(directory: Path, files: Mapping[PurePosixPath, Blob]) -> None:
    """Make every file in its full size, without a byte in it yet; sizes of files that are there stay right."""
    for path, blob in files.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as handle:
            handle.truncate(blob.size)


class Download:
    """One download of some files of a storage into a directory where they are reserved. Used once."""

    def __init__(
        self,
        storage: Storage,
        files: Mapping[PurePosixPath, Blob],
        directory: Path,
        *,
        streams: threading.Semaphore,
        threads: int = STREAMS,
        part_timeout: float = PART_TIMEOUT,
        progress: Progress = lambda size: None,
    ) -> None:
        self._storage = storage
        self._files = files
        self._directory = directory
        self._streams = streams
        self._threads = threads
        self._part_timeout = part_timeout
        self._progress = progress
        # Guards what follows, and the journal, which nobody writes to once it is closed, as another may be reading it
        # then. Notified when something has arrived or gone wrong.
        self._lock = threading.Condition()
        self._is_closed = False
        self._under_way: set[_PartProgress] = set()
        self._arrived: dict[PurePosixPath, list[Span]] = {path: [] for path in files}
        self._parts: deque[_Part] = deque()
        self._missing = 0
        self._failure: BaseException | None = None
        # Set when nothing more is wanted: read without the lock, between two pieces.
        self._is_over = threading.Event()

    def run(self) -> Mapping[PurePosixPath, list[Span]]:
        """Fetch what is missing; return what each file consists of.

        Workers that wait for their server when another fails are not waited for: what they may still write is what
        belongs there.

        Raises:
            BlobChanged: a blob is no longer what was listed.
            StorageUnavailable: it cannot be read, or what came is not what the storage says it is.
            OSError: the disk does not take it; ``errno`` says why.
        """
        for path, spans in read_journal(self._directory).items():
            if path in self._files:
                self._arrived[path] = [
                    span
                    for span in spans
                    if span.start < span.stop <= self._files[path].size and is_intact(self._directory / path, span)
                ]
        self._plan()
        _allocate(self._directory, self._files)
        try:
            self._start_workers()
            # In the meantime, so that little is left to do once the last part is there.
            self._check_sums()
            self._wait(lambda: self._missing == 0)
        finally:
            self._is_over.set()
            with self._lock:
                # What workers have that are not waited for is not lost, unless the disk is full.
                with suppress(OSError):
                    for progress in self._under_way:
                        self._write_down(progress)
                self._is_closed = True
        return self._arrived

    def _start_workers(self) -> None:
        for number in range(min(self._threads, len(self._parts))):
            worker = threading.Thread(target=self._work, args=(number,), name=f"download {number}", daemon=True)
            try:
                worker.start()
            # The process may have no more threads. Fewer do it as well.
            except RuntimeError:
                if number == 0:
                    self._work(0)
                return

    def _plan(self) -> None:
        """Cut what is missing into parts, largest file first, so that the last to finish started early."""
        gaps = [
            _Part(path, blob, start, stop)
            for path, blob in sorted(self._files.items(), key=lambda item: item[1].size, reverse=True)
            for start, stop in _gaps(blob.size, self._arrived[path])
        ]
        self._missing = sum(gap.stop - gap.start for gap in gaps)
        self._progress(sum(blob.size for blob in self._files.values()) - self._missing)
        size = min(max(-(-self._missing // self._threads), MIN_PART), MAX_PART)
        self._parts.extend(
            gap._replace(start=start, stop=min(start + size, gap.stop))
            for gap in gaps
            for start in range(gap.start, gap.stop, size)
        )

    def _wait(self, is_so: Callable[[], bool]) -> None:
        with self._lock:
            self._lock.wait_for(lambda: self._failure is not None or is_so())
            if self._failure is not None:
                raise self._failure

    def _work(self, number: int) -> None:
        try:
            while (part := self._next()) is not None:
                self._fetch(part, needs_slot=number > 0)
        # Raised again by the thread that waits for all parts.
        except BaseException as exc:  # noqa: BLE001
            self._is_over.set()
            with self._lock:
                self._failure = self._failure or exc
                self._lock.notify_all()

    def _next(self) -> _Part | None:
        with self._lock:
            return None if self._is_over.is_set() or not self._parts else self._parts.popleft()

    def _fetch(self, part: _Part, *, needs_slot: bool) -> None:
        file = os.open(self._directory / part.path, os.O_WRONLY)
        progress = _PartProgress(part, self._part_timeout)
        with self._lock:
            self._under_way.add(progress)
        try:
            pauses = iter(PAUSES)
            while not progress.is_done and not self._is_over.is_set():
                before = progress.position
                try:
                    with self._slot() if needs_slot else nullcontext():
                        self._read(file, progress)
                except StorageInterrupted as exc:
                    if progress.position > before:
                        pauses = iter(PAUSES)
                    pause = next(pauses, None)
                    if pause is None:
                        raise
                    logger.debug("%s, trying again: %s", part.blob.key, exc)
                    self._is_over.wait(_scattered(pause))
        finally:
            os.close(file)
            self._note(progress)
            with self._lock:
                self._under_way.discard(progress)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """Hold one of the streams that all downloads share. One of each needs none, so that none waits for others."""
        while not self._streams.acquire(timeout=_LOOK_AGAIN):
            if self._is_over.is_set():
                yield
                return
        try:
            yield
        finally:
            self._streams.release()

    def _read(self, file: int, progress: _PartProgress) -> None:
        part = progress.part
        if self._is_over.is_set():
            return
        with closing(self._storage.fetch(part.blob, progress.position, part.stop)) as pieces:
            for piece in pieces:
                if self._is_over.is_set():
                    return
                if progress.position + len(piece) > part.stop:
                    raise StorageInterrupted(f"{part.blob.key}: got more bytes than were asked for")
                _write(file, piece, progress.position)
                progress.add(piece)
                if progress.is_worth_noting:
                    self._note(progress)
        if not progress.is_done:
            raise StorageInterrupted(
                f"{part.blob.key}: got {progress.position - part.start} of {part.stop - part.start} bytes"
            )

    def _note(self, progress: _PartProgress) -> None:
        """Take account of what has arrived of a part since the last time."""
        with self._lock:
            size = self._write_down(progress)
        if size:
            self._progress(size)

    def _write_down(self, progress: _PartProgress) -> int:
        """Return how many bytes that are. Needs the lock."""
        span = None if self._is_closed else progress.take_span()
        if span is None:
            return 0
        path = progress.part.path
        _append_journal(self._directory, path, span)
        self._arrived[path].append(span)
        self._missing -= span.stop - span.start
        self._lock.notify_all()
        return span.stop - span.start

    def _check_sums(self) -> None:
        for path, blob in sorted(self._files.items(), key=lambda item: item[1].size, reverse=True):
            checksum = checksum_of(blob)
            if checksum is None:
                continue
            self._digest(path, blob, checksum)
            if checksum.hexdigest() == blob.checksum.partition(":")[2]:
                continue
            if isinstance(self._storage, VouchesForChecksums) and not self._storage.vouches_for(blob):
                continue
            # Whichever part it is, nothing of the file can be trusted.
            with self._lock:
                self._is_closed = True
                (self._directory / JOURNAL).unlink(missing_ok=True)
            raise StorageUnavailable(
                f"{blob.key} came with the checksum {checksum.hexdigest()}, was listed with {blob.checksum}"
            )

    def _digest(self, path: PurePosixPath, blob: Blob, checksum: Checksum) -> None:
        position = 0
        with (self._directory / path).open("rb", buffering=0) as file:
            while position < blob.size:
                self._wait(lambda position=position: self._prefix(path) > position)  # type: ignore[misc]
                stop = self._prefix(path)
                while position < stop:
                    data = file.read(min(_READ, stop - position))
                    if not data:
                        raise OSError(errno.EIO, "a file of the download is shorter than it was made")
                    checksum.update(data)
                    position += len(data)

    def _prefix(self, path: PurePosixPath) -> int:
        """Return how many bytes of the file there are from its beginning without a gap."""
        stop = 0
        for span in sorted(self._arrived[path]):
            if span.start > stop:
                break
            stop = max(stop, span.stop)
        return stop


class _PartProgress:
    """How far a part has come. Added to by one worker; what has come is taken by whoever has the download's lock."""

    def __init__(self, part: _Part, timeout: float) -> None:
        self.part = part
        # Replaced as a whole, so that it is never seen half changed. What is taken while a piece is being added may be
        # taken again with that piece, which does no harm.
        self._fresh = Span(part.start, part.start, 0)
        self._timeout = timeout
        self._spent = 0.0
        self._last = self._taken = time.monotonic()

    @property
    def position(self) -> int:
        return self._fresh.stop

    @property
    def is_done(self) -> bool:
        return self.position >= self.part.stop

    @property
    def is_worth_noting(self) -> bool:
        # By time as well: where a process lives for seconds only, the next is to go on and not to begin again.
        return self._fresh.stop - self._fresh.start >= _CHECKPOINT or self._last - self._taken >= _CHECKPOINT_SECONDS

    def add(self, piece: bytes | memoryview) -> None:
        """Count a piece.

        Raises:
            StorageUnavailable: the part has taken too long.
        """
        start, stop, crc32c = self._fresh
        self._fresh = Span(start, stop + len(piece), _extend(crc32c, piece))
        now = time.monotonic()
        # While a platform has the process frozen the clock goes on, and nobody is to blame.
        self._spent += min(now - self._last, _MOST_PER_PIECE)
        self._last = now
        if self._spent > self._timeout and not self.is_done:
            raise StorageUnavailable(
                f"{self.part.blob.key}: {self.position - self.part.start} bytes after {self._spent:.0f} s"
            )

    def take_span(self) -> Span | None:
        span = self._fresh
        if span.start == span.stop:
            return None
        self._fresh = Span(span.stop, span.stop, 0)
        self._taken = self._last
        return span


def read_journal(directory: Path) -> dict[PurePosixPath, list[Span]]:
    """Return what has arrived in a directory, as it was written down: what a crash has left of that."""
    arrived: dict[PurePosixPath, list[Span]] = {}
    with suppress(FileNotFoundError):
        for line in (directory / JOURNAL).read_bytes().splitlines():
            # A line that was cut off has fewer fields, or digits; what its CRC-32C does not fit is not used.
            fields = line.decode(errors="replace").split(" ", 3)
            if len(fields) == 4 and all(field.isdecimal() and len(field) < _MAX_DIGITS for field in fields[:3]):
                start, stop, crc32c = map(int, fields[:3])
                arrived.setdefault(PurePosixPath(fields[3]), []).append(Span(start, stop, crc32c))
    return arrived


def is_intact(path: Path, span: Span) -> bool:
    """Whether a file's bytes are those that arrived."""
    crc32c, position = 0, span.start
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(position)
            while position < span.stop:
                data = file.read(min(_READ, span.stop - position))
                if not data:
                    return False
                crc32c = _extend(crc32c, data)
                position += len(data)
    # Somebody tidies up, or removes it as damaged.
    except (FileNotFoundError, NotADirectoryError):
        return False
    return crc32c == span.crc32c


def _append_journal(directory: Path, path: PurePosixPath, span: Span) -> None:
    line = f"{span.start} {span.stop} {span.crc32c} {path}\n".encode()
    journal = os.open(directory / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        _write_all(journal, line)
    finally:
        os.close(journal)


def _write(file: int, piece: bytes | memoryview, position: int) -> None:
    view = memoryview(piece)
    while view:
        written = os.pwrite(file, view, position)
        view = view[written:]
        position += written


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _gaps(size: int, spans: list[Span]) -> Iterator[tuple[int, int]]:
    position = 0
    for span in sorted(spans):
        if span.start > position:
            yield position, span.start
        position = max(position, span.stop)
    if position < size:
        yield position, size


def _allocate(directory: Path, files: Mapping[PurePosixPath, Blob]) -> None:
    """Have the file system set the files' blocks aside, so that a full disk shows now and not at the last byte."""
    fallocate = _libc().fallocate
    for path, blob in files.items():
        if not blob.size:
            continue
        with (directory / path).open("r+b") as file:
            # Not posix_fallocate: where the file system cannot, that writes to every block.
            if fallocate(file.fileno(), 0, ctypes.c_int64(0), ctypes.c_int64(blob.size)) == 0:
                continue
            number = ctypes.get_errno()
            if number in _UNSUPPORTED:
                return
            raise OSError(number, os.strerror(number))


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def checksum_of(blob: Blob) -> Checksum | None:
    """Return what adds up the bytes of a blob as its store has, or None if the store does not say."""
    kind, _, _ = blob.checksum.partition(":")
    if kind == "md5":
        return hashlib.md5(usedforsecurity=False)
    if kind == "crc32c":
        return _Crc32c()
    return None


def _scattered(pause: float) -> float:
    # Not all at once, when many were cut off together. Imported by those who were.
    import random

    return pause * random.uniform(0.5, 1.5)


def _extend(crc32c: int, piece: bytes | memoryview) -> int:
    # Only now, as it is not for models that are read where they lie.
    import google_crc32c

    # It takes nothing else.
    extended: int = google_crc32c.extend(crc32c, bytes(piece))
    return extended


class _Crc32c:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = _extend(self._value, data)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _relative(blob: Blob, prefix: str) -> PurePosixPath:
    """Return the blob's path below its version's directory; keys come from outside and may try to leave it."""
    name = blob.key.removeprefix(prefix)
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or not name.isprintable() or "\\" in name:
        raise LoadFailed(f"blob name {blob.key!r} is not a plain relative path")
    if parts[0].startswith(RESERVED):
        raise LoadFailed(f"blob name {blob.key!r} begins with {RESERVED}, which is what our own files do")
    if any(len(part.encode(errors="replace")) > _MAX_NAME for part in parts):
        raise LoadFailed(f"blob name {blob.key[:100]!r} has a part of more than {_MAX_NAME} bytes")
    return PurePosixPath(*parts)
