"""Versions as plain directories that a server reads in place, with no store and no cache: what goes into an image.

Each is there as a whole or not at all: its files are written to a hidden directory beside it, which is then renamed.
What is there already stays as it is, and is refused unless it is the same, byte for byte.
"""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from model_cache.compiled import DIRECTORY as COMPILED
from model_cache.compiled import CompiledDownload, wanted
from model_cache.disk import Fetched, Watch, let_all_read
from model_cache.download import JOURNAL, STREAMS, Download, checksum_of, paths_of, reserve
from model_cache.errors import DiskFull, DiskUnusable, LoadFailed
from model_cache.locks import try_exclusive
from model_cache.manifest import sync
from model_cache.repository import ModelVersion
from model_cache.storage import Blob, VouchesForChecksums

_PARTIAL = ".partial-"
"""No server takes a directory of such a name for a version."""
_READ = 1 << 20
_COMPILED_PATIENCE = 60.0
"""Seconds: nobody waits for an answer meanwhile, and it saves each start of the image the compiling."""


def refuse_other(version: ModelVersion, target: Path, marker: str = "") -> None:
    """Look whether what is at the target can be the version, by names and sizes.

    Args:
        marker: the file that a version must have to be served; empty for none.

    Raises:
        DiskUnusable: it cannot be.
        LoadFailed: there is no model in the version, or a blob's name would leave the directory.
    """
    paths = _paths(version, marker)
    try:
        difference = _difference(paths, target)
    except OSError as exc:
        raise _unwritable(version, target, exc) from exc
    if difference:
        raise _other(version, target, difference)


def lay_out(version: ModelVersion, target: Path, watch: Watch, marker: str = "") -> Fetched | None:
    """Have the version's files at the target and on the disk itself, for all users to read.

    Args:
        watch: see `Watch`.
        marker: as for `refuse_other`.

    Returns:
        None if they were there.

    Raises:
        BlobChanged, StorageUnavailable: a blob cannot be had, or is no longer what was listed.
        LoadFailed: as `refuse_other`.
        DiskFull, DiskUnusable: the files cannot be written, or others are there.
    """
    paths = _paths(version, marker)
    began = time.perf_counter()
    try:
        if difference := _difference(paths, target):
            raise _other(version, target, difference)
        if target.exists() and _is_known_to_be(version, paths, target):
            return None
        _make(target.parent)
        _sweep(target.parent)
        partial = target.parent / f"{_PARTIAL}{version.digest}"
        partial.mkdir(exist_ok=True)
        lock = try_exclusive(partial)
        if lock is None:
            raise DiskUnusable(f"cannot write {version} to {target}: another process does")
        try:
            is_new = _fill(version, paths, partial, target, watch)
        finally:
            # Gone as a rule, as it has the version's name now.
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)
    except OSError as exc:
        raise _unwritable(version, target, exc) from exc
    return Fetched(version.size, time.perf_counter() - began) if is_new else None


def _paths(version: ModelVersion, marker: str) -> Mapping[PurePosixPath, Blob]:
    if not version.files:
        raise LoadFailed(f"no model in {version}")
    paths = paths_of(version)
    markers = [blob for blob in version.blobs if marker and blob.key == version.prefix + marker]
    return {**paths, **{PurePosixPath(marker): blob for blob in markers}}


def _fill(
    version: ModelVersion, paths: Mapping[PurePosixPath, Blob], partial: Path, target: Path, watch: Watch
) -> bool:
    """Fetch the files, and give them the target's name; return False if the same are there."""
    compiled = CompiledDownload(version.storage, wanted(version, ""))
    try:
        reserve(partial, paths)
        with watch(version) as progress:
            streams = threading.BoundedSemaphore(STREAMS)
            Download(version.storage, paths, partial, streams=streams, progress=progress).run()
        if target.exists():
            for path in paths:
                if not filecmp.cmp(partial / path, target / path, shallow=False):
                    raise _other(version, target, f"{path} has other bytes")
            return False
        arrived = compiled.end(_COMPILED_PATIENCE)
    finally:
        compiled.end(0)
    (partial / JOURNAL).unlink(missing_ok=True)
    for name, data in arrived.items():
        (partial / COMPILED).mkdir(exist_ok=True)
        (partial / COMPILED / name).write_bytes(data)
    let_all_read(partial)
    sync(partial, {**paths, **{PurePosixPath(COMPILED, name): None for name in arrived}})
    partial.rename(target)
    sync(target.parent, {PurePosixPath(target.name): None})
    return True


def _difference(paths: Mapping[PurePosixPath, Blob], target: Path) -> str:
    """Return what tells the files at the target from these, but for their bytes; empty if nothing does."""
    if not target.exists():
        return "it is a link to what is not there" if target.is_symlink() else ""
    if not target.is_dir():
        return "it is no directory"
    found = {PurePosixPath(path.relative_to(target)): path for path in target.rglob("*") if not path.is_dir()}
    for path, blob in paths.items():
        if path not in found:
            return f"{path} is missing"
        # A link to nowhere has no size.
        size = found[path].stat().st_size if found[path].is_file() else None
        if size != blob.size:
            return f"{path} has {size} bytes, want {blob.size}"
    # What was compiled is no part of a version: it comes and goes.
    others = sorted(str(path) for path in found if path not in paths and path.parts[0] != COMPILED)
    return f"{others[0]} is none of its files" if others else ""


def _is_known_to_be(version: ModelVersion, paths: Mapping[PurePosixPath, Blob], target: Path) -> bool:
    """Return whether the store's checksums say that these are the files; False if they do not say."""
    for path, blob in paths.items():
        checksum = checksum_of(blob)
        if checksum is None:
            return False
        with (target / path).open("rb", buffering=0) as file:
            while data := file.read(_READ):
                checksum.update(data)
        if checksum.hexdigest() != blob.checksum.partition(":")[2]:
            storage = version.storage
            if isinstance(storage, VouchesForChecksums) and not storage.vouches_for(blob):
                return False
            raise _other(version, target, f"{path} has other bytes")
    return True


def _other(version: ModelVersion, target: Path, difference: str) -> DiskUnusable:
    return DiskUnusable(
        f"{target} is there, and is not {version} of {version.storage}: {difference}; want another directory, "
        "or that one removed"
    )


def _unwritable(version: ModelVersion, target: Path, exc: OSError) -> DiskUnusable:
    kind = DiskFull if exc.errno in (errno.ENOSPC, errno.EDQUOT) else DiskUnusable
    return kind(f"cannot write {version} ({version.size} bytes) to {target}: {exc.strerror or exc}")


def _make(directory: Path) -> None:
    """Make a directory and those above, for all to read whatever the umask of who builds an image."""
    for path in reversed((directory, *directory.parents)):
        if not path.exists():
            path.mkdir(exist_ok=True)
            path.chmod(0o755)


def _sweep(home: Path) -> None:
    """Remove what a process has left that was killed."""
    for left in home.glob(f"{_PARTIAL}*"):
        if (lock := try_exclusive(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
