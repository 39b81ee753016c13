"""The open sequences of a stateful model: whose turn it is in each, what state it is in, and which of them are idle.

OpenVINO Model Server's rules and texts: ``sequence_manager.cpp``. What a state is, nobody here knows.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Generic, TypeVar

from runtime.errors import SequenceEnding, SequenceExists, SequenceNotFound, TooManySequences
from runtime.pool import Pool

S = TypeVar("S")


class Control(IntEnum):
    """What a request is to its sequence, by the numbers of ``sequence_control_input``."""

    CONTINUE = 0
    START = 1
    END = 2


class Sequence(Generic[S]):
    __slots__ = ("id", "is_ending", "is_idle", "state", "turns")

    def __init__(self, number: int) -> None:
        self.id = number
        self.state: S | None = None
        """To be replaced by whoever has the turn; None is what the model begins with."""
        # A request that is to end it has come. Guarded by the lock of `Sequences`, as is the next.
        self.is_ending = False
        # Nothing has become of it since the last sweep.
        self.is_idle = False
        # The one turn that there is. Requests have it in the order in which they come.
        self.turns = Pool([None])


class Sequences(Generic[S]):
    """At most ``limit`` of them at a time. Thread-safe."""

    def __init__(self, limit: int, draw: Callable[[], int] | None = None) -> None:
        """
        Args:
            draw: the next number to be tried as an id, for who starts a sequence without one.
        """
        self._limit = limit
        self._draw = draw or _draw
        # Guards the sequences that are open, by id. Nobody waits for a turn while he has it.
        self._lock = threading.Lock()
        self._open: dict[int, Sequence[S]] = {}

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def turn(self, control: Control, number: int, timeout: float) -> Iterator[Sequence[S]]:
        """Have the turn in a sequence for the length of a with block, which gives it its next state.

        If the block raises, it was as if the request had not been: a start has started nothing, an end ended nothing.

        Args:
            control: a start opens the sequence, and an end closes it after the block.
            number: its id; 0 at a start for one that is free.
            timeout: seconds to wait for those who have come before.

        Raises:
            SequenceNotFound, SequenceExists, SequenceEnding, TooManySequences: there is no such turn.
            TimeoutError: it has not come in time.
        """
        if control is Control.START:
            sequence = self._start(number)
        else:
            sequence = self._join(number, timeout, is_end=control is Control.END)
        is_to_stay = control is not Control.START
        try:
            yield sequence
            is_to_stay = control is not Control.END
            sequence.is_idle = False
        finally:
            with self._lock:
                if not is_to_stay:
                    # All may have been dropped meanwhile, and the id be another's.
                    if self._open.get(sequence.id) is sequence:
                        del self._open[sequence.id]
                elif control is Control.END:
                    sequence.is_ending = False
            sequence.turns.give_back(None)

    def sweep(self) -> int:
        """Close each sequence of which nothing has become since the last sweep; return how many these were.

        Whoever has a turn, or waits for one, keeps his.
        """
        with self._lock:
            waiting = [sequence for sequence in self._open.values() if sequence.turns.is_idle]
            idle = [sequence for sequence in waiting if sequence.is_idle]
            for sequence in idle:
                del self._open[sequence.id]
            for sequence in waiting:
                sequence.is_idle = True
        return len(idle)

    def clear(self) -> None:
        with self._lock:
            self._open.clear()

    def _start(self, number: int) -> Sequence[S]:
        with self._lock:
            # First, as in OpenVINO Model Server: what is full has no room for what exists either.
            if len(self._open) >= self._limit:
                raise TooManySequences("Max sequence number has been reached. Could not create new sequence.")
            if number in self._open:
                raise _ending() if self._open[number].is_ending else _exists()
            while not number or number in self._open:
                number = self._draw()
            sequence = self._open[number] = Sequence(number)
            # Before anybody else sees it.
            sequence.turns.take(0)
            return sequence

    def _join(self, number: int, timeout: float, *, is_end: bool) -> Sequence[S]:
        with self._lock:
            sequence = self._open.get(number)
            if sequence is None:
                raise _not_found()
            if sequence.is_ending:
                raise _ending()
            sequence.is_ending = is_end
        try:
            sequence.turns.take(timeout)
        except TimeoutError:
            if is_end:
                with self._lock:
                    sequence.is_ending = False
            raise
        # With the turn and the lock: a sweep that comes later sees that it is not idle.
        with self._lock:
            is_open = self._open.get(number) is sequence
        # Its start may have failed meanwhile, or it was swept before this had the turn.
        if not is_open:
            sequence.turns.give_back(None)
            raise _not_found()
        return sequence


def _draw() -> int:
    # Nobody is to guess another's sequence; and JavaScript has no integers beyond 53 bits.
    return int.from_bytes(os.urandom(8), "big") >> 11


def _not_found() -> SequenceNotFound:
    return SequenceNotFound("Sequence with provided ID does not exist")


def _exists() -> SequenceExists:
    return SequenceExists("Sequence with provided ID already exists")


def _ending() -> SequenceEnding:
    return SequenceEnding("Sequence last request is being processed and it's not available anymore")
