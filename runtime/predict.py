"""Hops 2 to 5 of a request, without a transport: lease, decode, run, encode. Every front with JSON calls this.

In each a body that is not sound is an error before its model is looked for. ``timeout`` is what a request has from
when its model is there, in seconds; DeadlineExceeded after that. ``until`` is a moment of the monotonic clock at which
it has to have ended whatever it was at: LoadPending while it waits for its model, DeadlineExceeded after that.
``deadline`` is instead of both, on the same clock, for who does not wait for the model either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from model_cache.timeline import lap
from runtime.codecs import json_answer, json_tensor
from runtime.errors import NAME, DeadlineExceeded, SignatureNotFound, quoted
from runtime.servable import Servable, Tensors
from runtime.server import ModelServer
from runtime.signature import Signature

if TYPE_CHECKING:
    from runtime.examples import Example

T = TypeVar("T")


def predict_json(
    server: ModelServer,
    name: str,
    version: int | None,
    body: bytes,
    *,
    label: str | None = None,
    timeout: float | None = None,
    until: float | None = None,
) -> bytes:
    outputs, is_row = infer_json(server, name, version, body, label=label, timeout=timeout, until=until)
    content = json_answer.encode(outputs, is_row)
    lap("encode")
    return content


def infer_json(
    server: ModelServer,
    name: str,
    version: int | None,
    body: bytes,
    *,
    label: str | None = None,
    timeout: float | None = None,
    until: float | None = None,
    deadline: float | None = None,
) -> tuple[Tensors, bool]:
    """Return the outputs, and whether they are asked for by rows: what `json_answer.encode` takes."""
    is_in_haste = deadline is not None
    request = json_tensor.parse_predict(body)
    lap("decode")
    with server.lease(name, version, label=label, deadline=deadline, until=until) as lease:
        lap("wait")
        deadline = deadline or _deadline(timeout, until)
        signature = _signature(lease.servable.signatures, request.signature_name)
        inputs = request.inputs(signature.inputs, deadline, signature.special_inputs)
        if any(array.dtype.hasobject for array in inputs.values()):
            inputs = _with_images(signature, inputs, deadline, is_in_haste)
        lap("decode")
        outputs = lease.servable.predict(request.signature_name, inputs, deadline)
        lap("infer")
    return outputs, request.is_row


# Each imports what only its requests need.
def _with_images(signature: Signature, inputs: Tensors, deadline: float | None, is_in_haste: bool) -> Tensors:
    from runtime.images import decode_images, encoded

    if is_in_haste and encoded(signature.inputs, inputs):
        # A few bytes may take seconds, and other requests wait for this thread.
        raise DeadlineExceeded("images are not decoded in haste")
    return decode_images(signature.inputs, inputs, deadline)


def classify_json(server: ModelServer, name: str, version: int | None, body: bytes, **options: Any) -> bytes:
    from runtime.codecs.json_examples import encode_classifications
    from runtime.examples import classify

    return _answer_examples(classify, encode_classifications, server, name, version, body, **options)


def regress_json(server: ModelServer, name: str, version: int | None, body: bytes, **options: Any) -> bytes:
    from runtime.codecs.json_examples import encode_regressions
    from runtime.examples import regress

    return _answer_examples(regress, encode_regressions, server, name, version, body, **options)


def _answer_examples(
    infer: Callable[[Servable, str, Sequence[Example], float | None], T],
    encode: Callable[[T], bytes],
    server: ModelServer,
    name: str,
    version: int | None,
    body: bytes,
    *,
    label: str | None = None,
    timeout: float | None = None,
    until: float | None = None,
) -> bytes:
    from runtime.codecs.json_examples import parse_examples

    request = parse_examples(body)
    with server.lease(name, version, label=label, until=until) as lease:
        results = infer(lease.servable, request.signature_name, request.examples, _deadline(timeout, until))
    return encode(results)


def _deadline(timeout: float | None, until: float | None) -> float | None:
    if timeout is None:
        return until
    deadline = time.monotonic() + timeout
    return deadline if until is None else min(deadline, until)


def _signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    if name not in signatures:
        raise SignatureNotFound(f'Serving signature name: "{quoted(name, NAME)}" not found in signature def')
    return signatures[name]
