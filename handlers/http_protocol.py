"""uvicorn's HTTP protocol for httptools, with what that lacks: limits to a request's head, in bytes and in time; and
bodies of requests that offer an upgrade, as Java's HttpClient does with HTTP/2 and as a server may ignore."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 << 10
"""Bytes of a request line and headers; more by what comes at once, 256 KiB at most."""
HEAD_TIMEOUT = 20.0
"""Seconds that these may take from their first byte, or from the connection's beginning."""
_OF_UPGRADES = (b"connection", b"upgrade", b"http2-settings")
_REFUSAL = b"the request line and headers are larger than %d bytes\n" % MAX_HEAD


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Whoever sends heads without end, or never ends one, loses it."""

    def __init__(self, *args: Any, head_timeout: float = HEAD_TIMEOUT, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timeout = head_timeout
        # Bytes that have come of a head; None while a body comes.
        self._head: int | None = 0
        self._timer: asyncio.TimerHandle | None = None
        # Whether the head that has just ended is to be read again, without the upgrade that it offers.
        self._offers_upgrade = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
            self._start_timer()
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._head is not None and self._head > MAX_HEAD and not self.transport.is_closing():
            self._refuse()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            # httptools takes what follows for another protocol's.
            self._read_again(data[exc.args[0] :])
        except httptools.HttpParserError:
            self._refuse_as_malformed("Invalid HTTP request received.")

    def _read_again(self, rest: bytes) -> None:
        self._offers_upgrade = False
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            return self._refuse_as_malformed("CONNECT is for proxies.")
        headers = [name + b": " + value for name, value in self.headers if name not in _OF_UPGRADES]
        head = b"\r\n".join((b"%b %b HTTP/%b" % (method, self.url, version.encode()), *headers, b"", b""))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(head + rest)

    def _refuse_as_malformed(self, why: str) -> None:
        self.logger.warning(why)
        self.send_400_response(why)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            self._offers_upgrade = True
            return
        self._head = None
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        self._head = 0
        super().on_message_complete()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._head_timeout, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        # The next request's head may have begun while the last one is being answered.
        if self._is_answering():
            self._start_timer()
        else:
            self.transport.close()

    def _refuse(self) -> None:
        if not self._is_answering():
            lines = (
                b"HTTP/1.1 431 Request Header Fields Too Large",
                b"content-type: text/plain; charset=utf-8",
                b"content-length: %d" % len(_REFUSAL),
                b"connection: close",
            )
            self.transport.write(b"\r\n".join((*lines, b"", _REFUSAL)))
        self.transport.close()

    def _is_answering(self) -> bool:
        # None before the first request.
        return bool(self.cycle) and not self.cycle.response_complete
