"""Every recorded event of infra/lambda/events through AWS's emulator and client, with models and answers in S3."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DIGITS, ROOT
from tests.servers.lambda_emulator import LambdaEmulator, lambda_emulator
from tests.servers.lambda_events import response_body, response_headers
from tests.servers.seaweedfs import SeaweedFS

EVENTS = ROOT / "infra" / "lambda" / "events"
NAMES = sorted(path.stem for path in EVENTS.glob("*.json"))
ANSWERS = "my-answers"

Check = Callable[[Any], None]


@pytest.fixture(scope="module")
def function(s3: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LambdaEmulator]:
    directory = tmp_path_factory.mktemp("lambda")
    s3.put_tree("my-models", "vision/digits", DIGITS)
    s3.create_bucket(ANSWERS)
    env = {
        "DECANT_MODEL_NAME": "digits",
        "DECANT_MODEL_PATH": "s3://my-models/vision/digits",
        "DECANT_LAMBDA_OUTPUTS": f"s3://{ANSWERS}/digits",
        "DECANT_CACHE_DIR": str(directory / "cache"),
        # What has come or gone is found again and again.
        "DECANT_FILE_SYSTEM_POLL_WAIT_SECONDS": "0.1",
        **s3.admin.env(),
    }
    with lambda_emulator(directory, env=env) as emulator:
        yield emulator


def is_seven(answer: Any) -> None:
    predictions = answer.get("predictions") or answer["outputs"]["digit"]
    assert [row["digit"] if isinstance(row, dict) else row for row in predictions] == [7]


def is_http_seven(answer: Any) -> None:
    assert answer["statusCode"] == 200
    is_seven(json.loads(response_body(answer)))


def is_inferred_seven(answer: Any) -> None:
    assert answer["statusCode"] == 200
    outputs = json.loads(response_body(answer))["outputs"]
    assert [output["data"] for output in outputs if output["name"] == "digit"] == [[7]]


def is_binary_seven(answer: Any) -> None:
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, True)
    (size,) = response_headers(answer)["inference-header-content-length"]
    body = response_body(answer)
    assert json.loads(body[: int(size)])["outputs"][0]["name"] == "digit"
    assert body[int(size) :] == (7).to_bytes(8, "little")


def is_damaged(answer: Any) -> None:
    assert answer["statusCode"] == 400
    assert "want application/octet-stream" in json.loads(answer["body"])["error"]


def is_of_health(answer: Any) -> None:
    assert (answer["statusCode"], json.loads(answer["body"])) == (200, {"ready": True})


def is_warm(answer: Any) -> None:
    assert answer == {"warm": {"digits": "1"}, "pending": []}


def is_looked_at(answer: Any) -> None:
    looked = {"models": {"digits": {"versions": ["1"], "loaded": "1"}}, "ignored": [], "ignored_count": 0}
    assert answer == looked


def is_done(answer: Any) -> None:
    assert answer == {"batchItemFailures": []}


def is_unknown(answer: Any) -> None:
    assert answer["errorType"] == "UnknownEvent"
    assert "'aws:dynamodb'; want an HTTP request" in answer["errorMessage"]
    assert answer["stackTrace"] == []


def is_elsewhere(answer: Any) -> None:
    assert answer == {"models": {}, "ignored": ["s3://my-models/notes/read me!.txt"], "ignored_count": 1}


def is_about_nothing(answer: Any) -> None:
    assert answer == {"models": {}, "ignored": [], "ignored_count": 0}


def is_of_edge(answer: Any) -> None:
    assert answer["status"] == 200
    is_seven(json.loads(answer["body"]))


def has_failed_from_the_second_on(answer: Any) -> None:
    numbers = [failure["itemIdentifier"][-1] for failure in answer["batchItemFailures"]]
    assert numbers == ["2", "3"]


def is_written(answer: Any) -> None:
    assert answer["output"] == f"s3://{ANSWERS}/digits/direct.json"
    assert answer["bytes"] > 10


def is_metadata(answer: Any) -> None:
    assert answer["model_spec"]["version"] == "1"


def is_report(answer: Any) -> None:
    assert answer["platform"]
    assert answer["findings"]


CHECKS: Mapping[str, Check] = {
    "direct": is_seven,
    "direct-columns": is_seven,
    "direct-metadata": is_metadata,
    "direct-output": is_written,
    "doctor": is_report,
    "eventbridge-s3": is_looked_at,
    "function-url": is_http_seven,
    "function-url-gzip": is_http_seven,
    "function-url-infer": is_inferred_seven,
    "function-url-infer-binary": is_binary_seven,
    "function-url-infer-binary-as-text": is_damaged,
    "http-api": is_http_seven,
    "http-api-format-1": is_http_seven,
    "http-api-infer-binary": is_binary_seven,
    "http-api-stage": is_http_seven,
    "http-api-stage-v1": is_http_seven,
    "lambda-at-edge": is_of_edge,
    "load-balancer": is_http_seven,
    "load-balancer-health": is_of_health,
    "load-balancer-infer-binary": is_binary_seven,
    "load-balancer-multi-value": is_http_seven,
    "rest-api": is_http_seven,
    "rest-api-base64": is_http_seven,
    "rest-api-custom-domain": is_http_seven,
    "rest-api-infer-binary": is_binary_seven,
    "s3-created": is_looked_at,
    "s3-elsewhere": is_elsewhere,
    "s3-removed": is_looked_at,
    "s3-test": is_about_nothing,
    "sns": is_seven,
    "sns-s3": is_looked_at,
    "sqs": is_done,
    "sqs-fifo": has_failed_from_the_second_on,
    "sqs-s3": is_done,
    "sqs-sns-s3": is_done,
    "unknown": is_unknown,
    "warmup": is_warm,
    "warmup-plugin": is_warm,
    "warmup-schedule": is_warm,
}


def test_every_recorded_event_has_an_answer_to_expect() -> None:
    assert sorted(CHECKS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_event_is_answered(name: str, function: LambdaEmulator) -> None:
    CHECKS[name](function.invoke(json.loads((EVENTS / f"{name}.json").read_text())))


def test_what_messages_ask_for_is_where_they_say(function: LambdaEmulator, s3: SeaweedFS, tmp_path: Path) -> None:
    for name in ("sqs", "sqs-fifo"):
        function.invoke(json.loads((EVENTS / f"{name}.json").read_text()))
    for key in ("first", "second", "third"):
        body = s3.client().get_object(Bucket=ANSWERS, Key=f"digits/{key}.json")["Body"].read()
        is_seven(json.loads(body))
    # It was behind the one that failed, in an order that is to be kept.
    with pytest.raises(s3.client().exceptions.NoSuchKey):
        s3.client().get_object(Bucket=ANSWERS, Key="digits/fourth.json")
