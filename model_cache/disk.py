"""Versions' files on local disk: each whole or not at all, within a budget, shared by processes, kept when these end.

``<cache>/<digest>/`` is complete whenever it exists: the files are written to ``.partial-<digest>`` beside it, which
is then renamed. A crash leaves a partial directory that no look-up finds, and that the next download of the same bytes
goes on with.

The directory itself is the only state, so that all processes that use it have the same. What keeps them out of each
other's way are locks (see `locks`), which end with the process that holds them:

- a version's directory, complete or partial, is locked shared by those who use it, and exclusively by who writes it;
- the cache directory is locked by who decides what comes and what goes, so that two who need room do not both count on
  the same. Names in it change only under this lock, and who holds it waits for no other;
- what is kept of a model read in place has a directory like a version's, without files. Its ``compiled`` is locked
  shared by those who found it there and have the model leased: it stays when others of its kind need room, and goes
  when a version does, as that one cannot be served without.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from model_cache.compiled import DIRECTORY as COMPILED
from model_cache.compiled import CompiledDownload, wanted
from model_cache.download import JOURNAL, PART_TIMEOUT, RESERVED, STREAMS, Download, Progress, paths_of, reserve
from model_cache.errors import BlobChanged, CacheFull, DiskFull, DiskUnusable, LoadFailed, ModelTooLarge
from model_cache.locks import POLL, downgrade, is_at, locked, share, try_exclusive
from model_cache.manifest import NAME as MANIFEST
from model_cache.manifest import Manifest, boot_id, read_manifest, sync
from model_cache.repository import ModelVersion
from model_cache.storage import Blob
from model_cache.timeline import span

logger = logging.getLogger(__name__)

MAX_STREAMS = 32
"""Parts of all versions that are read at once, beside one of each."""
PARTIAL_TTL = 24 * 3600.0
"""Seconds after which what is left of a download that nobody went on with is removed."""
LOCK_TIMEOUT = 900.0
"""Seconds to wait for another process that downloads the same version; it may be stopped."""
KEEP_TIMEOUT = 1.0
"""Seconds to wait for another process to keep what was compiled: the next one that compiles it will keep it."""
KEPT_TTL = 7 * 24 * 3600.0
"""Seconds after which what is kept of a model read in place is removed if nobody has used it: the model may be gone,
and nothing else would tell."""
_TRIES = 3
_BLOCK = 4096
_PARTIAL = ".partial-"
_GRAVE = ".grave-"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_HOPELESS = (BlobChanged, DiskFull, CacheFull, ModelTooLarge)


class Fetched(NamedTuple):
    size: int
    seconds: float


class Files(NamedTuple):
    """A version's files, as long as they are leased."""

    directory: Path
    fetched: Fetched | None
    """What was downloaded for this lease; None if they were there, or are read where they are stored."""
    compiled: Path | None
    """The directory, there or not, of what was compiled of the version and is kept in the cache; None if anybody could
    have put it there."""


class Usage(NamedTuple):
    """In bytes."""

    budget: int
    used: int
    free: int
    """What the file system has left."""


class _Held(NamedTuple):
    """Bytes: what a directory's files have, and what they take of the disk, as some may not be allocated yet."""

    size: int
    blocks: int


class Entry(NamedTuple):
    """A version on disk, or the part of one that has arrived."""

    digest: str
    is_complete: bool
    size: int
    last_used: float
    manifest: Manifest | None


Watch = Callable[[ModelVersion], AbstractContextManager[Progress]]
"""Called as a download begins; what it gives is told of the bytes as they arrive."""


def free_at(directory: Path) -> int:
    """Return the bytes that are free where a directory is."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _no_watch(version: ModelVersion) -> AbstractContextManager[Progress]:
    return nullcontext(lambda size: None)


class DiskCache:
    """Brings versions to ``root``, which is made when first needed, and keeps ``budget`` bytes of them. Thread-safe."""

    def __init__(
        self,
        root: Path,
        budget: int,
        *,
        threads: int = STREAMS,
        part_timeout: float = PART_TIMEOUT,
        watch: Watch = _no_watch,
        is_durable: bool = False,
        compiled: Callable[[ModelVersion], str] | None = None,
    ) -> None:
        """
        Args:
            threads: parts of one version that are read at once.
            part_timeout: seconds that a part may take as a whole.
            watch: see `Watch`.
            is_durable: whether to wait until files have reached the disk itself, and to let all users read them, for a
                cache that goes elsewhere.
            compiled: returns how the names begin of what was compiled of a version and is fetched along with it; if
                None, nothing is.
        """
        self._root = root
        self._budget = budget
        self._threads = threads
        self._part_timeout = part_timeout
        self._watch = watch
        self._is_durable = is_durable
        self._compiled = compiled
        # What is made ahead is used by others than who makes it. That nobody else can write to it is what matters.
        self._mode = 0o755 if is_durable else 0o700
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)
        self._is_swept = False
        self.evictions = 0
        """Entries that this process has removed to make room. Changes under the cache directory's lock only."""

    @contextmanager
    def lease(self, version: ModelVersion) -> Iterator[Files]:
        """Hold the version's files for the length of a with block, downloading what is not there.

        Raises:
            BlobChanged, StorageUnavailable: a blob cannot be had, or is no longer what was listed.
            LoadFailed: there is no model among the version's files, or a blob's name would leave the directory.
            ModelTooLarge, CacheFull: there is no room in the budget, and there can be none or is none now.
            DiskFull, DiskUnusable: the files cannot be kept here.
        """
        if not version.files:
            raise LoadFailed(f"no model in {version}: found {_names(version)}")
        if version.storage.in_place:
            kept = place_in(self._root) / version.digest
            compiled = kept / COMPILED if _is_private(self._root) else None
            with _in_use(kept, compiled):
                yield Files(version.storage.in_place / version.prefix, None, compiled)
            return
        files, lock = self._acquire(version)
        try:
            yield files
        finally:
            _touch(files.directory)
            os.close(lock)

    def keep_compiled(self, version: ModelVersion, name: str, data: bytes) -> None:
        """Keep what was compiled of a version for as long as its files, if these are leased; else until room is wanted.

        Raises:
            CacheFull: there is no room for it in the budget, and no version is removed for its sake; only what is idle
                of what is kept of models read in place, least recently used first.
            DiskUnusable: it cannot be written, or the version's files have been removed meanwhile.
        """
        directory = place_in(self._root) / version.digest
        try:
            if version.storage.in_place:
                _make_private(self._root, self._mode)
            with locked(directory.parent, KEEP_TIMEOUT):
                others = _others_kept(version, directory.parent)
                self._admit_compiled(version, len(data), directory.parent, others)
                if version.storage.in_place:
                    _make_place_for_compiled(version, directory, self._mode)
                self._write_compiled(directory, name, data)
        except OSError as exc:
            raise DiskUnusable(f"cannot keep what was compiled of {version}: {exc.strerror or exc}") from exc

    def is_cached(self, version: ModelVersion) -> bool:
        return bool(version.storage.in_place) or (place_in(self._root) / version.digest).is_dir()

    def usage(self) -> Usage:
        existing = self._root.absolute()
        while not existing.exists():
            existing = existing.parent
        return Usage(
            self._budget,
            sum(_held(path).size for path in _directories(place_in(self._root))),
            free_at(existing),
        )

    def entries(self) -> list[Entry]:
        """Return what is there, least recently used first."""
        found = []
        for directory in _directories(place_in(self._root)):
            with suppress(FileNotFoundError):
                is_complete = not directory.name.startswith(_PARTIAL)
                found.append(
                    Entry(
                        directory.name.removeprefix(_PARTIAL),
                        is_complete,
                        _held(directory).size,
                        _last_used(directory),
                        read_manifest(directory),
                    )
                )
        return sorted(found, key=lambda entry: entry.last_used)

    def remove(self, entry: Entry) -> bool:
        """Remove a version's files; return whether they are gone, as they stay if somebody uses them."""
        home = place_in(self._root)
        directory = home / (entry.digest if entry.is_complete else f"{_PARTIAL}{entry.digest}")
        try:
            with locked(home):
                lock = try_exclusive(directory)
                if lock is None:
                    return not directory.exists()
                try:
                    grave = _bury(directory)
                finally:
                    os.close(lock)
        except OSError as exc:
            raise DiskUnusable(f"cannot remove {entry.digest}: {exc.strerror or exc}") from exc
        _clear(grave)
        return True

    def damaged(self, entry: Entry) -> list[str]:
        """Read all of a complete version's files; return the paths of those that are not what was fetched."""
        return entry.manifest.damaged(place_in(self._root) / entry.digest) if entry.manifest else ["its manifest"]

    def _acquire(self, version: ModelVersion) -> tuple[Files, int]:
        paths = paths_of(version)
        try:
            home = _make_private(self._root, self._mode)
            if not self._is_swept:
                _sweep(home)
                self._is_swept = True
            for _ in range(_TRIES):
                lock = _adopt(version, paths, home / version.digest)
                if lock is not None:
                    return _files(home / version.digest), lock
                downloaded = self._download(version, paths, home)
                if downloaded is not None:
                    fetched, lock = downloaded
                    return _files(home / version.digest, fetched), lock
        except OSError as exc:
            raise self._unusable(version, exc) from exc
        raise DiskUnusable(f"cannot keep {version}: its files are removed as soon as they are there")

    def _download(
        self, version: ModelVersion, paths: Mapping[PurePosixPath, Blob], home: Path
    ) -> tuple[Fetched, int] | None:
        """Download the version; return its shared lock as well. None if another process has just done so."""
        partial = home / f"{_PARTIAL}{version.digest}"
        lock = self._begin(version, paths, partial)
        if lock is None:
            return None
        started = time.perf_counter()
        blobs = [] if self._compiled is None else wanted(version, self._compiled(version))
        compiled = CompiledDownload(version.storage, blobs)
        try:
            with span("download", model=str(version), bytes=version.size):
                self._complete(version, paths, partial)
            arrived = compiled.end()
            with locked(home):
                self._add_compiled(version, arrived, partial)
                partial.rename(home / version.digest)
                # Before anybody else can look for what might make room.
                downgrade(lock)
            (home / version.digest / JOURNAL).unlink(missing_ok=True)
        except BaseException as exc:
            compiled.end(0)
            # What has arrived is of use to the next download, unless nobody will ever list these bytes again, or the
            # rest has no room; then it only takes room from others.
            _give_up(partial, lock, is_useless=isinstance(exc, _HOPELESS) or not (partial / JOURNAL).exists())
            raise
        seconds = time.perf_counter() - started
        logger.info(
            "downloaded %s from %s, %d bytes in %.2f s, %.0f MB/s",
            *(version, version.storage, version.size, seconds, version.size / seconds / 1e6),
        )
        return Fetched(version.size, seconds), lock

    def _complete(self, version: ModelVersion, paths: Mapping[PurePosixPath, Blob], partial: Path) -> None:
        """Make a partial directory what a version's is, making room once if the disk turns out to be full."""
        try:
            self._fill(version, paths, partial)
        except OSError as exc:
            if exc.errno not in _NO_SPACE:
                raise
            with locked(partial.parent):
                self._make_room(version, paths, partial, at_least=1)
            try:
                self._fill(version, paths, partial)
            except OSError as again:
                raise self._unusable(version, again) from again

    def _fill(self, version: ModelVersion, paths: Mapping[PurePosixPath, Blob], partial: Path) -> None:
        with self._watch(version) as progress:
            arrived = Download(
                version.storage,
                paths,
                partial,
                streams=self._streams,
                threads=self._threads,
                part_timeout=self._part_timeout,
                progress=progress,
            ).run()
        if self._is_durable:
            sync(partial, paths)
        Manifest.of(version, arrived, is_synced=self._is_durable).write(partial)
        if self._is_durable:
            let_all_read(partial)

    def _add_compiled(self, version: ModelVersion, arrived: Mapping[str, bytes], partial: Path) -> None:
        """Put what was compiled with a version that is complete, as far as there is room. Needs the cache's lock."""
        try:
            for name, data in arrived.items():
                self._admit_compiled(version, len(data), partial.parent)
                self._write_compiled(partial, name, data)
        # The model does without.
        except (CacheFull, OSError) as exc:
            logger.debug("not keeping what was compiled of %s: %s", version, exc)

    def _admit_compiled(self, version: ModelVersion, size: int, home: Path, others: Sequence[Path] = ()) -> None:
        """Make sure of room in the budget, if need be by removing what is idle of ``others``, from the first on.

        Removes none if that would not help. Needs the cache's lock.
        """
        held = {path: _held(path).size for path in _directories(home)}
        used = sum(held.values())
        excess = used + size - self._budget
        victims: list[tuple[Path, int]] = []
        try:
            for path in others:
                if excess <= 0:
                    break
                lock = try_exclusive(path / COMPILED)
                if lock is not None:
                    victims.append((path, lock))
                    excess -= held[path]
            if excess > 0:
                raise CacheFull(
                    f"what was compiled of {version} needs {size} bytes of disk; {used} of {self._budget} are used"
                )
            for path, _ in victims:
                logger.info("evicting %s from disk, %d bytes", path.name, held[path])
                self.evictions += 1
                _clear(_bury(path))
        finally:
            for _, lock in victims:
                os.close(lock)

    def _write_compiled(self, directory: Path, name: str, data: bytes) -> None:
        """Write a file that is found as a whole or not at all. Needs the cache's lock."""
        place = directory / COMPILED
        if not directory.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the version has been removed")
        place.mkdir(mode=self._mode, exist_ok=True)
        # Who has the lock is the only one to write; what others have left, they have not finished.
        for left in place.glob(f"{RESERVED}-*"):
            left.unlink(missing_ok=True)
        new = place / f"{RESERVED}-{os.getpid()}-{time.monotonic_ns()}"
        try:
            new.write_bytes(data)
            if self._is_durable:
                sync(place, {PurePosixPath(new.name): None})
            new.replace(place / name)
        except BaseException:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise
        if self._is_durable:
            let_all_read(place)

    def _begin(self, version: ModelVersion, paths: Mapping[PurePosixPath, Blob], partial: Path) -> int | None:
        """Return the exclusive lock of the version's partial directory, with room made and files reserved in it.

        None if the version is there.
        """
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            with locked(partial.parent):
                if (partial.parent / version.digest).is_dir():
                    return None
                partial.mkdir(mode=self._mode, exist_ok=True)
                lock = try_exclusive(partial)
                if lock is not None:
                    try:
                        self._reserve(version, paths, partial)
                        return lock
                    except BaseException:
                        os.close(lock)
                        # Nobody else can lock it as long as we have the cache's.
                        if not (partial / JOURNAL).exists():
                            _clear(_bury(partial))
                        raise
            if time.monotonic() > deadline:
                raise DiskUnusable(f"another process has been downloading {version} for {LOCK_TIMEOUT:.0f} s")
            time.sleep(POLL)

    def _reserve(self, version: ModelVersion, paths: Mapping[PurePosixPath, Blob], partial: Path) -> None:
        self._make_room(version, paths, partial)
        try:
            reserve(partial, paths)
        except OSError as exc:
            if exc.errno not in _NO_SPACE:
                raise
            # The disk may have room for more bytes, and none for more files.
            self._make_room(version, paths, partial, at_least=1)
            reserve(partial, paths)

    def _make_room(
        self, version: ModelVersion, paths: Mapping[PurePosixPath, Blob], partial: Path, *, at_least: int = 0
    ) -> None:
        """Remove versions that nobody uses, least recently used first, until this one fits, and ``at_least`` so many.

        Removes none if that would not help. Needs the cache's lock.
        """
        if version.size > self._budget:
            raise ModelTooLarge(f"{version} needs {version.size} bytes of disk; the whole budget is {self._budget}")
        others = sorted((path for path in _directories(partial.parent) if path != partial), key=_last_used)
        held = {path: _held(path) for path in others}
        used, free = sum(size for size, _ in held.values()), free_at(partial)
        excess = used + version.size - self._budget
        lack = _missing(paths, partial) - free
        victims: list[tuple[Path, int]] = []
        try:
            for path in others:
                if excess <= 0 and lack <= 0 and len(victims) >= at_least:
                    break
                lock = try_exclusive(path)
                if lock is not None:
                    victims.append((path, lock))
                    excess -= held[path].size
                    lack -= held[path].blocks
            if excess > 0 or lack > 0 or len(victims) < at_least:
                # What is in use now may be idle later.
                in_use = {*others} - {path for path, _ in victims}
                if not in_use or lack > sum(held[path].blocks for path in in_use):
                    raise _disk_full(version, free, used)
                raise CacheFull(
                    f"{version} needs {version.size} bytes of disk; {used} of {self._budget} are used, too much of it "
                    f"just now, and {free} are free"
                )
            for path, _ in victims:
                logger.info("evicting %s from disk, %d bytes", path.name, held[path].size)
                self.evictions += 1
                _clear(_bury(path))
        finally:
            for _, lock in victims:
                os.close(lock)

    def _unusable(self, version: ModelVersion, exc: OSError) -> DiskUnusable:
        # Not where: the text may reach clients, and the operator has set the directory.
        if exc.errno in _NO_SPACE:
            usage = self.usage()
            return _disk_full(version, usage.free, usage.used)
        return DiskUnusable(
            f"cannot keep {version} ({version.size} bytes) in the cache directory: {exc.strerror or exc}"
        )


def _files(directory: Path, fetched: Fetched | None = None) -> Files:
    return Files(directory, fetched, directory / COMPILED)


@contextmanager
def _in_use(kept: Path, compiled: Path | None) -> Iterator[None]:
    """Keep what is kept of a model read in place, if it is there and may be read, from making room for its like."""
    lock = None
    # The model is read where it is, whatever is wrong with the cache.
    with suppress(OSError):
        lock = share(compiled) if compiled else None
    # At once as well, as a process that is killed does not come to the end.
    _touch(kept)
    try:
        yield
    finally:
        _touch(kept)
        if lock is not None:
            os.close(lock)


def _others_kept(version: ModelVersion, home: Path) -> list[Path]:
    """Return where something is kept of other models read in place, least recently used first. Needs the cache's lock.

    What nobody will ask for goes, as nobody else would remove it: what was compiled of other bytes under the same name,
    and what has not been used for long.
    """
    others = []
    for path in _directories(home):
        found = read_manifest(path)
        if not found or found.files or path.name == version.digest:
            continue
        if (found.model, found.version, found.source) == (*version.id, str(version.storage)):
            _clear(_bury(path))
        elif time.time() - _last_used(path) > KEPT_TTL and (lock := try_exclusive(path / COMPILED)) is not None:
            os.close(lock)
            _clear(_bury(path))
        else:
            others.append(path)
    return sorted(others, key=_last_used)


def _make_place_for_compiled(version: ModelVersion, directory: Path, mode: int) -> None:
    """Make a directory like a version's, without its files, which are read in place. Needs the cache's lock."""
    if directory.is_dir():
        return
    new = directory.with_name(f"{_GRAVE}{directory.name}-{os.getpid()}-{time.monotonic_ns()}")
    new.mkdir(mode=mode)
    try:
        # What cannot be locked could never be removed.
        (new / COMPILED).mkdir(mode=mode)
        Manifest.of(version, {}, is_synced=True).write(new)
        new.rename(directory)
    except BaseException:
        _clear(new)
        raise


def _give_up(partial: Path, lock: int, *, is_useless: bool) -> None:
    """Let go of a partial directory, which stays for the next download or else goes."""
    try:
        if is_useless:
            _remove(partial, lock)
    finally:
        os.close(lock)


def _remove(directory: Path, lock: int) -> None:
    """Remove a directory that we have locked, if it is still the one of that name."""
    with locked(directory.parent):
        if not is_at(lock, directory):
            return
        grave = _bury(directory)
    _clear(grave)


def _disk_full(version: ModelVersion, free: int, used: int) -> DiskFull:
    return DiskFull(
        f"{version} needs {version.size} bytes of disk; {free} are free, and other versions have no more than {used}"
    )


def _adopt(version: ModelVersion, paths: Mapping[PurePosixPath, Blob], directory: Path) -> int | None:
    """Return a shared lock of the version's directory, if it is there and whole."""
    lock = share(directory)
    if lock is None:
        return None
    is_whole = False
    try:
        damage = _damage(paths, directory, lock)
        is_whole = not damage
        if is_whole:
            return lock
        logger.warning("%s is damaged on disk and will be fetched again: %s", version, damage)
        # Whoever else uses it has its files open, and keeps them.
        _remove(directory, lock)
        return None
    finally:
        if not is_whole:
            os.close(lock)


def _damage(paths: Mapping[PurePosixPath, Blob], directory: Path, lock: int) -> str:
    """Return what is wrong with a complete version, or nothing.

    It was whole when it got its name. Since then somebody may have tidied up files in /tmp one by one; and if the
    machine lost power before the files had reached its disk, they have their sizes and not their bytes.
    """
    if os.fstat(lock).st_uid not in (os.geteuid(), 0):
        return "it belongs to another user"
    manifest = read_manifest(directory)
    if manifest is None:
        return "it has no manifest"
    for path, blob in paths.items():
        try:
            size = (directory / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return f"{path} is missing"
        if size != blob.size:
            return f"{path} has {size} bytes, want {blob.size}"
    if not manifest.has_lost_power:
        return ""
    if damaged := manifest.damaged(directory):
        return f"{damaged[0]} is not what was fetched"
    # Not again by the next process. A cache that cannot be written to is one that was made elsewhere.
    with suppress(OSError):
        manifest.with_boot(boot_id()).write(directory)
    return ""


def _bury(directory: Path) -> Path:
    """Take a directory that we have locked out of sight; return where it is now. Needs the cache's lock.

    Renamed first, as a half-removed directory must not look like a version.
    """
    grave = directory.with_name(f"{_GRAVE}{directory.name}-{os.getpid()}-{time.monotonic_ns()}")
    directory.rename(grave)
    return grave


def _clear(grave: Path) -> None:
    # Only now: it brings all of Python's compressions, and a start removes nothing as a rule.
    import shutil

    # Another process may be sweeping it; what is left is swept by the next.
    shutil.rmtree(grave, ignore_errors=True)


def _sweep(home: Path) -> None:
    """Remove what nobody will go on with: what was being removed, and what was being downloaded long ago."""
    # Where the cache is not ours to write to, all stays, and does no harm.
    with locked(home), suppress(OSError):
        for path in home.glob(f"{_PARTIAL}*"):
            if not 0 <= time.time() - _last_used(path) < PARTIAL_TTL and (lock := try_exclusive(path)) is not None:
                os.close(lock)
                _bury(path)
    for grave in home.glob(f"{_GRAVE}*"):
        _clear(grave)


def _directories(home: Path) -> list[Path]:
    try:
        return [
            path for path in home.iterdir() if _DIGEST.fullmatch(path.name.removeprefix(_PARTIAL)) and path.is_dir()
        ]
    # Not there yet, or not ours; who needs it will be told.
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _held(directory: Path) -> _Held:
    stats = list(_stats(directory))
    return _Held(sum(found.st_size for found in stats), sum(found.st_blocks * 512 for found in stats))


def _stats(directory: Path) -> Iterator[os.stat_result]:
    for parent, _, names in os.walk(directory):
        # Our own files are small, and no part of what was admitted.
        for name in (name for name in names if not name.startswith(RESERVED)):
            # Removed meanwhile.
            with suppress(FileNotFoundError):
                yield Path(parent, name).lstat()


def _last_used(directory: Path) -> float:
    for path in (directory / MANIFEST, directory / JOURNAL, directory):
        # Removed meanwhile, or not ours to look at.
        with suppress(FileNotFoundError, PermissionError):
            return path.stat().st_mtime
    return 0.0


def _touch(directory: Path) -> None:
    # It may have been removed as damaged, or be on a disk that is not ours to write to.
    with suppress(OSError):
        os.utime(directory / MANIFEST)


def _missing(paths: Mapping[PurePosixPath, Blob], partial: Path) -> int:
    """Return how many bytes of disk files still need, of which some may be allocated already."""
    needed = sum(-(-blob.size // _BLOCK) * _BLOCK for blob in paths.values())
    return max(0, needed - _held(partial).blocks)


def _names(version: ModelVersion) -> str:
    names = [blob.key.removeprefix(version.prefix) for blob in version.blobs]
    return f"{len(names)} files: {', '.join(names[:10])[:200]}"


def let_all_read(directory: Path) -> None:
    """Let all users read a tree, whatever the umask of who builds an image: its servers run as somebody else."""
    for parent, _, names in os.walk(directory):
        Path(parent).chmod(0o755)
        for name in names:
            Path(parent, name).chmod(0o644)


def place_in(root: Path) -> Path:
    """Return where in ``root`` the cache is.

    That is ``root`` itself, unless it is the machine's and open to everybody, as Kubernetes makes volumes: then it is
    a directory of our own below.
    """
    # Not there yet, or not to be looked at; who needs it will be told.
    with suppress(OSError):
        found = root.stat()
        if found.st_uid == 0 and os.geteuid() != 0 and found.st_mode & 0o022:
            return root / f"decant-{os.geteuid()}"
    return root


def status_in(root: Path) -> os.stat_result:
    """Return the status of where the cache is.

    What the operator has set may be a link. In a directory that is open to everybody, anybody may have made one, so
    there it is the link's.
    """
    place = place_in(root)
    return place.stat() if place == root else place.lstat()


def _is_private(root: Path) -> bool:
    """Whether the cache's directory is there, and `_make_private` would have nothing against it."""
    try:
        found = status_in(root)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid in (os.geteuid(), 0) and not found.st_mode & 0o022


def _make_private(root: Path, mode: int) -> Path:
    """Make the cache's directory. A model is code to the engine: nobody but this user may put one there."""
    if not root.exists():
        root.mkdir(mode=mode, parents=True, exist_ok=True)
        if mode & 0o055:
            root.chmod(mode)
    place = place_in(root)
    place.mkdir(mode=mode, exist_ok=True)
    found = status_in(root)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "the directory is none")
    # What is root's and can be changed by root alone was put there when the image was built.
    if found.st_uid not in (os.geteuid(), 0):
        raise PermissionError(0, "the directory belongs to another user")
    if found.st_uid == os.geteuid() and found.st_mode & 0o022:
        place.chmod(found.st_mode & ~0o022)
    return place
