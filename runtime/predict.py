"""Hops 2 to 5 of a request, without a transport: lease, decode, run, encode. Every front with JSON calls this.

In each a body that is not sound is an error before its model is looked for. ``timeout`` is what a request has from
when its model is there, in seconds; DeadlineExceeded after that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from runtime import examples
from runtime.codecs import json_answer, json_examples, json_tensor
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
) -> bytes:
    request = json_tensor.parse_predict(body)
    with server.lease(name, version, label=label) as lease:
        deadline = _deadline(timeout)
        signature = _signature(lease.servable.signatures, request.signature_name)
        inputs = request.inputs(signature.inputs, deadline)
        outputs = lease.servable.predict(request.signature_name, inputs, deadline)
    return json_answer.encode(outputs, request.is_row)


def _answer_examples(
    infer: Callable[..., Any],
    encode: Callable[[Any], bytes],
    server: ModelServer,
    name: str,
    version: int | None,
    body: bytes,
    *,
    label: str | None = None,
    timeout: float | None = None,
) -> bytes:
    request = json_examples.parse_examples(body)
    with server.lease(name, version, label=label) as lease:
        results = infer(lease.servable, request.signature_name, request.examples, _deadline(timeout))
    return encode(results)


classify_json = partial(_answer_examples, examples.classify, json_examples.encode_classifications)
regress_json = partial(_answer_examples, examples.regress, json_examples.encode_regressions)


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    if name not in signatures:
        raise SignatureNotFound(f'Serving signature name: "{quoted(name, NAME)}" not found in signature def')
    return signatures[name]
