"""The gRPC front of a long-lived process: PredictionService, ModelService and the standard health service."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from handlers.tls import Tls
from runtime.server import ModelServer
from runtime.servicers import SERVICES, Reload, service_handlers

MAX_MESSAGE = 2**31 - 1
"""Bytes, both ways; TensorFlow Serving's limit, and gRPC's."""

RESERVE = 8
"""Threads beyond those for calls that may take long."""


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
        reload, tensor_content_from: as `service_handlers`.
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
    ) -> None:
        self._target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self._health = health.HealthServicer()
        self._grpc = grpc.server(
            # As many as there may be calls, and some that answer health checks and refusals meanwhile.
            ThreadPoolExecutor(max_in_flight + RESERVE, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.max_send_message_length", MAX_MESSAGE),
                # Two servers on one port would each get a part of the requests; we want to hear of it instead.
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=2 * max_in_flight + RESERVE,
        )
        self._grpc.add_generic_rpc_handlers(
            tuple(service_handlers(server, max_in_flight, reload=reload, tensor_content_from=tensor_content_from))
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        self._report(health_pb2.HealthCheckResponse.NOT_SERVING)

    def start(self) -> None:
        """Bind and serve.

        Raises:
            OSError: the address cannot be had.
        """
        try:
            self._grpc.add_insecure_port(self._target)
        except RuntimeError as exc:
            raise OSError(f"cannot listen on {self._target}: {exc}") from exc
        self._grpc.start()

    def set_ready(self) -> None:
        self._report(health_pb2.HealthCheckResponse.SERVING)

    def drain(self, timeout: float) -> bool:
        """Stop accepting, let calls finish, close; return whether all did within ``timeout`` seconds."""
        self._health.enter_graceful_shutdown()
        stopped: threading.Event = self._grpc.stop(timeout)
        return stopped.wait(timeout)

    def _report(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        # "" is the server as a whole; TensorFlow Serving's health service knows the short names.
        for service in ("", *SERVICES, *(name.rpartition(".")[2] for name in SERVICES)):
            self._health.set(service, status)
