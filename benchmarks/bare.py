"""The floor of a cold start: import OpenVINO, compile a model that is on the local disk, infer once, print.

Run as ``python benchmarks/bare.py MODEL.xml INPUT.npy``, so that not even a package is imported around it.
"""

from __future__ import annotations

import json
import sys

# A third of `import openvino` is a model converter that also starts telemetry. A floor goes without.
sys.modules["openvino.tools"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402


def main() -> None:
    model, image = sys.argv[1:]
    compiled = ov.Core().compile_model(model, "CPU")
    results = compiled(np.load(image))
    print(json.dumps({output.any_name: array.tolist() for output, array in results.items()}))


if __name__ == "__main__":
    main()
