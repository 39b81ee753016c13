"""OpenVINO called directly: what a server's answers are compared with.

Exactly, as otherwise nothing could be compared: a CPU with bfloat16 arithmetic would use it, and activations that meet
compressed weights would be quantized, differently with every shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.openvino_core import openvino

openvino()
# After that call, which keeps telemetry out.
import openvino as ov  # noqa: E402
from openvino._offline_transformations import apply_make_stateful_transformation  # noqa: E402

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}

Arrays = dict[str, NDArray[Any]]

_cores: list[Any] = []


def infer(model: Path, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the outputs, by each of their names, of a model that takes inputs of these shapes."""
    compiled = _compiled(model, tuple((name, x.shape) for name, x in inputs.items()))
    results = compiled(dict(inputs))
    return {name: np.array(results[port]) for port in compiled.outputs for name in port.get_names()}


def save_with_shapes(model: Path, base: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """Save the model as version 1 below ``base``, with inputs of these shapes alone, as converters do."""
    fixed = _core().read_model(model)
    fixed.reshape({name: ov.PartialShape(list(shape)) for name, shape in shapes.items()})
    return _save(fixed, base)


def save_stateful(model: Path, base: Path, states: Mapping[str, str]) -> Path:
    """Save the model as version 1 below ``base``, with these inputs and outputs of it as states that it keeps."""
    stateful = _core().read_model(model)
    apply_make_stateful_transformation(stateful, dict(states))
    return _save(stateful, base)


@lru_cache(maxsize=32)
def _compiled(path: Path, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Any:
    model = _core().read_model(path)
    model.reshape({name: ov.PartialShape(list(shape)) for name, shape in shapes})
    return _core().compile_model(model, "CPU", EXACT)


def _save(model: Any, base: Path) -> Path:
    (base / "1").mkdir(parents=True)
    ov.save_model(model, base / "1" / "model.xml", compress_to_fp16=False)
    return base


def _core() -> Any:
    if not _cores:
        _cores.append(ov.Core())
    return _cores[0]
