"""The exact reader of infer JSON: takes whatever is of the format, and says what is wrong with the rest.

It walks Python lists and is slow by comparison; `infer_json_fast` takes the common case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from runtime.codecs.dtypes import is_float, is_string
from runtime.codecs.json_dialect import Json
from runtime.codecs.json_exact import array_of, flatten, is_in_range
from runtime.codecs.json_limits import check
from runtime.codecs.json_values import BESIDE_NAME, excerpt, to_bytes
from runtime.codecs.open_inference.datatypes import datatype_of
from runtime.codecs.open_inference.infer_json_shapes import Tensor, check_fit, misfit
from runtime.codecs.open_inference.raw import error
from runtime.signature import Dtype


def read(tensors: Iterable[Tensor], values: Iterable[Json], deadline: float | None) -> list[NDArray[Any]]:
    """Return the arrays of all tensors.

    Raises:
        InvalidRequest: the values are not of the shape or the datatype of their tensor.
        DeadlineExceeded: it is over, in seconds of the monotonic clock.
    """
    return [_array(tensor, value, deadline) for tensor, value in zip(tensors, values, strict=True)]


def _array(tensor: Tensor, data: Json, deadline: float | None) -> NDArray[Any]:
    check(deadline)
    if not isinstance(data, list):
        if tensor.shape:
            raise error(tensor.name, f"has the data {excerpt(data, BESIDE_NAME)}; want a list")
        data = [data]
    shape = _nesting(tensor, data)
    flat = flatten(data, shape)
    if flat is None:
        _complain_of_shape(tensor, data, shape)
    if not _are_good(flat, tensor.dtype):
        _complain_of_value(tensor, flat, shape)
    if is_string(tensor.dtype):
        flat = list(map(to_bytes, flat))
    return array_of(flat, tensor.dtype).reshape(tensor.shape)


def _nesting(tensor: Tensor, data: list[Json]) -> tuple[int, ...]:
    """Return the shape that the lists are to have: the tensor's if there are lists in the list, else a flat one."""
    is_nested = bool(data) and isinstance(data[0], list) and len(tensor.shape) > 1
    return tensor.shape if is_nested else (prod(tensor.shape),)


def _are_good(values: list[Json], dtype: Dtype) -> bool:
    """Whether all values are of a type that is taken for the datatype, and in its range."""
    types = set(map(type, values))
    # Not isinstance: to Python a bool is an int.
    if is_string(dtype):
        return types <= {str}
    if is_float(dtype):
        return types <= {int, float}
    if dtype == np.bool_:
        return types <= {bool, int} and set(values) <= {0, 1}
    return types <= {int} and (not values or is_in_range(min(values), max(values), dtype))


def _want(dtype: Dtype) -> str:
    if is_string(dtype):
        return "a string"
    if is_float(dtype):
        return "a number"
    if dtype == np.bool_:
        return "true or false"
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    return f"a whole number from {limits.min} to {limits.max}"


def _complain_of_value(tensor: Tensor, flat: list[Json], shape: Sequence[int]) -> NoReturn:
    good, bad = 0, len(flat)
    while bad - good > 1:
        middle = (good + bad) // 2
        if _are_good(flat[good:middle], tensor.dtype):
            good = middle
        else:
            bad = middle
    at = np.unravel_index(good, shape)
    raise error(
        tensor.name,
        f"has {excerpt(flat[good], BESIDE_NAME)} as {_path(map(int, at))}; want {_want(tensor.dtype)} for "
        f"{datatype_of(tensor.dtype)}",
    )


def _path(at: Iterable[int]) -> str:
    return "data" + "".join(f"[{index}]" for index in at)


def _complain_of_shape(tensor: Tensor, data: list[Json], shape: Sequence[int]) -> NoReturn:
    found = _shape(data)
    if flatten(data, found) is not None:
        check_fit(tensor, found)
    count = _count(data)
    value: Json = data
    at: list[int] = []
    # Down to the first list that is not what is wanted.
    while isinstance(value, list) and len(at) < len(shape) and len(value) == shape[len(at)]:
        below = shape[len(at) + 1 :]
        good, bad = 0, len(value)
        while bad - good > 1:
            middle = (good + bad) // 2
            if flatten(value[good:middle], [middle - good, *below]) is None:
                bad = middle
            else:
                good = middle
        at.append(good)
        value = value[good]
    given = f"a list of {len(value)}" if isinstance(value, list) else excerpt(value, BESIDE_NAME)
    raise misfit(tensor, f"has {given} as {_path(at)}", count)


def _shape(value: Json) -> list[int]:
    """Return the shape that the first elements show."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _count(data: list[Json]) -> int:
    """Return how many values there are in a list, and in those in it."""
    count, level = 0, data
    while level:
        lists = [value for value in level if isinstance(value, list)]
        count += len(level) - len(lists)
        level = list(chain.from_iterable(lists))
    return count
