"""How many requests, and how many bytes of body, are taken at a time. How bodies are read is in test_rest."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.bodies import MAX_BODIES, Bodies
from runtime.errors import Overloaded


def test_requests_and_the_bytes_of_their_bodies_are_bounded_together() -> None:
    bodies = Bodies(max_body=100, max_requests=2)
    with bodies.admitted() as first, bodies.admitted() as second:
        first(100 * MAX_BODIES - 50)
        with pytest.raises(Overloaded, match="--max_in_flight"), bodies.admitted():
            pass
        with pytest.raises(Overloaded, match="the bodies of 2 requests take 750 bytes already"):
            second(51)
        second(50)
    # All is given back, also by the one that was refused.
    with bodies.admitted() as third:
        third(100 * MAX_BODIES)


class Yielding(int):
    """A number that lets other threads run while it is added."""

    def __radd__(self, other: int) -> int:
        time.sleep(1e-6)
        return other + int(self)


def test_bytes_may_be_counted_by_several_threads() -> None:
    bodies = Bodies(max_body=100, max_requests=1)
    with bodies.admitted() as take, ThreadPoolExecutor(8) as pool:
        list(pool.map(take, [Yielding(1)] * 100 * MAX_BODIES))
        with pytest.raises(Overloaded, match=f"of 1 requests take {100 * MAX_BODIES} bytes"):
            take(1)
    with bodies.admitted() as take:
        take(100 * MAX_BODIES)
