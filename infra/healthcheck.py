"""Exit 0 if the server in this container is alive.

Runs beside the server, which is process 1, and asks where that listens: flags as typed after ``docker run IMAGE``,
else the environment. Standard library only, and little of it: this starts a Python every half minute.
"""

from __future__ import annotations

import http.client
import itertools
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TIMEOUT = 2.5
DEFAULT_PORTS = {"ovms": (0, 9178), "ie_serving": (0, 9000)}
ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def main() -> None:
    arguments = Path("/proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")
    try:
        sys.exit(complaint(arguments, os.environ))  # noqa: TID251 -- no part of the server
    except (OSError, http.client.HTTPException) as exc:
        sys.exit(f"no answer: {exc}")


def complaint(arguments: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Say what is wrong with the server that was started with ``arguments``; nothing if it is alive."""
    default_rest_port, default_grpc_port = default_ports(arguments)
    # Other servers' commands mind the platform's port on Cloud Run alone.
    minds_platform = default_rest_port or "K_SERVICE" in environ
    platform_port = environ.get("PORT") if minds_platform else None
    rest_port = int(setting("rest_port", arguments, environ) or platform_port or default_rest_port)
    if not rest_port:
        # Importing gRPC would take longer than the server's own start: that it listens must do.
        grpc_port = int(setting("port", arguments, environ) or default_grpc_port)
        path = setting("grpc_socket_path", arguments, environ)
        if not grpc_port and path:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(TIMEOUT)
                connection.connect(path)
            return None
        socket.create_connection((address("grpc_bind_address", arguments, environ), grpc_port), TIMEOUT).close()
        return None
    status = live_status(address("rest_bind_address", arguments, environ), rest_port)
    return None if status == 200 else f"status {status}"


def default_ports(arguments: Sequence[str]) -> tuple[int, int]:
    """Return those of REST and gRPC: other servers' commands keep their own."""
    # An interpreter, the command, and perhaps another command of that.
    for argument in arguments[:3]:
        name = argument.rpartition("/")[2]
        if name in DEFAULT_PORTS:
            return DEFAULT_PORTS[name]
    return 8501, 8500


def live_status(host: str, port: int) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status
    finally:
        connection.close()


def address(flag: str, arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    bound = setting(flag, arguments, environ)
    return ANY_ADDRESS.get(bound, bound)


def setting(flag: str, arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return what ``--flag VALUE`` or ``--flag=VALUE`` says last, else ``DECANT_FLAG``, else the empty string."""
    found = environ.get(f"DECANT_{flag.upper()}", "")
    # What Kubernetes says of a Service that is called decant.
    if "://" in found:
        found = ""
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name.startswith("--") and name[2:].replace("-", "_") == flag:
            found = value if equals else following
    return found


if __name__ == "__main__":
    main()
