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
Range: TypeAlias = tuple[int, int]
"""The least and the largest size of a dimension, the latter `DYNAMIC` if there is none."""
ANY_SIZE: Range = (0, DYNAMIC)
_RANK_OF_IMAGES = 4
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
SIGNATURE_DEF_MAP = "type.googleapis.com/tensorflow.serving.SignatureDefMap"

Dtype: TypeAlias = "np.dtype[np.generic]"


class TensorSpec(NamedTuple):
    name: str
    dtype: Dtype
    shape: tuple[int, ...] | None
    """`DYNAMIC` where any size will do, or any within the bounds; None if even the rank is open."""
    layout: str = ""
    """OpenVINO's: what the dimensions are, such as NHWC or N...; empty if nobody has said."""
    bounds: tuple[Range, ...] | None = None
    """Of each dimension; None if the shape says it all."""
    stored_shape: tuple[int, ...] | None = None
    """The one in the model's file, if its configuration has opened it; None if that is the shape."""

    @property
    def told_shape(self) -> tuple[int, ...] | None:
        """What metadata tells: of a model that takes any shape its own, of which clients make their inputs, as OpenVINO
        Model Server's do.
        """
        return self.shape if self.stored_shape is None else self.stored_shape

    @property
    def takes_images(self) -> bool:
        """Whether files sent for an input are taken for images, if only to say why they cannot be used."""
        return not self.dtype.hasobject and self.shape is not None and len(self.shape) == _RANK_OF_IMAGES

    def admits(self, shape: tuple[int, ...]) -> bool:
        if self.shape is None:
            return True
        if len(shape) != len(self.shape):
            return False
        if self.bounds is None:
            return all(want in (DYNAMIC, given) for want, given in zip(self.shape, shape, strict=True))
        return all(
            least <= given and most in (DYNAMIC, max(most, given))
            for (least, most), given in zip(self.bounds, shape, strict=True)
        )

    def require(self, shape: tuple[int, ...]) -> None:
        """Raise InvalidRequest unless the spec admits this shape; OpenVINO Model Server's text is part of ours."""
        if self.admits(shape):
            return
        sizes = self._sizes("{}:{}")
        want = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
        raise InvalidRequest(
            f"input '{self.name}' has shape {shape}; want {want}: {self._misfit(shape)}; input name: {self.name}"
        )

    def _misfit(self, shape: tuple[int, ...]) -> str:
        wanted, given = self._sizes("[{}~{}]"), [str(size) for size in shape]
        batch = batch_axis(self.layout)
        if len(given) != len(wanted):
            what = "number of shape dimensions"
        elif batch < len(shape) and not self._at(batch).admits((shape[batch],)):
            return f"Invalid input batch size - Expected: {wanted[batch]}; Actual: {given[batch]}"
        else:
            what = "input shape"
        return f"Invalid {what} - Expected: ({','.join(wanted)}); Actual: ({','.join(given)})"

    def _at(self, axis: int) -> TensorSpec:
        """Return the spec of one dimension alone."""
        shape, bounds = (self.shape or ())[axis : axis + 1], self.bounds and self.bounds[axis : axis + 1]
        return TensorSpec(self.name, self.dtype, shape, bounds=bounds)

    def _sizes(self, form: str) -> list[str]:
        """Return each dimension as text, ranges in this form."""
        shape = self.shape or ()
        bounds = self.bounds or [ANY_SIZE] * len(shape)
        return [
            str(size) if size != DYNAMIC or bound == ANY_SIZE else form.format(*bound)
            for size, bound in zip(shape, bounds, strict=True)
        ]


def batch_axis(layout: str) -> int:
    """Return which dimension a layout says is the batch, `MAX_RANK` if none is; the first where nobody has said."""
    before, batch, _ = layout.partition("N") if layout else ("", "N", "")
    return len(before) if batch and "." not in before else MAX_RANK


class Signature(NamedTuple):
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str = PREDICT_METHOD
    special_inputs: Mapping[str, TensorSpec] = MappingProxyType({})
    """What a request may bring besides, for the server and not for the model: OpenVINO Model Server's term."""
    special_outputs: Mapping[str, TensorSpec] = MappingProxyType({})
    """What is answered besides."""
