"""TensorFlow Serving's REST API as an ASGI application, with KServe's health endpoints and the pages about it.

For whoever speaks ASGI: Mangum, and the HTTP server for all but ``/v1/`` and health. This module is all that imports
FastAPI, which takes longer than everything else of a start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from runtime import urls
from runtime.bodies import BODY_SILENCE, give_up_at, given_up
from runtime.contract import Answer, Call, Contract, error


def create_app(contract: Contract, is_ready: Callable[[], bool]) -> FastAPI:
    """Return the ASGI application, which answers on the spot: it is for one request at a time.

    Args:
        contract: what answers ``/v1/``.
        is_ready: whether everything is up that must be before traffic comes.
    """
    app = _App(title="Decant", redirect_slashes=False, redoc_url=None, swagger_ui_oauth2_redirect_url=None)

    @app.api_route("/v2/health/live", methods=["GET", "HEAD"])
    async def live() -> Response:
        return Response()

    @app.api_route("/v2/health/ready", methods=["GET", "HEAD"])
    async def ready() -> Response:
        return Response(status_code=200 if is_ready() else 503)

    async def http_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        line = f"{request.method} {urls.excerpt(urls.path_of(request.scope))}"
        response = _response(error(exc.status_code, f"{exc.detail}: {line}"))
        response.headers.update(exc.headers or {})
        return response

    # Before all others, as it is what requests are for.
    app.router.routes.insert(0, _Route(contract))
    app.add_exception_handler(HTTPException, http_error)
    return app


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        # Written by hand, as no route has types that it could be made of; imported by whoever asks for it.
        from runtime.openapi import document

        return document()


class _Route(BaseRoute):
    """All of ``/v1/``: one route, as paths are matched before they are decoded and whatever the method."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_ours = scope["type"] == "http" and urls.is_contract(urls.path_of(scope))
        return (Match.FULL if is_ours else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = _response(await self._answer(request))
        if request.method == "HEAD":
            response.body = b""
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Answer:
        headers = {name: ",".join(request.headers.getlist(name)) for name in request.headers}
        call = self._contract.begin(request.method, urls.path_of(request.scope), headers)
        if isinstance(call, Answer):
            return call
        try:
            body = await _read(request, call) if call.wants_body else b""
            return body if isinstance(body, Answer) else call.answer(body)
        except ClientDisconnect:
            # It left before its body was complete, so nobody reads this.
            return error(499, "the client has gone")
        finally:
            call.close()


async def _read(request: Request, call: Call) -> bytes | Answer:
    """Return the body as it was sent, or the answer to one that is too large or has stopped coming.

    Raises:
        ClientDisconnect: the client has left before its end.
    """
    chunks = []
    now = asyncio.get_running_loop().time
    began = now()
    try:
        async with asyncio.timeout_at(began + BODY_SILENCE) as limit:
            async for chunk in request.stream():
                refusal = call.take(len(chunk))
                if refusal is not None:
                    return refusal
                limit.reschedule(give_up_at(began, now(), call.size))
                chunks.append(chunk)
    except TimeoutError:
        return call.failed(given_up(call.size))
    return b"".join(chunks)


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers)
