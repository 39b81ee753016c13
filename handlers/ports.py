"""Listening sockets: of one process, or of several that share a port."""

from __future__ import annotations

import socket


def bind(address: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """Return a socket that is bound and does not listen yet.

    Args:
        address: a name or number of this machine, or 0.0.0.0 or :: for all.
        port: 0 for one that the system chooses.
        is_shared: whether other processes of this user may bind to it, too, if they all say so.

    Raises:
        OSError: it cannot be had.
    """
    try:
        # As bytes where that is the same: for a string Python brings all of Unicode, 3 ms of every start.
        host = address.encode() if address.isascii() else address
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise OSError(f"cannot listen on {address}:{port}: {exc.strerror}") from exc
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(where)
    except OSError as exc:
        bound.close()
        raise OSError(f"cannot listen on {address}:{port}: {exc.strerror}") from exc
    return bound


def hold(address: str, port: int) -> socket.socket:
    """Return a socket that keeps a port for this process and its children, as long as it is open.

    It never listens. Whoever shares the port with it by `bind` gets all of the connections.

    Raises:
        OSError: it cannot be had, as others have it; two servers on one port would each get a part of the requests.
    """
    held = bind(address, port)
    # The kernel looks at these anew for each that binds: those who come to share it may, and others who would hold it
    # may not.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return held
