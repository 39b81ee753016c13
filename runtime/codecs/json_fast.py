"""The fast reader of predict JSON: numbers in rectangular lists, copied out of simdjson's tape.

It answers None for everything else: other values, ragged lists, JSON it cannot parse, names that do not fit. That is
never an error, only somebody else's work; so nothing here has to explain anything, and nothing here may guess.

What it knows of lists alone is for `open_inference.infer_json_fast` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
import simdjson
from numpy.typing import NDArray

from runtime.codecs.dtypes import is_float, is_string
from runtime.codecs.json_limits import blocks, in_time
from runtime.servable import Tensors
from runtime.signature import DEFAULT_SIGNATURE, MAX_RANK, Dtype, TensorSpec


class Document(NamedTuple):
    signature_name: str
    is_row: bool
    data: Any
    """The value of "instances" or "inputs"; keeps its parser alive."""
    body: bytes


SATURATED = 0xFFFFFF
"""Elements of a list to which simdjson counts, and no further."""
_MANY = 1 << 12
_FEW = 8
_SMALL = 4 << 10


class Irregular(Exception):
    """Not for this reader."""


def parse(body: bytes) -> Document | None:
    try:
        root = simdjson.Parser().parse(body)
    # Its errors have no class of their own: ValueError, RuntimeError and UnicodeDecodeError, by kind of error.
    except (ValueError, RuntimeError):
        return None
    if not isinstance(root, simdjson.Object):
        return None
    # To ask simdjson for a name that is not there takes longer than to list a few.
    names = list(root) if len(root) <= _FEW else root
    is_row = "instances" in names
    name = root["signature_name"] if "signature_name" in names else DEFAULT_SIGNATURE
    if is_row == ("inputs" in names) or not isinstance(name, str) or not name:
        return None
    return Document(name, is_row, root["instances" if is_row else "inputs"], body)


def read(
    document: Document,
    specs: Mapping[str, TensorSpec],
    deadline: float | None = None,
    optional: Mapping[str, TensorSpec] | None = None,
) -> Tensors | None:
    """Return the arrays that ``specs`` want, and those of ``optional`` that are there, or None.

    Raises:
        InvalidRequest: a shape is not what ``specs`` want.
        DeadlineExceeded: it is over.
    """
    # simdjson has no buffers of booleans, which are numbers to Python, nor of strings.
    if any(spec.dtype == np.bool_ or is_string(spec.dtype) for spec in specs.values()):
        return None
    try:
        if optional:
            specs = {**specs, **_sent(document, optional)}
        if document.is_row:
            return _read_rows(document, specs, deadline)
        return _read_columns(document, specs, deadline)
    except Irregular:
        return None


def _sent(document: Document, optional: Mapping[str, TensorSpec]) -> Mapping[str, TensorSpec]:
    values = document.data
    if document.is_row:
        if not isinstance(values, simdjson.Array) or not len(values):
            raise Irregular
        values = values[0]
    if not isinstance(values, simdjson.Object):
        return {}
    names = list(values) if len(values) <= _FEW else values
    return {name: spec for name, spec in optional.items() if name in names}


def _read_rows(document: Document, specs: Mapping[str, TensorSpec], deadline: float | None) -> Tensors:
    rows = document.data
    if not isinstance(rows, simdjson.Array) or not len(rows):
        raise Irregular
    first = rows[0]
    if not isinstance(first, simdjson.Object):
        # The list of rows is itself the tensor.
        return _read_columns(document, specs, deadline)
    if len(rows) == SATURATED:
        raise Irregular
    columns = {name: _column(first.get(name), spec) for name, spec in specs.items()}
    for row in in_time(rows, deadline):
        if not isinstance(row, simdjson.Object) or len(row) != len(specs):
            raise Irregular
        for name, column in columns.items():
            column.add(row.get(name))
    tensors, lists = {}, 1
    for name, column in columns.items():
        tensors[name], below = column.stack()
        lists += below
    return _checked(document, tensors, lists)


def _read_columns(document: Document, specs: Mapping[str, TensorSpec], deadline: float | None) -> Tensors:
    data = document.data
    if isinstance(data, simdjson.Object):
        if len(data) != len(specs):
            raise Irregular
        values = {name: data.get(name) for name in specs}
    elif len(specs) == 1:
        values = dict.fromkeys(specs, data)
    else:
        raise Irregular
    tensors, lists = {}, 0
    for name, value in values.items():
        tensors[name], below = _tensor(value, specs[name], deadline)
        lists += below
    return _checked(document, tensors, lists)


def _checked(document: Document, tensors: Tensors, lists: int) -> Tensors:
    # A buffer flattens whatever nests in it, so [1, [2]] and [1, 2] look alike there, and only the lists down to
    # the innermost level were looked at. If the body has no more than those, there are none below them.
    if count_brackets(document.body) != lists:
        raise Irregular
    return tensors


class _Numbers:
    """What rows have of an input: one number each."""

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._values: list[int | float] = []

    def add(self, value: Any) -> None:
        # bool is a number to Python and not to TensorFlow.
        if type(value) not in (int, float):
            raise Irregular
        self._values.append(value)

    def stack(self) -> tuple[NDArray[Any], int]:
        return cast(_numbers(self._values, self._spec), self._spec.dtype, (len(self._values),)), 0


class _Lists:
    """What rows have of an input: lists of one shape each."""

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._shape: tuple[int, ...] = ()
        self._rows = 0
        # All in one: an array a row takes ten times as long.
        self._flat = bytearray()

    def add(self, value: Any) -> None:
        if not isinstance(value, simdjson.Array):
            raise Irregular
        shape = rectangle(value)
        flat = numbers_of(value, self._spec.dtype)
        if SATURATED in shape:
            shape = (flat.nbytes // 8,)
        if self._rows and shape != self._shape:
            raise Irregular
        self._shape = shape
        self._rows += 1
        self._flat += flat

    def stack(self) -> tuple[NDArray[Any], int]:
        shape = (self._rows, *self._shape)
        self._spec.require(shape)
        flat = np.frombuffer(self._flat, buffer_dtype(self._spec.dtype))
        return cast(flat, self._spec.dtype, shape), self._rows * count_lists(self._shape)


def _column(first: Any, spec: TensorSpec) -> _Numbers | _Lists:
    return _Lists(spec) if isinstance(first, simdjson.Array) else _Numbers(spec)


def _numbers(column: list[Any], spec: TensorSpec) -> NDArray[Any]:
    if is_float(spec.dtype):
        return np.array(column, np.float64)
    if any(type(value) is not int for value in column):
        raise Irregular
    try:
        return np.array(column, np.uint64 if spec.dtype == np.uint64 else np.int64)
    except OverflowError:
        raise Irregular from None


def _tensor(value: Any, spec: TensorSpec, deadline: float | None) -> tuple[NDArray[Any], int]:
    """Return the array of a list of rank 1 or more, and of how many lists it is."""
    if not isinstance(value, simdjson.Array):
        raise Irregular
    shape = rectangle(value, deadline)
    if SATURATED not in shape:
        # Here, as it may be that a body of many megabytes need not be read at all.
        spec.require(shape)
    flat = np.frombuffer(numbers_of(value, spec.dtype), buffer_dtype(spec.dtype))
    if SATURATED in shape:
        shape = (flat.size,)
    return cast(flat, spec.dtype, shape), count_lists(shape)


def numbers_of(value: simdjson.Array, dtype: Dtype) -> memoryview:
    """Return all numbers in a list, and in those in it, as `buffer_dtype` has them."""
    try:
        return memoryview(value.as_buffer(of_type=_buffer_type(dtype)))
    # A value that is no number, a fraction for an integer, an integer out of range.
    except (TypeError, ValueError):
        raise Irregular from None


def rectangle(value: simdjson.Array, deadline: float | None = None) -> tuple[int, ...]:
    """Return the shape of a list, as far as the lists in it show; of rank 1 it may be saturated."""
    shape = _shape(value)
    if SATURATED in shape and len(shape) > 1:
        raise Irregular
    _check_lengths(value, shape, deadline)
    return shape


def count_brackets(body: bytes) -> int:
    """Count ``[``, in strings too: there are at least as many as lists."""
    if len(body) <= _SMALL:
        return body.count(b"[")
    # Several times as quick, of many bytes.
    return sum(int(np.count_nonzero(codes == ord("["))) for codes in blocks(body))


def count_lists(shape: tuple[int, ...]) -> int:
    lists, above = 0, 1
    for length in shape:
        lists += above
        above *= length
    return lists


def _shape(value: Any) -> tuple[int, ...]:
    shape: list[int] = []
    while isinstance(value, simdjson.Array):
        if not len(value) or len(shape) == MAX_RANK:
            raise Irregular
        shape.append(len(value))
        value = value[0]
    # Before somebody complains of the shape of what is not of numbers: of images, for one.
    if type(value) not in (int, float):
        raise Irregular
    return tuple(shape)


def _check_lengths(value: Any, shape: tuple[int, ...], deadline: float | None) -> None:
    if len(shape) == 1:
        return
    for child in in_time(value, deadline) if len(value) >= _MANY else value:
        if not isinstance(child, simdjson.Array) or len(child) != shape[1]:
            raise Irregular
        _check_lengths(child, shape[1:], deadline)


def _buffer_type(dtype: Dtype) -> Literal["d", "u", "i"]:
    if is_float(dtype):
        return "d"
    return "u" if dtype == np.uint64 else "i"


def buffer_dtype(dtype: Dtype) -> type[np.generic]:
    return {"d": np.float64, "u": np.uint64, "i": np.int64}[_buffer_type(dtype)]


def cast(flat: NDArray[Any], dtype: Dtype, shape: tuple[int, ...]) -> NDArray[Any]:
    if flat.size != prod(shape):
        raise Irregular
    if not is_float(dtype):
        limits = np.iinfo(dtype)  # type: ignore[type-var]
        if flat.min() < limits.min or flat.max() > limits.max:
            raise Irregular
    # As TensorFlow Serving: what a float cannot hold becomes an infinity.
    with np.errstate(over="ignore"):
        return flat.astype(dtype).reshape(shape)
