"""That the OpenAPI document is true: what it allows is sent to a real server, and the answers are what it says."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, CheckContext, Response
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from handlers.http_server import HttpServer
from runtime import urls
from runtime.metrics import Metrics
from runtime.open_inference import urls as open_inference
from runtime.openapi import document
from runtime.openapi_parts import Schema
from tests.runtime.servables import NAME, stage

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OPERATIONS = [(path, method) for path, methods in document()["paths"].items() for method in methods]
# By what a path is parsed to, and whether it is about a model.
V2_OPERATIONS = {
    ("server", False): "server",
    ("stats", False): "allStats",
    ("stats", True): "stats",
    ("metadata", True): "model",
    ("ready", True): "ready",
    ("config", True): "config",
    ("infer", True): "infer",
    ("index", False): "repositoryIndex",
    ("load", True): "loadModel",
    ("unload", True): "unloadModel",
}
V2_EXAMPLES = [
    (path, methods["post"]["requestBody"]["content"]["application/json"]["examples"])
    for path, methods in document()["paths"].items()
    if path.startswith("/v2") and "post" in methods and "{version}" not in path
]


def nothing_untold(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """Fail if there is a body where the document has no content, which the other checks pass over."""
    told = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    assert "content" in told or not response.content, f"the document has no content for {response.text[:200]!r}"


@pytest.fixture
def url() -> Iterator[str]:
    with stage(1, 2, metrics=Metrics()) as s:
        s.server.configure({NAME: s.repository}, {NAME: {"stable": 1}})
        server = HttpServer(
            s.server, "127.0.0.1", 0, max_body=100_000, max_in_flight=8, timeout=30, reload=lambda: True
        )
        server.start()
        server.set_ready()
        try:
            yield f"http://127.0.0.1:{server.port}"
        finally:
            assert server.drain(10)


@pytest.mark.slow
def test_answers_are_what_the_document_says(url: str) -> None:
    schema: BaseSchema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for path, method in OPERATIONS:
        # What has no body, and what is only another version, has less in it.
        few = path.startswith("/v2") and (method == "get" or "{version}" in path)
        send_what_it_allows(schema[path][method.upper()], 4 if few else 15)


def send_what_it_allows(operation: APIOperation[Any, Any, Any, Any], examples: int) -> None:
    # No shrinking: what fails is small enough.
    @seed(4)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def send(case: Case[Any]) -> None:
        case.call_and_validate(checks=[*CHECKS, nothing_untold])
        # Once more with what there is, as made-up names are those of no model.
        for name, value in (("name", NAME), ("version", 1), ("label", "stable")):
            if name in case.path_parameters:
                case.path_parameters[name] = value
        case.call_and_validate(checks=[*CHECKS, nothing_untold])

    send()


def test_every_example_has_the_form_of_a_request(url: str) -> None:
    for path, methods in document()["paths"].items():
        if (
            path.startswith("/v2")
            or "{version}" in path
            or "{label}" in path
            or "requestBody" not in methods.get("post", ())
        ):
            continue
        for example in methods["post"]["requestBody"]["content"]["application/json"]["examples"].values():
            # There is no such model, which is looked for after the body has been found sound.
            assert asked(url, "POST", path.format(name="other"), example["value"])[0] == 404


@pytest.mark.parametrize(("path", "examples"), V2_EXAMPLES)
def test_every_example_of_the_open_inference_protocols_is_answered(url: str, path: str, examples: Schema) -> None:
    for example in examples.values():
        status, body = asked(url, "POST", path.format(name=NAME), example["value"])
        assert status == 200, body


def test_every_path_of_the_open_inference_protocols_is_one_that_is_parsed() -> None:
    of_version = {0: "", 1: "ByVersion"}
    for path, method in OPERATIONS:
        if path.startswith("/v2") and path.encode() not in urls.HEALTH:
            target = open_inference.parse(method.upper(), path.format(name="m", version=1).encode())
            name = document()["paths"][path][method]["operationId"].removeprefix("v2.")
            assert name == f"{V2_OPERATIONS[target.verb, bool(target.name)]}{of_version[target.version or 0]}"


def test_every_path_of_tensorflow_servings_is_one_that_is_parsed() -> None:
    for path, method in OPERATIONS:
        if path.startswith("/v1/"):
            target = urls.parse(method.upper(), path.format(name="m", version=1, label="l").encode())
            assert target.verb in document()["paths"][path][method]["operationId"]


def test_the_document_is_served_and_so_is_the_page_for_it(url: str) -> None:
    status, body = asked(url, "GET", "/openapi.json")
    assert (status, json.loads(body)) == (200, document())
    status, body = asked(url, "GET", "/docs")
    assert (status, b"/openapi.json" in body, b"<title>Decant" in body) == (200, True, True)


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(document())
    for reference in re.findall(r'"\$ref": "#/([^"]*)"', text):
        found: Any = document()
        for key in reference.split("/"):
            found = found[key]
        assert found


def asked(url: str, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body).encode())
        answer = connection.getresponse()
        return answer.status, answer.read()
