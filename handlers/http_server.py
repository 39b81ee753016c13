"""The REST front of a long-lived process: an event loop in a thread of its own, on a socket of ours."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import uvloop

from handlers.http_bridge import App, Bridge
from handlers.http_protocol import TIMEOUTS, Connection, Timeouts
from handlers.http_threads import Threads
from handlers.ports import bind
from model_cache.cache import close_elsewhere
from runtime.answers import Answer, error
from runtime.contract import Contract, contract_of
from runtime.server import ModelServer

logger = logging.getLogger(__name__)

BACKLOG = 2048
SCRAPES = 4
"""That are answered at a time; further ones wait."""
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class HttpServer:
    """Listens from `start` on, which is before any model is loaded, so that liveness is answered at once."""

    def __init__(
        self,
        server: ModelServer,
        address: str,
        port: int,
        *,
        max_body: int,
        max_in_flight: int,
        timeout: float,
        has_cors: bool = False,
        timeouts: Timeouts = TIMEOUTS,
        is_shared: bool = False,
        workers: int = 0,
        reload: Callable[[], bool] | None = None,
    ) -> None:
        """
        Args:
            is_shared: whether other processes of this user may listen on the port, too.
            workers: threads that calls are answered in, if not on the event loop's; 0 for one per call.
            reload: as `Contract`.
        """
        self._is_shared = is_shared
        self._address = address
        self._port = port
        self._ready = threading.Event()
        self._contract = contract_of(
            server, max_body=max_body, max_requests=max_in_flight, timeout=timeout, has_cors=has_cors, reload=reload
        )
        # Most calls wait, for a load or for an infer request; with fewer threads than there may be calls, requests for
        # one model that is slow to load would hold up those for another; so whoever wants fewer has to say so.
        self._max_threads = min(workers or max_in_flight, max_in_flight)
        self._timeouts = timeouts
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    def start(self) -> None:
        """Bind and serve.

        Raises:
            OSError: the address cannot be had.
        """
        self._socket = bind(self._address, self._port, is_shared=self._is_shared)
        self._socket.listen(BACKLOG)
        self._loop = uvloop.new_event_loop()
        self._front = _Front(self._loop, self._contract, self._ready.is_set, self._max_threads, self._timeouts)
        self._thread.start()

    @property
    def port(self) -> int:
        """What was asked for, or what the system has chosen if that was 0. Once started."""
        assert self._socket is not None
        port: int = self._socket.getsockname()[1]
        return port

    def set_ready(self) -> None:
        self._ready.set()

    def drain(self, timeout: float) -> bool:
        """Stop accepting, let requests finish, close; return whether all did within ``timeout`` seconds."""
        # It may have ended before.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._front.drain)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        assert self._socket is not None
        asyncio.set_event_loop(self._loop)
        # A quick request may be the last that uses a model.
        close_elsewhere()
        try:
            self._loop.run_until_complete(self._front.serve(self._socket))
        finally:
            self._front.close()
            self._loop.close()


class _Front:
    """What `http_protocol.Front` asks for. On the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        contract: Contract,
        is_ready: Callable[[], bool],
        max_threads: int,
        timeouts: Timeouts,
    ) -> None:
        self.loop = loop
        self.contract = contract
        self.is_ready = is_ready
        self.timeouts = timeouts
        self.is_draining = False
        self.threads = Threads(loop, max_threads)
        # Of their own: metrics are wanted most when all other threads wait for something.
        self._scrapes = Threads(loop, SCRAPES)
        self._bridge = Bridge(loop, self._make_app)
        # An event loop holds its tasks weakly.
        self._tasks: set[asyncio.Task[Answer]] = set()
        self._connections: set[Connection] = set()
        self._second = 0
        self._date = b""
        # Done when nothing is to be waited for any more.
        self._drained: asyncio.Future[None] = loop.create_future()
        self._listener: asyncio.Server | None = None

    async def serve(self, listener: socket.socket) -> None:
        self._listener = await self.loop.create_server(lambda: Connection(self), sock=listener, backlog=BACKLOG)
        if self.is_draining:
            self._listener.close()
        await self._drained

    def drain(self) -> None:
        self.is_draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.drain()
        self._look_whether_drained()

    def date(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second, self._date = now, _date(now)
        return self._date

    def run(self, call: Callable[[], Answer], done: Callable[[Answer], None]) -> None:
        self._run_in(self.threads, call, done)

    def scrape(self, call: Callable[[], Answer], done: Callable[[Answer], None]) -> None:
        self._run_in(self._scrapes, call, done)

    def close(self) -> None:
        self.threads.close()
        self._scrapes.close()

    def _run_in(self, threads: Threads, call: Callable[[], Answer], done: Callable[[Answer], None]) -> None:
        try:
            threads.run(call, lambda answer: self._finish(done, answer))
        except RuntimeError as exc:
            logger.warning("a request is refused: %s", exc)
            self.loop.call_soon(done, error(503, "there are no threads to answer with"))

    def answer_other(self, method: str, path: bytes, query: bytes, done: Callable[[Answer], None]) -> None:
        def finish(task: asyncio.Task[Answer]) -> None:
            self._tasks.discard(task)
            self._finish(done, task.result())

        task = self._bridge.answer(method, path, query)
        self._tasks.add(task)
        task.add_done_callback(finish)

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._look_whether_drained()

    def _finish(self, done: Callable[[Answer], None], answer: Answer) -> None:
        done(answer)
        self._look_whether_drained()

    def _make_app(self) -> App:
        from runtime.rest import create_app

        return create_app(self.contract, self.is_ready)

    def _look_whether_drained(self) -> None:
        """Of calls also those are waited for whose clients have gone."""
        is_busy = self._connections or self._tasks or self.threads.busy or self._scrapes.busy
        if self.is_draining and not is_busy and not self._drained.done():
            self._drained.set_result(None)


def _date(seconds: int) -> bytes:
    # RFC 9110, section 5.6.7; strftime's names are those of the locale.
    at = time.gmtime(seconds)
    clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    text = f"date: {_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year} {clock} GMT\r\n"
    return text.encode()
