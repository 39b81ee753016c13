"""Stateful models: real ones, compiled for this CPU, whose requests belong to sequences."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_cache.cache import ModelCache
from model_cache.errors import LoadFailed
from model_cache.repository import ModelVersion
from runtime.batching import BatchingLoader, BatchingParameters
from runtime.batching_servable import BatchingServable
from runtime.codecs import schema, tensor_proto
from runtime.engine import OpenVinoLoader
from runtime.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    Overloaded,
    SequenceEnding,
    SequenceExists,
    SequenceNotFound,
    SignatureNotFound,
    TooManySequences,
)
from runtime.openvino_servable import OpenVinoServable
from runtime.options import AUTO, ModelOptions, Stateful
from runtime.sequence_cleaner import SequenceCleaner
from runtime.servable import LoadPhases, Observer, Servable, Tensors, Usage
from runtime.signature import DEFAULT_SIGNATURE, DYNAMIC, Signature, TensorSpec
from runtime.stateful import StatefulLoader
from runtime.stateful_servable import StatefulServable
from runtime.warmup import RECORDS_FILE, WarmingLoader
from tests.fakes import PATIENCE, Gate, until
from tests.runtime import models
from tests.runtime.test_warmup import framed

CONTINUE, START, END = 0, 1, 2
ONES = np.ones((1, 2), np.float32)


def stateful(version: ModelVersion, *, options: ModelOptions | None = None, **fields: Any) -> ModelVersion:
    return replace(version, options=(options or ModelOptions())._replace(stateful=Stateful(**fields)))


@contextmanager
def serving(model: Any, base: Path, *, requests: int | None = None, **fields: Any) -> Iterator[StatefulServable]:
    models.save(model, base)
    files = models.files_at(base)
    servable = StatefulLoader(OpenVinoLoader(files, models.F32, requests)).load(
        stateful(models.version_at(base), **fields)
    )
    assert isinstance(servable, StatefulServable)
    try:
        yield servable
    finally:
        servable.close()


@pytest.fixture
def servable(tmp_path: Path) -> Iterator[StatefulServable]:
    """``y = x + the sum so far``."""
    with serving(models.accumulator(), tmp_path) as servable:
        yield servable


def special(number: int | None = None, control: int | None = None) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any]] = {}
    if number is not None:
        inputs["sequence_id"] = np.array([number], np.uint64)
    if control is not None:
        inputs["sequence_control_input"] = np.array([control], np.uint32)
    return inputs


def predict(
    servable: Servable,
    number: int | None = None,
    control: int | None = None,
    x: NDArray[Any] = ONES,
    deadline: float | None = None,
) -> tuple[list[float], int]:
    """Return y, flat, and the sequence's id as it was answered."""
    outputs = servable.predict(DEFAULT_SIGNATURE, {"x": x, **special(number, control)}, deadline)
    assert outputs.keys() == {"y", "sequence_id"}
    answered = outputs["sequence_id"]
    assert answered.dtype == np.uint64
    assert answered.shape == (1,)
    return outputs["y"].ravel().tolist(), int(answered[0])


def test_each_sequence_has_a_state_of_its_own(servable: StatefulServable) -> None:
    assert predict(servable, 1, START) == ([1, 1], 1)
    assert predict(servable, 2, START, 10 * ONES) == ([10, 10], 2)
    assert predict(servable, 1, CONTINUE) == ([2, 2], 1)
    assert predict(servable, 2) == ([11, 11], 2)
    assert predict(servable, 1, END) == ([3, 3], 1)
    assert servable.sequences == 1
    assert predict(servable, 2, END) == ([12, 12], 2)
    assert predict(servable, 1, START) == ([1, 1], 1)


def test_any_infer_request_goes_on_from_where_another_was(tmp_path: Path) -> None:
    """With one of them for all sequences, and with more of them than sequences."""
    for requests in (1, 4):
        with (
            serving(models.accumulator(), tmp_path / str(requests), requests=requests) as servable,
            ThreadPoolExecutor(8) as pool,
        ):

            def sum_up(number: int, servable: StatefulServable = servable) -> list[float]:
                predict(servable, number, START, number * ONES)
                return [predict(servable, number, x=number * ONES)[0][0] for _ in range(30)]

            for number, sums in enumerate(pool.map(sum_up, range(1, 17)), 1):
                assert sums == [number * i for i in range(2, 32)]


def test_all_requests_of_one_sequence_at_once_are_all_counted(servable: StatefulServable) -> None:
    predict(servable, 1, START, 0 * ONES)
    with ThreadPoolExecutor(8) as pool:
        sums = [y for (y, _), _ in pool.map(lambda _: (predict(servable, 1)[0], 0), range(200))]
    assert sorted(sums) == list(range(1, 201))
    assert predict(servable, 1, END, 0 * ONES) == ([200, 200], 1)


def test_a_state_may_grow(tmp_path: Path) -> None:
    with serving(models.collector(), tmp_path) as servable:
        a, b = np.array([[1, 2]], np.float32), np.array([[3]], np.float32)
        assert predict(servable, 1, START, a)[0] == [1, 2]
        assert predict(servable, 2, START, b)[0] == [3]
        assert predict(servable, 1, x=b)[0] == [1, 2, 3]
        assert predict(servable, 2, x=b)[0] == [3, 3]
        assert predict(servable, 1, x=a)[0] == [1, 2, 3, 1, 2]


def test_a_start_has_nothing_of_other_sequences_where_requests_say_how_large_a_state_is(tmp_path: Path) -> None:
    """OpenVINO alone answers the last start with two rows, the second of which is of the first sequence."""
    with serving(models.rows_accumulator(), tmp_path, requests=1) as servable:
        pair = np.full((2, 2), 700, np.float32)
        assert predict(servable, 1, START, pair)[0] == [700] * 4
        assert predict(servable, 2, START)[0] == [1, 1]
        assert predict(servable, 1, x=pair)[0] == [1400] * 4
        assert predict(servable, 3, START, 5 * ONES)[0] == [5, 5]
        assert predict(servable, 3)[0] == [6, 6]
        assert predict(servable, 2)[0] == [2, 2]


def test_what_does_not_fit_a_state_is_told_without_being_run_again_and_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serving(models.rows_accumulator(), tmp_path, requests=1) as servable:
        predict(servable, 1, START, np.ones((2, 2), np.float32))
        for count in range(3, 9):
            with pytest.raises(InvalidRequest, match="cannot run these inputs"):
                predict(servable, 1, x=np.ones((count, 2), np.float32))
            # As states that have other sizes do fit.
            assert predict(servable, count, START, np.ones((count, 2), np.float32))[0] == [1] * 2 * count
        assert predict(servable, 1, x=np.ones((2, 2), np.float32))[0] == [2] * 4
    assert sum("compiled model/1 anew" in message for message in caplog.messages) == 1


def test_a_state_of_a_type_that_the_engine_does_not_run_is_an_error_and_starts_nothing(tmp_path: Path) -> None:
    with serving(models.accumulator(element_type="i64"), tmp_path) as servable:
        with pytest.raises(InferenceFailed, match="i64"):
            predict(servable, 1, START, np.ones((1, 2), np.int64))
        assert servable.sequences == 0


@pytest.mark.parametrize("element_type", ["f16", "i32", "u8"])
def test_a_state_keeps_its_type(element_type: str, tmp_path: Path) -> None:
    with serving(models.accumulator(element_type=element_type), tmp_path) as servable:
        x = np.array([[3, 100]], models.DTYPES[element_type])
        predict(servable, 1, START, x)
        assert predict(servable, 1, x=x)[0] == [6, 200]


def test_who_brings_no_id_is_told_one(servable: StatefulServable) -> None:
    _, first = predict(servable, None, START)
    _, second = predict(servable, 0, START)
    assert 0 not in (first, second)
    assert first != second
    assert predict(servable, first) == ([2, 2], first)
    assert predict(servable, second, END) == ([2, 2], second)


def test_an_id_may_have_64_bits(servable: StatefulServable) -> None:
    largest = 2**64 - 1
    assert predict(servable, largest, START)[1] == largest
    assert predict(servable, largest, END) == ([2, 2], largest)


def test_what_is_wrong_with_a_sequence_is_told_as_openvino_model_server_does(tmp_path: Path) -> None:
    with serving(models.accumulator(), tmp_path, max_sequences=2) as servable:
        predict(servable, 1, START)
        for error, text, number, control in (
            (SequenceNotFound, "Sequence with provided ID does not exist", 2, CONTINUE),
            (SequenceNotFound, "Sequence with provided ID does not exist", 2, END),
            (SequenceExists, "Sequence with provided ID already exists", 1, START),
            (InvalidRequest, "Sequence ID has not been provided in request inputs", None, None),
            (InvalidRequest, "Sequence ID has not been provided in request inputs", 0, END),
            (InvalidRequest, "Unexpected value of sequence control input", 1, 3),
            (InvalidRequest, "Unexpected value of sequence control input", None, 2**32 - 1),
        ):
            with pytest.raises(error) as caught:
                predict(servable, number, control)
            assert str(caught.value) == text
        predict(servable, 2, START)
        with pytest.raises(TooManySequences) as caught:
            predict(servable, None, START)
        assert str(caught.value) == "Max sequence number has been reached. Could not create new sequence."
        assert predict(servable, 1) == ([2, 2], 1)


@pytest.mark.parametrize(
    ("name", "array", "text"),
    [
        ("sequence_id", np.uint64(1), "Special input proto does not contain tensor shape information"),
        ("sequence_control_input", np.uint32(1), "Special input proto does not contain tensor shape information"),
        (
            "sequence_id",
            np.ones((1, 1), np.uint64),
            "Invalid number of shape dimensions - Required shape for sequence_id is: (1)",
        ),
        ("sequence_id", np.ones(2, np.uint64), "Invalid input shape - Required shape for sequence_id is: (1)"),
        (
            "sequence_control_input",
            np.ones(0, np.uint32),
            "Invalid input shape - Required shape for sequence_control_input is: (1)",
        ),
        (
            "sequence_id",
            np.ones(1, np.int64),
            "Could not find sequence id in expected tensor proto field uint64_val",
        ),
        (
            "sequence_control_input",
            np.ones(1, np.uint64),
            "Could not find sequence control input in expected tensor proto field uint32_val",
        ),
    ],
)
def test_what_is_wrong_with_a_special_input_is_told(
    servable: StatefulServable, name: str, array: NDArray[Any], text: str
) -> None:
    inputs = {"x": ONES, **special(1, START), name: np.asarray(array)}
    with pytest.raises(InvalidRequest) as caught:
        servable.predict(DEFAULT_SIGNATURE, inputs)
    assert str(caught.value) == text
    assert servable.sequences == 0


def test_inputs_that_do_not_fit_start_and_change_nothing(servable: StatefulServable) -> None:
    wide = np.ones((1, 3), np.float32)
    with pytest.raises(InvalidRequest, match=r"^input 'x' has shape \(1, 3\)"):
        predict(servable, 1, START, wide)
    with pytest.raises(InvalidRequest, match="input size does not match signature"):
        servable.predict(DEFAULT_SIGNATURE, special(1, START))
    assert servable.sequences == 0
    predict(servable, 1, START)
    for control in (CONTINUE, END):
        with pytest.raises(InvalidRequest):
            predict(servable, 1, control, wide)
    assert predict(servable, 1) == ([2, 2], 1)


def test_inputs_that_do_not_fit_wait_for_nobody(held: Held) -> None:
    servable = around(held)
    with running(held, servable, START), pytest.raises(InvalidRequest, match="has shape"):
        predict(servable, 1, x=np.ones((1, 3), np.float32))
    with pytest.raises(InvalidRequest, match="has shape"):
        predict(servable, 404, x=np.ones((1, 3), np.float32))


def test_there_is_one_signature(servable: StatefulServable) -> None:
    with pytest.raises(SignatureNotFound):
        servable.predict("other", {"x": ONES, **special(1, START)})
    (signature,) = servable.signatures.values()
    assert signature.inputs.keys() == {"x"}
    assert signature.outputs.keys() == {"y"}
    assert signature.special_inputs == {
        "sequence_id": TensorSpec("sequence_id", np.dtype(np.uint64), (1,)),
        "sequence_control_input": TensorSpec("sequence_control_input", np.dtype(np.uint32), (1,)),
    }
    assert signature.special_outputs == {"sequence_id": TensorSpec("sequence_id", np.dtype(np.uint64), (1,))}


def test_inputs_without_rows_are_answered_with_none_and_change_nothing(tmp_path: Path) -> None:
    with serving(models.accumulator((DYNAMIC, 2)), tmp_path) as servable:
        nothing = np.empty((0, 2), np.float32)
        assert predict(servable, 1, START, nothing) == ([], 1)
        assert predict(servable, 1) == ([1, 1], 1)
        assert predict(servable, 1, x=nothing) == ([], 1)
        assert predict(servable, 1) == ([2, 2], 1)


def test_what_the_engine_cannot_run_changes_nothing(tmp_path: Path) -> None:
    with serving(models.accumulator((DYNAMIC, 2)), tmp_path) as servable:
        pair = np.ones((2, 2), np.float32)
        three = np.ones((3, 2), np.float32)
        predict(servable, 1, START, pair)
        for control in (CONTINUE, END):
            # The state has two rows, which goes with one or two.
            with pytest.raises(InvalidRequest, match="cannot run these inputs"):
                predict(servable, 1, control, three)
        assert predict(servable, 1, x=pair) == ([2, 2, 2, 2], 1)


class Held:
    """An engine that adds numbers when its gate is open, and says what it was asked."""

    size = 3
    phases = LoadPhases(None, 0.25, 0.5)
    concurrency = 2
    is_quick = True
    is_kept = False
    variables: tuple[str, ...] = ("sum",)
    observer: Observer | None = None
    usage = Usage(1, 0, 0)

    def __init__(self) -> None:
        specs = {"x": TensorSpec("x", np.dtype(np.float32), (1, 2))}
        self.signatures = {DEFAULT_SIGNATURE: Signature(specs, {"y": specs["x"]})}
        self.gate: Gate | None = None
        self.error: Exception | None = None
        self.is_closed = False

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        return self.advance(signature_name, inputs, None, deadline)[0]

    def advance(
        self, signature_name: str, inputs: Tensors, state: Any, deadline: float | None = None
    ) -> tuple[Tensors, Any]:
        gate, error = self.gate, self.error
        if gate is not None:
            gate.pass_through()
        if error is not None:
            raise error
        y = inputs["x"] + (state["sum"] if state else 0)
        return {"y": y}, {"sum": y}

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def held() -> Held:
    return Held()


def around(held: Held, *, turn_timeout: float = PATIENCE, **fields: Any) -> StatefulServable:
    return StatefulServable("m/1", held, Stateful(**fields), SequenceCleaner(0), turn_timeout=turn_timeout)


@contextmanager
def running(held: Held, servable: StatefulServable, control: int = CONTINUE) -> Iterator[None]:
    """A request of sequence 1 that runs for the length of a with block."""
    held.gate = gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(predict, servable, 1, control)
        gate.wait_until_reached()
        held.gate = None
        try:
            yield
        finally:
            gate.open()
        request.result()


def test_a_request_waits_for_those_before_it_until_its_time_is_over(held: Held) -> None:
    servable = around(held)
    with running(held, servable, START):
        for control, left in ((CONTINUE, 0.01), (END, 0.0)):
            with pytest.raises(DeadlineExceeded) as caught:
                predict(servable, 1, control, deadline=time.monotonic() + left)
            assert str(caught.value) == (
                "the request's time was over before earlier ones of its sequence were, on m/1; "
                "sequence 1 is as it was before, and the request may be sent again"
            )
    assert predict(servable, 1, END) == ([2, 2], 1)


def test_without_a_deadline_a_request_does_not_wait_for_ever(held: Held) -> None:
    servable = around(held, turn_timeout=0.01)
    with running(held, servable, START), pytest.raises(Overloaded) as caught:
        predict(servable, 1)
    assert str(caught.value) == "sequence 1 of m/1 was busy with earlier requests for 0 s"
    assert predict(servable, 1) == ([2, 2], 1)


def test_while_the_last_request_runs_the_sequence_is_not_available(held: Held) -> None:
    servable = around(held)
    predict(servable, 1, START)
    with running(held, servable, END):
        for control in (CONTINUE, START, END):
            with pytest.raises(SequenceEnding):
                predict(servable, 1, control)
    assert predict(servable, 1, START) == ([1, 1], 1)


def test_a_request_whose_time_is_over_while_it_runs_has_changed_nothing(held: Held) -> None:
    servable = around(held)
    held.error = DeadlineExceeded("the request's time was over while it ran, on m/1")
    with pytest.raises(DeadlineExceeded) as caught:
        predict(servable, 1, START)
    assert str(caught.value) == f"{held.error}; no sequence was started, and the request may be sent again"
    assert servable.sequences == 0
    held.error = None
    predict(servable, 1, START)
    held.error = DeadlineExceeded("the request's time was over while it ran, on m/1")
    for control in (CONTINUE, END):
        with pytest.raises(DeadlineExceeded, match="sequence 1 is as it was before, and the request may be sent again"):
            predict(servable, 1, control)
    held.error = None
    assert predict(servable, 1, END) == ([2, 2], 1)


@pytest.mark.parametrize("error", [InferenceFailed("no"), ZeroDivisionError("a bug")])
def test_a_start_that_fails_leaves_no_sequence(held: Held, error: Exception) -> None:
    servable = around(held, max_sequences=1)
    held.error = error
    with pytest.raises(type(error)):
        predict(servable, 1, START)
    held.error = None
    assert not servable.is_kept
    assert predict(servable, 1, START) == ([1, 1], 1)
    assert servable.is_kept


def test_a_real_inference_that_is_too_slow_does_not_move_its_sequence(tmp_path: Path) -> None:
    with serving(models.slow_accumulator(), tmp_path, requests=2) as servable:
        x = np.ones((2000, 512), np.float32)
        predict(servable, 1, START, 3 * ONES_WIDE)
        # It takes far longer; on a busy machine it may not even have begun by then.
        with pytest.raises(DeadlineExceeded, match=r"on model/1; sequence 1 is as it was before"):
            predict(servable, 1, END, x, time.monotonic() + 0.02)
        assert predict(servable, 1, END, ONES_WIDE)[0][0] == pytest.approx(4)


ONES_WIDE = np.ones((1, 512), np.float32)


def test_a_model_that_is_not_configured_so_begins_each_request_anew(tmp_path: Path) -> None:
    models.save(models.accumulator(), tmp_path)
    with models.loaded(tmp_path) as servable, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: servable.predict(DEFAULT_SIGNATURE, {"x": ONES}), range(50)))
        assert all(answer["y"].tolist() == [[1, 1]] for answer in answers)
        assert servable.variables == ("sum",)
        assert not servable.is_kept
        # Its names are nothing special to it either.
        with pytest.raises(InvalidRequest, match="input size does not match signature"):
            servable.predict(DEFAULT_SIGNATURE, {"x": ONES, **special(1, START)})


def test_a_model_without_a_state_may_be_stateful_and_nothing_comes_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(models.doubler(), tmp_path) as servable:
        assert "model/1 is to be stateful and has no state, so each of its requests stands for itself" in caplog.text
        assert predict(servable, 1, START) == ([2, 2], 1)
        assert predict(servable, 1) == ([2, 2], 1)
        assert predict(servable, 1, END) == ([2, 2], 1)
        with pytest.raises(SequenceNotFound):
            predict(servable, 1)


class Loads:
    def __init__(self, held: Held) -> None:
        self._held = held

    def estimate(self, version: ModelVersion) -> int:
        return 1

    def load(self, version: ModelVersion) -> Servable:
        return self._held


@pytest.mark.parametrize("taken", [("sequence_id", "y"), ("x", "sequence_control_input"), ("x", "sequence_id")])
def test_a_model_with_an_input_or_output_of_a_sequences_name_is_closed_again(
    held: Held, taken: tuple[str, str], tmp_path: Path
) -> None:
    models.save(models.doubler(), tmp_path)
    x, y = (TensorSpec(name, np.dtype(np.float32), (1, 2)) for name in taken)
    held.signatures = {DEFAULT_SIGNATURE: Signature({x.name: x}, {y.name: y})}
    with pytest.raises(LoadFailed) as caught:
        StatefulLoader(Loads(held)).load(stateful(models.version_at(tmp_path)))
    (name,) = {*taken} - {"x", "y"}
    assert str(caught.value) == f"model/1 has a tensor named '{name}', which is the server's own of a stateful model"
    assert held.is_closed
    assert cleaners() == []


@pytest.mark.parametrize(
    "options",
    [
        ModelOptions(batch_size=AUTO),
        ModelOptions(shape=(("x", AUTO),)),
        ModelOptions(shape=(("a", ((1, 1),)), ("b", AUTO))),
    ],
)
def test_a_stateful_model_takes_no_dynamic_shapes(options: ModelOptions, tmp_path: Path) -> None:
    models.save(models.accumulator(), tmp_path)
    loader = StatefulLoader(models.loader(models.files_at(tmp_path)))
    with pytest.raises(LoadFailed, match=r"^Dynamic shape and dynamic batch size are not supported for stateful mode"):
        loader.load(stateful(models.version_at(tmp_path), options=options))


def test_a_stateful_model_runs_on_the_cpu_alone(tmp_path: Path) -> None:
    models.save(models.accumulator(), tmp_path)
    loader = StatefulLoader(models.loader(models.files_at(tmp_path)))
    with pytest.raises(LoadFailed) as caught:
        loader.load(stateful(models.version_at(tmp_path), options=ModelOptions(device="AUTO:CPU")))
    assert str(caught.value) == "target_device of model/1 is AUTO:CPU; want CPU for a stateful model"


def test_a_stateful_model_is_one_process_s(tmp_path: Path) -> None:
    models.save(models.accumulator(), tmp_path)
    version = models.version_at(tmp_path)
    loader = StatefulLoader(models.loader(models.files_at(tmp_path)), processes=2)
    with pytest.raises(LoadFailed) as caught:
        loader.load(stateful(version))
    assert str(caught.value) == (
        "model/1 is stateful and workers is 2; want workers 1, as a sequence's state is in one process"
    )
    assert loader.estimate(version) > 0
    # Others are.
    loader.load(version).close()


def test_a_low_latency_transformation_makes_a_state_of_a_loop_s(tmp_path: Path) -> None:
    x = np.ones((1, 1, 2), np.float32)
    with serving(models.looper(), tmp_path / "as_it_is") as servable:
        predict(servable, 1, START, x)
        assert predict(servable, 1, x=x)[0] == [1, 1]
    with serving(models.looper(), tmp_path / "transformed", has_low_latency=True) as servable:
        predict(servable, 1, START, x)
        assert predict(servable, 1, x=x)[0] == [2, 2]
        assert predict(servable, 2, START, x)[0] == [1, 1]
        assert predict(servable, 1, END, x)[0] == [3, 3]


def test_a_warm_up_makes_no_sequence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    models.save(models.accumulator(), tmp_path)
    files = models.files_at(tmp_path)
    warming = WarmingLoader(models.loader(files), files, replays=True, iterations=1, from_signature=True)
    servable = StatefulLoader(warming).load(stateful(models.version_at(tmp_path), max_sequences=1))
    try:
        assert "warmed up serving_default of model/1 with zeros" in caplog.text
        assert servable.phases.warm_up > 0
        assert not servable.is_kept
        assert predict(servable, None, START)[0] == [1, 1]
    finally:
        servable.close()


def test_stateful_models_are_not_batched_nor_quick(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    models.save(models.accumulator((DYNAMIC, 2)), tmp_path)
    files, version = models.files_at(tmp_path), models.version_at(tmp_path)
    loader = BatchingLoader(
        StatefulLoader(models.loader(files)), files, parameters=BatchingParameters(), reads_per_model=False
    )
    batched, single = loader.load(version), loader.load(stateful(version))
    try:
        assert isinstance(batched, BatchingServable)
        assert isinstance(single, StatefulServable)
        assert "requests to serving_default of model/1 are not batched: each of them belongs to a sequence" in (
            caplog.messages
        )
        for _ in range(50):
            predict(single, None, START)
        assert not single.is_quick
    finally:
        batched.close()
        single.close()


def test_others_see_of_it_what_they_see_of_its_model(held: Held) -> None:
    servable = around(held)
    assert (servable.size, servable.phases, servable.concurrency) == (held.size, held.phases, held.concurrency)
    assert servable.usage == held.usage

    class Ear:
        def ran(self, waited: float, took: float) -> None: ...

        def stacked(self, rows: int) -> None: ...

    servable.observer = ear = Ear()
    assert held.observer is ear
    assert servable.observer is ear
    predict(servable, 1, START)
    assert repr(servable) == "<StatefulServable m/1 1 sequences>"
    servable.close()
    assert held.is_closed
    assert servable.sequences == 0


def cleaners() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sequences"]


def test_one_thread_cleans_up_after_all_models_that_want_it(tmp_path: Path) -> None:
    models.save(models.accumulator(), tmp_path)
    files, version = models.files_at(tmp_path), models.version_at(tmp_path)
    loader = StatefulLoader(models.loader(files))
    loaded: list[Servable] = [loader.load(version), loader.load(stateful(version, has_idle_cleanup=False))]
    assert cleaners() == []
    loaded += [loader.load(stateful(version)) for _ in range(2)]
    assert len(cleaners()) == 1
    for servable in loaded:
        servable.close()
    until(lambda: not cleaners())


def test_idle_sequences_of_a_real_model_go(tmp_path: Path) -> None:
    models.save(models.accumulator(), tmp_path)
    loader = StatefulLoader(models.loader(models.files_at(tmp_path)), 0.001)
    servable = loader.load(stateful(models.version_at(tmp_path)))
    try:
        predict(servable, 1, START)
        until(lambda: not servable.is_kept)
        with pytest.raises(SequenceNotFound):
            predict(servable, 1)
    finally:
        servable.close()


def test_a_recorded_request_warms_up_what_it_is_a_request_to_and_makes_no_sequence(tmp_path: Path) -> None:
    models.save(models.accumulator(), tmp_path)
    log = schema.PredictionLog()
    request = log.predict_log.request
    for name, array in {"x": ONES, **special(5, START)}.items():
        tensor_proto.encode(array, request.inputs[name])
    request.output_filter.extend(["y", "sequence_id"])
    path = tmp_path / "1" / RECORDS_FILE
    path.parent.mkdir()
    path.write_bytes(framed(log.SerializeToString()))
    files = models.files_at(tmp_path)
    warming = WarmingLoader(models.loader(files), files, replays=True, iterations=2, from_signature=False)
    servable = StatefulLoader(warming).load(stateful(models.version_at(tmp_path)))
    try:
        assert not servable.is_kept
        assert predict(servable, 5, START) == ([1, 1], 5)
    finally:
        servable.close()


class Small:
    """Loads models that are said to take one byte each."""

    def __init__(self, inner: StatefulLoader) -> None:
        self._inner = inner

    def estimate(self, version: ModelVersion) -> int:
        return 1

    def load(self, version: ModelVersion) -> Servable:
        servable = self._inner.load(version)
        servable.size = 1
        return servable


def three_versions(base: Path) -> Sequence[ModelVersion]:
    for number in (1, 2, 3):
        models.save(models.accumulator(), base, number)
    return [stateful(models.version_at(base, number)) for number in (1, 2, 3)]


def test_a_model_with_open_sequences_does_not_make_room(tmp_path: Path) -> None:
    first, second, third = three_versions(tmp_path)
    loader = Small(StatefulLoader(models.loader(models.files_at(tmp_path))))
    cache = ModelCache[ModelVersion, Servable](loader, 2, is_kept=lambda servable: servable.is_kept)
    try:
        with cache.lease(first) as servable:
            predict(servable, 1, START)
        with cache.lease(second):
            pass
        with cache.lease(third):
            pass
        assert (cache.is_loaded(first), cache.is_loaded(second)) == (True, False)
        with cache.lease(first) as servable:
            assert predict(servable, 1, END)[0] == [2, 2]
        with cache.lease(third), cache.lease(second):
            pass
        assert not cache.is_loaded(first)
    finally:
        cache.close()


def test_retiring_a_model_drops_its_sequences(tmp_path: Path) -> None:
    (first, *_) = three_versions(tmp_path)
    cache = ModelCache[ModelVersion, Servable](
        StatefulLoader(models.loader(models.files_at(tmp_path))), 1 << 30, is_kept=lambda servable: servable.is_kept
    )
    try:
        with cache.lease(first) as servable:
            predict(servable, 1, START)
            cache.retire(first)
            # It is still being answered.
            assert predict(servable, 1)[0] == [2, 2]
        assert cache.snapshot().holdings == []
        with cache.lease(first) as servable, pytest.raises(SequenceNotFound):
            predict(servable, 1)
    finally:
        cache.close()


def test_a_plain_model_is_loaded_as_before(tmp_path: Path) -> None:
    models.save(models.doubler(), tmp_path)
    servable = StatefulLoader(models.loader(models.files_at(tmp_path))).load(models.version_at(tmp_path))
    assert isinstance(servable, OpenVinoServable)
    servable.close()
