"""A question to all workers: what the supervisor does as one of them wants to know something of all.

Each is asked at the same time, and what has been answered by a moment is the answer. Whoever wants to know the same
meanwhile has the next round's: what it wants to know of may have happened after some had answered. What they are asked
may also be to do something.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias


class Party(Protocol):
    """A worker."""

    def tell(self, kind: str, *content: Any) -> None: ...


About: TypeAlias = tuple[str, ...]
"""What a question is about, and of which model if it is about one."""


class Survey:
    """About one thing, a round at a time. What it is told comes from one thread."""

    def __init__(
        self,
        about: About,
        patience: float,
        parties: Callable[[], Iterable[Party]],
        result: Callable[[Mapping[Party, Any], int], Any],
    ) -> None:
        """
        Args:
            patience: seconds that a round takes at most.
            parties: returns all there are.
            result: makes the answer of what each has said, and of how many have said nothing.
        """
        self._about = about
        self._patience = patience
        self._parties = parties
        self._result = result
        self.deadline: float | None = None
        """When nobody is waited for any more; None if nothing is under way."""
        # How many were there at the beginning of this round.
        self._count = 0
        self._answers: dict[Party, Any] = {}
        # Those that have been asked and have not answered, be it in an earlier round: they are not asked twice, as
        # what is sent to one that does not read stays in its socket, which is soon full.
        self._asked: set[Party] = set()
        self._silent: set[Party] = set()
        # Called with the answer of this round, and of the next.
        self._askers: list[Callable[[Any], None]] = []
        self._next: list[Callable[[Any], None]] = []

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and nothing has to be remembered."""
        return self.deadline is None and not self._silent

    def ask(self, answer: Callable[[Any], None]) -> None:
        if self.deadline is None:
            self._begin([answer])
        else:
            self._next.append(answer)

    def answered(self, party: Party, content: Any) -> None:
        """
        Args:
            content: None if the party knows no answer.
        """
        # What was asked in an earlier round says nothing of now.
        self._silent.discard(party)
        if party not in self._asked:
            return
        self._asked.discard(party)
        if content is not None:
            self._answers[party] = content
        self._finish_if_over()

    def gone(self, party: Party) -> None:
        """Take note that a party has died."""
        self._silent.discard(party)
        self._asked.discard(party)
        self._answers.pop(party, None)
        self._finish_if_over()

    def expire(self) -> None:
        """Wait for nobody any more."""
        self._silent |= self._asked
        self._asked.clear()
        self._finish_if_over()

    def _begin(self, askers: list[Callable[[Any], None]]) -> None:
        self._askers = askers
        self._answers = {}
        self.deadline = time.monotonic() + self._patience
        parties = set(self._parties())
        self._count = len(parties)
        self._asked = parties - self._silent
        for party in list(self._asked):
            party.tell("ask", self._about)
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        if self._asked or self.deadline is None:
            return
        self.deadline = None
        result = self._result(self._answers, self._count - len(self._answers))
        askers, following = self._askers, self._next
        self._askers, self._next = [], []
        for answer in askers:
            answer(result)
        if following:
            self._begin(following)


class Addition(Protocol):
    """How what several workers have counted becomes one. A module is one."""

    def added_up(self, all_counts: Iterable[Any], /) -> Any: ...

    def counted(self, counts: Any, /) -> Any:
        """Return what stays of a worker that is gone."""
        ...

    def still_there(self, counts: Any, now: Any, /) -> Any:
        """Return that, but for what none of those that are there knows any more."""
        ...


class Tally:
    """What all workers have counted, of which nothing goes back as one of them dies or is silent.

    Prometheus takes a counter that goes back for one that has begun anew, and what is left of it for what was added.

    Args:
        addition: returns how that is added up. Called only if somebody wants to know, as it may have to be imported.
    """

    def __init__(self, addition: Callable[[], Addition]) -> None:
        self._addition = addition
        # What each has said last, and what those had counted that have died.
        self._last: dict[Party, Any] = {}
        self._gone: dict[Any, Any] = {}

    def total(self, answers: Mapping[Party, Any], silent: int) -> Any:
        """Return what all have counted, of which some have said nothing now."""
        addition = self._addition()
        self._last.update(answers)
        now = addition.added_up(self._last.values())
        if answers:
            self._gone = addition.still_there(self._gone, now)
        total = addition.added_up([now, self._gone])
        if "decant_workers" in total:
            states = {"answered": len(answers), "silent": silent}
            total["decant_workers"] = {(("state", state),): count for state, count in states.items()}
        return total

    def gone(self, party: Party) -> None:
        last = self._last.pop(party, None)
        if last is not None:
            addition = self._addition()
            self._gone = addition.added_up([self._gone, addition.counted(last)])


def of_metrics() -> Addition:
    from runtime import metric_families

    return metric_families


def of_statistics() -> Addition:
    from runtime.open_inference import statistics

    return statistics
