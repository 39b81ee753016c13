"""A version's files on local disk: whole or not at all.

``<cache>/<digest>/`` is complete whenever it exists: the files are written to a private directory beside it, which
is then renamed. A crash leaves a directory that no look-up finds, and that the next process to come removes.

Processes share the directory by way of flock(2) on the directories in it, which ends with the process that holds it:
shared by those who use a version, exclusive for whoever writes or removes one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from model_cache.errors import DiskUnusable, LoadFailed, StorageUnavailable
from model_cache.repository import Contents, ModelVersion
from model_cache.storage import Blob

logger = logging.getLogger(__name__)

PARALLEL = 4
"""Blobs fetched at once. An IR has two, of which one is large."""
_PARTIAL = ".partial-"
_TRIES = 3
_MAX_NAME = 255


class LocalModel:
    """A version's files in ``directory``. If they are a copy, `close` removes it unless another process uses it too."""

    def __init__(self, directory: Path, size: int, lock: int | None = None) -> None:
        self.directory = directory
        self.size = size
        """Bytes of the cache's disk that it holds: 0 if the files are read where they are stored."""
        # A descriptor of the directory that holds a shared flock; None for files that are not ours.
        self._lock = lock

    def close(self) -> None:
        if self._lock is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _bury(self.directory)
        except BlockingIOError:
            logger.info("leaving %s to another that uses it", self.directory.name)
        finally:
            os.close(self._lock)


class Downloader:
    """Brings versions to ``root``, which belongs to this user alone and is made when first needed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._is_swept = False

    def estimate(self, contents: Contents) -> int:
        return 0 if contents.version.storage.in_place else contents.version.size

    def load(self, contents: Contents) -> LocalModel:
        """Return the version's files, downloaded unless an earlier process has left them here.

        Raises:
            StorageUnavailable: a blob cannot be had, or is no longer what was listed.
            LoadFailed: a blob's name would leave the directory.
            DiskUnusable: the files cannot be kept here.
        """
        version = contents.version
        if version.storage.in_place:
            return LocalModel(version.storage.in_place / version.prefix, 0)
        try:
            return self._load(version, self._root / contents.digest)
        except OSError as exc:
            # Not where: the text may reach clients, and the operator has set the directory.
            raise DiskUnusable(
                f"cannot keep {version} ({version.size} bytes) in the cache directory: {exc.strerror or exc}"
            ) from exc

    def _load(self, version: ModelVersion, target: Path) -> LocalModel:
        _make_private(self._root)
        if not self._is_swept:
            _sweep(self._root)
            self._is_swept = True
        for _ in range(_TRIES):
            model = _adopt(version, target)
            if model is not None:
                return model
            self._download(version, target)
        raise OSError(0, "its files are removed as soon as they are there")

    def _download(self, version: ModelVersion, target: Path) -> None:
        paths = _paths(version)
        started = time.perf_counter()
        # Against a sweep, to which a directory that is not locked yet looks left over.
        with _locked(self._root, fcntl.LOCK_SH):
            partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{version.digest}-", dir=self._root))
            lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            _fetch_all(version, {blob: partial / path for blob, path in paths.items()})
            _publish(partial, target)
        finally:
            # A no-op after the rename; otherwise nothing of a failed download stays.
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)
        seconds = time.perf_counter() - started
        logger.info("downloaded %s from %s, %d bytes in %.2f s", version, version.storage, version.size, seconds)


def _adopt(version: ModelVersion, target: Path) -> LocalModel | None:
    """Return the files that are there, if they all are."""
    lock = _share(target)
    if lock is None:
        return None
    if _is_whole(version, target):
        return LocalModel(target, version.size, lock)
    # It was whole when it got its name; somebody tidies up files in /tmp one by one.
    logger.warning("%s is damaged on disk and will be fetched again", version)
    os.close(lock)
    _bury(target)
    return None


def _share(directory: Path) -> int | None:
    """Return a descriptor with a shared lock of the directory, or None if it is not there."""
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        # Waits no longer than another process takes to remove it.
        fcntl.flock(lock, fcntl.LOCK_SH)
        if os.path.samestat(os.fstat(lock), directory.stat()):
            return lock
    except FileNotFoundError:
        pass
    os.close(lock)
    return None


def _is_whole(version: ModelVersion, directory: Path) -> bool:
    try:
        return all((directory / _relative(blob, version.prefix)).stat().st_size == blob.size for blob in version.blobs)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _bury(directory: Path) -> None:
    # Renamed first: a half-removed directory must not look like a version.
    grave = directory.with_name(f"{_PARTIAL}{directory.name}-{os.getpid()}-{time.monotonic_ns()}")
    try:
        directory.rename(grave)
    # Somebody who tidies up /tmp has been here before.
    except FileNotFoundError:
        return
    # Another process may be sweeping it; what is left is swept by the next.
    shutil.rmtree(grave, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove what processes that were killed have left half done."""
    with _locked(root, fcntl.LOCK_EX):
        for partial in root.glob(f"{_PARTIAL}*"):
            # Somebody is at it, or has finished just now.
            with suppress(BlockingIOError, FileNotFoundError), _locked(partial, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(directory: Path, operation: int) -> Iterator[None]:
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, operation)
        yield
    finally:
        os.close(lock)


def _fetch_all(version: ModelVersion, paths: dict[Blob, Path]) -> None:
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="download") as pool:
        # Largest first, so that the last to finish started early.
        order = sorted(paths, key=lambda blob: blob.size, reverse=True)
        fetches = [pool.submit(version.storage.fetch, blob, paths[blob]) for blob in order]
        try:
            for fetch in fetches:
                fetch.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    _check_sizes(paths)


def _check_sizes(paths: dict[Blob, Path]) -> None:
    for blob, path in paths.items():
        if (size := path.stat().st_size) != blob.size:
            raise StorageUnavailable(f"{blob.key} came as {size} bytes, was listed with {blob.size}")


def _publish(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:
        # Another process was faster; its copy is as good as ours.
        if not target.is_dir():
            raise


def _paths(version: ModelVersion) -> dict[Blob, PurePosixPath]:
    paths = {blob: _relative(blob, version.prefix) for blob in version.blobs}
    directories = {parent for path in paths.values() for parent in path.parents}
    for blob, path in paths.items():
        # A bucket may hold both "a" and "a/b"; a disk does not.
        if path in directories:
            raise LoadFailed(f"blob name {blob.key!r} is that of a directory too")
    return paths


def _relative(blob: Blob, prefix: str) -> PurePosixPath:
    """Return the blob's path below its version's directory; keys come from outside and may try to leave it."""
    name = blob.key.removeprefix(prefix)
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise LoadFailed(f"blob name {blob.key!r} is not a plain relative path")
    if any(len(part.encode()) > _MAX_NAME for part in parts):
        raise LoadFailed(f"blob name {blob.key[:100]!r} has a part of more than {_MAX_NAME} bytes")
    return PurePosixPath(*parts)


def _make_private(root: Path) -> None:
    """Make ``root`` for this user only. A model is code to the engine: nobody else may put one there."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(0, "the directory belongs to another user")
    if found.st_mode & 0o022:
        root.chmod(found.st_mode & ~0o022)
