"""Models for the Open Inference Protocol's clients, and the server that has them."""

from __future__ import annotations

import io
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.signature import Dtype
from tests.runtime import models
from tests.servers.decant import Decant, decant_serve

DATATYPES: dict[str, Dtype] = {
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "FP16": np.dtype(np.float16),
    "BF16": models.DTYPES["bf16"],
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "BOOL": np.dtype(np.bool_),
}
"""The protocol's names, of each of which there is a model of that name: it answers with its x."""
X = np.ones((1, 2), np.float32)
LEFT = np.array([[1, 2, 3]], np.float32)
RIGHT = np.array([[1], [2]], np.int32)
PIXELS = np.array([[[0, 1, 2], [3, 4, 5]]], np.uint8)
"""An image of two pixels, in RGB."""


def extremes(datatype: str) -> NDArray[Any]:
    """Return what goes wrong first."""
    dtype = DATATYPES[datatype]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype.name)
        return np.array([[limits.min, limits.max], [limits.max - 1, 1]], dtype)
    if dtype.kind == "b":
        return np.array([[True, False], [False, True]])
    # 0.1 is no number of any of them, and has to come back as the nearest one.
    return np.array([[np.inf, -0.0], [np.nan, 0.1]], np.float32).astype(dtype)


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Return whether they are, to the bit; but any NaN is as good as another."""
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    if left.dtype == object or left.dtype.kind in "iub":
        return bool(left.tolist() == right.tolist())
    wide, other = left.astype(np.float64), right.astype(np.float64)
    signs = np.signbit(wide) == np.signbit(other)
    return bool(np.all((wide == other) & signs | np.isnan(wide) & np.isnan(other)))


def png(pixels: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the image as a file, as the one string of a tensor."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    strings = np.empty(1, object)
    strings[0] = file.getvalue()
    return strings


def serving(directory: Path) -> AbstractContextManager[Decant]:
    """Serve `DATATYPES`, and: doubler (f32), crossing (two versions), speller (strings), summer (a scalar), divider (no
    numbers), sum (of a sequence), pixels (of images)."""
    names = {str(dtype): name for name, dtype in models.DTYPES.items()}
    made: dict[str, Any] = {name: models.identity(names[str(dtype)]) for name, dtype in DATATYPES.items()}
    made |= {"doubler": models.doubler(), "crossing": models.crossing(), "speller": models.speller()}
    made |= {"summer": models.summer(), "divider": models.divider(), "sum": models.accumulator()}
    made["pixels"] = models.doubler(shape=(-1, 1, 2, 3))
    more: dict[str, dict[str, Any]] = {
        "sum": {"stateful": True},
        "crossing": {"model_version_policy": {"all": {}}},
        "pixels": {"layout": "NHWC"},
    }
    configs = []
    for name, model in made.items():
        base = directory / "models" / name
        models.save(model, base)
        configs.append({"config": {"name": name, "base_path": str(base), **more.get(name, {})}})
    models.save(models.crossing(), directory / "models" / "crossing", 2)
    file = directory / "config.json"
    file.write_text(json.dumps({"model_config_list": configs}))
    # Nothing is looked for anew unless a client asks for it.
    return decant_serve(directory / "server", "--config_path", file, "--file_system_poll_wait_seconds", "0")
