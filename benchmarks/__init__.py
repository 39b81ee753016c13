"""What is measured, and against what. Each module runs as ``python -m benchmarks.NAME``."""

import sys

# OpenVINO's model converter: nothing here needs it, and importing it starts telemetry.
sys.modules.setdefault("openvino.tools", None)  # type: ignore[arg-type]
