"""Where an input lies when OpenVINO reads it: in the memory of the request, which is nobody's to write."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.openvino_servable import OpenVinoServable
from runtime.signature import DEFAULT_SIGNATURE
from tests.runtime import models

# After models, which keeps telemetry out.
from openvino import opset13 as ops  # isort: skip

# What an engine could do where the input is, if it were its own.
IN_PLACE: dict[str, Callable[[Any], Any]] = {
    "relu": ops.relu,
    "sum": lambda x: ops.add(x, _of_type(x, 3)),
    "clamp": lambda x: ops.clamp(x, 0, 1),
    "chain": lambda x: ops.relu(ops.subtract(ops.reshape(x, np.array([-1]), False), _of_type(x, 3))),
    "scatter": lambda x: ops.scatter_update(x, np.array([0]), _of_type(x, np.full((1, 1000), 5)), np.array(0)),
    "softmax": lambda x: ops.softmax(x, -1),
}


def _of_type(node: Any, value: Any) -> Any:
    return ops.constant(value, node.get_element_type())


def predict(servable: OpenVinoServable, x: NDArray[Any]) -> NDArray[Any]:
    (output,) = servable.predict(DEFAULT_SIGNATURE, {"x": x}).values()
    return output


@pytest.mark.parametrize("shape", [(50, 1000), (-1, -1)])
@pytest.mark.parametrize(
    ("operation", "element_type"),
    # Of integers OpenVINO has no softmax.
    [(name, of) for name in IN_PLACE for of in ("f32", "f16", "bf16", "i32") if (name, of) != ("softmax", "i32")],
)
def test_what_was_received_is_read_where_it_is_and_never_written(
    operation: str, element_type: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    dtype = models.DTYPES[element_type]
    x = (np.arange(50_000).reshape(50, 1000) % 7 - 3).astype(dtype)
    # As a body of several tensors has them: at any multiple of the size of an element.
    body = bytes(dtype.itemsize) + x.tobytes()
    before = bytearray(body)
    received = np.frombuffer(body, dtype, offset=dtype.itemsize).reshape(x.shape)
    with models.serving(models.of_one(IN_PLACE[operation], element_type, shape), tmp_path) as servable:
        right = predict(servable, x.copy())
        for _ in range(3):
            np.testing.assert_array_equal(predict(servable, received), right)
    assert body == before


def test_what_was_received_is_not_copied(tmp_path: Path) -> None:
    received = np.frombuffer(np.ones(4_000_000, np.float32).tobytes(), np.float32)
    with models.serving(models.summer(), tmp_path) as servable:
        predict(servable, received)
        tracemalloc.start()
        try:
            assert predict(servable, received) == 4_000_000
            assert tracemalloc.get_traced_memory()[1] < received.nbytes / 4
        finally:
            tracemalloc.stop()
