"""Messages between a supervisor and its workers, over a pair of sockets that nobody else has."""

from __future__ import annotations

import pickle
import socket
import struct
import threading
from typing import Any

_HEAD = struct.Struct("!I")
TIMEOUT = 5.0
"""Seconds that the other side may take to read a message, or to send one that it has begun: it reads at once."""


class Channel:
    """One end. Any thread may send; one receives."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(TIMEOUT)
        self._end = end
        # Held while a message is sent, so that each arrives in one piece.
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, kind: str, *content: Any) -> None:
        """
        Raises:
            OSError: the other side has gone, or does not read.
        """
        message = pickle.dumps((kind, content))
        with self._lock:
            self._end.sendall(_HEAD.pack(len(message)) + message)

    def receive(self) -> tuple[str, Any] | None:
        """Wait for the next message and return it; None if the other side has gone, or does not end what it began."""
        try:
            (size,) = _HEAD.unpack(self._first_byte() + self._exactly(_HEAD.size - 1))
            message: tuple[str, Any] = pickle.loads(self._exactly(size))
            return message
        except (OSError, EOFError):
            return None

    def close(self) -> None:
        self._end.close()

    def _first_byte(self) -> bytes:
        while True:
            try:
                return self._end.recv(1)
            except TimeoutError:
                continue

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._end.recv(min(size - len(parts), 1 << 20))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)
