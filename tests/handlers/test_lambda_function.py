"""Events answered directly, beside Mangum's answers to the same; and those that are left to Mangum, or to nobody."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mangum import Mangum
from starlette.types import Receive, Scope, Send

from handlers.build import build_server
from handlers.lambda_events import read_head
from handlers.lambda_failures import InvocationFailed
from handlers.lambda_function import Function
from handlers.settings import read_settings
from runtime.contract import Contract
from runtime.rest import create_app
from tests.conftest import DIGITS
from tests.servers.lambda_events import (
    EVENT_BUILDERS,
    Event,
    Fields,
    function_url,
    load_balancer_multi_value,
    response_body,
    response_headers,
    rest_api,
)

Handler = Callable[[Any, Any], Any]
PREDICT = "/v1/models/digits:predict"
SEVEN = (DIGITS / "seven.json").read_bytes()
# So many that the answer is worth compressing.
IMAGES = json.dumps({"instances": json.loads(SEVEN)["instances"] * 300}).encode()
JSON = {"Content-Type": "application/json"}
GZIPPED = JSON | {"Content-Encoding": "gzip"}

REQUESTS: Mapping[str, tuple[str, str, Fields, Fields, bytes]] = {
    "predict": ("POST", PREDICT, {}, JSON, SEVEN),
    "predict, of no type": ("POST", PREDICT, {}, {}, SEVEN),
    "predict, gzip": ("POST", PREDICT, {"a": "b"}, GZIPPED, gzip.compress(SEVEN)),
    "predict, gzip both ways": ("POST", PREDICT, {}, GZIPPED | {"Accept-Encoding": "gzip"}, gzip.compress(IMAGES)),
    "predict, zstd back": ("POST", PREDICT, {}, JSON | {"Accept-Encoding": "gzip;q=0.5, zstd"}, IMAGES),
    "predict, a header twice": ("POST", PREDICT, {}, JSON | {"Accept-Encoding": ["br", "gzip"]}, IMAGES),
    "predict, large and plain": ("POST", PREDICT, {}, JSON, IMAGES),
    "predict, a cookie": ("POST", PREDICT, {}, JSON | {"cookie": ["a=b", "c=d"]}, SEVEN),
    "predict, a version": ("POST", "/v1/models/digits/versions/1:predict", {}, JSON, SEVEN),
    "predict, no such version": ("POST", "/v1/models/digits/versions/7:predict", {}, JSON, SEVEN),
    "predict, a name in UTF-8": ("POST", "/v1/models/d%C3%BC%2Fx:predict", {}, JSON, SEVEN),
    "predict, a name that is no UTF-8": ("POST", "/v1/models/%FF:predict", {}, JSON, SEVEN),
    "predict, no JSON": ("POST", PREDICT, {}, JSON, b"no JSON \xc3\xbc"),
    "predict, no UTF-8": ("POST", PREDICT, {}, JSON, b"\xff"),
    "predict, no body": ("POST", PREDICT, {}, JSON, b""),
    "predict, too large": ("POST", PREDICT, {}, JSON, b" " * (2 << 20)),
    "predict, too large inflated": ("POST", PREDICT, {}, GZIPPED, gzip.compress(b" " * (2 << 20))),
    "predict, an encoding nobody reads": ("POST", PREDICT, {}, JSON | {"Content-Encoding": "br"}, SEVEN),
    "predict, not gzip": ("POST", PREDICT, {}, GZIPPED, SEVEN),
    "predict, a length that is none": ("POST", PREDICT, {}, JSON | {"Content-Length": "many"}, SEVEN),
    "classify": ("POST", "/v1/models/digits:classify", {}, JSON, SEVEN),
    "a verb that there is not": ("POST", "/v1/models/digits:guess", {}, JSON, SEVEN),
    "a method that there is not": ("DELETE", PREDICT, {}, {}, b""),
    "a predict with GET": ("GET", PREDICT, {}, {}, b""),
    "status": ("GET", "/v1/models/digits", {}, {}, b""),
    "status, HEAD": ("HEAD", "/v1/models/digits", {}, {}, b""),
    "status, no such model": ("GET", "/v1/models/unknown", {}, {"Accept-Encoding": "identity;q=0, gzip"}, b""),
    "status, gzip": ("GET", "/v1/models/digits", {}, {"Accept-Encoding": "identity;q=0, gzip"}, b""),
    "metadata": ("GET", "/v1/models/digits/metadata", {}, {}, b""),
    "nothing behind it": ("GET", "/v1/", {}, {}, b""),
    "in capitals": ("GET", "/V1/models/digits", {}, {}, b""),
    "a page may call": ("OPTIONS", PREDICT, {}, {"origin": "https://a.example"}, b""),
    "no page calls": ("OPTIONS", PREDICT, {}, {}, b""),
    "live": ("GET", "/v2/health/live", {}, {}, b""),
    "ready": ("GET", "/v2/health/ready", {"a": "b"}, {}, b""),
    "ready, HEAD": ("HEAD", "/v2/health/ready", {}, {}, b""),
    "live, with a slash": ("GET", "/v2/health/live/", {}, {}, b""),
    "ready, POST": ("POST", "/v2/health/ready", {}, {}, b""),
    "ready, otherwise written": ("GET", "/v2/health/r%65ady", {}, {}, b""),
    "neither": ("GET", "/v2/models/digits", {}, {}, b""),
    "the document": ("GET", "/openapi.json", {}, {}, b""),
    "the document for people": ("GET", "/docs", {}, {}, b""),
}


@pytest.fixture(autouse=True)
def event_loop_of_mangums() -> Iterator[None]:
    """Mangum takes the thread's event loop, or leaves a new one there for good."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture(scope="module", params=[False, True], ids=["", "CORS"])
def contract(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contract]:
    cache_dir = str(tmp_path_factory.mktemp("cache"))
    server = build_server(read_settings({"model_name": "digits", "model_path": str(DIGITS), "cache_dir": cache_dir}))
    yield Contract(server, max_body=1 << 20, has_cors=request.param)
    server.close()


@pytest.fixture
def function(contract: Contract) -> Function:
    return Function(contract)


@pytest.fixture
def mangum(contract: Contract) -> Handler:
    app = create_app(contract, is_ready=lambda: True)

    async def with_path_as_sent(scope: Scope, receive: Receive, send: Send) -> None:
        event = scope["aws.event"]
        await app({**scope, "raw_path": (event.get("rawPath") or event["path"]).encode()}, receive, send)

    return Mangum(with_path_as_sent, lifespan="off")


def without_cold_start(result: dict[str, Any]) -> dict[str, Any]:
    """Without what the first answers of a process say of its start."""
    for headers in (result.get("headers") or {}, result.get("multiValueHeaders") or {}):
        headers.pop("server-timing", None)
    return result


@pytest.mark.parametrize("shape", EVENT_BUILDERS)
def test_answers_are_what_mangum_makes_of_the_same_events(shape: str, function: Function, mangum: Handler) -> None:
    differences = {}
    for name, request in REQUESTS.items():
        event = EVENT_BUILDERS[shape](*request)
        found, wanted = without_cold_start(function(event, None)), without_cold_start(mangum(event, None))
        if found != wanted:
            differences[name] = (found, wanted)
    assert differences == {}


def variants() -> Mapping[str, Event]:
    """What is seldom, but sent."""
    of_url = function_url("POST", PREDICT, {}, JSON, SEVEN)
    of_rest = rest_api("POST", PREDICT, {}, JSON, SEVEN)
    of_balancer = load_balancer_multi_value("POST", PREDICT, {}, JSON, SEVEN)
    text = {"body": SEVEN.decode(), "isBase64Encoded": False}
    return {
        "format 1.0 of an HTTP API": of_rest | {"version": "1.0"},
        "no multi-value headers": of_rest | {"multiValueHeaders": None},
        "no headers": of_rest | {"headers": None, "multiValueHeaders": None},
        "no body": of_url | {"body": None},
        "no headers of a URL": of_url | {"headers": {}},
        "text from a REST API": of_rest | text,
        "text from a balancer": of_balancer | text,
        "base64 that need not be": of_url | {"body": base64.b64encode(SEVEN).decode(), "isBase64Encoded": True},
        "no path of its own": {name: value for name, value in of_url.items() if name != "rawPath"} | {"path": PREDICT},
        "a path that is no UTF-8": of_rest | {"path": "/v1/models/ü:predict"},
    }


@pytest.mark.parametrize("name", variants())
def test_unusual_events_are_answered_as_by_mangum(name: str, function: Function, mangum: Handler) -> None:
    event = variants()[name]
    head = read_head(event)
    assert head is not None
    assert without_cold_start(function(event, None)) == without_cold_start(mangum(event, None))


@pytest.mark.parametrize("shape", EVENT_BUILDERS)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a", "the event's body is said to be base64 and is not: "),
        ("YWJj\nZGVm!", "the event's body is said to be base64 and is not: "),
        ("ü", "the event's body is said to be base64 and is not: "),
        (b"{}", None),
    ],
)
def test_a_body_that_is_not_what_it_is_said_to_be_is_the_clients_mistake(
    shape: str, body: Any, message: str | None, function: Function
) -> None:
    event = EVENT_BUILDERS[shape]("POST", PREDICT, {}, JSON, SEVEN)
    # Whoever calls the function himself can put anything there.
    event |= {"body": body if message else {"instances": []}, "isBase64Encoded": True}
    answer = function(event, None)
    assert answer["statusCode"] == 400
    assert json.loads(response_body(answer))["error"].startswith(message or "the event's body is a dict; want text")
    assert response_headers(answer)["content-type"] == ["application/json"]


@pytest.mark.parametrize(
    "headers",
    [{"headers": ["a"]}, {"headers": "a"}, {"headers": {"a": None}}, {"headers": {"a": 1}}, {"headers": {"a": ["b"]}}],
)
@pytest.mark.parametrize("shape", EVENT_BUILDERS)
def test_headers_that_are_none_are_the_callers_mistake(shape: str, headers: Event, function: Function) -> None:
    answer = function(EVENT_BUILDERS[shape]("POST", PREDICT, {}, JSON, SEVEN) | headers, None)
    assert answer["statusCode"] == 400
    wanted = "the event's headers are not an object of texts, or of lists of them"
    assert json.loads(response_body(answer)) == {"error": wanted}


@pytest.mark.parametrize("headers", [{"a": None}, {"a": [1]}, {"a": 1}, [["a", "b"]]])
def test_headers_of_several_values_that_are_none_are_the_callers_mistake(headers: Any, function: Function) -> None:
    for event in (
        rest_api("POST", PREDICT, {}, JSON, SEVEN),
        load_balancer_multi_value("POST", PREDICT, {}, JSON, SEVEN),
    ):
        assert function(event | {"multiValueHeaders": headers}, None)["statusCode"] == 400


def test_characters_that_are_none_are_an_error_of_the_body(function: Function) -> None:
    event = function_url("POST", PREDICT, {}, JSON, b"")
    answer = function(event | {"body": '{"instances": "\ud800"}', "isBase64Encoded": False}, None)
    assert answer["statusCode"] == 400
    path = function(event | {"rawPath": "/v1/models/\ud800:predict"}, None)
    assert path["statusCode"] == 400


@pytest.mark.parametrize(
    ("event", "what"),
    [
        ({"Records": [{"eventSource": "aws:sqs"}]}, "an object with 'Records' from 'aws:sqs'"),
        ({"warmup": True}, "an object with 'warmup'"),
        ({"Records": []}, "an object with 'Records'"),
        ({"requestContext": {}}, "an object with 'requestContext'"),
        ({"requestContext": None, "version": "2.0"}, "an object with 'requestContext', 'version'"),
        ({"requestContext": {"http": None}, "version": "2.0"}, "an object with 'requestContext', 'version'"),
        ({}, "an object with nothing in it"),
        ([{"body": ""}], "of type list"),
        (None, "of type NoneType"),
        ("text", "of type str"),
    ],
)
def test_what_is_no_request_is_told_what_is(event: Any, what: str, function: Function) -> None:
    # This function is told of nothing else that it could answer.
    with pytest.raises(InvocationFailed) as error:
        function(event, None)
    assert error.value.exception_type == "UnknownEvent"
    assert error.value.msg.startswith(
        f"the event is {what}; want an HTTP request of a function URL, an HTTP API, a REST API or a load balancer, "
    )


HOSTILE: Mapping[str, Event] = {
    "no path": {"path": None, "rawPath": None},
    "no address": {"requestContext": {"http": {"method": "GET"}, "elb": {}}, "version": "2.0"},
    "an identity that is none": {"requestContext": {"identity": 5}, "resource": "/", "path": "/docs"},
    "a port that is none": {"headers": {"x-forwarded-port": "x", "host": "a"}, "multiValueHeaders": None},
    "an address of six": {"headers": {"host": "[2600:1f18::1]"}, "multiValueHeaders": None},
    "a host with a port that is none": {"headers": {"host": "a:b"}, "multiValueHeaders": None},
    "characters that are none": {
        "headers": {"a\ud800": "\ud800"},
        "multiValueHeaders": None,
        "rawQueryString": "\ud800",
    },
    "a query that is none": {"queryStringParameters": 5, "multiValueQueryStringParameters": 5, "rawQueryString": 5},
    "cookies that are none": {"cookies": 5},
    "headers that are none": {"headers": 5, "multiValueHeaders": 5},
    "a body that is none": {"body": 5},
    "a body that is no base64": {"body": "a", "isBase64Encoded": True},
}


@pytest.mark.parametrize("shape", EVENT_BUILDERS)
def test_whatever_there_is_in_an_event_its_pages_are_answered(
    shape: str, function: Function, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses: dict[str, list[int]] = {}
    for name, fields in HOSTILE.items():
        for path in ("/docs", "/openapi.json", "/nothing", "/"):
            event = EVENT_BUILDERS[shape]("GET", path, {}, {}, b"") | fields
            if "requestContext" in fields and read_head(event) is None:
                continue
            statuses.setdefault(name, []).append(function(event, Context())["statusCode"])
    found = [200, 200, 404, 404]
    assert {name: told for name, told in statuses.items() if name in ("headers that are none", "a body that is none",
        "a body that is no base64")} == dict.fromkeys(list(HOSTILE)[-3:], [400] * 4)  # fmt: skip
    assert statuses["no path"] == [404] * 4
    assert all(statuses[name] == found for name in list(HOSTILE)[3:-3])
    # Each failure is a line.
    failed = sum(status != 200 for told in statuses.values() for status in told)
    assert capsys.readouterr().out.count("ClientErrors") == 2 * failed


@pytest.mark.parametrize("shape", EVENT_BUILDERS)
@pytest.mark.parametrize("moment", [10**400, float("inf"), float("nan"), -1, True, "now", None])
def test_a_moment_that_is_none_ends_nothing(shape: str, moment: Any, function: Function) -> None:
    event = EVENT_BUILDERS[shape]("POST", PREDICT, {}, JSON, SEVEN)
    event["requestContext"] |= {"timeEpoch": moment, "requestTimeEpoch": moment}
    assert function(event, None)["statusCode"] == 200


@pytest.mark.parametrize("shape", EVENT_BUILDERS)
@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_head_of_a_page_has_no_body(shape: str, path: str, function: Function) -> None:
    answer, page = (function(EVENT_BUILDERS[shape](verb, path, {}, {}, b""), None) for verb in ("HEAD", "GET"))
    assert (answer["statusCode"], answer["body"]) == (200, "")
    assert response_headers(answer)["content-length"] == [str(len(response_body(page)))]


@pytest.mark.parametrize(
    ("method", "uri", "body", "status"),
    [
        ("GET", "/v2/health/live", b"", 200),
        ("GET", "/v1/models/digits", b"", 200),
        ("GET", "/v1/models/d%2Fx", b"", 404),
        ("POST", PREDICT, SEVEN, 200),
    ],
)
def test_an_event_of_cloudfront_is_still_mangums(
    method: str, uri: str, body: bytes, status: int, function: Function
) -> None:
    request = {"clientIp": "203.0.113.7", "headers": {}, "method": method, "querystring": "", "uri": uri}
    sent = {"body": {"action": "read-only", "data": base64.b64encode(body).decode(), "encoding": "base64"}}
    answer = function({"Records": [{"cf": {"config": {}, "request": {**request, **sent}}}]}, None)
    assert answer["status"] == status
    if status == 404:
        assert "d/x" in answer["body"]


@pytest.mark.parametrize(
    "cf", ["cf", {}, {"request": 5}, {"request": {"uri": 5}}, {"request": {"uri": "/docs", "headers": {"host": []}}}]
)
def test_an_event_of_cloudfront_that_is_none_is_unknown(cf: Any, function: Function) -> None:
    with pytest.raises(InvocationFailed) as error:
        function({"Records": [{"cf": cf}]}, None)
    assert error.value.exception_type == "UnknownEvent"


class Context:
    """As of AWS's client."""

    function_name = "digits-function"
    function_version = "7"


def test_the_first_prediction_tells_once_what_the_start_took(
    function: Function, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def told(event: Event) -> str:
        function(event, Context())
        return capsys.readouterr().out

    assert told(function_url("GET", "/v1/models/digits", {}, {}, b"")) == ""
    assert "ColdStart" not in told(function_url("POST", PREDICT, {}, {}, b"no JSON"))
    line = told(function_url("POST", PREDICT, {}, {}, SEVEN))
    assert line.endswith("\n")
    metrics = json.loads(line)
    sets = metrics["_aws"]["CloudWatchMetrics"][0]["Dimensions"]
    assert sets == [["FunctionName"], ["FunctionName", "FunctionVersion"]]
    assert (metrics["FunctionName"], metrics["FunctionVersion"]) == ("digits-function", "7")
    assert told(function_url("POST", PREDICT, {}, {}, SEVEN)) == ""
