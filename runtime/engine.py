"""OpenVINO models as servables: read, compile, and a pool of infer requests.

OpenVINO is imported when the first model is loaded and not before.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from model_cache.disk import DiskCache, Files
from model_cache.errors import LoadFailed
from model_cache.repository import ModelVersion
from runtime import strings
from runtime.behind import QUIET, Chore
from runtime.codecs.dtypes import bfloat16, is_bfloat16, is_string
from runtime.compiler import Compiler, Made
from runtime.errors import DeadlineExceeded, InferenceFailed, InvalidRequest, Overloaded, SignatureNotFound
from runtime.inputs import check_inputs
from runtime.memory import Meter, trim, upper_bound
from runtime.openvino_core import core, openvino
from runtime.pool import Pool
from runtime.servable import LoadPhases, Tensors
from runtime.signature import DEFAULT_SIGNATURE, DYNAMIC, Dtype, Signature, TensorSpec

logger = logging.getLogger(__name__)

POOL_TIMEOUT = 30.0
"""Seconds to wait for a free infer request; TensorFlow Serving gives a whole REST request as long."""
_MOST = 4
"""How many times the upper bound a measurement may say; what is beyond that is requests' rather than the model's."""
_MEASURED = 1024
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

# OpenVINO's name of an element type -> numpy's, where they differ and where they do not.
_DTYPES = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "boolean": "bool",
    "string": "object",
}


class OpenVinoLoader:
    """Makes servables of versions whose files come from ``files``. One OpenVINO core serves all."""

    def __init__(
        self,
        files: DiskCache,
        config: Mapping[str, str] | None = None,
        requests: int | None = None,
        *,
        pool_timeout: float = POOL_TIMEOUT,
        uses_compiled: bool = False,
        keeps_compiled: bool = False,
        quiet: float = QUIET,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            config: OpenVINO's properties.
            requests: infer requests of each model; None for as many as OpenVINO says are best.
            uses_compiled: whether compiled models are imported, from the cache directory or from beside the model.
            keeps_compiled: whether they are kept in the cache directory, if they are used.
            quiet: seconds after a model's first answer that it is left alone.
        """
        self._files = files
        self._compiler = Compiler(
            files, config, uses_compiled=uses_compiled, keeps_compiled=keeps_compiled, clock=clock
        )
        self._quiet = quiet
        self._requests = requests
        self._pool_timeout = pool_timeout
        self._meter = Meter()
        # Guards what versions were last measured to occupy, by digest. Bounded, as versions come and go.
        self._lock = threading.Lock()
        self._measured: LRUCache[str, int] = LRUCache(_MEASURED)

    def estimate(self, version: ModelVersion) -> int:
        """Return what it was measured to occupy when it was last loaded, else an upper bound."""
        with self._lock:
            return self._measured.get(version.digest) or upper_bound(version.size)

    def load(self, version: ModelVersion) -> OpenVinoServable:
        """Compile the version, or import what was compiled of it before.

        The files stay leased until the servable is closed, as weights are mapped from them.

        Raises:
            LoadFailed: there is no model among the files, or OpenVINO cannot read or compile it.
            ModelCacheError: the files cannot be had; as `DiskCache.lease`.
        """
        began = time.perf_counter()
        with ExitStack() as stack:
            files = stack.enter_context(self._files.lease(version))
            # Not to be measured with the first model.
            core()
            began_compiling = time.perf_counter()
            with self._meter.change() as change:
                servable, made = self._make(version, files)
            ended = time.perf_counter()
            servable.size = self._size(version, change.growth)
            servable.phases = LoadPhases(
                files.fetched, ended - began_compiling, ended - began, is_imported=made.is_imported
            )
            if made.keep is not None:
                servable.chore = Chore(made.keep, servable.is_idle, self._quiet)
            servable.resources.push(stack.pop_all())
        how = ", compiled before" if made.is_imported else ""
        logger.info("loaded %s in %.2f s, %.1f MiB%s", version, ended - began, servable.size / 2**20, how)
        return servable

    def _size(self, version: ModelVersion, growth: int | None) -> int:
        """Return what a version occupies: its files, which are mapped, and what its load has added to the memory."""
        if growth is None:
            return self.estimate(version)
        size = min(version.size + max(growth, 0), _MOST * upper_bound(version.size))
        with self._lock:
            self._measured[version.digest] = size
        return size

    def _make(self, version: ModelVersion, files: Files) -> tuple[OpenVinoServable, Made]:
        try:
            path = model_file(version, files.directory)
        except OSError as exc:
            raise LoadFailed(f"the files of {version} have gone or cannot be read: {exc.strerror}") from exc
        try:
            made = self._compiler.make(version, files, path)
            servable = OpenVinoServable(str(version), made.model, self._pool_timeout, self._meter, self._requests)
            return servable, made
        # OpenVINO's only error class.
        except RuntimeError as exc:
            raise LoadFailed(f"cannot load {version} from {path.name}: {reason(exc, files.directory)}") from exc


class OpenVinoServable:
    """Made by `OpenVinoLoader`, which measures it and then says its size and phases."""

    size: int
    phases: LoadPhases

    def __init__(
        self, name: str, compiled: Any, pool_timeout: float, meter: Meter, requests: int | None = None
    ) -> None:
        self.resources = ExitStack()
        """What is held for as long as this lives: the lease of its files. Closed by `close`."""
        self.chore: Chore | None = None
        """What is to be done behind the first answer."""
        self._name = name
        self._pool_timeout = pool_timeout
        self._meter = meter
        self._compiled = compiled
        inputs, outputs = _specs("input", compiled.inputs), _specs("output", compiled.outputs)
        self._signature = Signature(inputs, outputs)
        self.signatures = {DEFAULT_SIGNATURE: self._signature}
        specs = [*inputs.values(), *outputs.values()]
        self._is_dynamic = any(spec.shape is None or DYNAMIC in spec.shape for spec in specs)
        self._outputs = list(outputs.items())
        self._is_by_rows = all(spec.shape and spec.shape[0] == DYNAMIC for spec in outputs.values())
        # One infer request runs one inference at a time; OpenVINO raises "Infer Request is busy" at two.
        self.concurrency: int = requests or compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = Pool([_InferRequest(compiled.create_infer_request()) for _ in range(self.concurrency)])
        # Seconds that a request takes, by the last ones. Nearly exact, as there is no lock about it.
        self._pace = _SLOW

    def __repr__(self) -> str:
        return f"<OpenVinoServable {self._name}>"

    @property
    def is_quick(self) -> bool:
        # One that runs may keep the threads that another would run on.
        return self._pace < _QUICK and self._requests.is_idle

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        if signature_name != DEFAULT_SIGNATURE:
            raise SignatureNotFound(f'Serving signature key "{signature_name}" not found.')
        check_inputs(self._signature.inputs, inputs)
        if _is_nothing(inputs):
            return self._answer_to_nothing(inputs)
        # A tensor that shares an array's memory does not keep the array alive; this list does.
        arrays = [_carray(inputs[name]) for name in self._signature.inputs]
        request = self._borrow(deadline)
        is_running = False
        outputs: Tensors = {}
        try:
            is_running = self._infer(request, arrays, deadline)
            if is_running:
                raise self._too_late("while it ran")
            get = request.handle.get_output_tensor
            outputs = {name: _array(get(i), spec) for i, (name, spec) in enumerate(self._outputs)}
            self._note(request.handle.latency, outputs)
            if self.chore is not None and self.chore.is_due:
                self.chore.begin()
            return outputs
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

    def _infer(self, request: _InferRequest, arrays: list[NDArray[Any]], deadline: float | None) -> bool:
        """Run; return whether it still runs, as the deadline has passed."""
        try:
            for i, array in enumerate(arrays):
                arrays[i] = request.set_input(i, array)
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
                raise InvalidRequest(f"{self._name} cannot run these inputs: {reason(exc)}") from exc
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


def model_file(version: ModelVersion, directory: Path) -> Path:
    """Return which of a version's files is the model.

    Raises:
        LoadFailed: none of them is, or more than one.
    """
    names = sorted(path.name for path in directory.iterdir())
    for suffix in (".xml", ".onnx"):
        found = [name for name in names if name.endswith(suffix)]
        if len(found) > 1:
            raise LoadFailed(f"{version} has {len(found)} {suffix} files; want one: {', '.join(found[:10])}")
        if found:
            return directory / found[0]
    raise LoadFailed(f"no model in {version}: want one .xml with its .bin, or one .onnx; found {names[:10]}")


def reason(exc: Exception, directory: Path | None = None) -> str:
    """Return what OpenVINO says, less where in its sources it says so and less the directory, which is our own."""
    text = str(exc).replace(f"{directory}/", "") if directory else str(exc)
    text = text.replace("Caught exception: ", "")
    lines = [line.strip() for line in text.splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return re.sub(r" (failed )?at src/\S+", r" \1", " ".join(telling or lines))[:500].strip()


def _specs(kind: str, ports: list[Any]) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    for port in ports:
        spec = _spec(kind, port)
        if spec.name in specs:
            raise LoadFailed(f"two {kind}s are named {spec.name!r}")
        specs[spec.name] = spec
    return specs


def _spec(kind: str, port: Any) -> TensorSpec:
    # Any of its names is right; the least one is the same at every start.
    name = min(port.names) if port.names else port.get_node().get_friendly_name()
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return TensorSpec(name, _dtype(kind, name, port), None)
    dims = tuple(dim.get_length() if dim.is_static else DYNAMIC for dim in shape)
    return TensorSpec(name, _dtype(kind, name, port), dims)


def _dtype(kind: str, name: str, port: Any) -> Dtype:
    element_type = port.get_element_type().get_type_name()
    if element_type == "bf16":
        return bfloat16()
    if element_type not in _DTYPES:
        raise LoadFailed(f"{kind} {name!r} is of type {element_type}; want one of {', '.join(_DTYPES)}, bf16")
    return np.dtype(_DTYPES[element_type])


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
