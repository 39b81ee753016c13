"""How much disk and memory this process may use, as its machine and its container have it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

_MANY = 10_000
"""Files of a cache directory that are counted: a model has a few, and a server may not start late for their sake."""
_NO_LIMIT = 1 << 60
"""Version 1 of cgroups says "no limit" with the largest number it has, which depends on the machine's page size."""


def disk_room(directory: Path) -> int:
    """Return the bytes of what a directory, which need not exist, holds already and of what is free there."""
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free + sum(map(_size, islice(_files(directory), _MANY)))


def is_in_memory(directory: Path, root: Path = Path("/")) -> bool:
    """Return whether what is written to a directory, which need not exist, takes memory, as on a tmpfs.

    Args:
        root: where ``/proc`` is.
    """
    found = PurePosixPath(), ""
    for line in _read(root / "proc" / "self" / "mountinfo").splitlines():
        # See proc(5): the mount point is the fifth field, and the type comes after the hyphen.
        fields, _, rest = line.partition(" - ")
        point = PurePosixPath(fields.split()[4].replace("\\040", " "))
        # Of two mounts on one point the later hides the earlier.
        if directory.absolute().is_relative_to(point) and len(point.parts) >= len(found[0].parts):
            found = point, rest.partition(" ")[0]
    return found[1] in ("tmpfs", "ramfs")


def memory_room(root: Path = Path("/")) -> int:
    """Return the bytes of memory that the machine has, or that the container may use if these are fewer."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit(root)
    return machine if limit is None else min(machine, limit)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the least of the memory limits of this process's cgroup and those above it, or None if there is none.

    Args:
        root: where ``/proc`` and ``/sys`` are.
    """
    limits = [limit for path in _limit_files(root) if (limit := _limit(path)) is not None]
    return min(limits, default=None)


def _files(directory: Path) -> Iterator[Path]:
    # Directories that cannot be read are skipped, and no link is followed.
    for parent, _, names in islice(os.walk(directory), _MANY):
        for name in names:
            yield Path(parent, name)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    # Removed meanwhile.
    except OSError:
        return 0


def _limit_files(root: Path) -> Iterator[Path]:
    """Yield where limits may be, in our group and all above it: each of them binds us."""
    mount = root / "sys" / "fs" / "cgroup"
    for controllers, group in _groups(root):
        for parent in (group, *group.parents):
            # Version 2 has one hierarchy, whose line in /proc names no controllers.
            if not controllers:
                yield mount / parent / "memory.max"
            elif "memory" in controllers.split(","):
                yield mount / "memory" / parent / "memory.limit_in_bytes"


def _groups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield the controllers and the group of each line of /proc/self/cgroup; see cgroups(7)."""
    # Inside a container the group is either the top, or has the host's name and is not to be found: the limit is at
    # the top all the same.
    yield "", PurePosixPath()
    yield "memory", PurePosixPath()
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        # A group beside or above what this namespace shows begins with /.. and is out of sight.
        if not group.startswith("/.."):
            yield controllers, PurePosixPath(group.lstrip("/"))


def _limit(path: Path) -> int | None:
    text = _read(path).strip()
    # Neither "max" nor a file that is not there is a number.
    limit = int(text) if text.isdecimal() else _NO_LIMIT
    return limit if 0 < limit < _NO_LIMIT else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
