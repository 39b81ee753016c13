"""TensorFlow Serving's REST API in FastAPI, and KServe's health endpoints. This module is ASGI.

Handlers take the request and return bytes: no pydantic and no middleware between the socket and the codec.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from runtime import encodings, urls
from runtime.bodies import Bodies, Take, read
from runtime.codecs.model_json import encode_inventory, encode_metadata, encode_status
from runtime.predict import classify_json, predict_json, regress_json
from runtime.server import ModelServer
from runtime.status import KNOWN, http_status_of, is_ours, public_message

logger = logging.getLogger(__name__)

Run = Callable[[Callable[[], Response]], Awaitable[Response]]
"""How a front runs a blocking call: in a thread where requests overlap, on the spot where they do not."""

_INFERENCES: Mapping[str, Callable[..., bytes]] = {
    "predict": predict_json,
    "classify": classify_json,
    "regress": regress_json,
}
# By status. Of a body that is too large, or does not come, the rest is not waited for.
_HEADERS = {503: {"retry-after": "1"}, 408: {"connection": "close"}, 413: {"connection": "close"}}
_CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "POST, GET",
    "access-control-allow-headers": "Content-Type",
}


def create_app(
    server: ModelServer,
    run: Run,
    max_body: int,
    is_ready: Callable[[], bool],
    max_requests: int = sys.maxsize,
    *,
    timeout: float = 30.0,
    has_cors: bool = False,
) -> FastAPI:
    """Return the ASGI application.

    Args:
        server: what it serves.
        run: see `Run`.
        max_body: bytes of a request's body, as sent and inflated, above which it is answered with 413.
        is_ready: whether everything is up that must be before traffic comes.
        max_requests: requests read or answered at a time; further ones are answered with 503. Health is not counted.
        timeout: seconds that a request has from when its model is there, 504 after that; 0 for no end.
        has_cors: whether pages of other origins may call.
    """
    app = _App(title="Decant", redirect_slashes=False, redoc_url=None, swagger_ui_oauth2_redirect_url=None)

    @app.api_route("/v2/health/live", methods=["GET", "HEAD"])
    async def live() -> Response:
        return Response()

    @app.api_route("/v2/health/ready", methods=["GET", "HEAD"])
    async def ready() -> Response:
        return Response(status_code=200 if is_ready() else 503)

    contract = _Contract(server, run, Bodies(max_body, max_requests), timeout, _CORS if has_cors else {})
    # Before all others, as it is what requests are for.
    app.router.routes.insert(0, contract)
    app.add_exception_handler(HTTPException, _http_error)
    return app


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        # Written by hand, as no route has types that it could be made of; imported by whoever asks for it.
        from runtime.openapi import document

        return document()


class _Contract(BaseRoute):
    """All of ``/v1/``: one route, as paths are matched before they are decoded and whatever the method."""

    def __init__(
        self, server: ModelServer, run: Run, bodies: Bodies, timeout: float, headers: Mapping[str, str]
    ) -> None:
        self._server = server
        self._run = run
        self._bodies = bodies
        self._timeout = timeout or None
        self._headers = headers

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_ours = scope["type"] == "http" and urls.path_of(scope)[:4].lower() == b"/v1/"
        return (Match.FULL if is_ours else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._respond(request)
        if self._headers:
            response.headers.update(self._headers)
        if request.method == "HEAD":
            response.body = b""
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return _preflight(request)
        try:
            target = urls.parse(request.method, urls.path_of(request.scope))
            with self._bodies.admitted() as take:
                return await self._answer(request, target, take)
        except KNOWN as exc:
            if is_ours(exc):
                logger.warning("%s: %s", _line(request), exc)
            return _error(http_status_of(exc), public_message(exc))
        except ClientDisconnect:
            # It left before its body was complete, so nobody reads this.
            return _error(499, "the client has gone")
        # The edge: whatever else comes this far is a bug, is logged here and shown to nobody.
        except Exception:
            logger.exception("%s failed", _line(request))
            return _error(500, "internal error")

    async def _answer(self, request: Request, target: urls.Target, take: Take) -> Response:
        accepted = _header(request, "accept-encoding")
        if target.verb not in _INFERENCES:
            return await self._run(lambda: _ok(_look(self._server, target), accepted))
        coding = encodings.coding_of(_header(request, "content-encoding"))
        body = await read(request, self._bodies.max_body, take)

        def infer() -> Response:
            content = encodings.inflate(body, coding, self._bodies.max_body, take) if coding else body
            answer = _INFERENCES[target.verb]
            name, version, label = target.name, target.version, target.label
            return _ok(answer(self._server, name, version, content, label=label, timeout=self._timeout), accepted)

        return await self._run(infer)


def _look(server: ModelServer, target: urls.Target) -> bytes:
    if target.verb == "cache":
        return encode_inventory(server.inventory())
    if target.verb == "status":
        # Of all versions if there is a label, as TensorFlow Serving.
        states = server.status(target.name, target.version)
        return encode_status((state.version, state.state.name, state.code.name, state.message) for state in states)
    with server.lease(target.name, target.version, label=target.label) as lease:
        return encode_metadata(target.name, lease.id.version, lease.servable.signatures)


def _preflight(request: Request) -> Response:
    # Whether pages may call is said by the headers, which are not here.
    origin = _header(request, "origin")
    return Response(status_code=200 if "http://" in origin or "https://" in origin else 400)


def _ok(content: bytes, accepted: str) -> Response:
    coding = encodings.choose(accepted, len(content))
    headers = {}
    if coding:
        content = encodings.compress(content, coding)
        headers = {"content-encoding": coding}
    # Of a small answer there is one form, for nearly everybody.
    if coding or len(content) >= encodings.COMPRESS_FROM:
        headers["vary"] = "Accept-Encoding"
    return Response(content, 200, headers, "application/json")


def _error(status: int, message: str) -> Response:
    # JSON has no surrogates, which a message may quote.
    body = orjson.dumps({"error": message.encode(errors="replace").decode()})
    return Response(body, status, _HEADERS.get(status), "application/json")


def _header(request: Request, name: str) -> str:
    return ",".join(request.headers.getlist(name))


def _line(request: Request) -> str:
    # Quoted, as a path may have line breaks in it.
    return f"{request.method} {urls.excerpt(urls.path_of(request.scope))!r}"


async def _http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    response = _error(exc.status_code, f"{exc.detail}: {request.method} {urls.excerpt(urls.path_of(request.scope))}")
    response.headers.update(exc.headers or {})
    return response
