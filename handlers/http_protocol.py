"""HTTP/1.1 on one connection: httptools' parser, an asyncio protocol, and what stands between them and the contract.

Requests are answered one at a time and in their order. While one is being answered hardly anything behind it is
parsed, and soon nothing is read: what a client sends ahead waits in its socket. One answer is one write, and the next
request begins when the kernel has taken all of it: whoever does not read his answers gets no more of them.

Everything runs on the loop's thread, but for answers that take time: `Front.run` has them made in others.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import NamedTuple, Protocol, cast

import httptools

from runtime import urls
from runtime.answers import JSON_SIZE_KEY, Answer
from runtime.bodies import BODY_SILENCE, give_up_at, given_up
from runtime.contract import METRICS, Call, Contract, health

logger = logging.getLogger(__name__)

MAX_HEAD = 64 << 10
"""Bytes of a request line and headers, and of a line between chunks of a body or the trailers behind it; and a little
more, by what is parsed at once."""
LINGER = 1.0
"""Seconds for which what still comes is read and dropped, so that the last answer is not lost: a socket closed with
bytes unread is reset, and the client's system then drops what the client has not read."""
_MAX_LINGER = 1 << 20
"""Bytes that are read so."""
_STRIDE = 4 << 10
"""Bytes that are parsed at once where there may be whole requests in them."""
_CHUNK = 4 << 10
"""Bytes of a body from which they are an object of their own."""
_TURN = 0.002
"""Seconds for which requests that have come together are answered before other connections are looked at."""
_HEADER = 256
"""Bytes that a header counts as which is kept until its head has ended: objects take more than what is in them."""
_SMALL = 64 << 10
"""Bytes of a body up to which copying it behind its head is cheaper than telling the system of two places."""


_PHRASES = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    412: "Precondition Failed",
    413: "Request Entity Too Large",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    507: "Insufficient Storage",
}
_ALIGNED_FROM = 64 << 10
"""Bytes of a body from which on it matters where the tensors in it begin: what is smaller is copied anyway."""
_ALIGNMENT = 16
"""Bytes at a multiple of which the content of bytes objects begins."""
_MAX_DIGITS = 18
# What the contract looks at, and we.
_LOOKED_AT = (
    "accept-encoding",
    "content-encoding",
    "content-length",
    "expect",
    JSON_SIZE_KEY,
    "origin",
    "transfer-encoding",
)
_NAMES = {name.encode(): name for name in _LOOKED_AT}
# And what the parser does, should it read a head again.
_KEPT = {*_NAMES, b"connection"}
_OUTQ = 0x5411
"""Linux's SIOCOUTQ: how many bytes of a socket its other end has not taken."""
_TEXT = {"content-type": "text/plain; charset=utf-8"}
_MALFORMED = "Invalid HTTP request received."
_TOO_LARGE = f"the request line and headers are larger than {MAX_HEAD} bytes\n"


class Timeouts(NamedTuple):
    """In seconds."""

    head: float = 20.0
    """That a head may take from its first byte, or from the connection's beginning."""
    keep_alive: float = 5.0
    """That a connection is kept between an answer and the next request."""
    silence: float = BODY_SILENCE
    """Without a byte of a body, or without one of an answer being taken, until it is given up."""


TIMEOUTS = Timeouts()


class Front(Protocol):
    """What the connections of a server have in common. On the loop's thread."""

    loop: asyncio.AbstractEventLoop
    contract: Contract
    timeouts: Timeouts
    is_draining: bool
    """Whether a connection ends with the answer that is under way."""

    def is_ready(self) -> bool: ...

    def date(self) -> bytes:
        """Return the header of this second, with the end of its line."""
        ...

    def run(self, call: Callable[[], Answer], done: Callable[[Answer], None]) -> None:
        """Make an answer in another thread, and give it to ``done`` on the loop's."""
        ...

    def scrape(self, call: Callable[[], Answer], done: Callable[[Answer], None]) -> None:
        """As `run`, and not behind the answers of that."""
        ...

    def answer_other(self, method: str, path: bytes, query: bytes, done: Callable[[Answer], None]) -> None:
        """Answer what is neither of ``/v1/`` nor health, now or later."""
        ...

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...


class _Request:
    """One request, from when its head has come."""

    __slots__ = (
        "_chunks",
        "_gap",
        "_tail",
        "call",
        "headers",
        "is_begun",
        "is_complete",
        "is_read",
        "keeps_alive",
        "method",
        "refusal",
        "size",
        "url",
    )

    def __init__(self, method: str, url: bytes, headers: dict[str, str], keeps_alive: bool) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.keeps_alive = keeps_alive
        self.call: Call | None = None
        """Once it is begun, if it is of the contract."""
        self.refusal: Answer | None = None
        """The answer to what is no request: nothing comes behind it."""
        self.is_read = True
        """Whether what comes of its body is kept: not once it is answered, as nobody reads the rest."""
        self._chunks: list[bytes | bytearray] = []
        # Small ones are put together as they come: as objects of their own they would take many times their bytes.
        self._tail = bytearray()
        # Where blanks are put into the body, and how many.
        self._gap = (0, 0)
        self.size = 0
        """Bytes of its body that have come."""
        self.is_begun = False
        self.is_complete = False

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if not self.is_read:
            return
        if len(data) < _CHUNK and len(self._tail) < _CHUNK:
            self._tail += data
        else:
            self._chunks += [self._tail, data] if self._tail else [data]
            self._tail = bytearray()

    def align_tensors(self) -> None:
        """Have the tensors behind the JSON of a large body begin at an address where the engine can read them.

        JSON may end with blanks, which move them for nothing: a body is put together from its pieces in any case. What
        is before them stays where it was, as errors tell of places in the JSON.
        """
        declared, length = self.headers[JSON_SIZE_KEY], self.headers.get("content-length", "")
        if not declared.isdecimal() or not length.isdecimal() or max(len(declared), len(length)) > _MAX_DIGITS:
            return
        size = int(declared)
        if 0 < size < int(length) >= _ALIGNED_FROM and "content-encoding" not in self.headers:
            self._gap = size, -size % _ALIGNMENT
            self.headers[JSON_SIZE_KEY] = str(sum(self._gap))

    def take_body(self) -> bytes:
        """Return all that was kept, and keep nothing any more."""
        pieces = [*self._chunks, self._tail] if self._tail else self._chunks
        at, blanks = self._gap
        body = b"".join(_widened(pieces, at, b" " * blanks) if blanks else pieces)
        self.drop_body()
        return body

    def drop_body(self) -> None:
        self.is_read = False
        self._chunks, self._tail = [], bytearray()


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._loop = front.loop
        self._transport = cast(asyncio.Transport, None)
        self._new_parser()
        # What the parser has of the head that it is at.
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        # Whether the head that has just ended is to be read again, without the upgrade that it offers.
        self._offers_upgrade = False
        # Requests whose heads have come and which are not answered, oldest first. All but the last are complete.
        self._requests: deque[_Request] = deque()
        # Whose body the parser is at; None while it is at a head.
        self._incoming: _Request | None = None
        # Bytes that the parser has had since it last made something of them.
        self._unmade = 0
        # What has come and is for the parser later, as the first of the requests is being answered.
        self._rest = b""
        # Whether the first of the requests is being answered elsewhere; whether the system has not yet taken all of the
        # last answer. While either is so, nothing is parsed and nothing begun.
        self._is_running = False
        self._is_sending = False
        # Whether other connections are looked at first, in which time nothing is either; and when that is to be.
        self._is_yielding = False
        self._turn_ends = 0.0
        # Whether the client sends no more, and nothing more is to be read.
        self._is_half_closed = False
        # The call whose answer is being sent: it is in flight until all of it is, as its answer is in memory.
        self._sent_call: Call | None = None
        # Whether this connection ends when what is being sent is, and whether there is more to come that is not wanted;
        # whether it only waits for the client to have heard the last answer.
        self._is_ending = False
        self._is_refusing = False
        self._is_lingering = False
        self._dropped = 0
        # When what the connection waits for has begun, and when something of it came last.
        self._began = self._heard = front.loop.time()
        # Whether it waits for a head of which nothing has come, after an answer.
        self._is_idle = False
        self._unsent = self._to_send = 0
        self._timer: asyncio.TimerHandle | None = None

    # Of the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # So that "paused" means that something is unsent, and each write is tried at once.
        self._transport.set_write_buffer_limits(high=0)
        self._front.opened(self)
        if self._front.is_draining:
            return self._transport.close()
        self._start_timer(min(self._front.timeouts))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._is_ending = True
        # The one that runs counts until it ends, and is closed then.
        if self._requests and not self._is_running:
            _close(self._requests[0].call)
        self._close_sent()
        if not self._is_running:
            self._requests.clear()
        self._front.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            self._drop(len(data))
        elif self._is_at_work():
            self._rest += data
            self._transport.pause_reading()
        else:
            self._turn_ends = time.monotonic() + _TURN
            self._read(data)

    def eof_received(self) -> bool:
        """Keep the connection as long as something is owed to a client that sends no more."""
        self._is_half_closed = True
        return self._is_at_work()

    def pause_writing(self) -> None:
        self._is_sending = True
        self._began = self._heard = self._loop.time()
        self._unsent = self._to_send = self._not_taken()

    def resume_writing(self) -> None:
        self._is_sending = False
        self._close_sent()
        self._go_on()

    # Reading.

    def _read(self, data: bytes) -> None:
        if self._incoming is None:
            if self._is_idle:
                self._is_idle = False
                self._began = self._loop.time()
        else:
            self._heard = self._loop.time()
        if len(data) <= _STRIDE:
            self._parse(data)
            self._advance()
        else:
            self._read_in_strides(memoryview(data))

    def _read_in_strides(self, data: memoryview) -> None:
        while data and not self._has_to_wait():
            stride = self._stride()
            self._parse(data[:stride])
            data = data[stride:]
            self._advance()
        if data and not self._is_ending:
            self._rest = bytes(data)
            self._transport.pause_reading()

    def _stride(self) -> int:
        if self._incoming is None:
            return _STRIDE
        length = self._incoming.headers.get("content-length")
        # All that is left of the body, at which other requests may follow; in chunks it may end anywhere.
        return int(length) - self._incoming.size if length else _STRIDE

    def _parse(self, data: bytes | memoryview) -> None:
        self._unmade += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            # httptools takes what follows for another protocol's.
            self._parse_again(bytes(data[exc.args[0] :]))
        # A bug of ours, which the loop logs; and it closes the connection.
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError as exc:
            logger.debug("Invalid HTTP request received: %s", exc)
            self._refuse(400, _MALFORMED)
        else:
            if self._unmade > MAX_HEAD:
                self._refuse(431, _TOO_LARGE)

    def _parse_again(self, rest: bytes) -> None:
        self._offers_upgrade = False
        method, version = self._parser.get_method(), self._parser.get_http_version()
        if method == b"CONNECT":
            return self._refuse(400, "CONNECT is for proxies.")
        headers = [_without_upgrade(name, value) for name, value in self._headers]
        head = b"\r\n".join((b"%b %b HTTP/%b" % (method, self._url, version.encode()), *headers, b"", b""))
        self._new_parser()
        self._parse(head + rest)

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)

    def _refuse(self, status: int, text: str) -> None:
        """Answer what is no request, behind all that was one, and end."""
        self._is_refusing = True
        if self._requests and not self._requests[-1].keeps_alive:
            # It is the last one, whatever comes behind it.
            if self._requests[-1].is_complete:
                return
        elif self._incoming is None:
            self._requests.append(_Request("", b"", {}, False))
        elif not self._requests:
            # The rest of a body that has had its answer.
            return self._end()
        request = self._requests[-1]
        request.refusal = Answer(status, _TEXT, text.encode())
        request.is_complete = True
        request.keeps_alive = False
        self._incoming = None

    # Of the parser. They take notes and do nothing: what they raised would be taken for the client's fault.

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # Not the trailers of a body.
        if self._incoming is None and name.lower() in _KEPT:
            self._headers.append((name, value))
            self._unmade += _HEADER

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade():
            self._offers_upgrade = True
            return
        headers: dict[str, str] = {}
        for name, value in self._headers:
            key = _NAMES.get(name.lower())
            if key:
                text = value.decode("latin-1").strip(" \t")
                headers[key] = f"{headers[key]},{text}" if key in headers else text
        if "content-length" in headers:
            # Digits, or the parser would have refused it; of as many as Python takes for a number.
            headers["content-length"] = headers["content-length"].lstrip("0") or "0"
        keeps_alive = parser.should_keep_alive()
        if parser.get_http_version() == "1.0":
            keeps_alive = False
            headers.pop("expect", None)
        self._incoming = _Request(parser.get_method().decode(), self._url, headers, keeps_alive)
        self._requests.append(self._incoming)
        self._unmade = 0

    def on_body(self, data: bytes) -> None:
        cast(_Request, self._incoming).add(data)
        self._unmade = 0

    def on_chunk_header(self) -> None:
        self._unmade = 0

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        request = cast(_Request, self._incoming)
        request.is_complete = True
        if not request.is_read:
            # The next one may begin, which waited for the rest of this one.
            self._began = self._loop.time()
        self._incoming = None
        self._unmade = 0

    # Answering.

    def _advance(self) -> None:
        """Do all that can be done with what has come."""
        while self._requests and not self._has_to_wait():
            request = self._requests[0]
            answer = request.refusal or (self._take(request) if request.is_begun else self._begin(request))
            if answer is None:
                return
            self._send(request, answer)

    def _has_to_wait(self) -> bool:
        """Whether what there is to do is for later."""
        if self._is_ending or self._is_at_work():
            return True
        if time.monotonic() < self._turn_ends:
            return False
        self._is_yielding = True
        # As often as the loop finds something to read here it would do so before it turns to others.
        self._transport.pause_reading()
        self._loop.call_soon(self._begin_turn)
        return True

    def _is_at_work(self) -> bool:
        """Whether there is something under way that ends with a look at what has come since."""
        return self._is_running or self._is_sending or self._is_yielding

    def _begin_turn(self) -> None:
        self._is_yielding = False
        if not self._transport.is_closing():
            self._go_on()

    def _begin(self, request: _Request) -> Answer | None:
        request.is_begun = True
        self._began = self._heard = self._loop.time()
        try:
            path, query = _split(request.url)
        except httptools.HttpParserInvalidURLError:
            request.keeps_alive = False
            return Answer(400, _TEXT, _MALFORMED.encode())
        coding = request.headers.get("transfer-encoding", "chunked")
        if coding.lower() != "chunked":
            # What is in the chunks would be taken for the body.
            request.keeps_alive = False
            return Answer(501, _TEXT, b"Transfer-Encoding is not chunked alone")
        if urls.is_contract(path):
            if JSON_SIZE_KEY in request.headers and not urls.is_tfserving(path):
                request.align_tensors()
            call = self._front.contract.begin(request.method, path, request.headers)
            if isinstance(call, Answer):
                return call
            request.call = call
            return self._take(request)
        if answer := health(request.method, path, self._front.is_ready):
            return answer
        self._is_running = True
        if path == METRICS:
            accepted = request.headers.get("accept-encoding", "")
            scrape = partial(self._front.contract.scrape, request.method, accepted)
            self._front.scrape(scrape, lambda answer: self._done(request, answer))
            return None
        self._front.answer_other(request.method, path, query, lambda answer: self._done(request, answer))
        return None

    def _take(self, request: _Request) -> Answer | None:
        """Count what has come of a body, and run the request if that is all."""
        call = cast(Call, request.call)
        if not call.wants_body:
            request.drop_body()
            return self._run(request, call, b"")
        if request.size > call.size:
            refusal = call.take(request.size - call.size)
            if refusal is not None:
                return refusal
        if request.is_complete:
            return self._run(request, call, request.take_body())
        if not request.size and request.headers.get("expect", "").lower() == "100-continue":
            # Once.
            del request.headers["expect"]
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def _run(self, request: _Request, call: Call, body: bytes) -> Answer | None:
        answer = call.answer_if_quick(body)
        if answer is None:
            self._is_running = True
            self._front.run(lambda: call.answer(body), lambda answer: self._done(request, answer))
        return answer

    def _done(self, request: _Request, answer: Answer) -> None:
        self._is_running = False
        if self._transport.is_closing():
            _close(request.call)
            self._requests.clear()
            return
        self._send(request, answer)
        self._go_on()

    def _send(self, request: _Request, answer: Answer) -> None:
        """Send the answer to the first of the requests, which is done with."""
        self._requests.popleft()
        request.drop_body()
        if "connection" in answer.headers or (self._front.is_draining and not self._requests):
            request.keeps_alive = False
        self._sent_call = request.call
        self._is_ending = not request.keeps_alive
        self._write(request, answer)
        self._is_idle = True
        if not self._is_sending:
            self._close_sent()
            self._began = self._heard = self._loop.time()
            if self._is_ending:
                self._end()

    def _write(self, request: _Request, answer: Answer) -> None:
        status, headers, body, tail = answer
        text = (
            f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\ncontent-length: {answer.size if tail else len(body)}\r\n"
        )
        for name, value in headers.items():
            text += f"{name}: {value}\r\n"
        if not request.keeps_alive and "connection" not in headers:
            text += "connection: close\r\n"
        head = b"%b%b\r\n" % (text.encode("latin-1"), self._front.date())
        if request.method == "HEAD":
            self._transport.write(head)
        elif tail:
            self._transport.writelines((head + body, *tail))
        elif len(body) <= _SMALL:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def _go_on(self) -> None:
        """Go on with what has waited for the end of an answer."""
        if self._is_ending:
            return self._end() if not self._is_sending else None
        self._turn_ends = time.monotonic() + _TURN
        self._advance()
        if self._rest and not self._has_to_wait():
            rest, self._rest = self._rest, b""
            self._read(rest)
        if self._is_ending:
            return
        if self._is_half_closed:
            if not self._is_at_work():
                self._transport.close()
        elif not self._rest and not self._is_yielding:
            self._transport.resume_reading()

    def _close_sent(self) -> None:
        call, self._sent_call = self._sent_call, None
        _close(call)

    # Ending.

    def drain(self) -> None:
        """End as soon as nothing is owed to the client."""
        if self._is_lingering or not (self._requests or self._is_sending):
            self._transport.close()

    def _end(self) -> None:
        """Close, when the client has had time to read what it was sent."""
        self._is_ending = True
        has_more = self._is_refusing or self._incoming is not None or self._rest
        self._incoming, self._rest = None, b""
        if not has_more or self._is_half_closed or self._front.is_draining or self._transport.is_closing():
            return self._transport.close()
        self._is_lingering = True
        self._transport.write_eof()
        self._transport.resume_reading()
        self._stop_timer()
        self._start_timer(LINGER)

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > _MAX_LINGER and self._is_lingering:
            self._transport.close()
        elif self._dropped > _MAX_LINGER:
            self._transport.pause_reading()

    # Time. One timer for all that a connection may wait for: it looks at what that is when it fires.

    def _start_timer(self, delay: float) -> None:
        self._timer = self._loop.call_later(delay, self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self._is_lingering:
            return self._transport.close()
        now = self._loop.time()
        left = self._until(now) - now
        if left <= 0:
            self._give_up()
            left = LINGER
        if not self._transport.is_closing() and not self._is_lingering:
            # No later than what may be waited for by then would be over.
            self._start_timer(min(left, *self._front.timeouts))

    def _until(self, now: float) -> float:
        """Return until when to wait."""
        if self._is_sending:
            unsent = self._not_taken()
            if unsent < self._unsent:
                self._unsent, self._heard = unsent, now
            return give_up_at(self._began, self._heard, self._to_send - unsent, self._front.timeouts.silence)
        if self._is_running or self._is_yielding:
            return inf
        if self._incoming is not None:
            return give_up_at(self._began, self._heard, self._incoming.size, self._front.timeouts.silence)
        return self._began + (self._front.timeouts.keep_alive if self._is_idle else self._front.timeouts.head)

    def _not_taken(self) -> int:
        """Return how many bytes the client has not taken: of what is here, and of what the system has.

        From whoever is slow it takes more no sooner than it is rid of a third of what it has, which may be megabytes.
        """
        waiting = self._transport.get_write_buffer_size()
        # It may be gone.
        with suppress(OSError):
            descriptor = self._transport.get_extra_info("socket").fileno()
            waiting += int.from_bytes(fcntl.ioctl(descriptor, _OUTQ, bytes(4)), sys.byteorder)
        return waiting

    def _give_up(self) -> None:
        if self._is_sending:
            return self._transport.abort()
        if not self._requests:
            return self._transport.close()
        request = self._requests[0]
        call = cast(Call, request.call)
        self._send(request, call.failed(given_up(call.size, self._front.timeouts.silence)))


def _close(call: Call | None) -> None:
    if call is not None:
        call.close()


def _widened(pieces: Sequence[bytes | bytearray], at: int, gap: bytes) -> Iterator[bytes | bytearray | memoryview]:
    """Put ``gap`` between the first ``at`` bytes of the pieces and the rest."""
    for piece in pieces:
        if 0 < at <= len(piece):
            yield memoryview(piece)[:at]
            yield gap
            yield memoryview(piece)[at:]
        else:
            yield piece
        at -= len(piece)


def _without_upgrade(name: bytes, value: bytes) -> bytes:
    # The parser looks at whether it is offered on this connection.
    if name.lower() == b"connection":
        value = b"close" if b"close" in value.lower() else b"keep-alive"
    return name + b": " + value


def _split(url: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a request's target.

    Raises:
        HttpParserInvalidURLError: it is none.
    """
    if url[:1] == b"/" and b"#" not in url:
        path, _, query = url.partition(b"?")
        return path, query
    # As it is sent to proxies.
    parsed = httptools.parse_url(url)
    return parsed.path or b"/", parsed.query or b""
