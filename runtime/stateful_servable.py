"""A stateful model as OpenVINO Model Server serves it: each request is part of a sequence and goes on from its state.

Inputs, outputs and texts: ``statefulmodelinstance.cpp``. A sequence's state is out of the engine between its requests,
so that any infer request can run the next one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from model_cache.errors import LoadFailed
from runtime.errors import DeadlineExceeded, InvalidRequest, Overloaded, SignatureNotFound
from runtime.inputs import check_inputs
from runtime.sequences import Control, Sequences
from runtime.servable import Observed, Observer, Servable, Tensors, Usage
from runtime.signature import DEFAULT_SIGNATURE, TensorSpec

if TYPE_CHECKING:
    from runtime.options import Stateful
    from runtime.sequence_cleaner import SequenceCleaner

logger = logging.getLogger(__name__)

TURN_TIMEOUT = 30.0
"""Seconds that a request without a deadline waits for those before it; as long as for an infer request."""

ID = TensorSpec("sequence_id", np.dtype(np.uint64), (1,))
CONTROL = TensorSpec("sequence_control_input", np.dtype(np.uint32), (1,))

State = Mapping[str, Any]
"""OpenVINO's tensors, by the names of the model's variables."""


class Advancing(Servable, Observed, Protocol):
    """What can be run from any state."""

    variables: tuple[str, ...]
    """Names of what it keeps from one inference to the next."""

    def advance(
        self, signature_name: str, inputs: Tensors, state: State | None, deadline: float | None = None
    ) -> tuple[Tensors, State | None]:
        """Return the outputs, and the state after them.

        Args:
            state: the one to begin with; None for the model's initial one.

        Raises:
            InferenceError: as `Servable.predict`.
        """
        ...


class _Place(NamedTuple):
    """Which sequence a request is of, and where in it."""

    control: Control
    id: int


class StatefulServable:
    """Made by `StatefulLoader`, of a model that has one signature."""

    # It waits for others of its sequence, whoever they are.
    is_quick = False

    def __init__(
        self,
        name: str,
        inner: Advancing,
        options: Stateful,
        cleaner: SequenceCleaner,
        *,
        turn_timeout: float = TURN_TIMEOUT,
    ) -> None:
        """
        Raises:
            LoadFailed: the model has an input or output of its own that is named like a sequence's.
        """
        signature = inner.signatures[DEFAULT_SIGNATURE]
        taken = [name for name in (ID.name, CONTROL.name) if name in signature.inputs or name in signature.outputs]
        if taken:
            raise LoadFailed(f"{name} has a tensor named '{taken[0]}', which is the server's own of a stateful model")
        if not inner.variables:
            logger.warning("%s is to be stateful and has no state, so each of its requests stands for itself", name)
        self.size = inner.size
        self.phases = inner.phases
        self.concurrency = inner.concurrency
        self.signatures = {
            DEFAULT_SIGNATURE: signature._replace(
                special_inputs={ID.name: ID, CONTROL.name: CONTROL}, special_outputs={ID.name: ID}
            )
        }
        self._name = name
        self._inner = inner
        self._specs = signature.inputs
        self._turn_timeout = turn_timeout
        self._sequences = Sequences[State](options.max_sequences)
        self._cleaner = cleaner
        if options.has_idle_cleanup:
            cleaner.watch(name, self._sequences)

    def __repr__(self) -> str:
        return f"<StatefulServable {self._name} {self.sequences} sequences>"

    @property
    def sequences(self) -> int:
        """How many are open."""
        return len(self._sequences)

    @property
    def is_kept(self) -> bool:
        return bool(self._sequences)

    @property
    def observer(self) -> Observer | None:
        return self._inner.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._inner.observer = observer

    @property
    def usage(self) -> Usage:
        return self._inner.usage

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        """Run the next request of a sequence; as `Servable.predict`.

        A request that fails has changed nothing: it may be sent again.

        Raises:
            SequenceNotFound, SequenceExists, SequenceEnding, TooManySequences: the sequence is not to be had.
        """
        if signature_name not in self.signatures:
            raise SignatureNotFound(f'Serving signature key "{signature_name}" not found.')
        place = _place(inputs)
        own = {name: array for name, array in inputs.items() if name not in (ID.name, CONTROL.name)}
        # Before it is looked for, and waited for, in vain.
        check_inputs(self._specs, own)
        left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            with self._sequences.turn(place.control, place.id, min(left, self._turn_timeout)) as sequence:
                outputs, sequence.state = self._inner.advance(signature_name, own, sequence.state, deadline)
        except TimeoutError:
            raise self._has_waited(place, is_over=left < self._turn_timeout) from None
        except DeadlineExceeded as exc:
            raise DeadlineExceeded(f"{exc}; {_what_is_left(place)}") from exc
        return {**outputs, ID.name: np.array([sequence.id], ID.dtype)}

    def close(self) -> None:
        self._cleaner.forget(self._sequences)
        self._sequences.clear()
        self._inner.close()

    def _has_waited(self, place: _Place, *, is_over: bool) -> DeadlineExceeded | Overloaded:
        if is_over:
            return DeadlineExceeded(
                f"the request's time was over before earlier ones of its sequence were, on {self._name}; "
                f"{_what_is_left(place)}"
            )
        return Overloaded(
            f"sequence {place.id} of {self._name} was busy with earlier requests for {self._turn_timeout:.0f} s"
        )


def _place(inputs: Tensors) -> _Place:
    number = _special(inputs, ID, "Could not find sequence id in expected tensor proto field uint64_val")
    control = _special(
        inputs, CONTROL, "Could not find sequence control input in expected tensor proto field uint32_val"
    )
    if control not in Control.__members__.values():
        raise InvalidRequest("Unexpected value of sequence control input")
    if control != Control.START and not number:
        raise InvalidRequest("Sequence ID has not been provided in request inputs")
    return _Place(Control(control), number)


def _special(inputs: Tensors, spec: TensorSpec, bad_type: str) -> int:
    """Return the value; 0 if there is none, which is the same."""
    array = inputs.get(spec.name)
    if array is None:
        return 0
    if not array.ndim:
        raise InvalidRequest("Special input proto does not contain tensor shape information")
    if array.ndim > 1:
        raise InvalidRequest(f"Invalid number of shape dimensions - Required shape for {spec.name} is: (1)")
    if len(array) != 1:
        raise InvalidRequest(f"Invalid input shape - Required shape for {spec.name} is: (1)")
    if array.dtype != spec.dtype:
        raise InvalidRequest(bad_type)
    return int(array[0])


def _what_is_left(place: _Place) -> str:
    what = "no sequence was started" if place.control is Control.START else f"sequence {place.id} is as it was before"
    return f"{what}, and the request may be sent again"
