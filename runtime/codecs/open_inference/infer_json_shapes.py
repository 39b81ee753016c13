"""What the values of an input in JSON are to be, and what is said if they are of another shape."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from runtime.codecs.open_inference.raw import error, sizes
from runtime.errors import NAME, InvalidRequest, quoted
from runtime.signature import Dtype


class Tensor(NamedTuple):
    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    position: int
    """Among the inputs."""


def check_fit(tensor: Tensor, shape: Sequence[int]) -> None:
    """Raise InvalidRequest unless values in lists of this shape are those of the tensor: flat, or nested as it is."""
    if tuple(shape) in (tensor.shape, (prod(tensor.shape),)):
        return
    raise misfit(tensor, f"has data of shape {sizes(shape)}", prod(shape))


def misfit(tensor: Tensor, given: str, count: int) -> InvalidRequest:
    """Return the error for values in lists of another shape, as many as ``count``."""
    wanted = prod(tensor.shape)
    want = f"want shape {sizes(tensor.shape)}, or a flat list of {wanted}"
    if count == wanted:
        return error(tensor.name, f"{given}; {want}")
    # OpenVINO Model Server's text is part of ours.
    return error(
        tensor.name,
        f"{given}; {want}: Invalid number of values in tensor proto container - Expected: {wanted} values; "
        f"Actual: {count} values; input name: {quoted(tensor.name, NAME)}",
    )
