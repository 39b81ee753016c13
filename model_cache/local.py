"""Models on disk. They are read where they lie, so that their pages are mapped from there and nothing is copied."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from model_cache.errors import BlobChanged, StorageUnavailable
from model_cache.storage import MAX_BLOBS, PIECE, Blob, StorageOptions


def open(url: str, options: StorageOptions) -> LocalStorage:
    parts = urlsplit(url)
    if parts.scheme != "file":
        return LocalStorage(Path(url))
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{url!r} names the host {parts.netloc!r}; want file:///path")
    if not parts.path:
        raise ValueError(f"{url!r} names no directory; want file:///path")
    return LocalStorage(Path(unquote(parts.path)))


class LocalStorage:
    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.in_place: Path | None = self._root

    def __str__(self) -> str:
        return str(self._root)

    def list(self, prefix: str = "") -> Iterator[Blob]:
        count = 0
        for path in self._files(self._root, is_top=True):
            key = path.relative_to(self._root).as_posix()
            if not key.startswith(prefix):
                continue
            count += 1
            if count > MAX_BLOBS:
                raise StorageUnavailable(
                    f"more than {MAX_BLOBS} files below {self._root}; is this a model's directory?"
                )
            try:
                stat = path.stat()
            except OSError as exc:
                raise StorageUnavailable(f"cannot read {path}: {exc.strerror}") from exc
            yield _blob(key, path, stat)

    def fetch(self, blob: Blob, start: int, stop: int) -> Generator[bytes | memoryview, None, None]:
        source = self._root / blob.key
        try:
            with source.open("rb", buffering=0) as file:
                file.seek(start)
                while start < stop:
                    piece = file.read(min(PIECE, stop - start))
                    # After the read, so that what is given is known to be of the file that was listed.
                    if not piece or _blob(blob.key, source, os.fstat(file.fileno())) != blob:
                        raise BlobChanged(f"{source} is no longer what was listed")
                    start += len(piece)
                    yield piece
        except FileNotFoundError as exc:
            raise BlobChanged(f"{source} has gone since it was listed") from exc
        except OSError as exc:
            raise StorageUnavailable(f"cannot read {source}: {exc.strerror}") from exc

    def put(self, key: str, data: bytes) -> None:
        target = self._root / key
        # Hidden, so that whoever lists meanwhile does not take it for anything.
        new = target.with_name(f".{target.name}.{os.getpid()}-{time.monotonic_ns()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                new.write_bytes(data)
                new.replace(target)
            except BaseException:
                new.unlink(missing_ok=True)
                raise
        except OSError as exc:
            raise StorageUnavailable(f"cannot write {target}: {exc.strerror}") from exc

    def _files(self, directory: Path, *, is_top: bool = False) -> Iterator[Path]:
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as exc:
            raise StorageUnavailable(f"cannot read {directory}: {exc.strerror}") from exc
        for entry in entries:
            # Tools that replace a version at one stroke make it a link: git-sync, Kubernetes' volumes. Other links to
            # directories are not followed: one that points upwards has no end.
            if _is_directory(entry, follow_symlinks=is_top and entry.name.isdigit()):
                yield from self._files(Path(entry.path))
            elif _is_file(entry):
                yield Path(entry.path)


def _blob(key: str, path: Path, stat: os.stat_result) -> Blob:
    # With the path: the same inode under another name is read elsewhere, and may be gone there.
    return Blob(key, stat.st_size, f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{path}", modified=stat.st_mtime)


def _is_directory(entry: os.DirEntry[str], *, follow_symlinks: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow_symlinks)
    # As below.
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    # A link to itself, or to where we may not look.
    except OSError:
        return False
