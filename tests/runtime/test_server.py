"""ModelServer: which version answers, and what a status says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from model_cache.cache import FAILURE_TTL, OUTAGE_TTL
from model_cache.disk import DiskCache
from model_cache.errors import (
    BlobChanged,
    CacheFull,
    DiskFull,
    DiskUnusable,
    LoadFailed,
    LoadPending,
    ModelCacheError,
    ModelNotFound,
    ModelTooLarge,
    StorageUnavailable,
)
from model_cache.policy import All, Latest, Specific, VersionPolicy
from model_cache.repository import LISTING_TTL, MAX_RETIRED, ModelRepository, ServableId
from runtime.errors import DeadlineExceeded, InvalidRequest
from runtime.server import MAX_REMOVED, RETRY, RETRY_IN_PLACE, ModelServer, State, VersionStatus
from runtime.status import Code
from tests.fakes import PATIENCE, Gate, MemoryStorage, no_more_threads, until
from tests.runtime.servables import NAME, HalfPlusTwo, Stage, predict, stage

Y = [2.5, 3.0]
BROKEN = LoadFailed("Incorrect weights in bin file!")


def available(version: int) -> VersionStatus:
    return VersionStatus(version, State.AVAILABLE, Code.OK, "")


def ended(version: int) -> VersionStatus:
    return VersionStatus(version, State.END, Code.OK, "")


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
        # Clients match on these: TensorFlow Serving's text first, and OpenVINO Model Server's in brackets.
        (
            "other",
            None,
            r"^Servable not found for request: Latest\(other\) \(Model with requested name is not found\)$",
        ),
        (
            "other",
            1,
            r"^Servable not found for request: Specific\(other, 1\) \(Model with requested name is not found\)$",
        ),
        (
            NAME,
            7,
            rf"^Servable not found for request: Specific\({NAME}, 7\) \(Model with requested version is not found\)$",
        ),
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


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Wait at the end for the threads that were started meanwhile."""
    before = set(threading.enumerate())
    yield
    until(lambda: before.issuperset(threading.enumerate()))


def test_the_newest_is_tried_again_after_a_while() -> None:
    with stage(1, 2) as s:
        s.loader.broken[2] = BROKEN
        assert predict(s.server) == (1, Y)
        s.loader.broken.clear()
        assert predict(s.server) == (1, Y)
        s.pass_seconds(FAILURE_TTL)
        until(lambda: predict(s.server) == (2, Y))
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


@pytest.mark.parametrize(
    "error", [ModelTooLarge("needs 5 bytes"), DiskUnusable("Read-only file system"), DiskFull("needs 5 bytes of disk")]
)
def test_an_older_version_serves_if_there_is_no_place_for_the_newest(error: ModelCacheError) -> None:
    """It may be on a disk that takes no other, or smaller."""
    with stage(1, 2) as s:
        s.loader.broken[2] = error
        assert predict(s.server) == (1, Y)
        with pytest.raises(type(error)):
            predict(s.server, 2)


def test_what_the_whole_memory_could_not_hold_is_no_version_that_can_be_had() -> None:
    with stage(1, budget=0) as s:
        with pytest.raises(ModelTooLarge):
            predict(s.server)
        (status,) = s.server.status(NAME)
        assert (status.state, status.code) == (State.END, Code.RESOURCE_EXHAUSTED)
        assert "the whole budget is 0" in status.message


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
        s.loader.broken[1] = BlobChanged("1/model.xml is no longer what was listed")
        with pytest.raises(BlobChanged):
            predict(s.server)
        del s.storage.blobs["1/model.xml"]
        with pytest.raises(ModelNotFound):
            predict(s.server, 1)


def test_a_storage_that_fails_is_not_asked_anew_by_every_request() -> None:
    looks: list[None] = []
    with stage(1) as s:
        s.storage.before_list = lambda: looks.append(None)
        s.loader.broken[1] = StorageUnavailable("no route to host")
        for _ in range(3):
            with pytest.raises(StorageUnavailable):
                predict(s.server)
        assert s.loader.loads == [1]
        assert len(looks) == 1


def test_a_new_version_is_found_when_the_listing_is_old() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.storage.blobs["2/model.xml"] = b""
        assert predict(s.server) == (1, Y)

        def has_changed() -> bool:
            s.pass_seconds(LISTING_TTL)
            return predict(s.server) == (2, Y)

        until(has_changed)


def test_the_version_that_serves_goes_on_while_a_newer_one_loads() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        gate = s.loader.hold(2)
        for version in (None, None, 0):
            assert predict(s.server, version) == (1, Y)
        gate.wait_until_reached()
        assert predict(s.server) == (1, Y)
        # However long it takes, there is one load.
        s.pass_seconds(RETRY)
        assert predict(s.server) == (1, Y)
        gate.open()
        until(lambda: predict(s.server) == (2, Y))
        assert s.loader.loads == [1, 2]


@pytest.mark.parametrize("policy", [Latest(1), All()])
def test_a_version_that_is_not_offered_any_more_leaves_once_its_successor_is_loaded(policy: VersionPolicy) -> None:
    with stage(1, policy=policy) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        gate = s.loader.hold(2)
        assert predict(s.server) == (1, Y)
        gate.wait_until_reached()
        assert s.server.status(NAME)[-1] == available(1)
        assert not s.loader.servables[1].is_closed
        gate.open()
        # By itself; nobody has to ask.
        if policy == Latest(1):
            until(lambda: bool(s.loader.servables[1].is_closed))
            assert s.server.status(NAME) == [available(2), ended(1)]
        until(lambda: predict(s.server) == (2, Y))
        if policy == All():
            assert predict(s.server, 1) == (1, Y)
            assert s.loader.loads == [1, 2]


def test_a_version_that_retires_serves_those_who_have_it_to_the_end() -> None:
    with stage(1, policy=Latest(1)) as s:
        with s.server.lease(NAME):
            s.put(2)
            until(lambda: predict(s.server) == (2, Y))
            unloading = VersionStatus(1, State.UNLOADING, Code.OK, "")
            until(lambda: s.server.status(NAME) == [available(2), unloading])
            assert s.server.status(NAME, 1) == [unloading]
            assert not s.loader.servables[1].is_closed
        until(lambda: bool(s.loader.servables[1].is_closed))
        assert s.server.status(NAME) == [available(2), ended(1)]


def test_versions_that_have_left_the_bucket_leave_the_memory() -> None:
    with stage(1, 2, 3) as s:
        for version in (1, 2, None):
            predict(s.server, version)
        s.remove(1)
        unloading = VersionStatus(1, State.UNLOADING, Code.OK, "")
        assert s.server.status(NAME) == [available(3), available(2), unloading]
        assert predict(s.server) == (3, Y)
        until(lambda: bool(s.loader.servables[1].is_closed))
        assert not s.loader.servables[2].is_closed
        assert s.loader.loads == [1, 2, 3]


def test_a_version_that_is_taken_back_serves_until_the_one_before_it_is_loaded() -> None:
    with stage(1, 2) as s:
        assert predict(s.server) == (2, Y)
        s.remove(2)
        gate = s.loader.hold(1)
        assert predict(s.server) == (2, Y)
        gate.wait_until_reached()
        assert s.server.status(NAME) == [available(2), VersionStatus(1, State.LOADING, Code.OK, "")]
        with pytest.raises(ModelNotFound):
            predict(s.server, 2)
        gate.open()
        until(lambda: bool(s.loader.servables[2].is_closed))
        assert predict(s.server) == (1, Y)
        assert s.server.status(NAME) == [ended(2), available(1)]


def test_a_version_that_is_taken_back_while_it_loads_does_not_serve() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        gate = s.loader.hold(2)
        assert predict(s.server) == (1, Y)
        gate.wait_until_reached()
        s.remove(2)
        gate.open()
        until(lambda: 2 in s.loader.servables and bool(s.loader.servables[2].is_closed))
        assert predict(s.server) == (1, Y)
        assert s.loader.loads == [1, 2]


def test_what_serves_goes_on_if_the_bucket_is_emptied() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.remove(1)
        assert predict(s.server) == (1, Y)
        assert s.server.status(NAME) == [_kept(1)]
        assert s.loader.loads == [1]


def _kept(version: int) -> VersionStatus:
    why = f"{NAME} has no version any more where it is stored; {NAME}/{version} goes on serving"
    return VersionStatus(version, State.AVAILABLE, Code.NOT_FOUND, why)


def test_what_has_just_appeared_is_no_version_yet() -> None:
    with stage() as s:
        with pytest.raises(ModelNotFound):
            predict(s.server)
        s.storage.blobs["1/model.xml"] = b""
        s.look()
        for version in (None, 1):
            with pytest.raises(LoadPending, match="half_plus_two/1 has only just appeared"):
                predict(s.server, version)
        assert s.server.status(NAME) == [VersionStatus(1, State.START, Code.OK, "")]
        s.list_anew()
        assert predict(s.server) == (1, Y)
        assert s.server.status(NAME) == [available(1)]


@pytest.mark.parametrize("trouble", [ModelTooLarge("needs 5 bytes"), StorageUnavailable("no route"), BROKEN])
def test_whatever_is_wrong_with_a_newer_version_the_one_that_serves_goes_on(trouble: ModelCacheError) -> None:
    with stage(1, policy=Latest(1)) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        s.loader.broken[2] = trouble
        for _ in range(3):
            assert predict(s.server) == (1, Y)
        until(lambda: 2 in s.loader.loads)
        assert predict(s.server) == (1, Y)
        # Not at every request.
        assert s.loader.loads == [1, 2]
        assert s.server.status(NAME)[-1] == available(1)


@pytest.mark.parametrize("seconds", [RETRY, -3600])
def test_a_newer_version_is_tried_again_after_a_while_or_if_the_clock_is_set_back(seconds: float) -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        s.loader.broken[2] = StorageUnavailable("no route")
        assert predict(s.server) == (1, Y)
        until(lambda: s.server.status(NAME)[0].state == State.END)
        s.loader.broken.clear()
        assert predict(s.server) == (1, Y)
        s.pass_seconds(seconds)
        until(lambda: predict(s.server) == (2, Y))
        assert s.loader.loads == [1, 2, 2]


def test_who_relies_on_no_clock_tries_a_newer_version_again_at_once() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        s.loader.broken[2] = StorageUnavailable("no route")
        assert predict(s.server) == (1, Y)
        until(lambda: s.server.status(NAME)[0].state == State.END)
        s.loader.broken.clear()
        s.server.outdate()
        until(lambda: predict(s.server) == (2, Y))
        assert s.loader.loads == [1, 2, 2]


def test_of_several_newer_versions_the_best_that_loads_serves() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.storage.blobs["2/model.xml"] = b""
        s.put(3)
        s.loader.broken[3] = BROKEN
        until(lambda: predict(s.server) == (2, Y))
        assert s.loader.loads == [1, 3, 2]


def test_with_the_storage_away_newer_versions_are_not_tried_one_after_the_other() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.storage.blobs["2/model.xml"] = b""
        s.put(3)
        s.loader.broken[3] = StorageUnavailable("no route to host")
        with nothing_left_behind():
            assert predict(s.server) == (1, Y)
        assert s.loader.loads == [1, 3]


def test_a_bug_while_a_newer_version_loads_is_logged_and_the_one_that_serves_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        s.loader.broken[2] = ZeroDivisionError("a bug")
        assert predict(s.server) == (1, Y)
        until(lambda: "ZeroDivisionError: a bug" in caplog.text)
        assert predict(s.server) == (1, Y)
        s.loader.broken.clear()
        s.pass_seconds(RETRY)
        until(lambda: predict(s.server) == (2, Y))


def test_a_process_without_threads_to_spare_goes_on_with_the_version_it_has() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        with no_more_threads():
            assert predict(s.server) == (1, Y)
        s.pass_seconds(RETRY)
        until(lambda: predict(s.server) == (2, Y))


def test_where_both_do_not_fit_the_one_that_serves_leaves_before_the_newer_one_loads() -> None:
    with stage(1, budget=1) as s, ThreadPoolExecutor(1) as pool:
        assert predict(s.server) == (1, Y)
        s.put(2)
        gate = s.loader.hold(2)
        assert predict(s.server) == (1, Y)
        gate.wait_until_reached()
        assert s.loader.servables[1].is_closed
        # Who comes now waits, as who comes first does.
        waiting = pool.submit(predict, s.server)
        assert s.server.status(NAME, 2) == [VersionStatus(2, State.LOADING, Code.OK, "")]
        gate.open()
        assert waiting.result(PATIENCE) == (2, Y)
        assert s.loader.loads == [1, 2]


def test_where_both_do_not_fit_versions_may_come_and_go_as_long_as_they_load() -> None:
    with stage(1, budget=1) as s:
        assert predict(s.server) == (1, Y)
        for _ in range(2):
            s.put(2)
            until(lambda: predict(s.server) == (2, Y))
            s.remove(2)
            until(lambda: predict(s.server) == (1, Y))
        assert s.loader.loads == [1, 2, 1, 2, 1]


def test_where_both_do_not_fit_the_newer_one_waits_until_the_other_is_released() -> None:
    with stage(1, budget=1, room_timeout=0.5) as s:
        with s.server.lease(NAME):
            s.put(2)
            assert predict(s.server) == (1, Y)
            unloading = VersionStatus(1, State.UNLOADING, Code.OK, "")
            until(lambda: s.server.status(NAME, 1) == [unloading])
            assert s.loader.loads == [1]
            assert not s.loader.servables[1].is_closed
        assert s.loader.servables[1].is_closed
        until(lambda: predict(s.server) == (2, Y))
        assert s.loader.loads == [1, 2]


def test_a_request_under_way_does_not_keep_the_next_version_from_the_disk_for_long() -> None:
    with stage(1) as s:
        with s.server.lease(NAME):
            s.put(2)
            until_gone = s.loader.broken[2] = CacheFull("everything on disk is in use")
            assert predict(s.server) == (1, Y)
            # Tried beside the other, and then in its place, for which it waits.
            until(lambda: s.loader.loads == [1, 2, 2])
            del s.loader.broken[2]
        until(lambda: predict(s.server) == (2, Y))
        assert str(until_gone) not in s.server.status(NAME)[0].message


def test_room_on_disk_is_made_in_the_same_way() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        s.loader.broken[2] = CacheFull("everything on disk is in use")
        with nothing_left_behind():
            assert predict(s.server) == (1, Y)
        # Beside the other, in its place, and back; in its place once more if the request has only then let go of it.
        assert s.loader.loads in ([1, 2, 2, 1], [1, 2, 2, 2, 1])


def test_who_comes_while_the_one_that_has_served_comes_back_waits_for_that() -> None:
    with stage(1, budget=1) as s, ThreadPoolExecutor(1) as pool:
        assert predict(s.server) == (1, Y)
        s.put(2)
        s.loader.broken[2] = StorageUnavailable("no route to host")
        gate = s.loader.hold(1)
        assert predict(s.server) == (1, Y)
        gate.wait_until_reached()
        # So that the other might be tried again.
        s.pass_seconds(OUTAGE_TTL)
        waiting = pool.submit(predict, s.server)
        until(lambda: "loading 2" in repr(s.cache))
        gate.open()
        assert waiting.result(PATIENCE) == (1, Y)
        assert s.loader.loads == [1, 2, 1]


def test_nothing_comes_back_to_a_server_that_is_closed() -> None:
    with stage(1, budget=1) as s, nothing_left_behind():
        assert predict(s.server) == (1, Y)
        s.put(2)
        s.loader.broken[2] = BROKEN
        gate = s.loader.hold(2)
        assert predict(s.server) == (1, Y)
        gate.wait_until_reached()
        s.server.close()
        gate.open()
    assert s.loader.loads == [1, 2]


def test_where_both_do_not_fit_the_newer_one_comes_under_any_traffic() -> None:
    with stage(1, budget=1) as s, ThreadPoolExecutor(4) as pool:
        assert predict(s.server) == (1, Y)
        is_over = threading.Event()

        def predict_all_the_time() -> set[int]:
            versions = set()
            while not is_over.is_set():
                with s.server.lease(NAME) as lease:
                    versions.add(lease.id.version)
                    if lease.id.version == 2:
                        is_over.set()
            return versions

        threads = [pool.submit(predict_all_the_time) for _ in range(4)]
        s.put(2)
        assert set().union(*(thread.result(PATIENCE) for thread in threads)) == {1, 2}
        assert s.loader.loads == [1, 2]


def test_where_both_do_not_fit_and_the_newer_one_fails_the_other_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    with stage(1, budget=1, policy=Latest(1)) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        s.loader.broken[2] = BROKEN
        assert predict(s.server) == (1, Y)
        until(lambda: s.loader.loads == [1, 2, 1])
        assert predict(s.server) == (1, Y)
        # An interruption that is not repeated soon.
        s.pass_seconds(RETRY_IN_PLACE - 1)
        # What was done behind may not have come to its end yet.
        until(lambda: predict(s.server) == (1, Y) and "half_plus_two/2 needs 1 bytes; 1 of 1 are used" in caplog.text)
        assert predict(s.server) == (1, Y)
        assert s.loader.loads == [1, 2, 1]
        s.loader.broken.clear()
        s.pass_seconds(RETRY)
        until(lambda: predict(s.server) == (2, Y))


def test_what_has_served_comes_back_from_disk_if_nothing_newer_can_be_had() -> None:
    with stage(1, policy=Latest(1)) as s:
        assert predict(s.server) == (1, Y)
        serving = s.repository.candidates()[0]
        s.put(2)
        s.cache.retire(serving)
        s.loader.broken[2] = StorageUnavailable("no route to host")
        assert predict(s.server) == (1, Y)
        assert s.loader.loads == [1, 2, 1]


def test_new_bytes_under_an_old_number_are_loaded_behind_and_then_serve() -> None:
    with stage(1) as s:
        predict(s.server)
        first: HalfPlusTwo = s.loader.servables[1]
        s.put(1, b"retrained")
        gate = s.loader.hold(1)
        with s.server.lease(NAME) as lease:
            assert lease.servable is first
        gate.wait_until_reached()
        gate.open()
        until(lambda: bool(first.is_closed))
        with s.server.lease(NAME) as lease:
            assert lease.servable is s.loader.servables[1]
            assert lease.servable is not first
        assert s.loader.loads == [1, 1]


def test_a_version_asked_for_by_number_does_not_become_the_default() -> None:
    with stage(1, 2) as s:
        assert predict(s.server, 1) == (1, Y)
        assert predict(s.server) == (2, Y)


def test_a_newer_version_that_somebody_has_asked_for_by_number_serves_from_then_on() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        assert predict(s.server, 2) == (2, Y)
        assert predict(s.server) == (2, Y)


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
        ("other", None, r"^Could not find any versions of model other \(Model with requested name is not found\)$"),
        ("other", 1, r"^Could not find version 1 of model other \(Model with requested name is not found\)$"),
        (NAME, 7, rf"^Could not find version 7 of model {NAME} \(Model with requested version is not found\)$"),
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
        until(lambda: s.server.status(NAME) == [available(1)] and predict(s.server) == (1, Y))
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


@contextmanager
def labelled(*versions: int, **labels: int) -> Iterator[Stage]:
    with stage(*versions) as s:
        s.server.configure({NAME: s.repository}, {NAME: labels})
        yield s


def answer(server: ModelServer, label: str) -> int:
    with server.lease(NAME, label=label) as lease:
        return lease.id.version


def test_a_label_is_a_name_for_a_version() -> None:
    with labelled(1, 2, 3, stable=1, canary=2) as s:
        assert (answer(s.server, "stable"), answer(s.server, "canary")) == (1, 2)
        assert s.loader.loads == [1, 2]
        # And no version of these serves those who ask for none.
        assert predict(s.server) == (3, Y)


def test_labels_may_be_given_from_the_start() -> None:
    with stage(1, 2) as s:
        server = ModelServer({NAME: s.repository}, s.cache, DiskCache(Path("/nowhere"), 0), labels={NAME: {"old": 1}})
        assert answer(server, "old") == 1


def test_an_unknown_label_is_the_clients_error_and_the_known_ones_are_named() -> None:
    with labelled(1, stable=1, canary=1) as s:
        with pytest.raises(
            InvalidRequest, match=r"^Unrecognized servable version label: L; .* has the labels stable, canary"
        ):
            answer(s.server, "L")
        with pytest.raises(InvalidRequest) as caught:
            answer(s.server, "L" * 10_000)
        assert len(str(caught.value)) < 500
    with stage(1) as s:
        with pytest.raises(ModelNotFound) as caught_too, s.server.lease("\udc80ü" * 10_000):
            pass
        assert len(str(caught_too.value).encode()) < 500
        with pytest.raises(ModelNotFound) as caught_too:
            s.server.status("ü" * 10_000)
        assert len(str(caught_too.value).encode()) < 500
    with stage(1) as s, pytest.raises(InvalidRequest, match="label: L; half_plus_two has no labels"):
        answer(s.server, "L")
    assert s.loader.loads == []


def test_a_label_applies_when_its_version_becomes_available() -> None:
    with labelled(1, canary=2) as s:
        with pytest.raises(ModelNotFound, match=rf"Servable not found for request: Specific\({NAME}, 2\)"):
            answer(s.server, "canary")
        s.put(2)
        assert answer(s.server, "canary") == 2


def test_a_label_is_for_a_version_that_the_policy_offers() -> None:
    with stage(1, 2, policy=Latest()) as s:
        s.server.configure({NAME: s.repository}, {NAME: {"old": 1, "new": 2}})
        assert answer(s.server, "new") == 2
        with pytest.raises(ModelNotFound, match="Specific"):
            answer(s.server, "old")


def test_a_label_for_version_0_does_not_mean_the_default_one() -> None:
    with labelled(1, zero=0) as s, pytest.raises(ModelNotFound, match=rf"Specific\({NAME}, 0\)"):
        answer(s.server, "zero")


def test_a_wait_for_a_load_ends_with_the_deadline() -> None:
    with stage(1) as s:
        gate = s.loader.hold(1)
        with pytest.raises(DeadlineExceeded, match="still loading"), s.server.lease(NAME, deadline=monotonic() + 0.05):
            pass
        gate.open()
        until(lambda: predict(s.server) == (1, Y))
        assert s.loader.loads == [1]


def asked(server: ModelServer, deadline: float | None) -> dict[str, Callable[[], object]]:
    """The ways to ask about a model, and what each answers with where that matters."""

    def answer(version: int | None, label: str | None = None) -> int:
        with server.lease(NAME, version, label=label, deadline=deadline) as lease:
            return lease.id.version

    repository = server.repositories[NAME]
    return {
        "none in particular": lambda: answer(None),
        "a version": lambda: answer(1),
        "version 0": lambda: answer(0),
        "a label": lambda: answer(None, "stable"),
        "a status": lambda: server.status(NAME, deadline=deadline),
        "the status of version 0": lambda: server.status(NAME, 0, deadline=deadline),
        "a preload": lambda: server.preload(repository, None, deadline or monotonic() + 0.05),
        "a preload of a version": lambda: server.preload(repository, 1, deadline or monotonic() + 0.05),
    }


@contextmanager
def listing_hangs(**options: Any) -> Iterator[tuple[Stage, Gate, list[None]]]:
    """A stage that has been listed by nobody yet; what holds its listings, and one entry for each that has begun."""
    gate = Gate()
    looks: list[None] = []

    def look() -> None:
        looks.append(None)
        gate.pass_through()

    with stage(1, **options) as s, nothing_left_behind():
        s.server.configure({NAME: s.repository}, {NAME: {"stable": 1}})
        s.storage.before_list = look
        try:
            yield s, gate, looks
        finally:
            gate.open()


WAYS = list(asked(Stage(1).server, None))


@pytest.mark.parametrize("way", WAYS)
def test_a_wait_for_the_first_listing_ends_with_the_deadline(way: str) -> None:
    error = LoadPending if "preload" in way else DeadlineExceeded
    with listing_hangs() as (s, gate, looks):
        with pytest.raises(error, match=f"the versions of {NAME} are still being listed"):
            asked(s.server, monotonic() + 0.05)[way]()
        gate.open()
        # And what goes on behind is what the next waits for.
        asked(s.server, monotonic() + PATIENCE)[way]()
        assert len(looks) == 1


@pytest.mark.parametrize("way", WAYS)
def test_nobody_waits_for_the_first_listing_longer_than_for_a_load(way: str) -> None:
    with listing_hangs(load_timeout=0.05) as (s, gate, looks):
        with pytest.raises(LoadPending, match=f"the versions of {NAME} are still being listed"):
            asked(s.server, None)[way]()
        gate.open()
        until(lambda: s.repository.known is not None)
        asked(s.server, monotonic() + PATIENCE)[way]()
        assert len(looks) == 1


def test_what_a_listing_has_taken_is_gone_from_the_time_for_the_load() -> None:
    with stage(1, load_timeout=0.5) as s:
        gate = s.loader.hold(1)
        s.storage.before_list = lambda: sleep(0.1)
        with pytest.raises(LoadPending, match=r"is still loading after 0\.[0-3]"):
            predict(s.server)
        gate.open()


def test_the_inventory_does_not_wait_for_listings_without_end() -> None:
    with listing_hangs(load_timeout=0.05) as (s, _, _):
        inventory = s.server.inventory()
        assert inventory.models[NAME].error == f"the versions of {NAME} are still being listed; try again later"


def test_a_start_waits_for_the_first_listing_as_long_as_it_takes() -> None:
    with listing_hangs(load_timeout=0.01) as (s, gate, _), ThreadPoolExecutor(1) as pool:
        start = pool.submit(s.server.start, NAME)
        gate.wait_until_reached()
        with pytest.raises(LoadPending):
            predict(s.server)
        assert not start.done()
        gate.open()
        assert start.result(PATIENCE) == ServableId(NAME, 1)


def test_to_see_what_is_wanted_nobody_waits_for_a_listing() -> None:
    with stage(1, 2) as s:
        assert (predict(s.server, 1), predict(s.server)) == ((1, Y), (2, Y))
        gate = Gate()
        s.storage.before_list = gate.pass_through
        s.repository.expire()
        with ThreadPoolExecutor(1) as pool:
            swept = pool.submit(s.server.sweep)
            swept.result(PATIENCE / 2)
            gate.open()
        assert not gate.reached.is_set()


def test_a_wait_for_room_ends_with_the_deadline() -> None:
    with stage(1, 2, budget=1, room_timeout=PATIENCE) as s:
        soon = monotonic() + 0.05
        with s.server.lease(NAME, 1), pytest.raises(DeadlineExceeded), s.server.lease(NAME, 2, deadline=soon):
            pass


def test_a_load_that_takes_too_long_for_anybody_is_not_blamed_on_the_deadline() -> None:
    with stage(1, load_timeout=0.05) as s:
        gate = s.loader.hold(1)
        with pytest.raises(LoadPending), s.server.lease(NAME, deadline=monotonic() + PATIENCE):
            pass
        gate.open()


def test_nothing_is_loaded_for_a_request_whose_deadline_has_passed() -> None:
    with stage(1) as s:
        with pytest.raises(DeadlineExceeded), s.server.lease(NAME, deadline=monotonic()):
            pass
        assert s.loader.loads == []


def test_what_goes_wrong_before_the_deadline_is_told_as_it_is() -> None:
    with stage(1) as s:
        s.loader.broken[1] = BROKEN
        with pytest.raises(LoadFailed), s.server.lease(NAME, deadline=monotonic() + PATIENCE):
            pass


def another(s: Stage, name: str, *versions: int) -> ModelRepository:
    """A model of that name beside the stage's, with bytes of its own."""
    storage = MemoryStorage({f"{version}/model.xml": name.encode() for version in versions})
    return ModelRepository(name, storage, clock=s.clock)


def test_a_model_that_is_added_is_served_and_the_others_are_as_they_were() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.server.configure({NAME: s.repository, "other": another(s, "other", 5)})
        assert predict(s.server, name="other") == (5, Y)
        assert predict(s.server) == (1, Y)
        assert s.loader.loads == [1, 5]
        assert s.server.repositories.keys() == s.server.inventory().models.keys() == {NAME, "other"}


def test_a_model_that_is_removed_has_ended_and_leaves_the_memory_with_its_last_lease() -> None:
    with stage(1) as s:
        other = another(s, "other", 5)
        s.server.configure({NAME: s.repository, "other": other})
        with s.server.lease("other"):
            s.server.configure({NAME: s.repository})
            with pytest.raises(ModelNotFound):
                predict(s.server, name="other")
            assert s.server.status("other") == [VersionStatus(5, State.UNLOADING, Code.OK, "")]
            assert not s.loader.servables[5].is_closed
        assert s.loader.servables[5].is_closed
        # As TensorFlow Serving and OpenVINO Model Server say it.
        assert s.server.status("other") == s.server.status("other", 5) == [ended(5)]
        with pytest.raises(ModelNotFound, match="Could not find version 6 of model other"):
            s.server.status("other", 6)
        # And it may come back.
        s.server.configure({NAME: s.repository, "other": other})
        assert predict(s.server, name="other") == (5, Y)


def test_what_is_loaded_for_a_model_that_is_removed_meanwhile_does_not_stay() -> None:
    with stage(1) as s, nothing_left_behind(), ThreadPoolExecutor(1) as pool:
        gate = s.loader.hold(1)
        request = pool.submit(predict, s.server)
        gate.wait_until_reached()
        s.server.configure({})
        gate.open()
        assert request.result(PATIENCE) == (1, Y)
        until(lambda: s.loader.servables[1].is_closed)


def test_what_is_begun_after_its_model_was_removed_does_not_stay_either() -> None:
    with stage(1) as s, nothing_left_behind(), ThreadPoolExecutor(1) as pool:
        gate = Gate()
        s.storage.before_list = gate.pass_through
        request = pool.submit(predict, s.server)
        gate.wait_until_reached()
        s.server.configure({})
        gate.open()
        assert request.result(PATIENCE) == (1, Y)
        until(lambda: s.loader.servables[1].is_closed)


def test_a_newer_version_that_loads_behind_does_not_stay_if_its_model_is_removed() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        gate = s.loader.hold(2)
        s.put(2)
        with nothing_left_behind():
            assert predict(s.server) == (1, Y)
            gate.wait_until_reached()
            s.server.configure({})
            gate.open()
        assert [servable.is_closed for servable in s.loader.made] == [True, True]


def test_no_more_is_loaded_behind_for_a_model_that_was_removed() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        gate = s.loader.hold(3)
        s.loader.broken[3] = BROKEN
        s.put(2)
        s.put(3)
        with nothing_left_behind():
            assert predict(s.server) == (1, Y)
            gate.wait_until_reached()
            s.server.configure({})
            gate.open()
        assert s.loader.loads == [1, 3]


def test_what_loads_in_the_place_of_another_does_not_stay_if_its_model_was_removed() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        beside = s.loader.hold(2)
        s.loader.broken[2] = CacheFull("everything on disk is in use")
        s.put(2)
        with nothing_left_behind():
            assert predict(s.server) == (1, Y)
            beside.wait_until_reached()
            s.server.configure({})
            instead = s.loader.hold(2)
            beside.open()
            instead.wait_until_reached()
            del s.loader.broken[2]
            instead.open()
        assert [servable.is_closed for servable in s.loader.made] == [True, True]


def test_a_request_from_before_does_not_bring_back_what_has_served() -> None:
    with stage(1) as s, nothing_left_behind(), ThreadPoolExecutor(1) as pool:
        gate = s.loader.hold(1)
        request = pool.submit(predict, s.server)
        gate.wait_until_reached()
        s.server.configure({NAME: another(s, NAME, 2)}, afresh=[NAME])
        assert predict(s.server) == (2, Y)
        gate.open()
        assert request.result(PATIENCE) == (1, Y)
        until(lambda: s.loader.servables[1].is_closed)


def test_a_load_from_before_does_not_bring_back_what_has_served() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        gate = s.loader.hold(2)
        s.put(2)
        with nothing_left_behind():
            assert predict(s.server) == (1, Y)
            gate.wait_until_reached()
            s.server.configure({NAME: another(s, NAME, 3)}, afresh=[NAME])
            assert predict(s.server) == (3, Y)
            gate.open()
        assert s.loader.servables[2].is_closed
        assert predict(s.server) == (3, Y)


def test_what_does_not_change_goes_on_undisturbed() -> None:
    with stage(1) as s, ThreadPoolExecutor(1) as pool:
        gate = s.loader.hold(1)
        request = pool.submit(predict, s.server)
        gate.wait_until_reached()
        s.server.configure({NAME: s.repository, "other": another(s, "other", 5)})
        gate.open()
        assert request.result(PATIENCE) == (1, Y)
        # Which has made it the version that serves, whatever becomes of the bucket.
        s.remove(1)
        assert predict(s.server) == (1, Y)


def test_nobody_waits_for_a_listing_to_replace_the_models() -> None:
    with stage(1, 2) as s:
        assert (predict(s.server, 1), predict(s.server)) == ((1, Y), (2, Y))
        s.break_storage(StorageUnavailable("no route to host"))
        s.server.configure({NAME: ModelRepository(NAME, s.storage, clock=s.clock)}, afresh=[NAME])
        assert not s.loader.servables[1].is_closed
        with pytest.raises(StorageUnavailable):
            predict(s.server)


def _away(s: Stage) -> tuple[ModelRepository, MemoryStorage]:
    """A place that cannot be listed until its hook is taken away."""
    storage = MemoryStorage({"1/model.xml": b"of the new place"})

    def fail() -> None:
        raise StorageUnavailable("no such directory")

    storage.before_list = fail
    return ModelRepository(NAME, storage, clock=s.clock), storage


def test_a_model_that_moves_to_where_nothing_can_be_listed_goes_on_as_it_was_and_its_status_says_why() -> None:
    with stage(1, 2) as s:
        assert (predict(s.server, 1), predict(s.server)) == ((1, Y), (2, Y))
        elsewhere, storage = _away(s)
        s.server.configure({NAME: elsewhere})
        for _ in range(3):
            assert (predict(s.server, 1), predict(s.server)) == ((1, Y), (2, Y))
        until(lambda: elsewhere.failure is not None)
        assert (predict(s.server, 1), predict(s.server)) == ((1, Y), (2, Y))
        newest, other = s.server.status(NAME)
        assert newest[:3] == (2, State.AVAILABLE, Code.UNAVAILABLE)
        assert other == available(1)
        assert s.loader.loads == [1, 2]
        # Not every request has it listed, and what is there then is what serves.
        storage.before_list = lambda: None
        assert predict(s.server) == (2, Y)
        s.clock.now += LISTING_TTL
        until(lambda: predict(s.server) == (1, Y))
        until(lambda: s.loader.servables[2].is_closed)
        assert s.loader.loads == [1, 2, 1]
        assert s.server.status(NAME) == [ended(2), available(1)]


def test_a_model_that_moves_to_where_nothing_is_goes_on_as_it_was_and_its_status_says_why() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        elsewhere = another(s, NAME)
        s.server.configure({NAME: elsewhere})
        until(lambda: predict(s.server) == (1, Y) and not elsewhere.versions())
        assert predict(s.server) == (1, Y)
        assert s.server.status(NAME) == [_kept(1)]


def test_a_model_that_moves_to_where_it_is_broken_goes_on_as_it_was_and_its_status_says_why() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.loader.broken[1] = BROKEN
        s.server.configure({NAME: another(s, NAME, 1)})
        failed = VersionStatus(1, State.AVAILABLE, Code.FAILED_PRECONDITION, str(BROKEN))
        until(lambda: predict(s.server) == (1, Y) and s.server.status(NAME) == [failed])
        # Whoever names it, too.
        assert predict(s.server, 1) == (1, Y)
        assert not s.loader.servables[1].is_closed


def test_a_policy_that_changes_reloads_nothing_that_is_still_wanted() -> None:
    with stage(1, 2, 3) as s:
        for version in (1, 2, 3):
            predict(s.server, version)
        assert predict(s.server) == (3, Y)
        s.break_storage(StorageUnavailable("no route to host"))
        s.server.configure({NAME: s.repository.with_terms(Latest(2))})
        assert s.loader.servables[1].is_closed
        assert (predict(s.server), predict(s.server, 2)) == ((3, Y), (2, Y))
        with pytest.raises(ModelNotFound):
            predict(s.server, 1)
        assert s.loader.loads == [1, 2, 3]


def test_a_policy_that_leaves_out_what_serves_lets_it_serve_until_the_other_is_loaded() -> None:
    with stage(1, 2) as s:
        assert predict(s.server) == (2, Y)
        gate = s.loader.hold(1)
        s.server.configure({NAME: s.repository.with_terms(Specific(frozenset({1})))})
        assert predict(s.server) == (2, Y)
        gate.wait_until_reached()
        gate.open()
        until(lambda: predict(s.server) == (1, Y))
        until(lambda: s.loader.servables[2].is_closed)


def test_a_base_path_that_changes_lets_the_old_model_serve_until_the_new_one_is_loaded() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        old = s.loader.servables[1]
        gate = s.loader.hold(1)
        s.server.configure({NAME: another(s, NAME, 1)})
        until(lambda: predict(s.server) == (1, Y) and gate.reached.is_set())
        assert s.loader.loads == [1, 1]
        gate.open()
        until(lambda: predict(s.server) == (1, Y) and old.is_closed)


def test_a_model_that_begins_afresh_does_not_go_on_with_what_has_served() -> None:
    with stage(1, 2) as s:
        assert predict(s.server) == (2, Y)
        new = another(s, NAME, 1)
        assert s.server.preload(new, None, monotonic() + PATIENCE) == ServableId(NAME, 1)
        s.server.configure({NAME: new}, afresh=[NAME])
        assert s.loader.servables[2].is_closed
        assert predict(s.server) == (1, Y)
        assert s.loader.loads == [2, 1]


def test_what_is_preloaded_and_then_wanted_by_nobody_is_swept_out() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.server.preload(another(s, "other", 5), 5, monotonic() + PATIENCE)
        s.server.sweep()
        assert s.loader.servables[5].is_closed
        assert not s.loader.servables[1].is_closed


def test_models_that_come_and_go_fail_no_request_to_those_that_stay() -> None:
    """Configured as fast as it goes, with requests from several threads all the while."""
    with stage(1, 2) as s, nothing_left_behind(), ThreadPoolExecutor(4) as pool:
        others = {f"m{number}": another(s, f"m{number}", number) for number in range(3, 6)}
        done = threading.Event()

        def ask() -> int:
            count = 0
            while not done.is_set():
                assert predict(s.server) == (2, Y)
                assert predict(s.server, 1) == (1, Y)
                # These may be gone, but not half.
                for name in others:
                    with suppress(ModelNotFound):
                        predict(s.server, name=name)
                count += 1
            return count

        askers = [pool.submit(ask) for _ in range(4)]
        for number in range(200):
            some = dict(islice(others.items(), number % 4))
            s.server.configure({NAME: s.repository, **some}, {NAME: {"stable": 1 + number % 2}})
        until(lambda: all(asker.done() for asker in askers) or len(s.loader.loads) > 2)
        done.set()
        assert all(asker.result(PATIENCE) for asker in askers)
        assert [s.loader.loads.count(version) for version in (1, 2)] == [1, 1]


def test_a_version_that_is_retired_is_told_from_one_that_never_was() -> None:
    with stage(1, 2) as s:
        assert predict(s.server, 1) == (1, Y)
        s.remove(1)
        retired = (
            rf"^Servable not found for request: Specific\({NAME}, 1\) \(Model with requested version is retired\)$"
        )
        with pytest.raises(ModelNotFound, match=retired):
            predict(s.server, 1)
        with pytest.raises(ModelNotFound, match="version is not found"):
            predict(s.server, 3)
        # With the whole model, too; and if it comes back from elsewhere.
        s.server.configure({})
        with pytest.raises(ModelNotFound, match=retired):
            predict(s.server, 1)
        s.server.configure({NAME: another(s, NAME, 7)})
        with pytest.raises(ModelNotFound, match=retired):
            predict(s.server, 1)
        assert s.server.status(NAME) == [available(7), ended(2), ended(1)]
        s.server.configure({NAME: s.repository})
        s.put(1)
        assert predict(s.server, 1) == (1, Y)


def test_of_what_was_served_once_so_much_is_remembered_and_no_more() -> None:
    with stage() as s:
        for number in range(MAX_REMOVED + 2):
            gone = another(s, f"m{number}", 1)
            gone.versions()
            s.server.configure({gone.name: gone})
        s.server.configure({"n": (many := another(s, "n", *range(1, MAX_RETIRED + 6)))})
        many.versions()
        s.server.configure({})
        statuses = s.server.statuses()
        assert len(statuses) == MAX_REMOVED
        assert next(iter(statuses)) == "m3"
        assert [status.version for status in statuses["n"]] == list(range(MAX_RETIRED + 5, 5, -1))


@pytest.mark.parametrize(("latest", "stand_in"), [(1, 2), (2, 1)])
def test_in_the_place_of_one_that_is_broken_the_policy_offers_the_next(latest: int, stand_in: int) -> None:
    with stage(1, 2, 3, policy=Latest(latest)) as s:
        with pytest.raises(ModelNotFound):
            predict(s.server, stand_in)
        s.loader.broken[3] = BROKEN
        assert predict(s.server) == (2, Y)
        assert predict(s.server, stand_in) == (stand_in, Y)
        failed = VersionStatus(3, State.END, Code.FAILED_PRECONDITION, "Incorrect weights in bin file!")
        assert s.server.status(NAME) == [failed, available(2), *([available(1)] if latest == 2 else [])]
        s.server.sweep()
        assert not s.loader.servables[stand_in].is_closed
        # Once it is mended the next is not offered any more.
        s.loader.broken.clear()
        s.server.forgive()
        until(lambda: predict(s.server) == (3, Y))
        until(lambda: bool(s.loader.servables[stand_in].is_closed))
        with pytest.raises(ModelNotFound):
            predict(s.server, stand_in)


def test_the_reason_of_a_version_is_kept_when_a_later_one_fails_too() -> None:
    failed = [VersionStatus(number, State.END, Code.FAILED_PRECONDITION, str(BROKEN)) for number in (3, 2)]
    with stage(1, policy=Latest(1)) as s:
        assert predict(s.server) == (1, Y)
        for number in (2, 3):
            s.loader.broken[number] = BROKEN
            s.put(number)
            assert s.server.renew(NAME) == ServableId(NAME, 1)
        assert s.server.status(NAME) == [*failed, available(1)]


def test_a_start_loads_every_version_that_is_offered_if_that_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    with stage(1, 2, 3, 4, policy=Latest(3)) as s:
        s.loader.broken[3] = BROKEN
        assert s.server.start(NAME, every=True) == ServableId(NAME, 4)
        # Instead of the one that is broken, the one before.
        assert s.loader.loads == [4, 3, 2, 1]
        assert caplog.messages.count(f"{NAME}/3 is not loaded: Incorrect weights in bin file!") == 1


def test_versions_for_which_there_is_no_room_do_not_push_out_each_other(caplog: pytest.LogCaptureFixture) -> None:
    with stage(1, 2, 3, 4, budget=2) as s:
        s.server.start(NAME, every=True)
        assert s.loader.loads == [4, 3]
        # Nor is room waited for again for each that is left.
        assert caplog.text.count("is not loaded") == 1
        assert predict(s.server) == (4, Y)


def changed(s: Stage, options: str = "nhwc") -> None:
    """Configure the model with other options."""
    s.server.configure({NAME: s.repository.with_terms(None, options)})


def test_a_model_whose_options_change_goes_on_as_it_was_until_the_new_one_is_loaded() -> None:
    with stage(1, 2) as s:
        assert (predict(s.server, 1), predict(s.server)) == ((1, Y), (2, Y))
        before = dict(s.loader.servables)
        gates = {version: s.loader.hold(version) for version in (1, 2)}
        changed(s)
        with s.server.lease(NAME) as newest, s.server.lease(NAME, 2) as second:
            assert newest.servable is second.servable is before[2]
        gates[2].wait_until_reached()
        assert s.server.status(NAME, 2) == [VersionStatus(2, State.LOADING, Code.OK, "")]
        gates[2].open()
        until(lambda: bool(before[2].is_closed))

        def is_brought_by_a_request() -> bool:
            # Each by itself, and none in the place of another.
            with s.server.lease(NAME, 1) as first:
                assert first.servable is before[1]
            return gates[1].reached.is_set()

        # Not while what brought the other has an end to come to.
        until(is_brought_by_a_request)
        gates[1].open()
        until(lambda: bool(before[1].is_closed))
        assert (predict(s.server), predict(s.server, 1)) == ((2, Y), (1, Y))
        assert s.loader.loads == [1, 2, 2, 1]
        assert s.server.status(NAME) == [available(2), available(1)]


def test_options_that_cannot_be_leave_the_model_as_it_was_and_the_status_says_why() -> None:
    with stage(1, 2) as s:
        assert predict(s.server) == (2, Y)
        before = s.loader.servables[2]
        s.loader.broken[2] = BROKEN
        changed(s)
        with nothing_left_behind():
            assert predict(s.server) == (2, Y)
        assert s.server.status(NAME, 2) == [
            VersionStatus(2, State.AVAILABLE, Code.FAILED_PRECONDITION, "Incorrect weights in bin file!")
        ]
        for version in (None, 2):
            with s.server.lease(NAME, version) as lease:
                assert lease.servable is before
        # Not one from before it, either: that would be another model's answer.
        assert s.loader.loads == [2, 2]
        s.loader.broken.clear()
        s.pass_seconds(FAILURE_TTL)
        until(lambda: predict(s.server) == (2, Y) and before.is_closed)


def test_a_version_of_another_place_does_not_answer_for_one_that_is_not_loaded() -> None:
    with stage(1, 2) as s:
        assert (predict(s.server, 1), predict(s.server)) == ((1, Y), (2, Y))
        before = s.loader.servables[1]
        elsewhere = another(s, NAME, 1, 2)
        elsewhere.versions()
        s.server.configure({NAME: elsewhere})
        with s.server.lease(NAME, 1) as lease:
            assert lease.servable is not before
        assert s.loader.loads == [1, 2, 1]


def test_options_that_change_back_load_nothing() -> None:
    with stage(1) as s, nothing_left_behind():
        assert predict(s.server) == (1, Y)
        changed(s)
        s.server.configure({NAME: s.repository.with_terms(None)})
        assert predict(s.server) == predict(s.server, 1) == (1, Y)
        assert s.loader.loads == [1]


def test_where_both_do_not_fit_a_version_leaves_for_itself_with_other_options() -> None:
    with stage(1, 2, budget=1) as s:
        assert predict(s.server, 1) == (1, Y)
        changed(s)
        assert predict(s.server, 1) == (1, Y)
        until(lambda: s.loader.loads == [1, 1])
        # It does not serve for having been asked for.
        assert predict(s.server) == (2, Y)


def test_where_both_do_not_fit_and_the_options_cannot_be_the_version_comes_back_as_it_was() -> None:
    made: list[HalfPlusTwo] = []

    def make(version: int) -> HalfPlusTwo:
        made.append(HalfPlusTwo(version))
        if len(made) == 2:
            raise BROKEN
        return made[-1]

    with stage(1, budget=1, make=make) as s:
        assert predict(s.server, 1) == (1, Y)
        changed(s)
        with nothing_left_behind():
            assert predict(s.server, 1) == (1, Y)
        assert s.loader.loads == [1, 1, 1]
        with s.server.lease(NAME, 1) as lease:
            assert lease.servable is made[2]


def test_who_renews_a_model_waits_for_what_is_new() -> None:
    with stage(1) as s, ThreadPoolExecutor(2) as pool:
        assert s.server.renew(NAME) == ServableId(NAME, 1)
        s.put(2)
        gate = s.loader.hold(2)
        # The first has it loaded, the second finds it being loaded; and requests go on.
        renewals = [pool.submit(s.server.renew, NAME) for _ in range(2)]
        gate.wait_until_reached()
        assert predict(s.server) == (1, Y)
        gate.open()
        assert [renewal.result(PATIENCE) for renewal in renewals] == [ServableId(NAME, 2)] * 2
        assert s.loader.loads == [1, 2]


def test_who_renews_a_model_tries_again_what_has_failed_once_that_is_forgiven() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        s.loader.broken[2] = BROKEN
        assert s.server.renew(NAME) == ServableId(NAME, 1)
        assert list(s.server.offers()[NAME].values()) == [False, True]
        s.loader.broken.clear()
        assert s.server.renew(NAME) == ServableId(NAME, 1)
        s.server.forgive()
        assert s.server.renew(NAME) == ServableId(NAME, 2)
        assert list(s.server.offers()[NAME].values()) == [False, False]


def test_what_is_new_is_loaded_behind_without_a_request_for_it() -> None:
    with stage(1) as s:
        # Nothing serves yet.
        s.server.keep_up(NAME)
        until(lambda: s.server.peek(NAME) == ServableId(NAME, 1))
        s.put(2)
        s.server.keep_up(NAME)
        until(lambda: s.server.peek(NAME) == ServableId(NAME, 2))
        until(lambda: s.loader.servables[1].is_closed or predict(s.server, 1) == (1, Y))
        s.remove(2)
        s.server.keep_up(NAME)
        until(lambda: s.server.peek(NAME) == ServableId(NAME, 1))
        until(lambda: s.loader.servables[2].is_closed)
        s.server.keep_up("other")


def test_what_had_to_leave_the_memory_comes_back_for_who_asks_alone() -> None:
    with stage(1, budget=1) as s:
        assert predict(s.server) == (1, Y)
        s.server.configure({NAME: s.repository, "other": another(s, "other", 7)})
        assert predict(s.server, name="other") == (7, Y)
        s.put(2)
        s.server.keep_up(NAME)
        assert s.loader.loads == [1, 7]
        assert predict(s.server) == (2, Y)


def test_a_version_that_is_broken_is_tried_again_behind_no_more_often_than_every_30_s() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        s.loader.broken[2] = BROKEN

        def keep_up(seconds: float) -> list[int]:
            s.clock.now += seconds
            for _ in range(3):
                s.server.keep_up(NAME)
                until(lambda: not any("_renew" in thread.name for thread in threading.enumerate()))
            return s.loader.loads

        assert keep_up(0) == [1, 2]
        assert keep_up(RETRY) == [1, 2]
        assert keep_up(FAILURE_TTL) == [1, 2, 2]


def test_nobody_waits_for_another_renewal_longer_than_for_a_load() -> None:
    with stage(1, load_timeout=0.05) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        gate = s.loader.hold(2)
        s.server.keep_up(NAME)
        gate.wait_until_reached()
        with pytest.raises(LoadPending, match=f"a version of {NAME} is still being loaded"):
            s.server.renew(NAME)
        gate.open()
        until(lambda: s.server.peek(NAME) == ServableId(NAME, 2))


def test_the_statuses_are_those_of_all_models_and_say_what_is_wrong_with_one_as_a_whole() -> None:
    with stage(1) as s:
        away = another(s, "away", 1)
        empty = another(s, "empty")
        gone = another(s, "gone", 3)
        models = {NAME: s.repository, "away": away, "empty": empty}
        s.server.configure({**models, "gone": gone})
        assert predict(s.server, name="gone") == (3, Y)

        def fail() -> None:
            raise StorageUnavailable("no such bucket")

        away_storage = away.candidates()[0].storage
        assert isinstance(away_storage, MemoryStorage)
        away_storage.before_list = fail
        models["away"] = ModelRepository("away", away_storage, clock=s.clock)
        s.server.configure(models, rejected={"bad": "bad: shape is 7", NAME: "its layout is 'X'"})
        assert s.server.statuses() == {
            NAME: [available(1), VersionStatus(0, State.END, Code.INVALID_ARGUMENT, "its layout is 'X'")],
            "away": [
                VersionStatus(
                    0, State.END, Code.UNAVAILABLE, "the model's storage cannot be read now; the server's log says why"
                )
            ],
            "empty": [],
            "gone": [ended(3)],
            "bad": [VersionStatus(0, State.END, Code.INVALID_ARGUMENT, "bad: shape is 7")],
        }
        assert all(s.server.status(name) == s.server.statuses()[name] for name in (NAME, "gone", "bad"))
        # To those who ask for an answer, it is not there.
        with pytest.raises(ModelNotFound):
            predict(s.server, name="bad")


def test_all_models_that_were_never_listed_are_listed_at_once() -> None:
    with stage(1) as s, ThreadPoolExecutor(1) as pool:
        models = {name: another(s, name, 1) for name in ("a", "b", "c")}
        gate = Gate()
        looks: list[None] = []

        def look() -> None:
            looks.append(None)
            gate.pass_through()

        for name in models:
            storage = MemoryStorage({"1/model.xml": b""})
            storage.before_list = look
            models[name] = ModelRepository(name, storage, clock=s.clock)
        s.server.configure(models)
        statuses = pool.submit(s.server.statuses)
        until(lambda: len(looks) == 3)
        gate.open()
        assert all(statuses.result(PATIENCE)[name] == [available(1)] for name in models)
