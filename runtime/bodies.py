"""Requests and their bodies as they come: how many at a time, how large, and how long one may take."""

from __future__ import annotations

import threading
from collections.abc import Callable

from runtime.errors import Overloaded, PayloadTooLarge, RequestTimeout

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
        # Guards the two below, and what each admission has of the bytes: what all requests have that are admitted now.
        self._lock = threading.Lock()
        self._requests = 0
        self._bytes = 0

    def admitted(self) -> Admission:
        """Count one request, until what this returns is closed.

        Raises:
            Overloaded: there are too many requests.
        """
        with self._lock:
            if self._requests >= self._max_requests:
                raise Overloaded(f"{self._requests} requests are in flight, as many as may be; see --max_in_flight")
            self._requests += 1
        return Admission(self)

    def _take(self, admission: Admission, size: int) -> None:
        with self._lock:
            if self._bytes + size > self._max_bytes:
                raise Overloaded(f"the bodies of {self._requests} requests take {self._bytes} bytes already")
            admission.taken += size
            self._bytes += size

    def _release(self, admission: Admission) -> None:
        with self._lock:
            self._requests -= 1
            self._bytes -= admission.taken


class Admission:
    """One of the requests in flight, until it is closed, once."""

    __slots__ = ("_bodies", "taken")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.taken = 0

    def take(self, size: int) -> None:
        """See `Take`."""
        self._bodies._take(self, size)

    def close(self) -> None:
        self._bodies._release(self)


def too_large(max_body: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {max_body} bytes; see --max_body_size")


def give_up_at(began: float, now: float, size: int, silence: float = BODY_SILENCE) -> float:
    """Return when a body is given up of which ``size`` bytes have come from ``began`` until now, if no more do."""
    return min(now, began + size / SLOWEST) + silence


def given_up(size: int, silence: float = BODY_SILENCE) -> RequestTimeout:
    return RequestTimeout(
        f"nothing of the body came for {silence:.0f} s, or less than {SLOWEST} bytes a second: {size} bytes"
    )
