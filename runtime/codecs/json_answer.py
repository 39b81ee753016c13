"""The answers of predict as JSON; `json_tensor` has the format.

orjson writes numpy arrays without making Python numbers of them, the shortest text that reads back the same, always
with a point or an exponent for floats. It has no token for what is not finite and writes null, which no array
contains otherwise; those are put right afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from runtime.codecs.dtypes import is_float
from runtime.errors import InvalidRequest
from runtime.servable import Tensors

_NULL_OR_STRING = re.compile(rb'null|"(?:[^"\\]|\\.)*"')


def encode(outputs: Tensors, is_row: bool) -> bytes:
    """Write the answer in the form of its request.

    Raises:
        InvalidRequest: rows were asked for, and the outputs do not have one for each.
    """
    arrays = {name: _plain(array) for name, array in outputs.items()}
    if is_row:
        return b'{"predictions":%b}' % _encode_rows(arrays)
    if len(arrays) == 1:
        (array,) = arrays.values()
        return b'{"outputs":%b}' % _dump(_value(array), [array])
    columns = {name: _value(array) for name, array in arrays.items()}
    return b'{"outputs":%b}' % _dump(columns, list(arrays.values()))


def _encode_rows(arrays: dict[str, NDArray[Any]]) -> bytes:
    size = _batch_size(arrays)
    if len(arrays) == 1:
        (array,) = arrays.values()
        return _dump(array, [array])
    rows = [{name: _value(array[i]) for name, array in arrays.items()} for i in range(size)]
    return _dump(rows, [array[i : i + 1] for i in range(size) for array in arrays.values()])


def _batch_size(arrays: dict[str, NDArray[Any]]) -> int:
    size: int | None = None
    for name, array in arrays.items():
        if not array.ndim:
            raise InvalidRequest(f"Tensor name: {name} has no shape information; ask for it in columns ('inputs')")
        size = len(array) if size is None else size
        if len(array) != size:
            raise InvalidRequest(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}; "
                "ask for it in columns ('inputs')"
            )
    if size is None:
        raise InvalidRequest("Cannot convert empty tensor map to JSON")
    return size


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array as orjson takes it: of a dtype it knows, in this machine's byte order, row by row."""
    dtype = np.dtype(np.float32) if array.dtype.name == "bfloat16" else array.dtype.newbyteorder("=")
    return array.astype(dtype, order="C", copy=False)


def _value(array: NDArray[Any]) -> Any:
    # orjson takes arrays of rank 1 and more, and numpy's scalars.
    return array if getattr(array, "ndim", 0) else array[()]


def _dump(value: Any, leaves: list[NDArray[Any]]) -> bytes:
    """Write ``value``, whose arrays are ``leaves`` in the order of writing."""
    text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    if all(np.isfinite(leaf).all() for leaf in leaves if is_float(leaf.dtype)):
        return text
    tokens = _tokens(leaves)
    return _NULL_OR_STRING.sub(lambda match: next(tokens) if match[0] == b"null" else match[0], text)


def _tokens(leaves: list[NDArray[Any]]) -> Iterator[bytes]:
    for leaf in leaves:
        if is_float(leaf.dtype):
            for number in leaf[~np.isfinite(leaf)]:
                yield b"NaN" if np.isnan(number) else b"Infinity" if number > 0 else b"-Infinity"
