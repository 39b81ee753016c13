"""A compiled OpenVINO model as a servable: its signature, a pool of infer requests, and what it takes to run one."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_cache.errors import LoadFailed
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
from runtime.pool import Pool, SharedLock
from runtime.servable import LoadPhases, Observer, Tensors, Usage
from runtime.signature import DEFAULT_SIGNATURE, DYNAMIC, Signature, TensorSpec

if TYPE_CHECKING:
    # Of use to few models.
    from runtime.initial_states import InitialStates

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
_TRIES = 8
"""How often an inference is repeated because others that failed ran beside it."""
_PROVEN = 4096
"""Shapes, of all inputs, that a model is known to run."""
_REFUSED = 64
"""And those that it is known not to."""

State = Mapping[str, Any]
"""OpenVINO's tensors, by the names of a model's variables: what it keeps from one inference to the next."""


class Compiled(NamedTuple):
    model: Any
    """OpenVINO's CompiledModel."""
    initial: InitialStates | None = None
    """What makes states to begin with, if a request has a say in that."""


class OpenVinoServable:
    """Made by `OpenVinoLoader`, which measures it and then says its size and phases."""

    size: int
    phases: LoadPhases

    def __init__(
        self,
        name: str,
        compiled: Compiled,
        signature: Signature,
        pool_timeout: float,
        meter: Meter,
        requests: int | None = None,
        *,
        misfit: Callable[[str], InferenceError] = InvalidRequest,
        compile_anew: Callable[[], Compiled],
        why_not: Callable[[Sequence[tuple[int, ...]], Mapping[str, tuple[int, ...]]], str],
    ) -> None:
        """
        Args:
            misfit: what is raised, with the engine's reason, if sizes that the signature leaves open do not fit.
            compile_anew: compiles the same once more; raises LoadFailed if that cannot be.
            why_not: tells, without running it, why the model cannot take inputs and states of these shapes; nothing
                if it may.
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
        # Held while it is compiled anew. Guards the next being made, not its being given up.
        self._lock = threading.Lock()
        # None once it is spoilt: where sizes are open, an inference that fails midway leaves some of its sizes in
        # OpenVINO 2026.4's graphs, and what is run there next is answered with these, and with what is in the memory,
        # or ends the process.
        self._compiled: Compiled | None = compiled
        self._compile_anew = compile_anew
        self._why_not = why_not
        self._signature = signature
        self._misfit = misfit
        self.signatures = {DEFAULT_SIGNATURE: signature}
        outputs = signature.outputs
        specs = [*signature.inputs.values(), *outputs.values()]
        self._is_dynamic = any(spec.shape is None or DYNAMIC in spec.shape for spec in specs)
        self._outputs = list(outputs.items())
        self._is_by_rows = all(spec.shape and spec.shape[0] == DYNAMIC for spec in outputs.values())
        # One infer request runs one inference at a time; OpenVINO raises "Infer Request is busy" at two.
        self.concurrency: int = requests or compiled.model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        handles = [_InferRequest(compiled) for _ in range(self.concurrency)]
        self.variables = handles[0].variables()
        """Names of what it keeps from one inference to the next."""
        self._requests = Pool(handles)
        # So shapes that may fail are run alone. Held by what runs, if sizes are open.
        self._graphs = SharedLock()
        # Shapes that have succeeded. Replaced as a whole, and changed by single operations, which need no lock.
        self._proven: set[Hashable] = set()
        # Whether such have failed all the same, as values make sizes. Then nothing is run beside others.
        self._is_fickle = False
        # Why others are not run any more. None until one has failed: only then it is worth asking before each new one,
        # which takes a small part of the time that compiling does. As those that have succeeded.
        self._refused: dict[Hashable, str] | None = None
        # Seconds that a request takes, by the last ones. Nearly exact, as there is no lock about it.
        self._pace = _SLOW

    def __repr__(self) -> str:
        return f"<OpenVinoServable {self._name}>"

    # Nothing that a caller would miss: each request stands for itself.
    is_kept = False

    @property
    def is_quick(self) -> bool:
        # One that runs may keep the threads that another would run on.
        return self._pace < _QUICK and self._requests.is_idle and self._compiled is not None

    @property
    def usage(self) -> Usage:
        compiled = self._compiled
        if self._streams is None and compiled is not None:
            self._streams = _streams(compiled.model)
        return Usage(self._streams or 1, *self._requests.usage)

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
        shapes = _shapes(arrays, state) if self._is_dynamic else None
        if self._refused is not None and shapes not in self._proven:
            self._check(arrays, state, shapes)
        for _ in range(_TRIES):
            result = self._try(arrays, shapes, state, deadline, is_advancing=is_advancing)
            if result is not None:
                return result
        raise Overloaded(f"{self._name} is busy with requests that fail; try again later")

    def _try(
        self,
        arrays: list[NDArray[Any]],
        shapes: Hashable,
        state: State | None,
        deadline: float | None,
        *,
        is_advancing: bool,
    ) -> tuple[Tensors, State | None] | None:
        """Run once; return None if what has come of that is not to be relied on."""
        given = arrays
        # What is bound to the infer request takes their places.
        arrays = list(given)
        asked = 0.0 if self.observer is None else time.perf_counter()
        request = self._borrow(deadline, shapes)
        got = 0.0 if self.observer is None else time.perf_counter()
        is_running = False
        outputs: Tensors = {}
        try:
            is_running = self._infer(request, arrays, shapes, state, deadline)
            if is_running:
                raise self._too_late("while it ran")
            get = request.handle.get_output_tensor
            outputs = {name: _array(get(i), spec) for i, (name, spec) in enumerate(self._outputs)}
            state = self._state(request) if is_advancing else None
            if request.compiled is not self._compiled:
                return None
            if self._is_dynamic:
                self._prove(shapes)
            self._note(request.handle.latency, outputs)
            if self.observer is not None:
                self.observer.ran(got - asked, request.handle.latency / 1000)
            if self.chore is not None and self.chore.is_due:
                self.chore.begin()
            return outputs, state
        finally:
            if is_running:
                # It takes longer than whoever asked would wait.
                self._pace = 2 * _SLOW
                _behind(lambda: self._return_late(request, shapes, arrays))
            elif strings.are_many([*given, *outputs.values()]):
                # It keeps what the largest of its inferences took, for good.
                self._give_back(request, self._fresh(request))
                strings.forget()
                trim()
            else:
                self._give_back(request)

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

    def _spoil(self, request: _InferRequest, shapes: Hashable) -> None:
        # Where no sizes are open there are none to be left.
        if self._is_dynamic and self._compiled is request.compiled:
            self._compiled = None
            self._is_fickle = self._is_fickle or shapes in self._proven
            self._refused = self._refused or {}

    def _check(self, arrays: list[NDArray[Any]], state: State | None, shapes: Hashable) -> None:
        """Raise, before the engine does, if the model cannot take these shapes."""
        refused = self._refused or {}
        states = {name: tuple(tensor.get_shape()) for name, tensor in (state or {}).items()}
        why = refused.get(shapes) or self._why_not([array.shape for array in arrays], states)
        if why:
            self._refused = {**({} if len(refused) >= _REFUSED else refused), shapes: why}
            raise self._misfit(f"{self._name} cannot run these inputs: {why}")

    def _prove(self, shapes: Hashable) -> None:
        if shapes not in self._proven:
            if len(self._proven) >= _PROVEN:
                self._proven = set()
            self._proven.add(shapes)

    def _sound(self, request: _InferRequest, timeout: float) -> _InferRequest:
        """Return an infer request of what is compiled now, which is this one unless it had to be compiled anew.

        Raises:
            TimeoutError: somebody else compiles it for longer.
            InferenceFailed: it cannot be compiled.
        """
        if request.compiled is not None and request.compiled is self._compiled:
            return request
        request.release()
        if not self._lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            raise TimeoutError
        try:
            compiled = self._compiled or self._compiled_anew()
            self._compiled = compiled
            return _InferRequest(compiled)
        except RuntimeError as exc:
            raise InferenceFailed(f"{self._name} has no infer request: {reason(exc)}") from exc
        finally:
            self._lock.release()

    def _compiled_anew(self) -> Compiled:
        idle: list[_InferRequest] = []
        with suppress(TimeoutError):
            while True:
                idle.append(self._requests.take(0))
        # First, so that there is less in the memory.
        for request in idle:
            request.release()
            self._requests.give_back(request)
        began = time.perf_counter()
        try:
            compiled = self._compile_anew()
        except LoadFailed as exc:
            raise InferenceFailed(f"{self._name} is to be compiled anew, and cannot: {exc}") from exc
        logger.info("compiled %s anew in %.2f s, as a request has failed", self._name, time.perf_counter() - began)
        return compiled

    def _give_back(self, request: _InferRequest, other: _InferRequest | None = None) -> None:
        """
        Args:
            other: what takes its place.
        """
        if self._is_dynamic:
            self._graphs.release()
        self._requests.give_back(other or request)

    def _fresh(self, request: _InferRequest) -> _InferRequest:
        compiled = self._compiled
        if compiled is None:
            return request
        try:
            return _InferRequest(compiled)
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
            self._compiled = None
            self.resources.close()
        if change.growth is not None and change.growth <= -_WORTH_TELLING:
            logger.info("%s has given back %.1f MiB", self._name, -change.growth / 2**20)

    def _return_late(self, request: _InferRequest, shapes: Hashable, kept: list[Any]) -> None:
        """Give back an infer request when it has come to its end; keep until then what it reads."""
        # It cannot be stopped: OpenVINO 2026.4's cancel() returns while the run goes on, and what is started after that
        # waits for both. How it ends is nobody's concern any more.
        try:
            request.handle.wait()
        except RuntimeError:
            self._spoil(request, shapes)
        self._give_back(request)
        kept.clear()

    def _too_late(self, when: str) -> DeadlineExceeded:
        return DeadlineExceeded(f"the request's time was over {when}, on {self._name}")

    def _borrow(self, deadline: float | None, shapes: Hashable) -> _InferRequest:
        left = _left(deadline)
        if not left:
            raise self._too_late("before it could run")
        try:
            request = self._requests.take(min(left, self._pool_timeout))
            try:
                return self._ready(request, shapes, deadline)
            except BaseException:
                self._requests.give_back(request)
                raise
        except TimeoutError:
            if left < self._pool_timeout:
                raise self._too_late("before it had a free infer request") from None
            raise Overloaded(f"{self._name} had no free infer request for {self._pool_timeout:.0f} s") from None

    def _ready(self, request: _InferRequest, shapes: Hashable, deadline: float | None) -> _InferRequest:
        """Return an infer request that may run these shapes now.

        Raises:
            TimeoutError: not in time.
            InferenceFailed: the model is to be compiled anew, and cannot.
        """
        if not self._is_dynamic:
            return request
        is_alone = self._is_fickle or shapes not in self._proven
        if not self._graphs.acquire(min(_left(deadline), self._pool_timeout), is_exclusive=is_alone):
            raise TimeoutError
        try:
            return self._sound(request, min(_left(deadline), self._pool_timeout))
        except BaseException:
            self._graphs.release()
            raise

    def _infer(
        self,
        request: _InferRequest,
        arrays: list[NDArray[Any]],
        shapes: Hashable,
        state: State | None,
        deadline: float | None,
    ) -> bool:
        """Run; return whether it still runs, as the deadline has passed."""
        is_begun = False
        try:
            for i, array in enumerate(arrays):
                arrays[i] = request.set_input(i, array)
            is_begun = True
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
            if is_begun:
                self._spoil(request, shapes)
            # With open dimensions only the graph itself can tell which sizes go together, or which values make some.
            if self._is_dynamic:
                raise self._misfit(f"{self._name} cannot run these inputs: {reason(exc)}") from exc
            raise InferenceFailed(f"{self._name} failed: {reason(exc)}") from exc


class _InferRequest:
    """OpenVINO's, with memory of its own for small inputs: to copy one is a fifth of the cost of binding another's."""

    __slots__ = ("_initial", "_own", "compiled", "handle")

    def __init__(self, compiled: Compiled) -> None:
        self.compiled: Compiled | None = compiled
        self.handle = compiled.model.create_infer_request()
        self._initial: Any = compiled.initial and compiled.initial.compiled.create_infer_request()
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

    def release(self) -> None:
        """Keep nothing of what is compiled, and be of no use any more."""
        self.compiled = self.handle = self._initial = None
        self._own.clear()

    def variables(self) -> tuple[str, ...]:
        return tuple(variable.name for variable in self.handle.query_state())

    def begin_from(self, state: State | None) -> None:
        if state is None:
            # Else it would go on from whoever has had this infer request before.
            self.handle.reset_state()
            state = self._made()
        for variable in self.handle.query_state():
            if variable.name in state:
                # OpenVINO copies it.
                variable.state = state[variable.name]

    def _made(self) -> State:
        """Return the states to begin with that are made of the inputs."""
        if self.compiled is None or self.compiled.initial is None:
            return {}
        request = self._initial
        for i in range(len(request.model_inputs)):
            request.set_input_tensor(i, self.handle.get_input_tensor(i))
        request.start_async({}, None)
        request.wait()
        return {name: request.get_output_tensor(i) for i, name in enumerate(self.compiled.initial.names)}

    def state(self) -> State:
        """Return copies, as what OpenVINO shows is the infer request's own memory."""
        return {variable.name: _copied(variable.state) for variable in self.handle.query_state()}


def _shapes(arrays: list[NDArray[Any]], state: State | None) -> Hashable:
    """Return those of all that an inference begins with."""
    of_inputs = tuple(array.shape for array in arrays)
    return of_inputs if state is None else (of_inputs, *(tuple(tensor.get_shape()) for tensor in state.values()))


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
    flags = array.flags
    # What is small is copied anyway, and strings are taken apart.
    if flags.carray or array.nbytes <= _SMALL or is_string(array.dtype):
        return array
    if flags.c_contiguous and flags.aligned:
        # By bytes, as the interface has no name for bfloat16.
        return np.asarray(_Shown(array)).view(array.dtype).reshape(array.shape)
    return np.require(array, requirements=["C", "W", "A"])


class _Shown:
    """Shows numpy the memory of an array that must not be written as if it might be: as such OpenVINO refuses it.

    It writes to none: the CPU plugin's ``SyncInferRequest::change_default_ptr`` takes the caller's memory only where no
    operation works in place on it, and else copies it.
    """

    __slots__ = ("__array_interface__", "_array")

    def __init__(self, array: NDArray[Any]) -> None:
        # numpy keeps this for as long as what it makes of it, and this keeps the memory.
        self._array = array
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (array.nbytes,),
            "data": (array.ctypes.data, False),
        }


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
