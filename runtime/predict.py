"""Hops 2 to 5 of a request, without a transport: lease, decode, run, encode. Every front with JSON calls this.

In each a body that is not sound is an error before its model is looked for. ``timeout`` is what a request has from
when its model is there, in seconds; DeadlineExceeded after that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

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


def classify_json(
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
        results = examples.classify(lease.servable, request.signature_name, request.examples, _deadline(timeout))
    return json_examples.encode_classifications(results)


def regress_json(
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
        results = examples.regress(lease.servable, request.signature_name, request.examples, _deadline(timeout))
    return json_examples.encode_regressions(results)


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    if name not in signatures:
        raise SignatureNotFound(f'Serving signature name: "{quoted(name, NAME)}" not found in signature def')
    return signatures[name]
