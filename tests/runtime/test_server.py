"""ModelServer: which version answers, and what a status says."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from model_cache.errors import (
    CacheFull,
    LoadFailed,
    LoadPending,
    ModelCacheError,
    ModelNotFound,
    ModelTooLarge,
    StorageUnavailable,
)
from model_cache.repository import LISTING_TTL, ServableId
from runtime.server import State, VersionStatus
from runtime.status import Code
from tests.fakes import PATIENCE
from tests.runtime.servables import NAME, predict, stage

Y = [2.5, 3.0]
BROKEN = LoadFailed("Incorrect weights in bin file!")
FAILURE_TTL = 30.0


def available(version: int) -> VersionStatus:
    return VersionStatus(version, State.AVAILABLE, Code.OK, "")


def test_the_states_have_tensorflow_servings_numbers() -> None:
    assert {state.name: state.value for state in State} == {
        "START": 10,
        "LOADING": 20,
        "AVAILABLE": 30,
        "UNLOADING": 40,
        "END": 50,
    }


def test_the_newest_version_answers_by_default() -> None:
    # As numbers: as texts, 9 would be the newest.
    with stage(1, 9, 10) as s:
        assert predict(s.server) == (10, Y)
        assert s.loader.loads == [10]


def test_any_version_answers_if_it_is_named() -> None:
    with stage(1, 9, 10) as s:
        assert predict(s.server, 9) == (9, Y)
        assert predict(s.server, 1) == (1, Y)
        assert predict(s.server) == (10, Y)


def test_a_version_is_loaded_once() -> None:
    with stage(1) as s:
        for _ in range(3):
            predict(s.server)
        assert s.loader.loads == [1]


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("other", None, r"Servable not found for request: Latest\(other\)"),
        ("other", 1, r"Servable not found for request: .*other"),
        (NAME, 7, rf"Servable not found for request: Specific\({NAME}, 7\)"),
        (NAME, -1, rf"Servable not found for request: Specific\({NAME}, -1\)"),
        (NAME, 1 << 63, "Servable not found for request: Specific"),
    ],
)
def test_what_is_not_there_is_not_found(name: str, version: int | None, message: str) -> None:
    with stage(1, 2) as s:
        with pytest.raises(ModelNotFound, match=message), s.server.lease(name, version):
            pass
        assert s.loader.loads == []


def test_a_model_without_versions_is_not_found() -> None:
    with stage() as s:
        with pytest.raises(ModelNotFound, match=rf"Servable not found for request: Latest\({NAME}\)"):
            predict(s.server)
        with pytest.raises(ModelNotFound, match=f"Could not find any versions of model {NAME}"):
            s.server.status(NAME)


def test_version_0_means_the_default_one_unless_it_is_there() -> None:
    with stage(1, 2) as s:
        assert predict(s.server, 0) == (2, Y)
        assert len(s.server.status(NAME, 0)) == 2
    with stage(0, 1) as s:
        assert predict(s.server, 0) == (0, Y)
        assert s.server.status(NAME, 0) == [available(0)]


def test_the_version_before_goes_on_if_the_newest_is_broken() -> None:
    with stage(1, 2, 3) as s:
        s.loader.broken[3] = BROKEN
        assert predict(s.server) == (2, Y)
        # And the broken one is not compiled for every request.
        assert predict(s.server) == (2, Y)
        assert s.loader.loads == [3, 2]
        assert s.server.status(NAME) == [
            VersionStatus(3, State.END, Code.FAILED_PRECONDITION, "Incorrect weights in bin file!"),
            available(2),
            available(1),
        ]


def test_a_broken_version_that_is_named_fails_and_says_why() -> None:
    with stage(1, 2) as s:
        s.loader.broken[2] = BROKEN
        with pytest.raises(LoadFailed, match="Incorrect weights"):
            predict(s.server, 2)
        assert predict(s.server, 1) == (1, Y)


def eventually(is_so: Callable[[], bool]) -> None:
    """Wait for what happens in the background, for which there is no event."""
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_newest_is_tried_again_after_a_while() -> None:
    with stage(1, 2) as s:
        s.loader.broken[2] = BROKEN
        assert predict(s.server) == (1, Y)
        s.loader.broken.clear()
        assert predict(s.server) == (1, Y)
        s.pass_seconds(FAILURE_TTL)
        eventually(lambda: predict(s.server) == (2, Y))
        assert s.server.status(NAME) == [available(2), available(1)]


def test_if_all_are_broken_the_newests_reason_is_given() -> None:
    with stage(1, 2) as s:
        s.loader.broken.update({1: LoadFailed("old trouble"), 2: LoadFailed("new trouble")})
        for _ in range(2):
            with pytest.raises(LoadFailed, match="new trouble"):
                predict(s.server)
        assert [(status.state, status.message) for status in s.server.status(NAME)] == [
            (State.END, "new trouble"),
            (State.END, "old trouble"),
        ]


def test_a_newest_that_cannot_be_fetched_leaves_the_one_that_is_loaded() -> None:
    with stage(1, 2) as s:
        assert predict(s.server, 1) == (1, Y)
        s.loader.broken[2] = StorageUnavailable("no route to host")
        assert predict(s.server) == (1, Y)
        status = s.server.status(NAME)[0]
        assert status[:3] == (2, State.END, Code.UNAVAILABLE)
        # Where models are stored, and how that answers, is for the log.
        assert "no route to host" not in status.message


def test_with_the_storage_away_other_versions_are_not_tried_one_after_the_other() -> None:
    with stage(1, 2, 3) as s:
        s.loader.broken.update(dict.fromkeys((1, 2, 3), StorageUnavailable("no route to host")))
        with pytest.raises(StorageUnavailable, match="no route to host"):
            predict(s.server)
        assert s.loader.loads == [3]


def test_a_version_that_is_too_large_is_an_error_and_not_a_reason_for_an_older_one() -> None:
    with stage(1, 2) as s:
        s.loader.broken[2] = ModelTooLarge("needs 5 bytes")
        with pytest.raises(ModelTooLarge):
            predict(s.server)


def test_a_bug_while_loading_is_raised_as_it_is_and_leaves_nothing_behind() -> None:
    with stage(1, 2) as s:
        s.loader.broken[2] = ZeroDivisionError("a bug")
        with pytest.raises(ZeroDivisionError):
            predict(s.server)
        del s.loader.broken[2]
        assert predict(s.server) == (2, Y)


def test_the_storage_may_go_away_once_the_model_is_loaded() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.break_storage(StorageUnavailable("no such bucket"))
        s.pass_seconds(2 * LISTING_TTL)
        assert predict(s.server) == (1, Y)
        assert predict(s.server, 1) == (1, Y)
        assert s.server.status(NAME) == [available(1)]


def test_a_storage_that_never_could_be_listed_is_unavailable() -> None:
    with stage(1) as s:
        s.break_storage(StorageUnavailable("no such bucket"))
        with pytest.raises(StorageUnavailable, match="no such bucket"):
            predict(s.server)
        with pytest.raises(StorageUnavailable, match="no such bucket"):
            s.server.status(NAME)


def test_what_changed_while_it_was_fetched_is_listed_anew_by_the_next_request() -> None:
    with stage(1) as s:
        s.loader.broken[1] = StorageUnavailable("1/model.xml is no longer what was listed")
        with pytest.raises(StorageUnavailable):
            predict(s.server)
        s.loader.broken.clear()
        s.storage.blobs["2/model.xml"] = b""
        assert predict(s.server) == (2, Y)


def test_a_new_version_is_found_when_the_listing_is_old() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.storage.blobs["2/model.xml"] = b""
        assert predict(s.server) == (1, Y)
        s.pass_seconds(LISTING_TTL)
        eventually(lambda: predict(s.server) == (2, Y))


def test_the_version_that_serves_goes_on_while_a_newer_one_loads() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.storage.blobs["2/model.xml"] = b""
        s.pass_seconds(LISTING_TTL)
        gate = s.loader.hold(2)
        for _ in range(3):
            assert predict(s.server) == (1, Y)
        gate.wait_until_reached()
        assert predict(s.server) == (1, Y)
        gate.open()
        eventually(lambda: predict(s.server) == (2, Y))
        assert s.loader.loads == [1, 2]


@pytest.mark.parametrize("trouble", [ModelTooLarge("needs 5 bytes"), StorageUnavailable("no route"), CacheFull("busy")])
def test_whatever_is_wrong_with_a_newer_version_the_one_that_serves_goes_on(trouble: ModelCacheError) -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.storage.blobs["2/model.xml"] = b""
        s.loader.broken[2] = trouble
        s.pass_seconds(LISTING_TTL)
        for _ in range(3):
            assert predict(s.server) == (1, Y)
        eventually(lambda: 2 in s.loader.loads)
        assert predict(s.server) == (1, Y)
        # Not at every request.
        assert s.loader.loads.count(2) == 1


def test_a_version_asked_for_by_number_does_not_become_the_default() -> None:
    with stage(1, 2) as s:
        assert predict(s.server, 1) == (1, Y)
        assert predict(s.server) == (2, Y)


def test_a_version_that_is_removed_is_not_found() -> None:
    with stage(1, 2) as s:
        assert predict(s.server) == (2, Y)
        del s.storage.blobs["2/model.xml"]
        s.pass_seconds(LISTING_TTL)
        assert predict(s.server) == (1, Y)
        with pytest.raises(ModelNotFound):
            predict(s.server, 2)


def test_new_bytes_under_an_old_number_are_loaded_anew() -> None:
    with stage(1) as s:
        predict(s.server)
        s.storage.blobs["1/model.xml"] = b"retrained"
        s.pass_seconds(LISTING_TTL)
        predict(s.server)
        assert s.loader.loads == [1, 1]


def test_a_version_is_loading_until_it_is_available() -> None:
    with stage(1, 2) as s, ThreadPoolExecutor(1) as pool:
        gate = s.loader.hold(2)
        first = pool.submit(predict, s.server)
        gate.wait_until_reached()
        assert s.server.status(NAME) == [VersionStatus(2, State.LOADING, Code.OK, ""), available(1)]
        assert s.server.status(NAME, 2) == [VersionStatus(2, State.LOADING, Code.OK, "")]
        gate.open()
        assert first.result(PATIENCE) == (2, Y)
        assert s.server.status(NAME, 2) == [available(2)]


def test_a_version_that_can_be_loaded_on_demand_is_available() -> None:
    with stage(1, 2) as s:
        assert s.server.status(NAME) == [available(2), available(1)]
        assert s.loader.loads == []


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("other", None, "other"),
        (NAME, 7, f"Could not find version 7 of model {NAME}"),
        (NAME, -1, f"Could not find version -1 of model {NAME}"),
    ],
)
def test_the_status_of_what_is_not_there_is_not_found(name: str, version: int | None, message: str) -> None:
    with stage(1) as s, pytest.raises(ModelNotFound, match=message):
        s.server.status(name, version)


def test_all_who_come_while_a_version_loads_share_one_load() -> None:
    with stage(1) as s, ThreadPoolExecutor(8) as pool:
        gate = s.loader.hold(1)
        answers = [pool.submit(predict, s.server) for _ in range(8)]
        gate.wait_until_reached()
        gate.open()
        assert [answer.result(PATIENCE) for answer in answers] == [(1, Y)] * 8
        assert s.loader.loads == [1]


def test_a_wait_for_a_load_ends_and_the_load_goes_on() -> None:
    with stage(1, load_timeout=0.05) as s:
        gate = s.loader.hold(1)
        for _ in range(2):
            with pytest.raises(LoadPending):
                predict(s.server)
        gate.open()
        eventually(lambda: s.server.status(NAME) == [available(1)] and predict(s.server) == (1, Y))
        assert s.loader.loads == [1]


def test_a_start_waits_as_long_as_it_takes() -> None:
    with stage(1, load_timeout=0.01) as s, ThreadPoolExecutor(1) as pool:
        gate = s.loader.hold(1)
        start = pool.submit(s.server.start, NAME)
        gate.wait_until_reached()
        with pytest.raises(LoadPending):
            predict(s.server)
        gate.open()
        assert start.result(PATIENCE) == ServableId(NAME, 1)


def test_a_start_loads_the_newest_that_loads() -> None:
    with stage(1, 2) as s:
        s.loader.broken[2] = BROKEN
        assert s.server.start(NAME) == ServableId(NAME, 1)
        assert s.loader.loads == [2, 1]


@pytest.mark.parametrize("error", [BROKEN, StorageUnavailable("no such bucket")])
def test_a_start_that_fails_says_why_and_may_be_tried_again(error: ModelCacheError) -> None:
    with stage(1) as s:
        s.loader.broken[1] = error
        with pytest.raises(type(error), match=str(error)):
            s.server.start(NAME)
        s.loader.broken.clear()
        s.pass_seconds(FAILURE_TTL)
        assert s.server.start(NAME) == ServableId(NAME, 1)


def test_closing_lets_a_lease_end_first() -> None:
    with stage(1) as s:
        with s.server.lease(NAME) as lease:
            s.server.close()
            assert not s.loader.servables[1].is_closed
            assert lease.servable.signatures
        assert s.loader.servables[1].is_closed
