"""HOME, the directory for temporary files, the cache directory, the log file: whether they can be used."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from handlers.build import open_disk_cache
from handlers.doctor.finding import Finding, Findings, Site, ok, problem, warning
from handlers.limits import filesystem_of
from model_cache.disk import place_in as place_of
from model_cache.disk import status_in

_OF_NETWORKS = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.gcsfuse", "fuse.s3fs", "fuse.blobfuse2", "fuse.rclone")


def check_home(site: Site) -> Findings:
    home = site.environ.get("HOME", "")
    if not home:
        yield ok("home", "HOME", "not set, and not needed")
        return
    path = Path(home)
    if not path.is_dir():
        yield ok("home", "HOME", f"{home} is no directory, and none is needed")
        return
    what = "can be written" if _can_write(path) is None else "cannot be written, and need not be"
    yield ok("home", "HOME", f"{home} {what}")


def check_temporary(site: Site) -> Findings:
    try:
        found = tempfile.gettempdir()
    except OSError:
        detail = "no directory for temporary files can be written: TMPDIR, /tmp, /var/tmp; want one"
        yield problem("tmp", "temporary files", detail, "docker run --tmpfs /tmp, an emptyDir at /tmp, or set TMPDIR")
        return
    given = site.environ.get("TMPDIR")
    if given and Path(given).resolve() != Path(found).resolve():
        detail = f"TMPDIR is {given}, which cannot be written; {found} is used"
        yield warning("tmp", "temporary files", detail, "make it writable, or unset TMPDIR")
        return
    yield ok("tmp", "temporary files", f"{found} can be written")


def check_cache_directory(site: Site) -> Findings:
    """As `model_cache.disk` wants it: ours or root's, for nobody else to write to, with locks."""
    root = Path(site.settings.cache_dir).absolute()
    place = place_of(root)
    title = f"cache directory {place}"
    try:
        found = status_in(root)
    except (FileNotFoundError, NotADirectoryError):
        yield _not_yet(place, title)
        return
    except OSError as exc:
        yield _unusable(title, f"cannot be looked at: {exc.strerror}")
        return
    if not stat.S_ISDIR(found.st_mode):
        yield _unusable(title, "is no directory")
        return
    if found.st_uid not in (os.geteuid(), 0):
        detail = f"belongs to user {found.st_uid}; want {os.geteuid()}, who runs this, or root: a model is code"
        yield _unusable(title, detail)
        return
    reason = _can_write(place)
    if reason in (errno.EACCES, errno.EPERM, errno.EROFS) and _has_versions(site):
        detail = "cannot be written: what is in it is served, and no other version can be kept"
        yield warning(
            "cache.directory", title, detail, "as it should be for an image's own; else see who it belongs to"
        )
        return
    if reason is not None:
        yield _cannot_write(title, reason)
        return
    yield from _locks(site, place, title)


def _has_versions(site: Site) -> bool:
    return any(entry.is_complete for entry in open_disk_cache(site.settings).entries())


def is_read_only(site: Site) -> bool:
    """Whether there is a cache directory in which nothing can be kept."""
    place = place_of(Path(site.settings.cache_dir).absolute())
    return place.is_dir() and _can_write(place) is not None


def _not_yet(place: Path, title: str) -> Finding:
    parent = place
    while not parent.exists():
        parent = parent.parent
    reason = _can_write(parent)
    if reason is None:
        return ok("cache.directory", title, f"is not there yet and can be made in {parent}")
    return _cannot_write(title, f"is not there, and cannot be made in {parent}: {os.strerror(reason)}")


def _cannot_write(title: str, reason: int | str) -> Finding:
    if reason in (errno.ENOSPC, errno.EDQUOT):
        return problem("cache.directory", title, "is full; want room for models", "make the volume larger, or empty it")
    detail = reason if isinstance(reason, str) else f"cannot be written: {os.strerror(reason)}"
    return _unusable(title, detail)


def _unusable(title: str, detail: str) -> Finding:
    advice = "set DECANT_CACHE_DIR to a directory of this user's: a tmpfs or emptyDir at /tmp, or a volume with fsGroup"
    return problem("cache.directory", title, detail, advice)


def _locks(site: Site, place: Path, title: str) -> Findings:
    kind = filesystem_of(place, site.root)
    reason = _can_lock(place)
    if reason is not None:
        detail = f"flock(2) fails on it ({kind or 'unknown file system'}): {os.strerror(reason)}; want locks"
        yield problem("cache.locks", title, detail, "use a local disk, an emptyDir, or NFS 4 mounted with locks")
        return
    if kind in _OF_NETWORKS:
        detail = f"is on {kind}: locks work here, but may not reach other machines"
        advice = "give each machine a cache of its own, or make sure that the mount has locks that all machines see"
        yield warning("cache.locks", title, detail, advice)
        return
    yield ok("cache.directory", title, f"can be written and locked ({kind or 'unknown file system'})")


def check_log(site: Site) -> Findings:
    if not site.settings.log_path:
        return
    path = Path(site.settings.log_path)
    there = path if path.exists() else path.parent
    if os.access(there, os.W_OK):
        yield ok("log", f"log file {path}", "can be written")
        return
    advice = "set log_path to a file in a directory that can be written, or leave it out: logs go to standard error"
    yield problem("log", f"log file {path}", f"{there} cannot be written", advice)


def _can_write(directory: Path) -> int | None:
    """Write a file and remove it; return the error's number, or None if there is none."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=".decant-doctor-", dir=directory)
    except OSError as exc:
        return exc.errno or errno.EIO
    try:
        # What is full takes names, and no bytes.
        os.write(descriptor, b"\0" * 4096)
    except OSError as exc:
        return exc.errno or errno.EIO
    finally:
        os.close(descriptor)
        with suppress(OSError):
            Path(name).unlink()
    return None


def _can_lock(directory: Path) -> int | None:
    """Lock a directory shared, for a moment; return as `_can_write`."""
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        return exc.errno or errno.EIO
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    # Somebody has it: so locks there are.
    except BlockingIOError:
        return None
    except OSError as exc:
        return exc.errno or errno.EIO
    finally:
        os.close(lock)
    return None
