"""Runs a module as ``python -m`` does, and writes down who imports what: ``python importing.py FILE MODULE ARGUMENTS``.

One line for each module as it is looked for: its name, a space, and the name of the module whose code wants it. What
``python -X importtime`` writes has no such names, and mixes up what several threads import.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FrameType, ModuleType


class Recorder:
    """The first to be asked for a module, and never the one that finds it."""

    def __init__(self, path: str) -> None:
        # Each line is written at once, as the process may end at any time.
        self._file = Path(path).open("a", buffering=1)  # noqa: SIM115

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        self._file.write(f"{name} {_importer(sys._getframe(1))}\n")
        return None


def _importer(frame: FrameType | None) -> str:
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "?"))
        if not name.startswith("importlib"):
            return name
        frame = frame.f_back
    return "?"


if __name__ == "__main__":
    _, file, module, *arguments = sys.argv
    sys.meta_path.insert(0, Recorder(file))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
