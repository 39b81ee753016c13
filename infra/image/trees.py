"""Trees of files that become layers: parts left out, parts copied, nothing in them that tells when and by whom."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

TIME = 315_532_800
"""What every file was last changed at: 1980, the earliest that a zip file can say.

Not the commit's time, or a commit would change the layers of which it changed nothing.
"""


def remove(directory: Path, patterns: Iterable[str]) -> None:
    # Some name nothing here: the wheels for arm64 hold no GPU plugin, the official base image no lib2to3.
    for path in [match for pattern in patterns for match in directory.glob(pattern)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def normalise(root: Path) -> None:
    """Give every file the same time, and the rights that let any user read it."""
    # Lambda runs the image as a user of its own choosing; a source tree's modes depend on who checked it out.
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (TIME, TIME), follow_symlinks=False)


def under(root: Path, path: Path) -> Path:
    """Return where an absolute path is once ``root`` is ``/``."""
    return root / os.path.relpath(path, "/")


def copy(path: Path, root: Path) -> None:
    """Copy a file or a directory of this system to below ``root``, with the links on the way and what they lead to."""
    here = Path("/")
    for number, part in enumerate(path.parts[1:], start=2):
        here /= part
        if here.is_symlink():
            _copy_link(here, root)
            return copy(_target(here).joinpath(*path.parts[number:]), root)
        if here.is_dir():
            under(root, here).mkdir(exist_ok=True, parents=True)
    if path.is_dir():
        for child in path.iterdir():
            copy(child, root)
    elif not under(root, path).exists():
        shutil.copyfile(path, under(root, path))
        under(root, path).chmod(path.stat().st_mode)
    return None


def _copy_link(link: Path, root: Path) -> None:
    copied = under(root, link)
    if not copied.is_symlink():
        copied.symlink_to(link.readlink())


def _target(link: Path) -> Path:
    return Path(os.path.normpath(link.parent / link.readlink()))
