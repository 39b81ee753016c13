"""Servers that do nothing: what the transport and the client of a measurement cost by themselves.

Run as ``python benchmarks/echo.py tcp|grpc REQUEST RESPONSE``, of which RESPONSE is a file with the bytes to answer
whatever came, once as many have come as the file REQUEST has. Each line on standard input is answered with the port.
"""

from __future__ import annotations

import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def serve_tcp(request: int, response: bytes) -> int:
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_answer, args=(listener, request, response), daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def serve_grpc(response: bytes) -> int:
    import grpc

    class Echo(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: response)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Echo()], options=[("grpc.max_receive_message_length", -1)])
    port: int = server.add_insecure_port("127.0.0.1:0")
    server.start()
    # The server stops when nobody refers to it.
    _servers.append(server)
    return port


_servers: list[Any] = []


def _answer(listener: socket.socket, request: int, response: bytes) -> None:
    buffer = memoryview(bytearray(1 << 20))
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while _reads(connection, buffer, request):
                connection.sendall(response)


def _reads(connection: socket.socket, buffer: memoryview, size: int) -> bool:
    """Read a request; return whether there was one."""
    while size:
        count = connection.recv_into(buffer[:size])
        if not count:
            return False
        size -= count
    return True


def main() -> None:
    kind, request, response = sys.argv[1:]
    answer = Path(response).read_bytes()
    port = serve_tcp(Path(request).stat().st_size, answer) if kind == "tcp" else serve_grpc(answer)
    for _ in sys.stdin:
        print(port, flush=True)


if __name__ == "__main__":
    main()
