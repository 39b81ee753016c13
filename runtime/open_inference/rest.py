"""The requests of ``/v2``, over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from model_cache.timeline import lap
from runtime.answers import JSON_SIZE_KEY, Inferred, Operation, Reply
from runtime.codecs.open_inference import infer_answer, infer_json
from runtime.codecs.open_inference.inference import InferRequest
from runtime.open_inference import infer, urls

if TYPE_CHECKING:
    from runtime.contract import Contract
    from runtime.server import ModelServer

# What the gRPC methods are called that do the same.
_METHODS = {"infer": "ModelInfer", "metadata": "ModelMetadata", "ready": "ModelReady"}
_WITH_BODY = ("infer", "index", "load", "unload")


class V2Operation:
    """An `Operation`."""

    __slots__ = ("_json_size", "is_inference", "may_be_quick", "method", "name", "verb", "version", "wants_body")

    label = None

    def __init__(self, target: urls.Target, json_size: int | None) -> None:
        self.verb, self.name, self.version = target
        self.method = _METHODS.get(self.verb, "")
        self.is_inference = self.may_be_quick = self.verb == "infer"
        self.wants_body = self.verb in _WITH_BODY
        self._json_size = json_size

    def infer(
        self,
        server: ModelServer,
        body: bytes,
        *,
        timeout: float | None = None,
        until: float | None = None,
        deadline: float | None = None,
    ) -> Inferred:
        # Triton's raw binary request, if nothing of the body is JSON.
        request: InferRequest | bytes = body if self._json_size == 0 else infer_json.parse(body, self._json_size)
        lap("decode")
        response = infer.run(
            server,
            self.name,
            self.version,
            request,
            timeout=timeout,
            until=until,
            deadline=deadline,
            is_in_haste=deadline is not None,
        )
        outputs = {output.name: output.array for output in response.outputs}
        return Inferred(outputs, partial(infer_answer.encode, response))

    def look(self, contract: Contract, body: bytes, until: float | None) -> Reply:
        from runtime.open_inference.looks import look

        return look(contract.server, self.verb, self.name, self.version, body, until)


def begin(method: str, path: bytes, headers: Mapping[str, str]) -> Operation:
    """Return what a head asks for.

    Args:
        method: of HTTP.
        path: as it was sent, without its query.
        headers: by lower-case name.

    Raises:
        NoSuchPath, MethodNotAllowed, InvalidRequest: as `urls.parse`; or it does not say how much of a body is JSON.
    """
    target = urls.parse(method, path)
    declared = headers.get(JSON_SIZE_KEY) if target.verb == "infer" else None
    return V2Operation(target, None if declared is None else infer_json.json_size(declared))
