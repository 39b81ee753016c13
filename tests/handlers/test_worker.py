"""A worker's end of the channel, with a test at the other."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from handlers.channel import Channel
from handlers.configuration import Configuration
from handlers.worker import Worker
from model_cache.errors import LoadFailed, LoadPending, ModelNotFound
from runtime.errors import Overloaded
from tests.fakes import PATIENCE
from tests.runtime.servables import NAME, stage


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
    channel.send("ask", ("refresh",))
    message = channel.receive()
    assert message is not None
    kind, (about, (is_changed, error)) = message
    assert (kind, about, is_changed) == ("reply", ("refresh",), None)
    failure = pickle.loads(error)
    assert isinstance(failure, Overloaded)
    assert str(failure) == "a worker failed: ZeroDivisionError"
    ours.close()
    assert stopped.wait(10)
    # A worker's own is open until it exits.
    worker._channel.close()


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Worker]]:
    """A supervisor's end of the channel, and a worker."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    channel.send("hello", 0, 2, None)
    worker = Worker(theirs.detach())
    stopped = threading.Event()
    with stage(1) as s:
        worker.follow(NoReload(), stopped.set, server=s.server)
        yield channel, worker
        ours.close()
        assert stopped.wait(PATIENCE)
    worker._channel.close()


def asked(channel: Channel) -> tuple[int, tuple[str, ...]]:
    message = channel.receive()
    assert message is not None
    kind, (question, about) = message
    assert kind == "ask"
    return question, about


def answered(channel: Channel) -> tuple[tuple[str, ...], Any]:
    message = channel.receive()
    assert message is not None
    kind, (about, found) = message
    assert kind == "reply"
    return about, found


def test_a_worker_does_what_it_is_asked_for_with_a_model(ends: tuple[Channel, Worker]) -> None:
    channel, _ = ends
    for verb in ("load", "unload", "unload"):
        channel.send("ask", (verb, NAME))
        about, (_, error) = answered(channel)
        assert (about, error) == ((verb, NAME), None)
    channel.send("ask", ("statistics",))
    about, counts = answered(channel)
    assert (about, list(counts)) == (("statistics",), [(NAME, 1)])


def test_a_worker_says_why_it_cannot(ends: tuple[Channel, Worker]) -> None:
    channel, _ = ends
    channel.send("ask", ("load", "other"))
    about, (_, error) = answered(channel)
    assert about == ("load", "other")
    assert isinstance(pickle.loads(error), ModelNotFound)


def test_who_asks_all_has_the_first_error_or_how_many_are_silent(ends: tuple[Channel, Worker]) -> None:
    channel, worker = ends
    found = pickle.dumps(LoadFailed("Incorrect weights"))
    with ThreadPoolExecutor(1) as pool:
        for result, error, message in (
            (([(None, None), (None, None)], 0), None, ""),
            (([(None, None), (None, found)], 0), LoadFailed, "Incorrect weights"),
            (([(None, None)], 1), Overloaded, "1 of 2 workers have not loaded the model in time"),
        ):
            outcome = pool.submit(worker.load, NAME, None)
            question, about = asked(channel)
            assert about == ("load", NAME)
            channel.send("result", question, result)
            raised = outcome.exception(PATIENCE)
            assert (raised and (type(raised), str(raised))) == (error and (error, message))


def test_who_asks_all_waits_no_longer_than_it_says(ends: tuple[Channel, Worker]) -> None:
    channel, worker = ends
    with pytest.raises(LoadPending, match="not all workers have done it yet"):
        worker.load(NAME, time.monotonic() + 0.01)
    question, _ = asked(channel)
    # An answer that comes after that is nobody's.
    channel.send("result", question, ([(None, None)] * 2, 0))
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(worker.unload, NAME)
        question, about = asked(channel)
        assert about == ("unload", NAME)
        channel.send("result", question, ([(None, None)] * 2, 0))
        assert outcome.result(PATIENCE) is None


def test_who_asks_a_supervisor_that_has_gone_is_told() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    channel.send("hello", 0, 2, None)
    worker = Worker(theirs.detach())
    ours.close()
    for ask in (lambda: worker.unload(NAME), worker.statistics):
        with pytest.raises(Overloaded, match="the supervisor of this worker has gone"):
            ask()
    worker._channel.close()
