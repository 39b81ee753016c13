"""The Open Inference Protocol through a Lambda function: bodies that are no text, and how large answers may be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from handlers.lambda_function import Function
from handlers.lambda_walls import MAX_ANSWER
from tests.conftest import DIGITS
from tests.handlers.test_lambda_failures import MAX_BALANCERS, Context, functions, metrics_of
from tests.runtime import models
from tests.servers.lambda_events import EVENT_BUILDERS, function_url, response_body, response_headers, rest_api

INFER = "/v2/models/digits/infer"
JSON_SIZE = "Inference-Header-Content-Length"
JSON = {"content-type": "application/json"}
SEVEN = np.asarray(json.loads((DIGITS / "seven.json").read_bytes())["instances"], np.float32)
IMAGE: dict[str, Any] = {"name": "image", "shape": [1, 8, 8], "datatype": "FP32"}
TEXT = json.dumps({"inputs": [{**IMAGE, "data": SEVEN.ravel().tolist()}]}).encode()


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    with functions(DIGITS, tmp_path_factory.mktemp("cache")) as made:
        yield made


def binary(x: Any, name: str = "image", **others: Any) -> tuple[dict[str, str], bytes]:
    head = {"name": name, "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    text = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}, **others}).encode()
    return {JSON_SIZE: str(len(text)), "content-type": "application/octet-stream"}, text + x.tobytes()


@pytest.mark.parametrize("shape", EVENT_BUILDERS)
def test_json_is_text_both_ways_and_tensors_are_base64(shape: str, function: Function) -> None:
    event = EVENT_BUILDERS[shape]
    answer = function(event("POST", INFER, {}, JSON, TEXT), None)
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, False)
    assert json.loads(answer["body"])["outputs"][0]["data"] == [7]
    headers, body = binary(SEVEN)
    answer = function(event("POST", INFER, {}, headers, body), None)
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, True)
    (size,) = response_headers(answer)[JSON_SIZE.lower()]
    content = response_body(answer)
    assert response_headers(answer)["content-length"] == [str(len(content))]
    digit, probabilities = json.loads(content[: int(size)])["outputs"]
    assert (digit["name"], probabilities["name"]) == ("digit", "probabilities")
    assert content[int(size) : int(size) + 8] == (7).to_bytes(8, "little")
    assert np.frombuffer(content[int(size) + 8 :], "<f4").argmax() == 7


@pytest.mark.parametrize("shape", EVENT_BUILDERS)
def test_tensors_that_come_as_text_are_refused_with_what_to_send(shape: str, function: Function) -> None:
    headers, body = binary(SEVEN)
    event = EVENT_BUILDERS[shape]("POST", INFER, {}, {**headers, **JSON}, body)
    # As AWS hands over what is said to be text.
    event |= {"body": body.decode(errors="replace"), "isBase64Encoded": False}
    answer = function(event, None)
    assert answer["statusCode"] == 400
    message = json.loads(response_body(answer))["error"]
    assert "application/octet-stream" in message
    assert "binaryMediaTypes" in message


@pytest.mark.parametrize(
    ("size", "status"),
    [
        (str(len(TEXT)), 200),
        (f"00{len(TEXT)}", 200),
        (str(len(TEXT) + 1), 400),
        ("x", 400),
        ("0", 400),
        ("9" * 99, 400),
    ],
)
def test_json_alone_may_come_as_text_though_its_size_is_told(size: str, status: int, function: Function) -> None:
    answer = function(function_url("POST", INFER, {}, {**JSON, JSON_SIZE: size}, TEXT), None)
    assert answer["statusCode"] == status
    if status == 400:
        # Only what has something behind its JSON is in the wrong form.
        assert ("application/octet-stream" in answer["body"]) is (size == "0")


def test_the_first_inference_tells_once_what_the_start_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "infer").symlink_to(DIGITS)
    with functions(tmp_path / "infer", tmp_path / "cache", model_name="infer") as function:

        def tells(method: str, path: str) -> bool:
            assert function(function_url(method, path, {}, JSON, TEXT), Context())["statusCode"] == 200
            return "ColdStart" in capsys.readouterr().out

        assert not tells("GET", "/v2/models/infer")
        assert not tells("POST", "/v2/repository/models/infer/load")
        assert tells("POST", "/v2/models/infer/infer")
        assert not tells("POST", "/v2/models/infer/infer")


@pytest.mark.parametrize("path", [INFER, "/v2/models/digits/versions/1/infer/", "/v2/repository/models/digits/load"])
def test_a_model_that_cannot_be_loaded_is_counted_as_such(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models" / "1").mkdir(parents=True)
    (tmp_path / "models" / "1" / "model.xml").write_text("<no model>")
    (tmp_path / "models" / "1" / "model.bin").write_bytes(b"")
    with functions(tmp_path / "models", tmp_path / "cache") as function:
        body = b"{}" if "load" in path else TEXT
        assert function(function_url("POST", path, {}, JSON, body), Context())["statusCode"] == 503
    (told,) = metrics_of(capsys.readouterr().out)
    line = told.pop("line")
    assert told == {"ServerErrors": 1, "ModelLoadFailures": 1}
    assert line["request"] == f"POST '{path}'"


def wide(tmp_path: Path) -> Path:
    """A model that answers each row with 1,000 numbers, and with one."""
    x = ov.opset8.parameter([-1, 1], ov.Type.f32, name="x")
    many = ov.opset8.add(x, ov.opset8.constant(np.full((1, 1000), 0.123456, np.float32)), name="many")
    one = ov.opset8.add(x, ov.opset8.constant(np.ones((1, 1), np.float32)), name="one")
    for node in (many, one):
        node.output(0).get_tensor().set_names({node.get_friendly_name()})
    models.save(ov.Model([many, one], [x], "wide"), tmp_path / "models")
    return tmp_path / "models"


@pytest.mark.parametrize("shape", EVENT_BUILDERS)
def test_an_answer_with_tensors_may_have_three_quarters_of_what_lambda_sends(shape: str, tmp_path: Path) -> None:
    most = MAX_BALANCERS if "balancer" in shape else MAX_ANSWER
    with functions(wide(tmp_path), tmp_path / "cache") as function:

        def ask(rows: int, **others: Any) -> dict[str, Any]:
            headers, body = binary(np.zeros((rows, 1), np.float32), "x", **others)
            answer: dict[str, Any] = function(EVENT_BUILDERS[shape]("POST", INFER, {}, headers, body), None)
            return answer

        row, around = 4004, 1200
        fits = (most * 3 // 4 - around) // row
        assert ask(fits)["statusCode"] == 200
        refused = ask(fits + 1)
        assert refused["statusCode"] == 413
        message = json.loads(response_body(refused))["error"]
        told = re.search(
            rf"may take {most}: (\d+) bytes of what is no text and goes as base64, of which it has (\d+): ", message
        )
        assert told
        limit, has = map(int, told.groups())
        assert most * 3 // 4 - around < limit < has < limit + row + around
        assert 'name the "outputs" that are wanted' in message
        # Of tensors gzip leaves nearly all, and they are in binary already.
        assert "gzip" not in message
        assert "binary_data_output" not in message
        assert ask(fits + 1, outputs=[{"name": "one"}])["statusCode"] == 200


def test_an_answer_of_json_that_is_too_large_may_be_asked_for_in_binary(tmp_path: Path) -> None:
    with functions(wide(tmp_path), tmp_path / "cache") as function:
        rows = 700
        body = {"inputs": [{"name": "x", "shape": [rows, 1], "datatype": "FP32", "data": [1 / 3] * rows}]}
        for event in (function_url, rest_api):
            refused = function(event("POST", INFER, {}, JSON, json.dumps(body).encode()), None)
            assert refused["statusCode"] == 413
            message = json.loads(response_body(refused))["error"]
            assert f'may take {MAX_ANSWER}: ask for fewer rows at a time, or name the "outputs"' in message
            assert '"binary_data_output": true' in message
            assert "Accept-Encoding: gzip" in message
            asked = {**body, "parameters": {"binary_data_output": True}}
            assert function(event("POST", INFER, {}, JSON, json.dumps(asked).encode()), None)["statusCode"] == 200
