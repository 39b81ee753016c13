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
from schemathesis import Case
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
from runtime.openapi import document
from tests.runtime.servables import NAME, stage

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OPERATIONS = [(path, method) for path, methods in document()["paths"].items() for method in methods]


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
        send_what_it_allows(schema[path][method.upper()])


def send_what_it_allows(operation: APIOperation[Any, Any, Any, Any]) -> None:
    # No shrinking: what fails is small enough.
    @seed(4)
    @settings(
        max_examples=15,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def send(case: Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS)
        # Once more with what there is, as made-up names are those of no model.
        for name, value in (("name", NAME), ("version", 1), ("label", "stable")):
            if name in case.path_parameters:
                case.path_parameters[name] = value
        case.call_and_validate(checks=CHECKS)

    send()


def test_every_example_has_the_form_of_a_request(url: str) -> None:
    for path, methods in document()["paths"].items():
        if "{version}" in path or "{label}" in path or "requestBody" not in methods.get("post", ()):
            continue
        for example in methods["post"]["requestBody"]["content"]["application/json"]["examples"].values():
            # There is no such model, which is looked for after the body has been found sound.
            assert asked(url, "POST", path.format(name="other"), example["value"])[0] == 404


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
