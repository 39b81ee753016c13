"""The requests of ``/v1/``: TensorFlow Serving's, OpenVINO Model Server's and our own.

What runs no model is in `looks`, which is imported by the first that asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from runtime import predict, urls
from runtime.answers import Inferred, Reply
from runtime.codecs import json_answer
from runtime.servable import Tensors

if TYPE_CHECKING:
    from runtime.contract import Contract
    from runtime.server import ModelServer

# What the gRPC methods are called that do the same.
_METHODS = {
    "predict": "Predict",
    "classify": "Classify",
    "regress": "Regress",
    "metadata": "GetModelMetadata",
    "status": "GetModelStatus",
}
_OF_EXAMPLES: Mapping[str, Callable[..., bytes]] = {
    "classify": predict.classify_json,
    "regress": predict.regress_json,
}


class TfsOperation:
    """An `Operation`."""

    __slots__ = ("is_inference", "label", "may_be_quick", "method", "name", "verb", "version", "wants_body")

    def __init__(self, target: urls.Target) -> None:
        self.verb, self.name, self.version, self.label = target
        self.method = _METHODS.get(self.verb, "")
        self.may_be_quick = self.verb == "predict"
        self.is_inference = self.wants_body = self.may_be_quick or self.verb in _OF_EXAMPLES

    def infer(
        self,
        server: ModelServer,
        body: bytes,
        *,
        timeout: float | None = None,
        until: float | None = None,
        deadline: float | None = None,
    ) -> Inferred:
        infer = _OF_EXAMPLES.get(self.verb)
        if infer is None:
            outputs, is_row = predict.infer_json(
                server,
                self.name,
                self.version,
                body,
                label=self.label,
                timeout=timeout,
                until=until,
                deadline=deadline,
            )
            return Inferred(outputs, partial(_encode, outputs, is_row))
        content = infer(server, self.name, self.version, body, label=self.label, timeout=timeout, until=until)
        return Inferred({}, lambda: Reply(content))

    def look(self, contract: Contract, body: bytes, until: float | None) -> Reply:
        from runtime.looks import look

        return look(contract, self, until)


def begin(method: str, path: bytes) -> TfsOperation:
    """Return what a head asks for.

    Raises:
        InvalidRequest: as `urls.parse`.
    """
    return TfsOperation(urls.parse(method, path))


def _encode(outputs: Tensors, is_row: bool) -> Reply:
    return Reply(json_answer.encode(outputs, is_row))
