"""What is neither TensorFlow Serving's API nor health, and all of Lambda@Edge: through Mangum and FastAPI.

Imported when the first such request comes. Mangum trusts events to be whole. It is given one of our own making, so that
whatever a client or a direct invoker puts into his is his mistake; but Lambda@Edge's, which only it can read.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from mangum import Mangum
from starlette.types import Receive, Scope, Send

from handlers.lambda_events import Event, Head, path_of, read_body, read_headers
from handlers.lambda_failures import InvocationFailed
from runtime.answers import Answer
from runtime.contract import Contract
from runtime.errors import InvalidRequest
from runtime.rest import create_app

_NOT_WHOLE = (AttributeError, LookupError, TypeError, ValueError)


class Pages:
    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._app = create_app(contract, is_ready=lambda: True)

    def answer(self, event: Event, head: Head, context: Any) -> Answer:
        """Answer a request."""
        try:
            headers, body = read_headers(event, head.shape), read_body(event)
        except InvalidRequest as exc:
            return self._contract.failed(head.method, head.path, exc)
        sent = path_of(event).encode(errors="replace")
        # No query, as nothing here has any; and no headers, of which it reads ports: they are put in as they are.
        whole = {"resource": "/", "requestContext": {}, "httpMethod": head.method, "path": sent.decode()}
        whole |= {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
        result = self._run(whole, context, head.path, sent[: len(sent) - len(head.path)], headers)
        several = {name: ",".join(values) for name, values in result["multiValueHeaders"].items()}
        text, is_base64 = result["body"], result["isBase64Encoded"]
        content = base64.b64decode(text) if is_base64 else text.encode()
        return Answer(result["statusCode"], result["headers"] | several, content)

    def answer_edge(self, event: Event, context: Any) -> dict[str, Any]:
        """Answer an event of Lambda@Edge.

        Raises:
            InvocationFailed: there is no request in it.
        """
        try:
            path = event["Records"][0]["cf"]["request"]["uri"].encode(errors="replace")
            return self._run(event, context, path)
        except _NOT_WHOLE:
            raise InvocationFailed.unknown(event) from None

    def _run(
        self, event: Event, context: Any, path: bytes, base: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """
        Args:
            path: as it was sent: Mangum decodes it, and a name may have a slash in it.
            base: what was before it, and is not ours.
            headers: of the request, if the event has them not.
        """
        given: dict[str, Any] = {"raw_path": path, "root_path": base.decode()}
        if headers is not None:
            pairs = headers.items()
            given["headers"] = [(name.encode(errors="replace"), text.encode(errors="replace")) for name, text in pairs]

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            await self._app({**scope, **given}, receive, send)

        result: dict[str, Any] = Mangum(run, lifespan="off")(dict(event), context)
        return result
