"""The floor of a start with a compiled blob: import OpenVINO, import the blob, infer once, print.

Run as ``python benchmarks/bare_blob.py BLOB WEIGHTS.bin INPUT.npy``. The blob has no weights of its own; OpenVINO maps
those of the model. ``write_blob`` makes one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# A third of `import openvino` is a model converter that also starts telemetry. A floor goes without.
sys.modules["openvino.tools"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402

# Without the weights' path the weights are written into the blob all the same.
WEIGHTLESS = {"CACHE_MODE": "OPTIMIZE_SIZE"}


def write_blob(model: Path, blob: Path) -> Path:
    """Compile ``model`` (IR) and write the blob; return it."""
    compiled: Any = ov.Core().compile_model(model, "CPU", WEIGHTLESS)
    blob.write_bytes(compiled.export_model().getvalue())
    return blob


def main() -> None:
    blob, weights, image = sys.argv[1:]
    tensor = ov.Tensor(np.fromfile(blob, np.uint8))
    compiled = ov.Core().import_model(tensor, "CPU", {**WEIGHTLESS, "WEIGHTS_PATH": weights})
    results = compiled(np.load(image))
    print(json.dumps({output.any_name: array.tolist() for output, array in results.items()}))


if __name__ == "__main__":
    main()
