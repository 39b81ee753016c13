"""What is in the image, as JSON. The container test runs this with the image's Python; nothing imports it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import struct
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

UNCHECKED_HASH = 0b01
STATUS = Path("/var/lib/dpkg/status.d")
# The engine's, and what is mounted by the tests.
NOT_OURS = (
    *("/dev", "/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf"),
    *("/inventory.py", "/proc", "/run", "/sys", "/tmp"),
)


def main() -> None:
    prefix = Path(sys.prefix)
    packages = Path(sysconfig.get_path("purelib"))
    modules = list(sources(packages)) + list(sources(Path(sysconfig.get_path("stdlib"))))
    found = {
        "modules": len(modules),
        "not unchecked byte code": [str(path) for path in modules if flags_of_code(path) != UNCHECKED_HASH],
        "unreadable": [str(path) for path in prefix.rglob("*") if not path.stat().st_mode & 0o004],
        "packages": sorted(path.name for path in packages.iterdir()),
        "distributions": sorted(found.name for found in importlib.metadata.distributions()),
        "system packages": sorted(path.name for path in STATUS.iterdir() if path.suffix != ".md5sums"),
        "programs": sorted(programs(Path("/"))),
        "broken links": sorted(str(path) for path in files(Path("/")) if path.is_symlink() and not path.exists()),
        "changed since 1980": sorted(str(path) for path in files(Path("/")) if path.lstat().st_mtime != 315_532_800),
        "records of what is not there": sorted(unrecorded(packages)),
        "without a licence's text": sorted(unlicensed(packages)),
        "openvino": sorted(str(path.relative_to(packages)) for path in (packages / "openvino").glob("*")),
        "libraries": sorted(path.name for path in (packages / "openvino" / "libs").iterdir()),
        "commands": sorted(path.name for path in (prefix / "bin").iterdir()),
    }
    json.dump(found, sys.stdout)


def sources(directory: Path) -> Iterator[Path]:
    return directory.rglob("*.py")


def files(root: Path) -> Iterator[Path]:
    for directory, directories, names in os.walk(root):
        directories[:] = [name for name in directories if str(Path(directory, name)) not in NOT_OURS]
        links = [name for name in directories if Path(directory, name).is_symlink()]
        yield from (path for name in (*names, *links) if str(path := Path(directory, name)) not in NOT_OURS)


def programs(root: Path) -> Iterator[str]:
    """Yield the programs and shared libraries, by what they begin with."""
    for path in files(root):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield str(path)


def unrecorded(packages: Path) -> Iterator[str]:
    """Yield files that a distribution's record has, and that are not there or of another size."""
    for distribution in importlib.metadata.distributions(path=[str(packages)]):
        for file in distribution.files or ():
            path = Path(str(file.locate()))
            if not path.exists() or (file.size is not None and path.stat().st_size != file.size):
                yield str(path)


def unlicensed(packages: Path) -> Iterator[str]:
    """Yield the distributions and Debian packages that have no file about licences."""
    for info in packages.glob("*.dist-info"):
        if not any(re.search("licen[cs]e|copying", path.name, re.IGNORECASE) for path in info.rglob("*")):
            yield info.name
    for status in STATUS.iterdir():
        if status.suffix != ".md5sums" and not Path("/usr/share/doc", status.name, "copyright").is_file():
            yield status.name


def flags_of_code(source: Path) -> int | None:
    """Return the flags in the header of a module's byte code (PEP 552), None if it has none."""
    try:
        header = Path(importlib.util.cache_from_source(str(source))).read_bytes()[:8]
    except FileNotFoundError:
        return None
    return int(struct.unpack("<4xI", header)[0])


if __name__ == "__main__":
    main()
