"""The interface between the server and whatever answers predictions: one model, or several made into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from model_cache.disk import Fetched
from runtime.signature import Signature

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tensors: TypeAlias = "Mapping[str, NDArray[Any]]"
"""By name. bfloat16 is ml_dtypes' dtype; strings are arrays of dtype object with bytes in them; all else is numpy's."""


class LoadPhases(NamedTuple):
    """What a load has spent its time on, in seconds."""

    fetched: Fetched | None
    """What was downloaded for it, and how long that took; None if the files were there."""
    compile: float
    total: float
    warm_up: float = 0.0
    is_imported: bool = False
    """Whether it was compiled before, and `compile` is how long it took to import that."""


class Observer(Protocol):
    """Told what a servable does, as it does it, by any thread."""

    def ran(self, waited: float, took: float) -> None:
        """Note that an inference has ended well: seconds that it waited for an infer request, and in the engine."""
        ...

    def stacked(self, rows: int) -> None:
        """Note that a batch of so many rows is run."""
        ...


class Usage(NamedTuple):
    """At one moment."""

    streams: int
    """OpenVINO's, which run side by side."""
    active: int
    """Infer requests in use."""
    waiting: int
    """Inferences that wait for one."""
    stacking: int = 0
    """Requests that wait in a batch."""


@runtime_checkable
class Observed(Protocol):
    """A servable of which more can be known than what it answers."""

    observer: Observer | None

    @property
    def usage(self) -> Usage: ...


class Servable(Protocol):
    """Loaded and ready. `predict` may be called from several threads at once, and not after `close`."""

    size: int
    """Bytes of memory it occupies until it is closed."""
    phases: LoadPhases
    concurrency: int
    """Inferences it runs at once; further callers wait."""

    @property
    def signatures(self) -> Mapping[str, Signature]: ...

    @property
    def is_quick(self) -> bool:
        """Whether a request of now would most likely be answered well within a millisecond, without waiting."""
        ...

    @property
    def is_kept(self) -> bool:
        """Whether callers count on what it remembers of them, so that it is not closed to make room."""
        ...

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        """Return every output of the signature; the arrays are the caller's own.

        Args:
            deadline: in seconds of the monotonic clock, when nobody wants the answer any more.

        Raises:
            DeadlineExceeded: it has passed.
            SignatureNotFound, InvalidRequest: the inputs are not the signature's, by name, dtype or shape.
            InferenceFailed: they are, and the engine could not run them.
        """
        ...

    def close(self) -> None: ...
