"""The init phase of a Lambda function: what it loads, for how long it waits, and who is told what has failed."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
from pathlib import Path

import pytest

from tests.conftest import DIGITS
from tests.servers.fault_proxy import FaultProxy, Stall, on
from tests.servers.lambda_events import function_url, response_body
from tests.servers.runtime_api import RuntimeApi, environment
from tests.servers.seaweedfs import SeaweedFS

PREDICT = function_url("POST", "/v1/models/digits:predict", {}, {}, (DIGITS / "seven.json").read_bytes())
READY = function_url("GET", "/v2/health/ready", {}, {}, b"")
CACHE = function_url("GET", "/v1/cache", {}, {}, b"")
RELOAD = function_url("POST", "/v1/config/reload", {}, {}, b"")
DOCS = function_url("GET", "/docs", {}, {}, b"")

# A handler of a user's own, that tells more.
MODULES = """
import sys
from handlers.aws_lambda import handler as decant

def handler(event, context):
    return sorted(sys.modules) if event == "modules" else decant(event, context)
"""
# And one that tells what is under way behind the answers.
THREADS = """
import threading
from handlers.aws_lambda import handler as decant

def handler(event, context):
    return [thread.name for thread in threading.enumerate()] if event == "threads" else decant(event, context)
"""
IMPATIENT = """
from handlers.lambda_init import start
from handlers.settings import read_settings

handler = start(read_settings({}), "on-demand", patience=0.0)
"""


def local(tmp_path: Path, **variables: str) -> dict[str, str]:
    own = {"DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": str(DIGITS), "DECANT_CACHE_DIR": str(tmp_path / "cache")}
    return own | {f"DECANT_{name}": value for name, value in variables.items()}


def in_memory(api: RuntimeApi) -> list[str]:
    """The models that are."""
    models = json.loads(response_body(api.invoke(CACHE)))["models"]
    return [name for name, model in models.items() if any(found["where"]["memory"] for found in model["versions"])]


def two_models(tmp_path: Path) -> str:
    configs = [{"config": {"name": name, "base_path": str(DIGITS)}} for name in ("one", "other")]
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"model_config_list": configs}))
    return str(path)


def test_the_one_model_is_loaded_before_the_first_event_comes(tmp_path: Path) -> None:
    with environment(tmp_path, local(tmp_path)) as (api, process):
        assert in_memory(api) == ["digits"]
        answer = api.invoke(PREDICT)
        assert json.loads(response_body(answer))["predictions"][0]["digit"] == 7
        # It would only have come before the request's own.
        assert "with zeros" not in process.log()


def test_of_several_models_none_is_loaded_before_it_is_asked_for(tmp_path: Path) -> None:
    env = {"DECANT_MODEL_CONFIG_FILE": two_models(tmp_path), "DECANT_CACHE_DIR": str(tmp_path / "cache")}
    with environment(tmp_path, env) as (api, _):
        assert in_memory(api) == []


def test_of_several_models_those_are_loaded_that_are_not_to_be_lazy(tmp_path: Path) -> None:
    env = {"DECANT_MODEL_CONFIG_FILE": two_models(tmp_path), "DECANT_CACHE_DIR": str(tmp_path / "cache")}
    with environment(tmp_path / "preload", {**env, "DECANT_PRELOAD": "other"}) as (api, _):
        assert in_memory(api) == ["other"]
    with environment(tmp_path / "lazy", {**env, "DECANT_LAZY": "false"}) as (api, _):
        assert in_memory(api) == ["one", "other"]


def test_the_one_model_may_be_lazy(tmp_path: Path) -> None:
    with environment(tmp_path, local(tmp_path, LAZY="true")) as (api, _):
        assert in_memory(api) == []
        assert api.invoke(PREDICT)["statusCode"] == 200


def test_a_function_looks_at_its_file_when_a_client_says_so(tmp_path: Path) -> None:
    file = Path(two_models(tmp_path))
    env = {"DECANT_MODEL_CONFIG_FILE": str(file), "DECANT_CACHE_DIR": str(tmp_path / "cache")}
    with environment(tmp_path, env) as (api, _):
        assert api.invoke(RELOAD)["statusCode"] == 200
        file.write_text(file.read_text().replace("other", "digits"))
        answer = api.invoke(RELOAD)
        assert answer["statusCode"] == 201
        assert json.loads(response_body(answer)).keys() == {"one", "other", "digits"}
        # They are lazy there as well.
        assert in_memory(api) == []
        assert api.invoke(PREDICT)["statusCode"] == 200


def test_provisioned_concurrency_has_everything_loaded_and_warm(tmp_path: Path) -> None:
    env = {"DECANT_MODEL_CONFIG_FILE": two_models(tmp_path), "DECANT_CACHE_DIR": str(tmp_path / "cache")}
    env["AWS_LAMBDA_INITIALIZATION_TYPE"] = "provisioned-concurrency"
    with environment(tmp_path, env) as (api, process):
        assert in_memory(api) == ["one", "other"]
        assert process.log().count("with zeros") == 2


@pytest.mark.parametrize("kind", ["on-demand", "provisioned-concurrency"])
def test_what_fails_is_told_by_the_request_that_needs_it_and_may_be_mended(kind: str, tmp_path: Path) -> None:
    models = tmp_path / "models"
    env = local(tmp_path, MODEL_PATH=str(models)) | {"AWS_LAMBDA_INITIALIZATION_TYPE": kind}
    with environment(tmp_path, env) as (api, process):
        assert api.invoke(READY)["statusCode"] == 200
        answer = api.invoke(PREDICT)
        assert answer["statusCode"] == 503
        assert "digits is not loaded in the init phase: " in process.log()
        models.symlink_to(DIGITS)
        assert api.invoke(PREDICT)["statusCode"] == 200
    assert api.init_errors == []


def test_settings_that_make_no_sense_end_the_init_phase(tmp_path: Path) -> None:
    with environment(tmp_path, local(tmp_path, LOAD_TIMEOUT="soon")) as (api, process):
        assert process.wait() == 1
    (failure,) = api.init_errors
    assert failure.error["errorMessage"] == "DECANT_LOAD_TIMEOUT is 'soon'; want a number of seconds"


def test_a_download_outlives_a_freeze_in_which_its_connections_die(s3: SeaweedFS, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(IMPATIENT)
    stall = Stall(after=20_000)
    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(stall, "GET", r"model\.bin"))
        env = local(tmp_path, MODEL_PATH="s3://models/digits")
        env |= dataclasses.replace(s3.reader, endpoint=proxy.url).env()
        with environment(tmp_path, env, "mine.handler") as (api, process):
            # The init phase is over, as it waits for nothing here.
            assert api.invoke(READY)["statusCode"] == 200
            assert stall.reached.wait(30)
            process.signal(signal.SIGSTOP)
            proxy.use()
            proxy.break_connections()
            process.signal(signal.SIGCONT)
            assert api.invoke(PREDICT)["statusCode"] == 200
        reads = [request.headers["range"] for request in proxy.requests if "model.bin" in request.path]
    first, again = (int(re.findall(r"\d+", read)[0]) for read in reads)
    assert first == 0
    # Not from the beginning: what has come is there.
    assert 0 < again <= 20_000


def test_what_is_not_on_the_way_of_a_prediction_is_imported_by_who_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULES)
    unwanted = {"fastapi", "starlette", "pydantic", "mangum", "asyncio", "uvicorn", "grpc", "boto3", "ssl"}
    with environment(tmp_path, local(tmp_path), "mine.handler") as (api, _):
        assert api.invoke(PREDICT)["statusCode"] == 200
        assert api.invoke(READY)["statusCode"] == 200
        assert set(api.invoke("modules")) & unwanted == set()
        assert api.invoke(DOCS)["statusCode"] == 200
        assert {"fastapi", "mangum"} <= set(api.invoke("modules"))


@pytest.mark.parametrize("variables", [{}, {"KEEP_COMPILED": "true"}], ids=["", "KEEP_COMPILED"])
def test_nothing_is_kept_behind_the_answers_for_processes_that_will_not_come(
    variables: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(THREADS)
    with environment(tmp_path, local(tmp_path, **variables), "mine.handler") as (api, _):
        assert api.invoke(PREDICT)["statusCode"] == 200
        is_kept = "behind" in api.invoke("threads") or any((tmp_path / "cache").rglob("*.blob"))
    assert is_kept == bool(variables)


def test_an_event_that_is_no_request_is_an_error_of_the_function(tmp_path: Path) -> None:
    with environment(tmp_path, local(tmp_path)) as (api, _):
        failure = api.invoke({"Records": [{"eventSource": "aws:dynamodb"}]})
        assert failure["errorType"] == "UnknownEvent"
        assert failure["errorMessage"].startswith("the event is an object with 'Records' from 'aws:dynamodb'; want an ")
        assert failure["stackTrace"] == []
        assert api.invoke(PREDICT)["statusCode"] == 200
