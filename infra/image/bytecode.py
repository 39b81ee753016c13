"""Byte code that is the same in every build and that nobody checks when it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def byte_compile(directory: Path, root: Path) -> None:
    """Compile every module below a directory, to code that is used without a look at the source's time or content.

    Image builders rewrite file times, and the file system is read-only: code that went stale could not be replaced.
    What is compiled believes that ``root`` is ``/``.
    """
    packages = sorted(path for path in directory.iterdir() if path.is_dir() and not path.is_symlink())
    jobs = [[path] for path in packages if path.name != "__pycache__"]
    jobs.append(sorted(directory.glob("*.py")))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for failed in pool.map(lambda paths: _compile(paths, root), filter(None, jobs)):
            if failed:
                sys.exit(f"infra.image: not every module under {directory} compiles: {failed}")


def _compile(paths: Iterable[Path], root: Path) -> str:
    """Return what went wrong.

    A process of their own, where the same is done in the same order: what marshal writes depends on which strings
    were compiled before.
    """
    options = ["-q", "-f", "-j1", "--invalidation-mode=unchecked-hash", "-s", str(root), "-p", "/"]
    command = [sys.executable, "-m", "compileall", *options, *map(str, paths)]
    done = subprocess.run(command, env={"PYTHONHASHSEED": "0"}, cwd="/", capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip() or f"exit code {done.returncode}" if done.returncode else ""
