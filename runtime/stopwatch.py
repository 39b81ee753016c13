"""How long a process takes for its first model, having OpenVINO: ``python -m runtime.stopwatch``, told what by pickle.

Prints the seconds for compiling the .xml by that recipe, or for importing a file instead if there is one.
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path
from typing import NamedTuple

from runtime.compiled import read
from runtime.compiler import Recipe, import_model
from runtime.openvino_core import DEVICE, core


class Task(NamedTuple):
    model: Path
    recipe: Recipe
    file: Path | None


def seconds(task: Task) -> float:
    core().get_property(DEVICE, "FULL_DEVICE_NAME")
    began = time.perf_counter()
    if task.file is None:
        task.recipe.compile(task.model)
    else:
        import_model(read(task.file).blob, task.model.with_suffix(".bin"), task.recipe.config)
    return time.perf_counter() - began


if __name__ == "__main__":
    # From the process that started this one, and nobody else.
    sys.stdout.write(f"{seconds(Task(*pickle.load(sys.stdin.buffer)))}\n")
