"""The sequences of a stateful model: whose turn it is, what a failure leaves, and when one has been idle for long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from runtime.errors import InferenceError, SequenceEnding, SequenceExists, SequenceNotFound, TooManySequences
from runtime.pool import Pool
from runtime.sequence_cleaner import SequenceCleaner
from runtime.sequences import Control, Sequences
from tests.fakes import PATIENCE, Gate, no_more_threads, until

START, GO_ON, END = Control.START, Control.CONTINUE, Control.END


@pytest.fixture
def sequences() -> Sequences[str]:
    return Sequences(3)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def take(sequences: Sequences[str], control: Control, number: int = 7, add: str = "") -> str:
    """Have a turn which adds this to the state; return the state that there was."""
    with sequences.turn(control, number, 0) as sequence:
        before, sequence.state = sequence.state or "", (sequence.state or "") + add
    return before


def fail(sequences: Sequences[str], control: Control, number: int = 7) -> None:
    with pytest.raises(InferenceError, match="on purpose"), sequences.turn(control, number, 0):
        raise InferenceError("on purpose")


def stay(sequences: Sequences[str], control: Control, gate: Gate, error: Exception | None = None) -> None:
    """Have a turn for as long as the gate is closed."""
    with sequences.turn(control, 7, PATIENCE) as sequence:
        gate.pass_through()
        if error:
            raise error
        sequence.state = "stayed"


def waiting(sequences: Sequences[str]) -> int:
    return sequences._open[7].turns.usage[1]


def test_each_request_finds_the_state_that_the_one_before_has_left(sequences: Sequences[str]) -> None:
    assert take(sequences, START, add="a") == ""
    assert take(sequences, GO_ON, add="b") == "a"
    assert take(sequences, START, 8, add="other") == ""
    assert take(sequences, END) == "ab"
    assert len(sequences) == 1
    assert take(sequences, START) == ""


@pytest.mark.parametrize("control", [GO_ON, END])
def test_what_was_not_started_or_has_ended_is_not_there(sequences: Sequences[str], control: Control) -> None:
    with pytest.raises(SequenceNotFound, match=r"^Sequence with provided ID does not exist$"):
        take(sequences, control)
    take(sequences, START)
    take(sequences, END)
    with pytest.raises(SequenceNotFound):
        take(sequences, control)


def test_a_sequence_is_started_once(sequences: Sequences[str]) -> None:
    take(sequences, START, add="a")
    with pytest.raises(SequenceExists, match=r"^Sequence with provided ID already exists$"):
        take(sequences, START)
    assert take(sequences, GO_ON) == "a"


def test_there_are_no_more_sequences_than_the_limit(sequences: Sequences[str]) -> None:
    for number in (1, 2, 3):
        take(sequences, START, number)
    text = r"^Max sequence number has been reached\. Could not create new sequence\.$"
    # Even for one that exists.
    for number in (0, 1, 4):
        with pytest.raises(TooManySequences, match=text):
            take(sequences, START, number)
    take(sequences, END, 2)
    take(sequences, START, 4)


def test_who_brings_no_id_gets_one_that_is_free_and_not_zero() -> None:
    drawn = [0, 8, 7, 9]
    sequences = Sequences[str](3, lambda: drawn.pop(0))
    take(sequences, START, 8)
    with sequences.turn(START, 0, 0) as sequence:
        assert sequence.id == 7
    with sequences.turn(START, 0, 0) as sequence:
        assert sequence.id == 9


def test_ids_cannot_be_guessed_and_are_integers_to_every_client() -> None:
    sequences = Sequences[str](100)
    ids = set()
    for _ in range(100):
        with sequences.turn(START, 0, 0) as sequence:
            ids.add(sequence.id)
    assert len(ids) == 100
    assert all(0 < number < 2**53 for number in ids)
    assert max(ids) > 2**48


def test_a_request_that_fails_leaves_all_as_it_was(sequences: Sequences[str]) -> None:
    fail(sequences, START)
    assert len(sequences) == 0
    take(sequences, START, add="a")
    fail(sequences, GO_ON)
    fail(sequences, END)
    assert take(sequences, GO_ON, add="b") == "a"
    assert take(sequences, END) == "ab"


def test_requests_of_a_sequence_have_their_turns_as_they_come(
    sequences: Sequences[str], pool: ThreadPoolExecutor
) -> None:
    gate = Gate()
    first = pool.submit(stay, sequences, START, gate)
    gate.wait_until_reached()
    order: SimpleQueue[int] = SimpleQueue()

    def follow(number: int) -> None:
        with sequences.turn(GO_ON, 7, PATIENCE):
            order.put(number)

    futures: list[Future[None]] = []
    for number in range(8):
        futures.append(pool.submit(follow, number))
        until(lambda: waiting(sequences) == len(futures))
    gate.open()
    for future in (first, *futures):
        future.result()
    assert [order.get() for _ in futures] == list(range(8))


def test_sequences_do_not_wait_for_each_other(sequences: Sequences[str], pool: ThreadPoolExecutor) -> None:
    gate = Gate()
    first = pool.submit(stay, sequences, START, gate)
    gate.wait_until_reached()
    take(sequences, START, 8)
    take(sequences, END, 8)
    gate.open()
    first.result()


@pytest.mark.parametrize("control", [GO_ON, END])
def test_nobody_waits_for_a_turn_longer_than_he_would(
    sequences: Sequences[str], pool: ThreadPoolExecutor, control: Control
) -> None:
    gate = Gate()
    first = pool.submit(stay, sequences, START, gate)
    gate.wait_until_reached()
    with pytest.raises(TimeoutError):
        take(sequences, control)
    gate.open()
    first.result()
    # Nor has an end that was too late ended anything.
    assert take(sequences, END) == "stayed"


def test_while_a_sequence_ends_it_is_not_available(sequences: Sequences[str], pool: ThreadPoolExecutor) -> None:
    take(sequences, START)
    gate = Gate()
    end = pool.submit(stay, sequences, END, gate)
    gate.wait_until_reached()
    text = r"^Sequence last request is being processed and it's not available anymore$"
    for control in Control:
        with pytest.raises(SequenceEnding, match=text):
            take(sequences, control)
    gate.open()
    end.result()
    take(sequences, START)


def test_an_end_that_fails_lets_others_go_on(sequences: Sequences[str], pool: ThreadPoolExecutor) -> None:
    take(sequences, START, add="a")
    gate = Gate()
    end = pool.submit(stay, sequences, END, gate, InferenceError("on purpose"))
    gate.wait_until_reached()
    gate.open()
    assert isinstance(end.exception(), InferenceError)
    assert take(sequences, GO_ON) == "a"


def test_who_comes_before_the_end_has_his_turn_before_it(sequences: Sequences[str], pool: ThreadPoolExecutor) -> None:
    first, second = Gate(), Gate()
    futures = [pool.submit(stay, sequences, START, first)]
    first.wait_until_reached()
    futures.append(pool.submit(stay, sequences, GO_ON, second))
    until(lambda: waiting(sequences) == 1)
    futures.append(pool.submit(stay, sequences, END, Gate(opened=second.opened)))
    until(lambda: waiting(sequences) == 2)
    first.open()
    second.wait_until_reached()
    assert len(sequences) == 1
    second.open()
    for future in futures:
        future.result()
    assert len(sequences) == 0


def test_who_waits_for_a_start_that_fails_finds_no_sequence(
    sequences: Sequences[str], pool: ThreadPoolExecutor
) -> None:
    gate = Gate()
    start = pool.submit(stay, sequences, START, gate, InferenceError("on purpose"))
    gate.wait_until_reached()
    others = [pool.submit(stay, sequences, GO_ON, Gate()) for _ in range(3)]
    until(lambda: waiting(sequences) == 3)
    gate.open()
    assert isinstance(start.exception(), InferenceError)
    assert all(isinstance(other.exception(), SequenceNotFound) for other in others)
    assert take(sequences, START) == ""


def test_what_is_idle_for_two_sweeps_is_dropped(sequences: Sequences[str]) -> None:
    take(sequences, START, 1)
    take(sequences, START, 2)
    assert sequences.sweep() == 0
    take(sequences, GO_ON, 1)
    assert sequences.sweep() == 1
    with pytest.raises(SequenceNotFound):
        take(sequences, GO_ON, 2)
    assert sequences.sweep() == 1
    assert len(sequences) == 0


def test_requests_that_fail_keep_no_sequence_alive(sequences: Sequences[str]) -> None:
    take(sequences, START)
    sequences.sweep()
    fail(sequences, GO_ON)
    assert sequences.sweep() == 1


def test_a_sweep_leaves_alone_who_is_running(sequences: Sequences[str], pool: ThreadPoolExecutor) -> None:
    gate = Gate()
    take(sequences, START)
    long = pool.submit(stay, sequences, GO_ON, gate)
    gate.wait_until_reached()
    assert [sequences.sweep() for _ in range(3)] == [0, 0, 0]
    gate.open()
    long.result()
    assert take(sequences, GO_ON) == "stayed"


class Turns(Pool[None]):
    """A sequence's turn that is taken in the moment after a sweep has seen that nobody has it."""

    def __init__(self) -> None:
        super().__init__([None])
        self.seen = Gate()

    @property
    def is_idle(self) -> bool:
        is_idle = super().is_idle
        self.seen.open()
        until(lambda: not super(Turns, self).is_idle)
        return is_idle

    def take(self, timeout: float | None = None) -> None:
        self.seen.pass_through()
        super().take(timeout)


def test_who_gets_the_turn_as_his_sequence_is_swept_is_told_that_it_is_gone(
    sequences: Sequences[str], pool: ThreadPoolExecutor
) -> None:
    take(sequences, START)
    sequences.sweep()
    sequences._open[7].turns = turns = Turns()
    late = pool.submit(take, sequences, GO_ON)
    turns.seen.wait_until_reached()
    assert sequences.sweep() == 1
    with pytest.raises(SequenceNotFound):
        late.result()


def test_an_end_ends_no_other_sequence_of_the_same_id(sequences: Sequences[str], pool: ThreadPoolExecutor) -> None:
    take(sequences, START)
    gate = Gate()
    end = pool.submit(stay, sequences, END, gate)
    gate.wait_until_reached()
    sequences.clear()
    take(sequences, START, add="new")
    gate.open()
    end.result()
    assert take(sequences, GO_ON) == "new"


def test_all_at_once_lose_nothing(pool: ThreadPoolExecutor) -> None:
    """Eight clients add to the same four sequences, while others start and end their own."""
    sequences = Sequences[int](16)
    for number in range(1, 5):
        with sequences.turn(START, number, 0) as sequence:
            sequence.state = 0

    def add() -> None:
        for i in range(400):
            with sequences.turn(GO_ON, i % 4 + 1, PATIENCE) as sequence:
                assert sequence.state is not None
                before = sequence.state
                sequence.state = before + 1

    def come_and_go() -> None:
        for _ in range(100):
            with sequences.turn(START, 0, PATIENCE) as sequence:
                sequence.state = 1
            with sequences.turn(END, sequence.id, PATIENCE) as same:
                assert same.state == 1

    futures = [pool.submit(work) for work in (add, come_and_go) for _ in range(8)]
    for future in futures:
        future.result()
    assert len(sequences) == 4
    for number in range(1, 5):
        with sequences.turn(END, number, 0) as sequence:
            assert sequence.state == 800


class Minutes:
    """An alarm on which a test has time pass: whoever waits wakes up for each call of `pass_by`, or when it is set."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._ticks: SimpleQueue[bool] = SimpleQueue()

    def wait(self, timeout: float, /) -> bool:
        self.waits.append(timeout)
        return self._ticks.get(timeout=PATIENCE)

    def set(self) -> None:
        self._ticks.put(True)

    def pass_by(self) -> None:
        before = len(self.waits)
        self._ticks.put(False)
        until(lambda: len(self.waits) > before)


def cleaner(
    interval: float = 300, on_drop: Callable[[], object] = lambda: None
) -> tuple[SequenceCleaner, list[Minutes]]:
    alarms: list[Minutes] = []

    def make() -> Minutes:
        alarms.append(Minutes())
        return alarms[-1]

    return SequenceCleaner(interval, make, on_drop=on_drop), alarms


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sequences"]


def test_the_cleaner_drops_what_is_idle_of_all_models(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made, alarms = cleaner()
    models = {"a/1": Sequences[str](3), "b/1": Sequences[str](3)}
    for name, sequences in models.items():
        take(sequences, START)
        made.watch(name, sequences)
    (alarm,) = alarms
    (thread,) = threads()
    assert thread.daemon
    alarm.pass_by()
    take(models["a/1"], GO_ON)
    alarm.pass_by()
    assert [len(sequences) for sequences in models.values()] == [1, 0]
    assert caplog.messages == ["dropped 1 idle sequences of b/1"]
    assert set(alarm.waits) == {300}
    made.forget(models["b/1"])
    alarm.pass_by()
    assert len(models["a/1"]) == 0
    made.forget(models["a/1"])
    until(lambda: not threads())


def test_the_cleaner_tells_when_it_has_dropped_something() -> None:
    told: SimpleQueue[None] = SimpleQueue()
    made, alarms = cleaner(on_drop=lambda: told.put(None))
    sequences = Sequences[str](3)
    take(sequences, START)
    made.watch("a/1", sequences)
    (alarm,) = alarms
    alarm.pass_by()
    assert told.empty()
    alarm.pass_by()
    assert told.qsize() == 1
    alarm.pass_by()
    assert told.qsize() == 1
    made.forget(sequences)
    until(lambda: not threads())


def test_the_cleaner_is_there_for_as_long_as_there_is_something_to_watch() -> None:
    made, alarms = cleaner()
    for _ in range(2):
        first, second = Sequences[str](3), Sequences[str](3)
        made.watch("a/1", first)
        made.watch("b/1", second)
        made.forget(first)
        # More than once, or what was never watched.
        made.forget(first)
        assert len(threads()) == 1
        made.forget(second)
        until(lambda: not threads())
    assert len(alarms) == 2


def test_with_an_interval_of_zero_nothing_is_dropped() -> None:
    made, alarms = cleaner(0)
    sequences = Sequences[str](3)
    made.watch("a/1", sequences)
    assert not threads()
    assert alarms == []
    made.forget(sequences)


def test_where_no_thread_can_be_had_the_next_model_tries_again() -> None:
    made, _ = cleaner()
    first, second = Sequences[str](3), Sequences[str](3)
    with no_more_threads(), pytest.raises(RuntimeError):
        made.watch("a/1", first)
    made.watch("b/1", second)
    assert len(threads()) == 1
    # The first is not watched.
    made.forget(second)
    until(lambda: not threads())


def test_a_real_alarm_wakes_up_and_is_set() -> None:
    made = SequenceCleaner(0.001)
    sequences = Sequences[str](3)
    take(sequences, START)
    made.watch("a/1", sequences)
    until(lambda: len(sequences) == 0)
    made.forget(sequences)


def test_all_that_there_is_can_be_dropped(sequences: Sequences[str]) -> None:
    take(sequences, START)
    sequences.clear()
    with pytest.raises(SequenceNotFound):
        take(sequences, GO_ON)
