"""The Lambda module in a process of its own, as its runtime imports it; the emulator is in test_end_to_end."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import zstandard

from tests.conftest import DIGITS
from tests.servers.lambda_emulator import lambda_emulator
from tests.servers.lambda_events import EVENT_BUILDERS, function_url, response_body, response_headers
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
    # Behind the metrics.
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_one_environment_answers_event_after_event_without_a_thread() -> None:
    seven = (DIGITS / "seven.json").read_bytes()
    predict = function_url("POST", "/v1/models/digits:predict", {}, {}, seven)
    ready = function_url("GET", "/v2/health/ready", {}, {}, b"")
    # What is compiled would be kept by a thread.
    load = function_url("POST", "/v2/repository/models/digits/load", {}, {}, b"")
    result = call(ready, predict, predict, load, DECANT_COMPILED_CACHE="false")
    before, first, second, refused = result["answers"]
    # What is not loaded is loaded on demand, so there is nothing to wait for.
    assert before["statusCode"] == 200
    assert json.loads(response_body(first))["predictions"][0]["digit"] == 7
    assert (first["body"], first["statusCode"]) == (second["body"], second["statusCode"])
    assert first["headers"]["content-type"] == "application/json"
    assert result["threads"] == 1
    # It would be one environment of many that does so.
    assert (refused["statusCode"], b"--model_control" in response_body(refused)) == (400, True)


def test_the_settings_are_read(tmp_path: Path) -> None:
    predict = function_url("POST", "/v1/models/digits:predict", {}, {}, b"x" * 101)
    (answer,) = call(predict, DECANT_MAX_BODY_SIZE="100")["answers"]
    assert answer["statusCode"] == 413


# So many that the answer is worth compressing.
IMAGES = json.dumps({"instances": json.loads((DIGITS / "seven.json").read_bytes())["instances"] * 300}).encode()


def test_paths_bodies_and_answers_are_the_same_in_every_kind_of_event() -> None:
    name = "digits/ü:1"
    sent = {"content-type": "application/json", "content-encoding": "gzip"}
    events = []
    for shape in EVENT_BUILDERS.values():
        predict = "/v1/models/digits%2F%C3%BC%3A1/versions/1:predict"
        events += [
            shape("POST", predict, {}, {"content-type": "application/json"}, IMAGES),
            shape("POST", predict, {"key": "value"}, {**sent, "accept-encoding": "gzip"}, gzip.compress(IMAGES)),
            shape("POST", predict, {}, {**sent, "accept-encoding": "zstd"}, gzip.compress(IMAGES)),
            shape("HEAD", predict, {}, {}, b""),
            shape("OPTIONS", predict, {}, {"origin": "https://a.example"}, b""),
            shape("GET", "/v1/models/digits%2F%C3%BC%3A1/", {}, {}, b""),
        ]
    answers = call(*events, DECANT_MODEL_NAME=name, DECANT_REST_API_ENABLE_CORS_SUPPORT="true")["answers"]
    for label in EVENT_BUILDERS:
        plain, gzipped, zstded, head, options, malformed = answers[:6]
        del answers[:6]
        if label == "HTTP API":
            # It decodes the path, and a slash in a name is one like any other then.
            assert plain["statusCode"] == 400
            continue
        want = response_body(plain)
        assert [len(json.loads(want)["predictions"]), plain["statusCode"]] == [300, 200]
        assert gzip.decompress(response_body(gzipped)) == want
        assert zstandard.ZstdDecompressor().decompress(response_body(zstded)) == want
        for answer, coding in ((gzipped, "gzip"), (zstded, "zstd")):
            headers = response_headers(answer)
            assert headers["content-encoding"] == [coding]
            assert headers["content-length"] == [str(len(response_body(answer)))]
            assert headers["content-type"] == ["application/json"]
        assert (head["statusCode"], response_body(head)) == (400, b"")
        assert (options["statusCode"], response_body(options)) == (200, b"")
        assert response_headers(options)["access-control-allow-origin"] == ["*"]
        assert json.loads(response_body(malformed)) == {
            "error": "Malformed request: GET /v1/models/digits%2F%C3%BC%3A1/"
        }


def test_the_runtime_of_lambda_passes_compressed_bodies_and_answers_on(tmp_path: Path) -> None:
    env = {"DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": str(DIGITS), "DECANT_CACHE_DIR": str(tmp_path / "cache")}
    headers = {"content-type": "application/json", "content-encoding": "gzip", "accept-encoding": "gzip"}
    with lambda_emulator(tmp_path, env=env) as function:
        for shape in EVENT_BUILDERS.values():
            answer = function.invoke(shape("POST", "/v1/models/digits:predict", {}, headers, gzip.compress(IMAGES)))
            assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, True)
            assert response_headers(answer)["content-encoding"] == ["gzip"]
            predictions = json.loads(gzip.decompress(response_body(answer)))["predictions"]
            assert [prediction["digit"] for prediction in predictions] == [7] * 300
