"""Requests to an ASGI application, without a server between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import unquote

Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    content: bytes
    chunks_read: int

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> str:
        """The message of an error, which has to be all there is."""
        assert self.headers["content-type"] == "application/json"
        ((key, message),) = self.body.items()
        assert key == "error"
        assert isinstance(message, str)
        return message


def call(
    app: App,
    method: str,
    target: str,
    body: bytes | Iterable[bytes] = b"",
    *,
    headers: dict[str, str] | None = None,
) -> Reply:
    """Send a request, its body whole or in chunks, and collect the answer.

    A body that is whole has its Content-Length, as clients send it; one in chunks has none. The target is that of the
    request line, and is taken apart as ASGI servers do it.
    """
    chunks = [body] if isinstance(body, bytes) else list(body)
    path, _, query = target.partition("?")
    sent = {"content-length": str(len(body))} if isinstance(body, bytes) else {}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(errors="surrogateescape"),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in {**sent, **(headers or {})}.items()],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8501),
    }
    return asyncio.run(_call(app, scope, chunks))


async def _call(app: App, scope: Message, chunks: list[bytes]) -> Reply:
    messages: list[Message] = []
    read = 0

    async def receive() -> Message:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": chunks[read - 1], "more_body": read < len(chunks)}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, send)
    start, *parts = messages
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
    assert len(headers) == len(start["headers"])
    return Reply(start["status"], headers, b"".join(part.get("body", b"") for part in parts), read)
