"""The ports and the socket that settings name: whether they can be had."""

from __future__ import annotations

import errno
import http.client
import os
import socket
from contextlib import closing, suppress
from pathlib import Path

from handlers.doctor.finding import Finding, Findings, Site, ok, problem, warning
from handlers.doctor.platforms import PLAIN
from handlers.ports import bind

_PATIENCE = 1.0
_UNPRIVILEGED = 1024


def check_ports(site: Site) -> Findings:
    if not site.platform.listens:
        yield ok("ports", "ports", f"none is listened on: {site.platform.name}")
        return
    # Whoever is asked beside a running server finds its ports in use.
    is_serving = bool(site.settings.rest_port) and _is_decant(site.settings.rest_port)
    for address, port in site.settings.addresses():
        yield _port(address, port, is_serving=is_serving)
        if site.platform is not PLAIN and address in ("127.0.0.1", "localhost", "::1"):
            detail = f"{address} is of this container alone; want 0.0.0.0 for requests from outside"
            advice = "leave out rest_bind_address and grpc_bind_address, unless a sidecar is the only client"
            yield warning("ports.address", f"port {port}", detail, advice)
    if site.settings.grpc_socket_path:
        yield _socket(Path(site.settings.grpc_socket_path))


def _port(address: str, port: int, *, is_serving: bool) -> Finding:
    title = f"port {port}"
    try:
        bind(address, port).close()
    except OSError as exc:
        return _taken(address, port, exc.__cause__, is_serving=is_serving)
    return ok("ports", title, f"free on {address}")


def _taken(address: str, port: int, cause: BaseException | None, *, is_serving: bool) -> Finding:
    title, number = f"port {port}", cause.errno if isinstance(cause, OSError) else None
    if number == errno.EADDRINUSE:
        if is_serving:
            return ok("ports", title, f"in use on {address}, as a Decant serves here")
        detail = f"in use on {address} by another process"
        return problem("ports", title, detail, "stop that, or choose another with --rest_port or --port; 0 for none")
    if number == errno.EACCES and port < _UNPRIVILEGED:
        detail = f"below {_UNPRIVILEGED}, and user {os.geteuid()} may not listen there"
        return problem("ports", title, detail, "choose a port above, or grant NET_BIND_SERVICE")
    if number == errno.EADDRNOTAVAIL or isinstance(cause, socket.gaierror):
        detail = f"{address} is no address of this machine"
        return problem("ports", title, detail, "leave out rest_bind_address and grpc_bind_address, or say 0.0.0.0")
    reason = os.strerror(number) if number and number > 0 else "unknown reason"
    return problem("ports", title, f"cannot be listened on at {address}: {reason}", "choose another port or address")


def _is_decant(port: int) -> bool:
    with (
        suppress(OSError, http.client.HTTPException),
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)) as connection,
    ):
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status == http.HTTPStatus.OK
    return False


def _socket(path: Path) -> Finding:
    title = f"socket {path}"
    if path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK):
        return ok("ports.socket", title, f"{path.parent} can be written")
    detail = f"{path.parent} is no directory that can be written"
    return problem("ports.socket", title, detail, "mount a volume there that both containers have, or choose another")
