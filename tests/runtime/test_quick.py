"""Which models are quick: those that are answered on the thread that reads, where others wait for them."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.contract import Call, Contract
from runtime.engine import OpenVinoLoader
from runtime.errors import DeadlineExceeded
from runtime.openvino_servable import OpenVinoServable
from runtime.pool import Pool
from runtime.servable import Tensors
from runtime.signature import DEFAULT_SIGNATURE
from tests.fakes import PATIENCE, Gate, until
from tests.runtime import models
from tests.runtime.servables import NAME, HalfPlusTwo, finish_start, stage

MANY = 20_000


@pytest.fixture
def servable(tmp_path: Path) -> Iterator[OpenVinoServable]:
    """Quick for a row, and not for many."""
    with models.serving(models.slow(steps=1), tmp_path, NUM_STREAMS="1") as made:
        yield made


def run(servable: OpenVinoServable, rows: int) -> None:
    servable.predict(DEFAULT_SIGNATURE, {"x": np.ones((rows, 512), np.float32)})


def become_quick(servable: OpenVinoServable) -> None:
    def is_quick() -> bool:
        run(servable, 1)
        return servable.is_quick

    until(is_quick)


def test_a_model_is_quick_once_it_has_been_several_times(servable: OpenVinoServable) -> None:
    assert not servable.is_quick
    # Not by that alone, as the first one tells little.
    run(servable, 1)
    assert not servable.is_quick
    become_quick(servable)


def test_a_model_that_becomes_slow_is_quick_no_more_until_it_is_again(servable: OpenVinoServable) -> None:
    become_quick(servable)
    for _ in range(3):
        run(servable, MANY)
    assert not servable.is_quick
    become_quick(servable)


def test_a_model_that_was_not_waited_for_is_quick_no_more(servable: OpenVinoServable) -> None:
    become_quick(servable)
    many = np.ones((MANY, 512), np.float32)
    with pytest.raises(DeadlineExceeded, match="while it ran"):
        servable.predict(DEFAULT_SIGNATURE, {"x": many}, time.monotonic() + 0.01)
    assert not servable.is_quick


def test_a_model_whose_answers_are_large_is_not_quick(tmp_path: Path) -> None:
    with models.serving(models.doubler(), tmp_path) as servable:
        for _ in range(50):
            servable.predict(DEFAULT_SIGNATURE, {"x": np.ones((20_000, 2), np.float32)})
        assert not servable.is_quick


class Held(np.ndarray[Any, Any]):
    """An input that the engine takes as long to copy as a test wants."""

    gate: Gate

    def copy(self, order: Any = "C") -> Held:
        self.gate.pass_through()
        return super().copy()


def test_a_model_that_has_a_request_is_not_quick_even_if_another_infer_request_is_free(tmp_path: Path) -> None:
    models.save(models.slow(steps=1), tmp_path)
    loader = OpenVinoLoader(models.files_at(tmp_path), {"NUM_STREAMS": "1"}, 2)
    servable = models.load_by(loader, models.version_at(tmp_path))
    with closing(servable), ThreadPoolExecutor(1) as pool:
        become_quick(servable)
        Held.gate = Gate()
        running = pool.submit(servable.predict, DEFAULT_SIGNATURE, {"x": np.ones((2, 512), np.float32).view(Held)})
        Held.gate.wait_until_reached()
        assert not servable.is_quick
        # It could have one at once.
        assert servable.is_idle()
        Held.gate.open()
        running.result(PATIENCE)
        become_quick(servable)


def test_a_pool_is_idle_when_nobody_has_any_of_it() -> None:
    pool = Pool([1, 2])
    assert pool.is_idle
    pool.take()
    assert not pool.is_idle
    pool.give_back(3)
    assert pool.is_idle


class Quick(HalfPlusTwo):
    is_quick = True


def test_only_what_is_loaded_is_quick_and_to_ask_loads_nothing() -> None:
    with stage(1, 2, make=Quick) as s:
        s.server.configure({NAME: s.repository}, {NAME: {"stable": 1}})
        assert not s.server.is_quick(NAME)
        assert not s.server.is_quick(NAME, 1)
        with s.server.lease(NAME):
            assert s.server.is_quick(NAME)
        assert s.server.is_quick(NAME, 2)
        assert not s.server.is_quick(NAME, 1)
        assert not s.server.is_quick(NAME, label="stable")
        with s.server.lease(NAME, 1):
            assert s.server.is_quick(NAME, 1)
            assert s.server.is_quick(NAME, label="stable")
        assert not s.server.is_quick(NAME, 3)
        assert not s.server.is_quick(NAME, label="none")
        assert not s.server.is_quick("other")
        assert s.loader.loads == [2, 1]
        s.cache.retire(s.repository.find(2))
        assert not s.server.is_quick(NAME)


class Large(Quick):
    """Answers with as many numbers as it is asked for, or with one text as long."""

    calls = 0

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        type(self).calls += 1
        size = int(inputs["x"][0])
        return {"y": np.ones(size, np.float32) if size > 0 else np.array([b"x" * -size], object)}


@pytest.mark.parametrize(
    ("size", "accepted", "is_quick"),
    [
        (4 << 10, "", True),
        (5 << 10, "", False),
        (-16 << 10, "", True),
        (-17 << 10, "", False),
        # Something to compress.
        (4 << 10, "gzip", False),
    ],
)
def test_a_large_answer_to_a_quick_request_is_written_elsewhere(size: int, accepted: str, is_quick: bool) -> None:
    with stage(1, make=Large) as s:
        finish_start()
        contract = Contract(s.server, max_body=1 << 20)
        body = b'{"inputs": [%d]}' % size
        call = contract.begin("POST", b"/v1/models/%b:predict" % NAME.encode(), {"accept-encoding": accepted})
        assert isinstance(call, Call)
        with closing(call), s.server.lease(NAME):
            Large.calls = 0
            answer = call.answer_if_quick(body)
            assert (answer is not None) is is_quick
            answer = answer or call.answer(body)
        # And not asked of the model again.
        assert (answer.status, Large.calls) == (200, 1)
        content = gzip.decompress(answer.body) if accepted else answer.body
        (value, *_), *others = json.loads(content).values()
        assert (len(value) if size < 0 else 1, others) == (max(1, -size), [])


def test_a_model_that_was_never_listed_is_not_quick_and_is_not_listed_for_that() -> None:
    with stage(1, make=Quick) as s:
        s.storage.before_list = lambda: pytest.fail("listed")
        assert not s.server.is_quick(NAME)
        assert not s.server.is_quick(NAME, 1)
