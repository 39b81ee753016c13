"""What goes into a model and what comes out: TensorFlow's TensorInfo and SignatureDef, in numpy's terms."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from runtime.errors import InvalidRequest

# For types alone: a start has come here long before it has the time to import numpy.
if TYPE_CHECKING:
    import numpy as np

DYNAMIC = -1
MAX_RANK = 32
"""Of a tensor in a request; numpy ends at 64, and Python's stack not far beyond that."""
MAX_REPEATED = 16 << 20
"""Bytes that a tensor may have by repetition, or as zeros: a request has them for nothing, and an engine takes tens of
times as much to compute with them."""
STRING_COST = 32
"""Bytes that an empty string takes in an engine."""
DEFAULT_SIGNATURE = "serving_default"
PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"

Dtype: TypeAlias = "np.dtype[np.generic]"


class TensorSpec(NamedTuple):
    name: str
    dtype: Dtype
    shape: tuple[int, ...] | None
    """`DYNAMIC` where any size will do, or any within the bounds; None if even the rank is open."""
    layout: str = ""
    """OpenVINO's: what the dimensions are, such as NHWC or N...; empty if nobody has said."""
    bounds: tuple[tuple[int, int], ...] | None = None
    """The least and the largest size of each dimension, the latter `DYNAMIC` if there is none. None if the shape says
    it all.
    """

    def admits(self, shape: tuple[int, ...]) -> bool:
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (DYNAMIC, given) for want, given in zip(self.shape, shape, strict=True)
        )

    def require(self, shape: tuple[int, ...]) -> None:
        """Raise InvalidRequest unless the spec admits this shape."""
        if not self.admits(shape):
            raise InvalidRequest(f"input '{self.name}' has shape {shape}; want {self.shape}")


class Signature(NamedTuple):
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str = PREDICT_METHOD
    special_inputs: Mapping[str, TensorSpec] = MappingProxyType({})
    """What a request may bring besides, for the server and not for the model: OpenVINO Model Server's term."""
    special_outputs: Mapping[str, TensorSpec] = MappingProxyType({})
    """What is answered besides."""
