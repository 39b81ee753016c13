"""A server process from start to exit: build, listen, load, serve, drain.

Order, after Uvicorn and OpenVINO Model Server: everything is built and listening before the model is loaded, so that
liveness is answered and requests that come early wait for the load instead of being refused. A start that fails is
one log line and exit code 3.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, Protocol

from handlers.build import build_server
from handlers.settings import Settings
from model_cache.cache import FAILURE_TTL
from model_cache.errors import BlobChanged, CacheFull, LoadFailed, LoadPending, ModelCacheError
from model_cache.repository import ServableId
from runtime.server import ModelServer

logger = logging.getLogger(__name__)

START_FAILED = 3
UPLOAD_TIMEOUT = 120.0
"""Seconds that a start waits for a model that is being uploaded meanwhile."""
_UPLOAD_PAUSE = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Front(Protocol):
    def start(self) -> None: ...

    def set_ready(self) -> None: ...

    def drain(self, timeout: float) -> bool: ...


class Stop:
    """A signal came."""


Event = ServableId | BaseException | Stop


def serve(settings: Settings) -> NoReturn:
    """Serve until SIGTERM or SIGINT, and end the process.

    Raises:
        SettingsError: there is nothing to serve, or nothing to serve it on.
    """
    settings.require_ports()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    started: list[Front] = []
    with _stop_signals(events):
        try:
            server = build_server(settings)
            # First, as it takes longest: it lists and downloads while the fronts are imported.
            threading.Thread(target=_load, args=(server, settings.model_name, events), daemon=True).start()
            for front in _fronts(settings, server):
                front.start()
                started.append(front)
            code = _main_loop(settings, started, events)
        except (ModelCacheError, OSError) as exc:
            logger.error("cannot start %s from %s: %s", settings.model_name, settings.model_path, exc)
            code = START_FAILED
        finished = _drain(started, settings.shutdown_timeout)
    _report(finished, settings.shutdown_timeout, code)
    # Not by returning: loads and downloads may be under way, in threads that Python would wait for.
    logging.shutdown()
    os._exit(code)


def _load(server: ModelServer, name: str, events: queue.SimpleQueue[Event]) -> None:
    """Load the model and report how it went; go on trying if its files are broken, as they may be replaced."""
    reported = ""
    deadline = time.monotonic() + UPLOAD_TIMEOUT
    while True:
        try:
            return events.put(server.start(name))
        except ModelCacheError as exc:
            if isinstance(exc, (BlobChanged, LoadPending, CacheFull)) and time.monotonic() < deadline:
                # Somebody is just uploading; or another process of this cache directory uses all that is in it.
                logger.info("waiting for %s: %s", name, exc)
                time.sleep(_UPLOAD_PAUSE)
                continue
            if not isinstance(exc, LoadFailed) and not reported:
                return events.put(exc)
            if str(exc) != reported:
                # Whatever it is while the files are being replaced, it is no reason any more to end the process.
                events.put(LoadFailed(str(exc)))
            reported = str(exc)
            time.sleep(FAILURE_TTL)
        # Raised again on the main thread, which is the one that can end the process.
        except BaseException as exc:  # noqa: BLE001
            return events.put(exc)


def _fronts(settings: Settings, server: ModelServer) -> Iterator[Front]:
    # Each front's libraries are imported only if it is wanted.
    if settings.rest_port:
        from handlers.http_server import HttpServer

        yield HttpServer(
            server,
            settings.rest_bind_address,
            settings.rest_port,
            max_body=settings.max_body_size,
            max_in_flight=settings.max_in_flight,
            timeout=settings.rest_api_timeout_in_ms / 1000,
            has_cors=settings.rest_api_enable_cors_support,
        )
    if settings.port or settings.grpc_socket_path:
        from handlers.grpc_sidecar import GrpcServer
        from handlers.tls import read_tls

        yield GrpcServer(
            server,
            settings.grpc_bind_address,
            settings.port,
            max_in_flight=settings.max_in_flight,
            socket_path=settings.grpc_socket_path,
            tls=read_tls(settings),
            has_reflection=settings.grpc_reflection,
            tensor_content_from=1 if settings.enable_serialization_as_tensor_content else settings.tensor_content_from,
        )


def _main_loop(settings: Settings, fronts: list[Front], events: queue.SimpleQueue[Event]) -> int:
    while True:
        event = events.get()
        if isinstance(event, ServableId):
            for front in fronts:
                front.set_ready()
            logger.info("ready: %s on %s", event, _addresses(settings))
        elif isinstance(event, LoadFailed):
            logger.error("not ready, trying again every %.0f s: %s", FAILURE_TTL, event)
        elif isinstance(event, Stop):
            return 0
        else:
            raise event


def _addresses(settings: Settings) -> str:
    fronts = (
        ("REST", settings.rest_bind_address, settings.rest_port),
        ("gRPC", settings.grpc_bind_address, settings.port),
    )
    return ", ".join(f"{name} {address}:{port}" for name, address, port in fronts if port)


@contextmanager
def _stop_signals(events: queue.SimpleQueue[Event]) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        # Whoever asks twice does not want to wait for requests.
        for again in STOP_SIGNALS:
            signal.signal(again, _exit_now)
        events.put(Stop())

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_now(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _drain(fronts: list[Front], timeout: float) -> bool:
    """Drain all fronts at once; return whether all requests have finished."""
    finished: list[bool] = []
    drains = [threading.Thread(target=lambda front=front: finished.append(front.drain(timeout))) for front in fronts]
    for drain in drains:
        drain.start()
    for drain in drains:
        drain.join()
    return all(finished)


def _report(finished: bool, timeout: float, code: int) -> None:
    if not finished:
        logger.warning("stopped with requests unfinished after %.1f s", timeout)
    # A failed start has had its one line.
    elif not code:
        logger.info("stopped")
