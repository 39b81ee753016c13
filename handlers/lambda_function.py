"""One environment of a Lambda function: events in, answers out. There is one request at a time, so it is answered on
the spot, without a thread; and without FastAPI and Mangum, which are imported for what is neither TensorFlow Serving's
API nor health.
"""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from handlers.lambda_events import Head, is_of_edge, path_of, read_body, read_head, read_headers, write
from runtime.contract import Answer, Contract, health
from runtime.errors import InvalidRequest
from runtime.urls import is_contract

if TYPE_CHECKING:
    from mangum import Mangum
    from starlette.types import Receive, Scope, Send

_PREDICT = b":predict"


class UnknownEvent(ValueError):
    """The event is no HTTP request of a kind that is answered."""


class Function:
    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._is_told = False

    def __call__(self, event: Any, context: Any) -> Any:
        """Answer an event.

        Raises:
            UnknownEvent: it is no HTTP request.
        """
        head = read_head(event)
        if head and is_contract(head.path):
            answer = self._answer(event, head)
            result = write(event, head, answer)
            if not self._is_told and answer.status == 200 and head.path.endswith(_PREDICT):
                self._is_told = True
                _tell(context)
            return result
        # Ready without a model, as every request brings what it needs.
        if head and (state := health(head.method, head.path, lambda: True)):
            return write(event, head, state)
        if head is None and not is_of_edge(event):
            raise UnknownEvent(
                f"the event is {_excerpt(event)}; want an HTTP request of a function URL, an HTTP API, a REST API or a "
                "load balancer"
            )
        return self._mangum(event, context)

    def _answer(self, event: Any, head: Head) -> Answer:
        try:
            headers, body = read_headers(event, head.shape), read_body(event)
        except InvalidRequest as exc:
            return self._contract.failed(head.method, head.path, exc)
        return self._contract.answer(head.method, head.path, headers, body)

    @cached_property
    def _mangum(self) -> Mangum:
        from mangum import Mangum

        from runtime.rest import create_app

        app = create_app(self._contract, is_ready=lambda: True)

        async def as_sent(scope: Scope, receive: Receive, send: Send) -> None:
            # Mangum decodes the path, and a name may have a slash in it.
            raw_path = path_of(scope["aws.event"]).encode(errors="replace")
            await app({**scope, "raw_path": raw_path}, receive, send)

        return Mangum(as_sent, lifespan="off")


def _tell(context: Any) -> None:
    """Write what the cold start took to the log, from which CloudWatch makes metrics."""
    from runtime.coldstart import emf

    name, version = (getattr(context, attribute, None) or "" for attribute in ("function_name", "function_version"))
    line = emf({"FunctionName": name, "FunctionVersion": version})
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _excerpt(event: Any) -> str:
    if not isinstance(event, dict):
        return f"of type {type(event).__name__}"
    return f"an object with {', '.join(map(repr, list(event)[:10])) or 'nothing in it'}"[:200]
