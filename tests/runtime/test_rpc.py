from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from runtime.rpc import MESSAGE_PATIENCE, SLOWEST_ANSWER, Waits
from tests.fakes import PATIENCE, Clock, Gate


class Call:
    """As much of gRPC's context as is looked at."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


def calls(count: int) -> list[Any]:
    return [Call() for _ in range(count)]


@pytest.mark.parametrize("size", [0, 1, SLOWEST_ANSWER, 100 * SLOWEST_ANSWER])
def test_an_answer_has_a_silence_and_a_second_for_each_mebibyte(size: int) -> None:
    clock = Clock()
    waits = Waits(1, silence=20, clock=clock)
    sending, sent = calls(2)
    for call in (sending, sent):
        waits.send(call, size)
    clock.now += 19.9 + size / SLOWEST_ANSWER
    waits.look()
    assert not sending.is_cancelled
    waits.sent(sent)
    clock.now += 0.2
    waits.look()
    assert (sending.is_cancelled, sent.is_cancelled) == (True, False)
    # gRPC says so once more when the call is over.
    waits.sent(sending)
    waits.sent(sending)


class Silent:
    """The messages of a client that sends none: it is seen by its thread when that has begun to wait."""

    def __init__(self) -> None:
        self.gate = Gate()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.gate.pass_through()
        return b"late"


@pytest.mark.parametrize(("threads", "count", "is_ended"), [(8, 4, False), (8, 5, True), (1, 1, True), (3, 1, False)])
def test_messages_are_waited_for_as_long_as_most_threads_are_not(threads: int, count: int, is_ended: bool) -> None:
    clock = Clock()
    waits = Waits(threads, clock=clock)
    waiting, messages = calls(count), [Silent() for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:

        def begin(at: int) -> Future[bytes]:
            future = pool.submit(waits.message, messages[at], waiting[at])
            messages[at].gate.wait_until_reached()
            return future

        futures = [begin(at) for at in range(count - 1)]
        clock.now += MESSAGE_PATIENCE - 0.1
        # It counts, and has its own time.
        futures.append(begin(count - 1))
        waits.look()
        assert not any(call.is_cancelled for call in waiting)
        clock.now += 0.2
        waits.look()
        assert [call.is_cancelled for call in waiting] == [is_ended] * (count - 1) + [False]
        clock.now += MESSAGE_PATIENCE
        waits.look()
        assert [call.is_cancelled for call in waiting] == [is_ended] * count
        for silent in messages:
            silent.gate.open()
        assert [future.result(PATIENCE) for future in futures] == [b"late"] * count


def test_a_call_that_has_its_message_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    waits = Waits(1, clock=clock)
    answering, unread = calls(2)
    assert waits.message(iter([b"now"]), answering) == b"now"
    waits.send(unread, 0)
    clock.now += MESSAGE_PATIENCE
    with caplog.at_level(logging.WARNING):
        waits.look()
    assert (answering.is_cancelled, unread.is_cancelled) == (False, True)
    assert "1 calls are cancelled as nobody takes their answers, 0 as their messages" in caplog.text
