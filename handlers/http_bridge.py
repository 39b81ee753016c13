"""From the HTTP server to the ASGI application, for the few paths that are neither ``/v1/`` nor health.

The application is FastAPI's, which takes longer to import than all else that a start needs. So whoever asks first for
one of its pages waits for that, and nobody else does.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from runtime import urls
from runtime.answers import Answer, error

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class Bridge:
    """Used on the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], App]) -> None:
        """
        Args:
            make: makes the application, in a thread. Takes a quarter of a second.
        """
        self._loop = loop
        self._make = make
        # Of the application, from the first request on, or from the first after it could not be had.
        self._app: asyncio.Future[App] | None = None

    def answer(self, method: str, path: bytes, query: bytes) -> asyncio.Task[Answer]:
        """Answer a request; of a body nothing is passed on, as no page there reads one. Raises nothing."""
        return self._loop.create_task(self._answer(method, path, query))

    async def _answer(self, method: str, path: bytes, query: bytes) -> Answer:
        try:
            return await _ask(await self._imported(), method, path, query)
        # The edge: whatever it is, it is a bug.
        except Exception:
            logger.exception("%s %r failed", method, urls.excerpt(path))
            return error(500, "internal error")

    async def _imported(self) -> App:
        if self._app is None:
            app = self._loop.create_future()
            threading.Thread(target=self._import, args=(app,), name="import", daemon=True).start()
            # Only now, as there may have been no thread to be had.
            self._app = app
        return await self._app

    def _import(self, app: asyncio.Future[App]) -> None:
        # The loop may have ended without waiting for this, as the process does.
        with suppress(RuntimeError):
            try:
                made = self._make()
            # Raised again for all who wait.
            except Exception as exc:  # noqa: BLE001
                self._loop.call_soon_threadsafe(self._fail, app, exc)
            else:
                self._loop.call_soon_threadsafe(app.set_result, made)

    def _fail(self, app: asyncio.Future[App], exc: Exception) -> None:
        # Memory or descriptors may have been short: the next who asks has it tried again.
        self._app = None
        app.set_exception(exc)


async def _ask(app: App, method: str, path: bytes, query: bytes) -> Answer:
    """Return the application's answer, which is small."""
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    scope: Message = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "root_path": "",
        "query_string": query,
        "headers": [],
        "client": None,
        "server": None,
    }
    await app(scope, receive, send)
    start, *parts = messages
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
    headers.pop("content-length", None)
    return Answer(start["status"], headers, b"".join(part.get("body", b"") for part in parts))
