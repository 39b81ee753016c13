"""A manifest as variables: what a server makes of them is what the manifest says."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.configuration import ModelConfig, models_of
from handlers.deploy.environment import environment
from handlers.settings import Settings, read_settings
from model_cache.policy import Latest
from tests.handlers.deploy.manifests import DIGITS, manifest

OTHER = {"name": "other", "base_path": "gs://my-models/other"}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"shape": "auto"},
    {"shape": [1, 3, 224, 224]},
    {"shape": {"x": "(1,3,100:200,-1)"}},
    {"batch_size": 8},
    {"batch_size": "1:8", "layout": "NHWC:NCHW"},
    {"layout": {"x": "NHWC:NCHW"}},
    {"nireq": 4, "target_device": "AUTO"},
    {"plugin_config": {"NUM_STREAMS": 2, "PERFORMANCE_HINT": "LATENCY", "ENABLE_MMAP": True}},
    {"mean": [123.5, 116, 103], "scale": 58.4, "color_format": "BGR:RGB", "precision": "u8:f32"},
    {"stateful": True, "idle_sequence_cleanup": False, "max_sequence_number": 7, "low_latency_transformation": True},
    {"stateful": False},
    {"allow_cache": True},
    {"model_version_policy": {"latest": {"num_versions": 2}}},
    {"model_version_policy": {"specific": {"versions": [1, 3]}}, "version_labels": {"stable": 1, "canary": 3}},
    {"version_labels": {}},
]


def settings_of(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    return read_settings({})


@pytest.mark.parametrize("options", OPTIONS)
def test_one_model_is_the_same_by_flags_as_among_several(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as alone:
        variables = environment(manifest({**DIGITS, **options}))
        assert "DECANT_MODEL_CONFIG" not in variables
        (by_flags,) = models_of(settings_of(variables, alone)).models
    variables = environment(manifest({**DIGITS, **options}, OTHER))
    assert list(variables) == ["DECANT_MODEL_CONFIG"]
    configuration = models_of(settings_of(variables, monkeypatch))
    assert configuration.models == [by_flags, ModelConfig("other", "gs://my-models/other")]
    assert configuration.rejected == {}


def test_options_mean_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = {"model_version_policy": {"latest": {"num_versions": 2}}}
    variables = environment(manifest({**DIGITS, **policy, "version_labels": {"stable": 1}, "nireq": 3}))
    (model,) = models_of(settings_of(variables, monkeypatch)).models
    assert (model.name, model.base_path) == ("digits", "s3://my-models/vision/digits")
    assert (model.policy, model.labels, model.options.requests) == (Latest(2), {"stable": 1}, 3)


@pytest.mark.parametrize("is_lazy", [True, False])
def test_one_model_may_be_lazy(is_lazy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(environment(manifest({**DIGITS, "lazy": is_lazy})), monkeypatch).lazy is is_lazy


def test_what_a_model_says_goes_before_what_holds_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    given = manifest({**DIGITS, "nireq": 3, "lazy": False}, settings={"nireq": 5, "lazy": True, "log_level": "DEBUG"})
    settings = settings_of(environment(given), monkeypatch)
    (model,) = models_of(settings).models
    assert (model.options.requests, model.is_lazy) == (3, False)
    assert (settings.nireq, settings.lazy, settings.log_level) == (5, True, "DEBUG")


def test_settings_come_last_in_their_own_order() -> None:
    variables = environment(manifest(settings={"metrics_enable": True, "log_level": "DEBUG", "load_timeout": 7.5}))
    assert list(variables.items()) == [
        ("DECANT_MODEL_NAME", "digits"),
        ("DECANT_MODEL_PATH", "s3://my-models/vision/digits"),
        ("DECANT_METRICS_ENABLE", "true"),
        ("DECANT_LOG_LEVEL", "DEBUG"),
        ("DECANT_LOAD_TIMEOUT", "7.5"),
    ]


def test_models_on_azure_come_with_their_account() -> None:
    given = manifest({"name": "m", "base_path": "az://models/m"}, azure_account="mystorage")
    assert environment(given)["AZURE_STORAGE_ACCOUNT"] == "mystorage"
    # It is nobody else's business.
    assert "AZURE_STORAGE_ACCOUNT" not in environment(manifest(azure_account="mystorage"))
