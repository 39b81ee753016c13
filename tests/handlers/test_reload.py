"""Replacing a server's models, by message and by file, on a loader that behaves until it is told otherwise."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from handlers.build import open_repositories
from handlers.configuration import Configuration, MetricsConfig, ModelConfig, parse
from handlers.reload import Reload
from handlers.settings import Settings, SettingsError
from model_cache.cache import ModelCache
from model_cache.disk import DiskCache
from model_cache.errors import LoadFailed, LoadPending, ModelNotFound, StorageUnavailable
from model_cache.policy import Latest
from model_cache.repository import ModelVersion
from runtime.codecs import schema
from runtime.errors import (
    ConfigRejected,
    ConfigUnreadable,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PreconditionFailed,
)
from runtime.options import DEFAULTS, Stateful
from runtime.servable import Servable
from runtime.server import ModelServer, State, VersionStatus
from runtime.status import Code
from tests.fakes import PATIENCE, Gate, until
from tests.runtime.servables import VersionLoader, predict
from tests.servers.fault_proxy import Before, FaultProxy, on
from tests.servers.seaweedfs import SeaweedFS

Y = [2.5, 3.0]
UNAVAILABLE = "Request to assign label to version {} of model {}, which is not currently available for inference"


class Rig:
    """A server of models in directories, each version of which has a number of its own, and what replaces them."""

    def __init__(self, base: Path, models: list[ModelConfig], settings: Settings) -> None:
        self.base = base
        self.loader = VersionLoader()
        configuration = file(*models)
        repositories, rejected = open_repositories(configuration, settings)
        self.server = ModelServer(
            repositories,
            ModelCache[ModelVersion, Servable](self.loader, 100),
            DiskCache(base / "cache", 0),
            labels={model.name: model.labels for model in models},
            rejected=rejected,
        )
        self.reload = Reload(self.server, settings, configuration)

    def served(self) -> list[str]:
        return sorted(self.server.repositories)

    def labelled(self, name: str, label: str) -> int:
        with self.server.lease(name, label=label) as lease:
            return lease.id.version


def put(base: Path, name: str, *versions: int) -> str:
    """Store versions of a model that have long been there; return its base path."""
    for version in versions:
        path = base / name / str(version) / "model.xml"
        path.parent.mkdir(parents=True)
        path.write_text(name)
        os.utime(path, (0, 0))
    return str(base / name)


def config(base: Path, name: str, *versions: int, **labels: int) -> ModelConfig:
    return ModelConfig(name, put(base, name, *versions), None, labels)


def file(*models: ModelConfig) -> Configuration:
    """What a file of OpenVINO Model Server's says."""
    return Configuration(list(models), is_json=True)


def message(*models: ModelConfig) -> Any:
    written = schema.ModelServerConfig()
    written.model_config_list.SetInParent()
    for model in models:
        added = written.model_config_list.config.add(name=model.name, base_path=model.base_path)
        added.version_labels.update(model.labels)
    return written


def wide(model: ModelConfig, requests: int = 2) -> ModelConfig:
    """The model with other options."""
    return model._replace(options=DEFAULTS._replace(requests=requests))


def relabelled(model: ModelConfig, labels: Mapping[str, int]) -> ModelConfig:
    return ModelConfig(model.name, model.base_path, model.policy, labels)


@contextmanager
def rig(base: Path, *models: ModelConfig, **options: Any) -> Iterator[Rig]:
    made = Rig(base, list(models), Settings(**options))
    try:
        yield made
    finally:
        made.server.close()
        until(lambda: all(servable.is_closed for servable in made.loader.made))


def test_a_model_that_is_new_is_loaded_before_the_reload_returns(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with rig(tmp_path, one) as r:
        assert predict(r.server, name="one") == (1, Y)
        r.reload(message(one, two))
        assert r.loader.loads == [1, 2]
        assert predict(r.server, name="two") == (2, Y)
        # Nor is anything loaded for what there was.
        r.reload(message(one, two))
        assert r.loader.loads == [1, 2]


def test_a_model_that_is_not_named_any_more_is_gone(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with rig(tmp_path, one, two) as r:
        assert predict(r.server, name="one") == (1, Y)
        r.reload(message(two))
        with pytest.raises(ModelNotFound):
            predict(r.server, name="one")
        assert r.loader.servables[1].is_closed
        r.reload(message())
        assert r.served() == []


def test_a_new_base_path_is_a_new_model(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 5)
    elsewhere = ModelConfig("one", put(tmp_path, "elsewhere", 2))
    with rig(tmp_path, one) as r:
        assert predict(r.server, name="one") == (5, Y)
        r.reload(message(elsewhere))
        assert r.loader.loads == [5, 2]
        assert r.loader.servables[5].is_closed
        assert predict(r.server, name="one") == (2, Y)


def test_a_new_policy_loads_nothing_anew(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1, 2)
    with rig(tmp_path, one) as r:
        assert predict(r.server, 1, "one") == (1, Y)
        assert predict(r.server, name="one") == (2, Y)
        latest = message(one)
        latest.model_config_list.config[0].model_version_policy.latest.num_versions = 1
        r.reload(latest)
        assert predict(r.server, name="one") == (2, Y)
        with pytest.raises(ModelNotFound):
            predict(r.server, 1, "one")
        assert r.loader.loads == [1, 2]
        assert r.loader.servables[1].is_closed


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([ModelConfig("one", "/a"), ModelConfig("one", "/b")], "model 'one' is listed more than once"),
        ([ModelConfig("one", "models/one")], "model 'one': base_path is 'models/one'; want an absolute path"),
        ([ModelConfig("", "/a")], "model 1 of the list: name is ''"),
        ([ModelConfig("one", "/a", None, {"stable": -1})], "label stable is -1"),
    ],
)
def test_a_message_that_makes_no_sense_changes_nothing(models: list[ModelConfig], said: str, tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1)
    with rig(tmp_path, one) as r:
        with pytest.raises(InvalidRequest, match=said):
            r.reload(message(*models))
        assert predict(r.server, name="one") == (1, Y)


def test_a_new_model_that_cannot_be_loaded_changes_nothing(tmp_path: Path) -> None:
    one, two, three = (config(tmp_path, name, version) for name, version in (("one", 1), ("two", 2), ("three", 3)))
    with rig(tmp_path, one) as r:
        assert predict(r.server, name="one") == (1, Y)
        r.loader.broken[3] = LoadFailed("Incorrect weights in bin file!")
        with pytest.raises(LoadFailed, match="Incorrect weights"):
            r.reload(message(two, three))
        assert r.served() == ["one"]
        assert predict(r.server, name="one") == (1, Y)
        # What could be loaded does not stay for nothing.
        assert r.loader.servables[2].is_closed
        (tmp_path / "empty").mkdir()
        with pytest.raises(ModelNotFound, match="there is no directory named by a number"):
            r.reload(message(ModelConfig("empty", str(tmp_path / "empty"))))
        with pytest.raises(StorageUnavailable, match="No such file or directory"):
            r.reload(message(ModelConfig("none", str(tmp_path / "none"))))
        assert r.served() == ["one"]


def test_a_load_that_takes_too_long_goes_on_for_who_tries_again(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with rig(tmp_path, one, load_timeout=0.05) as r:
        gate = r.loader.hold(2)
        with pytest.raises(LoadPending):
            r.reload(message(one, two))
        assert r.served() == ["one"]
        gate.open()
        until(lambda: 2 in r.loader.servables)
        r.reload(message(one, two))
        assert (r.served(), r.loader.loads) == (["one", "two"], [2])


def test_a_reload_ends_with_its_callers_deadline(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with rig(tmp_path, one) as r:
        gate = r.loader.hold(2)
        with pytest.raises(DeadlineExceeded, match="the models stay as they are: two/2 is still loading"):
            r.reload(message(two), time.monotonic() + 0.05)
        assert r.served() == ["one"]
        gate.open()
        r.reload(message(two), time.monotonic() + PATIENCE)
        assert (r.served(), r.loader.loads) == (["two"], [2])


@contextmanager
def slow_bucket(s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultProxy, Gate]]:
    """What is in front of a bucket that nobody can list before the gate is opened."""
    gate = Gate()
    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(Before(gate.pass_through), "GET", "list-type"))
        for name, value in s3.reader.env().items():
            monkeypatch.setenv(name, value)
        try:
            yield proxy, gate
        finally:
            gate.open()


@pytest.mark.parametrize("latest", [0, 1])
def test_a_reload_does_not_wait_for_a_bucket_beyond_its_callers_deadline(
    latest: int, s3: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = config(tmp_path, "one", 2)
    with slow_bucket(s3, monkeypatch) as (proxy, gate), rig(tmp_path, one, s3_endpoint=proxy.url) as r:
        digits = message(one, ModelConfig("digits", "s3://models/digits"))
        if latest:
            digits.model_config_list.config[1].model_version_policy.latest.num_versions = latest
        for _ in range(2):
            with pytest.raises(DeadlineExceeded, match="stay as they are: the versions of digits are still being list"):
                r.reload(digits, time.monotonic() + 0.1)
        # Nor does it keep others from theirs.
        r.reload(message(one), time.monotonic() + PATIENCE)
        with pytest.raises(DeadlineExceeded):
            r.reload(digits, time.monotonic() + 0.1)
        gate.open()
        r.reload(digits, time.monotonic() + PATIENCE)
        assert predict(r.server, name="digits") == (1, Y)
        # One for those who have tried one after the other, and one for those after the reload that succeeded.
        assert proxy.count("GET", "list-type") == 2


def test_a_label_moves_once_its_version_is_loaded(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1, 2, stable=1)
    with rig(tmp_path, one) as r:
        assert r.labelled("one", "stable") == 1
        r.reload(message(relabelled(one, {"stable": 2, "old": 1})))
        assert r.loader.loads == [1, 2]
        assert (r.labelled("one", "stable"), r.labelled("one", "old")) == (2, 1)
        r.reload(message(relabelled(one, {})))
        with pytest.raises(InvalidRequest, match="Unrecognized servable version label: stable"):
            r.labelled("one", "stable")
        assert r.loader.loads == [1, 2]


def test_a_label_for_a_version_that_is_not_available_changes_nothing(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1, 2, stable=1)
    two = config(tmp_path, "two", 3)
    with rig(tmp_path, one) as r:
        r.loader.broken[2] = LoadFailed("Incorrect weights in bin file!")
        for labels in ({"stable": 2}, {"stable": 1, "canary": 2}):
            with pytest.raises(PreconditionFailed, match=f"^{UNAVAILABLE.format(2, 'one')}: Incorrect weights"):
                r.reload(message(relabelled(one, labels)))
        with pytest.raises(PreconditionFailed, match=f"^{UNAVAILABLE.format(9, 'one')}"):
            r.reload(message(relabelled(one, {"stable": 9})))
        with pytest.raises(PreconditionFailed, match=f"^{UNAVAILABLE.format(9, 'two')}"):
            r.reload(message(one, relabelled(two, {"stable": 9})))
        assert (r.labelled("one", "stable"), r.served()) == (1, ["one"])


def test_if_it_is_allowed_a_new_label_waits_for_its_version_but_none_moves_to_one_that_is_not_there(
    tmp_path: Path,
) -> None:
    one = config(tmp_path, "one", 1, stable=1)
    with rig(tmp_path, one, allow_version_labels_for_unavailable_models=True) as r:
        r.reload(message(relabelled(one, {"stable": 1, "canary": 9})))
        with pytest.raises(ModelNotFound, match="Specific"):
            r.labelled("one", "canary")
        with pytest.raises(PreconditionFailed):
            r.reload(message(relabelled(one, {"stable": 9})))
        assert r.labelled("one", "stable") == 1


def test_reloads_happen_one_after_the_other(tmp_path: Path) -> None:
    models = [config(tmp_path, f"m{number}", number) for number in range(1, 5)]
    with rig(tmp_path) as r, ThreadPoolExecutor(8) as pool:
        wants = [models[: 1 + number % 4] for number in range(32)]
        for reloaded in [pool.submit(r.reload, message(*want)) for want in wants]:
            reloaded.result(PATIENCE)
        # Whichever came last: it is one of them and not a mixture.
        assert r.served() in [[model.name for model in want] for want in wants]
        for name in r.served():
            assert predict(r.server, name=name)[1] == Y


def test_who_would_wait_too_long_for_another_reload_is_told_so(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with rig(tmp_path) as r, ThreadPoolExecutor(1) as pool:
        gate = r.loader.hold(1)
        first = pool.submit(r.reload, message(one))
        gate.wait_until_reached()
        with pytest.raises(DeadlineExceeded, match="the models are being replaced by somebody else"):
            r.reload(message(two), time.monotonic() + 0.05)
        gate.open()
        first.result(PATIENCE)
        assert (r.served(), r.loader.loads) == (["one"], [1])


def test_a_reload_under_load_fails_no_request_to_what_stays(tmp_path: Path) -> None:
    stays = config(tmp_path, "stays", 1, stable=1)
    others = [config(tmp_path, f"m{number}", number) for number in range(2, 5)]
    with rig(tmp_path, stays) as r, ThreadPoolExecutor(4) as pool:
        done = threading.Event()

        def ask() -> int:
            count = 0
            while not done.is_set():
                assert predict(r.server, name="stays") == (1, Y)
                assert r.labelled("stays", "stable") == 1
                count += 1
            return count

        askers = [pool.submit(ask) for _ in range(4)]
        for number in range(40):
            r.reload(message(stays, *others[: number % 4]))
        done.set()
        assert all(asker.result(PATIENCE) for asker in askers)
        assert r.loader.loads.count(1) == 1


def written(*models: ModelConfig) -> str:
    """OpenVINO Model Server's file of these models."""
    entries = [
        {
            "name": model.name,
            "base_path": model.base_path,
            "version_labels": dict(model.labels),
            "nireq": model.options.requests,
            "stateful": model.options.stateful is not None,
        }
        for model in models
    ]
    return json.dumps({"model_config_list": [{"config": entry} for entry in entries]})


class Poll:
    """A file that is looked at every few milliseconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stopped = threading.Event()

    def write(self, content: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(content)
        new.replace(self.path)

    def names(self, *models: ModelConfig) -> None:
        self.write(written(*models))


@contextmanager
def polled(r: Rig, *models: ModelConfig) -> Iterator[Poll]:
    poll = Poll(r.base / "config.json")
    poll.names(*models)
    assert parse(str(poll.path), poll.path.read_bytes()).models == list(models)
    thread = threading.Thread(target=r.reload.watch, args=(str(poll.path), 0.005, poll.stopped))
    thread.start()
    try:
        yield poll
    finally:
        poll.stopped.set()
        thread.join(PATIENCE)


def test_a_file_that_changes_is_used_and_what_is_new_is_loaded_behind(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with rig(tmp_path, one) as r, polled(r, one) as poll:
        gate = r.loader.hold(2)
        poll.names(one, two)
        gate.wait_until_reached()
        assert r.served() == ["one", "two"]
        gate.open()
        until(lambda: 2 in r.loader.servables)
        poll.names(two)
        until(lambda: r.served() == ["two"])
        assert predict(r.server, name="two") == (2, Y)
        assert r.loader.loads == [2]


def test_with_a_file_the_old_base_path_serves_until_the_new_one_is_loaded(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 5)
    elsewhere = ModelConfig("one", put(tmp_path, "elsewhere", 2))
    with rig(tmp_path, one) as r, polled(r, one) as poll:
        assert predict(r.server, name="one") == (5, Y)
        gate = r.loader.hold(2)
        poll.names(elsewhere)
        gate.wait_until_reached()
        assert predict(r.server, name="one") == (5, Y)
        gate.open()
        until(lambda: predict(r.server, name="one") == (2, Y))


def test_a_bad_file_changes_nothing_and_is_one_line_each_time_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with rig(tmp_path, one) as r, polled(r, one) as poll, caplog.at_level(logging.ERROR):
        for bad, said in (("{", "not valid json"), ("nonsense", "Error parsing text-format"), ("{", "not valid json")):
            caplog.clear()
            poll.write(bad)
            until(lambda: bool(caplog.records))
            _some_polls()
            (line,) = caplog.messages
            assert line.startswith(f"the models stay as they are: {poll.path}: ")
            assert said in line
        caplog.clear()
        poll.path.unlink()
        until(lambda: bool(caplog.records))
        _some_polls()
        assert caplog.messages == [f"the models stay as they are: cannot read {poll.path}: No such file or directory"]
        assert predict(r.server, name="one") == (1, Y)
        poll.names(two)
        until(lambda: r.served() == ["two"])


def _some_polls() -> None:
    # What does not happen sends no event.
    time.sleep(0.05)


def test_a_new_model_that_is_broken_does_not_keep_others_from_changing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three = (config(tmp_path, name, version) for name, version in (("one", 1), ("two", 2), ("three", 3)))
    with rig(tmp_path, one) as r, polled(r, one) as poll:
        r.loader.broken[2] = LoadFailed("Incorrect weights in bin file!")
        poll.names(two, three)
        until(lambda: 3 in r.loader.servables)
        until(lambda: "two is not loaded: Incorrect weights in bin file!" in caplog.messages)
        assert r.served() == ["three", "two"]


def test_with_a_file_a_label_moves_once_its_version_can_be_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = config(tmp_path, "one", 1, 2, stable=1)
    with rig(tmp_path, one, file_system_poll_wait_seconds=0.001) as r, polled(r, one) as poll:
        poll.names(relabelled(one, {"stable": 3}))
        until(lambda: UNAVAILABLE.format(3, "one") in caplog.text)
        _some_polls()
        assert caplog.text.count("which is not currently available") == 1
        assert r.labelled("one", "stable") == 1
        put(tmp_path, "one", 3)
        until(lambda: r.labelled("one", "stable") == 3)


def test_labels_of_a_model_that_is_new_in_a_file_apply_when_their_versions_come(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2, canary=3)
    with rig(tmp_path, one, file_system_poll_wait_seconds=0.001) as r, polled(r, one) as poll:
        poll.names(one, two)
        until(lambda: r.served() == ["one", "two"])
        with pytest.raises(ModelNotFound):
            r.labelled("two", "canary")
        put(tmp_path, "two", 3)
        until(lambda: [status.state.name for status in r.server.status("two")] == ["AVAILABLE", "AVAILABLE"])
        assert r.labelled("two", "canary") == 3


def test_what_a_client_has_had_replaced_stays_until_the_file_says_something_new(tmp_path: Path) -> None:
    one, two, three = (config(tmp_path, name, version) for name, version in (("one", 1), ("two", 2), ("three", 3)))
    with rig(tmp_path, one) as r:
        r.reload(message(two))
        with polled(r, one) as poll:
            _some_polls()
            assert r.served() == ["two"]
            poll.names(three)
            until(lambda: r.served() == ["three"])


def test_of_several_processes_all_take_the_same_for_news(tmp_path: Path) -> None:
    """The file said ``one`` where the client has said ``two``: to others that had used something else it is news."""
    one, two, three = (config(tmp_path, name, version) for name, version in (("one", 1), ("two", 2), ("three", 3)))
    with rig(tmp_path, one) as r, polled(r, one) as poll:
        r.reload(message(two), told=file(one))
        _some_polls()
        assert r.served() == ["two"]
        poll.names(three)
        until(lambda: r.served() == ["three"])
        assert r.reload.told == file(three)
        r.reload(message(two), told=file(one))
        # Also as it has been seen already.
        until(lambda: r.served() == ["three"])
        r.reload(message(two))
        _some_polls()
        assert r.served() == ["two"]


def test_who_begins_with_what_a_client_has_said_does_not_take_the_file_for_news(tmp_path: Path) -> None:
    one, two, three = (config(tmp_path, name, version) for name, version in (("one", 1), ("two", 2), ("three", 3)))
    with rig(tmp_path, two) as r:
        r.reload = Reload(r.server, Settings(), file(two), told=file(one))
        with polled(r, one) as poll:
            _some_polls()
            assert r.served() == ["two"]
            poll.names(three)
            until(lambda: r.served() == ["three"])


def test_a_storage_that_nothing_can_open_changes_nothing(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1)
    with rig(tmp_path, one) as r:
        with pytest.raises(SettingsError, match="names no bucket"):
            r.reload.use(Configuration([one, ModelConfig("two", "s3://")]))
        assert r.served() == ["one"]


def test_a_bug_does_not_end_the_watch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = config(tmp_path, "one", 1, 2, stable=1), config(tmp_path, "two", 3)
    with rig(tmp_path, one) as r, polled(r, one) as poll:
        r.loader.broken[2] = ZeroDivisionError("a bug")
        poll.names(relabelled(one, {"stable": 2}))
        until(lambda: f"cannot use {poll.path}" in caplog.messages)
        poll.names(two)
        until(lambda: r.served() == ["two"])


def test_with_a_file_options_change_behind_the_version_that_serves(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with rig(tmp_path, one, two) as r, polled(r, one, two) as poll:
        assert (predict(r.server, name="one"), predict(r.server, name="two")) == ((1, Y), (2, Y))
        before = r.loader.servables[1]
        gate = r.loader.hold(1)
        poll.names(wide(one), two)
        gate.wait_until_reached()
        for version in (None, 1):
            with r.server.lease("one", version) as lease:
                assert lease.servable is before
        gate.open()
        until(lambda: bool(before.is_closed))
        assert predict(r.server, name="one") == (1, Y)
        # Of the other one nothing is loaded anew.
        assert r.loader.loads == [1, 2, 1]


def test_options_do_not_make_the_versions_of_labels_be_checked_again(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1, stable=1)
    with rig(tmp_path, one) as r:
        assert r.labelled("one", "stable") == 1
        r.loader.broken[1] = LoadFailed("Incorrect weights in bin file!")
        r.reload.use(file(wide(one)))
        until(lambda: r.loader.loads == [1, 1])
        assert (r.labelled("one", "stable"), predict(r.server, name="one")) == (1, (1, Y))


def test_a_model_does_not_become_stateful_while_it_is_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    stateful = one._replace(options=DEFAULTS._replace(stateful=Stateful()))
    with rig(tmp_path, one) as r, polled(r, one) as poll:
        assert predict(r.server, name="one") == (1, Y)
        poll.names(stateful, two)
        until(lambda: r.served() == ["one", "two"])
        assert predict(r.server, name="one") == (1, Y)
        refusal = r.server.statuses()["one"][-1]
        assert refusal[:3] == (0, State.END, Code.INVALID_ARGUMENT)
        assert refusal.message.startswith("one: Model type cannot be changed after it is loaded: it is no stateful")
        _some_polls()
        assert caplog.messages.count(refusal.message) == 1
        # Under another name it is another model.
        poll.names(two, stateful._replace(name="three"))
        until(lambda: r.served() == ["three", "two"])


def test_one_that_is_rejected_goes_on_as_it_was_and_others_change(tmp_path: Path) -> None:
    one, two, three = (config(tmp_path, name, version) for name, version in (("one", 1), ("two", 2), ("three", 3)))
    with rig(tmp_path, one, two) as r:
        assert predict(r.server, name="one") == (1, Y)
        r.reload.use(Configuration([three], {"one": "its shape is 7", "p": "is a pipeline"}, is_json=True))
        assert r.served() == ["one", "three"]
        assert predict(r.server, name="one") == (1, Y)
        wrong = VersionStatus(0, State.END, Code.INVALID_ARGUMENT, "its shape is 7")
        statuses = r.server.statuses()
        assert (statuses["one"][-1], statuses["p"]) == (wrong, [wrong._replace(message="is a pipeline")])
        # As soon as it is taken away or mended, no more is said.
        r.reload.use(file(wide(one)))
        assert [status.version for status in r.server.statuses()["one"]] == [1]
        r.reload.use(file())
        assert r.served() == []


def test_of_openvino_model_servers_file_a_model_that_is_nowhere_is_rejected_alone(tmp_path: Path) -> None:
    one, nowhere = config(tmp_path, "one", 1), ModelConfig("nowhere", "s3://")
    with rig(tmp_path, nowhere) as r:
        assert r.served() == []
        r.reload.use(file(one, nowhere))
        assert r.served() == ["one"]
        assert r.server.statuses()["nowhere"][0].message == "nowhere: model_path is none that can be opened"


def test_of_openvino_model_servers_file_a_model_whose_storage_cannot_be_opened_is_rejected_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for variable in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(variable)
    one, away = config(tmp_path, "one", 1), ModelConfig("away", "az://secrets")
    with rig(tmp_path, away) as r:
        assert r.served() == []
        r.reload.use(file(one, away))
        assert r.served() == ["one"]
        (status,) = r.server.statuses()["away"]
        assert status[:3] == (0, State.END, Code.INVALID_ARGUMENT)
        assert "secrets" not in status.message
        assert r.server.status("away") == [status]
        assert all(message.startswith("away: ") for message in caplog.messages)


def test_what_a_message_cannot_say_stays_as_it_is(tmp_path: Path) -> None:
    one, two = wide(config(tmp_path, "one", 1)), config(tmp_path, "two", 2)
    with rig(tmp_path, one) as r:
        assert predict(r.server, name="one") == (1, Y)
        r.reload(message(one, two))
        assert predict(r.server, name="one") == (1, Y)
        assert r.loader.loads == [1, 2]
        # Elsewhere it is another model.
        r.reload(message(ModelConfig("one", put(tmp_path, "elsewhere", 3))))
        assert r.loader.loads == [1, 2, 3]


@contextmanager
def of_a_file(base: Path, *models: ModelConfig, **options: Any) -> Iterator[tuple[Rig, Poll]]:
    """A server of a file that nobody watches."""
    poll = Poll(base / "config.json")
    poll.names(*models)
    settings = {"model_config_file": str(poll.path), "file_system_poll_wait_seconds": 0.001, **options}
    with rig(base, *models, **settings) as r:
        yield r, poll


def test_a_refresh_does_what_the_file_says_and_waits_for_what_is_loaded_then(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with of_a_file(tmp_path, one) as (r, poll), ThreadPoolExecutor(1) as pool:
        assert predict(r.server, name="one") == (1, Y)
        # Nothing has changed but how it is written.
        poll.write(written(one) + "\n")
        assert r.reload.refresh() is False
        poll.names(one, two)
        gate = r.loader.hold(2)
        refreshed = pool.submit(r.reload.refresh)
        gate.wait_until_reached()
        assert not refreshed.done()
        gate.open()
        assert refreshed.result(PATIENCE) is True
        assert r.loader.loads == [1, 2]
        assert r.reload.refresh() is False
        assert r.loader.loads == [1, 2]


def test_a_refresh_loads_every_version_that_a_policy_names(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1, 2, 3)._replace(policy=Latest(2))
    with rig(tmp_path, one) as r:
        r.reload.refresh()
        assert sorted(r.loader.loads) == [2, 3]


def test_a_refresh_finds_versions_that_have_come_and_gone_without_a_file_too(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1)
    with rig(tmp_path, one) as r:
        assert predict(r.server, name="one") == (1, Y)
        put(tmp_path, "one", 2)
        assert r.reload.refresh() is True
        assert predict(r.server, name="one") == (2, Y)
        (tmp_path / "one" / "2").rename(tmp_path / "elsewhere")
        assert r.reload.refresh() is True
        assert predict(r.server, name="one") == (1, Y)
        ended = VersionStatus(2, State.END, Code.OK, "")
        assert r.server.statuses() == {"one": [ended, VersionStatus(1, State.AVAILABLE, Code.OK, "")]}


def test_a_refresh_waits_for_what_has_just_appeared_to_settle(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1)
    with rig(tmp_path, one, file_system_poll_wait_seconds=0.05) as r:
        assert predict(r.server, name="one") == (1, Y)
        put(tmp_path, "one", 2)
        os.utime(tmp_path / "one" / "2" / "model.xml")
        assert r.reload.refresh() is True
        assert predict(r.server, name="one") == (2, Y)


def test_a_refresh_tries_again_what_has_failed_and_says_so_once_it_is_mended(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with of_a_file(tmp_path, one, two) as (r, _):
        r.loader.broken[1] = LoadFailed("Incorrect weights in bin file!")
        r.reload.refresh()
        assert predict(r.server, name="two") == (2, Y)
        (failed,) = r.server.statuses()["one"]
        assert failed == VersionStatus(1, State.END, Code.FAILED_PRECONDITION, "Incorrect weights in bin file!")
        assert r.reload.refresh() is False
        assert r.loader.loads.count(1) == 2
        r.loader.broken.clear()
        assert r.reload.refresh() is True
        assert r.server.statuses()["one"] == [VersionStatus(1, State.AVAILABLE, Code.OK, "")]


def test_nobody_waits_for_a_refresh_longer_than_for_a_load(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1)
    with of_a_file(tmp_path, one, load_timeout=0.1) as (r, _):
        gate = r.loader.hold(1)
        r.reload.refresh()
        assert r.server.statuses()["one"] == [VersionStatus(1, State.LOADING, Code.OK, "")]
        gate.open()
        until(lambda: predict(r.server, name="one") == (1, Y))
        until(lambda: not any(thread.name.startswith(("loads", "start")) for thread in threading.enumerate()))


def test_loads_that_hang_take_no_more_threads_however_often_somebody_refreshes(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with of_a_file(tmp_path, one, two, load_timeout=0.02) as (r, _):
        gate = r.loader.hold(1)
        r.reload.refresh()
        gate.wait_until_reached()
        until(lambda: 2 in r.loader.servables)
        threads = threading.active_count()
        for _ in range(5):
            r.reload.refresh()
        assert threading.active_count() <= threads
        gate.open()
        until(lambda: predict(r.server, name="one") == (1, Y))
        until(lambda: not any(thread.name.startswith(("loads", "start")) for thread in threading.enumerate()))


def test_newer_versions_are_loaded_without_a_request_and_so_is_what_comes_into_an_empty_directory(
    tmp_path: Path,
) -> None:
    one, empty, lazy = config(tmp_path, "one", 1), config(tmp_path, "empty"), config(tmp_path, "lazy", 7)
    (tmp_path / "empty").mkdir()
    models = (one, empty, lazy._replace(is_lazy=True))
    with rig(tmp_path, *models, file_system_poll_wait_seconds=0.005) as r:
        stopped = threading.Event()
        thread = threading.Thread(target=r.reload.keep_up, args=(0.005, stopped))
        thread.start()
        try:
            until(lambda: r.loader.loads == [1])
            put(tmp_path, "empty", 3)
            until(lambda: r.server.peek("empty") == ("empty", 3))
            put(tmp_path, "one", 2)
            until(lambda: r.server.peek("one") == ("one", 2))
        finally:
            stopped.set()
            thread.join(PATIENCE)
        assert r.loader.loads == [1, 3, 2]


@pytest.mark.parametrize("is_refreshed", [True, False])
def test_a_model_whose_path_becomes_none_goes_on_as_it_was_and_its_status_says_why(
    is_refreshed: bool, tmp_path: Path
) -> None:
    one = config(tmp_path, "one", 1)
    nowhere = one._replace(base_path=str(tmp_path / "nowhere"))
    with of_a_file(tmp_path, one) as (r, poll):
        assert predict(r.server, name="one") == (1, Y)
        poll.names(nowhere)
        if is_refreshed:
            r.reload.refresh()
        else:
            r.reload.use(file(nowhere))
        until(lambda: r.server.status("one")[0].code == Code.UNAVAILABLE)
        assert predict(r.server, name="one") == (1, Y) == predict(r.server, 1, "one")
        (status,) = r.server.statuses()["one"]
        assert status[:3] == (1, State.AVAILABLE, Code.UNAVAILABLE)
        put(tmp_path, "nowhere", 2)
        r.reload.refresh()
        assert predict(r.server, name="one") == (2, Y)
        until(lambda: not any(thread.name.startswith(("loads", "start")) for thread in threading.enumerate()))


def test_a_file_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1)
    with of_a_file(tmp_path, one) as (r, poll):
        poll.path.unlink()
        os.mkfifo(poll.path)
        with pytest.raises(ConfigUnreadable, match=r"cannot read config\.json: it is a pipe"):
            r.reload.refresh()
        poll.path.unlink()
        poll.names(one)
        assert r.reload.refresh() is False


def test_a_model_that_is_lazy_no_more_is_loaded(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1)._replace(is_lazy=True)
    with rig(tmp_path, one) as r:
        r.reload.use(file(one._replace(is_lazy=False)))
        until(lambda: r.loader.loads == [1])


def test_what_a_file_says_of_metrics_later_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = config(tmp_path, "one", 1)
    with rig(tmp_path, one) as r:
        counted = Configuration([one], metrics=MetricsConfig(is_enabled=True), is_json=True)
        for _ in range(2):
            r.reload.use(counted)
        assert caplog.messages == ["what the file says of metrics now holds from the next start on"]


def test_a_file_that_says_the_same_again_complains_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_config_list": [{"config": {"name": "m", "base_path": "/m", "shape": "1,3"}}]}')
    with rig(tmp_path) as r:
        for _ in range(3):
            r.reload.use(parse(str(path), path.read_bytes()))
    assert len([message for message in caplog.messages if "shape is '1,3'" in message]) == 1


def test_refreshes_happen_one_after_the_other(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1)
    with of_a_file(tmp_path, one) as (r, _), ThreadPoolExecutor(4) as pool:
        gate = r.loader.hold(1)
        refreshes = [pool.submit(r.reload.refresh) for _ in range(4)]
        gate.wait_until_reached()
        _some_polls()
        assert len([thread for thread in threading.enumerate() if thread.name == "loads"]) == 1
        gate.open()
        for refresh in refreshes:
            refresh.result(PATIENCE)


def test_who_would_wait_too_long_for_another_refresh_is_told_so(tmp_path: Path) -> None:
    one = config(tmp_path, "one", 1, stable=1)
    with of_a_file(tmp_path, one, load_timeout=0.3) as (r, poll), ThreadPoolExecutor(4) as pool:
        gate = r.loader.hold(1)
        # Each takes as long as one that waits has patience.
        poll.names(relabelled(one, {"old": 1}))
        outcomes = [pool.submit(r.reload.refresh) for _ in range(4)]
        errors = [outcome.exception(PATIENCE) for outcome in outcomes]
        gate.open()
        assert {type(error) for error in errors} == {LoadPending, Overloaded}
        until(lambda: predict(r.server, name="one") == (1, Y))


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("{", ConfigRejected, r"^Reloading config file failed\..* .*config.json: 1:2: The file is not valid json"),
        ('{"model_config_list": 7}', ConfigRejected, "model_config_list"),
        (
            "model_config_list { config { name: 'm' base_path: 'm' } }",
            ConfigRejected,
            r"config\.json: model 'm': base_path cannot be; want",
        ),
        ("model_config_list { config { name: 'm' base_path: 's3://' } }", ConfigRejected, "m: model_path is none that"),
        (None, ConfigUnreadable, r"^Config file not found or cannot open\. cannot read config.json: No such file"),
        (
            '{"model_config_list": [], "monitoring": {"metrics": {"enable": true, "metrics_list": ["nonsense"]}}}',
            ConfigRejected,
            r"config\.json: monitoring.metrics: Invalid name in metrics_list: 'nonsense'",
        ),
    ],
)
def test_a_refresh_of_a_file_that_makes_no_sense_changes_nothing(
    content: str | None, error: type[Exception], said: str, tmp_path: Path
) -> None:
    one = config(tmp_path, "one", 1)
    with of_a_file(tmp_path, one) as (r, poll):
        assert predict(r.server, name="one") == (1, Y)
        if content is None:
            poll.path.unlink()
        else:
            poll.write(content)
        with pytest.raises(error, match=said):
            r.reload.refresh()
        assert predict(r.server, name="one") == (1, Y)
        poll.names(one)
        assert r.reload.refresh() is False


def test_a_refresh_with_a_label_for_what_cannot_be_loaded_changes_nothing(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1, stable=1), config(tmp_path, "two", 2)
    with of_a_file(tmp_path, one) as (r, poll):
        poll.names(relabelled(one, {"stable": 9}), two)
        with pytest.raises(PreconditionFailed, match=UNAVAILABLE.format(9, "one")):
            r.reload.refresh()
        assert r.served() == ["one"]


def test_a_refresh_goes_by_the_file_whatever_a_client_has_had_replaced(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with of_a_file(tmp_path, one) as (r, _):
        r.reload(message(two))
        assert r.reload.refresh() is True
        assert r.served() == ["one"]
    # Without a file there is nothing that it could go back to.
    with rig(tmp_path / "flags", one) as r:
        r.reload(message(two))
        r.reload.refresh()
        assert r.served() == ["two"]


def test_a_refresh_goes_on_with_what_is_known_if_a_storage_is_away(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one", 1), config(tmp_path, "two", 2)
    with of_a_file(tmp_path, one, two) as (r, _):
        assert predict(r.server, name="one") == (1, Y)
        (tmp_path / "one").rename(tmp_path / "away")
        (tmp_path / "two").rename(tmp_path / "away, too")
        assert r.reload.refresh() is False
        assert predict(r.server, name="one") == (1, Y)
        (unlisted,) = r.server.statuses()["two"]
        assert unlisted[:3] == (0, State.END, Code.UNAVAILABLE)


def test_a_refresh_loads_nothing_that_is_lazy_but_what_is_to_be_preloaded(tmp_path: Path) -> None:
    models = [config(tmp_path, f"m{number}", number) for number in range(1, 5)]
    models[3] = models[3]._replace(is_lazy=False)
    with rig(tmp_path, *models, lazy=True, preload=("m2",)) as r:
        r.reload.refresh()
        assert sorted(r.loader.loads) == [2, 4]


def test_a_bug_in_a_load_does_not_keep_a_refresh_from_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = config(tmp_path, "one", 1)
    with of_a_file(tmp_path, one) as (r, _):
        r.loader.broken[1] = ZeroDivisionError("a bug")
        r.reload.refresh()
        assert "loading the models failed" in caplog.messages


def test_refreshes_and_changes_under_load_fail_no_request(tmp_path: Path) -> None:
    """The model itself changes its options and versions; others come and go; all from several threads."""
    stays = config(tmp_path, "stays", 1, 2, stable=1)
    others = [config(tmp_path, f"m{number}", number) for number in range(3, 6)]
    with of_a_file(tmp_path, stays) as (r, poll), ThreadPoolExecutor(5) as pool:
        assert (predict(r.server, name="stays"), predict(r.server, 1, "stays")) == ((2, Y), (1, Y))
        done = threading.Event()

        def ask() -> int:
            count = 0
            while not done.is_set():
                assert predict(r.server, name="stays") in ((2, Y), (9, Y))
                assert predict(r.server, 1, "stays") == (1, Y)
                assert r.labelled("stays", "stable") == 1
                count += 1
            return count

        askers = [pool.submit(ask) for _ in range(4)]
        for number in range(12):
            if number == 6:
                put(tmp_path, "stays", 9)
            poll.names(wide(stays, 1 + number // 2), *others[: number % 4])
            list(pool.map(lambda _: r.reload.refresh(), range(2)) if number % 2 else [r.reload.refresh()])
        assert predict(r.server, name="stays") == (9, Y)
        done.set()
        assert all(asker.result(PATIENCE) for asker in askers)
