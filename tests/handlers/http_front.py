"""The REST front over real sockets, and what tests ask it."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from handlers.http_server import HttpServer
from tests.fakes import PATIENCE
from tests.runtime.servables import NAME, Stage, finish_start

MODEL = f"/v1/models/{NAME}"
PREDICT = f"{MODEL}:predict"
ONE = b'{"instances": [1]}'


@contextmanager
def listening(s: Stage, **options: Any) -> Iterator[HttpServer]:
    finish_start()
    server = HttpServer(
        s.server, "127.0.0.1", 0, **{"max_body": 1 << 20, "max_in_flight": 64, "timeout": 30, **options}
    )
    server.start()
    try:
        yield server
    finally:
        assert server.drain(PATIENCE)


def ask(
    server: HttpServer, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection:
        connection.request(method, target, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE)


def ask_raw(server: HttpServer, request: bytes) -> bytes:
    """Send these bytes and return all that comes until the server closes."""
    with connect(server) as connection:
        connection.sendall(request)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def post(body: bytes = ONE, *headers: str, target: str = PREDICT) -> bytes:
    """Return the bytes of a request."""
    lines = (f"POST {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


def get(target: str, *headers: str) -> bytes:
    return "\r\n".join((f"GET {target} HTTP/1.1", "Host: x", *headers, "", "")).encode()
