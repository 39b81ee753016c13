"""The packages of the system that this runs on: which file is whose, under which licence, and how that is passed on.

Format: https://www.debian.org/doc/debian-policy/ch-controlfields.html. ``status.d`` is as distroless images have it and
scanners know it: a control paragraph to a file, and the checksums of the package's files beside it.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from infra.image.trees import copy, under

DPKG = Path("/var/lib/dpkg")
STATUS = DPKG / "status.d"
DOC = Path("/usr/share/doc")
COMMON_LICENSES = Path("/usr/share/common-licenses")


class Package(NamedTuple):
    name: str
    version: str
    architecture: str
    source: str
    """Name and version of the source package: ``glibc 2.36-9``."""
    maintainer: str
    files: tuple[str, ...] = ()
    """Those of the image that have a checksum, by their real path without the first slash."""


def keep_packages(root: Path) -> None:
    """List the packages that have a file below ``root``, and copy what they say of copyright."""
    owners = _owners()
    kept: dict[str, list[str]] = defaultdict(list)
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if not path.is_dir() and name in owners:
            kept[owners[name]].append(name)
    directory = under(root, STATUS)
    directory.mkdir(parents=True)
    paragraphs = list(_paragraphs(DPKG / "status"))
    sources = defaultdict(list)
    for paragraph in paragraphs:
        sources[_source(paragraph)].append(_field(paragraph, "Package"))
    for paragraph in paragraphs:
        name = _field(paragraph, "Package")
        if name in kept:
            (directory / name).write_text(paragraph + "\n")
            checksums = _checksums(_info(name, _field(paragraph, "Architecture"), "md5sums"))
            lines = [f"{checksums[path]}  {path}\n" for path in kept[name] if path in checksums]
            (directory / f"{name}.md5sums").write_text("".join(lines))
            _keep_copyright(name, sources[_source(paragraph)], root)
    copy(COMMON_LICENSES, root)


def packages(root: Path) -> Iterator[Package]:
    """Yield the packages that `keep_packages` has listed."""
    for path in sorted(under(root, STATUS).glob("*")):
        if path.suffix != ".md5sums":
            paragraph = path.read_text()
            name, version = _field(paragraph, "Package"), _field(paragraph, "Version")
            files = (line.split("  ", 1)[1] for line in Path(f"{path}.md5sums").read_text().splitlines())
            yield Package(
                name,
                version,
                _field(paragraph, "Architecture"),
                _source(paragraph),
                _field(paragraph, "Maintainer"),
                tuple(files),
            )


def licences(package: str, root: Path) -> list[str]:
    """Return the short names of licences that a package's copyright file has, if it has them in a form to be read."""
    text = copyright_file(package, root).read_text(errors="replace")
    # Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
    names = re.findall(r"^License: *(\S.*?) *$", text, re.MULTILINE) if text.startswith("Format:") else []
    return sorted(set(names))


def copyright_file(package: str, root: Path) -> Path:
    return under(root, DOC) / package / "copyright"


def _keep_copyright(package: str, siblings: Sequence[str], root: Path) -> None:
    """Copy a package's copyright file; one of another from the same source is its own (Policy, section 12.5)."""
    for name in (package, *siblings):
        path = DOC / name / "copyright"
        if path.exists():
            copy(path, root)
            if not under(root, DOC / package).exists():
                under(root, DOC / package).symlink_to(name)
            return
    sys.exit(f"infra.image: the base image has no {DOC / package}/copyright: take one that keeps these files")


def _owners() -> Mapping[str, str]:
    """Return the package of each file, by its real path without the first slash."""
    owners = {}
    real_directories: dict[str, str] = {}
    for listing in (DPKG / "info").glob("*.list"):
        package = listing.stem.partition(":")[0]
        for name in listing.read_text().splitlines():
            owners[_real(name, real_directories)] = package
    return owners


def _checksums(listing: Path) -> Mapping[str, str]:
    if not listing.exists():
        return {}
    real_directories: dict[str, str] = {}
    lines = (line.split("  ", 1) for line in listing.read_text().splitlines())
    return {_real(f"/{path}", real_directories): checksum for checksum, path in lines}


def _real(name: str, known: dict[str, str]) -> str:
    """Return a path with the links in its directories followed: packages still say /lib where that is /usr/lib."""
    directory, _, base = name.rpartition("/")
    if directory not in known:
        known[directory] = str(Path(directory or "/").resolve()).rstrip("/")
    return f"{known[directory]}/{base}"[1:]


def _info(package: str, architecture: str, kind: str) -> Path:
    of_one = DPKG / "info" / f"{package}.{kind}"
    return of_one if of_one.exists() else DPKG / "info" / f"{package}:{architecture}.{kind}"


def _source(paragraph: str) -> str:
    """Return name and version of the source package."""
    name, _, version = (_field(paragraph, "Source") or _field(paragraph, "Package")).partition(" ")
    return f"{name} {version.strip('()') or _field(paragraph, 'Version')}"


def _paragraphs(path: Path) -> Iterator[str]:
    if not path.exists():
        sys.exit(f"infra.image: the base image is no Debian: it has no {path}")
    return filter(None, path.read_text().split("\n\n"))


def _field(paragraph: str, name: str) -> str:
    found = re.search(rf"^{name}: *(.*)$", paragraph, re.MULTILINE)
    return found[1] if found else ""
