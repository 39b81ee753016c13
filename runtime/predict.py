"""Hops 2 to 5 of a request, without a transport: lease, decode, run, encode. Every front with JSON calls this."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.codecs import json_answer, json_tensor
from runtime.errors import SignatureNotFound
from runtime.server import ModelServer
from runtime.signature import Signature


def predict_json(server: ModelServer, name: str, version: int | None, body: bytes) -> bytes:
    """Answer a REST predict body. A body that is not sound is an error before its model is looked for."""
    request = json_tensor.parse_predict(body)
    with server.lease(name, version) as lease:
        signature = _signature(lease.servable.signatures, request.signature_name)
        outputs = lease.servable.predict(request.signature_name, request.inputs(signature.inputs))
    return json_answer.encode(outputs, request.is_row)


def _signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    if name not in signatures:
        raise SignatureNotFound(f'Serving signature name: "{name[:100]}" not found in signature def')
    return signatures[name]
