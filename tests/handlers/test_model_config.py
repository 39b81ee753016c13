"""Several models from one variable, on platforms that have no files: ``model_config``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handlers.configuration import ModelConfig, models_of
from handlers.settings import Settings, SettingsError, read_settings
from model_cache.policy import Latest
from tests.conftest import DIGITS
from tests.handlers.test_cli import decant
from tests.servers.decant import decant_serve
from tests.servers.lambda_events import function_url, response_body
from tests.servers.processes import ProcessFailed
from tests.servers.runtime_api import environment

SEVEN = (DIGITS / "seven.json").read_bytes()
BOTH = json.dumps({"model_config_list": [{"config": {"name": n, "base_path": str(DIGITS)}} for n in ("one", "other")]})


def test_the_text_is_json_as_in_a_file() -> None:
    text = (
        '{"model_config_list": [{"config": {"name": "m", "base_path": "s3://b/m", "lazy": true,'
        ' "model_version_policy": {"latest": {"num_versions": 2}}}}]}'
    )
    configuration = models_of(Settings(model_config=text))
    assert configuration.models == [ModelConfig("m", "s3://b/m", Latest(2), is_lazy=True)]
    assert configuration.is_json


def test_the_text_is_tensorflow_servings_as_in_a_file() -> None:
    text = "model_config_list { config { name: 'm' base_path: '/m' version_labels { key: 'stable' value: 3 } } }"
    assert models_of(Settings(model_config=text)).models == [ModelConfig("m", "/m", labels={"stable": 3})]


def test_a_relative_path_is_relative_to_where_the_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = '{"model_config_list": [{"config": {"name": "m", "base_path": "models/m"}}]}'
    assert models_of(Settings(model_config=text)).models == [ModelConfig("m", f"{tmp_path}/models/m")]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model_config_file": "/f"}, "model_config and model_config_file are both given; want one of them"),
        ({"model_path": "/m"}, "Use either config_path or model_path with model_name: model_config and model_path are"),
        ({"model_name": "m"}, "Use either config_path or model_path with model_name: model_config and model_name are"),
        ({"shape": "auto"}, "Model parameters in CLI are exclusive with the config file: model_config and shape are"),
        ({"model_config_file_poll_wait_seconds": 1.0}, "is given without model_config_file; want both"),
    ],
)
def test_what_says_otherwise_beside_it_is_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        models_of(Settings(model_config=BOTH, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"model_config_list": [}, "hunter2"', "model_config: 1:24: The file is not valid json: Expecting value"),
        ('{"a": 1, "hunter2": 2}', "model_config: model_config_list is missing; want a list of"),
        ("config { hunter2 }", "model_config: "),
        ("model_config_list { config { base_path: 'hunter2' } }", "model_config: model 1 of the list: name is '';"),
        ("  ", "model_config: is empty; want model_config_list"),
        ("\udcff{}", "model_config has bytes that are no UTF-8 at 0; want text"),
        (" " * (1 << 20) + "{}", "model_config: its text is larger than 1048576 bytes; want"),
    ],
)
def test_a_mistake_is_named_and_the_text_is_not_shown(text: str, complaint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        models_of(Settings(model_config=text))
    assert str(caught.value).startswith(complaint)
    assert "hunter2" not in str(caught.value).replace("config { hunter2 }", "")
    assert len(str(caught.value)) < 300


def test_its_variable_is_as_good_as_its_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECANT_MODEL_CONFIG", BOTH)
    # TensorFlow Serving's variables are for who names no models.
    monkeypatch.setenv("MODEL_NAME", "third")
    monkeypatch.setenv("MODEL_BASE_PATH", "/models")
    assert [model.name for model in models_of(read_settings({})).models] == ["one", "other"]
    assert models_of(read_settings({"model_config": BOTH})) == models_of(read_settings({}))


def test_a_server_serves_what_the_text_names_and_a_reload_changes_nothing(tmp_path: Path) -> None:
    env = {"DECANT_MODEL_CONFIG": BOTH, "DECANT_FILE_SYSTEM_POLL_WAIT_SECONDS": "0.05"}
    with decant_serve(tmp_path, env=env) as server:
        for name in ("one", "other"):
            assert server.post(f"/v1/models/{name}:predict", SEVEN).body["predictions"][0]["digit"] == 7
        answer = server.post("/v1/config/reload", b"")
        assert (answer.status, answer.body.keys()) == (200, {"one", "other"})
        # No look at a file that there is none of.
        assert "stay as they are" not in server.log()


def test_one_model_that_cannot_be_loaded_does_not_end_the_process(tmp_path: Path) -> None:
    text = BOTH.replace(str(DIGITS), str(tmp_path / "none"), 1)
    with decant_serve(tmp_path, "--model_config", text, wait=False) as server:
        server.process.wait_until(lambda: "not ready, trying again" in server.log(), 30)
        assert server.post("/v1/models/other:predict", SEVEN).status == 200
        assert server.get("/v2/health/ready").status == 503


def test_a_mistake_ends_a_start_as_bad_usage(tmp_path: Path) -> None:
    with (
        pytest.raises(ProcessFailed, match="decant: model_config: model 'm': base_path is ''; want"),
        decant_serve(tmp_path, "--model_config", "model_config_list { config { name: 'm' } }"),
    ):
        pass


def test_pull_fetches_what_the_variable_names_but_not_beside_a_url(tmp_path: Path) -> None:
    env = {"DECANT_MODEL_CONFIG": BOTH}
    cache = ["--cache_dir", str(tmp_path / "cache")]
    done = decant("pull", *cache, env=env)
    assert [line.partition(":")[0] for line in done.stdout.decode().splitlines()] == ["one/1", "other/1"]
    done = decant("pull", str(DIGITS), *cache, env=env)
    assert [line.partition(":")[0] for line in done.stdout.decode().splitlines()] == ["digits/1"]
    done = decant("pull", str(DIGITS), "--model_config", BOTH, *cache)
    assert [line.partition(":")[0] for line in done.stdout.decode().splitlines()] == ["digits/1", "one/1", "other/1"]


def test_a_function_has_several_models_without_a_file(tmp_path: Path) -> None:
    env = {"DECANT_MODEL_CONFIG": BOTH, "DECANT_CACHE_DIR": str(tmp_path / "cache")}
    with environment(tmp_path, env) as (api, _):
        for name in ("one", "other"):
            event = function_url("POST", f"/v1/models/{name}:predict", {}, {}, SEVEN)
            assert json.loads(response_body(api.invoke(event)))["predictions"][0]["digit"] == 7
