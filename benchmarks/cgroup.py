"""A control group of the kernel: so much memory, so much of a processor. Needs root, and writes raw files."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD = 100_000
"""Microseconds, the kernel's default."""


def why_not() -> str | None:
    """Return why there can be no group here, or None."""
    if os.geteuid() != 0:
        return "control groups need root"
    if not _directories("decant"):
        return f"no control groups for memory and cpu below {ROOT}"
    return None


@contextmanager
def cgroup(memory: int, cpus: float) -> Iterator[Sequence[str]]:
    """Make a group of ``memory`` bytes and ``cpus``; yield a command that enters it and runs the rest of the line.

    Whatever is in it is killed in the end.
    """
    quota = round(PERIOD * cpus)
    directories = _directories(f"decant-bench-{os.getpid()}")
    with ExitStack() as stack:
        for directory in directories:
            directory.mkdir()
            stack.callback(_remove, directory)
            for name, value in _limits(memory, quota).items():
                # A kernel without swap accounting has no memsw, version 2 none of version 1's.
                if (directory / name).exists():
                    (directory / name).write_text(value)
        enter = "; ".join(f"echo $$ > {directory}/cgroup.procs" for directory in directories)
        yield ("/bin/sh", "-c", f'{enter}; exec "$@"', "sh")


def _directories(name: str) -> list[Path]:
    """Where the group is: once in version 2, if its controllers are there; else once for each controller."""
    with suppress(OSError):
        if {"memory", "cpu"} <= set((ROOT / "cgroup.subtree_control").read_text().split()):
            return [ROOT / name]
    hierarchies = [ROOT / "memory", ROOT / "cpu"]
    return [path / name for path in hierarchies] if all(path.is_dir() for path in hierarchies) else []


def _limits(memory: int, quota: int) -> dict[str, str]:
    return {
        "memory.max": str(memory),
        "memory.swap.max": "0",
        "cpu.max": f"{quota} {PERIOD}",
        "memory.limit_in_bytes": str(memory),
        "memory.memsw.limit_in_bytes": str(memory),
        "cpu.cfs_period_us": str(PERIOD),
        "cpu.cfs_quota_us": str(quota),
    }


def _remove(directory: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        for pid in (directory / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            directory.rmdir()
        except OSError:
            # Busy until the last of those killed is gone.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
