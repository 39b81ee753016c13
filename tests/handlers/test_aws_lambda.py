"""The Lambda module in a process of its own, as its runtime imports it; the emulator is in test_end_to_end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import DIGITS
from tests.servers.lambda_events import function_url, response_body
from tests.servers.processes import clean_environment

CALL = """
import json, sys, threading
from handlers.aws_lambda import handler
answers = [handler(event, None) for event in json.load(sys.stdin)]
json.dump({"answers": answers, "threads": threading.active_count()}, sys.stdout)
"""


def call(*events: dict[str, Any], **variables: str) -> dict[str, Any]:
    env = clean_environment({"DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": str(DIGITS), **variables})
    argv = [sys.executable, "-c", CALL]
    done = subprocess.run(argv, input=json.dumps(events).encode(), capture_output=True, env=env, timeout=60, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_one_environment_answers_event_after_event_without_a_thread() -> None:
    seven = (DIGITS / "seven.json").read_bytes()
    predict = function_url("POST", "/v1/models/digits:predict", {}, {}, seven)
    result = call(function_url("GET", "/v2/health/ready", {}, {}, b""), predict, predict)
    before, first, second = result["answers"]
    # The model is loaded on demand, so there is nothing to wait for.
    assert before["statusCode"] == 200
    assert json.loads(response_body(first))["predictions"][0]["digit"] == 7
    assert first == second
    assert first["headers"]["content-type"] == "application/json"
    assert result["threads"] == 1


def test_the_settings_are_read(tmp_path: Path) -> None:
    predict = function_url("POST", "/v1/models/digits:predict", {}, {}, b"x" * 101)
    (answer,) = call(predict, DECANT_MAX_BODY_SIZE="100")["answers"]
    assert answer["statusCode"] == 413
