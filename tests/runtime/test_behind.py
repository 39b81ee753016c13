"""Work behind the answers: when it begins, that it ends, and that nobody waits for it."""

from __future__ import annotations

import logging
import threading

import pytest

from runtime.behind import Chore
from tests.fakes import PATIENCE, Gate, no_more_threads, until


def test_it_is_done_once_and_not_before_it_begins() -> None:
    done = threading.Semaphore(0)
    chore = Chore(done.release, lambda: True, 0.0)
    assert chore.is_due
    assert not done.acquire(blocking=False)
    for _ in range(2):
        chore.begin()
    assert not chore.is_due
    assert chore.wait(PATIENCE)
    chore.begin()
    chore.close()
    assert done.acquire(blocking=False)
    assert not done.acquire(blocking=False)


def test_it_waits_until_nobody_else_does() -> None:
    looks = iter([False, False, True])
    left: list[int] = []
    chore = Chore(lambda: left.append(len([*looks])), lambda: next(looks), 0.0)
    chore.begin()
    assert chore.wait(PATIENCE)
    chore.close()
    assert left == [0]


def test_it_is_over_when_it_is_closed() -> None:
    chore = Chore(lambda: pytest.fail("done"), lambda: True, 3600.0)
    chore.begin()
    chore.close()
    assert chore.wait(0)
    chore.begin()
    assert not chore.is_due


def test_who_closes_it_waits_for_what_is_under_way() -> None:
    gate = Gate()
    chore = Chore(gate.pass_through, lambda: True, 0.0)
    chore.begin()
    gate.wait_until_reached()
    closer = threading.Thread(target=chore.close)
    closer.start()
    assert not chore.wait(0)
    gate.open()
    closer.join(PATIENCE)
    assert chore.wait(0)


def test_a_few_are_done_at_once_and_the_others_later() -> None:
    gates = [Gate() for _ in range(3)]
    chores = [Chore(gate.pass_through, lambda: True, 0.0) for gate in gates]
    for chore in chores:
        chore.begin()
    gates[0].wait_until_reached()
    gates[1].wait_until_reached()
    assert chores[2].is_due
    for gate in gates:
        gate.open()
    assert all(chore.wait(PATIENCE) for chore in chores[:2])

    def has_begun() -> bool:
        chores[2].begin()
        return not chores[2].is_due

    until(has_begun)
    for chore in chores:
        chore.close()


def test_without_a_thread_it_is_not_done() -> None:
    chore = Chore(lambda: pytest.fail("done"), lambda: True, 0.0)
    with no_more_threads():
        chore.begin()
    chore.close()
    # Nor has it kept a turn that others need.
    test_a_few_are_done_at_once_and_the_others_later()


def test_a_bug_in_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise KeyError("a bug")

    chore = Chore(fail, lambda: True, 0.0)
    with caplog.at_level(logging.ERROR):
        chore.begin()
        assert chore.wait(PATIENCE)
    chore.close()
    assert "a bug" in caplog.text
