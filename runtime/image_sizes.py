"""Images in another precision and another size, as OpenCV's ``convertTo`` and then ``resize`` make them.

Bilinear, with OpenCV's arithmetic: bytes in fixed point, all else in floats, and weights as it rounds them. By numpy, a
block of rows at a time; only what is looked at is converted, as the image may be many times what becomes of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtime.signature import Dtype

_ONE = 1 << 11
"""A weight of 1, of bytes."""
_BLOCK = 1 << 19
"""Values to be made at a time."""

Lines: TypeAlias = "NDArray[Any]"
Places: TypeAlias = "NDArray[np.intp]"
Offsets: TypeAlias = "NDArray[np.float32]"


class _Taps(NamedTuple):
    """For each row or column that is made, the two it lies between, and how far."""

    near: Places
    far: Places
    offset: Offsets

    def part(self, start: int, stop: int) -> _Taps:
        return _Taps(self.near[start:stop], self.far[start:stop], self.offset[start:stop])


def convert(image: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    """Return the same numbers, rounded half to even and to the nearest there is."""
    if image.dtype == dtype:
        return image
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return image.astype(dtype)
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    if image.dtype.kind == "f":
        # What is no number is the least there is.
        image = np.nan_to_num(np.rint(image.astype(np.float64)), nan=limits.min)
    clipped: NDArray[Any] = np.clip(image, limits.min, limits.max).astype(dtype)
    return clipped


def resize(image: NDArray[Any], dtype: Dtype, height: int, width: int) -> NDArray[Any]:
    """Return the image of (height, width, channels) in this precision and size."""
    if image.shape[:2] == (height, width):
        return convert(image, dtype)
    halve = image.shape[:2] == (2 * height, 2 * width) and dtype.kind in "iu"
    blend = _blend_bytes if dtype == np.uint8 else _halve if halve else _blend
    image, channels = _forward(image)
    rows, columns = _taps(image.shape[0], height), _taps(image.shape[1], width, is_across=True)
    near, far = (_each(at, channels) for at in (columns.near, columns.far))
    across = columns.offset.repeat(len(channels))
    # A row is a line of numbers, as loops over channels would be short ones.
    out = np.empty((height, near.size), dtype)
    step = max(1, _BLOCK // near.size)
    for at in range(0, height, step):
        part = rows.part(at, at + step)
        used, places = np.unique(np.concatenate([part.near, part.far]), return_inverse=True)
        lines = image[used].reshape(used.size, -1)
        left, right = (convert(np.take(lines, each, 1), dtype) for each in (near, far))
        above, below = np.split(places, 2)
        out[at : at + step] = blend(left, right, across, above, below, part.offset[:, None])
    return out.reshape(height, width, -1)


def _forward(image: NDArray[Any]) -> tuple[NDArray[Any], Places]:
    """Return the image as it is in memory, and where in that its channels are: going backward is slow."""
    channels = np.arange(image.shape[2])
    return (image[..., ::-1], channels[::-1]) if image.strides[2] < 0 else (image, channels)


def _each(at: Places, channels: Places) -> Places:
    return (at[:, None] * len(channels) + channels).ravel()


def _taps(size: int, wanted: int, is_across: bool = False) -> _Taps:
    # As there, by way of the inverse, and then in floats.
    scale = 1 / (wanted / size)
    at = ((np.arange(wanted) + 0.5) * scale - 0.5).astype(np.float32)
    near = np.floor(at).astype(np.intp)
    offset = at - near.astype(np.float32)
    if is_across:
        offset[(near < 0) | (near >= size - 1)] = 0
    return _Taps(near.clip(0, size - 1), (near + 1).clip(0, size - 1), offset)


def _blend_bytes(left: Lines, right: Lines, across: Offsets, above: Places, below: Places, down: Offsets) -> Lines:
    lines: Lines = (left * _fixed(1 - across) + right * _fixed(across)) >> 4
    blended: Lines = (lines[above] * _fixed(1 - down) >> 16) + (lines[below] * _fixed(down) >> 16)
    return (blended + 2) >> 2


def _fixed(weights: Offsets) -> Lines:
    fixed: Lines = np.rint(weights * np.float32(_ONE)).astype(np.int32)
    return fixed


def _blend(left: Lines, right: Lines, across: Offsets, above: Places, below: Places, down: Offsets) -> Lines:
    dtype = left.dtype
    # Half precision is computed in single, and what single cannot hold exactly in double.
    exact: type[np.floating[Any]] = np.float64 if dtype.itemsize > 4 or dtype == np.int32 else np.float32
    lines: Lines = left.astype(exact, copy=False) * (1 - across) + right.astype(exact, copy=False) * across
    return convert(lines[above] * (1 - down) + lines[below] * down, dtype)


def _halve(left: Lines, right: Lines, _: Offsets, above: Places, below: Places, __: Offsets) -> Lines:
    """Round half up, as OpenCV does of integers where each is the mean of four."""
    lines: Lines = left.astype(np.int64) + right
    return (lines[above] + lines[below] + 2) >> 2
