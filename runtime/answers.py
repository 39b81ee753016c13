"""What a request asks for and what it is answered with, in either protocol and on any transport of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

import orjson

from runtime.servable import Tensors

if TYPE_CHECKING:
    from runtime.contract import Contract
    from runtime.server import ModelServer

JSON_SIZE = "Inference-Header-Content-Length"
"""The Open Inference Protocol's header: how many bytes of a body are JSON, behind which tensors come."""
JSON_SIZE_KEY = JSON_SIZE.lower()
"""As headers are looked up."""
JSON = {"content-type": "application/json"}
# By status. Of a body that is too large, or does not come, the rest is not waited for.
_HEADERS = {503: {"retry-after": "1"}, 408: {"connection": "close"}, 413: {"connection": "close"}}


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """By lower-case name, without content-length."""
    body: bytes
    """Also of an answer to HEAD, which has its length and is sent without it."""
    tail: Sequence[memoryview] = ()
    """What follows the body, piece by piece, each one of bytes: large tensors, where they are."""

    @property
    def size(self) -> int:
        """Bytes of body and tail."""
        return len(self.body) + sum(map(len, self.tail))

    def joined(self) -> Answer:
        """Return the same answer with all of it in its body."""
        return self._replace(body=b"".join((self.body, *self.tail)), tail=()) if self.tail else self


class Reply(NamedTuple):
    """What an operation is answered with if it succeeds, before it is encoded as the client prefers."""

    content: bytes
    content_type: str = ""
    """JSON's if it is empty."""
    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    """Besides, by lower-case name."""
    tail: Sequence[memoryview] = ()
    """See `Answer`."""


class Inferred(NamedTuple):
    outputs: Tensors
    """What has to be written yet; empty if it is written."""
    encode: Callable[[], Reply]
    """Writes it. Called once, by any thread."""


class Operation(Protocol):
    """What the head of a request asks for. It is answered by one of its two methods."""

    @property
    def method(self) -> str:
        """What it is called over gRPC, by which it is counted; empty for what is not."""
        ...

    @property
    def name(self) -> str:
        """The model's; empty if it is about none."""
        ...

    @property
    def version(self) -> int | None: ...

    @property
    def label(self) -> str | None: ...

    @property
    def wants_body(self) -> bool:
        """Whether it is looked at what the client sends behind the head."""
        ...

    @property
    def is_inference(self) -> bool:
        """Whether `infer` answers it, and not `look`."""
        ...

    @property
    def may_be_quick(self) -> bool:
        """Whether `infer` takes a deadline, and waits for nothing else if it is given one."""
        ...

    def infer(
        self,
        server: ModelServer,
        body: bytes,
        *,
        timeout: float | None = None,
        until: float | None = None,
        deadline: float | None = None,
    ) -> Inferred:
        """Run it, as `predict` describes. Of a body that was sent encoded this is what was in it."""
        ...

    def look(self, contract: Contract, body: bytes, until: float | None) -> Reply:
        """Answer what runs no model."""
        ...


def error(status: int, message: str) -> Answer:
    """Return an answer in the form that both protocols have for errors."""
    # JSON has no surrogates, which a message may quote.
    body = orjson.dumps({"error": message.encode(errors="replace").decode()})
    return Answer(status, JSON | _HEADERS.get(status, {}), body)
