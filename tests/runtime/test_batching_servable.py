"""How requests are run together: against an engine that can be held at any inference."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.batching import BatchingParameters
from runtime.batching_servable import BatchingServable
from runtime.errors import (
    CannotReshape,
    DeadlineExceeded,
    InferenceError,
    InferenceFailed,
    InvalidRequest,
    Overloaded,
    SignatureNotFound,
)
from runtime.servable import LoadPhases, Tensors
from runtime.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from tests.fakes import Gate, until

F32 = np.dtype(np.float32)
SOON = 0.02
NEVER = 20_000_000
"""Microseconds: longer than any test."""


class Doubler:
    """``y = 2 x`` for x [-1, -1]; and the same under another signature."""

    size = 7
    phases = LoadPhases(None, 0.25, 0.5)
    is_quick = False
    is_kept = False

    def __init__(
        self,
        concurrency: int = 1,
        shape: tuple[int, ...] = (-1, -1),
        bounds: tuple[tuple[int, int], ...] | None = None,
    ) -> None:
        self.concurrency = concurrency
        spec = TensorSpec("x", F32, shape, bounds=bounds), TensorSpec("y", F32, shape)
        signature = Signature({"x": spec[0]}, {"y": spec[1]})
        self.signatures = {DEFAULT_SIGNATURE: signature, "other": signature}
        self.batches: list[list[Any]] = []
        """What each inference was given, by the order in which they began."""
        self.deadlines: list[float | None] = []
        self.compute: Callable[[NDArray[Any]], NDArray[Any]] = lambda x: x * 2
        """What a test may replace, by what raises for instance."""
        self.is_closed = False
        self._lock = threading.Lock()
        self._gates: deque[Gate] = deque()

    def hold(self) -> Gate:
        """Let the next inference go no further than to its gate."""
        self._gates.append(gate := Gate())
        return gate

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        assert not self.is_closed
        if signature_name not in self.signatures:
            raise SignatureNotFound(signature_name)
        with self._lock:
            self.batches.append(inputs["x"].tolist())
            self.deadlines.append(deadline)
            gate = self._gates.popleft() if self._gates else None
        if gate:
            gate.pass_through()
        return {"y": self.compute(inputs["x"])}

    def close(self) -> None:
        self.is_closed = True


class Crowd:
    """Callers, each in a thread of its own, and the servable that they call."""

    def __init__(self, engine: Doubler, threads: ThreadPoolExecutor, servable: BatchingServable) -> None:
        self.engine = engine
        self.servable = servable
        self._threads = threads

    def call(
        self, *rows: Sequence[float], signature: str = DEFAULT_SIGNATURE, deadline: float | None = None
    ) -> Future[list[list[float]]]:
        return self._threads.submit(self.predict, *rows, signature=signature, deadline=deadline)

    def predict(
        self, *rows: Sequence[float], signature: str = DEFAULT_SIGNATURE, deadline: float | None = None
    ) -> list[list[float]]:
        outputs = self.servable.predict(signature, {"x": np.array(rows, np.float32)}, deadline)
        answer: list[list[float]] = outputs["y"].tolist()
        return answer

    def call_with(self, x: NDArray[Any]) -> Future[NDArray[Any]]:
        return self._threads.submit(lambda: self.servable.predict(DEFAULT_SIGNATURE, {"x": x})["y"])

    def occupy(self) -> tuple[Gate, Future[list[list[float]]]]:
        """Take a slot with a request, 0, that is held."""
        gate = self.engine.hold()
        call = self.call([0])
        gate.wait_until_reached()
        return gate, call

    def wait_for(self, free: int, waiting: int, batches: int) -> None:
        text = f"<BatchingServable digits/1 {free} free, {waiting} waiting in {batches} batches>"
        until(lambda: repr(self.servable) == text)


@contextmanager
def crowd(engine: Doubler | None = None, queue_timeout: float = 30.0, **parameters: Any) -> Iterator[Crowd]:
    engine = engine or Doubler()
    servable = BatchingServable(
        "digits/1", engine, BatchingParameters(**parameters), frozenset(engine.signatures), queue_timeout=queue_timeout
    )
    with ThreadPoolExecutor(32) as threads:
        yield Crowd(engine, threads, servable)
    assert f"{parameters.get('num_batch_threads') or engine.concurrency} free, 0 waiting" in repr(servable)


def test_it_shows_what_it_is_around() -> None:
    with crowd(Doubler(concurrency=3)) as people:
        servable = people.servable
        assert (servable.size, servable.phases, servable.concurrency) == (7, Doubler.phases, 3)
        assert servable.signatures is people.engine.signatures
        servable.close()
    assert people.engine.is_closed


def test_who_finds_a_slot_runs_at_once() -> None:
    with crowd() as people:
        assert people.predict([1, 2]) == [[2, 4]]
        assert people.predict([3], [4]) == [[6], [8]]
    assert people.engine.batches == [[[1, 2]], [[3], [4]]]


@pytest.mark.parametrize("microseconds", [1, 5, 20])
def test_who_waits_for_company_does_not_miss_its_end(microseconds: int) -> None:
    """The time may be over between two looks at the clock; it is most often if it is short."""
    with crowd(batch_timeout_micros=microseconds, queue_timeout=1.0) as people:
        for number in range(500):
            assert people.predict([number]) == [[2 * number]]


def test_an_array_is_not_copied_for_a_batch_of_its_own() -> None:
    engine = Doubler()
    engine.compute = lambda x: x
    x = np.ones((2, 2), np.float32)
    with crowd(engine) as people:
        assert people.servable.predict(DEFAULT_SIGNATURE, {"x": x})["y"] is x


def test_those_who_come_while_there_is_no_slot_run_together() -> None:
    with crowd() as people:
        gate, first = people.occupy()
        calls = [people.call([n], [n + 0.5]) for n in (1, 2, 3)]
        people.wait_for(free=0, waiting=3, batches=1)
        gate.open()
        assert first.result() == [[0]]
        assert [call.result() for call in calls] == [[[2], [3]], [[4], [5]], [[6], [7]]]
    sizes = [len(batch) for batch in people.engine.batches]
    assert sizes == [1, 6]


def test_no_batch_is_larger_than_it_may_be_and_the_oldest_runs_first() -> None:
    with crowd(max_batch_size=2) as people:
        gate, _ = people.occupy()
        for n in range(1, 6):
            people.call([n])
            people.wait_for(free=0, waiting=n, batches=(n + 1) // 2)
        gate.open()
    assert people.engine.batches == [[[0]], [[1], [2]], [[3], [4]], [[5]]]


def test_no_batch_has_more_rows_than_its_model_takes() -> None:
    with crowd(Doubler(bounds=((1, 3), (0, -1))), allowed_batch_sizes=(2, 8), max_batch_size=8) as people:
        gate, first = people.occupy()
        calls = []
        for n in (1, 2, 3):
            calls.append(people.call([n], [n]))
            people.wait_for(0, n, n)
        calls.append(people.call([4]))
        people.wait_for(0, 4, 3)
        gate.open()
        assert [call.result() for call in (first, *calls)] == [
            [[0]], [[2], [2]], [[4], [4]], [[6], [6]], [[8]],
        ]  # fmt: skip
        # Padded to 2 and no further.
        assert sorted(map(len, people.engine.batches)) == [2, 2, 2, 3]


def test_who_does_not_fit_begins_a_new_batch() -> None:
    with crowd(max_batch_size=3) as people:
        gate, _ = people.occupy()
        people.call([1], [2])
        people.wait_for(free=0, waiting=1, batches=1)
        people.call([3], [4])
        people.wait_for(free=0, waiting=2, batches=2)
        people.call([5])
        people.wait_for(free=0, waiting=3, batches=2)
        gate.open()
    assert people.engine.batches == [[[0]], [[1], [2]], [[3], [4], [5]]]


def test_shapes_never_mix() -> None:
    with crowd() as people:
        gate, _ = people.occupy()
        calls = []
        for n, (row, batches) in enumerate([([1, 1], 1), ([2, 2, 2], 2), ([3, 3], 2), ([4, 4, 4], 2)], 1):
            calls.append(people.call(row))
            people.wait_for(free=0, waiting=n, batches=batches)
        gate.open()
        assert [call.result() for call in calls] == [[[2, 2]], [[4, 4, 4]], [[6, 6]], [[8, 8, 8]]]
    assert people.engine.batches == [[[0]], [[1, 1], [3, 3]], [[2, 2, 2], [4, 4, 4]]]


def test_signatures_never_mix() -> None:
    with crowd() as people:
        gate, _ = people.occupy()
        people.call([1])
        people.wait_for(free=0, waiting=1, batches=1)
        people.call([2], signature="other")
        people.wait_for(free=0, waiting=2, batches=2)
        gate.open()
    assert people.engine.batches == [[[0]], [[1]], [[2]]]


def test_a_signature_that_is_not_to_be_batched_goes_straight_through() -> None:
    engine = Doubler()
    servable = BatchingServable("digits/1", engine, BatchingParameters(max_batch_size=1), frozenset({"other"}))
    assert len(servable.predict(DEFAULT_SIGNATURE, {"x": np.zeros((2, 1), np.float32)}, 3e9)["y"]) == 2
    assert engine.deadlines == [3e9]
    with pytest.raises(SignatureNotFound):
        servable.predict("none", {"x": np.zeros((2, 1), np.float32)})


def test_as_many_batches_run_at_once_as_the_engine_runs() -> None:
    with crowd(Doubler(concurrency=2)) as people:
        gates = [people.occupy()[0] for _ in range(2)]
        people.call([1])
        people.wait_for(free=0, waiting=1, batches=1)
        gates[1].open()
        until(lambda: people.engine.batches == [[[0]], [[0]], [[1]]])
        gates[0].open()


def test_as_many_batches_run_at_once_as_there_are_said_to() -> None:
    with crowd(num_batch_threads=2) as people:
        gates = [people.occupy()[0] for _ in range(2)]
        people.call([1])
        people.wait_for(free=0, waiting=1, batches=1)
        for gate in gates:
            gate.open()


def test_who_has_time_waits_until_the_batch_is_full() -> None:
    with crowd(max_batch_size=2, batch_timeout_micros=NEVER) as people:
        first = people.call([1])
        people.wait_for(free=1, waiting=1, batches=1)
        assert people.predict([2]) == [[4]]
        assert first.result() == [[2]]
    assert people.engine.batches == [[[1], [2]]]


def test_time_may_be_without_an_end() -> None:
    with crowd(max_batch_size=2, batch_timeout_micros=2**63 - 1) as people:
        first = people.call([1])
        people.wait_for(free=1, waiting=1, batches=1)
        assert people.predict([2], deadline=1e300) == [[4]]
        assert first.result() == [[2]]


def test_a_batch_that_has_no_room_for_somebody_waits_no_longer() -> None:
    with crowd(max_batch_size=4, batch_timeout_micros=NEVER) as people:
        first = people.call([1], [1], [1])
        people.wait_for(free=1, waiting=1, batches=1)
        second = people.call([2], [2])
        assert len(first.result()) == 3
        people.wait_for(free=1, waiting=1, batches=1)
        assert people.predict([3], [3]) == [[6], [6]]
        assert second.result() == [[4], [4]]
    assert people.engine.batches == [[[1]] * 3, [[2], [2], [3], [3]]]


def test_who_waits_alone_runs_alone_when_the_time_is_over() -> None:
    with crowd(batch_timeout_micros=20_000) as people:
        began = time.monotonic()
        assert people.predict([1]) == [[2]]
        assert time.monotonic() - began >= 0.02


def test_who_has_waited_long_enough_runs_as_soon_as_there_is_a_slot() -> None:
    with crowd(max_batch_size=2, batch_timeout_micros=30_000_000) as people:
        gate = people.engine.hold()
        full = [people.call([n]) for n in (1, 2)]
        gate.wait_until_reached()
        third = people.call([3])
        people.wait_for(free=0, waiting=1, batches=1)
        fourth = people.call([4])
        people.wait_for(free=0, waiting=2, batches=1)
        gate.open()
        assert [call.result() for call in (*full, third, fourth)] == [[[2]], [[4]], [[6]], [[8]]]


def test_a_batch_that_becomes_due_while_there_is_no_slot_runs_when_there_is_one() -> None:
    with crowd(batch_timeout_micros=1000) as people:
        gate, _ = people.occupy()
        call = people.call([1])
        people.wait_for(free=0, waiting=1, batches=1)
        time.sleep(SOON)
        people.wait_for(free=0, waiting=1, batches=1)
        gate.open()
        assert call.result() == [[2]]


def test_a_full_queue_takes_no_more() -> None:
    with crowd(max_batch_size=2, max_enqueued_batches=2) as people:
        gate, _ = people.occupy()
        calls = [people.call([1], [1]) for _ in range(2)]
        people.wait_for(free=0, waiting=2, batches=2)
        with pytest.raises(
            Overloaded,
            match=r"^The batch scheduling queue to which this task was submitted is full: "
            r"2 batches for digits/1 are waiting$",
        ):
            people.predict([2])
        # Each shape has a queue.
        other = people.call([3, 3])
        people.wait_for(free=0, waiting=3, batches=3)
        gate.open()
        assert other.result() == [[6, 6]]
        assert [call.result() for call in calls] == [[[2], [2]]] * 2
        assert people.predict([2]) == [[4]]


def test_a_request_larger_than_a_batch_is_refused() -> None:
    with crowd(max_batch_size=2) as people:
        with pytest.raises(InvalidRequest, match=r"^Task size 3 is larger than maximum input batch size 2$"):
            people.predict([1], [2], [3])
        assert people.engine.batches == []


def test_nobody_waits_for_a_slot_for_ever() -> None:
    with crowd(queue_timeout=SOON) as people:
        gate, first = people.occupy()
        with pytest.raises(Overloaded, match=r"^a request to digits/1 had no free slot for 0 s$"):
            people.predict([1])
        gate.open()
        assert first.result() == [[0]]
    assert people.engine.batches == [[[0]]]


def test_what_no_batch_could_take_is_refused_before_it_has_company() -> None:
    with crowd() as people:
        with pytest.raises(InvalidRequest, match="has dtype DT_DOUBLE; want DT_FLOAT"):
            people.servable.predict(DEFAULT_SIGNATURE, {"x": np.zeros((1, 1))})
        with pytest.raises(InvalidRequest, match=r"has shape \(\); want \(-1, -1\)"):
            people.servable.predict(DEFAULT_SIGNATURE, {"x": np.zeros((), np.float32)})
        assert people.engine.batches == []


def test_what_is_shorter_than_its_model_wants_is_not_padded_but_refused() -> None:
    with (
        crowd(Doubler(shape=(-1, 3)), pad_variable_length_inputs=True) as people,
        pytest.raises(InvalidRequest, match=r"has shape \(1, 2\); want \(-1, 3\)"),
    ):
        people.predict([1, 2])


@pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
def test_an_empty_request_runs_alone(shape: tuple[int, int]) -> None:
    with crowd(allowed_batch_sizes=(4,), max_batch_size=4, pad_variable_length_inputs=True) as people:
        y = people.servable.predict(DEFAULT_SIGNATURE, {"x": np.zeros(shape, np.float32)})["y"]
        assert y.shape == shape


def test_a_request_whose_deadline_has_passed_is_not_run() -> None:
    with crowd() as people:
        with pytest.raises(DeadlineExceeded, match=r"^Run\(\) timeout exceeded while waiting in batching queue$"):
            people.predict([1], deadline=time.monotonic())
        assert people.engine.batches == []


def test_a_request_whose_deadline_passes_in_the_queue_is_not_run() -> None:
    with crowd() as people:
        gate, _ = people.occupy()
        patient = people.call([1])
        people.wait_for(free=0, waiting=1, batches=1)
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                people.predict([2], deadline=time.monotonic() + SOON)
        people.wait_for(free=0, waiting=1, batches=1)
        gate.open()
        assert patient.result() == [[2]]
    assert people.engine.batches == [[[0]], [[1]]]


def test_a_batch_that_all_have_left_is_gone() -> None:
    with crowd() as people:
        gate, _ = people.occupy()
        with pytest.raises(DeadlineExceeded):
            people.predict([1], deadline=time.monotonic() + SOON)
        people.wait_for(free=0, waiting=0, batches=0)
        gate.open()
    assert people.engine.batches == [[[0]]]


def test_if_the_first_one_of_a_batch_leaves_another_sees_when_it_is_due() -> None:
    with crowd(batch_timeout_micros=200_000) as people:
        first = people.call([1], deadline=time.monotonic() + SOON)
        people.wait_for(free=1, waiting=1, batches=1)
        second = people.call([2])
        assert isinstance(first.exception(), DeadlineExceeded)
        assert second.result(timeout=10) == [[4]]
    assert people.engine.batches == [[[2]]]


def test_who_leaves_a_full_batch_makes_room() -> None:
    with crowd(max_batch_size=2) as people:
        gate, _ = people.occupy()
        impatient = people.call([1], deadline=time.monotonic() + SOON)
        people.wait_for(free=0, waiting=1, batches=1)
        calls = [people.call([2])]
        people.wait_for(free=0, waiting=2, batches=1)
        assert isinstance(impatient.exception(), DeadlineExceeded)
        calls.append(people.call([3]))
        people.wait_for(free=0, waiting=2, batches=1)
        gate.open()
        assert [call.result() for call in calls] == [[[4]], [[6]]]
    assert people.engine.batches == [[[0]], [[2], [3]]]


def test_who_does_not_run_the_batch_need_not_wait_for_it_longer_than_wanted() -> None:
    with crowd(max_batch_size=2, batch_timeout_micros=NEVER) as people:
        gate = people.engine.hold()
        impatient = people.call([1], deadline=time.monotonic() + 0.2)
        people.wait_for(free=1, waiting=1, batches=1)
        leader = people.call([2])
        gate.wait_until_reached()
        assert isinstance(impatient.exception(), DeadlineExceeded)
        gate.open()
        assert leader.result() == [[4]]


@pytest.mark.parametrize(
    ("deadlines", "latest"), [((3e9, 2e9), 3e9), ((2e9, 3e9), 3e9), ((2e9, None), None), ((None, None), None)]
)
def test_a_batch_has_the_latest_deadline_of_all(
    deadlines: tuple[float | None, float | None], latest: float | None
) -> None:
    with crowd(max_batch_size=2, batch_timeout_micros=NEVER) as people:
        for deadline in deadlines:
            people.call([1], deadline=deadline)
    assert people.engine.deadlines == [latest]


def no_negatives(x: NDArray[Any]) -> NDArray[Any]:
    if (x < 0).any():
        raise InferenceFailed(f"negative: {x[x < 0].tolist()}")
    return x * 2


def test_a_request_that_fails_does_not_fail_its_neighbours() -> None:
    engine = Doubler()
    engine.compute = no_negatives
    with crowd(engine, max_batch_size=3, batch_timeout_micros=NEVER) as people:
        for _ in range(2):
            calls = [people.call([n]) for n in (1, -2, 3)]
            assert isinstance(error := calls[1].exception(), InferenceFailed)
            assert str(error) == "negative: [-2.0]"
            assert (calls[0].result(), calls[2].result()) == ([[2]], [[6]])
    # And they are batched again the next time.
    assert [len(batch) for batch in people.engine.batches] == [3, 1, 1, 1] * 2


def test_an_error_is_each_ones_own() -> None:
    engine = Doubler()
    engine.compute = no_negatives
    with crowd(engine, max_batch_size=2, batch_timeout_micros=NEVER) as people:
        calls = [people.call([n]) for n in (-1, -2)]
        errors = [call.exception() for call in calls]
    assert [str(error) for error in errors] == ["negative: [-1.0]", "negative: [-2.0]"]


def test_the_error_of_a_request_without_company_is_the_engines() -> None:
    engine = Doubler()
    engine.compute = no_negatives
    with crowd(engine) as people:
        with pytest.raises(InferenceFailed, match="negative"):
            people.predict([-1])
        assert people.predict([1]) == [[2]]
    assert len(people.engine.batches) == 2


@pytest.mark.parametrize("error", [InvalidRequest, InferenceFailed, CannotReshape])
def test_a_model_that_only_fails_in_company_is_no_longer_batched(
    error: type[InferenceError], caplog: pytest.LogCaptureFixture
) -> None:
    def one_by_one(x: NDArray[Any]) -> NDArray[Any]:
        if len(x) > 1:
            raise error("one at a time")
        return x * 2

    engine = Doubler()
    engine.compute = one_by_one
    with crowd(engine, max_batch_size=2, batch_timeout_micros=NEVER) as people:
        calls = [people.call([n]) for n in (1, 2)]
        assert [call.result() for call in calls] == [[[2]], [[4]]]
        # Or it would wait for company.
        assert people.predict([3]) == [[6]]
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.getMessage() == (
        "requests to serving_default of digits/1 are no longer batched: "
        "a batch has failed whose requests all succeed alone"
    )


def test_a_model_whose_outputs_are_not_by_rows_is_no_longer_batched(caplog: pytest.LogCaptureFixture) -> None:
    engine = Doubler()
    engine.compute = lambda x: x.sum(axis=0, keepdims=True)
    with crowd(engine, max_batch_size=2, batch_timeout_micros=NEVER) as people:
        calls = [people.call([n]) for n in (1, 2)]
        assert [call.result() for call in calls] == [[[1]], [[2]]]
        assert people.predict([3]) == [[3]]
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "Batched output tensor's 0th dimension does not equal the sum" in warning.getMessage()


def test_a_bug_is_one_callers_and_the_others_are_answered() -> None:
    engine = Doubler()

    def break_once(x: NDArray[Any]) -> NDArray[Any]:
        engine.compute = lambda x: x * 2
        raise ZeroDivisionError

    engine.compute = break_once
    with crowd(engine, max_batch_size=3, batch_timeout_micros=NEVER) as people:
        calls = [people.call([n]) for n in (1, 2, 3)]
        errors = [call.exception() for call in calls]
        assert sorted(type(error).__name__ for error in errors) == ["NoneType", "NoneType", "ZeroDivisionError"]
        # Which tells nothing of the model, so company is still waited for.
        more = [people.call([n]) for n in (1, 2, 3)]
        assert [call.result() for call in more] == [[[2]], [[4]], [[6]]]
    assert len(people.engine.batches[-1]) == 3


def test_a_batch_is_padded_to_an_allowed_size_with_its_first_row() -> None:
    with crowd(allowed_batch_sizes=(2, 4), max_batch_size=4) as people:
        assert people.predict([7]) == [[14]]
        assert people.predict([1], [2], [3]) == [[2], [4], [6]]
        assert people.predict([1], [2]) == [[2], [4]]
    assert people.engine.batches == [[[7], [7]], [[1], [2], [3], [1]], [[1], [2]]]


def test_a_request_that_only_fails_padded_runs_as_it_is() -> None:
    engine = Doubler()
    engine.compute = lambda x: x.sum(axis=0, keepdims=True)
    with crowd(engine, allowed_batch_sizes=(4,), max_batch_size=4) as people:
        assert people.predict([1], [2]) == [[3]]
        assert people.predict([1], [2]) == [[3]]
    assert [len(batch) for batch in people.engine.batches] == [4, 2, 2]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first", "last"])
def test_nobody_waits_beyond_its_deadline_for_a_batch_that_it_leads(order: tuple[int, int]) -> None:
    with crowd() as people:
        first_gate, first = people.occupy()
        gate = people.engine.hold()
        late = time.monotonic() + 0.3
        calls = {}
        for number, who in enumerate(order, 1):
            calls[who] = people.call([who], deadline=late if who else None)
            people.wait_for(0, number, 1)
        first_gate.open()
        gate.wait_until_reached()
        # Although the batch is running still, which the other waits for.
        with pytest.raises(DeadlineExceeded):
            calls[1].result(10)
        assert not calls[0].done()
        gate.open()
        assert calls[0].result() == [[0]]
        assert first.result() == [[0]]


@pytest.mark.parametrize("long", [(1, 1, 60_000), (1, 60_000, 1)], ids=str)
def test_what_padding_would_make_large_is_not_padded(long: tuple[int, ...]) -> None:
    """As one batch these would be hundreds of megabytes at least: of 60,000 x 60,000, or of 60,000 for each of 900."""
    engine = Doubler(shape=(-1, -1, -1))
    other = (1, 60_000, 1) if long[1] == 1 else (900, 1, 1)
    sizes: list[int] = []

    def compute(x: NDArray[Any]) -> NDArray[Any]:
        sizes.append(x.nbytes)
        return x * 2

    engine.compute = compute
    with crowd(engine, pad_variable_length_inputs=True) as people:
        gate = engine.hold()
        first = people.call_with(np.ones((1, 1, 1), np.float32))
        gate.wait_until_reached()
        calls = []
        for number, shape in enumerate((long, other), 1):
            calls.append(people.call_with(np.ones(shape, np.float32)))
            people.wait_for(0, number, number)
        gate.open()
        assert first.result().shape == (1, 1, 1)
        assert [call.result().shape for call in calls] == [long, other]
    assert max(sizes) == 240_000


def test_a_batch_that_takes_more_memory_than_there_is_is_run_one_by_one() -> None:
    engine = Doubler()

    def compute(x: NDArray[Any]) -> NDArray[Any]:
        if len(x) > 1:
            raise MemoryError("Unable to allocate 10.9 TiB")
        return x * 2

    engine.compute = compute
    with crowd(engine) as people:
        gate, first = people.occupy()
        calls = [people.call([1]), people.call([2])]
        people.wait_for(0, 2, 1)
        gate.open()
        assert [call.result() for call in (first, *calls)] == [[[0]], [[2]], [[4]]]
        # That there was none for once is no reason to run no batches any more.
        engine.compute = lambda x: x * 2
        gate, _ = people.occupy()
        calls = [people.call([1]), people.call([2])]
        people.wait_for(0, 2, 1)
        gate.open()
        assert [call.result() for call in calls] == [[[2]], [[4]]]
    assert engine.batches[-1] == [[1], [2]]


def test_shorter_requests_are_padded_to_the_longest_if_wanted() -> None:
    with crowd(max_batch_size=2, batch_timeout_micros=NEVER, pad_variable_length_inputs=True) as people:
        short = people.call([1, 2])
        people.wait_for(free=1, waiting=1, batches=1)
        assert people.predict([3, 4, 5]) == [[6, 8, 10]]
        # As in TensorFlow Serving, what was padded stays so.
        assert short.result() == [[2, 4, 2]]
    assert people.engine.batches == [[[1, 2, 1], [3, 4, 5]]]


def test_a_large_request_is_split_if_wanted() -> None:
    with crowd(max_batch_size=6, max_execution_batch_size=2, enable_large_batch_splitting=True) as people:
        assert people.predict([1], [2], [3], [4], [5]) == [[2], [4], [6], [8], [10]]
        with pytest.raises(InvalidRequest, match="Task size 7 is larger than maximum input batch size 6"):
            people.predict(*[[1.0]] * 7)
    assert people.engine.batches == [[[1], [2]], [[3], [4]], [[5]]]


def test_a_large_request_whose_outputs_are_not_by_rows_runs_whole() -> None:
    engine = Doubler()
    engine.compute = lambda x: x.sum(axis=0, keepdims=True)
    with crowd(engine, max_batch_size=6, max_execution_batch_size=2, enable_large_batch_splitting=True) as people:
        assert people.predict([1], [2], [3]) == [[6]]
        assert people.predict([1], [2], [3]) == [[6]]
    assert [len(batch) for batch in people.engine.batches] == [2, 1, 3, 3]


def test_a_large_request_whose_parts_come_out_in_other_shapes_runs_whole(caplog: pytest.LogCaptureFixture) -> None:
    engine = Doubler()
    # As many columns as the first number says.
    engine.compute = lambda x: np.repeat(x[:, :1], int(x[0, 0]), axis=1)
    with crowd(engine, max_batch_size=6, max_execution_batch_size=1, enable_large_batch_splitting=True) as people:
        assert people.predict([2], [3]) == [[2, 2], [3, 3]]
    assert caplog.records == []
    assert people.engine.batches == [[[2]], [[3]], [[2], [3]]]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"num_batch_threads": 3},
        {"max_batch_size": 4, "batch_timeout_micros": 500},
        {"max_batch_size": 8, "allowed_batch_sizes": (3, 8), "num_batch_threads": 2},
        {"max_batch_size": 3, "batch_timeout_micros": 2000, "pad_variable_length_inputs": True},
        {"max_batch_size": 8, "max_execution_batch_size": 2, "enable_large_batch_splitting": True},
        {"max_batch_size": 3, "max_enqueued_batches": 1},
    ],
)
def test_in_a_crowd_everybody_gets_their_own_answer(parameters: dict[str, Any]) -> None:
    """Requests of several sizes and shapes, some of which fail and some of which are in a hurry."""
    engine = Doubler(concurrency=parameters.get("num_batch_threads", 1))

    def compute(x: NDArray[Any]) -> NDArray[Any]:
        time.sleep(0.0003)
        return no_negatives(x)

    engine.compute = compute
    outcomes: Counter[str] = Counter()

    def work(people: Crowd, seed: int) -> None:
        rng = random.Random(seed)
        for step in range(40):
            rows, width, number = rng.randint(1, 3), rng.randint(1, 3), seed * 1000 + step + 1
            is_bad, is_hurried = rng.random() < 0.05, rng.random() < 0.1
            x = np.full((rows, width), -number if is_bad else number, np.float32)
            deadline = time.monotonic() + rng.random() * 0.002 if is_hurried else None
            try:
                y = people.servable.predict(DEFAULT_SIGNATURE, {"x": x}, deadline)["y"]
            except InferenceError as exc:
                error: InferenceError | None = exc
            else:
                error = None
            outcomes[type(error).__name__] += 1
            if error is None:
                assert not is_bad
                assert len(y) == rows
                assert y.shape[1] == width or parameters.get("pad_variable_length_inputs")
                assert (y == 2 * number).all()
            elif isinstance(error, InferenceFailed):
                # Nobody else's numbers are in it.
                assert is_bad
                assert set(json.loads(str(error).removeprefix("negative: "))) == {-number}
            else:
                assert is_hurried if isinstance(error, DeadlineExceeded) else isinstance(error, Overloaded)

    with crowd(engine, **parameters) as people, ThreadPoolExecutor(16) as threads:
        for done in [threads.submit(work, people, seed) for seed in range(16)]:
            done.result()
    assert outcomes["NoneType"] > 50
    assert max(len(batch) for batch in engine.batches) > 1
    limit = parameters.get("max_execution_batch_size") or parameters.get("max_batch_size", 1000)
    assert max(len(batch) for batch in engine.batches) <= limit
    allowed = parameters.get("allowed_batch_sizes", ())
    # What failed together is run alone, as it is.
    assert not allowed or {len(batch) for batch in engine.batches} <= {*allowed, 1, 2}
