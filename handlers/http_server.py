"""The REST front of a long-lived process: uvicorn on a socket of ours, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import uvicorn

from runtime.errors import Overloaded
from runtime.rest import create_app
from runtime.server import ModelServer

BACKLOG = 2048


class Workers:
    """Threads for blocking calls, as many as there may be calls.

    Most of them wait, for a load or for an infer request; with fewer threads, requests for one model that is slow to
    load would hold up those for another. Threads are made when they are first needed.
    """

    def __init__(self, limit: int) -> None:
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="rest")
        self._limit = limit
        # Added to on the event loop's thread, taken from by whichever thread ends the call. A call whose client has
        # gone stays here until it ends.
        self._calls: set[Future[bytes]] = set()

    async def run(self, call: Callable[[], bytes]) -> bytes:
        if len(self._calls) >= self._limit:
            raise Overloaded(f"{len(self._calls)} requests are in flight, as many as may be; see --max_in_flight")
        future = self._pool.submit(call)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        try:
            return await asyncio.wrap_future(future)
        finally:
            # If it raised, its error's traceback has this frame, and the frame had it: a circle with a body in it.
            del future

    def close(self) -> bool:
        """Take no more calls, and return whether none is left unfinished."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        return not self._calls


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
    ) -> None:
        self._address = address
        self._port = port
        self._ready = threading.Event()
        self._workers = Workers(max_in_flight)
        config = uvicorn.Config(
            create_app(
                server,
                self._workers.run,
                max_body,
                self._ready.is_set,
                max_in_flight,
                timeout=timeout,
                has_cors=has_cors,
            ),
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        self._uvicorn = uvicorn.Server(config)
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    def start(self) -> None:
        """Bind and serve.

        Raises:
            OSError: the address cannot be had.
        """
        self._socket = _listen(self._address, self._port)
        self._thread.start()

    def set_ready(self) -> None:
        self._ready.set()

    def drain(self, timeout: float) -> bool:
        """Stop accepting, let requests finish, close; return whether all did within ``timeout`` seconds."""
        # uvicorn's order: close the listening socket, wait for connections, then for tasks; without a time limit of
        # its own, at which it would log a traceback for each request.
        self._uvicorn.should_exit = True
        self._thread.join(timeout)
        return self._workers.close() and not self._thread.is_alive()

    def _serve(self) -> None:
        assert self._socket is not None
        self._uvicorn.run(sockets=[self._socket])


def _listen(address: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise OSError(f"cannot listen on {address}:{port}: {exc.strerror}") from exc
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise OSError(f"cannot listen on {address}:{port}: {exc.strerror}") from exc
    return listener
