"""Requests and their bodies as they come: how many at a time, how large, and how long one may take."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import Request

from runtime.errors import InvalidRequest, Overloaded, PayloadTooLarge, RequestTimeout

BODY_SILENCE = 20.0
"""Seconds without a byte of a body before its request is given up."""
SLOWEST = 10 << 10
"""Bytes of a body that have to come in a second, over the whole of it, beyond `BODY_SILENCE`: who is being read takes a
place of those that there are."""
MAX_BODIES = 8
"""How many bodies of the largest size may be in memory together, or the same bytes of any number of smaller ones."""

Take = Callable[[int], None]
"""Count so many bytes more for a request. From any thread.

Raises:
    Overloaded: that would be too many for all requests together.
"""


class Bodies:
    """How many requests are being read or answered, and how many bytes of body they hold. Thread-safe."""

    def __init__(self, max_body: int, max_requests: int) -> None:
        self.max_body = max_body
        self._max_requests = max_requests
        self._max_bytes = MAX_BODIES * max_body
        # Guards the two below: what all requests have that are admitted now.
        self._lock = threading.Lock()
        self._requests = 0
        self._bytes = 0

    @contextmanager
    def admitted(self) -> Iterator[Take]:
        """Count one request, and the bytes for which the function that this gives is called.

        Raises:
            Overloaded: there are too many requests.
        """
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            with self._lock:
                if self._bytes + size > self._max_bytes:
                    raise Overloaded(f"the bodies of {self._requests} requests take {self._bytes} bytes already")
                taken += size
                self._bytes += size

        with self._lock:
            if self._requests >= self._max_requests:
                raise Overloaded(f"{self._requests} requests are in flight, as many as may be; see --max_in_flight")
            self._requests += 1
        try:
            yield take
        finally:
            with self._lock:
                self._requests -= 1
                self._bytes -= taken


def too_large(max_body: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {max_body} bytes; see --max_body_size")


async def read(request: Request, max_body: int, take: Take) -> bytes:
    """Return the body as it was sent.

    Raises:
        InvalidRequest: its length is no number.
        PayloadTooLarge: it is larger than ``max_body`` bytes.
        RequestTimeout: it has stopped coming.
        Overloaded: see `Take`.
        ClientDisconnect: the client has left before its end.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal():
        raise InvalidRequest(f"Content-Length is {declared[:20]!r}; want a number of bytes")
    if int(declared[:20]) > max_body:
        raise too_large(max_body)
    chunks, size = [], 0
    now = asyncio.get_running_loop().time
    began = now()
    try:
        async with asyncio.timeout_at(began + BODY_SILENCE) as limit:
            async for chunk in request.stream():
                size += len(chunk)
                limit.reschedule(min(now(), began + size / SLOWEST) + BODY_SILENCE)
                if size > max_body:
                    raise too_large(max_body)
                take(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise RequestTimeout(
            f"nothing of the body came for {BODY_SILENCE:.0f} s, or less than {SLOWEST} bytes a second: {size} bytes"
        ) from None
    return b"".join(chunks)
