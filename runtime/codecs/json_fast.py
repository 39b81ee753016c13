"""The fast reader of predict JSON: numbers in rectangular lists, copied out of simdjson's tape.

It answers None for everything else: other values, ragged lists, JSON it cannot parse, names that do not fit. That is
never an error, only somebody else's work; so nothing here has to explain anything, and nothing here may guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import simdjson
from numpy.typing import NDArray

from runtime.codecs.dtypes import is_float, is_string
from runtime.servable import Tensors
from runtime.signature import DEFAULT_SIGNATURE, MAX_RANK, TensorSpec


@dataclass(frozen=True, slots=True)
class Document:
    signature_name: str
    is_row: bool
    data: Any
    """The value of "instances" or "inputs"; keeps its parser alive."""
    body: bytes

    def brackets(self) -> int:
        """Count ``[``, in strings too: there are at least as many as lists."""
        # Several times as quick as bytes.count. Block by block, as an array of the body's size that comes and goes
        # makes malloc give back the pages of all else on top of its heap, and ask for them again next time.
        codes = np.frombuffer(self.body, np.uint8)
        return sum(int(np.count_nonzero(codes[i : i + _BLOCK] == ord("["))) for i in range(0, codes.size, _BLOCK))


_BLOCK = 1 << 16
# simdjson counts the elements of a list to here and no further.
_SATURATED = 0xFFFFFF


class _Irregular(Exception):
    """Not for this reader."""


def parse(body: bytes) -> Document | None:
    try:
        root = simdjson.Parser().parse(body)
    # Its errors have no class of their own: ValueError, RuntimeError and UnicodeDecodeError, by kind of error.
    except (ValueError, RuntimeError):
        return None
    if not isinstance(root, simdjson.Object):
        return None
    is_row = "instances" in root
    name = root.get("signature_name", DEFAULT_SIGNATURE)
    if is_row == ("inputs" in root) or not isinstance(name, str) or not name:
        return None
    return Document(name, is_row, root["instances" if is_row else "inputs"], body)


def read(document: Document, specs: Mapping[str, TensorSpec]) -> Tensors | None:
    # simdjson has no buffers of booleans, which are numbers to Python, nor of strings.
    if any(spec.dtype == np.bool_ or is_string(spec.dtype) for spec in specs.values()):
        return None
    try:
        if document.is_row:
            return _read_rows(document, specs)
        return _read_columns(document, specs)
    except _Irregular:
        return None


def _read_rows(document: Document, specs: Mapping[str, TensorSpec]) -> Tensors:
    rows = document.data
    if not isinstance(rows, simdjson.Array) or not len(rows):
        raise _Irregular
    if not isinstance(rows[0], simdjson.Object):
        # The list of rows is itself the tensor.
        return _read_columns(document, specs)
    columns: dict[str, list[Any]] = {name: [] for name in specs}
    for row in rows:
        if not isinstance(row, simdjson.Object) or len(row) != len(specs):
            raise _Irregular
        for name, column in columns.items():
            column.append(row.get(name))
    tensors, lists = {}, 1
    for name, column in columns.items():
        tensors[name], below = _stack(column, specs[name])
        lists += below
    return _checked(document, tensors, lists)


def _read_columns(document: Document, specs: Mapping[str, TensorSpec]) -> Tensors:
    data = document.data
    if isinstance(data, simdjson.Object):
        if len(data) != len(specs):
            raise _Irregular
        values = {name: data.get(name) for name in specs}
    elif len(specs) == 1:
        values = dict.fromkeys(specs, data)
    else:
        raise _Irregular
    tensors, lists = {}, 0
    for name, value in values.items():
        tensors[name], below = _tensor(value, specs[name])
        lists += below
    return _checked(document, tensors, lists)


def _checked(document: Document, tensors: Tensors, lists: int) -> Tensors:
    # A buffer flattens whatever nests in it, so [1, [2]] and [1, 2] look alike there, and only the lists down to
    # the innermost level were looked at. If the body has no more than those, there are none below them.
    if document.brackets() != lists:
        raise _Irregular
    return tensors


def _stack(column: list[Any], spec: TensorSpec) -> tuple[NDArray[Any], int]:
    if not isinstance(column[0], simdjson.Array):
        # One number a row. bool is a number to Python and not to TensorFlow.
        if any(type(value) not in (int, float) for value in column):
            raise _Irregular
        return _cast(_numbers(column, spec), spec, (len(column),)), 0
    slices: list[NDArray[Any]] = []
    lists = 0
    for value in column:
        array, below = _tensor(value, spec, (len(column),))
        if slices and array.shape != slices[0].shape:
            raise _Irregular
        slices.append(array)
        lists += below
    return np.stack(slices), lists


def _numbers(column: list[Any], spec: TensorSpec) -> NDArray[Any]:
    if is_float(spec.dtype):
        return np.array(column, np.float64)
    if any(type(value) is not int for value in column):
        raise _Irregular
    try:
        return np.array(column, np.uint64 if spec.dtype == np.uint64 else np.int64)
    except OverflowError:
        raise _Irregular from None


def _tensor(value: Any, spec: TensorSpec, above: tuple[int, ...] = ()) -> tuple[NDArray[Any], int]:
    """Return the array of a list of rank 1 or more, which lies in dimensions ``above``, and of how many lists it is."""
    if not isinstance(value, simdjson.Array):
        raise _Irregular
    shape = _shape(value)
    if _SATURATED in shape and len(shape) > 1:
        raise _Irregular
    _check_lengths(value, shape)
    if _SATURATED not in shape:
        # Here, as it may be that a body of many megabytes need not be read at all.
        spec.require(above + shape)
    try:
        flat = np.frombuffer(value.as_buffer(of_type=_buffer_type(spec)), _buffer_dtype(spec))
    # A value that is no number, a fraction for an integer, an integer out of range.
    except (TypeError, ValueError):
        raise _Irregular from None
    if _SATURATED in shape:
        shape = (flat.size,)
    return _cast(flat, spec, shape), _count_lists(shape)


def _count_lists(shape: tuple[int, ...]) -> int:
    lists, above = 0, 1
    for length in shape:
        lists += above
        above *= length
    return lists


def _shape(value: Any) -> tuple[int, ...]:
    shape: list[int] = []
    while isinstance(value, simdjson.Array):
        if not len(value) or len(shape) == MAX_RANK:
            raise _Irregular
        shape.append(len(value))
        value = value[0]
    return tuple(shape)


def _check_lengths(value: Any, shape: tuple[int, ...]) -> None:
    if len(shape) == 1:
        return
    for child in value:
        if not isinstance(child, simdjson.Array) or len(child) != shape[1]:
            raise _Irregular
        _check_lengths(child, shape[1:])


def _buffer_type(spec: TensorSpec) -> Literal["d", "u", "i"]:
    if is_float(spec.dtype):
        return "d"
    return "u" if spec.dtype == np.uint64 else "i"


def _buffer_dtype(spec: TensorSpec) -> type[np.generic]:
    return {"d": np.float64, "u": np.uint64, "i": np.int64}[_buffer_type(spec)]


def _cast(flat: NDArray[Any], spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    if flat.size != np.prod(shape, dtype=np.int64):
        raise _Irregular
    if not is_float(spec.dtype):
        limits = np.iinfo(spec.dtype)  # type: ignore[type-var]
        if flat.min() < limits.min or flat.max() > limits.max:
            raise _Irregular
    # As TensorFlow Serving: what a float cannot hold becomes an infinity.
    with np.errstate(over="ignore"):
        return flat.astype(spec.dtype).reshape(shape)
