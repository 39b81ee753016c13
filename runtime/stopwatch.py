"""How long a process takes for its first model, having OpenVINO: ``python -m runtime.stopwatch MODEL CONFIG [FILE]``.

Prints the seconds for compiling the .xml with that JSON of properties, or for importing that file instead.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from runtime.compiled import read
from runtime.compiler import compile_model, import_model
from runtime.openvino_core import DEVICE, core


def seconds(model: Path, config: dict[str, str], file: Path | None) -> float:
    core().get_property(DEVICE, "FULL_DEVICE_NAME")
    began = time.perf_counter()
    if file is None:
        compile_model(model, config)
    else:
        import_model(read(file).blob, model.with_suffix(".bin"), config)
    return time.perf_counter() - began


if __name__ == "__main__":
    _, model, config, *files = sys.argv
    sys.stdout.write(f"{seconds(Path(model), json.loads(config), Path(files[0]) if files else None)}\n")
