"""OpenVINO Model Server's configuration API: the states of all models, and a look anew at what they are to be."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from model_cache.errors import LoadFailed
from model_cache.repository import ModelRepository
from runtime.answers import Answer
from runtime.contract import Contract
from runtime.errors import ConfigRejected, ConfigUnreadable, Overloaded
from tests.fakes import MemoryStorage
from tests.runtime.servables import NAME, Stage, stage

RELOAD = b"/v1/config/reload"


def ask(
    s: Stage, method: str, path: bytes, reload: Callable[[], bool] | None = None, body: bytes = b"", **options: Any
) -> Answer:
    return Contract(s.server, max_body=10, reload=reload, **options).answer(method, path, {}, body)


def message(answer: Answer) -> str:
    text: str = json.loads(answer.body)["error"]
    return text


def test_the_states_of_all_models_are_those_of_each() -> None:
    with stage(1, 2) as s:
        s.loader.broken[2] = LoadFailed("broken")
        s.server.start(NAME)
        s.server.configure({NAME: s.repository, "other": ModelRepository("other", MemoryStorage({"7/model.xml": b""}))})
        answer = ask(s, "GET", b"/v1/config")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        everything = json.loads(answer.body)
        assert set(everything) == {NAME, "other"}
        for name, states in everything.items():
            assert states == json.loads(ask(s, "GET", f"/v1/models/{name}".encode()).body)
        assert everything[NAME]["model_version_status"][0]["status"]["error_message"] == "broken"


def test_without_models_there_are_no_states() -> None:
    with stage(1) as s:
        s.server.configure({})
        # What was there stays as ended.
        states = json.loads(ask(s, "GET", b"/v1/config").body)
        assert {state["state"] for of in states.values() for state in of["model_version_status"]} <= {
            "END",
            "UNLOADING",
        }


@pytest.mark.parametrize(("is_changed", "status"), [(True, 201), (False, 200)])
def test_a_reload_says_by_its_status_whether_anything_has_changed(is_changed: bool, status: int) -> None:
    with stage(1) as s:
        # Its body is not looked at, however large it is.
        answer = ask(s, "POST", RELOAD, lambda: is_changed, b'{"model_config_list": []}')
        assert answer.status == status
        assert answer.body == ask(s, "GET", b"/v1/config").body


def test_a_reload_answers_with_what_is_served_after_it() -> None:
    with stage(1) as s:

        def reload() -> bool:
            s.server.configure({"other": ModelRepository("other", MemoryStorage({"7/model.xml": b""}))})
            return True

        assert "other" in json.loads(ask(s, "POST", RELOAD, reload).body)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (
            ConfigRejected("models.json: 'nireq' is -1; want 0 or more"),
            412,
            "Reloading config file failed. Check server logs for more info. models.json: 'nireq' is -1; want 0 or more",
        ),
        (ConfigUnreadable("models.json"), 500, "Config file not found or cannot open. models.json"),
        (Overloaded("somebody else is at it"), 503, "somebody else is at it"),
    ],
)
def test_a_reload_that_fails_says_why_in_openvino_model_servers_words(
    error: Exception, status: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    def reload() -> bool:
        raise error

    with stage(1) as s, caplog.at_level(logging.WARNING):
        answer = ask(s, "POST", RELOAD, reload)
        assert (answer.status, message(answer)) == (status, text)
    # The log does have more info, but of what passes by itself.
    assert [text in line for line in caplog.messages] == ([] if status == 503 else [True])


def test_an_error_made_anew_has_its_text_once() -> None:
    for error in (ConfigRejected("why"), ConfigUnreadable("why")):
        assert str(type(error)(*error.args)) == str(error)
        assert str(error).endswith(". why")
    assert str(ConfigRejected()) == "Reloading config file failed. Check server logs for more info."


def test_where_nothing_can_be_reloaded_the_answer_says_so() -> None:
    with stage(1) as s:
        answer = ask(s, "POST", RELOAD)
        assert (answer.status, message(answer)) == (501, "this server has no configuration that could be reloaded")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", RELOAD), ("POST", b"/v1/config"), ("PUT", RELOAD), ("GET", b"/v1/config/")]
)
def test_what_is_neither_of_the_two_is_malformed(method: str, path: bytes) -> None:
    with stage(1) as s:
        answer = ask(s, method, path, lambda: True)
        assert (answer.status, message(answer)) == (400, f"Malformed request: {method} {path.decode()}")
