"""What a supervisor makes of what its workers say, in any order, or do not."""

from __future__ import annotations

import time

import pytest

from handlers.agreement import GRACE, Agreement


class Party:
    """A worker that does nothing by itself."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.is_killed = False
        self.is_gone = False

    def tell(self, kind: str, *content: object) -> None:
        assert not self.is_gone, "it cannot be told anything any more"
        self.told.append(kind)

    def kill(self) -> None:
        assert not self.is_gone, "its number may be another process's"
        self.is_killed = True


class Rig:
    def __init__(self, patience: float = 60) -> None:
        self.agreement = Agreement(patience)
        self.answers: list[tuple[bool, bytes | None]] = []
        self.first, self.second = self.parties = (Party(), Party())

    def propose(self, content: bytes = b"new") -> None:
        self.agreement.propose(
            content, None, self.parties, lambda is_done, error: self.answers.append((is_done, error))
        )

    def lose(self, party: Party) -> None:
        party.is_gone = True
        self.agreement.gone(party)


def test_all_replace_once_all_are_prepared() -> None:
    rig = Rig()
    rig.propose()
    rig.agreement.prepared(rig.first, 1)
    assert (rig.first.told, rig.agreement.config) == (["prepare"], None)
    rig.agreement.prepared(rig.second, 1)
    assert [party.told for party in rig.parties] == [["prepare", "commit"]] * 2
    rig.agreement.ended(rig.first, 1, is_done=True)
    assert rig.answers == []
    rig.agreement.ended(rig.second, 1, is_done=True)
    assert rig.answers == [(True, None)]
    assert (rig.agreement.config, rig.agreement.deadline) == (b"new", None)


@pytest.mark.parametrize("is_late", [False, True])
def test_if_one_cannot_none_does_and_the_client_is_told_why(is_late: bool) -> None:
    rig = Rig()
    rig.propose()
    if is_late:
        rig.agreement.prepared(rig.first, 1)
    rig.agreement.ended(rig.second, 1, is_done=False, error=b"broken")
    assert rig.first.told == ["prepare", "abort"]
    if not is_late:
        # It had not heard of it yet.
        rig.agreement.prepared(rig.first, 1)
    rig.agreement.ended(rig.first, 1, is_done=False, error=b"another could not")
    assert rig.answers == [(False, b"broken")]
    assert rig.agreement.config is None
    assert not any(party.is_killed for party in rig.parties)


def test_one_that_dies_before_all_agree_calls_it_off() -> None:
    rig = Rig()
    rig.propose()
    rig.agreement.prepared(rig.first, 1)
    rig.lose(rig.second)
    assert rig.first.told == ["prepare", "abort"]
    rig.agreement.ended(rig.first, 1, is_done=False)
    assert rig.answers == [(False, None)]


@pytest.mark.parametrize("how", ["dies", "fails"])
def test_what_all_have_agreed_on_holds_without_one_that_dies_or_fails_then(how: str) -> None:
    rig = Rig()
    rig.propose()
    for party in rig.parties:
        rig.agreement.prepared(party, 1)
    if how == "dies":
        rig.lose(rig.second)
    else:
        rig.agreement.ended(rig.second, 1, is_done=False, error=b"no memory")
        assert rig.second.is_killed
    rig.agreement.ended(rig.first, 1, is_done=True)
    assert rig.answers == [(True, None)]
    assert rig.agreement.config == b"new"


def test_only_one_is_under_way_at_a_time() -> None:
    rig = Rig()
    rig.propose()
    rig.propose(b"newer")
    assert rig.answers == [(False, None)]
    for party in rig.parties:
        rig.agreement.prepared(party, 1)
        rig.agreement.ended(party, 1, is_done=True)
    assert rig.agreement.config == b"new"
    rig.propose(b"newer")
    # What is late and of the one before does not count.
    rig.agreement.prepared(rig.first, 1)
    rig.agreement.ended(rig.first, 1, is_done=False)
    for party in rig.parties:
        rig.agreement.prepared(party, 2)
        rig.agreement.ended(party, 2, is_done=True)
    assert rig.agreement.config == b"newer"


@pytest.mark.parametrize("agreed", [False, True])
def test_one_that_says_nothing_is_ended_at_the_deadline(agreed: bool) -> None:
    rig = Rig(patience=10)
    rig.propose()
    assert rig.agreement.deadline == pytest.approx(time.monotonic() + 10 + GRACE, abs=5)
    rig.agreement.prepared(rig.first, 1)
    if agreed:
        rig.agreement.prepared(rig.second, 1)
        rig.agreement.ended(rig.first, 1, is_done=True)
    rig.agreement.expire()
    assert rig.second.is_killed
    assert rig.first.is_killed is not agreed
    assert rig.answers == [(agreed, None)]
    assert rig.agreement.deadline is None


def test_the_clients_deadline_counts_if_it_is_earlier() -> None:
    rig = Rig(patience=60)
    rig.agreement.propose(b"new", time.monotonic() + 1, rig.parties, lambda is_done, error: None)
    assert rig.agreement.deadline == pytest.approx(time.monotonic() + 1 + GRACE, abs=1)
