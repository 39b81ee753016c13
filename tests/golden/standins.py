"""Small models in the place of those that OpenVINO Model Server's documentation serves, with inputs of their shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.openvino_core import openvino
from tests.runtime.models import save

# After the tests' models, which keep telemetry out.
from openvino import opset13 as ops  # isort: skip

COLOURS = [0.0, 1.0, 2.0]


def resnet(base: Path, *versions: int) -> Path:
    """``prob = the mean of each channel of data`` (1, 3, 224, 224), so that a wrong layout is seen."""
    data = _input("data", (1, 3, 224, 224))
    model = _model([data], ops.reduce_mean(data, np.array([2, 3])))
    return _saved(model, base, versions)


def two_inputs(base: Path, *versions: int) -> Path:
    """``prob = the mean of each channel of input1 and of input2``, whose sizes differ."""
    inputs = [_input(name, (1, 3, 224, 224)) for name in ("input1", "input2")]
    one, other = (ops.reduce_mean(x, np.array([2, 3])) for x in inputs)
    return _saved(_model(inputs, ops.add(one, other)), base, versions)


def summing(base: Path, *versions: int) -> Path:
    """``prob = the sum of all data so far``, one number at a time, which is kept as a state."""
    data = _input("data", (1, 1))
    ov = openvino()
    total = ops.add(ops.read_value(np.zeros((1, 1), np.float32), "total", ov.Type.f32, ov.PartialShape([1, 1])), data)
    total.output(0).get_tensor().set_names({"prob"})
    model = ov.Model([ops.result(total)], [ops.assign(total, "total")], [data], "summing")
    return _saved(model, base, versions)


def colours(batch: int = 1, height: int = 224, width: int = 224, layout: str = "NCHW") -> NDArray[np.float32]:
    """Return images of which each channel has its `COLOURS` everywhere."""
    planes = np.broadcast_to(np.array(COLOURS, np.float32)[:, np.newaxis, np.newaxis], (batch, 3, height, width))
    return np.ascontiguousarray(planes if layout == "NCHW" else planes.transpose(0, 2, 3, 1))


def _input(name: str, shape: tuple[int, ...]) -> Any:
    node = ops.parameter(openvino().PartialShape(list(shape)), openvino().Type.f32, name=name)
    node.output(0).get_tensor().set_names({name})
    return node


def _model(inputs: list[Any], output: Any) -> Any:
    output.output(0).get_tensor().set_names({"prob"})
    return openvino().Model([ops.result(output)], inputs, "standin")


def _saved(model: Any, base: Path, versions: tuple[int, ...]) -> Path:
    for version in versions or (1,):
        save(model, base, version)
    return base
