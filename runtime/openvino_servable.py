"""A compiled OpenVINO model as a servable: its signature, a pool of infer requests, and what it takes to run one."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import strings
from runtime.behind import Chore
from runtime.codecs.dtypes import is_bfloat16, is_string
from runtime.errors import (
    DeadlineExceeded,
    InferenceError,
    InferenceFailed,
    InvalidRequest,
    Overloaded,
    SignatureNotFound,
)
from runtime.inputs import check_inputs
from runtime.memory import Meter, trim
from runtime.openvino_core import openvino, reason
from runtime.pool import Pool
from runtime.servable import LoadPhases, Observer, Tensors, Usage
from runtime.signature import DEFAULT_SIGNATURE, DYNAMIC, Signature, TensorSpec

logger = logging.getLogger(__name__)

_QUICK = 0.0005
"""Seconds that an inference takes, and writing its outputs, up to which a model is quick."""
_PER_BYTE = 6e-9
"""Seconds that a byte of an output takes to become JSON."""
_SMALL = 64 << 10
"""Bytes of an input up to which it is copied."""
_SLOW = 4 * _QUICK
"""Seconds that count for what takes longer, so that a single one such does not make a quick model slow; two do."""
_INERTIA = 8
"""How many inferences it takes, about, until a model that has become quicker is taken for as quick as it is."""
_WORTH_TELLING = 1 << 20

State = Mapping[str, Any]
"""OpenVINO's tensors, by the names of a model's variables: what it keeps from one inference to the next."""


class OpenVinoServable:
    """Made by `OpenVinoLoader`, which measures it and then says its size and phases."""

    size: int
    phases: LoadPhases

    def __init__(
        self,
        name: str,
        compiled: Any,
        signature: Signature,
        pool_timeout: float,
        meter: Meter,
        requests: int | None = None,
        *,
        misfit: Callable[[str], InferenceError] = InvalidRequest,
    ) -> None:
        """
        Args:
            misfit: what is raised, with the engine's reason, if sizes that the signature leaves open do not fit.
        """
        self.resources = ExitStack()
        """What is held for as long as this lives: the lease of its files. Closed by `close`."""
        self.chore: Chore | None = None
        """What is to be done behind the first answer."""
        self.observer: Observer | None = None
        # Once somebody has asked.
        self._streams: int | None = None
        self._name = name
        self._pool_timeout = pool_timeout
        self._meter = meter
        self._compiled = compiled
        self._signature = signature
        self._misfit = misfit
        self.signatures = {DEFAULT_SIGNATURE: signature}
        outputs = signature.outputs
        specs = [*signature.inputs.values(), *outputs.values()]
        self._is_dynamic = any(spec.shape is None or DYNAMIC in spec.shape for spec in specs)
        self._outputs = list(outputs.items())
        self._is_by_rows = all(spec.shape and spec.shape[0] == DYNAMIC for spec in outputs.values())
        # One infer request runs one inference at a time; OpenVINO raises "Infer Request is busy" at two.
        self.concurrency: int = requests or compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        handles = [_InferRequest(compiled.create_infer_request()) for _ in range(self.concurrency)]
        self.variables = handles[0].variables()
        """Names of what it keeps from one inference to the next."""
        self._requests = Pool(handles)
        # Seconds that a request takes, by the last ones. Nearly exact, as there is no lock about it.
        self._pace = _SLOW

    def __repr__(self) -> str:
        return f"<OpenVinoServable {self._name}>"

    # Nothing that a caller would miss: each request stands for itself.
    is_kept = False

    @property
    def is_quick(self) -> bool:
        # One that runs may keep the threads that another would run on.
        return self._pace < _QUICK and self._requests.is_idle

    @property
    def usage(self) -> Usage:
        if self._streams is None:
            self._streams = _streams(self._compiled)
        return Usage(self._streams, *self._requests.usage)

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        """Run from the model's initial state, if it has one; as `Servable.predict`."""
        return self._run(signature_name, inputs, None, deadline)[0]

    def advance(
        self, signature_name: str, inputs: Tensors, state: State | None, deadline: float | None = None
    ) -> tuple[Tensors, State | None]:
        """Return the outputs, and the state after them; as `predict`, but for where it begins.

        Args:
            state: the one to begin with; None for the model's initial one.
        """
        return self._run(signature_name, inputs, state, deadline, is_advancing=True)

    def _run(
        self,
        signature_name: str,
        inputs: Tensors,
        state: State | None,
        deadline: float | None,
        *,
        is_advancing: bool = False,
    ) -> tuple[Tensors, State | None]:
        if signature_name != DEFAULT_SIGNATURE:
            raise SignatureNotFound(f'Serving signature key "{signature_name}" not found.')
        check_inputs(self._signature.inputs, inputs)
        if _is_nothing(inputs):
            return self._answer_to_nothing(inputs), state
        # A tensor that shares an array's memory does not keep the array alive; this list does.
        arrays = [_carray(inputs[name]) for name in self._signature.inputs]
        asked = 0.0 if self.observer is None else time.perf_counter()
        request = self._borrow(deadline)
        got = 0.0 if self.observer is None else time.perf_counter()
        is_running = False
        outputs: Tensors = {}
        try:
            is_running = self._infer(request, arrays, state, deadline)
            if is_running:
                raise self._too_late("while it ran")
            get = request.handle.get_output_tensor
            outputs = {name: _array(get(i), spec) for i, (name, spec) in enumerate(self._outputs)}
            self._note(request.handle.latency, outputs)
            if self.observer is not None:
                self.observer.ran(got - asked, request.handle.latency / 1000)
            if self.chore is not None and self.chore.is_due:
                self.chore.begin()
            return outputs, self._state(request) if is_advancing else None
        finally:
            if is_running:
                # It takes longer than whoever asked would wait.
                self._pace = 2 * _SLOW
                _behind(lambda: self._return_late(request, arrays))
            elif strings.are_many([*inputs.values(), *outputs.values()]):
                # It keeps what the largest of its inferences took, for good.
                request = self._fresh(request)
                self._requests.give_back(request)
                strings.forget()
                trim()
            else:
                self._requests.give_back(request)

    def _state(self, request: _InferRequest) -> State:
        try:
            return request.state()
        except RuntimeError as exc:
            raise InferenceFailed(f"{self._name} does not tell its state: {reason(exc)}") from exc

    def _note(self, latency: float, outputs: Tensors) -> None:
        """
        Args:
            latency: of the engine alone, in milliseconds: what a caller waits for others' Python is not its model's.
        """
        pace = latency / 1000 + _PER_BYTE * sum([array.nbytes for array in outputs.values()])
        self._pace += (min(pace, _SLOW) - self._pace) / _INERTIA

    def _fresh(self, request: _InferRequest) -> _InferRequest:
        try:
            return _InferRequest(self._compiled.create_infer_request())
        # Then the old one has to do.
        except (RuntimeError, MemoryError):
            return request

    def _answer_to_nothing(self, inputs: Tensors) -> Tensors:
        """Return no rows to inputs that have no rows.

        The engine is not asked: of a tensor without elements some of its operations make nothing at all, and what is in
        the output then is somebody else's.
        """
        if any(len(array) for array in inputs.values() if array.ndim) or not self._is_by_rows:
            shapes = ", ".join(f"'{name}' {array.shape}" for name, array in inputs.items())
            raise InvalidRequest(f"{self._name} cannot run inputs without elements: {shapes}")
        return {name: np.empty([max(0, size) for size in spec.shape or ()], spec.dtype) for name, spec in self._outputs}

    def is_idle(self) -> bool:
        """Whether an infer request is to be had at once, so that nobody waits for one."""
        try:
            self._requests.give_back(self._requests.take(0))
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        if self.chore is not None:
            self.chore.close()
        idle: list[_InferRequest] = []
        with suppress(TimeoutError):
            while len(idle) < self.concurrency:
                idle.append(self._requests.take(0))
        if len(idle) == self.concurrency:
            self._release(idle)
        else:
            # Somebody's time was over, and what he asked for still runs: no reason to keep whoever closes this.
            _behind(lambda: self._release_late(idle))

    def _release_late(self, idle: list[_InferRequest]) -> None:
        while len(idle) < self.concurrency:
            idle.append(self._requests.take())
        self._release(idle)

    def _release(self, requests: list[_InferRequest]) -> None:
        with self._meter.change() as change:
            requests.clear()
            del self._compiled
            self.resources.close()
        if change.growth is not None and change.growth <= -_WORTH_TELLING:
            logger.info("%s has given back %.1f MiB", self._name, -change.growth / 2**20)

    def _return_late(self, request: _InferRequest, kept: list[Any]) -> None:
        """Give back an infer request when it has come to its end; keep until then what it reads."""
        # It cannot be stopped: OpenVINO 2026.4's cancel() returns while the run goes on, and what is started after that
        # waits for both. How it ends is nobody's concern any more.
        with suppress(RuntimeError):
            request.handle.wait()
        self._requests.give_back(request)
        kept.clear()

    def _too_late(self, when: str) -> DeadlineExceeded:
        return DeadlineExceeded(f"the request's time was over {when}, on {self._name}")

    def _borrow(self, deadline: float | None) -> _InferRequest:
        left = _left(deadline)
        if not left:
            raise self._too_late("before it could run")
        try:
            return self._requests.take(min(left, self._pool_timeout))
        except TimeoutError:
            if left < self._pool_timeout:
                raise self._too_late("before it had a free infer request") from None
            raise Overloaded(f"{self._name} had no free infer request for {self._pool_timeout:.0f} s") from None

    def _infer(
        self, request: _InferRequest, arrays: list[NDArray[Any]], state: State | None, deadline: float | None
    ) -> bool:
        """Run; return whether it still runs, as the deadline has passed."""
        try:
            for i, array in enumerate(arrays):
                arrays[i] = request.set_input(i, array)
            if self.variables:
                request.begin_from(state)
            # Not infer(): with one inference thread OpenVINO 2026.4 loses its exceptions, and the request is answered
            # with what the one before it left in the output tensors.
            request.handle.start_async({}, None)
            if deadline is not None:
                return not request.handle.wait_for(_milliseconds(deadline))
            request.handle.wait()
            return False
        except RuntimeError as exc:
            # With open dimensions only the graph itself can tell which sizes go together, or which values make some.
            if self._is_dynamic:
                raise self._misfit(f"{self._name} cannot run these inputs: {reason(exc)}") from exc
            raise InferenceFailed(f"{self._name} failed: {reason(exc)}") from exc


class _InferRequest:
    """OpenVINO's, with memory of its own for small inputs: to copy one is a fifth of the cost of binding another's."""

    __slots__ = ("_own", "handle")

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        # By number of the input, of those whose memory is bound now.
        self._own: dict[int, NDArray[Any]] = {}

    def set_input(self, number: int, array: NDArray[Any]) -> Any:
        """Return what must outlive the inference."""
        own = self._own.get(number)
        # Its dtype is the signature's.
        if own is not None and own.shape == array.shape:
            own[...] = array
            return own
        self._own.pop(number, None)
        is_small = array.nbytes <= _SMALL and not is_string(array.dtype)
        tensor, keep = _tensor(array.copy() if is_small else array)
        self.handle.set_input_tensor(number, tensor)
        if is_small:
            self._own[number] = keep
        return keep

    def variables(self) -> tuple[str, ...]:
        return tuple(variable.name for variable in self.handle.query_state())

    def begin_from(self, state: State | None) -> None:
        if state is None:
            # Else it would go on from whoever has had this infer request before.
            self.handle.reset_state()
            return
        for variable in self.handle.query_state():
            # OpenVINO copies it.
            variable.state = state[variable.name]

    def state(self) -> State:
        """Return copies, as what OpenVINO shows is the infer request's own memory."""
        return {variable.name: _copied(variable.state) for variable in self.handle.query_state()}


def _copied(tensor: Any) -> Any:
    copy = openvino().Tensor(tensor.get_element_type(), tensor.get_shape())
    tensor.copy_to(copy)
    return copy


def _streams(compiled: Any) -> int:
    try:
        return int(compiled.get_property("NUM_STREAMS"))
    # Of a device that stands for several.
    except (RuntimeError, TypeError, ValueError):
        return 1


def _carray(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array as OpenVINO can use its memory: row by row, aligned, and writable, though it is not written."""
    return array if array.flags.carray else np.require(array, requirements=["C", "W", "A"])


def _is_nothing(inputs: Tensors) -> bool:
    # Not if a part is empty, as a decoder's past is at its first step. Of strings no operation makes anything then.
    empty = [array for array in inputs.values() if not array.size]
    return bool(empty) and (len(empty) == len(inputs) or any(is_string(array.dtype) for array in empty))


def _behind(do: Callable[[], None]) -> None:
    try:
        threading.Thread(target=do, name="late", daemon=True).start()
    # The process may have no more threads.
    except RuntimeError:
        do()


def _left(deadline: float | None) -> float:
    return math.inf if deadline is None else max(0.0, deadline - time.monotonic())


def _milliseconds(deadline: float) -> int:
    # As many as OpenVINO takes, where there is no end to it.
    return math.ceil(min(_left(deadline) * 1000, 2**31 - 1))


def _tensor(array: NDArray[Any]) -> tuple[Any, Any]:
    """Return a tensor, and what must outlive it; if its memory is the array's, that is contiguous and writable."""
    if is_string(array.dtype):
        return strings.pack(array)
    if is_bfloat16(array.dtype):
        return openvino().Tensor(array.view(np.uint16), list(array.shape), openvino().Type.bf16), array
    return openvino().Tensor(array, shared_memory=True), array


def _array(tensor: Any, spec: TensorSpec) -> NDArray[Any]:
    """Return a copy: the tensor's memory is the infer request's, and the next caller's soon."""
    if is_string(spec.dtype):
        return strings.unpack(tensor)
    data: NDArray[Any] = np.array(tensor.data)
    # OpenVINO shows bfloat16 as float16, for want of a better dtype.
    return data.view(spec.dtype) if data.dtype != spec.dtype else data
