"""The statistics extension: what is counted, of which versions, and what several processes have counted together."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from model_cache.errors import LoadFailed, ModelNotFound, StorageUnavailable
from model_cache.policy import Latest
from model_cache.repository import ServableId
from runtime.codecs.open_inference.reports import Duration, ModelStatistics
from runtime.observing import ObservedServer
from runtime.open_inference import statistics
from runtime.server import ModelServer
from tests.fakes import PATIENCE, until
from tests.runtime.servables import NAME, predict, stage

ONE = ServableId(NAME, 1)


def test_a_version_has_statistics_before_its_first_request() -> None:
    with stage(1, 2) as s:
        assert statistics.rows(s.server) == []
        assert statistics.rows(s.server, NAME) == [ModelStatistics(NAME, "1"), ModelStatistics(NAME, "2")]
        assert statistics.rows(s.server) == statistics.rows(s.server, NAME)
        assert statistics.rows(s.server, NAME, 2) == [ModelStatistics(NAME, "2")]
        assert s.loader.loads == []


def test_what_is_counted_is_told_in_tritons_form() -> None:
    with stage(1) as s:
        before = int(time.time() * 1e3)
        counts = statistics.of(s.server).of(ONE)
        counts.succeeded(8, 0.5, 0.25, 2.0, 0.125, 3.0)
        counts.succeeded(1, 0.5, 0.25, 2.0, 0.125, 3.0)
        counts.failed(1.5)
        (row,) = statistics.rows(s.server, NAME)
        assert before <= row.last_inference <= time.time() * 1e3
        assert row._replace(last_inference=0) == ModelStatistics(
            NAME,
            "1",
            inference_count=9,
            execution_count=2,
            success=Duration(2, 6_000_000_000),
            fail=Duration(1, 1_500_000_000),
            queue=Duration(2, 1_000_000_000),
            compute_input=Duration(2, 500_000_000),
            compute_infer=Duration(2, 4_000_000_000),
            compute_output=Duration(2, 250_000_000),
        )


def test_a_failure_is_no_inference() -> None:
    with stage(1) as s:
        statistics.of(s.server).of(ONE).failed(0.5)
        assert statistics.rows(s.server, NAME) == [ModelStatistics(NAME, "1", fail=Duration(1, 500_000_000))]


def test_all_fronts_of_a_server_count_together() -> None:
    with stage(1) as s, ThreadPoolExecutor(4) as pool:
        # As they are with metrics.
        servers = [s.server, *(cast(ModelServer, ObservedServer(s.server)) for _ in range(3))]

        def count(server: ModelServer) -> None:
            for _ in range(250):
                with server.lease(NAME) as lease:
                    statistics.of(server).of(lease.id).succeeded(2, 0, 0, 0, 0, 0)
                statistics.rows(server, NAME)

        for done in [pool.submit(count, server) for server in servers]:
            done.result(PATIENCE)
        assert {statistics.rows(server, NAME)[0].inference_count for server in servers} == {2000}


def test_what_is_neither_offered_nor_in_memory_is_forgotten() -> None:
    with stage(1, policy=Latest(1)) as s:
        predict(s.server)
        of = statistics.of(s.server).of
        of(ONE).succeeded(1, 0, 0, 0, 0, 0)
        with s.server.lease(NAME):
            s.put(2)
            until(lambda: predict(s.server)[0] == 2)
            of(ServableId(NAME, 2)).succeeded(1, 0, 0, 0, 0, 0)
            # It is in use.
            assert [row.inference_count for row in statistics.rows(s.server, NAME)] == [1, 1]
        until(lambda: len(s.server.snapshot().holdings) == 1)
        assert [row.version for row in statistics.rows(s.server, NAME)] == ["2"]
        # An end that comes so late is counted nowhere, and does no harm.
        of(ONE).succeeded(1, 0, 0, 0, 0, 0)
        assert [row.version for row in statistics.rows(s.server, NAME)] == ["2"]


def test_what_is_unloaded_keeps_its_statistics() -> None:
    with stage(1) as s:
        predict(s.server)
        statistics.of(s.server).of(ONE).succeeded(1, 0, 0, 0, 0, 0)
        s.server.unload(NAME)
        assert statistics.rows(s.server, NAME)[0].inference_count == 1


def test_versions_that_come_and_go_do_not_pile_up_though_nobody_asks() -> None:
    with stage(1, policy=Latest(1)) as s:
        for number in range(2, 6):
            s.put(number)
            assert s.server.load(NAME).version == number
            statistics.of(s.server).of(ServableId(NAME, number)).failed(1)
            until(lambda: len(s.server.snapshot().holdings) == 1)
        assert len(statistics.of(s.server)._versions) <= 2


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("other", None, r"Could not find any versions of model other \(Model with requested name is not found\)"),
        (NAME, 7, rf"Could not find version 7 of model {NAME} \(Model with requested version is not found\)"),
        # The policy leaves it out.
        (NAME, 1, f"Could not find version 1 of model {NAME}"),
    ],
)
def test_what_is_not_there_is_not_found(name: str, version: int | None, message: str) -> None:
    with stage(1, 2, policy=Latest(1)) as s, pytest.raises(ModelNotFound, match=message):
        statistics.rows(s.server, name, version)


def test_version_0_is_none_in_particular_unless_there_is_one() -> None:
    for versions, wanted in (((1, 2), ["1", "2"]), ((0, 1), ["0"])):
        with stage(*versions) as s:
            assert [row.version for row in statistics.rows(s.server, NAME, 0)] == wanted


def test_a_version_that_was_offered_once_is_not_found() -> None:
    with stage(1, policy=Latest(1)) as s:
        predict(s.server)
        s.put(2)
        until(lambda: predict(s.server)[0] == 2)
        until(lambda: len(s.server.snapshot().holdings) == 1)
        assert s.server.status(NAME, 1)
        with pytest.raises(ModelNotFound, match="Could not find version 1 of model"):
            statistics.rows(s.server, NAME, 1)


def test_a_model_that_cannot_be_listed_is_an_error_and_a_broken_one_has_failed_nothing() -> None:
    with stage(1) as s:
        s.break_storage(StorageUnavailable("no route to host"))
        with pytest.raises(StorageUnavailable):
            statistics.rows(s.server, NAME)
        s.storage.before_list = lambda: None
        s.loader.broken[1] = LoadFailed("Incorrect weights")
        with pytest.raises(LoadFailed):
            predict(s.server)
        assert statistics.rows(s.server, NAME) == [ModelStatistics(NAME, "1")]


def counts(**numbers: float) -> list[float]:
    return [numbers.get(field, nothing) for field, nothing in zip(statistics._FIELDS, statistics._NOTHING, strict=True)]


def test_several_processes_count_together() -> None:
    one: Any = {("m", 1): counts(last=5.0, rows=3, successes=2, queue=0.5), ("m", 2): counts(failures=1)}
    other: Any = {("m", 1): counts(last=4.0, rows=1, successes=1, queue=0.25), ("n", 1): counts(rows=7)}
    together = {
        ("m", 1): counts(last=5.0, rows=4, successes=3, queue=0.75),
        ("m", 2): counts(failures=1),
        ("n", 1): counts(rows=7),
    }
    assert statistics.added_up([one, other]) == together
    assert statistics.added_up([]) == {}
    # Neither is changed by it.
    assert one["m", 1] == counts(last=5.0, rows=3, successes=2, queue=0.5)
    assert statistics.still_there(together, {("m", 1): counts()}) == {("m", 1): together["m", 1]}
    assert statistics.counted(one) == one
