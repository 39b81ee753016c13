"""What a server needs of the Debian that this runs on: Python, the shared libraries, certificates, a small shell.

The packages that something is kept of are listed as distroless images list theirs, so that scanners find them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from infra.image import debian, elf
from infra.image.bytecode import byte_compile
from infra.image.trees import copy, normalise, remove, under

# Globs under /. Some name nothing: Debian moves files from release to release.
FILES = (
    "bin/sh",
    "etc/debian_version",
    "etc/host.conf",
    "etc/ld.so.conf",
    "etc/ld.so.conf.d",
    "etc/localtime",
    "etc/nsswitch.conf",
    "etc/os-release",
    "etc/ssl/certs",
    "etc/ssl/openssl.cnf",
    "etc/timezone",
    # Loaded by name: what resolves host names before glibc 2.34, and what ends threads.
    "lib/*-linux-gnu/libnss_dns.so.2",
    "lib/*-linux-gnu/libnss_files.so.2",
    "lib/*-linux-gnu/libgcc_s.so.1",
    "usr/lib/locale/C.utf8",
    "usr/lib/ssl",
    "usr/share/zoneinfo",
)

# A shell for the entry point, and what a look inside, a preStop hook or a further build stage needs.
COMMANDS = (
    *("cat", "chmod", "chown", "cp", "date", "df", "du", "env", "false", "head", "id", "ln", "ls", "mkdir"),
    *("mv", "pwd", "readlink", "rm", "rmdir", "sleep", "stat", "tail", "test", "touch", "true", "uname", "wc"),
)

# Leap seconds' and POSIX's view of the same zones, and the sources of all.
UNUSED_FILES = (
    "usr/share/zoneinfo/right",
    "usr/share/zoneinfo/posix",
    "usr/share/zoneinfo/tzdata.zi",
    "usr/lib/ssl/misc",
    "usr/lib/ssl/private",
    "etc/ssl/private",
)

# Installers, windows, terminals and data bases; each that has a library of the system's brings that.
UNUSED_STDLIB = (
    "config-*",
    "dist-packages",
    "distutils",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "sqlite3",
    "test",
    "tkinter",
    "turtle.py",
    "turtledemo",
    "venv",
    "**/__pycache__",
    *(f"lib-dynload/{name}.*" for name in ("_crypt", "_curses*", "_dbm", "_gdbm", "_sqlite3", "_test*", "_tkinter")),
    *(f"lib-dynload/{name}.*" for name in ("_ctypes_test", "nis", "ossaudiodev", "xx*")),
)

# Some engines make what they mount on only if they may write, and some platforms run on an image as it is.
DIRECTORIES = ("dev", "mnt", "opt", "proc", "root", "run", "sys", "tmp", "var/cache", "var/lib", "var/tmp")

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
decant:x:10001:10001:decant:/tmp:/bin/false
"""
GROUP = """\
root:x:0:
nogroup:x:65534:
decant:x:10001:
"""


def lay_out(root: Path, libraries: Path) -> None:
    """Copy to below ``root`` what Python, the commands above and the libraries need, and compile what is Python.

    Args:
        root: the directory that will become ``/``.
        libraries: the tree that will lie over it, whose shared libraries want others of the system.
    """
    for directory in DIRECTORIES:
        (root / directory).mkdir(parents=True)
    for pattern in FILES:
        for path in sorted(Path("/").glob(pattern)):
            copy(path, root)
    for name in (*COMMANDS, "python", "python3", f"python3.{sys.version_info.minor}"):
        copy(_command(name), root)
    stdlib = Path(sysconfig.get_path("stdlib"))
    copy(stdlib, root)
    remove(root, UNUSED_FILES)
    remove(under(root, stdlib), UNUSED_STDLIB)
    for library in _needed([*_programs(root), *_programs(libraries)]):
        if not library.is_relative_to(root) and not library.is_relative_to(libraries):
            copy(library, root)
    debian.keep_packages(root)
    _strip_what_is_no_packages(root)
    byte_compile(under(root, stdlib), root)
    (root / "etc" / "passwd").write_text(PASSWD)
    (root / "etc" / "group").write_text(GROUP)
    _index_libraries(root)
    normalise(root)
    for directory in ("tmp", "var/tmp"):
        (root / directory).chmod(0o1777)


def _strip_what_is_no_packages(root: Path) -> None:
    """Strip a Python that was built for the image; packages' files stay as their checksums say, and are stripped."""
    packaged = {name for package in debian.packages(root) for name in package.files}
    for path in _programs(root):
        if str(path.relative_to(root)) not in packaged:
            elf.strip(path)


def _index_libraries(root: Path) -> None:
    """Write what the dynamic linker looks libraries up in; some lie where it would not look otherwise."""
    subprocess.run(["/sbin/ldconfig", "-r", root], check=True)
    # Times and inodes, for its own next run.
    shutil.rmtree(root / "var" / "cache" / "ldconfig", ignore_errors=True)


def _command(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        sys.exit(f"infra.image: the base image has no {name}")
    return Path(found)


def _programs(tree: Path) -> Iterator[Path]:
    """Yield the programs and shared libraries of a tree."""
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink() and elf.is_elf(path):
            yield path


def _needed(programs: list[Path]) -> set[Path]:
    """Return the system's libraries that programs are linked with, as the dynamic linker finds them."""
    linker = elf.interpreter(Path(sys.executable).resolve())
    found = {linker}
    for program in programs:
        done = subprocess.run([linker, "--list", program], capture_output=True, text=True, check=False)
        if done.returncode and "statically linked" not in done.stdout + done.stderr:
            sys.exit(f"infra.image: {program} cannot be loaded: {done.stderr.strip()}")
        if missing := re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE):
            sys.exit(f"infra.image: the base image has no {', '.join(missing)}, which {program} wants")
        found |= {Path(path) for path in re.findall(r"=> (/\S+) \(", done.stdout)}
    return found
