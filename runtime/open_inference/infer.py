"""Hops 2 to 5 of an inference request, for both transports: lease, read, run, and what was asked for in its order."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from model_cache.timeline import lap
from runtime.answers import JSON_SIZE
from runtime.codecs.dtypes import is_string
from runtime.codecs.open_inference import raw
from runtime.codecs.open_inference.datatypes import datatype_of
from runtime.codecs.open_inference.inference import InferRequest, InferResponse, Input, Output, Wanted
from runtime.errors import NAME, DeadlineExceeded, InvalidRequest, quoted, shown
from runtime.inputs import OF_MODEL, listed
from runtime.open_inference import statistics
from runtime.servable import Servable, Tensors
from runtime.server import ModelServer
from runtime.signature import DEFAULT_SIGNATURE, Signature, TensorSpec, batch_axis

_LONGEST = 10**15
"""Microseconds; a timeout above that is none."""


class _Ran(NamedTuple):
    response: InferResponse
    rows: int
    read: float
    """When all inputs had been read, in seconds of the performance counter."""
    ran: float
    """When the model had run."""


def run(
    server: ModelServer,
    name: str,
    version: int | None,
    request: InferRequest | bytes,
    *,
    timeout: float | None = None,
    until: float | None = None,
    deadline: float | None = None,
    is_in_haste: bool = False,
) -> InferResponse:
    """Run a request on a model's default signature.

    What names, datatypes and shapes say is checked before any tensor is read.

    Args:
        version: None for the one that serves.
        request: or the bytes of the only input, of a model that has one: Triton's raw binary request.
        timeout: as `runtime.predict`, like all of these.
        is_in_haste: whether other requests wait for this thread, so that images are not decoded, nor outputs
            classified.

    Raises:
        InferenceError, ModelCacheError: it cannot be answered, or not now.
    """
    began = time.perf_counter()
    wanted_until = None if isinstance(request, bytes) else _wanted_until(request)
    with server.lease(name, version, deadline=_sooner(deadline, wanted_until), until=until) as lease:
        lap("wait")
        leased = time.perf_counter()
        if deadline is None:
            deadline = _sooner(until, None if timeout is None else time.monotonic() + timeout)
        counts = statistics.of(server).of(lease.id)
        try:
            response, rows, read, ran = _run(
                lease.servable, name, lease.id.version, request, _sooner(deadline, wanted_until), is_in_haste
            )
        except Exception as exc:
            # What was not waited for is begun again.
            if not (is_in_haste and isinstance(exc, DeadlineExceeded)):
                counts.failed(time.perf_counter() - began)
            raise
    ended = time.perf_counter()
    counts.succeeded(rows, leased - began, read - leased, ran - read, ended - ran, ended - began)
    return response


def _run(
    servable: Servable,
    name: str,
    version: int,
    request: InferRequest | bytes,
    deadline: float | None,
    is_in_haste: bool,
) -> _Ran:
    signature = servable.signatures[DEFAULT_SIGNATURE]
    if isinstance(request, bytes):
        request = _raw(signature, request)
    given = {one.name: one for one in request.inputs}
    wanted = _wanted(signature, request.outputs)
    special: Tensors = {}
    if signature.special_inputs:
        # Imported by who has a model that is stateful.
        from runtime.open_inference.sequences import special_inputs

        own = {name: one for name, one in given.items() if name not in signature.special_inputs}
        files = _check(signature.inputs, own)
        special = special_inputs(signature.special_inputs, given, request.parameters, deadline)
    else:
        files = _check(signature.inputs, given)
    if is_in_haste and (files or any(one.classes for one in wanted)):
        # A few bytes may take seconds.
        raise DeadlineExceeded("images are not decoded in haste, nor outputs classified")
    given.update((name, raw.as_image(given[name])) for name in files)
    inputs: Tensors = {name: given[name].read(deadline) for name in signature.inputs}
    if files:
        from runtime.images import decode_images

        inputs = decode_images(signature.inputs, inputs, deadline)
    rows = _rows(signature.inputs, inputs)
    lap("decode")
    read = time.perf_counter()
    outputs = servable.predict(DEFAULT_SIGNATURE, {**inputs, **special} if special else inputs, deadline)
    lap("infer")
    ran = time.perf_counter()
    answered = [_output(outputs, one, request.is_binary) for one in wanted]
    return _Ran(InferResponse(name, str(version), answered, request.id), rows, read, ran)


def _raw(signature: Signature, body: bytes) -> InferRequest:
    from runtime.codecs.open_inference.infer_json import parse_raw

    if len(signature.inputs) != 1:
        raise InvalidRequest(
            f"{JSON_SIZE} is 0, as if the body were the only input's tensor; want JSON before it "
            f"for a model with the inputs {listed(signature.inputs, OF_MODEL)}"
        )
    # Answered in the same way.
    return parse_raw(body, *signature.inputs.values())._replace(is_binary=True)


def _wanted_until(request: InferRequest) -> float | None:
    """Return when the client does not want an answer any more; None if it has not said: Triton's parameter."""
    timeout = request.parameters.get("timeout")
    if timeout is None:
        return None
    if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0:
        raise InvalidRequest(f"parameter 'timeout' is {shown(timeout)}; want a number of microseconds, 0 for none")
    return time.monotonic() + timeout / 1e6 if 0 < timeout <= _LONGEST else None


def _sooner(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _check(specs: Mapping[str, TensorSpec], given: Mapping[str, Input]) -> list[str]:
    """Return the names of the inputs that are files of images, if all fit; OpenVINO Model Server's texts are part of
    ours.
    """
    if given.keys() != specs.keys():
        raise _misnamed(specs, given)
    files = []
    for name, spec in specs.items():
        head = given[name]
        if head.dtype == spec.dtype:
            spec.require(head.shape)
        elif is_string(head.dtype) and spec.takes_images:
            files.append(name)
        else:
            want, got = datatype_of(spec.dtype), datatype_of(head.dtype)
            raise InvalidRequest(
                f"input '{name}' has datatype {got}; want {want}: Invalid input precision - Expected: {want}; "
                f"Actual: {got}; input name: {name}"
            )
    return files


def _misnamed(specs: Mapping[str, TensorSpec], given: Mapping[str, Input]) -> InvalidRequest:
    missing = [name for name in specs if name not in given]
    if len(given) != len(specs):
        why = f"Invalid number of inputs - Expected: {len(specs)}; Actual: {len(given)}"
    else:
        why = f"Missing input with specific name - Required input: {missing[0]}"
    return InvalidRequest(
        f"the inputs are not the model's {listed(specs, OF_MODEL)}: missing {listed(missing, OF_MODEL)}, "
        f"not known {listed(name for name in given if name not in specs)}; {why}"
    )


def _wanted(signature: Signature, asked: Sequence[Wanted]) -> list[Wanted]:
    """Return which outputs are answered, in order."""
    outputs, special = signature.outputs, signature.special_outputs
    for one in asked:
        if one.name not in outputs and one.name not in special:
            raise InvalidRequest(
                f"output '{quoted(one.name, NAME)}' is none of the model's; want some of "
                f"{listed([*outputs, *special], OF_MODEL)}"
            )
    wanted = list(asked) or [Wanted(name) for name in outputs]
    if special:
        # Always, as a client cannot go on without.
        names = {one.name for one in wanted}
        wanted += [Wanted(name) for name in special if name not in names]
    return wanted


def _rows(specs: Mapping[str, TensorSpec], inputs: Tensors) -> int:
    """Return how large the batch is: that of the first input that has one."""
    for name, spec in specs.items():
        shape, axis = inputs[name].shape, batch_axis(spec.layout)
        if axis < len(shape):
            return int(shape[axis])
    return 1


def _output(outputs: Tensors, wanted: Wanted, is_binary: bool) -> Output:
    name, own, classes, _ = wanted
    array = outputs[name]
    if classes:
        from runtime.open_inference.classification import classify

        array = classify(name, array, classes)
    return Output(name, array, is_binary if own is None else own)
