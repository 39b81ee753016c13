"""flock(2) on directories, by which processes that share a cache directory keep out of each other's way.

A lock is a descriptor; it ends when that is closed, at the latest with the process. It is the directory's and not its
name's: a directory that was renamed meanwhile is locked under its new name. So who has locked a directory asks `is_at`
whether it is still the one of that name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMEOUT = 900.0
"""Seconds to wait for another process; it may have been stopped while it held the lock."""
POLL = 0.005


@contextmanager
def locked(directory: Path, timeout: float = TIMEOUT) -> Iterator[None]:
    """Hold a directory's exclusive lock.

    Raises:
        TimeoutError: another process has held it for ``timeout`` seconds.
    """
    lock = _open(directory)
    try:
        _wait(lock, fcntl.LOCK_EX, timeout)
        yield
    finally:
        os.close(lock)


def share(directory: Path) -> int | None:
    """Return a shared lock of the directory, or None if it is not there.

    Raises:
        TimeoutError: another process has held it exclusively for `TIMEOUT` seconds.
    """
    try:
        lock = _open(directory)
    except FileNotFoundError:
        return None
    try:
        _wait(lock, fcntl.LOCK_SH)
        if is_at(lock, directory):
            return lock
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def try_exclusive(directory: Path) -> int | None:
    """Return the exclusive lock of the directory, or None if it is locked, not there, or not ours to open."""
    try:
        lock = _open(directory)
    except (FileNotFoundError, PermissionError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(lock, directory):
            return lock
    except BlockingIOError:
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def downgrade(lock: int) -> None:
    """Make an exclusive lock a shared one. Others may lock in between: another lock has to keep them out."""
    fcntl.flock(lock, fcntl.LOCK_SH)


def is_at(lock: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), directory.stat())
    except FileNotFoundError:
        return False


def _open(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)


def _wait(lock: int, operation: int, timeout: float = TIMEOUT) -> None:
    # Not flock's own waiting, which has no end.
    deadline = time.monotonic() + timeout
    while True:
        try:
            return fcntl.flock(lock, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process does not let go of it") from None
            time.sleep(POLL)
