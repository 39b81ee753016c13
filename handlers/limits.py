"""How much disk, memory and CPU this process may use, as its machine, its container and its platform have it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from handlers.settings import lambda_memory
from model_cache.disk import free_at

_MANY = 10_000
"""Files of a cache directory that are counted: a model has a few, and a server may not start late for their sake."""
_NO_LIMIT = 1 << 60
"""Version 1 of cgroups says "no limit" with the largest number it has, which depends on the machine's page size."""
CPU_OF_LAMBDA = 1769
"""MB of a function's memory that buy it one CPU."""
MEMORY_SHARE = 0.7
"""Of the memory there is, for loaded models; the rest is for requests, and for the peak while a model compiles."""


def disk_room(directory: Path) -> int:
    """Return the bytes of what a directory, which need not exist, holds already and of what is free there."""
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    return free_at(existing) + sum(map(_size, islice(_files(directory), _MANY)))


def is_in_memory(directory: Path, root: Path = Path("/")) -> bool:
    """Return whether what is written to a directory, which need not exist, takes memory, as on a tmpfs.

    Args:
        root: where ``/proc`` is.
    """
    return filesystem_of(directory, root) in ("tmpfs", "ramfs")


def filesystem_of(directory: Path, root: Path = Path("/")) -> str:
    """Return the type of the file system that a directory is on; empty if /proc does not say."""
    found = PurePosixPath(), ""
    for line in _read(root / "proc" / "self" / "mountinfo").splitlines():
        # See proc(5): the mount point is the fifth field, and the type comes after the hyphen.
        fields, _, rest = line.partition(" - ")
        point = PurePosixPath(fields.split()[4].replace("\\040", " "))
        # Of two mounts on one point the later hides the earlier.
        if directory.absolute().is_relative_to(point) and len(point.parts) >= len(found[0].parts):
            found = point, rest.partition(" ")[0]
    return found[1]


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


def cpu_room(root: Path = Path("/")) -> float:
    """Return how many CPUs this process may use at a time: those it may run on, or fewer if it is granted less.

    Args:
        root: where ``/proc`` and ``/sys`` are.
    """
    machine = len(os.sched_getaffinity(0))
    # What a function's memory buys is nowhere to be seen in its environment: it sees two or more, and is throttled.
    function = [memory / CPU_OF_LAMBDA for memory in [lambda_memory()] if memory]
    return min([machine, *_cpu_quotas(root), *function])


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
    for is_version_2, group in groups(root, "memory"):
        yield group / ("memory.max" if is_version_2 else "memory.limit_in_bytes")


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield how many CPUs our group and those above it may use, as far as that is limited."""
    for is_version_2, group in groups(root, "cpu"):
        if is_version_2:
            # As in "150000 100000": microseconds of CPU in each so many microseconds.
            quota, _, period = _read(group / "cpu.max").partition(" ")
        else:
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if (time := _number(quota)) and (of := _number(period)):
            yield time / of


def groups(root: Path, controller: str) -> Iterator[tuple[bool, Path]]:
    """Yield the directories where limits may be, of our group and all above it, as each of them binds us.

    With each comes whether it is of version 2 of cgroups.
    """
    mount = root / "sys" / "fs" / "cgroup"
    for controllers, group in _own_groups(root, controller):
        for parent in (group, *group.parents):
            # Version 2 has one hierarchy, whose line in /proc names no controllers.
            if not controllers:
                yield True, mount / parent
            elif controller in controllers.split(","):
                # Controllers that share a hierarchy, as cpu and cpuacct do, each have a link to it.
                yield False, mount / controller / parent


def _own_groups(root: Path, controller: str) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield the controllers and the group of each line of /proc/self/cgroup; see cgroups(7)."""
    # Inside a container the group is either the top, or has the host's name and is not to be found: the limit is at
    # the top all the same.
    yield "", PurePosixPath()
    yield controller, PurePosixPath()
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        # A group beside or above what this namespace shows begins with /.. and is out of sight.
        if not group.startswith("/.."):
            yield controllers, PurePosixPath(group.lstrip("/"))


def _limit(path: Path) -> int | None:
    limit = _number(_read(path))
    return limit if 0 < limit < _NO_LIMIT else None


def _number(text: str) -> int:
    # Neither "max", -1 nor a file that is not there is a number, and 0 is no limit.
    return int(text) if text.strip().isdecimal() else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
