"""The gRPC front of a long-lived process: the services of both protocols, and the standard health service."""

from __future__ import annotations

import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
from grpc_health.v1 import health, health_pb2

from handlers.ports import hold
from model_cache.locks import locked
from runtime.rpc import MAX_MESSAGE, RESERVE, Waits
from runtime.server import ModelServer
from runtime.servicers import SERVICES, Reload, service_handlers
from runtime.streams import Streams

if TYPE_CHECKING:
    from handlers.tls import Tls

_MAX_SOCKET_PATH = 107
"""Bytes; of unix(7)."""
_CONNECT_TIMEOUT = 1.0


class GrpcServer:
    """On a port, on a UNIX socket, or on both.

    Args:
        server: what it serves.
        address: what the port is bound to.
        port: 0 for none.
        max_in_flight: calls at a time.
        socket_path: of the UNIX socket; empty for none.
        tls: for the port; None for plain text.
        has_reflection: whether it tells what it serves.
        is_shared: whether other processes of this user may listen on the port, too.
        workers: servers on the port, which share threads; the kernel gives each connection to one of them.
        max_threads: in which calls are answered; 0 for as many as there may be calls. Health checks wait for one, too.
            Streams have as many of their own, and no more of them are open.
        channel_arguments: gRPC's, before ours.
        waits: what ends calls that wait for their clients for too long; None for the usual.
        reload, tensor_content_from, max_requests: as `service_handlers`.
    """

    def __init__(
        self,
        server: ModelServer,
        address: str,
        port: int,
        *,
        max_in_flight: int,
        socket_path: str = "",
        tls: Tls | None = None,
        has_reflection: bool = False,
        reload: Reload | None = None,
        tensor_content_from: int = 0,
        is_shared: bool = False,
        max_requests: int = sys.maxsize,
        workers: int = 1,
        max_threads: int = 0,
        channel_arguments: Mapping[str, int | str] = MappingProxyType({}),
        waits: Waits | None = None,
    ) -> None:
        self._address = address
        self._port = port
        # Several of our own share the port as well, and are to keep others off it.
        self._is_held = workers > 1 and not is_shared
        self._held: socket.socket | None = None
        self._target = "" if not port else f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self._socket_path = socket_path
        self._tls = tls
        self._health = health.HealthServicer()
        self._ready = threading.Event()
        # As many as there may be calls, and some that answer health checks and refusals meanwhile.
        threads = min(max_threads or sys.maxsize, max_in_flight + RESERVE)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="grpc")
        self._waits = Waits(threads) if waits is None else waits
        self._streams = Streams(min(max_threads or max_in_flight, max_in_flight), self._waits)
        options = {
            "grpc.max_receive_message_length": MAX_MESSAGE,
            "grpc.max_send_message_length": MAX_MESSAGE,
            # Two servers on one port would each get a part of the requests; unless that is wanted, we want to
            # hear of it instead.
            "grpc.so_reuseport": int(is_shared or workers > 1),
            **channel_arguments,
        }
        handlers = tuple(
            service_handlers(
                server,
                max_in_flight,
                max_requests=max_requests,
                reload=reload,
                tensor_content_from=tensor_content_from,
                is_ready=self._ready.is_set,
                streams=self._streams,
                waits=self._waits,
            )
        )
        most = 2 * max_in_flight + RESERVE + self._streams.threads
        self._servers = [
            grpc.server(self._threads, options=list(options.items()), maximum_concurrent_rpcs=most)
            for _ in range(workers)
        ]
        for one in self._servers:
            one.add_generic_rpc_handlers((*handlers, _health_handler(self._health, self._waits)))
        self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        if has_reflection:
            self._add_reflection()

    def start(self) -> None:
        """Bind and serve.

        Raises:
            OSError: the address cannot be had, or another process listens on the socket.
        """
        if self._target and self._is_held:
            self._held = hold(self._address, self._port)
        if self._target:
            for one in self._servers:
                _listen(one, self._target, _credentials(self._tls) if self._tls else None)
        if self._socket_path:
            # A socket is one server's.
            _listen_on_socket(self._servers[0], self._socket_path)
        for one in self._servers:
            one.start()
        self._waits.start()

    def set_ready(self) -> None:
        self._ready.set()
        self._report(health_pb2.HealthCheckResponse.SERVING)

    def drain(self, timeout: float) -> bool:
        """Stop accepting, let calls finish, close; return whether all did within ``timeout`` seconds."""
        self._ready.clear()
        self._health.enter_graceful_shutdown()
        deadline = time.monotonic() + timeout
        stopped: list[threading.Event] = [one.stop(timeout) for one in self._servers]
        self._streams.drain()
        have_stopped = [event.wait(max(0.0, deadline - time.monotonic())) for event in stopped]
        self._threads.shutdown(wait=False)
        self._streams.close()
        self._waits.close()
        if self._held is not None:
            self._held.close()
        return all(have_stopped)

    def _add_reflection(self) -> None:
        # Here, as the import takes 30 ms and few want it.
        from grpc_reflection.v1alpha import reflection, reflection_pb2

        from runtime.codecs.schema.reflection import wire_pool

        pool = wire_pool()
        for module in (health_pb2, reflection_pb2):
            pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        for one in self._servers:
            reflection.enable_server_reflection(names, one, pool)

    def _report(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        # "" is the server as a whole; TensorFlow Serving's health service knows the short names.
        for service in ("", *SERVICES, *(name.rpartition(".")[2] for name in SERVICES)):
            self._health.set(service, status)


def _health_handler(servicer: health.HealthServicer, waits: Waits) -> grpc.GenericRpcHandler:
    """Return what `grpc_health` would add to a server, of several messages: see `Waits.message`."""

    def answering(method: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[..., Any]:
        return lambda requests, context: method(waits.message(requests, context), context)

    check, listed = health_pb2.HealthCheckRequest, health_pb2.HealthListRequest
    status = health_pb2.HealthCheckResponse.SerializeToString
    handlers = {
        "Check": grpc.stream_unary_rpc_method_handler(answering(servicer.Check), check.FromString, status),
        "List": grpc.stream_unary_rpc_method_handler(
            answering(servicer.List), listed.FromString, health_pb2.HealthListResponse.SerializeToString
        ),
        "Watch": grpc.stream_stream_rpc_method_handler(_Watch(servicer, waits), check.FromString, status),
    }
    return grpc.method_handlers_generic_handler(health.SERVICE_NAME, handlers)


class _Watch:
    experimental_non_blocking = True
    """gRPC's name for what sends answers by a callback, and has no thread of its own meanwhile."""

    def __init__(self, servicer: health.HealthServicer, waits: Waits) -> None:
        self._servicer = servicer
        self._waits = waits

    def __call__(
        self,
        requests: Iterator[health_pb2.HealthCheckRequest],
        context: grpc.ServicerContext,
        send: Callable[[Any], None],
    ) -> None:
        self._servicer.Watch(self._waits.message(requests, context), context, send)


def _listen(server: grpc.Server, target: str, credentials: grpc.ServerCredentials | None = None) -> None:
    try:
        if credentials:
            server.add_secure_port(target, credentials)
        else:
            server.add_insecure_port(target)
    except RuntimeError as exc:
        raise OSError(f"cannot listen on {target}: {exc}") from exc


def _listen_on_socket(server: grpc.Server, path: str) -> None:
    size = len(os.fsencode(path))
    if size > _MAX_SOCKET_PATH:
        raise OSError(f"cannot listen on {path}: it has {size} bytes; want {_MAX_SOCKET_PATH} at most")
    # gRPC removes whatever socket is there, and its own when it stops. The lock is against a second process that
    # finds nobody listening just before we do.
    with locked(Path(path).parent):
        _check_nobody_listens(path)
        # It takes the name for a URL's path.
        _listen(server, f"unix:{quote(path)}")


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)], tls.client_ca, require_client_auth=tls.client_ca is not None
    )


def _check_nobody_listens(path: str) -> None:
    """Raise OSError if something is at the path that may not be replaced; what a dead process left may."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(f"cannot listen on {path}: there is something else; want a socket, or nothing")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_TIMEOUT)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as exc:
            raise OSError(f"cannot listen on {path}: another process may: {exc}") from exc
    raise OSError(f"cannot listen on {path}: another process does")
