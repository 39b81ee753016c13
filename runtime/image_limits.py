"""What encoded images may cost: how many, how many pixels, what becomes of them, and how much of it at a time.

A file of some kilobytes may have as many pixels as may be, and each takes ten bytes while they are decoded, or twenty
if it is of 16 bits or of four inks.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import DeadlineExceeded, InvalidRequest, Overloaded

MAX_IMAGES = 1024
"""In one request."""
MAX_PIXELS = 1 << 28
"""Of all images of a request, as they are in the files."""
MAX_BYTES = 1 << 29
"""Of what is made of them."""
MAX_PIXELS_OF_ONE = 1 << 26
PATIENCE = 30.0
"""Seconds that an image waits for those of other requests."""


class Room:
    """Pixels that may be decoded at a time, in all requests together."""

    def __init__(self, pixels: int = MAX_PIXELS_OF_ONE, patience: float = PATIENCE) -> None:
        self._patience = patience
        # Guards what is below: never less than 0, and all of it when nobody decodes.
        self._changed = threading.Condition()
        self._free = pixels

    @contextmanager
    def taken(self, pixels: int, deadline: float | None = None) -> Iterator[None]:
        """Wait until so many are free, which are at most as many as there are.

        Raises:
            DeadlineExceeded: it has passed, in seconds of the monotonic clock.
            Overloaded: others have taken too long.
        """
        left = math.inf if deadline is None else deadline - time.monotonic()
        with self._changed:
            if left <= 0 or not self._changed.wait_for(lambda: pixels <= self._free, min(left, self._patience)):
                raise _too_late(left, self._patience)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


def too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the request's time was over while its images were decoded")


def _too_late(left: float, patience: float) -> Exception:
    if left <= patience:
        return too_late()
    return Overloaded(f"images of other requests were being decoded for {patience:.0f} s")


# Of the process.
_room = Room()


class Budget:
    """What the images of one request may take."""

    def __init__(self, images: int, deadline: float | None, room: Room = _room) -> None:
        """Raise InvalidRequest if there are too many images."""
        if images > MAX_IMAGES:
            raise InvalidRequest(f"the request has {images} encoded images; want at most {MAX_IMAGES}")
        self.deadline = deadline
        self._room = room
        self._pixels = MAX_PIXELS
        self._bytes = MAX_BYTES

    @contextmanager
    def decoding(self, pixels: int) -> Iterator[None]:
        """Have one image of so many pixels in memory.

        Raises:
            InvalidRequest: those of the request have too many together.
            DeadlineExceeded, Overloaded: see `Room`.
        """
        self._pixels -= pixels
        if self._pixels < 0:
            raise InvalidRequest(f"the request's images have more than {MAX_PIXELS} pixels together")
        with self._room.taken(pixels, self.deadline):
            yield

    def take_bytes(self, size: int) -> None:
        """Raise InvalidRequest if as much is not to be made of the images."""
        self._bytes -= size
        if self._bytes < 0:
            raise InvalidRequest(f"the request's images would take more than {MAX_BYTES} bytes as the model wants them")
