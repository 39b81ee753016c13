"""The exact reader of predict JSON: takes whatever is of the format, and says what is wrong with the rest.

It walks Python lists and is slow by comparison; `json_fast` takes the common case. Texts of errors are TensorFlow
Serving's (``util/json_tensor.cc``), followed by what was wanted where those do not say it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from runtime.codecs import json_dialect
from runtime.codecs.dtypes import is_float, is_string, tf_name
from runtime.codecs.json_dialect import Json
from runtime.codecs.json_limits import check
from runtime.codecs.json_values import BESIDE_NAME, excerpt, is_base64, kind, to_bytes
from runtime.errors import NAME, InvalidRequest, quoted
from runtime.servable import Tensors
from runtime.signature import DEFAULT_SIGNATURE, MAX_RANK, Dtype, TensorSpec

_MANY = 1 << 16
_STRING: Dtype = np.dtype(object)
_NONE: Mapping[str, TensorSpec] = MappingProxyType({})


def parse(body: bytes, is_strict: bool = False, is_whole: bool = False) -> Mapping[str, Json]:
    """Parse a JSON object; ``is_strict`` and ``is_whole`` as `json_dialect.load` has them.

    Raises:
        InvalidRequest: not JSON, or not an object.
    """
    root = json_dialect.load(body, is_strict, is_whole)
    if not isinstance(root, dict):
        raise InvalidRequest(f"JSON Value: {excerpt(root)} Is not object")
    return root


def signature_name(document: Mapping[str, Json]) -> str:
    name = document.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(name, str):
        raise InvalidRequest(
            f"JSON Value: {excerpt(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name or DEFAULT_SIGNATURE


def read(
    document: Mapping[str, Json],
    specs: Mapping[str, TensorSpec],
    deadline: float | None = None,
    optional: Mapping[str, TensorSpec] = _NONE,
) -> Tensors:
    """Return the arrays that ``specs`` want, at least one, from "instances" or "inputs".

    Of an input that images may be sent for, and are, it is an array of their files.

    Args:
        document: the body.
        specs: by name.
        deadline: in seconds of the monotonic clock.
        optional: what may be there besides.

    Raises:
        InvalidRequest: not one of the two, or names, dtypes or nesting are not what ``specs`` want.
        DeadlineExceeded: it is over.
    """
    check(deadline)
    if "instances" in document and "inputs" in document:
        raise InvalidRequest(
            f"JSON Value: {excerpt(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        rows = document["instances"]
        if not isinstance(rows, list):
            raise InvalidRequest(f"JSON Value: {excerpt(document)} Expecting 'instances' to be an list/array")
        if not rows:
            raise InvalidRequest(f"JSON Value: {excerpt(document)} No values in 'instances' array")
        return _read_rows(rows, _sent(rows[0], specs, optional), deadline)
    if "inputs" in document:
        columns = document["inputs"]
        return _read_columns(columns, _sent(columns, specs, optional), deadline)
    raise InvalidRequest("Missing 'inputs' or 'instances' key")


def _is_named(value: Json) -> bool:
    """Whether a value is an object of inputs by name; one of base64 is a string."""
    return isinstance(value, dict) and not is_base64(value)


def _sent(
    values: Json, specs: Mapping[str, TensorSpec], optional: Mapping[str, TensorSpec]
) -> Mapping[str, TensorSpec]:
    """Return the specs of what is sent: those of ``optional`` that are there too, and of strings where images are."""
    is_named = _is_named(values)
    if is_named and optional:
        specs = {**specs, **{name: optional[name] for name in optional if name in values}}
    images = [
        name
        for name, spec in specs.items()
        if spec.takes_images and is_base64(_first(values.get(name) if is_named else values))
    ]
    return {**specs, **{name: specs[name]._replace(dtype=_STRING) for name in images}} if images else specs


def _first(value: Json) -> Json:
    while isinstance(value, list) and value:
        value = value[0]
    return value


def _read_rows(rows: list[Json], specs: Mapping[str, TensorSpec], deadline: float | None) -> Tensors:
    if len(specs) != 1 and not _is_named(rows[0]):
        raise InvalidRequest(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            f"tensorinfo_map: {_wanted(specs)}"
        )
    try:
        return _stack(rows, specs, deadline)
    except InvalidRequest:
        bad = _first_bad(rows, specs, deadline)
        _explain(bad, rows, specs)
        # Each is good and all together are not: of a shape that is not wanted.
        raise


def _stack(rows: list[Json], specs: Mapping[str, TensorSpec], deadline: float | None) -> Tensors:
    """Return all rows as arrays, or complain of something in one of them."""
    if _is_named(rows[0]):
        # Of a key given twice in a row the first value counts here too. TensorFlow Serving puts both into the one
        # tensor, so that later rows move: with one row it is the first that is seen, with several it is a mixture.
        if any(not _is_named(row) or row.keys() != specs.keys() for row in rows):
            raise InvalidRequest(f"instances do not all have the keys: {','.join(sorted(specs))}")
        columns = {name: [row[name] for row in rows] for name in specs}
    else:
        if any(_is_named(row) for row in rows if isinstance(row, dict)):
            raise InvalidRequest("instances are values and objects")
        columns = dict.fromkeys(specs, rows)
    # What is true of a tensor's nesting is true of the list of its slices, so rows are read as a column is.
    return {name: _tensor(column, specs[name], deadline) for name, column in columns.items()}


def _first_bad(rows: list[Json], specs: Mapping[str, TensorSpec], deadline: float | None) -> int:
    """Return the first row that does not go with those before it, looking at each row about once."""
    good, bad = 0, len(rows)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            _stack([rows[0], *rows[good:middle]], specs, deadline)
            good = middle
        except InvalidRequest:
            bad = middle
    return good


def _explain(i: int, rows: list[Json], specs: Mapping[str, TensorSpec]) -> None:
    """Complain of row ``i``, whose predecessors are good, in TensorFlow Serving's order of checks."""
    row = rows[i]
    if _is_named(rows[0]):
        if not _is_named(row):
            raise InvalidRequest(f"Expecting object but got list at item {i} of input list")
        for name, value in row.items():
            _explain_value(value, rows[0].get(name), name, specs.get(name), f"{i} key: {quoted(name, NAME)}")
        if row.keys() != specs.keys():
            raise InvalidRequest(
                f"Failed to process element: {i} of 'instances' list. JSON object: {excerpt(row)} "
                f"keys must be equal to: {','.join(sorted(specs))}"
            )
    else:
        if _is_named(row):
            raise InvalidRequest(f"Expecting value/list but got object at item {i} of input list")
        (spec,) = specs.values()
        _explain_value(row, rows[0], spec.name, spec, str(i))


def _explain_value(value: Json, first: Json, name: str, spec: TensorSpec | None, where: str) -> None:
    try:
        if spec is None:
            raise InvalidRequest(f"JSON object: does not have named input: {quoted(name, NAME)}")
        shape = _shape(value, spec, MAX_RANK - 1)
        _flat(value, shape, spec)
        want = _shape(first, spec, MAX_RANK - 1)
        size, want_size = math.prod(shape), math.prod(want)
        if size != want_size:
            raise InvalidRequest(f"Expecting tensor size: {want_size} but got: {size}")
        if shape != want:
            raise InvalidRequest(f"Expecting shape {_brackets(want)} but got: {_brackets(shape)}")
    except InvalidRequest as exc:
        raise InvalidRequest(
            f"Failed to process element: {where} of 'instances' list. Error: INVALID_ARGUMENT: {exc}"
        ) from None


def _brackets(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _read_columns(columns: Json, specs: Mapping[str, TensorSpec], deadline: float | None) -> Tensors:
    if not _is_named(columns):
        if len(specs) != 1:
            raise InvalidRequest(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                f"tensorinfo_map: {_wanted(specs)}"
            )
        columns = dict.fromkeys(specs, columns)
    for name in specs:
        if name not in columns:
            raise InvalidRequest(f"Missing named input: {name} in 'inputs' object. Want {_wanted(specs)}")
    return {name: _tensor(columns[name], spec, deadline) for name, spec in specs.items()}


def _wanted(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"'{spec.name}' {tf_name(spec.dtype)} {spec.shape}" for spec in specs.values())


def _tensor(value: Json, spec: TensorSpec, deadline: float | None) -> NDArray[Any]:
    check(deadline)
    shape = _shape(value, spec, MAX_RANK)
    if math.prod(shape) > _MANY:
        # Walking through so many takes seconds, so first see whether they are of any use.
        spec.require(tuple(shape))
    return array_of(_flat(value, shape, spec), spec.dtype).reshape(shape)


def _flat(value: Json, shape: list[int], spec: TensorSpec) -> list[Any]:
    """Return the values of lists that are to have this shape."""
    flat = _flatten(value, shape, spec.dtype)
    if flat is None:
        _complain(value, shape, 0, spec)
    return flat


def _shape(value: Json, spec: TensorSpec, max_rank: int) -> list[int]:
    """Return the shape that the first elements show."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > max_rank:
            raise InvalidRequest(f"lists are nested more than {MAX_RANK} deep; want shape {spec.shape}")
        if not value:
            break
        value = value[0]
    return shape


def flatten(value: Json, shape: Sequence[int]) -> list[Json] | None:
    """Return the values in lists of this shape, level by level, in loops of C; None if they are of another."""
    values = [value]
    for size in shape:
        if not set(map(type, values)) <= {list} or not set(map(len, values)) <= {size}:
            return None
        values = list(chain.from_iterable(values))
    return values


def _flatten(value: Json, shape: list[int], dtype: Dtype) -> list[Any] | None:
    """Return the values, or None if one is not what is wanted."""
    values = flatten(value, shape)
    if values is None or not _are_good(values, dtype):
        return None
    return list(map(to_bytes, values)) if is_string(dtype) else values


def _complain(value: Json, shape: list[int], level: int, spec: TensorSpec) -> NoReturn:
    """Raise InvalidRequest for the first thing that `_flatten` has not taken."""
    if level == len(shape):
        _complain_of_scalar(value, level, spec)
    if not isinstance(value, list):
        raise InvalidRequest(
            f"JSON Value: {excerpt(value, BESIDE_NAME)} found at incorrect level: {level} in the JSON DOM. "
            f"Expected at level: {len(shape)}"
        )
    if len(value) != shape[level]:
        raise InvalidRequest(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    good, bad = 0, len(value)
    while bad - good > 1:
        middle = (good + bad) // 2
        if _flatten(value[good:middle], [middle - good, *shape[level + 1 :]], spec.dtype) is None:
            bad = middle
        else:
            good = middle
    _complain(value[good], shape, level + 1, spec)


def _are_good(values: list[Json], dtype: Dtype) -> bool:
    """Whether all values are of a type that is taken for the dtype, and in its range."""
    if not set(map(type, values)) <= _types(dtype):
        return False
    return dtype.kind not in "iu" or not values or is_in_range(min(values), max(values), dtype)


def _types(dtype: Dtype) -> set[type]:
    # Not isinstance: to Python a bool is an int.
    if dtype == np.bool_:
        return {bool}
    if is_string(dtype):
        return {str, dict}
    return {int, float} if is_float(dtype) else {int}


def is_in_range(low: int, high: int, dtype: Dtype) -> bool:
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    return bool(limits.min <= low and high <= limits.max)


def _complain_of_scalar(value: Json, level: int, spec: TensorSpec) -> NoReturn:
    dtype = spec.dtype
    if isinstance(value, list):
        raise InvalidRequest(f"Encountered list at unexpected level: {level} expected < {level}")
    if type(value) not in _types(dtype):
        raise InvalidRequest(
            f"JSON Value: {excerpt(value, BESIDE_NAME)} Type: {kind(value)} is not of expected type: "
            f"{_type_name(dtype)}"
        )
    # TensorFlow Serving lets the narrow ones wrap.
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    raise InvalidRequest(
        f"JSON Value: {excerpt(value, BESIDE_NAME)} Type: Number is not of expected type: {_type_name(dtype)} "
        f"({limits.min} to {limits.max})"
    )


def _type_name(dtype: Dtype) -> str:
    """Return TensorFlow's DataTypeString."""
    return tf_name(dtype).removeprefix("DT_").lower()


def array_of(flat: list[Any], dtype: Dtype) -> NDArray[Any]:
    """Return numbers or bytes that are in the range of a dtype as one."""
    if not is_float(dtype):
        return np.array(flat, dtype)
    # By way of doubles, as there: what a float cannot hold becomes an infinity.
    with np.errstate(over="ignore"):
        return np.array(flat, np.float64).astype(dtype, copy=False)
