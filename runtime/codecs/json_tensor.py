"""TensorFlow Serving's predict JSON: bytes to arrays and back.

A request is ``{"signature_name": str?, "instances": rows}`` or ``{..., "inputs": columns}``:

* rows: a non-empty list; element i is slice i of every input. With one input an element is its value, or
  ``{"name": value}``; with several it is an object of exactly the inputs' names.
* columns: an object ``{"name": tensor}`` of whole tensors, which need share no dimension; with one input the name may
  be left out.

An answer is ``{"predictions": rows}`` or ``{"outputs": columns}`` accordingly; one output is not named. NaN, Infinity
and -Infinity are bare tokens both ways, so neither is strict JSON.

Format and texts: tensorflow_serving's ``util/json_tensor.cc``. There are two readers. `fast` takes numbers in
rectangular lists from simdjson's buffers; whatever it does not take, for whatever reason, `exact` reads, or says what
is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.codecs import json_exact, json_fast
from runtime.codecs.json_exact import Json
from runtime.errors import InvalidRequest
from runtime.servable import Tensors
from runtime.signature import DEFAULT_SIGNATURE, TensorSpec


@dataclass(frozen=True)
class ParsedPredict:
    """A request whose JSON is sound and whose model is not known yet."""

    body: bytes
    signature_name: str
    is_row: bool
    fast: json_fast.Document | None
    exact: Mapping[str, Json] | None

    def inputs(self, specs: Mapping[str, TensorSpec]) -> Tensors:
        """Return the arrays of the signature's inputs, of their dtypes.

        Shapes are the request's: whether they are the signature's is the servable's to say.

        Raises:
            InvalidRequest: names, dtypes or nesting are not what ``specs`` want.
        """
        if self.fast is not None:
            tensors = json_fast.read(self.fast, self.is_row, specs)
            if tensors is not None:
                return tensors
        document = self.exact if self.exact is not None else json_exact.parse(self.body)
        return json_exact.read(document, self.is_row, specs)


def parse_predict(body: bytes) -> ParsedPredict:
    """Parse a predict request as far as that goes without its model.

    Raises:
        InvalidRequest: not JSON, or not of the form above.
    """
    fast = json_fast.parse(body)
    if fast is not None:
        return ParsedPredict(body, fast.signature_name, fast.is_row, fast, None)
    document = json_exact.parse(body)
    name = document.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(name, str):
        raise InvalidRequest(
            f"JSON Value: {json_exact.excerpt(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return ParsedPredict(body, name or DEFAULT_SIGNATURE, _is_row(document), None, document)


def _is_row(document: Mapping[str, Json]) -> bool:
    if "instances" in document and "inputs" in document:
        raise InvalidRequest(
            f"JSON Value: {json_exact.excerpt(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
        )
    if "instances" not in document and "inputs" not in document:
        raise InvalidRequest("Missing 'inputs' or 'instances' key")
    return "instances" in document
