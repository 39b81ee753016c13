"""Encoded images in place of numbers: what OpenVINO Model Server takes for an input that is rows, columns, channels.

An input of the layout NHWC may be sent as files, one for each of its batch. They are decoded, converted to its dtype
without scaling, and then resized to its height and width, or to the nearest within their ranges. If one of the two is
open, all images have to be as large as the first.

Nothing is decoded before it is known how much it will be: a few bytes of a file may stand for gigabytes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.codecs.dtypes import is_string, tf_name
from runtime.errors import InvalidRequest, Overloaded, quoted
from runtime.image_limits import Budget
from runtime.servable import Tensors
from runtime.signature import ANY_SIZE, DYNAMIC, Range, TensorSpec

logger = logging.getLogger(__name__)

_DTYPES = frozenset({"float16", "float32", "float64", "int8", "int16", "int32", "uint8", "uint16"})
_NHWC = "NHWC"
_N, _H, _W, _C = range(4)
_CAUSE = 120
"""Bytes that are quoted of what Pillow says."""


def encoded(specs: Mapping[str, TensorSpec], inputs: Tensors) -> list[str]:
    """Return the names of the inputs that have files in them and want numbers."""
    return [
        name
        for name, array in inputs.items()
        if array.dtype.hasobject and name in specs and not is_string(specs[name].dtype)
    ]


def decode_images(specs: Mapping[str, TensorSpec], inputs: Tensors, deadline: float | None = None) -> Tensors:
    """Return the inputs with arrays of the specs' dtypes in place of encoded images.

    Args:
        specs: by name.
        inputs: of those with images, arrays of bytes objects of shape (N,), or one alone.
        deadline: in seconds of the monotonic clock.

    Raises:
        InvalidRequest: an input is not for images, or these are not for it, or no images, or too large.
        DeadlineExceeded: it has passed.
        Overloaded: other requests' images are being decoded, or there is no memory.
    """
    names = encoded(specs, inputs)
    if not names:
        return inputs
    # All before the first is decoded.
    files = {name: _files(specs[name], inputs[name]) for name in names}
    budget = Budget(sum(map(len, files.values())), deadline)
    return {**inputs, **{name: _decode(specs[name], files[name], budget) for name in names}}


def _files(spec: TensorSpec, array: NDArray[Any]) -> list[bytes]:
    """Return the files of an input that these may be meant for."""
    name, layout = spec.name, spec.layout
    if not spec.takes_images:
        raise InvalidRequest(f"input '{name}' has encoded images; want {tf_name(spec.dtype)} of shape {spec.shape}")
    if not _is_nhwc(layout):
        raise InvalidRequest(
            f"Received binary image input but resource not configured to accept NHWC layout: input '{name}' has "
            f"{layout}"
        )
    if spec.dtype.name not in _DTYPES:
        raise InvalidRequest(
            f"Invalid input precision: input '{name}' is {tf_name(spec.dtype)}, which no image is converted to"
        )
    if array.ndim > 1:
        raise InvalidRequest(f"Invalid input shape: input '{name}' has images of shape {array.shape}; want (N,)")
    files: list[bytes] = array.reshape(-1).tolist()
    if not files or not all(files):
        raise InvalidRequest(f"String val is empty: input '{name}' has {len(files)} images; want one or more of bytes")
    limits = _range(spec, _N)
    if len(files) != _clamp(len(files), limits):
        raise InvalidRequest(f"Invalid input batch size: input '{name}' has {len(files)} images; want {_said(limits)}")
    return files


def _is_nhwc(layout: str) -> bool:
    """Whether four dimensions of this layout may be these; dots stand for as many as there are not."""
    before, dots, after = layout.partition("...")
    if dots:
        layout = before + "?" * (len(_NHWC) - len(before) - len(after)) + after
    return not layout or (
        len(layout) == len(_NHWC) and all(given in ("?", want) for given, want in zip(layout, _NHWC, strict=True))
    )


def _decode(spec: TensorSpec, files: list[bytes], budget: Budget) -> NDArray[Any]:
    # Here, as Pillow comes with the first image.
    from runtime.image_files import BadImage

    batch = _Batch(spec, len(files), budget)
    for i, file in enumerate(files):
        where = f"image {i} of input '{spec.name}'"
        try:
            batch.put(i, file, where)
        except BadImage as exc:
            raise InvalidRequest(f"Image parsing failed: {where}: {quoted(str(exc), _CAUSE)}") from exc
        except MemoryError as exc:
            logger.warning("no memory for %s: %s", where, exc)
            raise Overloaded(f"there is no memory now for {where}") from exc
    return batch.array


class _Batch:
    """What becomes of the images of an input, of a size that the first one has or says."""

    array: NDArray[Any]
    """Made with the first image."""

    def __init__(self, spec: TensorSpec, count: int, budget: Budget) -> None:
        self._spec = spec
        self._count = count
        self._budget = budget
        self._is_open = DYNAMIC in (_range(spec, _H)[1], _range(spec, _W)[1])

    def put(self, i: int, file: bytes, where: str) -> None:
        """Decode image ``i``, those before which are there.

        Raises:
            BadImage, DeadlineExceeded: see `EncodedImage`.
        """
        from runtime.image_files import EncodedImage
        from runtime.image_sizes import resize

        image = EncodedImage(file, self._budget.deadline)
        if i and self._is_open:
            self._check_size(image.height, image.width, where)
        with self._budget.decoding(image.cost):
            pixels = image.decode()
            self._check_channels(i, pixels.shape[2], where)
            if not i:
                self._make(*pixels.shape)
            self.array[i] = resize(pixels, self._spec.dtype, *self.array.shape[1:3])

    def _check_size(self, height: int, width: int, where: str) -> None:
        want = self.array.shape[1:3]
        if (height, width) != want:
            raise InvalidRequest(
                "Binary input images for this endpoint are required to have the same resolution: "
                f"{where} is {width} x {height}; want {want[1]} x {want[0]}, as image 0"
            )

    def _check_channels(self, i: int, channels: int, where: str) -> None:
        want = (self.array.shape[3],) * 2 if i else _range(self._spec, _C)
        if channels != _clamp(channels, want):
            raise InvalidRequest(
                f"Invalid number of channels in binary input: {where} has {channels}; want {_said(want)}"
            )

    def _make(self, height: int, width: int, channels: int) -> None:
        if not self._is_open:
            height, width = _clamp(height, _range(self._spec, _H)), _clamp(width, _range(self._spec, _W))
        shape = (self._count, height, width, channels)
        self._budget.take_bytes(math.prod(shape) * self._spec.dtype.itemsize)
        self.array = np.empty(shape, self._spec.dtype)


def _range(spec: TensorSpec, axis: int) -> Range:
    """Return the least and the largest size of a dimension, the latter `DYNAMIC` if there is none."""
    if spec.bounds is not None:
        return spec.bounds[axis]
    # Not any size, where any will do: as in OpenVINO Model Server, an image becomes as large as what is in the file.
    # There may be any number of them.
    shape = spec.shape if axis == _N else spec.told_shape
    size = shape[axis] if shape is not None else DYNAMIC
    return ANY_SIZE if size == DYNAMIC else (size, size)


def _clamp(size: int, limits: Range) -> int:
    least, most = limits
    return max(size, least) if most == DYNAMIC else max(least, min(size, most))


def _said(limits: Range) -> str:
    least, most = limits
    return str(least) if least == most else f"{least} or more" if most == DYNAMIC else f"{least} to {most}"
