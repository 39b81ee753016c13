"""What is in the image, as JSON. The container test runs this with the image's Python; nothing imports it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import struct
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

UNCHECKED_HASH = 0b01


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
        "openvino": sorted(str(path.relative_to(packages)) for path in (packages / "openvino").glob("*")),
        "libraries": sorted(path.name for path in (packages / "openvino" / "libs").iterdir()),
        "commands": sorted(path.name for path in (prefix / "bin").iterdir()),
    }
    json.dump(found, sys.stdout)


def sources(directory: Path) -> Iterator[Path]:
    return directory.rglob("*.py")


def flags_of_code(source: Path) -> int | None:
    """Return the flags in the header of a module's byte code (PEP 552), None if it has none."""
    try:
        header = Path(importlib.util.cache_from_source(str(source))).read_bytes()[:8]
    except FileNotFoundError:
        return None
    return int(struct.unpack("<4xI", header)[0])


if __name__ == "__main__":
    main()
