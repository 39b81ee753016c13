"""ModelServer: loading and unloading a model because somebody has asked for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest

from model_cache.errors import LoadFailed, LoadPending, ModelNotFound, StorageUnavailable
from model_cache.policy import Latest
from model_cache.repository import ModelRepository, ServableId
from runtime.errors import PreconditionFailed
from runtime.server import RETRY, State, VersionStatus
from runtime.status import Code
from tests.fakes import PATIENCE, MemoryStorage, no_more_threads, until
from tests.runtime.servables import NAME, HalfPlusTwo, Stage, predict, stage

Y = [2.5, 3.0]
BROKEN = LoadFailed("Incorrect weights in bin file!")


class Kept(HalfPlusTwo):
    is_kept = True


def put_unlisted(s: Stage, version: int, data: bytes = b"") -> None:
    s.storage.blobs[f"{version}/model.xml"] = data


def in_memory(s: Stage) -> list[int]:
    return [holding.key.id.version for holding in s.server.snapshot().holdings]


def status(s: Stage, version: int) -> VersionStatus:
    return s.server.status(NAME, version)[0]


def test_what_has_just_been_uploaded_serves_once_a_load_has_ended() -> None:
    with stage(1, policy=Latest(1)) as s:
        assert predict(s.server) == (1, Y)
        put_unlisted(s, 2)
        assert predict(s.server) == (1, Y)
        assert s.server.load(NAME) == ServableId(NAME, 2)
        assert predict(s.server) == (2, Y)
        assert s.loader.loads == [1, 2]


def test_a_model_that_is_not_in_memory_is_loaded_in_the_version_that_is_to_serve() -> None:
    with stage(1, 2) as s:
        assert s.server.load(NAME) == ServableId(NAME, 2)
        s.server.unload(NAME)
        put_unlisted(s, 3)
        # The one that has served does not come back for it.
        assert s.server.load(NAME) == ServableId(NAME, 3)
        assert s.loader.loads == [2, 3]


def test_what_is_loaded_is_not_loaded_again() -> None:
    with stage(1) as s:
        for _ in range(2):
            assert s.server.load(NAME) == ServableId(NAME, 1)
        assert s.loader.loads == [1]


def test_other_bytes_of_the_same_version_are_loaded() -> None:
    with stage(1) as s:
        assert s.server.load(NAME) == ServableId(NAME, 1)
        put_unlisted(s, 1, b"other")
        assert s.server.load(NAME) == ServableId(NAME, 1)
        assert s.loader.loads == [1, 1]
        until(lambda: len(in_memory(s)) == 1)


def test_what_has_failed_is_tried_anew_and_nothing_else_is() -> None:
    with stage(1) as s:
        other = ModelRepository("other", MemoryStorage({"7/model.xml": b""}), clock=s.clock)
        s.server.configure({NAME: s.repository, "other": other})
        s.loader.broken = {1: BROKEN, 7: BROKEN}
        for _ in range(2):
            for name in (NAME, "other"):
                with pytest.raises(LoadFailed, match="Incorrect weights"):
                    predict(s.server, name=name)
        assert s.loader.loads == [1, 7]
        s.loader.broken.clear()
        assert s.server.load(NAME) == ServableId(NAME, 1)
        with pytest.raises(LoadFailed, match="Incorrect weights"):
            predict(s.server, name="other")
        assert s.loader.loads == [1, 7, 1]


@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_broken_newest_version_is_told_of_though_the_one_before_goes_on_serving(is_loaded: bool) -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        if not is_loaded:
            s.server.unload(NAME)
        put_unlisted(s, 2)
        s.loader.broken[2] = BROKEN
        for _ in range(2):
            with pytest.raises(LoadFailed, match="Incorrect weights"):
                s.server.load(NAME)
            assert predict(s.server) == (1, Y)
        # Each time, however soon.
        assert s.loader.loads.count(2) == 2
        s.loader.broken.clear()
        assert s.server.load(NAME) == ServableId(NAME, 2)


def test_what_is_not_there_is_not_found() -> None:
    text = r"^Servable not found for request: Latest\(other\) \(Model with requested name is not found\)$"
    with stage(1) as s:
        for call in (s.server.load, s.server.unload):
            with pytest.raises(ModelNotFound, match=text):
                call("other")
        assert s.loader.loads == []
    with stage() as s, pytest.raises(ModelNotFound, match="Servable not found for request: Latest"):
        s.server.load(NAME)


def test_a_storage_that_fails_is_an_error_though_what_is_known_is_loaded() -> None:
    with stage(1) as s:
        s.break_storage(StorageUnavailable("no route to host"))
        with pytest.raises(StorageUnavailable):
            s.server.load(NAME)
        s.storage.before_list = lambda: None
        assert s.server.load(NAME) == ServableId(NAME, 1)
        s.server.unload(NAME)
        put_unlisted(s, 2)
        s.break_storage(StorageUnavailable("no route to host"))
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match="no route to host"):
                s.server.load(NAME)
            assert in_memory(s) == [1]
        assert s.loader.loads == [1, 1]
        s.storage.before_list = lambda: None
        assert s.server.load(NAME) == ServableId(NAME, 2)


def test_a_storage_that_does_not_answer_in_time_is_no_success_either() -> None:
    with stage(1) as s:
        assert s.server.load(NAME) == ServableId(NAME, 1)
        gate = s.loader.hold(0)
        s.storage.before_list = gate.pass_through
        with pytest.raises(LoadPending, match=f"the versions of {NAME} are still being listed"):
            s.server.load(NAME, monotonic() + 0.01)
        assert predict(s.server) == (1, Y)
        gate.open()
        assert s.server.load(NAME) == ServableId(NAME, 1)


@pytest.mark.parametrize("is_serving", [True, False])
def test_who_asks_is_told_in_time_and_the_load_goes_on(is_serving: bool) -> None:
    with stage(1) as s:
        if is_serving:
            assert predict(s.server) == (1, Y)
            put_unlisted(s, 2)
        number = 2 if is_serving else 1
        gate = s.loader.hold(number)
        with pytest.raises(LoadPending):
            s.server.load(NAME, monotonic() + 0.01)
        # Or it waits for the one that is under way already.
        with pytest.raises(LoadPending):
            s.server.load(NAME, monotonic() + 0.01)
        gate.wait_until_reached()
        gate.open()
        assert s.server.load(NAME) == ServableId(NAME, number)
        assert s.loader.loads.count(number) == 1


def test_nobody_waits_for_longer_than_a_request_does() -> None:
    with stage(1, load_timeout=0.01) as s:
        gate = s.loader.hold(1)
        with pytest.raises(LoadPending):
            s.server.load(NAME, monotonic() + PATIENCE)
        gate.open()
        until(lambda: in_memory(s) == [1])


def test_a_newest_version_that_cannot_be_loaded_now_is_no_success() -> None:
    with stage(1, load_timeout=1) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        # Nor can anything be listed.
        with no_more_threads(), pytest.raises(LoadPending, match=f"{NAME}/2 is not loaded yet"):
            s.server.load(NAME)
        s.pass_seconds(RETRY)
        assert s.server.load(NAME) == ServableId(NAME, 2)


def test_what_is_unloaded_has_left_the_memory_and_comes_back_for_a_request() -> None:
    with stage(1, 2) as s:
        assert (predict(s.server), predict(s.server, 1)) == ((2, Y), (1, Y))
        s.server.unload(NAME)
        assert (in_memory(s), s.server.snapshot().used, s.server.snapshot().evictions) == ([], 0, 0)
        assert all(servable.is_closed for servable in s.loader.made)
        assert s.server.peek(NAME) is None
        # It would be answered.
        assert status(s, 2) == VersionStatus(2, State.AVAILABLE, Code.OK, "")
        # Nobody wants it but who asks for it.
        s.server.keep_up(NAME)
        assert in_memory(s) == []
        assert predict(s.server) == (2, Y)
        assert s.loader.loads == [2, 1, 2]


def test_what_is_not_loaded_may_be_unloaded_which_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "runtime.server")
    with stage(1) as s:
        s.server.unload(NAME)
        assert "is unloaded" not in caplog.text
        predict(s.server)
        for _ in range(2):
            s.server.unload(NAME)
        assert in_memory(s) == []
        assert caplog.text.count(f"{NAME} is unloaded") == 1


def test_a_request_goes_on_with_what_it_has_which_leaves_with_the_last() -> None:
    with stage(1) as s:
        with s.server.lease(NAME), s.server.lease(NAME):
            s.server.unload(NAME)
            s.server.unload(NAME)
            (first,) = s.loader.made
            assert not first.is_closed
            assert status(s, 1).state == State.UNLOADING
            # The next has another.
            assert predict(s.server) == (1, Y)
            assert s.loader.loads == [1, 1]
            assert not first.is_closed
        assert first.is_closed
        assert in_memory(s) == [1]


def test_who_waits_for_a_load_gets_what_is_unloaded_meanwhile() -> None:
    with stage(1) as s, ThreadPoolExecutor(1) as pool:
        gate = s.loader.hold(1)
        waiting = pool.submit(predict, s.server)
        gate.wait_until_reached()
        s.server.unload(NAME)
        gate.open()
        assert waiting.result(PATIENCE) == (1, Y)
        until(lambda: s.loader.made[0].is_closed)
        assert in_memory(s) == []


def test_a_model_that_is_unloaded_while_a_better_version_loads_serves_that() -> None:
    with stage(1) as s:
        assert predict(s.server) == (1, Y)
        s.put(2)
        gate = s.loader.hold(2)
        assert predict(s.server) == (1, Y)
        gate.wait_until_reached()
        s.server.unload(NAME)
        gate.open()
        until(lambda: in_memory(s) == [])
        assert predict(s.server) == (2, Y)


def test_open_sequences_are_not_lost() -> None:
    with stage(1, 2, make=Kept) as s:
        predict(s.server)
        for _ in range(2):
            with pytest.raises(PreconditionFailed, match=rf"{NAME}/2 is not unloaded: it has open sequences"):
                s.server.unload(NAME)
        assert in_memory(s) == [2]
        s.loader.servables[2].is_kept = False
        s.server.unload(NAME)
        assert in_memory(s) == []


def test_no_request_fails_while_others_load_and_unload() -> None:
    with stage(1, 2, room_timeout=PATIENCE) as s, ThreadPoolExecutor(7) as pool:
        is_over = threading.Event()
        answered = threading.Semaphore(0)

        def requests(version: int | None) -> set[tuple[int, str]]:
            found: set[tuple[int, str]] = set()
            while not is_over.is_set():
                number, y = predict(s.server, version)
                found.add((number, str(y)))
                answered.release()
            return found

        def do(call: Any) -> int:
            count = 0
            while not is_over.is_set():
                call(NAME)
                count += 1
            return count

        clients = [pool.submit(requests, version) for version in (None, None, 1, 2)]
        others = [pool.submit(do, call) for call in (s.server.unload, s.server.unload, s.server.load)]
        for _ in range(300):
            assert answered.acquire(timeout=PATIENCE)
        is_over.set()
        results = [client.result(PATIENCE) for client in clients]
        assert results == [{(number, str(Y))} for number in (2, 2, 1, 2)]
        assert all(other.result(PATIENCE) for other in others)
        s.server.unload(NAME)
        assert (in_memory(s), s.server.snapshot().used) == ([], 0)
        # Not by a rest that nobody has closed.
        assert all(servable.is_closed for servable in s.loader.made)
        assert len(s.loader.made) > 2
