"""A server process from start to exit: build, listen, load, serve, drain.

Order, after Uvicorn and OpenVINO Model Server: everything is built and listening before the models are loaded, so that
liveness is answered and requests that come early wait for the load instead of being refused. A start that fails is
one log line and exit code 3. Of several models one that fails is no reason to end the process.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from handlers.build import build_server, import_engine
from handlers.configuration import INLINE, Configuration, ModelConfig, models_of
from handlers.eager import eager, require_preloaded, start_all
from handlers.exits import START_FAILED, STOP_SIGNALS
from handlers.haste import in_haste
from handlers.limits import memory_room
from handlers.reload import Reload
from handlers.settings import OF_TLS, Settings
from model_cache.cache import FAILURE_TTL
from model_cache.errors import BlobChanged, CacheFull, LoadFailed, LoadPending, ModelCacheError, ModelNotFound
from model_cache.repository import ServableId
from model_cache.storage import public_url
from model_cache.timeline import span, timeline
from runtime.server import ModelServer

if TYPE_CHECKING:
    from handlers.tls import Tls
    from handlers.worker import Worker

logger = logging.getLogger(__name__)

REQUESTS_SHARE = 0.1
"""Of the memory there is, for the requests of all gRPC calls as they came; decoded they take several times that."""
UPLOAD_TIMEOUT = 120.0
"""Seconds that a start waits for a model that is being uploaded meanwhile."""
_UPLOAD_PAUSE = 1.0


class Front(Protocol):
    def start(self) -> None: ...

    def set_ready(self) -> None: ...

    def drain(self, timeout: float) -> bool: ...


class Stop:
    """A signal came."""


class Ready(NamedTuple):
    """Every model has been loaded once."""

    ids: Sequence[ServableId]


Event = Ready | BaseException | Stop


def serve(settings: Settings, channel: int | None = None) -> NoReturn:
    """Serve until SIGTERM or SIGINT, and end the process.

    Args:
        settings: what to serve.
        channel: a worker's descriptor for what its supervisor says; None for a process on its own.

    Raises:
        SettingsError: there is nothing to serve, or nothing to serve it on.
    """
    settings.require_ports()
    worker = _join(channel)
    processes = 1 if worker is None else worker.count
    tls = _read_tls(settings)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    started: list[Front] = []
    try:
        with in_haste():
            with span("configure"):
                configuration, told = (models_of(settings), None) if worker is None else worker.models(settings)
                require_preloaded(settings, told or configuration)
                server = build_server(settings, configuration, processes)
                settings.require_metrics_port(server.metrics is not None)
            # First, as it takes longest: it lists and downloads while all else is imported. Then the engine, so that
            # it compiles, which needs no Python, while the fronts are.
            models = eager(configuration.models, settings)
            args = (server, models, _is_vital(settings), settings.listing_ttl or FAILURE_TTL, events, worker)
            threading.Thread(target=_load, args=args, daemon=True).start()
            import_engine(loads_plugin=not all(model.is_in_place for model in server.repositories.values()))
            reload = Reload(server, settings, configuration, told)
            if worker is not None:
                snapshot = None if server.metrics is None else partial(server.metrics.snapshot, server)
                worker.follow(reload, lambda: events.put(Stop()), reload.refresh, snapshot, server)
                server.peers = worker
                if server.metrics is not None:
                    server.metrics.gather = worker.gather
            replace = reload if worker is None else worker.replace_models
            refresh = reload.refresh if worker is None else worker.refresh
            for front in _fronts(settings, server, tls, replace, refresh, processes, is_shared=worker is not None):
                # Until then there is nothing to drain, and a signal ends the process at once.
                if not started:
                    _heed_stop_signals(events)
                with span("listen"):
                    front.start()
                started.append(front)
        _watch(settings, configuration if told is None else told, reload)
        code = _main_loop(settings, started, events)
    except (ModelCacheError, OSError) as exc:
        logger.error("cannot start %s: %s", _what(settings), exc)
        code = START_FAILED
    finished = _drain(started, settings.shutdown_timeout)
    _report(finished, settings.shutdown_timeout, code)
    # Not by returning: loads and downloads may be under way, in threads that Python would wait for.
    logging.shutdown()
    os._exit(code)


def _join(channel: int | None) -> Worker | None:
    if channel is None:
        return None
    from handlers.worker import Worker

    return Worker(channel)


def _read_tls(settings: Settings) -> Tls | None:
    # Not for those who ask for none: all that it imports would come before the load begins.
    if not settings.given(OF_TLS):
        return None
    from handlers.tls import read_tls

    return read_tls(settings)


def _is_vital(settings: Settings) -> bool:
    # What one of several needs may be mended while the others serve.
    return not settings.has_configuration


def _what(settings: Settings) -> str:
    if settings.has_configuration:
        return settings.model_config_file or INLINE
    return f"{settings.model_name} from {public_url(settings.model_path)}"


def poll_seconds(settings: Settings, file: Configuration) -> float:
    """Return the seconds between two looks at the file of models; 0 for none."""
    if settings.model_config_file_poll_wait_seconds is not None:
        return settings.model_config_file_poll_wait_seconds
    # As each of the two servers does with a file of its own.
    return settings.listing_ttl if file.is_json else 0.0


def _watch(settings: Settings, file: Configuration, reload: Reload) -> None:
    seconds = poll_seconds(settings, file)
    # A setting's text stays as it is.
    if seconds and settings.model_config_file:
        args = (settings.model_config_file, seconds, threading.Event())
        threading.Thread(target=reload.watch, args=args, daemon=True).start()
    # Listing costs money, so that it is done without a request for who has said so.
    if settings.file_system_poll_wait_seconds:
        keep_up = (settings.file_system_poll_wait_seconds, threading.Event())
        threading.Thread(target=reload.keep_up, args=keep_up, daemon=True).start()


def _load(
    server: ModelServer,
    models: Sequence[ModelConfig],
    is_vital: bool,
    poll: float,
    events: queue.SimpleQueue[Event],
    worker: Worker | None = None,
) -> None:
    """Load the models and report when all have been; go on trying those that fail, as what is wrong may be mended.

    Args:
        models: those that are to be loaded ahead.
        is_vital: whether the process has no use without them, unless it is their files that are broken.
        poll: seconds until one that has no version yet is tried again.
    """
    loaded: dict[str, ServableId] = {}
    told: dict[str, str] = {}
    deadline = time.monotonic() + UPLOAD_TIMEOUT
    waiting = [model for model in models if model.name in server.repositories]
    try:
        while waiting:
            pause = FAILURE_TTL
            for name, outcome in zip(_names(waiting), start_all(server.start, waiting), strict=True):
                # A reload has taken it away, in this pause or since.
                if name not in server.repositories:
                    continue
                if isinstance(outcome, ServableId):
                    loaded[name] = outcome
                elif isinstance(outcome, (BlobChanged, LoadPending, CacheFull)) and time.monotonic() < deadline:
                    # Somebody is just uploading; or another process of this cache directory uses all that is in it.
                    logger.info("waiting for %s: %s", name, outcome)
                    pause = _UPLOAD_PAUSE
                elif is_vital and not isinstance(outcome, LoadFailed) and name not in told:
                    raise outcome
                else:
                    # What is not there takes no time to try.
                    if isinstance(outcome, ModelNotFound):
                        pause = min(pause, poll)
                    if told.get(name) == str(outcome):
                        continue
                    # Whatever it is while the files are being replaced, it is no reason any more to end the process.
                    told[name] = str(outcome)
                    events.put(LoadFailed(str(outcome)))
            waiting = [each for each in waiting if each.name not in loaded and each.name in server.repositories]
            _pause(server, _names(waiting), pause)
        if worker is not None:
            worker.wait_until_all_are_loaded()
        events.put(Ready(list(loaded.values())))
    # Raised again on the main thread, which is the one that can end the process.
    except BaseException as exc:  # noqa: BLE001
        events.put(exc)


def _names(models: Sequence[ModelConfig]) -> list[str]:
    return [model.name for model in models]


def _pause(server: ModelServer, names: Sequence[str], seconds: float) -> None:
    """Wait for so long, or until one of these models is loaded, or a reload has changed where it is or if it is."""
    before = [server.repositories.get(name) for name in names]
    deadline = time.monotonic() + seconds
    while names and time.monotonic() < deadline and [server.repositories.get(name) for name in names] == before:
        time.sleep(min(seconds, _UPLOAD_PAUSE))
        # By a request, or a look at all of them.
        if any(server.peek(name) for name in names):
            break


def _fronts(
    settings: Settings,
    server: ModelServer,
    tls: Tls | None,
    replace: Callable[[Any, float | None], None],
    refresh: Callable[[], bool],
    processes: int,
    *,
    is_shared: bool,
) -> Iterator[Front]:
    # Each front's libraries are imported only if it is wanted.
    if settings.rest_port:
        with span("imports.front"):
            from handlers.http_server import HttpServer

        yield HttpServer(
            server,
            settings.rest_bind_address,
            settings.rest_port,
            max_body=settings.max_body_size,
            max_in_flight=settings.max_in_flight,
            timeout=settings.rest_api_timeout_in_ms / 1000,
            has_cors=settings.rest_api_enable_cors_support,
            is_shared=is_shared,
            reload=refresh,
            workers=settings.rest_workers,
        )
    if settings.port or settings.grpc_socket_path:
        with span("imports.grpc"):
            from handlers.grpc_sidecar import GrpcServer

        yield GrpcServer(
            server,
            settings.grpc_bind_address,
            settings.port,
            max_in_flight=settings.max_in_flight,
            socket_path=settings.grpc_socket_path,
            tls=tls,
            has_reflection=settings.grpc_reflection,
            reload=replace,
            is_shared=is_shared,
            max_requests=int(memory_room() * REQUESTS_SHARE) // processes,
            tensor_content_from=1 if settings.enable_serialization_as_tensor_content else settings.tensor_content_from,
            workers=settings.grpc_workers,
            max_threads=settings.grpc_max_threads,
            channel_arguments=settings.grpc_channel_arguments or {},
        )


def _main_loop(settings: Settings, fronts: list[Front], events: queue.SimpleQueue[Event]) -> int:
    while True:
        event = events.get()
        if isinstance(event, Ready):
            for front in fronts:
                front.set_ready()
            timeline.ready()
            # Only now, as nobody waits for it.
            from runtime.coldstart import summary

            logger.info("ready: %s on %s", ", ".join(map(str, event.ids)) or "no model", _addresses(settings))
            logger.info("%s", summary())
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
    ports = [f"{name} {address}:{port}" for name, address, port in fronts if port]
    return ", ".join(ports + [f"gRPC unix:{path}" for path in [settings.grpc_socket_path] if path])


def _heed_stop_signals(events: queue.SimpleQueue[Event]) -> None:
    """Have a signal put a `Stop` among the events, and a second one end the process at once."""
    awake, wakes = socket.socketpair()
    wakes.setblocking(False)
    # Python's own handlers run when the main thread comes round to it, which it does not if the signal has come just
    # before it begins to wait. This is written to whatever it does.
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, frame: None)
    threading.Thread(target=_heed, args=(awake, wakes, events), name="signals", daemon=True).start()


def _heed(awake: socket.socket, wakes: socket.socket, events: queue.SimpleQueue[Event]) -> None:
    # Both ends have to stay open.
    with awake, wakes:
        awake.recv(1)
        events.put(Stop())
        # Whoever asks twice does not want to wait for requests.
        (number,) = awake.recv(1)
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
