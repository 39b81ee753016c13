"""An HTTP/1.1 proxy that misbehaves as told, between a client and a real server.

    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(Cut(after=1000), "GET", r"model\\.bin", nth=1))

Requests are forwarded as they came, ``Host`` included, so a signature made for the proxy's address still verifies.
Leaving the ``with`` block closes every connection and joins every thread.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

_PIECE = 64 * 1024
_UPSTREAM_TIMEOUT = 30.0
_LOOK_AGAIN = 0.02

# Those that belong to one connection; the proxy frames its answers itself.
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True)
class Request:
    """What a rule decides on. ``headers`` has lower-case names."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Pass:
    """Forward faithfully."""


@dataclass(frozen=True)
class Cut:
    """Break the connection after this many bytes of the answer's body, by a reset if ``reset``."""

    after: int
    reset: bool = False


@dataclass(frozen=True)
class Stall:
    """Fall silent until ``released`` is set, the client leaves or the proxy closes; then go on.

    The silence comes after this many bytes of the answer's body, or before the request is forwarded if ``after`` is
    None. ``reached`` tells that it has begun.
    """

    after: int | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Slow:
    """Wait this many seconds before forwarding."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """Answer this; the server never hears of the request."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WrongLength:
    """Send the whole body under a Content-Length that is off ``by`` so many bytes, then close the connection."""

    by: int


@dataclass(frozen=True)
class ShortBody:
    """Send so many bytes of the body under a Content-Length that says just that, as if there were no more."""

    to: int


@dataclass(frozen=True)
class Before:
    """Call ``hook`` and then forward: what the server has may change between two requests of one download."""

    hook: Callable[[], object]


Fault = Pass | Cut | Stall | Slow | Answer | WrongLength | ShortBody | Before
Rule = Callable[[Request], Fault | None]
"""Called once for each request, in the order in which they arrive; None leaves it to the next rule."""


def s3_error(status: int, code: str, message: str) -> Answer:
    """An error as S3 words it."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


SLOW_DOWN = s3_error(503, "SlowDown", "Please reduce your request rate.")
INTERNAL_ERROR = s3_error(500, "InternalError", "We encountered an internal error. Please try again.")
ACCESS_DENIED = s3_error(403, "AccessDenied", "Access Denied")


def on(fault: Fault, method: str = "", path: str = "", nth: int | Container[int] | None = None) -> Rule:
    """Make a rule for requests with this method whose path and query hold the regular expression ``path``.

    Of those it takes the ``nth`` (from 1; several with a range or a set), or all.
    """
    numbers: Container[int] | None = {nth} if isinstance(nth, int) else nth
    matches = 0

    def rule(request: Request) -> Fault | None:
        nonlocal matches
        if method not in ("", request.method) or not re.search(path, request.path):
            return None
        matches += 1
        return fault if numbers is None or matches in numbers else None

    return rule


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FaultProxy:
    """A proxy in front of the server at ``upstream``, an http URL. It passes everything until told otherwise."""

    def __init__(self, upstream: str) -> None:
        target = urlsplit(upstream)
        self._upstream = (target.hostname or "127.0.0.1", target.port or 80)
        self._lock = threading.Lock()
        self._rules: tuple[Rule, ...] = ()
        self._requests: list[Request] = []
        self._server = _Server(self)
        self._closing = threading.Event()
        self._errors: list[BaseException] = []
        self._acceptor = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="fault proxy")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in the order in which they came."""
        with self._lock:
            return list(self._requests)

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests so far had this method and a path that holds the regular expression ``path``."""
        return sum(
            method in ("", request.method) and re.search(path, request.path) is not None for request in self.requests
        )

    def use(self, *rules: Rule) -> None:
        """Obey these rules, and no earlier ones, from the next request on; the first that names a fault decides."""
        with self._lock:
            self._rules = rules

    def break_connections(self) -> None:
        """Break all that are open; new ones are accepted."""
        self._server.break_connections()

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._acceptor.join()
        self._server.close_connections()
        self._server.server_close()  # joins the threads of the connections
        # A hook that raised, or a fault that could not happen, must fail the test that asked for it.
        if self._errors and exc is None:
            raise self._errors[0]

    def _decide(self, request: Request) -> Fault:
        with self._lock:
            self._requests.append(request)
            # Every rule sees every request, so each one's count is of what came, not of what was left to it.
            faults = [rule(request) for rule in self._rules]
        return next((fault for fault in faults if fault is not None), Pass())


class _Server(ThreadingTCPServer):
    """Accepts; one thread for each connection, all joined by ``server_close``."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        super().__init__(("127.0.0.1", 0), _Connection)

    @contextlib.contextmanager
    def tracking(self, connection: socket.socket) -> Iterator[None]:
        """Let ``close_connections`` break this one, which wakes the thread that reads or writes it."""
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("the proxy is closing")
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)

    def close_connections(self) -> None:
        with self._lock:
            self._closed = True
        self.break_connections()

    def break_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        threading.current_thread().name = "fault proxy connection"
        super().process_request_thread(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self.tracking(request):
            super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        # Broken connections are this proxy's trade.
        if error is not None and not isinstance(error, OSError | http.client.HTTPException):
            self.proxy._errors.append(error)


class _Connection(BaseHTTPRequestHandler):
    """One client connection and the requests that come over it, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle_any(self) -> None:
        proxy, body = self.server.proxy, self._read_body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = proxy._decide(Request(self.command, self.path, headers))
        match fault:
            case Answer():
                self._answer(fault)
                return
            case Stall(after=None):
                self._stall(fault)
            case Slow(seconds):
                if proxy._closing.wait(seconds):
                    return
            case Before(hook):
                hook()
        self._forward(body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the proxy keeps its requests for those who ask."""

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self._read_chunks())
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _read_chunks(self) -> Iterator[bytes]:
        """Yield a chunked body as it is on the wire, framing and trailers included."""
        size = -1
        while size:
            yield (line := self.rfile.readline())
            size = int(line.partition(b";")[0], 16)
            if size:
                yield self.rfile.read(size + 2)
        while line != b"\r\n":
            yield (line := self.rfile.readline())

    def _answer(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _forward(self, body: bytes, fault: Fault) -> None:
        # One connection for each request: a kept one may have died, and the only faults must be the rules'.
        upstream = http.client.HTTPConnection(*self.server.proxy._upstream, timeout=_UPSTREAM_TIMEOUT)
        with contextlib.closing(upstream):
            upstream.connect()
            with self.server.tracking(upstream.sock):
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    upstream.putheader(name, value)
                upstream.endheaders(body or None)
                with upstream.getresponse() as response:
                    self._relay(response, fault)

    def _relay(self, response: http.client.HTTPResponse, fault: Fault) -> None:
        source, length = _body_of(response)
        if length <= _bytes_before(fault):
            raise ValueError(f"{fault} cannot happen: {self.command} {self.path} has a body of {length} bytes")
        self._send_head(response, _declared_length(fault, length))
        match fault:
            case Cut(after, reset):
                self._copy(source, after)
                self._break(reset)
            case Stall(after=int(after)):
                self._copy(source, after)
                self._stall(fault)
                self._copy(source)
            case WrongLength():
                self._copy(source)
                self._break()
            case ShortBody(to):
                self._copy(source, to)
            case _:
                self._copy(source)

    def _send_head(self, response: http.client.HTTPResponse, length: int) -> None:
        without_body = self.command == "HEAD" or response.status in (204, 304)
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            # What a HEAD says of the length is about a body that does not come: leave it.
            if name.lower() not in _HOP_BY_HOP and (without_body or name.lower() != "content-length"):
                self.send_header(name, value)
        if not without_body:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _copy(self, source: _Readable, limit: int = sys.maxsize) -> None:
        while piece := source.read(min(_PIECE, limit)):
            self.wfile.write(piece)
            limit -= len(piece)

    def _stall(self, stall: Stall) -> None:
        stall.reached.set()
        while not stall.released.wait(_LOOK_AGAIN):
            if self.server.proxy._closing.is_set() or self._client_left():
                raise ConnectionAbortedError("nobody waits for the end of this stall")

    def _client_left(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _break(self, reset: bool = False) -> None:
        self.close_connection = True
        if reset:
            # With no time to linger, close() sends a reset. Closed here, since the server would first say goodbye.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())


def _body_of(response: http.client.HTTPResponse) -> tuple[_Readable, int]:
    if response.length is not None:
        return response, response.length
    body = response.read()  # chunked, or it lasts until the server closes
    return io.BytesIO(body), len(body)


def _bytes_before(fault: Fault) -> int:
    """How much of the body this fault lets through; it needs a body longer than that to be a fault."""
    match fault:
        case Cut(after=count) | Stall(after=int(count)) | ShortBody(to=count):
            return count
    return -1


def _declared_length(fault: Fault, length: int) -> int:
    match fault:
        case WrongLength(by):
            return length + by
        case ShortBody(to):
            return to
    return length
