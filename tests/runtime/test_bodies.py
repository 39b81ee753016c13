"""How many requests, and how many bytes of body, are taken at a time. How bodies are read is in
test_http_server and test_http_protocol."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from runtime.bodies import MAX_BODIES, Bodies
from runtime.errors import Overloaded


def test_requests_and_the_bytes_of_their_bodies_are_bounded_together() -> None:
    bodies = Bodies(max_body=100, max_requests=2)
    with closing(bodies.admitted()) as first, closing(bodies.admitted()) as second:
        first.take(100 * MAX_BODIES - 50)
        with pytest.raises(Overloaded, match="--max_in_flight"):
            bodies.admitted()
        with pytest.raises(Overloaded, match="the bodies of 2 requests take 750 bytes already"):
            second.take(51)
        second.take(50)
    # All is given back, also by the one that was refused.
    with closing(bodies.admitted()) as third:
        third.take(100 * MAX_BODIES)


class Yielding(int):
    """A number that lets other threads run while it is added."""

    def __radd__(self, other: int) -> int:
        time.sleep(1e-6)
        return other + int(self)


def test_bytes_may_be_counted_by_several_threads() -> None:
    bodies = Bodies(max_body=100, max_requests=1)
    with closing(bodies.admitted()) as admission, ThreadPoolExecutor(8) as pool:
        list(pool.map(admission.take, [Yielding(1)] * 100 * MAX_BODIES))
        with pytest.raises(Overloaded, match=f"of 1 requests take {100 * MAX_BODIES} bytes"):
            admission.take(1)
    with closing(bodies.admitted()) as admission:
        admission.take(100 * MAX_BODIES)
