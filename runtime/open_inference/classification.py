"""Triton's classification extension: the largest values of an output, as strings, in place of the output.

extension_classification.md and ``src/classification.cc`` of triton-inference-server/server.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.codecs import json_answer
from runtime.codecs.dtypes import is_bfloat16, is_float
from runtime.codecs.open_inference.datatypes import datatype_of
from runtime.errors import NAME, InvalidRequest, quoted

MAX_STRINGS = 1 << 16
"""Of one output; each takes tens of times as much memory as its value."""


def classify(name: str, array: NDArray[Any], classes: int) -> NDArray[Any]:
    """Return the largest values of each row as ``value:index``, the largest first.

    The first dimension is of rows if there are several; of the others together a row has its values, and indices count
    from its beginning. Of equal values the first is first; NaN is less than any number. Values are written as in JSON.

    Args:
        name: for what is said of errors.
        array: of at least one dimension.
        classes: how many of each row are wanted, at least 1; all if it has fewer.

    Returns:
        Bytes objects, of shape [rows, classes], or [classes] of a vector.

    Raises:
        InvalidRequest: the output has no values that can be compared, or too many are wanted.
    """
    if array.dtype.kind not in "iu" and not is_float(array.dtype):
        # Triton's text is part of ours.
        reason = f"class result not available for output due to unsupported type '{datatype_of(array.dtype)}'"
        raise _error(name, f"cannot be classified: {reason}; want numbers")
    if not array.ndim:
        raise _error(name, "has one value and no dimension; want at least one for a classification")
    batch = array.shape[: array.ndim > 1]
    width = math.prod(array.shape[len(batch) :])
    rows, count = array.reshape(math.prod(batch), width), min(classes, width)
    if count * len(rows) > MAX_STRINGS:
        raise _error(name, f"would have {count * len(rows)} classifications; want {MAX_STRINGS} at most")
    if not count:
        # There may be any number of such rows.
        return np.empty((*batch, 0), object)
    # ml_dtypes' functions are slow, and numpy's reader of numbers takes none of them.
    numbers = rows.astype(np.float32) if is_bfloat16(rows.dtype) else rows
    strings = np.empty(len(rows) * count, object)
    strings[:] = [string for row in numbers for string in _largest(row, count)]
    return strings.reshape(*batch, count)


def _error(name: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"output '{quoted(name, NAME)}' {reason}")


def _largest(row: NDArray[Any], count: int) -> list[bytes]:
    order = _order(row, count)
    values = row[order]
    texts = json_answer.write(values, [values])[1:-1].split(b",")
    return [b"%b:%d" % text for text in zip(texts, order.tolist(), strict=True)]


def _order(row: NDArray[Any], count: int) -> NDArray[np.intp]:
    nans = np.isnan(row)
    if nans.any():
        numbers = np.flatnonzero(~nans)
        order = numbers[_order(row[numbers], count)]
        return np.concatenate([order, np.flatnonzero(nans)[: count - order.size]])
    at = row.size - count
    # Those that are no less than the last of the largest: few of many.
    among = np.flatnonzero(row >= np.partition(row, at)[at]) if at > 0 else np.arange(row.size)
    # Stable from the end, and turned round: of equal values the first is first.
    backwards = among[::-1]
    ascending = backwards[np.argsort(row[backwards], kind="stable")]
    return ascending[::-1][:count]
