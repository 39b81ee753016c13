"""A worker's end of the channel, with a test at the other."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Callable
from typing import Any

from handlers.channel import Channel
from handlers.configuration import Configuration
from handlers.worker import Worker
from runtime.errors import Overloaded


class NoReload:
    told = Configuration([])

    def __call__(self, message: Any, deadline: float | None, agree: Callable[[], None], told: Configuration) -> None:
        raise AssertionError


def test_a_worker_that_fails_to_look_anew_says_so_and_is_not_taken_for_slow() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    channel.send("hello", 0, 1, None)
    worker = Worker(theirs.detach())
    stopped = threading.Event()

    def refresh() -> bool:
        raise ZeroDivisionError

    worker.follow(NoReload(), stopped.set, refresh=refresh)
    channel.send("ask", "refresh")
    message = channel.receive()
    assert message is not None
    kind, (about, (is_changed, error)) = message
    assert (kind, about, is_changed) == ("reply", "refresh", False)
    failure = pickle.loads(error)
    assert isinstance(failure, Overloaded)
    assert str(failure) == "a worker failed: ZeroDivisionError"
    ours.close()
    assert stopped.wait(10)
    # A worker's own is open until it exits.
    worker._channel.close()
