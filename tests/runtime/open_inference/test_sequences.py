"""Which sequence of a stateful model a request is of, by Triton's parameters and by OpenVINO Model Server's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.codecs.open_inference.inference import InferResponse
from runtime.errors import InvalidRequest, SequenceExists, SequenceNotFound
from runtime.open_inference import infer
from runtime.signature import TensorSpec
from runtime.stateful_servable import CONTROL, ID
from tests.runtime import models
from tests.runtime.open_inference.requests import Mirror, request
from tests.runtime.open_inference.test_infer import Lent
from tests.runtime.servables import F32, NAME, Stage, stage
from tests.runtime.test_stateful import serving

MOST = 2**64 - 1
X = np.ones((1, 2), np.float32)


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(1, make=lambda _: Mirror(TensorSpec("x", F32, (-1, 2)), special=(ID, CONTROL))) as made:
        yield made


def ask(s: Stage, *outputs: str, parameters: Any = None, **inputs: Any) -> InferResponse:
    return infer.run(s.server, NAME, None, request(*outputs, parameters=parameters, x=X, **inputs))


@pytest.mark.parametrize(
    ("parameters", "number", "control"),
    [
        ({}, 0, 0),
        ({"sequence_id": 0, "sequence_start": False, "sequence_end": False}, 0, 0),
        ({"sequence_id": 7}, 7, 0),
        ({"sequence_id": MOST, "sequence_start": True}, MOST, 1),
        ({"sequence_start": True}, 0, 1),
        ({"sequence_id": 7, "sequence_end": True, "sequence_start": False}, 7, 2),
    ],
)
def test_parameters_become_what_the_model_is_given(
    s: Stage, parameters: dict[str, Any], number: int, control: int
) -> None:
    ask(s, parameters=parameters)
    assert s.loader.servables[1].given == {
        "x": [[1, 1]],
        "sequence_id": [number],
        "sequence_control_input": [control],
    }


@pytest.mark.parametrize("parameters", [{}, {"sequence_id": 0, "sequence_start": False}])
def test_inputs_are_given_as_they_are(s: Stage, parameters: dict[str, Any]) -> None:
    ask(
        s,
        parameters=parameters,
        sequence_id=np.array([MOST], np.uint64),
        sequence_control_input=np.array([2], np.uint32),
    )
    assert s.loader.servables[1].given == {"x": [[1, 1]], "sequence_id": [MOST], "sequence_control_input": [2]}


@pytest.mark.parametrize(
    ("parameters", "inputs", "text"),
    [
        ({"sequence_id": "abc"}, {}, "'sequence_id' is 'abc'; want a number from 1"),
        ({"sequence_id": "7"}, {}, "'sequence_id' is '7'"),
        ({"sequence_id": -1}, {}, "'sequence_id' is -1"),
        ({"sequence_id": MOST + 1}, {}, "'sequence_id' is 18446744073709551616"),
        ({"sequence_id": True}, {}, "'sequence_id' is true"),
        ({"sequence_id": 7.0}, {}, "'sequence_id' is 7.0"),
        ({"sequence_id": 7, "sequence_start": 1}, {}, "'sequence_start' is 1; want true or false"),
        ({"sequence_id": 7, "sequence_end": "true"}, {}, "'sequence_end' is 'true'"),
        ({"sequence_id": 7, "sequence_start": True, "sequence_end": True}, {}, "are both true"),
        (
            {"sequence_id": 7},
            {"sequence_id": np.array([7], np.uint64)},
            r"in the inputs \{sequence_id\} and in the parameters",
        ),
        (
            {"sequence_end": True},
            {"sequence_control_input": np.array([2], np.uint32)},
            r"in the inputs \{sequence_control_input\} and in the parameters",
        ),
        ({}, {"sequence_id": np.array([7], np.int64)}, "Expected: UINT64; Actual: INT64; input name: sequence_id"),
        ({}, {"sequence_id": np.array([7, 8], np.uint64)}, r"has shape \(2,\); want \(1,\)"),
        ({}, {"sequence_id": np.array(7, np.uint64)}, r"has shape \(\); want \(1,\)"),
        ({}, {"sequence_control_input": np.array([1], np.uint64)}, "Expected: UINT32; Actual: UINT64"),
        ({}, {"sequence": np.array([1], np.uint64)}, r"not known \{sequence\}"),
    ],
)
def test_what_makes_no_sense_is_the_clients_fault(
    s: Stage, parameters: dict[str, Any], inputs: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidRequest, match=text):
        ask(s, parameters=parameters, **inputs)
    assert s.loader.servables[1].given == {}


@pytest.mark.parametrize(
    ("outputs", "answered"),
    [
        ([], ["x_out", "sequence_id"]),
        (["x_out"], ["x_out", "sequence_id"]),
        (["sequence_id", "x_out"], ["sequence_id", "x_out"]),
        (["sequence_id"], ["sequence_id"]),
    ],
)
def test_the_sequence_is_always_answered_and_once(s: Stage, outputs: list[str], answered: list[str]) -> None:
    response = ask(s, *outputs, parameters={"sequence_id": 7})
    assert [output.name for output in response.outputs] == answered


def test_a_real_model_goes_on_from_its_sequences_state(tmp_path: Path) -> None:
    with serving(models.accumulator(), tmp_path) as servable, stage(1, make=lambda _: Lent(servable)) as s:

        def step(**parameters: Any) -> tuple[list[float], int]:
            y, number = ask(s, parameters=parameters).outputs
            return y.array.tolist()[0], int(number.array[0])

        assert step(sequence_id=7, sequence_start=True) == ([1, 1], 7)
        assert step(sequence_id=7) == ([2, 2], 7)
        with pytest.raises(SequenceExists):
            step(sequence_id=7, sequence_start=True)
        with pytest.raises(SequenceNotFound):
            step(sequence_id=8)
        with pytest.raises(InvalidRequest, match="Sequence ID has not been provided"):
            step()
        drawn = step(sequence_start=True)[1]
        assert drawn not in (0, 7)
        assert step(sequence_id=drawn, sequence_end=True) == ([2, 2], drawn)
        assert step(sequence_id=7, sequence_end=True) == ([3, 3], 7)
        assert servable.sequences == 0
