"""The ports and the socket that settings name: whether they can be had."""

from __future__ import annotations

import errno
import http.client
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from handlers.doctor.finding import Finding, Findings, Site, ok, problem, warning
from handlers.doctor.platforms import PLAIN
from handlers.ports import bind

_PATIENCE = 1.0
_UNPRIVILEGED = 1024
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_LISTEN = "0A"
_COMMANDS = {b"decant", b"ovms", b"ie_serving"}


def check_ports(site: Site) -> Findings:
    if not site.platform.listens:
        yield ok("ports", "ports", f"none is listened on: {site.platform.name}")
        return
    for address, port in site.settings.addresses():
        yield _port(site, address, port)
        if site.platform is not PLAIN and address in ("127.0.0.1", "localhost", "::1"):
            detail = f"{address} is of this container alone; want 0.0.0.0 for requests from outside"
            advice = "leave out rest_bind_address and grpc_bind_address, unless a sidecar is the only client"
            yield warning("ports.address", f"port {port}", detail, advice)
    if site.settings.grpc_socket_path:
        yield _socket(Path(site.settings.grpc_socket_path))


def _port(site: Site, address: str, port: int) -> Finding:
    title = f"port {port}"
    try:
        bind(address, port).close()
    except OSError as exc:
        return _taken(site, address, port, exc.__cause__)
    return ok("ports", title, f"free on {address}")


def _taken(site: Site, address: str, port: int, cause: BaseException | None) -> Finding:
    title, number = f"port {port}", cause.errno if isinstance(cause, OSError) else None
    if number == errno.EADDRINUSE:
        if _is_decant(site, address, port):
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


def _is_decant(site: Site, address: str, port: int) -> bool:
    return _answers_as_decant(_ANY.get(address, address), port) or any(
        map(_is_command, _commands_on(site.root / "proc", port))
    )


def _answers_as_decant(host: str, port: int) -> bool:
    with (
        suppress(OSError, http.client.HTTPException),
        closing(http.client.HTTPConnection(host, port, timeout=_PATIENCE)) as connection,
    ):
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status == http.HTTPStatus.OK
    return False


def _is_command(arguments: Sequence[bytes]) -> bool:
    """Whether a command line is of a server of ours, or of one of its workers: gRPC alone does not say."""
    names = {argument.rpartition(b"/")[2] for argument in arguments[:4]}
    return bool(names & _COMMANDS) or any(argument.startswith(b"handlers.") for argument in arguments[:4])


def _commands_on(proc: Path, port: int) -> Iterator[list[bytes]]:
    """Yield the command lines of this user's processes that listen on a port, see proc(5)."""
    wanted = {f"socket:[{inode}]" for inode in _listening(proc, port)}
    for directory in proc.glob("[0-9]*") if wanted else ():
        # It may be another user's, or be gone.
        with suppress(OSError):
            if any(_target(link) in wanted for link in (directory / "fd").iterdir()):
                yield (directory / "cmdline").read_bytes().split(b"\0")


def _listening(proc: Path, port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (proc / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _socket(path: Path) -> Finding:
    title = f"socket {path}"
    if path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK):
        return ok("ports.socket", title, f"{path.parent} can be written")
    detail = f"{path.parent} is no directory that can be written"
    return problem("ports.socket", title, detail, "mount a volume there that both containers have, or choose another")
