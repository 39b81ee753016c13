"""Hops 2 to 5 of a request, without a transport: lease, decode, run, encode. Every front with JSON calls this.

In each a body that is not sound is an error before its model is looked for. ``timeout`` is what a request has from
when its model is there, in seconds; DeadlineExceeded after that. ``deadline`` is instead of it, in seconds of the
monotonic clock, for who does not wait for the model either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from model_cache.timeline import lap
from runtime.codecs import json_answer, json_tensor
from runtime.errors import NAME, SignatureNotFound, quoted
from runtime.server import ModelServer
from runtime.signature import Signature


def predict_json(
    server: ModelServer,
    name: str,
    version: int | None,
    body: bytes,
    *,
    label: str | None = None,
    timeout: float | None = None,
    deadline: float | None = None,
) -> bytes:
    request = json_tensor.parse_predict(body)
    lap("decode")
    with server.lease(name, version, label=label, deadline=deadline) as lease:
        lap("wait")
        deadline = deadline or _deadline(timeout)
        signature = _signature(lease.servable.signatures, request.signature_name)
        inputs = request.inputs(signature.inputs, deadline)
        lap("decode")
        outputs = lease.servable.predict(request.signature_name, inputs, deadline)
        lap("infer")
    content = json_answer.encode(outputs, request.is_row)
    lap("encode")
    return content


def _answer_examples(
    method: Literal["classify", "regress"],
    server: ModelServer,
    name: str,
    version: int | None,
    body: bytes,
    *,
    label: str | None = None,
    timeout: float | None = None,
) -> bytes:
    # By who asks for either.
    from runtime import examples
    from runtime.codecs import json_examples

    infer: Callable[..., Any] = examples.classify if method == "classify" else examples.regress
    encode: Callable[[Any], bytes] = (
        json_examples.encode_classifications if method == "classify" else json_examples.encode_regressions
    )
    request = json_examples.parse_examples(body)
    with server.lease(name, version, label=label) as lease:
        results = infer(lease.servable, request.signature_name, request.examples, _deadline(timeout))
    return encode(results)


classify_json = partial(_answer_examples, "classify")
regress_json = partial(_answer_examples, "regress")


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    if name not in signatures:
        raise SignatureNotFound(f'Serving signature name: "{quoted(name, NAME)}" not found in signature def')
    return signatures[name]
