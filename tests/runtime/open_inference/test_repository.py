"""The model repository extension: the index, and what loads and unloads may say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from model_cache.errors import LoadFailed, LoadPending, StorageUnavailable
from model_cache.policy import Specific
from model_cache.repository import ModelRepository
from runtime.codecs.open_inference.reports import IndexRow
from runtime.errors import InvalidRequest, PayloadTooLarge, PreconditionFailed, Unsupported
from runtime.open_inference import repository
from tests.fakes import MemoryStorage
from tests.runtime.servables import NAME, Stage, predict, stage

BROKEN = LoadFailed("Incorrect weights in bin file!")


def row(version: int | str, state: str = "READY", reason: str = "", name: str = NAME) -> IndexRow:
    return IndexRow(name, str(version), state, reason)


def rows_of(s: Stage, ready_only: bool = False) -> list[IndexRow]:
    return repository.index(s.server, ready_only)


def test_what_can_be_loaded_on_demand_is_ready_whether_or_not_it_is_loaded() -> None:
    with stage(1, 2) as s:
        assert rows_of(s) == [row(2), row(1)]
        predict(s.server)
        assert rows_of(s) == [row(2), row(1)]
        repository.unload(s.server, NAME)
        assert rows_of(s) == [row(2), row(1)]


def test_what_cannot_be_loaded_says_why() -> None:
    with stage(1, 2) as s:
        s.loader.broken[2] = BROKEN
        predict(s.server)
        assert rows_of(s) == [row(2, "UNAVAILABLE", str(BROKEN)), row(1)]
        assert rows_of(s, ready_only=True) == [row(1)]


def test_what_comes_and_goes_says_so() -> None:
    with stage(1) as s:
        gate = s.loader.hold(1)
        with pytest.raises(LoadPending, match=f"{NAME}/1 is still loading"):
            s.server.load(NAME, monotonic() + 0.01)
        gate.wait_until_reached()
        assert rows_of(s) == [row(1, "LOADING")]
        assert rows_of(s, ready_only=True) == []
        gate.open()
        with s.server.lease(NAME):
            repository.unload(s.server, NAME)
            assert rows_of(s) == [row(1, "UNLOADING")]
        s.storage.blobs["2/model.xml"] = b""
        s.look()
        young = "it has only just appeared in storage and may still be uploaded"
        assert rows_of(s) == [row(2, "UNAVAILABLE", young), row(1)]
        s.list_anew()
        s.remove(1)
        assert rows_of(s) == [row(2), row(1, "UNAVAILABLE", "unloaded")]


def test_a_model_that_goes_on_as_it_was_is_ready_and_says_what_is_wrong() -> None:
    with stage(1) as s:
        s.server.configure({NAME: s.repository}, rejected={NAME: "'nireq' is 0", "other": "no base path"})
        rejected = [row("", "UNAVAILABLE", "'nireq' is 0"), row("", "UNAVAILABLE", "no base path", "other")]
        assert rows_of(s) == [row(1), *rejected]
        assert rows_of(s, ready_only=True) == [row(1)]


def test_a_model_that_cannot_be_listed_does_not_say_where_it_is() -> None:
    with stage(1) as s:
        s.break_storage(StorageUnavailable("s3://secret: no such bucket"))
        s.server.configure({NAME: s.repository, "other": ModelRepository("other", MemoryStorage(), clock=s.clock)})
        reason = "the model's storage cannot be read now; the server's log says why"
        nothing = row("", "UNAVAILABLE", "Could not find any versions of model other", "other")
        assert rows_of(s) == [row("", "UNKNOWN", reason), nothing]


def test_a_version_may_be_called_0() -> None:
    with stage(0) as s:
        assert rows_of(s) == [row(0)]
        s.loader.broken[0] = BROKEN
        with pytest.raises(LoadFailed):
            predict(s.server)
        assert rows_of(s) == [row(0, "UNAVAILABLE", str(BROKEN))]


def test_a_version_that_is_configured_and_not_there_is_none() -> None:
    with stage(1, policy=Specific(frozenset({7}))) as s:
        assert [found.version for found in rows_of(s)] == [""]


def test_first_listings_are_waited_for_until_then() -> None:
    with stage(1) as s:
        gate = s.loader.hold(0)
        s.storage.before_list = gate.pass_through
        (found,) = repository.index(s.server, until=monotonic() + 0.01)
        assert (found.version, found.state) == ("", "UNKNOWN")
        gate.open()
        assert rows_of(s) == [row(1)]


def test_there_is_one_index() -> None:
    with stage(1) as s, pytest.raises(Unsupported, match="'repository_name' is 'mine'; want none"):
        repository.index(s.server, False, "mine")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        # What tritonclient sends, and curl.
        (b"", (False, "")),
        (b" \n", (False, "")),
        (b"{}", (False, "")),
        (b'{"ready": true}', (True, "")),
        (b'{"ready": false, "repository_name": "", "other": [1]}', (False, "")),
        (b'{"repository_name": "mine"}', (False, "mine")),
        # What pydantic writes of what is left out.
        (b'{"ready": null, "repository_name": null}', (False, "")),
    ],
)
def test_a_request_for_the_index_may_say_little(body: bytes, wanted: tuple[bool, str]) -> None:
    assert repository.read_index(body) == wanted


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is no JSON: "),
        (b"\xff", "the body is no JSON: "),
        (b"[true]", r"the body is \[true\]; want an object"),
        (b"null", "the body is null; want an object"),
        (b'{"ready": 1}', "'ready' is 1; want true or false"),
        (b'{"ready": "true"}', "'ready' is 'true'; want true or false"),
        (b'{"repository_name": {}}', "'repository_name' is {}; want a string"),
        (b'{"ready": "' + b"x" * 10_000 + b'"}', "'ready' is 'xxx.{50,300}; want true or false"),
        (b"[" * 2000 + b"]" * 2000, "the body is no JSON: "),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        repository.read_index(body)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"", {}),
        (b"{}", {}),
        (b'{"parameters": null}', {}),
        # tritonclient's.
        (b'{"parameters": {"unload_dependents": false}}', {"unload_dependents": False}),
        (
            b'{"parameters": {"config": "{}", "file:1/model.onnx": "AAAA"}}',
            {"config": "{}", "file:1/model.onnx": "AAAA"},
        ),
    ],
)
def test_a_load_may_have_parameters(body: bytes, wanted: dict[str, Any]) -> None:
    assert repository.read_parameters(body) == wanted


@pytest.mark.parametrize("read", [repository.read_index, repository.read_parameters])
def test_a_body_of_more_than_there_is_to_say_is_not_read(read: Callable[[bytes], object]) -> None:
    most = 64 << 10
    assert read(b"{}" + b" " * (most - 2)) == read(b"")
    with pytest.raises(PayloadTooLarge, match=f"the body has {most + 1} bytes; want {most} at most"):
        read(b"[" + b"[]," * (most // 3) + b"]")


@pytest.mark.parametrize("body", [b"7", b'{"parameters": []}'])
def test_parameters_are_an_object(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="want an object"):
        repository.read_parameters(body)


@pytest.mark.parametrize("key", ["config", "file:1/model.xml", "file:" + "x" * 10_000])
def test_a_client_cannot_bring_a_model(key: str) -> None:
    with stage(1) as s:
        with pytest.raises(InvalidRequest, match=f"^parameter '{key[:20]}.*' is not supported") as refused:
            repository.load(s.server, NAME, None, {key: "whatever"})
        assert len(str(refused.value)) < 300
        assert s.loader.loads == []


def test_clients_may_load_and_unload_only_if_the_server_is_made_so() -> None:
    with stage(1) as s:
        predict(s.server)
        s.server.is_controlled = False
        for control in (repository.load, repository.unload):
            with pytest.raises(PreconditionFailed, match="explicit model load / unload is not allowed"):
                control(s.server, NAME)
        assert s.server.peek(NAME) is not None
        assert rows_of(s) == [row(1)]


@pytest.mark.parametrize("value", [True, False])
def test_a_model_has_no_dependents(value: bool) -> None:
    with stage(1) as s:
        repository.load(s.server, NAME, None, {"other": 1})
        repository.unload(s.server, NAME, {"unload_dependents": value})
        assert (s.loader.loads, s.server.snapshot().used) == ([1], 0)


def test_whether_dependents_are_to_go_is_yes_or_no() -> None:
    text = "parameter 'unload_dependents' is 'yes'; want true or false"
    with stage(1) as s, pytest.raises(InvalidRequest, match=re.escape(text)):
        repository.unload(s.server, NAME, {"unload_dependents": "yes"})


def test_rows_are_json() -> None:
    from runtime.codecs.open_inference import documents

    with stage(1) as s:
        s.server.configure({NAME: s.repository}, rejected={"other": "no base path"})
        assert json.loads(documents.index(rows_of(s))) == [
            {"name": NAME, "version": "1", "state": "READY", "reason": ""},
            {"name": "other", "state": "UNAVAILABLE", "reason": "no base path"},
        ]
