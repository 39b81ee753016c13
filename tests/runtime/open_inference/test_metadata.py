"""What is told of a model, and whether it is ready."""

from __future__ import annotations

import time

import pytest

from model_cache.errors import LoadFailed, LoadPending, ModelNotFound, StorageUnavailable
from model_cache.policy import Latest
from runtime.open_inference import metadata, repository
from runtime.server import State
from tests.fakes import Gate, until
from tests.runtime.servables import NAME, Stage, stage


def test_a_model_that_can_be_loaded_is_ready_and_is_not_loaded_for_that() -> None:
    with stage(1, 2) as s:
        for version in (None, 0, 1, 2):
            assert metadata.readiness(s.server, NAME, version) == ""
        assert s.loader.loads == []


def test_while_a_model_is_loaded_it_is_ready_as_a_request_would_wait_for_it() -> None:
    with stage(1) as s:
        gate = s.loader.hold(1)
        with pytest.raises(LoadPending), s.server.lease(NAME, until=time.monotonic()):
            pass
        gate.wait_until_reached()
        assert metadata.readiness(s.server, NAME, None) == ""
        gate.open()


def test_a_model_that_cannot_be_loaded_is_not_ready() -> None:
    with stage(1, 2) as s:
        s.loader.broken[2] = LoadFailed("it is broken")
        with s.server.lease(NAME) as lease:
            assert lease.id.version == 1
        # Another one of it is.
        assert metadata.readiness(s.server, NAME, None) == ""
        assert metadata.readiness(s.server, NAME, 1) == ""
        assert metadata.readiness(s.server, NAME, 2) == f"{NAME}/2 is UNAVAILABLE: it is broken"
        s.loader.broken[1] = LoadFailed("as this one")
        s.server.unload(NAME)
        with pytest.raises(LoadFailed), s.server.lease(NAME, 1):
            pass
        why = metadata.readiness(s.server, NAME, None)
        assert why == f"{NAME}/2 is UNAVAILABLE: it is broken; {NAME}/1 is UNAVAILABLE: as this one"


def test_what_has_failed_before_is_not_ready_while_it_is_tried_again() -> None:
    with stage(1, 2) as s:
        s.loader.broken[2] = LoadFailed("it is broken")
        with pytest.raises(LoadFailed), s.server.lease(NAME, 2):
            pass
        gate = s.loader.hold(2)
        s.server.forgive(NAME)
        with pytest.raises(LoadPending), s.server.lease(NAME, 2, until=time.monotonic()):
            pass
        gate.wait_until_reached()
        assert [row.state for row in repository.index(s.server)] == ["LOADING", "READY"]
        assert metadata.readiness(s.server, NAME, 2) == f"{NAME}/2 is LOADING: it is broken"
        assert metadata.readiness(s.server, NAME, None) == ""
        assert metadata.of_model(s.server, NAME, 1).versions == ["1"]
        # It is mended.
        del s.loader.broken[2]
        gate.open()
        until(lambda: metadata.readiness(s.server, NAME, 2) == "")
        assert metadata.of_model(s.server, NAME, 1).versions == ["1", "2"]


def test_a_version_goes_on_being_ready_while_what_is_to_replace_it_is_tried_again() -> None:
    # Nobody has asked for the one that serves, so that it is only by its number that it answers.
    with stage(1) as s:
        with s.server.lease(NAME, 1):
            pass
        s.loader.broken[1] = LoadFailed("it is broken")
        s.put(1, b"another")
        with s.server.lease(NAME, 1):
            pass
        until(lambda: any(status.code for status in s.server.status(NAME)))
        gate = s.loader.hold(1)
        s.server.forgive(NAME)
        until(lambda: is_tried(s, gate))
        assert s.server.status(NAME, 1)[0].state is State.LOADING
        assert metadata.readiness(s.server, NAME, 1) == ""
        gate.open()


def is_tried(s: Stage, gate: Gate) -> bool:
    # One attempt after the other, and only for who asks.
    with s.server.lease(NAME, 1):
        return gate.reached.is_set()


def test_what_there_is_not_is_not_found() -> None:
    with stage(1) as s:
        for name, version in (("other", None), ("other", 1), (NAME, 9)):
            with pytest.raises(ModelNotFound):
                metadata.readiness(s.server, name, version)
            with pytest.raises(ModelNotFound):
                metadata.of_model(s.server, name, version)


def test_a_version_that_has_left_is_not_found() -> None:
    with stage(1, 2, policy=Latest()) as s:
        s.look()
        s.put(3)
        with pytest.raises(ModelNotFound, match=f"{NAME}/2 is served no more"):
            metadata.readiness(s.server, NAME, 2)


def test_a_storage_that_cannot_be_read_is_said() -> None:
    with stage(1) as s:
        s.break_storage(StorageUnavailable("no such bucket"))
        with pytest.raises(StorageUnavailable):
            metadata.readiness(s.server, NAME, None)


def test_metadata_has_the_versions_that_would_be_answered_and_the_tensors_of_one() -> None:
    with stage(1, 2, 10) as s:
        s.loader.broken[10] = LoadFailed("it is broken")
        told = metadata.of_model(s.server, NAME, 1)
        assert (told.name, told.versions) == (NAME, ["1", "2", "10"])
        assert list(told.signature.inputs) == ["x"]
        assert s.loader.loads == [1]
        metadata.of_model(s.server, NAME, None)
        until(lambda: metadata.of_model(s.server, NAME, None).versions == ["1", "2"])
