"""From what was measured to what is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cold_start import BARE, CACHE, DECANT, DISK, FLOORS, S3, Result, ratio
from benchmarks.load import Load
from benchmarks.tasks import BenchmarkFailed, Task
from benchmarks.throughput import CEILING, GRPC, NAIVE, REST, V2_BINARY, V2_GRPC, Cell, verdicts_of


def cell(contender: str, callers: int, rate: float, errors: int = 0) -> Cell:
    return Cell("resnet50", contender, callers, Load(rate, 0.02, 0.03, errors), 50.0)


def test_throughput_is_judged_by_the_worst_concurrency() -> None:
    cells = [cell(CEILING, 1, 50), cell(GRPC, 1, 49), cell(GRPC, 8, 47), cell(NAIVE, 8, 20, errors=3)]
    throughput, errors = verdicts_of([*cells, cell(GRPC, 64, 48)])
    assert (throughput.figure, throughput.is_reached) == (0.94, False)
    assert "(at 8)" in throughput.what
    # Not the naive handler's.
    assert (errors.figure, errors.is_reached) == (0, True)


def test_one_error_of_decant_misses_the_target() -> None:
    *_, errors = verdicts_of([cell(REST, 1, 50), cell(GRPC, 1, 50, errors=1)])
    assert (errors.figure, errors.is_reached) == (1, False)


def test_each_form_of_a_protocol_has_its_target() -> None:
    binary, grpc, errors = verdicts_of([cell(V2_BINARY, 1, 48), cell(V2_GRPC, 1, 40, errors=2)])
    assert (binary.figure, binary.is_reached) == (0.96, True)
    assert (grpc.figure, grpc.is_reached) == (0.8, False)
    assert errors.figure == 2


def test_a_queue_is_as_long_as_its_callers_take() -> None:
    assert cell(REST, 64, 40).queue == 64 / 50


def test_a_start_is_compared_with_the_floor_of_its_source() -> None:
    results = [
        Result("resnet50", BARE, DISK, [0.2, 0.3, 0.25]),
        Result("digits", BARE, DISK, [0.1]),
        Result("resnet50", BARE, S3, [0.5]),
        Result("resnet50", DECANT, S3, [0.6, 9.0, 0.5]),
        Result("resnet50", DECANT, CACHE, [0.275]),
    ]
    bare, _, _, first, second = results
    assert ratio(first, results, FLOORS[S3]) == 0.6 / 0.5
    assert ratio(second, results, FLOORS[CACHE]) == pytest.approx(0.275 / 0.25)
    assert ratio(bare, results, FLOORS[DISK]) is None


ANSWER = [[0.0, 0.25, 1.0]]
TASK = Task("m", Path("m"), np.ones((1, 2), np.float32), "y", np.array(ANSWER, np.float32))


@pytest.mark.parametrize(
    "answer",
    [
        {"y": ANSWER},
        {"outputs": {"x": [1], "y": ANSWER}},
        {"predictions": ANSWER},
        {"predictions": [{"x": 1, "y": ANSWER[0]}]},
        {"outputs": [{"name": "x", "data": [1]}, {"name": "y", "data": ANSWER[0]}]},
    ],
)
def test_each_servers_way_to_answer_is_understood(answer: object) -> None:
    TASK.check("it", json.dumps(answer).encode())


def test_an_answer_that_is_off_by_more_than_bf16_ends_the_benchmark() -> None:
    TASK.check("it", b'{"predictions": [[0.009, 0.25, 1.0]]}')
    with pytest.raises(BenchmarkFailed, match="it gave a wrong answer for m"):
        TASK.check("it", b'{"predictions": [[0.011, 0.25, 1.0]]}')
    with pytest.raises(BenchmarkFailed, match="it gave a wrong answer for m"):
        TASK.check("it", b'{"predictions": [[NaN, 0.25, 1.0]]}')
