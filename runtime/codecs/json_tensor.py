"""TensorFlow Serving's predict JSON: bytes to arrays and back.

A request is ``{"signature_name": str?, "instances": rows}`` or ``{..., "inputs": columns}``:

* rows: a non-empty list; element i is slice i of every input. With one input an element is its value, or
  ``{"name": value}``; with several it is an object of exactly the inputs' names.
* columns: an object ``{"name": tensor}`` of whole tensors, which need share no dimension; with one input the name may
  be left out.

A string is a JSON string or ``{"b64": "<base64>"}``; for an input of numbers the latter is an image. An answer is
``{"predictions": rows}`` or ``{"outputs": columns}`` accordingly; one output is not named. NaN, Infinity and -Infinity
are bare tokens both ways, so neither is strict JSON.

Format and texts: tensorflow_serving's ``util/json_tensor.cc``; `json_dialect` has the JSON itself. There are two
readers. `fast` takes numbers in rectangular lists from simdjson's buffers; whatever it does not take, for whatever
reason, `exact` reads, or says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.codecs import json_fast, json_limits
from runtime.errors import NAME, InvalidRequest, quoted
from runtime.servable import Tensors
from runtime.signature import DEFAULT_SIGNATURE, TensorSpec

# The exact reader is imported by requests that need it: most first requests of a process do not.
if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.codecs.json_dialect import Json


@dataclass(slots=True)
class ParsedPredict:
    """A request whose JSON is sound and whose model is not known yet."""

    body: bytes
    signature_name: str
    is_row: bool
    """Whether the answer goes in rows; a request that does not say so clearly has no inputs either."""
    fast: json_fast.Document | None
    exact: Mapping[str, Json] | None
    """Not of a large body, which is parsed again: its text takes less room until there is a model."""

    def inputs(
        self,
        specs: Mapping[str, TensorSpec],
        deadline: float | None = None,
        special: Mapping[str, TensorSpec] | None = None,
    ) -> Tensors:
        """Return the arrays of the signature's inputs, of their dtypes, or of the files of images.

        Shapes are the request's: whether they are the signature's is the servable's to say.

        Args:
            specs: of the inputs.
            deadline: in seconds of the monotonic clock.
            special: of what may be sent besides: a number each, or a list of it.

        Raises:
            InvalidRequest: there are not either rows or columns in it; names, dtypes or nesting are not what ``specs``
                want; or there are too many values.
            DeadlineExceeded: it is over, in seconds of the monotonic clock.
            Overloaded: see `json_limits.alone`.
        """
        if not specs:
            name = "DEFAULT" if self.signature_name == DEFAULT_SIGNATURE else quoted(self.signature_name, NAME)
            raise InvalidRequest(f"Failed to get input map for signature: {name}")
        if not special:
            return self._read(specs, deadline, {})
        # Their shape depends on where they stand, and is the servable's to check.
        anyhow = {name: spec._replace(shape=None) for name, spec in special.items()}
        tensors = self._read(specs, deadline, anyhow)
        return {name: _listed(array, self.is_row) if name in special else array for name, array in tensors.items()}

    def _read(
        self, specs: Mapping[str, TensorSpec], deadline: float | None, optional: Mapping[str, TensorSpec]
    ) -> Tensors:
        if self.fast is not None:
            tensors = json_fast.read(self.fast, specs, deadline, optional)
            if tensors is not None:
                return tensors
            # Its tape is several times as large as the body.
            self.fast = None
        from runtime.codecs import json_exact

        if self.exact is not None:
            return json_exact.read(self.exact, specs, deadline, optional)
        with json_limits.alone(self.body, deadline):
            # Whatever has parsed it once takes nothing that rapidjson refuses.
            return json_exact.read(json_exact.parse(self.body, is_strict=True), specs, deadline, optional)


def _listed(numbers: NDArray[Any], is_row: bool) -> NDArray[Any]:
    """Return what is special without the list that it may be in, a row's own, or in a list if it is in none."""
    is_in_two = is_row and numbers.shape[1:] == (1,)
    return numbers.reshape(-1) if is_in_two or not numbers.ndim else numbers


def parse_predict(body: bytes) -> ParsedPredict:
    """Parse a predict request as far as TensorFlow Serving does before it looks for the model.

    Raises:
        InvalidRequest: not a JSON object, or its signature_name is no string, or there are too many values.
        Overloaded: see `json_limits.alone`.
    """
    fast = json_fast.parse(body)
    if fast is not None:
        return ParsedPredict(body, fast.signature_name, fast.is_row, fast, None)
    with json_limits.alone(body) as is_large:
        return _parse_exactly(body, is_large)


def _parse_exactly(body: bytes, is_large: bool) -> ParsedPredict:
    from runtime.codecs import json_exact

    document = json_exact.parse(body)
    name, is_row = json_exact.signature_name(document), "instances" in document
    return ParsedPredict(body, name, is_row, None, None if is_large else document)
