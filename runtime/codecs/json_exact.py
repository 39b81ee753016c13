"""The exact reader of predict JSON: takes whatever is of the format, and says what is wrong with the rest.

It walks Python lists and is slow by comparison; `json_fast` takes the common case. Texts of errors are TensorFlow
Serving's (``util/json_tensor.cc``), followed by what was wanted where those do not say it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.codecs.dtypes import is_float, tf_name
from runtime.errors import InvalidRequest
from runtime.servable import Tensors
from runtime.signature import MAX_RANK, TensorSpec

Json = Any

_EXCERPT = 256
_MANY = 1 << 16
_BOM = b"\xef\xbb\xbf"


def parse(body: bytes) -> Mapping[str, Json]:
    """Parse a JSON object, NaN and Infinity included; of a key given twice the first value counts.

    Raises:
        InvalidRequest: not JSON, or not an object.
    """
    try:
        root = _load(body.removeprefix(_BOM).decode())
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"JSON Parse error: the body is not UTF-8 at offset: {exc.start}") from None
    except json.JSONDecodeError as exc:
        text = "The document is empty" if not body.strip() else exc.msg
        raise InvalidRequest(f"JSON Parse error: {text} at offset: {exc.pos}") from None
    except RecursionError:
        raise InvalidRequest("JSON Parse error: lists or objects are nested too deep") from None
    if not isinstance(root, dict):
        raise InvalidRequest(f"JSON Value: {excerpt(root)} Is not object")
    return root


def _load(text: str) -> Json:
    try:
        return json.loads(text, object_pairs_hook=_first_wins)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # An integer of more digits than Python converts. Only now, as it is a call for each integer.
        return json.loads(text, object_pairs_hook=_first_wins, parse_int=_integer)


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        # So many are more than any float can hold: an infinity.
        return float(digits)


def excerpt(value: Json) -> str:
    """Quote a value, cut to a length that an error message and a log line can bear."""
    text = ""
    # Piece by piece: the value may be all of a large body.
    for piece in json.JSONEncoder(separators=(",", ":")).iterencode(value):
        text += piece
        if len(text) > _EXCERPT:
            return f"{text[:_EXCERPT]}..."
    return text


def read(document: Mapping[str, Json], is_row: bool, specs: Mapping[str, TensorSpec]) -> Tensors:
    if is_row:
        return _read_rows(document["instances"], specs)
    return _read_columns(document["inputs"], specs)


def _first_wins(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    return dict(reversed(pairs))


def _read_rows(rows: Json, specs: Mapping[str, TensorSpec]) -> Tensors:
    if not isinstance(rows, list):
        raise InvalidRequest(f"JSON Value: {excerpt(rows)} Expecting 'instances' to be an list/array")
    if not rows:
        raise InvalidRequest("JSON Value: [] No values in 'instances' array")
    if isinstance(rows[0], dict):
        return _read_named_rows(rows, specs)
    if len(specs) != 1:
        raise InvalidRequest(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            f"tensorinfo_map: {_wanted(specs)}"
        )
    for i, row in enumerate(rows):
        if isinstance(row, dict):
            raise InvalidRequest(f"Expecting value/list but got object at item {i} of input list")
    (spec,) = specs.values()
    return {spec.name: _stack(rows, spec, lambda i: f"Failed to process element: {i} of 'instances' list.")}


def _read_named_rows(rows: list[Json], specs: Mapping[str, TensorSpec]) -> Tensors:
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InvalidRequest(f"Expecting object but got list at item {i} of input list")
        if row.keys() != specs.keys():
            raise InvalidRequest(
                f"Failed to process element: {i} of 'instances' list. JSON object: {excerpt(row)} "
                f"keys must be equal to: {','.join(sorted(specs))}"
            )
    return {name: _named_column(rows, spec) for name, spec in specs.items()}


def _named_column(rows: list[Json], spec: TensorSpec) -> NDArray[Any]:
    column = [row[spec.name] for row in rows]
    return _stack(column, spec, lambda i: f"Failed to process element: {i} key: {spec.name} of 'instances' list.")


def _stack(rows: list[Json], spec: TensorSpec, where: Callable[[int], str]) -> NDArray[Any]:
    shape: list[int] = []
    # Of all rows: an array of its own for each would take many times the memory of a short row.
    flat: list[Json] = []
    for i, row in enumerate(rows):
        try:
            if i == 0:
                shape = _shape(row, spec, MAX_RANK - 1)
                if math.prod(shape) * len(rows) > _MANY:
                    spec.require((len(rows), *shape))
            _check_first(row, shape)
            _flatten(row, shape, 0, spec, flat)
        except InvalidRequest as exc:
            raise InvalidRequest(f"{where(i)} Error: INVALID_ARGUMENT: {exc}") from None
    return _array(flat, spec).reshape([len(rows), *shape])


def _check_first(row: Json, shape: list[int]) -> None:
    """Refuse a list whose first elements show another shape; what else may be wrong is found on the way through."""
    given: list[int] = []
    inner = row
    while isinstance(inner, list) and len(given) <= len(shape):
        given.append(len(inner))
        inner = inner[0] if inner else None
    if given != shape:
        raise InvalidRequest(f"Expecting shape {_brackets(shape)} but got: {_brackets(given)}")


def _brackets(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _read_columns(columns: Json, specs: Mapping[str, TensorSpec]) -> Tensors:
    if not isinstance(columns, dict):
        if len(specs) != 1:
            raise InvalidRequest(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                f"tensorinfo_map: {_wanted(specs)}"
            )
        columns = dict.fromkeys(specs, columns)
    for name in specs:
        if name not in columns:
            raise InvalidRequest(f"Missing named input: {name} in 'inputs' object. Want {_wanted(specs)}")
    return {name: _tensor(columns[name], spec) for name, spec in specs.items()}


def _wanted(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"'{spec.name}' {tf_name(spec.dtype)} {spec.shape}" for spec in specs.values())


def _tensor(value: Json, spec: TensorSpec) -> NDArray[Any]:
    shape = _shape(value, spec, MAX_RANK)
    if math.prod(shape) > _MANY:
        # Walking through so many takes seconds, so first see whether they are of any use.
        spec.require(tuple(shape))
    flat: list[Json] = []
    _flatten(value, shape, 0, spec, flat)
    return _array(flat, spec).reshape(shape)


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


def _flatten(value: Json, shape: list[int], level: int, spec: TensorSpec, flat: list[Json]) -> None:
    if level == len(shape):
        if isinstance(value, list):
            raise InvalidRequest(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        flat.append(_scalar(value, spec))
        return
    if not isinstance(value, list):
        raise InvalidRequest(
            f"JSON Value: {excerpt(value)} found at incorrect level: {level} in the JSON DOM. "
            f"Expected at level: {len(shape)}"
        )
    if len(value) != shape[level]:
        raise InvalidRequest(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for child in value:
        _flatten(child, shape, level + 1, spec, flat)


def _scalar(value: Json, spec: TensorSpec) -> bool | int | float:
    if spec.dtype == np.bool_:
        fits = type(value) is bool
    elif is_float(spec.dtype):
        fits = type(value) in (int, float)
    else:
        fits = type(value) is int
    if not fits:
        raise InvalidRequest(
            f"JSON Value: {excerpt(value)} Type: {_kind(value)} is not of expected type: {spec.dtype.name}"
        )
    if type(value) is int and spec.dtype.kind in "iu":
        _check_range(value, spec)
    return value  # type: ignore[no-any-return]


def _check_range(value: int, spec: TensorSpec) -> None:
    limits = np.iinfo(spec.dtype)  # type: ignore[type-var]
    if not limits.min <= value <= limits.max:
        raise InvalidRequest(
            f"JSON Value: {excerpt(value)} Type: Number is not of expected type: {spec.dtype.name} "
            f"({limits.min} to {limits.max})"
        )


def _kind(value: Json) -> str:
    """Name a value's type as rapidjson does."""
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    for cls, name in ((dict, "Object"), (list, "Array"), (str, "String")):
        if isinstance(value, cls):
            return name
    return "Number"


def _array(flat: list[Json], spec: TensorSpec) -> NDArray[Any]:
    if not is_float(spec.dtype):
        return np.array(flat, spec.dtype)
    with np.errstate(over="ignore"):
        return np.array([_as_float(value) for value in flat], np.float64).astype(spec.dtype)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
