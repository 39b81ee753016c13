"""TensorFlow Serving's classify and regress JSON: bytes to examples, and results to bytes.

A request is ``{"signature_name": str?, "context": example?, "examples": [example, ...]}``, an example an object of
features, a feature a value or a list of values of one kind: numbers with a point or an exponent become floats, other
numbers and booleans int64, strings and ``{"b64": "<base64>"}`` bytes. The context's features are every example's,
unless it has its own of that name.

An answer is ``{"results": [[["label", score], ...], ...]}`` for classify, ``{"results": [value, ...]}`` for regress.
Format and texts: tensorflow_serving's ``util/json_tensor.cc``, ``FillClassifyRegressRequestFromJson``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from runtime.codecs import json_answer, json_exact, json_limits
from runtime.codecs.json_dialect import Json
from runtime.codecs.json_values import excerpt, is_base64, kind, to_bytes
from runtime.errors import NAME, InvalidRequest, quoted
from runtime.examples import Example, ScoredLabel


class ParsedExamples(NamedTuple):
    signature_name: str
    examples: Sequence[Example]
    """Made when asked for: an array for each feature takes several times what its JSON does."""


def parse_examples(body: bytes) -> ParsedExamples:
    """Parse a classify or regress request.

    Raises:
        InvalidRequest: not JSON, or not of the form above, or there are too many values.
        Overloaded: see `json_limits.alone`.
    """
    with json_limits.alone(body):
        return _parse(json_exact.parse(body))


def _parse(document: Mapping[str, Json]) -> ParsedExamples:
    signature_name = json_exact.signature_name(document)
    context: Example = {}
    if "context" in document:
        _check(document["context"])
        # Made once, as each of its features stands for as many as there are examples.
        context = dict(_Features(document["context"], {}))
    values = _examples(document)
    for value in values:
        _check(value)
    return ParsedExamples(signature_name, _Examples(values, context))


def _examples(document: Mapping[str, Json]) -> list[Json]:
    if "examples" not in document:
        raise InvalidRequest(
            f"JSON Value: {excerpt(document)} When method is classify, key 'examples' is expected and was not found"
        )
    values = document["examples"]
    if not isinstance(values, list):
        raise InvalidRequest(f"JSON Value: {excerpt(document)} Expecting 'examples' value to be an list/array")
    if not values:
        raise InvalidRequest(f"JSON Value: {excerpt(document)} 'examples' value is an empty array")
    return values


def _check(value: Json) -> None:
    if not isinstance(value, dict):
        raise InvalidRequest(f"Example must be JSON object but got JSON {kind(value)}")
    for name, content in value.items():
        _values(name, content)


class _Examples(Sequence[Example]):
    def __init__(self, values: list[dict[str, Json]], context: Example) -> None:
        self._values = values
        self._context = context

    @overload
    def __getitem__(self, i: int) -> Example: ...

    @overload
    def __getitem__(self, i: slice) -> Sequence[Example]: ...

    def __getitem__(self, i: int | slice) -> Example | Sequence[Example]:
        if isinstance(i, slice):
            return _Examples(self._values[i], self._context)
        return _Features(self._values[i], self._context)

    def __len__(self) -> int:
        return len(self._values)


class _Features(Mapping[str, NDArray[Any]]):
    """Those of an example, each made when it is asked for, and those of the context that it does not name.

    A feature of no values has no kind, which to tf.Example is a feature that is not there, also not the context's.
    """

    def __init__(self, values: dict[str, Json], context: Example) -> None:
        self._values = values
        self._context = context

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._values:
            return self._context[name]
        if self._values[name] == []:
            raise KeyError(name)
        return _feature(name, self._values[name])

    def __iter__(self) -> Iterator[str]:
        yield from (name for name, content in self._values.items() if content != [])
        yield from (name for name in self._context if name not in self._values)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _feature(name: str, content: Json) -> NDArray[Any]:
    wanted, values = _values(name, content)
    if wanted == "bytes":
        return np.array(values, object)
    with np.errstate(over="ignore"):
        return np.array(values, np.float64).astype(np.float32) if wanted == "float" else np.array(values, np.int64)


def _values(name: str, content: Json) -> tuple[str, list[Any]]:
    """Return the kind of a feature, and its values."""
    values = content if isinstance(content, list) else [content]
    wanted = "float"
    for i, value in enumerate(values):
        given = _feature_kind(name, value)
        if i == 0:
            wanted = given
        elif given != wanted:
            raise InvalidRequest(
                f"Unexpected element type in feature: {quoted(name, NAME)} expecting type: {wanted}, and it has {given}"
            )
        if given == "int64" and value >= 1 << 63:
            raise InvalidRequest(f"Feature: {quoted(name, NAME)} has uint64 element. Only int64 is supported.")
    return wanted, list(map(to_bytes, values)) if wanted == "bytes" else values


def _feature_kind(name: str, value: Json) -> str:
    if isinstance(value, str) or is_base64(value):
        return "bytes"
    # Integers of more than 64 bits are doubles to rapidjson.
    if isinstance(value, float) or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 64):
        return "float"
    if isinstance(value, int):
        return "int64"
    raise InvalidRequest(f"Feature: {quoted(name, NAME)} has element with unexpected JSON type: {kind(value)}")


def encode_classifications(results: Sequence[Sequence[ScoredLabel]]) -> bytes:
    """Write the labels and scores of each example; scores as float32, which they are in TensorFlow Serving.

    Raises:
        InvalidRequest: there are no results.
    """
    if not results:
        raise InvalidRequest("Cannot convert empty ClassificationResults to JSON")
    scores = _as_float32([scored.score for classes in results for scored in classes])
    written = iter(scores)
    labels = [[[scored.label, next(written)] for scored in classes] for classes in results]
    return b'{"results":%b}' % json_answer.write(labels, [scores])


def encode_regressions(results: Sequence[float]) -> bytes:
    """Write the value of each example, as float32.

    Raises:
        InvalidRequest: there are no results.
    """
    if not results:
        raise InvalidRequest("Cannot convert empty RegressionResults to JSON")
    values = _as_float32(results)
    return b'{"results":%b}' % json_answer.write(values, [values])


def _as_float32(values: Sequence[float]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.array(values, np.float64).astype(np.float32)
