"""TensorFlow Serving's REST API as an ASGI application, with KServe's health endpoints and the pages about it.

For whoever speaks ASGI and has the whole request: Mangum, and the HTTP server for all but ``/v1/`` and health. This
module is all that imports FastAPI, which takes longer than everything else of a start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from runtime import urls
from runtime.answers import Answer, error
from runtime.contract import METRICS, Contract, health

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def create_app(contract: Contract, is_ready: Callable[[], bool]) -> FastAPI:
    """Return the ASGI application, which answers on the spot: it is for one request at a time.

    Args:
        contract: what answers ``/v1/``.
        is_ready: whether everything is up that must be before traffic comes.
    """
    app = _App(title="Decant", redirect_slashes=False, redoc_url=None, swagger_ui_oauth2_redirect_url=None)

    async def answer_health(request: Request) -> Response:
        answer = health(request.method, request.scope["path"].encode(), is_ready)
        assert answer is not None
        return _answered(request.method, answer)

    async def http_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        line = f"{request.method} {urls.excerpt(urls.path_of(request.scope))}"
        response = _response(error(exc.status_code, f"{exc.detail}: {line}"))
        response.headers.update(exc.headers or {})
        return response

    async def answer_metrics(request: Request) -> Response:
        return _response(contract.scrape(request.method, request.headers.get("accept-encoding", "")))

    app.add_route(METRICS.decode(), answer_metrics, methods=_METHODS)
    for path in urls.HEALTH:
        app.add_route(path.decode(), answer_health, methods=["GET", "HEAD"])
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
        headers = {name: ",".join(request.headers.getlist(name)) for name in request.headers}
        body = await _read(request, self._contract.bodies.max_body)
        answer = self._contract.answer(request.method, urls.path_of(scope), headers, body)
        await _answered(request.method, answer)(scope, receive, send)


async def _read(request: Request, most: int) -> bytes:
    """Return the body as it was sent; of one that is too large, so much that the contract refuses it."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            break
    return body


def _answered(method: str, answer: Answer) -> Response:
    response = _response(answer)
    if method == "HEAD":
        # Its length is in the headers already.
        response.body = b""
    return response


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers)
