"""An inference request of REST: bytes to `InferRequest`.

The body is JSON::

    {"id": str?, "parameters": {...}?,
     "inputs": [{"name": str, "shape": [int], "datatype": str, "parameters": {...}?, "data": flat or nested list?}],
     "outputs": [{"name": str, "parameters": {...}?}]?}

An input without ``data`` has it in binary, behind the JSON, whose size is in a header; ``binary_data_size`` among its
parameters says how much. What may be left out may be null as well, as pydantic's clients have it; members that are not
known are not looked at.

https://github.com/kserve/open-inference-protocol, "Inference Request JSON Object", and Triton's
``extension_binary_data.md``. The JSON itself is v1's, in `json_dialect`, but that nothing may be behind it. Two readers
read it: `infer_json_fast` and `infer_json_exact`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.answers import JSON_SIZE
from runtime.codecs import json_limits
from runtime.codecs.dtypes import is_string
from runtime.codecs.open_inference import infer_json_fast, raw
from runtime.codecs.open_inference.datatypes import dtype_of, known
from runtime.codecs.open_inference.infer_json_data import Data
from runtime.codecs.open_inference.infer_json_shapes import Tensor
from runtime.codecs.open_inference.infer_json_tail import Tail
from runtime.codecs.open_inference.inference import NO_PARAMETERS, InferRequest, Input, Parameters, Wanted
from runtime.errors import NAME, QUOTED, InvalidRequest, quoted
from runtime.signature import DYNAMIC, Dtype, TensorSpec

if TYPE_CHECKING:
    from runtime.codecs.json_dialect import Json

_BESIDE_NAME = QUOTED - NAME
_STRING: Dtype = np.dtype(object)
_DIGITS = 18
MAX_TENSORS = 10_000
"""Inputs, or outputs, of a request; with its parameters they stay in memory until the model is there."""
MAX_PARAMETERS = 10_000
"""Of a request and all its tensors together."""
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1
"""Of an integer among the parameters; it may be written back."""


def json_size(text: str) -> int:
    """Return what the header of that name says.

    Raises:
        InvalidRequest: it is no number.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        raise InvalidRequest(
            f"{JSON_SIZE} header is invalid and couldn't be parsed: it is '{quoted(text)}'; want a number of bytes"
        )
    return int(text)


def parse(body: bytes, json_size: int | None) -> InferRequest:
    """Parse a request, all but the values of its inputs.

    Args:
        body: with nothing encoded any more.
        json_size: how many bytes of it are JSON; None for all.

    Raises:
        InvalidRequest: it is not of the format; or names, datatypes, shapes and the bytes there are do not go together.
        Overloaded: see `json_limits.alone`.
    """
    size = len(body) if json_size is None else json_size
    if size > len(body):
        raise InvalidRequest(f"{JSON_SIZE} is {size}; the body has {len(body)} bytes")
    # A front may have put blanks behind it, so that the tensors are aligned: errors are told without them.
    text = body if size == len(body) else body[:size].rstrip(b" ")
    tail = Tail(memoryview(body)[size:], json_size is not None)
    request = infer_json_fast.load(text)
    if request is not None:
        return _request(request, Data(text, is_fast=True, is_kept=True), tail)
    with json_limits.alone(text) as is_large:
        # Imported by requests that need it.
        from runtime.codecs import json_exact

        try:
            request = json_exact.parse(text, is_whole=True)
        except InvalidRequest as exc:
            raise InvalidRequest(f"{exc}{_hint(body, json_size, size - len(text))}") from exc
        _check_counts(request)
        return _request(request, Data(text, is_fast=False, is_kept=not is_large), tail)


def parse_raw(body: bytes, spec: TensorSpec) -> InferRequest:
    """Return a request that is nothing but the bytes of a model's only input: Triton's raw binary request.

    The shape is the input's. One size that is open follows from the bytes; if two are, the first is 1. Of strings there
    is one, which is the body; and of an input that takes images, what begins as a file of one is that file.

    Raises:
        InvalidRequest: the shape does not follow, or the bytes are not as many as it takes.
    """
    dtype = spec.dtype
    if is_string(dtype):
        shape = _deduced(spec, 1)
        if prod(shape) != 1:
            raise _undeducible(spec, "of one string")
        read = partial(raw.decode_bare, shape, [len(body)], body)
    elif spec.takes_images and raw.begins_as_image(body):
        dtype, shape = _STRING, (1,)
        read = partial(raw.decode_bare, shape, [len(body)], body)
    else:
        shape = _deduced(spec, len(body) // dtype.itemsize)
        raw.check(spec.name, dtype, shape, len(body))
        read = partial(raw.decode, spec.name, dtype, shape, body)
    return InferRequest([Input(spec.name, dtype, shape, read)])


def _deduced(spec: TensorSpec, count: int) -> tuple[int, ...]:
    """Return the shape that so many elements have, if any."""
    if spec.shape is None:
        raise _undeducible(spec, "that is known")
    shape = list(spec.shape)
    if is_string(spec.dtype):
        return tuple(1 if size == DYNAMIC else size for size in shape)
    if shape.count(DYNAMIC) > 1 and shape[0] == DYNAMIC:
        shape[0] = 1
    if shape.count(DYNAMIC) > 1:
        raise _undeducible(spec, "of which one size is open")
    others = prod(size for size in shape if size != DYNAMIC)
    return tuple(count // others if size == DYNAMIC and others else max(size, 0) for size in shape)


def _undeducible(spec: TensorSpec, want: str) -> InvalidRequest:
    shape = "any shape" if spec.shape is None else f"shape {raw.sizes(spec.shape)}"
    return raw.error(spec.name, f"has {shape}; want one {want} for a request without JSON")


def _hint(body: bytes, json_size: int | None, blanks: int) -> str:
    """Return what a client may have forgotten whose JSON does not end where it should."""
    if json_size is not None:
        return f"; {JSON_SIZE} says that {json_size - blanks} bytes of {len(body) - blanks} are JSON"
    # JSON has none of them, and most tensors do.
    return f"; want the header {JSON_SIZE} if tensors follow the JSON" if b"\0" in body else ""


def _check_counts(request: Mapping[str, Json]) -> None:
    """Refuse what would take much more memory than its text; of what the fast reader takes there is less."""
    parameters = _count(request)
    for key in ("inputs", "outputs"):
        tensors = request.get(key)
        if isinstance(tensors, list):
            if len(tensors) > MAX_TENSORS:
                raise InvalidRequest(f"'{key}' are {len(tensors)}; want {MAX_TENSORS} at most")
            parameters += sum(map(_count, tensors))
    if parameters > MAX_PARAMETERS:
        raise InvalidRequest(f"the request has {parameters} parameters; want {MAX_PARAMETERS} at most")


def _count(of: Json) -> int:
    """Return how many parameters there are of a request or a tensor."""
    parameters = of.get("parameters") if isinstance(of, dict) else None
    return len(parameters) if isinstance(parameters, dict) else 0


def _request(request: Mapping[str, Json], data: Data, tail: Tail) -> InferRequest:
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        given = "not there" if inputs is None else _excerpt(inputs)
        hint = ", or /v1/ in the path for 'instances'" if "instances" in request else ""
        # OpenVINO Model Server's text is part of ours, here and below.
        raise InvalidRequest(
            f"Invalid JSON structure, missing inputs: 'inputs' are {given}; want a list of one or more{hint}"
        )
    id_ = request.get("id")
    if id_ is not None:
        _check_text(id_, "id")
    parameters = _parameters(request, "the request")
    is_binary = _flag(parameters, "binary_data_output", "the request")
    outputs = _outputs(request)
    # The lists of inputs and outputs, and one shape each.
    data.lists = 1 + len(inputs) + (request.get("outputs") is not None)
    return InferRequest(_inputs(inputs, data, tail), outputs, id_ or "", parameters, bool(is_binary))


def _inputs(inputs: list[Json], data: Data, tail: Tail) -> list[Input]:
    names: set[str] = set()
    binary = [i for i, one in enumerate(inputs) if isinstance(one, dict) and one.get("data") is None]
    read = []
    for i, one in enumerate(inputs):
        name = _name(one, "input", i, names)
        where = f"input '{quoted(name, NAME)}'"
        dtype, shape = _dtype(one, name), _shape(one, name)
        parameters = _parameters(one, where)
        _refuse_shared_memory(parameters, where)
        size = parameters.get("binary_data_size")
        if one.get("data") is None:
            reader, packed = tail.take(name, dtype, shape, size, i == binary[-1])
        elif size is not None:
            raise InvalidRequest(
                f"{where} has both data and a binary_data_size; want one of them: Request contains values both in "
                "binary data and in content value"
            )
        else:
            reader, packed = data.add(Tensor(name, dtype, shape, i), one["data"]), b""
        read.append(Input(name, dtype, shape, reader, parameters, packed))
    tail.check_end()
    return read


def _outputs(request: Mapping[str, Json]) -> Sequence[Wanted]:
    outputs = request.get("outputs")
    if outputs is None:
        return ()
    if not isinstance(outputs, list):
        raise InvalidRequest(f"Could not parse output content. 'outputs' are {_excerpt(outputs)}; want a list")
    names: set[str] = set()
    return [_wanted(one, _name(one, "output", i, names)) for i, one in enumerate(outputs)]


def _wanted(one: Mapping[str, Json], name: str) -> Wanted:
    where = f"output '{quoted(name, NAME)}'"
    parameters = _parameters(one, where)
    _refuse_shared_memory(parameters, where)
    classes = parameters.get("classification", 0)
    if not isinstance(classes, int) or isinstance(classes, bool) or ("classification" in parameters and classes < 1):
        raise InvalidRequest(
            f"{where} has the parameter 'classification' {_excerpt(classes)}; want a whole number from 1 on"
        )
    return Wanted(name, _flag(parameters, "binary_data", where), classes, parameters)


def _name(one: Json, what: str, i: int, names: set[str]) -> str:
    """Return the name of an input or an output that is none of those so far, which it is put to."""
    if not isinstance(one, dict):
        raise InvalidRequest(f"{what} {i} is {_excerpt(one)}; want an object")
    name = one.get("name")
    if name is None:
        raise InvalidRequest(f"{what} {i} has no name; want one")
    _check_text(name, f"the name of {what} {i}")
    if not name:
        raise InvalidRequest(f"the name of {what} {i} is empty; want one")
    if name in names:
        raise InvalidRequest(f"{what} '{quoted(name, NAME)}' is there twice, again as {what} {i}; want it once")
    names.add(name)
    return str(name)


def _check_text(value: Json, what: str) -> None:
    """Raise InvalidRequest unless this is a string that can be written back, as an answer does."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} is {_excerpt(value)}; want a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{what} is '{quoted(value, _BESIDE_NAME)}'; want UTF-8") from None


def _dtype(one: Mapping[str, Json], name: str) -> Dtype:
    datatype = one.get("datatype")
    dtype = dtype_of(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        given = "no datatype" if datatype is None else f"the datatype {_excerpt(datatype)}"
        raise raw.error(name, f"has {given}; want one of {known()}")
    return dtype


def _shape(one: Mapping[str, Json], name: str) -> tuple[int, ...]:
    shape = one.get("shape")
    if not isinstance(shape, list):
        given = "no shape" if shape is None else f"the shape {_excerpt(shape)}"
        raise raw.error(name, f"has {given}; want a list of sizes")
    return raw.check_shape(name, shape)


def _parameters(of: Mapping[str, Json], where: str) -> Parameters:
    parameters = of.get("parameters")
    if parameters is None:
        return NO_PARAMETERS
    if not isinstance(parameters, dict):
        raise InvalidRequest(
            f"Could not parse request parameters: those of {where} are {_excerpt(parameters)}; want an object"
        )
    for name, value in parameters.items():
        _check_text(name, f"a parameter's name of {where}")
        _check_parameter(name, value, where)
    return parameters


def _check_parameter(name: str, value: Any, where: str) -> None:
    if isinstance(value, str):
        _check_text(value, f"a parameter of {where}")
    elif not isinstance(value, float) and not (isinstance(value, int) and _LEAST <= value <= _MOST):
        what = "a whole number of 64 bits" if isinstance(value, int) else "a string, a number, true or false"
        raise InvalidRequest(
            f"Could not parse request parameters: {where} has a parameter {_excerpt({name: value}, NAME)}; want {what}"
        )


def _flag(parameters: Parameters, name: str, where: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{where} has the parameter '{name}' {_excerpt(value)}; want true or false")
    return value


def _refuse_shared_memory(parameters: Parameters, where: str) -> None:
    if "shared_memory_region" in parameters:
        raise InvalidRequest(f"{where} is in shared memory, which is not supported; want it in the body")


def _excerpt(value: Json, limit: int = _BESIDE_NAME) -> str:
    """Quote a value that is not what is wanted."""
    # Imported for errors, as it takes milliseconds.
    from runtime.codecs.json_values import excerpt

    return excerpt(value, limit)
