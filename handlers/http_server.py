"""The REST front of a long-lived process: uvicorn on a socket of ours, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import uvicorn
from starlette.responses import Response

from handlers.http_protocol import HEAD_TIMEOUT, BoundedProtocol
from runtime.rest import create_app
from runtime.server import ModelServer

BACKLOG = 2048


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
        head_timeout: float = HEAD_TIMEOUT,
    ) -> None:
        self._address = address
        self._port = port
        self._ready = threading.Event()
        # As many threads as there may be calls, made when they are first needed. Most wait, for a load or for an infer
        # request; with fewer, requests for one model that is slow to load would hold up those for another.
        self._workers = ThreadPoolExecutor(max_in_flight, thread_name_prefix="rest")
        config = uvicorn.Config(
            create_app(
                server,
                self._run,
                max_body,
                self._ready.is_set,
                max_in_flight,
                timeout=timeout,
                has_cors=has_cors,
            ),
            loop="uvloop",
            http=partial(BoundedProtocol, head_timeout=head_timeout),  # type: ignore[arg-type]
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
        # uvicorn's order: close the listening socket, wait for connections, then for tasks; without a time limit of
        # its own, at which it would log a traceback for each request.
        self._uvicorn.should_exit = True
        self._thread.join(timeout)
        self._workers.shutdown(wait=False, cancel_futures=True)
        return not self._thread.is_alive()

    async def _run(self, call: Callable[[], Response]) -> Response:
        # The future has no name here: if the call raises, the error's traceback has this frame, and a frame that had
        # the future would close a circle with a body in it.
        return await asyncio.get_running_loop().run_in_executor(self._workers, call)

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
