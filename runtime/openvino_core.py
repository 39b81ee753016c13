"""OpenVINO, imported when it is first needed and not before, and the one core of the process."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from runtime.memory import keep_little

DEVICE = "CPU"


@cache
def openvino() -> Any:
    """Import OpenVINO without ``openvino.tools``: converters nobody here calls, 0.1 s, and a call home."""
    sys.modules.setdefault("openvino.tools", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def core() -> Any:
    # Before the first weights are.
    keep_little()
    return openvino().Core()
