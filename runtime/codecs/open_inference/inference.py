"""An inference request and its answer, as both transports have them: the codecs of each make and take these.

What is here has been checked as far as that can be done without the model: names, datatypes, shapes, sizes and the
bytes received go together. Nothing of a tensor's size has been allocated yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from runtime.signature import Dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

Parameter: TypeAlias = bool | int | float | str
Parameters: TypeAlias = Mapping[str, Parameter]
NO_PARAMETERS: Parameters = MappingProxyType({})


class Input(NamedTuple):
    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    read: Callable[[float | None], NDArray[Any]]
    """Returns the array of dtype and shape, strings as bytes objects; a view of what was received where that will do,
    which may be read-only and not aligned. Takes a deadline in seconds of the monotonic clock. Raises InvalidRequest,
    DeadlineExceeded or Overloaded."""
    parameters: Parameters = NO_PARAMETERS
    packed: memoryview | bytes = b""
    """Of strings in binary, what was received of them; a single image may be in it without its length."""


class Wanted(NamedTuple):
    """An output that is asked for by name."""

    name: str
    is_binary: bool | None = None
    """None if the request as a whole says it."""
    classes: int = 0
    """How many of the largest values are wanted, as strings; 0 for the tensor itself."""
    parameters: Parameters = NO_PARAMETERS


class InferRequest(NamedTuple):
    inputs: Sequence[Input]
    """In the order of the request; the names differ."""
    outputs: Sequence[Wanted] = ()
    """Empty for all; the names differ."""
    id: str = ""
    parameters: Parameters = NO_PARAMETERS
    is_binary: bool = False
    """Whether outputs are binary that do not say so themselves. gRPC's always are."""


class Output(NamedTuple):
    name: str
    array: NDArray[Any]
    is_binary: bool = False
    parameters: Parameters = NO_PARAMETERS


class InferResponse(NamedTuple):
    model_name: str
    model_version: str
    outputs: Sequence[Output]
    """In the order of the request, or of the signature."""
    id: str = ""
    parameters: Parameters = NO_PARAMETERS
