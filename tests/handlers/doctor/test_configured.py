"""Settings that do not go together, and files of models that are not as they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from handlers.configuration import ModelConfig
from handlers.doctor.configured import check_models, check_settings
from handlers.doctor.finding import Finding, Level
from handlers.doctor.processors import check_model_properties
from runtime.options import ModelOptions
from tests.conftest import DIGITS
from tests.handlers.doctor.sites import levels, make_root, one, site_of


def models_of(**settings: Any) -> tuple[list[Finding], list[ModelConfig]]:
    models: list[ModelConfig] = []
    return list(check_models(site_of(**settings), models)), models


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_batch_size": 4}, "max_batch_size is given without enable_batching"),
        ({"port": 0, "rest_port": 0}, "port and rest_port are both 0"),
        ({"port": 8501}, "port and rest_port cannot have the same values"),
        ({"workers": 2, "stateful": True}, "want workers 1"),
    ],
)
def test_settings_with_which_serve_would_not_start_are_problems(settings: dict[str, Any], says: str) -> None:
    found = one(check_settings(site_of(**settings)), "settings")
    assert (found.level, says in found.detail) == (Level.PROBLEM, True)


def test_settings_that_go_together_are_good() -> None:
    assert levels(check_settings(site_of(metrics_enable=True))) == {"settings": Level.OK}
    # Nothing is listened on there.
    function = site_of({"AWS_LAMBDA_FUNCTION_NAME": "f"}, port=8501)
    assert levels(check_settings(function)) == {"settings": Level.OK}


def test_one_model_of_flags_is_found() -> None:
    found, models = models_of(model_name="digits", model_path=str(DIGITS))
    assert (levels(found), [model.name for model in models]) == ({"models": Level.OK}, ["digits"])


def test_no_model_is_a_warning_as_the_place_is_looked_at_all_the_same() -> None:
    assert levels(models_of()[0]) == {"models": Level.WARNING}


def test_a_model_to_preload_that_is_none_is_a_problem() -> None:
    (found,), models = models_of(model_path=str(DIGITS), preload=("nobody",))
    assert (found.level, "preload names 'nobody'" in found.detail, models) == (Level.PROBLEM, True, [])


def test_a_file_that_is_not_there_or_no_json_is_a_problem(tmp_path: Path) -> None:
    (missing,), _ = models_of(model_config_file=str(tmp_path / "none.json"))
    assert (missing.level, "No such file" in missing.detail) == (Level.PROBLEM, True)
    (tmp_path / "bad.json").write_text("{,")
    (bad,), _ = models_of(model_config_file=str(tmp_path / "bad.json"))
    assert bad.level is Level.PROBLEM


def test_a_file_in_a_store_that_cannot_be_had_is_a_problem() -> None:
    (found,), _ = models_of(model_config_file="gopher://host/config.json")
    assert found.level is Level.PROBLEM


def test_rejected_models_are_told_beside_good_ones(tmp_path: Path) -> None:
    entries = [{"config": {"name": "good", "base_path": str(DIGITS)}}]
    entries += [{"config": {"name": "bad", "base_path": str(DIGITS), "shape": "(1,x)"}}]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_config_list": entries}))
    found, models = models_of(model_config_file=str(path))
    assert levels(found) == {"models.rejected": Level.PROBLEM, "models": Level.OK}
    assert one(found, "models.rejected").title == "model bad"
    assert [model.name for model in models] == ["good"]


def test_a_models_own_threads_are_compared_with_the_quota(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "90000 100000\n"}
    site = site_of({}, make_root(tmp_path, files))
    greedy = ModelConfig("m", "/m", options=ModelOptions(properties=(("INFERENCE_NUM_THREADS", "8"),)))
    (found,) = check_model_properties(site, greedy)
    assert (found.id, found.title, found.level) == ("cpu.threads", "model m", Level.WARNING)
    assert list(check_model_properties(site, ModelConfig("m", "/m"))) == []
