"""Images of all requests share the room that there is for decoding."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.errors import DeadlineExceeded, Overloaded
from runtime.image_limits import MAX_PIXELS_OF_ONE, Budget, Room
from tests.fakes import PATIENCE


def test_images_of_one_request_make_room_for_one_another() -> None:
    budget = Budget(4, None, Room(patience=0))
    for _ in range(4):
        with budget.decoding(MAX_PIXELS_OF_ONE):
            pass


def test_an_image_waits_for_those_of_others() -> None:
    room = Room(10, PATIENCE)

    def take() -> bool:
        with room.taken(6):
            return True

    with ThreadPoolExecutor(1) as threads:
        with room.taken(5), room.taken(4):
            waiting = threads.submit(take)
            # Small ones do not wait.
            with room.taken(1):
                assert not waiting.done()
        assert waiting.result(PATIENCE)


def test_nobody_waits_for_ever() -> None:
    room = Room(10, patience=0.01)
    with room.taken(10):
        with pytest.raises(Overloaded, match="images of other requests were being decoded"), room.taken(1):
            pass
        with pytest.raises(DeadlineExceeded), room.taken(1, time.monotonic() + 0.001):
            pass
    with pytest.raises(DeadlineExceeded), room.taken(1, time.monotonic()):
        pass
    with room.taken(10, time.monotonic() + PATIENCE):
        pass


def test_what_fails_gives_back_its_room() -> None:
    room = Room(10, patience=0)
    with pytest.raises(ValueError, match="broken"), room.taken(10):
        raise ValueError("broken")
    with room.taken(10):
        pass
