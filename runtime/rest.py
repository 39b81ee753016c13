"""TensorFlow Serving's REST API in FastAPI, and KServe's health endpoints. This module is ASGI.

Handlers take the request and return bytes: no pydantic and no middleware between the socket and the codec.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import orjson
from fastapi import FastAPI, Request, Response
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from runtime.codecs.model_json import encode_inventory, encode_metadata, encode_status
from runtime.errors import InvalidRequest, Overloaded, PayloadTooLarge, RequestTimeout
from runtime.predict import predict_json
from runtime.server import ModelServer
from runtime.status import KNOWN, http_status_of, is_ours, public_message

logger = logging.getLogger(__name__)

Run = Callable[[Callable[[], bytes]], Awaitable[bytes]]
"""How a front runs a blocking call: in a thread where requests overlap, on the spot where they do not."""

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
BODY_SILENCE = 20.0
"""Seconds without a byte of a body before its request is given up."""
MAX_BODIES = 8
"""How many bodies of the largest size may be in memory together, or the same bytes of any number of smaller ones."""
_RETRY_AFTER = {"retry-after": "1"}


class _NameConvertor(Convertor[str]):
    """A model's name: as TensorFlow Serving, no slash and no colon."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _VersionConvertor(Convertor[int]):
    regex = "[0-9]+"

    def convert(self, value: str) -> int:
        # No version is that large, so this is none of ours; and Python refuses to convert very long numbers.
        return int(value) if len(value) < 20 else 1 << 63

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("model", _NameConvertor())
register_url_convertor("version", _VersionConvertor())


class Bodies:
    """How many requests are being read or answered, and how many bytes of body they hold. For one event loop."""

    def __init__(self, max_body: int, max_requests: int) -> None:
        self.max_body = max_body
        self._max_requests = max_requests
        self._max_bytes = MAX_BODIES * max_body
        self._requests = 0
        self._bytes = 0

    @contextmanager
    def admitted(self) -> Iterator[Callable[[int], None]]:
        """Count one request, and the bytes for which the function that this gives is called.

        Raises:
            Overloaded: there are too many requests; or, from the function, too many bytes.
        """
        if self._requests >= self._max_requests:
            raise Overloaded(f"{self._requests} requests are in flight, as many as may be; see --max_in_flight")
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self._bytes + size > self._max_bytes:
                raise Overloaded(f"the bodies of {self._requests} requests take {self._bytes} bytes already")
            taken += size
            self._bytes += size

        self._requests += 1
        try:
            yield take
        finally:
            self._requests -= 1
            self._bytes -= taken


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
        max_body: bytes of a request's body, above which it is answered with 413 and not read.
        is_ready: whether everything is up that must be before traffic comes.
        max_requests: predicts read or answered at a time; further ones are answered with 503.
        timeout: seconds that a request has from when its model is there; 504 after that.
        has_cors: whether pages of other origins may call.
    """
    description = "OpenVINO models over TensorFlow Serving's REST API."
    app = FastAPI(title="Decant", description=description, redirect_slashes=False)
    bodies = Bodies(max_body, max_requests)

    @app.post("/v1/models/{name:model}:predict", summary="Predict with the newest version")
    @app.post("/v1/models/{name:model}/versions/{version:version}:predict", summary="Predict with one version")
    async def predict(request: Request) -> Response:
        async def answer() -> bytes:
            name, version = _model(request)
            with bodies.admitted() as take:
                body = await _read(request, max_body, take)
                return await run(lambda: predict_json(server, name, version, body))

        return await _respond(request, answer)

    @app.get("/v1/models/{name:model}", summary="State of all versions")
    @app.get("/v1/models/{name:model}/versions/{version:version}", summary="State of one version")
    async def status(request: Request) -> Response:
        name, version = _model(request)
        return await _respond(request, lambda: run(lambda: _status(server, name, version)))

    @app.get("/v1/models/{name:model}/metadata", summary="Signatures of the newest version")
    @app.get("/v1/models/{name:model}/versions/{version:version}/metadata", summary="Signatures of one version")
    async def metadata(request: Request) -> Response:
        name, version = _model(request)
        return await _respond(request, lambda: run(lambda: _metadata(server, name, version)))

    @app.get("/v1/cache", summary="Where every version is, and what it occupies")
    async def cache(request: Request) -> Response:
        return await _respond(request, lambda: run(lambda: encode_inventory(server.inventory())))

    @app.api_route("/v2/health/live", methods=["GET", "HEAD"], summary="The process answers")
    async def live() -> Response:
        return Response()

    @app.api_route(
        "/v2/health/ready", methods=["GET", "HEAD"], summary="What must be loaded is loaded, and every port listens"
    )
    async def ready() -> Response:
        return Response(status_code=200 if is_ready() else 503)

    @app.get("/v1/models", include_in_schema=False)
    async def models() -> Response:
        return _error(400, "Missing model name in request.")

    @app.api_route("/v1/{path:path}", methods=METHODS, include_in_schema=False)
    async def malformed(request: Request) -> Response:
        return _error(400, f"Malformed request: {request.method} {request.url.path[:256]}")

    app.add_exception_handler(HTTPException, _http_error)
    return app


def _model(request: Request) -> tuple[str, int | None]:
    return request.path_params["name"], request.path_params.get("version")


async def _read(request: Request, max_body: int, take: Callable[[int], None]) -> bytes:
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal():
        raise InvalidRequest(f"Content-Length is {declared[:20]!r}; want a number of bytes")
    too_large = f"the body is larger than {max_body} bytes; see --max_body_size"
    if int(declared[:20]) > max_body:
        raise PayloadTooLarge(too_large)
    chunks, size = [], 0
    now = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout_at(now() + BODY_SILENCE) as limit:
            async for chunk in request.stream():
                limit.reschedule(now() + BODY_SILENCE)
                size += len(chunk)
                if size > max_body:
                    raise PayloadTooLarge(too_large)
                take(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise RequestTimeout(f"nothing of the body came for {BODY_SILENCE:.0f} s") from None
    return b"".join(chunks)


async def _respond(request: Request, answer: Callable[[], Awaitable[bytes]]) -> Response:
    try:
        return Response(await answer(), media_type="application/json")
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


def _line(request: Request) -> str:
    # Quoted, as a path may have line breaks in it.
    return f"{request.method} {request.url.path[:256]!r}"


def _error(status: int, message: str) -> Response:
    # JSON has no surrogates, which a message may quote from a path.
    body = orjson.dumps({"error": message.encode(errors="replace").decode()})
    return Response(body, status, _RETRY_AFTER if status == 503 else None, "application/json")


async def _http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    response = _error(exc.status_code, f"{exc.detail}: {request.method} {request.url.path[:256]}")
    response.headers.update(exc.headers or {})
    return response


def _status(server: ModelServer, name: str, version: int | None) -> bytes:
    statuses = server.status(name, version)
    return encode_status((status.version, status.state.name, status.code.name, status.message) for status in statuses)


def _metadata(server: ModelServer, name: str, version: int | None) -> bytes:
    with server.lease(name, version) as lease:
        return encode_metadata(name, lease.id.version, lease.servable.signatures)
