"""What a supervisor makes of what its workers answer, in any order, late, or not at all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from handlers.survey import Party, Survey, Tally, of_metrics, of_statistics

NAME = (("name", "m"),)


class Silent:
    """A worker that does nothing by itself."""

    def __init__(self) -> None:
        self.asked = 0

    def tell(self, kind: str, *content: object) -> None:
        assert (kind, content) == ("ask", (("metrics",),))
        self.asked += 1


class Rig:
    def __init__(self, patience: float = 60) -> None:
        self.first, self.second = Silent(), Silent()
        self.parties = [self.first, self.second]
        self.survey = Survey(("metrics",), patience, lambda: self.parties, self._result)
        self.results: list[tuple[list[Any], int]] = []

    def _result(self, answers: Mapping[Party, Any], silent: int) -> tuple[list[Any], int]:
        return sorted(answers.values()), silent

    def ask(self) -> None:
        self.survey.ask(self.results.append)

    def answer(self, first: Any = 1, second: Any = 2) -> None:
        self.survey.answered(self.first, first)
        self.survey.answered(self.second, second)


def test_who_asks_has_the_answers_of_all_once_all_have_answered() -> None:
    rig = Rig()
    rig.ask()
    rig.survey.answered(rig.first, 1)
    assert rig.results == []
    rig.survey.answered(rig.second, 2)
    assert rig.results == [([1, 2], 0)]
    assert rig.survey.deadline is None


def test_nobody_is_waited_for_longer_than_patience() -> None:
    rig = Rig(patience=60)
    before = time.monotonic()
    rig.ask()
    assert rig.survey.deadline is not None
    assert 60 <= rig.survey.deadline - before < 65
    rig.survey.answered(rig.first, 1)
    rig.survey.expire()
    assert rig.results == [([1], 1)]


def test_whoever_asks_meanwhile_has_the_next_round_and_all_of_them_one() -> None:
    rig = Rig()
    for _ in range(3):
        rig.ask()
    rig.answer(1, 2)
    assert rig.results == [([1, 2], 0)]
    rig.answer(3, 4)
    assert rig.results == [([1, 2], 0), ([3, 4], 0), ([3, 4], 0)]
    assert (rig.first.asked, rig.survey.deadline) == (2, None)


def test_one_that_is_silent_is_not_asked_again_until_it_has_answered() -> None:
    rig = Rig()
    rig.ask()
    rig.survey.answered(rig.first, 1)
    rig.survey.expire()
    rig.ask()
    rig.survey.answered(rig.first, 2)
    assert (rig.results, rig.second.asked) == ([([1], 1), ([2], 1)], 1)
    # Too late, but it is there.
    rig.survey.answered(rig.second, 0)
    rig.ask()
    rig.answer(3, 4)
    assert (rig.results[2:], rig.second.asked) == ([([3, 4], 0)], 2)


def test_what_comes_too_late_is_not_of_the_next_round() -> None:
    rig = Rig()
    rig.ask()
    rig.survey.expire()
    rig.first.asked = rig.second.asked = 0
    rig.ask()
    assert rig.results == [([], 2), ([], 2)]
    rig.survey.answered(rig.first, "late")
    rig.ask()
    rig.survey.answered(rig.second, "late")
    rig.survey.answered(rig.first, "new")
    assert rig.results[2:] == [(["new"], 1)]


def test_one_that_dies_is_not_waited_for() -> None:
    rig = Rig()
    rig.ask()
    rig.survey.answered(rig.first, 1)
    rig.survey.gone(rig.second)
    assert rig.results == [([1], 1)]
    rig.parties = []
    rig.ask()
    assert rig.results[1:] == [([], 0)]


def test_one_that_knows_no_answer_is_not_waited_for_and_asked_again() -> None:
    rig = Rig()
    rig.ask()
    rig.answer(1, None)
    rig.ask()
    rig.answer(1, 2)
    assert rig.results == [([1], 1), ([1, 2], 0)]


def snapshot(count: float, *, streams: float = 1, model: str = "m") -> dict[str, Any]:
    labels = (("name", model),)
    return {"ovms_requests_success": {labels: count}, "ovms_streams": {labels: streams}, "decant_workers": {}}


def test_metrics_are_added_up_with_those_of_before_where_a_worker_is_silent() -> None:
    tally, first, second = Tally(of_metrics), Silent(), Silent()
    assert tally.total({first: snapshot(5), second: snapshot(7)}, 0)["ovms_requests_success"] == {NAME: 12}
    total = tally.total({first: snapshot(6)}, 1)
    assert total["ovms_requests_success"] == {NAME: 13}
    assert total["decant_workers"] == {(("state", "answered"),): 1, (("state", "silent"),): 1}


def test_no_counter_goes_back_as_a_worker_dies_but_what_it_had_is_gone() -> None:
    tally, first, second, third = Tally(of_metrics), Silent(), Silent(), Silent()
    tally.total({first: snapshot(5), second: snapshot(7)}, 0)
    tally.gone(second)
    total = tally.total({first: snapshot(5)}, 0)
    assert (total["ovms_requests_success"], total["ovms_streams"]) == ({NAME: 12}, {NAME: 1})
    assert tally.total({first: snapshot(5), third: snapshot(1)}, 0)["ovms_requests_success"] == {NAME: 13}
    tally.gone(third)
    tally.gone(first)
    # Nobody knows yet which models there are.
    assert tally.total({}, 1)["ovms_requests_success"] == {NAME: 13}


def test_of_a_dead_worker_nothing_stays_of_models_that_are_served_no_more() -> None:
    tally, first, second = Tally(of_metrics), Silent(), Silent()
    tally.total({first: snapshot(5), second: snapshot(7)}, 0)
    tally.gone(second)
    now = {"ovms_requests_success": {(("name", "other"),): 0.0}}
    assert tally.total({first: now}, 0)["ovms_requests_success"] == {(("name", "other"),): 0}
    assert tally.total({first: snapshot(5)}, 0)["ovms_requests_success"] == {NAME: 5}


def test_a_worker_that_dies_before_it_was_asked_has_counted_nothing() -> None:
    tally = Tally(of_metrics)
    tally.gone(Silent())
    assert tally.total({}, 0) == {}


def test_one_that_is_over_may_be_forgotten_unless_somebody_is_silent() -> None:
    rig = Rig()
    assert rig.survey.is_idle
    rig.ask()
    assert not rig.survey.is_idle
    rig.survey.answered(rig.first, 1)
    rig.survey.expire()
    # It is not to be asked twice.
    assert not rig.survey.is_idle
    rig.survey.answered(rig.second, 2)
    assert rig.survey.is_idle
    rig.ask()
    rig.survey.answered(rig.first, 1)
    rig.survey.expire()
    rig.survey.gone(rig.second)
    assert rig.survey.is_idle


def test_statistics_of_workers_that_are_gone_stay_as_long_as_somebody_has_the_version() -> None:
    tally, first, second = Tally(of_statistics), Silent(), Silent()
    one, other = ("m", 1), ("m", 2)
    tally.total({first: {one: [5.0, 2], other: [3.0, 1]}, second: {one: [4.0, 1], other: [0.0, 0]}}, 0)
    tally.gone(first)
    assert tally.total({second: {one: [6.0, 2], other: [0.0, 0]}}, 0) == {one: [6.0, 4], other: [3.0, 1]}
    # A silent one has counted what it has said before.
    assert tally.total({}, 1) == {one: [6.0, 4], other: [3.0, 1]}
    assert tally.total({second: {one: [6.0, 2]}}, 0) == {one: [6.0, 4]}
