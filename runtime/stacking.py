"""Several requests' tensors as one batch's, and the answer to it as several. Rows are what the 0th dimension counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InvalidRequest
from runtime.servable import Tensors

Shapes = Mapping[str, tuple[int, ...]]
"""Of inputs by name, less the 0th dimension."""


def rows_of(inputs: Tensors) -> int:
    """Return how many rows the tensors have, none of which may be a scalar.

    Raises:
        InvalidRequest: they do not agree.
    """
    rows = {len(array) for array in inputs.values()}
    if len(rows) > 1:
        sizes = ", ".join(f"'{name}' has {len(array)}" for name, array in inputs.items())
        raise InvalidRequest(f"Batching Run() input tensors must have equal 0th-dimension size; input {sizes}")
    return rows.pop()


def longest(inputs: Tensors, others: Shapes) -> Shapes:
    """Return what each input has to be padded to beside others, less the 0th dimension.

    Args:
        others: what those are padded to; empty if there are none.
    """
    shapes = {name: array.shape[1:] for name, array in inputs.items()}
    if not others or shapes == others:
        return shapes
    return {name: tuple(map(max, shape, others[name])) for name, shape in shapes.items()}


def row_size(inputs: Tensors, shapes: Shapes) -> int:
    """Return the bytes of a row of inputs of these shapes, and of these dtypes."""
    return sum(math.prod(shapes[name]) * array.itemsize for name, array in inputs.items())


def stack(parts: Sequence[Tensors], rows: int) -> Tensors:
    """Return the parts one after the other, and after these their first row again until there are ``rows`` of them.

    What is shorter than others in a dimension that is not the 0th is padded with its own first element.
    """
    return {name: _stacked([part[name] for part in parts], rows) for name in parts[0]}


def unstack(outputs: Tensors, sizes: Sequence[int], rows: int) -> list[Tensors] | None:
    """Return the outputs of each part by the rows that it has; None if an output does not have ``rows`` rows.

    The parts' arrays are views that share nothing but what they are views of.
    """
    if any(not array.ndim or len(array) != rows for array in outputs.values()):
        return None
    parts: list[Tensors] = []
    at = 0
    for size in sizes:
        parts.append({name: array[at : at + size] for name, array in outputs.items()})
        at += size
    return parts


def join(answers: Sequence[Tensors], rows: int) -> Tensors | None:
    """Return the answers to the parts of a request as one; None if their shapes differ by more than their rows."""
    shapes = [[array.shape[1:] for array in answer.values()] for answer in answers]
    return stack(answers, rows) if all(shape == shapes[0] for shape in shapes) else None


def _stacked(arrays: list[NDArray[Any]], rows: int) -> NDArray[Any]:
    first = arrays[0]
    if any(array.shape[1:] != first.shape[1:] for array in arrays):
        return _padded(arrays, rows)
    missing = rows - sum(map(len, arrays))
    filling = [np.broadcast_to(first[:1], (missing, *first.shape[1:]))] if missing else []
    return np.concatenate([*arrays, *filling])


def _padded(arrays: list[NDArray[Any]], rows: int) -> NDArray[Any]:
    longest = np.max([array.shape[1:] for array in arrays], axis=0)
    padded: NDArray[Any] = np.empty((rows, *longest), arrays[0].dtype)
    at = 0
    for array in arrays:
        part = padded[at : at + len(array)]
        part[...] = array.flat[0]
        part[(slice(None), *map(slice, array.shape[1:]))] = array
        at += len(array)
    padded[at:] = padded[:1]
    return padded
