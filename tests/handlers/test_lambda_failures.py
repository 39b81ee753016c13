"""What becomes of requests that fail or take too long in a function, and of answers that are too large for Lambda."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import openvino as ov
import pytest

from handlers.build import build_server
from handlers.lambda_events import read_head, write
from handlers.lambda_failures import InvocationFailed
from handlers.lambda_function import Function, Terms, answer_by
from handlers.lambda_walls import MAX_ANSWER, within_walls
from handlers.settings import SettingsError, read_settings
from runtime.answers import Answer
from runtime.contract import Contract
from tests.conftest import DIGITS
from tests.runtime import models
from tests.servers.fault_proxy import FaultProxy, Stall, on
from tests.servers.lambda_emulator import lambda_emulator
from tests.servers.lambda_events import (
    EVENT_BUILDERS,
    Fields,
    function_url,
    http_api,
    load_balancer,
    response_body,
    rest_api,
)
from tests.servers.runtime_api import environment
from tests.servers.seaweedfs import SeaweedFS

# As AWS documents it; MAX_ANSWER is held by its emulator.
MAX_BALANCERS = 1_048_576
PREDICT = "/v1/models/digits:predict"
SEVEN = (DIGITS / "seven.json").read_bytes()
JSON = {"content-type": "application/json"}


class Context:
    """As of AWS's client, with so many seconds left."""

    function_name = "digits-function"
    function_version = "7"
    aws_request_id = "request-1"

    def __init__(self, seconds: float = 30.0) -> None:
        self._end = time.time() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(max(0.0, self._end - time.time()) * 1e3)


@contextmanager
def functions(base: Path, tmp_path: Path, terms: Terms | None = None, **flags: str) -> Iterator[Function]:
    settings = read_settings({"model_name": "digits", "model_path": str(base), "cache_dir": str(tmp_path), **flags})
    with closing(build_server(settings)) as server:
        yield Function(Contract(server, max_body=settings.max_body_size), terms)


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    with functions(DIGITS, tmp_path_factory.mktemp("cache")) as made:
        yield made


def metrics_of(text: str) -> list[dict[str, Any]]:
    """The lines of CloudWatch's format, checked for what its specification says."""
    found = []
    for line in text.splitlines():
        whole = json.loads(line)
        (directive,) = whole["_aws"]["CloudWatchMetrics"]
        assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
        assert abs(whole["_aws"]["Timestamp"] - time.time() * 1e3) < 60_000
        for metric in directive["Metrics"]:
            assert isinstance(whole[metric["Name"]], int | float)
        if directive["Metrics"][0]["Unit"] == "Count":
            assert directive["Dimensions"] == [["FunctionName"]]
            assert directive["Namespace"] == "Decant"
            assert whole["FunctionName"] == "digits-function"
            found.append({name["Name"]: whole[name["Name"]] for name in directive["Metrics"]} | {"line": whole})
    return found


def test_each_failed_request_is_a_line_of_metrics_and_others_are_none(
    function: Function, capsys: pytest.CaptureFixture[str]
) -> None:
    function(function_url("POST", PREDICT, {}, JSON, SEVEN), Context())
    assert metrics_of(capsys.readouterr().out) == []
    function(function_url("POST", PREDICT, {}, JSON, b"no JSON"), Context())
    (told,) = metrics_of(capsys.readouterr().out)
    line = told.pop("line")
    assert told == {"ClientErrors": 1}
    assert (line["status"], line["requestId"]) == (400, "request-1")
    assert line["request"] == f"POST '{PREDICT}'"
    assert "no JSON" in line["error"] or "JSON Parse error" in line["error"]
    # Also what Mangum answers.
    assert function(function_url("GET", "/nowhere", {}, {}, b""), Context())["statusCode"] == 404
    assert metrics_of(capsys.readouterr().out)[0]["ClientErrors"] == 1


def test_a_model_that_cannot_be_loaded_is_counted_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models" / "1").mkdir(parents=True)
    (tmp_path / "models" / "1" / "model.xml").write_text("<no model>")
    (tmp_path / "models" / "1" / "model.bin").write_bytes(b"")
    with functions(tmp_path / "models", tmp_path / "cache") as function:
        assert function(function_url("POST", PREDICT, {}, JSON, SEVEN), Context())["statusCode"] == 503
    (told,) = metrics_of(capsys.readouterr().out)
    line = told.pop("line")
    assert told == {"ServerErrors": 1, "ModelLoadFailures": 1}
    assert line["status"] == 503


def test_answers_that_are_to_be_errors_are_raised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = read_settings({"lambda_error_statuses": "404, 500-599"})
    terms = Terms(error_statuses=settings.lambda_error_statuses)
    with functions(DIGITS, tmp_path, terms) as function:
        assert function(function_url("POST", PREDICT, {}, JSON, b"no JSON"), Context())["statusCode"] == 400
        with pytest.raises(InvocationFailed) as failure:
            function(function_url("GET", "/v1/models/other", {}, JSON, b""), Context())
    assert failure.value.exception_type == "ModelNotFound"
    assert "Could not find any versions of model other" in failure.value.msg
    assert [told["ClientErrors"] for told in metrics_of(capsys.readouterr().out)] == [1, 1]


@pytest.mark.parametrize("text", ["200-299", "599-500", "five", "500-", "500-600", "-1"])
def test_statuses_that_are_none_of_errors_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="lambda_error_statuses is"):
        read_settings({"lambda_error_statuses": text})


@pytest.mark.parametrize(
    "text",
    ["s3://bucket", "bucket/answers", "https://bucket/answers", "s3://", "s3:///x", "s3://b/../x", "s3://b//x",
     "s3://minio:9000/b", "file:///a/../b", "file://"],
)  # fmt: skip
def test_outputs_are_below_a_place_in_a_bucket(text: str) -> None:
    with pytest.raises(SettingsError, match="lambda_outputs is"):
        read_settings({"lambda_outputs": text})


@pytest.mark.parametrize("text", ["ml", "/a//b", "/a?b", "/ü"])
def test_a_base_path_is_the_beginning_of_a_path(text: str) -> None:
    with pytest.raises(SettingsError, match="lambda_base_path is"):
        read_settings({"lambda_base_path": text})


@pytest.mark.parametrize(
    ("left", "waited_for", "margin", "wanted"),
    [
        (30.0, None, 1.0, 29.0),
        (None, 30.0, 1.0, 29.0),
        (60.0, 29.0, 1.0, 28.0),
        (2.0, 29.0, 1.0, 1.5),
        (0.0, None, 1.0, 0.0),
    ],
)
def test_there_is_an_answer_before_time_is_over(
    left: float | None, waited_for: float | None, margin: float, wanted: float
) -> None:
    until = answer_by(left, waited_for, margin)
    assert until is not None
    assert until - time.monotonic() == pytest.approx(wanted, abs=0.1)


def test_without_a_context_nothing_ends() -> None:
    assert answer_by(None, None, 1.0) is None


@pytest.mark.parametrize("verb", [":predict", "/metadata", ""])
def test_a_request_that_waits_for_its_model_is_told_to_come_again_before_its_time_is_over(
    verb: str, s3: SeaweedFS, tmp_path: Path
) -> None:
    stall = Stall()
    with FaultProxy(s3.endpoint) as proxy:
        # The listing for who asks for the status, and the download for others.
        proxy.use(on(stall, "GET", r"model\.bin" if verb else r"list-type"))
        env = {**s3.reader.env(), "AWS_ENDPOINT_URL_S3": proxy.url, "DECANT_MODEL_PATH": "s3://models/digits"}
        env |= {"DECANT_MODEL_NAME": "digits", "DECANT_CACHE_DIR": str(tmp_path / "cache"), "DECANT_LAZY": "true"}
        with environment(tmp_path, env) as (api, _):
            api.invoke(function_url("GET", "/v2/health/live", {}, {}, b""))
            api.timeout = 1.0
            began = time.monotonic()
            method = "POST" if verb == ":predict" else "GET"
            answer = api.invoke(function_url(method, f"/v1/models/digits{verb}", {}, JSON, SEVEN))
            assert 0.5 < time.monotonic() - began < 1.0
            assert answer["statusCode"] == 503
            assert answer["headers"]["retry-after"] == "1"
            assert "try again later" in json.loads(response_body(answer))["error"]
            stall.released.set()
            api.timeout = 30.0
            # The load has gone on.
            answer = api.invoke(function_url("POST", PREDICT, {}, JSON, SEVEN))
            assert json.loads(response_body(answer))["predictions"][0]["digit"] == 7


def test_an_inference_that_takes_too_long_is_told_before_time_is_over(tmp_path: Path) -> None:
    models.save(models.slow(), tmp_path / "models")
    rows = json.dumps({"instances": [[1.0] * 512] * 800}).encode()
    with functions(tmp_path / "models", tmp_path / "cache") as function:
        small = json.dumps({"instances": [[1.0] * 512]}).encode()
        assert function(function_url("POST", PREDICT, {}, JSON, small), Context())["statusCode"] == 200
        began = time.monotonic()
        answer = function(function_url("POST", PREDICT, {}, JSON, rows), Context(0.25))
        assert time.monotonic() - began < 0.25
        assert answer["statusCode"] == 504


def test_a_gateway_that_has_waited_for_the_start_waits_so_much_less(tmp_path: Path) -> None:
    terms = Terms(margin=0.0)
    with functions(DIGITS, tmp_path, terms) as function:

        def left(event: dict[str, Any], **request: Any) -> float | None:
            event["requestContext"] |= request
            head = read_head(event)
            assert head is not None
            return function._seconds_left_for(event, head)

        def ago(seconds: float) -> int:
            return int((time.time() - seconds) * 1e3)

        asked: tuple[str, str, Fields, Fields, bytes] = ("POST", PREDICT, {}, JSON, SEVEN)
        assert left(http_api(*asked), timeEpoch=ago(12)) == pytest.approx(18, abs=0.5)
        assert left(rest_api(*asked), requestTimeEpoch=ago(12)) == pytest.approx(17, abs=0.5)
        # Recorded long ago, from the future, or nonsense.
        assert left(http_api(*asked), timeEpoch=ago(3600)) == 30
        assert left(http_api(*asked), timeEpoch=ago(-3600)) == 30
        assert left(http_api(*asked), timeEpoch="now") == 30
        assert left(load_balancer(*asked)) == 60
        assert left(function_url(*asked), timeEpoch=ago(12)) is None
    with functions(DIGITS, tmp_path, Terms(gateway_timeout=100.0)) as function:
        assert left(function_url(*asked), timeEpoch=ago(12)) == pytest.approx(88, abs=0.5)
    with functions(DIGITS, tmp_path, Terms(gateway_timeout=0.0)) as function:
        assert left(http_api(*asked), timeEpoch=ago(12)) is None


def wide(tmp_path: Path) -> Path:
    """A model that answers each row with 1,000 numbers."""
    x = ov.opset8.parameter([-1, 1], ov.Type.f32, name="x")
    y = ov.opset8.add(x, ov.opset8.constant([[0.123456 + number for number in range(1000)]], ov.Type.f32))
    models.save(ov.Model([y], [x], "wide"), tmp_path / "models")
    return tmp_path / "models"


def rows(count: int) -> bytes:
    return json.dumps({"instances": [[number / 7] for number in range(count)]}).encode()


@pytest.mark.parametrize("shape", ["function URL", "REST API", "load balancer, multi-value"])
def test_an_answer_that_lambda_would_not_send_is_refused_with_advice(shape: str, tmp_path: Path) -> None:
    most = MAX_BALANCERS if "balancer" in shape else MAX_ANSWER
    count = most // 11_000
    event = EVENT_BUILDERS[shape]
    with functions(wide(tmp_path), tmp_path / "cache") as function:
        # What passes, just; and what does not.
        answers = [function(event("POST", PREDICT, {}, JSON, rows(count * factor)), None) for factor in (1, 3)]
        assert [answer["statusCode"] for answer in answers] == [200, 413]
        assert most * 0.5 < len(json.dumps(answers[0])) <= most
        message = json.loads(response_body(answers[1]))["error"]
        assert message.startswith("the answer takes ")
        assert f"may take {most}: ask for fewer instances" in message
        assert "Accept-Encoding: gzip" in message
        headers = answers[1].get("headers") or answers[1]["multiValueHeaders"]
        assert "connection" not in headers
        assert len(json.dumps(answers[1])) < 1000
        packed = function(
            event("POST", PREDICT, {}, {**JSON, "Accept-Encoding": "gzip"}, rows(count + count // 4)), None
        )
        assert packed["statusCode"] == 200
        assert packed["isBase64Encoded"]
        assert len(json.dumps(packed)) <= most


@pytest.mark.parametrize("letter", ['\\"', "ü", "\U0001f600", "a"])
@pytest.mark.parametrize("shape", EVENT_BUILDERS)
def test_text_is_counted_as_it_is_sent_and_packed_where_that_helps(shape: str, letter: str) -> None:
    event = EVENT_BUILDERS[shape]("POST", PREDICT, {}, JSON, SEVEN)
    head = read_head(event)
    assert head is not None
    most = MAX_BALANCERS if "balancer" in shape else MAX_ANSWER
    sent = len(json.dumps(letter)) - 2
    for size in (most - 2000, most + 2000):
        text = letter * (size // sent)
        answer = Answer(200, JSON, text.encode())
        passed, result = within_walls(event, head, answer, write(event, head, answer))
        fits = size < most
        # Base64 takes 4 bytes for 3, and a quotation mark that is escaped takes 4 for 2.
        packs = not fits and shape != "REST API" and letter != "a"
        assert (passed.status, result["isBase64Encoded"]) == (200 if fits or packs else 413, packs)
        assert len(json.dumps(result)) <= most
        assert response_body(result) == passed.body


def test_lambda_itself_takes_the_largest_answer_that_passes(tmp_path: Path) -> None:
    env = {"DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": str(wide(tmp_path))}
    with lambda_emulator(tmp_path, env=env | {"DECANT_CACHE_DIR": str(tmp_path / "cache")}) as function:
        sizes: dict[int, int] = {}
        low, high = 655, 671
        # The largest count of rows that is answered.
        while high - low > 1:
            count = (low + high) // 2
            answer = function.invoke(function_url("POST", PREDICT, {}, JSON, rows(count)))
            # The emulator says another thing of what is larger than it takes.
            assert answer["statusCode"] in (200, 413)
            sizes[count] = len(json.dumps(answer))
            low, high = (count, high) if answer["statusCode"] == 200 else (low, count)
        assert MAX_ANSWER - 20_000 < sizes[low] <= MAX_ANSWER
        # AWS's client writes the object itself with spaces in it.
        few = low * 9 // 10
        answer = function.invoke({"instances": json.loads(rows(few))["instances"]})
        assert len(answer["predictions"]) == few
        failure = function.invoke({"instances": json.loads(rows(900))["instances"]})
        assert failure["errorType"] == "PayloadTooLarge"
        assert '{"output": "s3://bucket/key"}' in failure["errorMessage"]


def test_a_body_that_inflates_to_more_than_may_be_is_told_the_setting(tmp_path: Path) -> None:
    with functions(DIGITS, tmp_path, max_body_size="1M") as function:
        bomb = gzip.compress(b" " * (2 << 20))
        answer = function(function_url("POST", PREDICT, {}, {**JSON, "content-encoding": "gzip"}, bomb), None)
    assert answer["statusCode"] == 413
    assert "larger than 1048576 bytes; see --max_body_size" in json.loads(response_body(answer))["error"]


STAGES: Mapping[str, tuple[str, str, str]] = {
    "a stage": ("/prod", "prod", PREDICT),
    "a stage, health": ("/prod", "prod", "/v2/health/ready"),
    "a stage named v1": ("/v1", "v1", PREDICT),
    "a stage named v1, health": ("/v1", "v1", "/v2/health/ready"),
    "a stage named v2, health": ("/v2", "v2", "/v2/health/ready"),
    "a stage named v1, behind a domain": ("", "v1", PREDICT),
    "a stage named v2, behind a domain": ("", "v2", "/v2/health/ready"),
    "a stage, the other protocol": ("/prod", "prod", "/v2/models/digits"),
    "a stage named v2, the other protocol": ("/v2", "v2", "/v2/models/digits/ready"),
    "a stage named v2, behind a domain, the other protocol": ("", "v2", "/v2/models/digits"),
    "a stage named v2, of the server": ("/v2", "v2", "/v2"),
    "a stage named models, of the server": ("/models", "models", "/v2"),
    "a stage, the document": ("/prod", "prod", "/openapi.json"),
    "a stage, the document for people": ("/prod", "prod", "/docs"),
}


@pytest.mark.parametrize("name", STAGES)
def test_the_stage_of_an_http_api_is_no_part_of_its_paths(name: str, function: Function) -> None:
    base, stage, path = STAGES[name]
    method = "POST" if path == PREDICT else "GET"
    event = http_api(method, base + path, {}, JSON, SEVEN)
    event["requestContext"]["stage"] = stage
    answer = function(event, None)
    assert answer["statusCode"] == 200
    if path == "/docs":
        assert f"url: '{base}/openapi.json'" in response_body(answer).decode()
    # Only whole parts of a path.
    event["rawPath"] = event["requestContext"]["http"]["path"] = f"{base}/x{path}"
    assert function(event, None)["statusCode"] in (400, 404)


@pytest.mark.parametrize("base", ["/ml", "/v1", "/a/b/c"])
def test_the_base_path_of_a_custom_domain_is_no_part_of_its_paths(base: str, function: Function) -> None:
    event = rest_api("POST", PREDICT, {}, JSON, SEVEN)
    event |= {"path": base + PREDICT, "pathParameters": {"proxy": PREDICT[1:]}}
    assert function(event, None)["statusCode"] == 200
    # A name that has a slash in it comes decoded where the path does not.
    path = "/v1/models/a%2Fb:predict"
    event |= {"path": base + path, "pathParameters": {"proxy": "v1/models/a/b:predict"}}
    answer = function(event, None)
    assert answer["statusCode"] == 404
    assert "a/b" in response_body(answer).decode()


def test_a_base_path_that_no_event_tells_is_set(tmp_path: Path) -> None:
    with functions(DIGITS, tmp_path, Terms(base_path=b"/ml")) as function:
        for shape in EVENT_BUILDERS.values():
            assert function(shape("POST", f"/ml{PREDICT}", {}, JSON, SEVEN), None)["statusCode"] == 200
            assert function(shape("POST", PREDICT, {}, JSON, SEVEN), None)["statusCode"] == 200
            assert function(shape("POST", f"/mlx{PREDICT}", {}, JSON, SEVEN), None)["statusCode"] in (400, 404)
        # Behind a stage, of which the event tells.
        for route in ("$default", "ANY /ml/{proxy+}"):
            event = http_api("POST", f"/prod/ml{PREDICT}", {}, JSON, SEVEN) | {"routeKey": route}
            event |= {"pathParameters": {"proxy": PREDICT[1:]}}
            event["requestContext"]["stage"] = "prod"
            assert function(event, None)["statusCode"] == 200
            assert function(event | {"rawPath": f"/prod/mlx{PREDICT}"}, None)["statusCode"] in (400, 404)
