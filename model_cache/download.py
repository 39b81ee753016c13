"""A version's files on local disk: whole or not at all.

``<cache>/<digest>/`` is complete whenever it exists: the files are written to a private directory beside it, which
is then renamed. A crash leaves a directory that no look-up finds.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from model_cache.errors import LoadFailed, StorageUnavailable
from model_cache.repository import Contents, ModelVersion
from model_cache.storage import Blob

logger = logging.getLogger(__name__)

PARALLEL = 4
"""Blobs fetched at once. An IR has two, of which one is large."""
_PARTIAL = ".partial-"


class LocalModel:
    """A version's files in ``directory``, and what to do when nobody needs them any more."""

    def __init__(self, directory: Path, size: int, remove: Callable[[LocalModel], None] | None = None) -> None:
        self.directory = directory
        self.size = size
        """Bytes of the cache's disk that it holds: 0 if the files are read where they are stored."""
        self._remove = remove

    def close(self) -> None:
        if self._remove:
            self._remove(self)


class Downloader:
    """Brings versions to ``root``, which belongs to this user alone and is made when first needed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # Guards _owners: the last model made of each directory, and the only one whose close removes it. A version
        # that is retired while in use and then loaded anew has two models of one directory.
        self._lock = threading.Lock()
        self._owners: dict[Path, LocalModel] = {}

    def estimate(self, contents: Contents) -> int:
        return 0 if contents.version.storage.in_place else contents.version.size

    def load(self, contents: Contents) -> LocalModel:
        """Return the version's files, downloaded unless an earlier process has left them here.

        Raises:
            StorageUnavailable: a blob cannot be had, or is no longer what was listed.
            LoadFailed: a blob's name would leave the directory, or the disk cannot take it.
        """
        version = contents.version
        if version.storage.in_place:
            return LocalModel(version.storage.in_place / version.prefix, 0)
        target = self._root / contents.digest
        try:
            _make_private(self._root)
            model = self._own(target, version.size)
            if model is None:
                self._download(version, target)
                model = self._own(target, version.size)
        except OSError as exc:
            raise LoadFailed(f"cannot store {version} ({version.size} bytes) in {self._root}: {exc.strerror}") from exc
        if model is None:
            raise LoadFailed(f"the files of {version} were removed from {self._root} as soon as they were there")
        return model

    def _own(self, target: Path, size: int) -> LocalModel | None:
        with self._lock:
            self._owners.pop(target, None)
            if not target.is_dir():
                return None
            model = self._owners[target] = LocalModel(target, size, self._remove)
            return model

    def _remove(self, model: LocalModel) -> None:
        # Renamed first: a half-removed directory must not look like a version.
        grave = self._root / f"{_PARTIAL}{model.directory.name}-{os.getpid()}-{time.monotonic_ns()}"
        with self._lock:
            if self._owners.get(model.directory) is not model:
                return
            del self._owners[model.directory]
            try:
                model.directory.rename(grave)
            # Somebody who tidies up /tmp has been here before.
            except FileNotFoundError:
                return
        shutil.rmtree(grave)

    def _download(self, version: ModelVersion, target: Path) -> None:
        paths = {blob: _relative(blob, version.prefix) for blob in version.blobs}
        started = time.perf_counter()
        partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{version.digest}-", dir=self._root))
        try:
            _fetch_all(version, {blob: partial / path for blob, path in paths.items()})
            _publish(partial, target)
        finally:
            # A no-op after the rename; otherwise nothing of a failed download stays.
            shutil.rmtree(partial, ignore_errors=True)
        seconds = time.perf_counter() - started
        logger.info("downloaded %s from %s, %d bytes in %.2f s", version, version.storage, version.size, seconds)


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


def _relative(blob: Blob, prefix: str) -> PurePosixPath:
    """Return the blob's path below its version's directory; keys come from outside and may try to leave it."""
    name = blob.key.removeprefix(prefix)
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise LoadFailed(f"blob name {blob.key!r} is not a plain relative path")
    return PurePosixPath(*parts)


def _make_private(root: Path) -> None:
    """Make ``root`` for this user only. A model is code to the engine: nobody else may put one there."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(0, "the directory belongs to another user")
    if found.st_mode & 0o022:
        root.chmod(found.st_mode & ~0o022)
