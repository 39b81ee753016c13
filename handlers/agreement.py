"""New models for all workers or for none: what the supervisor does as a client has them replaced.

A worker passes on what it was asked; each loads what is new and says so; once all have, each puts it in the place of
what was there. One that has not done so although all had agreed is ended, and begins anew with what the others have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

GRACE = 3.0
"""Seconds that a worker has to answer, beyond what it may take for what it was told."""


class Party(Protocol):
    """A worker."""

    def tell(self, kind: str, *content: Any) -> None: ...

    def kill(self) -> None: ...


class Agreement:
    """At most one at a time. What it is told comes from one thread.

    Args:
        patience: seconds that a worker tries to load what is new.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.config: bytes | None = None
        """What was agreed on last, as the parties say it among themselves."""
        self.deadline: float | None = None
        """When those that have said nothing are ended; None if nothing is under way."""
        self._count = 0
        self._content = b""
        self._answer: Callable[[bool, bytes | None], None]
        # Those that have not loaded yet what is new, and those that have not said yet how it ended.
        self._unprepared: set[Party] = set()
        self._unfinished: set[Party] = set()
        self._is_agreed = False
        self._is_off = False
        self._error: bytes | None = None

    def propose(
        self,
        content: bytes,
        deadline: float | None,
        parties: Iterable[Party],
        answer: Callable[[bool, bytes | None], None],
    ) -> None:
        """Have all parties replace their models.

        Args:
            content: what to serve, as the parties say it among themselves.
            deadline: in seconds of the monotonic clock, when nobody waits any longer.
            parties: all there are.
            answer: called with whether they have, and if not with the error of one that could not, if one has said why.
        """
        if self.deadline is not None:
            answer(False, None)
            return
        until = time.monotonic() + self._patience
        self.deadline = (until if deadline is None else min(until, deadline)) + GRACE
        self._count += 1
        self._content, self._answer = content, answer
        self._unfinished = set(parties)
        self._unprepared = set(self._unfinished)
        self._is_agreed, self._is_off, self._error = False, False, None
        for party in list(self._unfinished):
            party.tell("prepare", self._count, content, deadline)

    def prepared(self, party: Party, number: int) -> None:
        if number != self._count or self._is_off:
            return
        self._unprepared.discard(party)
        if not self._unprepared:
            self._is_agreed = True
            self.config = self._content
            self._tell_all("commit")

    def ended(self, party: Party, number: int, is_done: bool, error: bytes | None = None) -> None:
        """Take note that a party has replaced its models, or has not and why."""
        if number != self._count or party not in self._unfinished:
            return
        self._unfinished.discard(party)
        if not is_done and self._is_agreed:
            party.kill()
        elif not is_done and not self._is_off:
            self._call_off(error)
        self._finish_if_over()

    def gone(self, party: Party) -> None:
        """Take note that a party has died; whoever takes its place begins with `config`."""
        # What all have agreed on holds without it.
        self.ended(party, self._count, is_done=self._is_agreed)

    def expire(self) -> None:
        """End those that have said nothing until the deadline."""
        self._is_off = not self._is_agreed
        for party in self._unfinished:
            party.kill()
        # They are gone soon, and the answer has waited long enough.
        self._unfinished.clear()
        self._finish_if_over()

    def _call_off(self, error: bytes | None) -> None:
        self._is_off, self._error = True, error
        self._tell_all("abort")

    def _tell_all(self, kind: str) -> None:
        for party in list(self._unfinished):
            party.tell(kind, self._count)

    def _finish_if_over(self) -> None:
        if not self._unfinished and self.deadline is not None:
            self.deadline = None
            self._answer(self._is_agreed, self._error)
