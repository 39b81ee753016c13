"""The lightest clients there are: bytes made beforehand, one connection, nothing parsed but a length."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc

from benchmarks.forms import JSON, PREDICT
from benchmarks.tasks import BenchmarkFailed

_BUFFER = 1 << 20
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Call = Callable[[], bytes]
"""Send a request; return the body of the answer."""


class HttpClient:
    """One keep-alive connection on a raw socket."""

    def __init__(self, port: int, path: str, body: bytes, headers: Mapping[str, str] = JSON) -> None:
        self._request = http_request(path, body, headers)
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def __call__(self) -> bytes:
        """Return the body; raise BenchmarkFailed if it is no 200 with a length."""
        return self.exchange().partition(b"\r\n\r\n")[2]

    def exchange(self) -> bytes:
        """Return the whole response, head and body."""
        self._socket.sendall(self._request)
        answer = self._socket.recv(_BUFFER)
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._more()
        head = answer[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            raise BenchmarkFailed(f"the server answered {answer[:500]!r}")
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(answer) < end + 4 + length:
            answer += self._more()
        return answer

    def _more(self) -> bytes:
        received = self._socket.recv(_BUFFER)
        if not received:
            raise BenchmarkFailed("the server closed its connection within an answer")
        return received


def http_request(path: str, body: bytes, headers: Mapping[str, str] = JSON) -> bytes:
    fields = {"Host": "localhost", **headers, "Content-Length": str(len(body))}
    head = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*head, "", ""]).encode() + body


class GrpcClient:
    """grpcio's own client, with bytes in place of messages."""

    def __init__(self, port: int, message: bytes, method: str = PREDICT) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", _UNLIMITED)
        self._method: Any = self._channel.unary_unary(f"/{method}")
        self._message = message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()

    def __call__(self) -> bytes:
        answer: bytes = self._method(self._message, timeout=60)
        return answer


def seconds_of(call: Call, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds
