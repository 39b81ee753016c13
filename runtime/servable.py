"""The interface between the server and whatever answers predictions: one model, or several made into one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from model_cache.disk import Fetched
from runtime.signature import Signature

Tensors = Mapping[str, NDArray[Any]]
"""By name. bfloat16 is ml_dtypes' dtype, everything else numpy's own."""


@dataclass(frozen=True)
class LoadPhases:
    """What a load has spent its time on, in seconds."""

    fetched: Fetched | None
    """What was downloaded for it, and how long that took; None if the files were there."""
    compile: float
    total: float


class Servable(Protocol):
    """Loaded and ready. `predict` may be called from several threads at once, and not after `close`."""

    size: int
    """Bytes of memory it occupies until it is closed."""
    phases: LoadPhases

    @property
    def signatures(self) -> Mapping[str, Signature]: ...

    def predict(self, signature_name: str, inputs: Tensors) -> Tensors:
        """Return every output of the signature; the arrays are the caller's own.

        Raises:
            SignatureNotFound, InvalidRequest: the inputs are not the signature's, by name, dtype or shape.
            InferenceFailed: they are, and the engine could not run them.
        """
        ...

    def close(self) -> None: ...
