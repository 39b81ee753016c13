"""TensorFlow Serving's REST API, as ASGI, over a server of fakes."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np
import psutil
import pytest
import zstandard

from model_cache.disk import DiskCache, Fetched
from model_cache.errors import CacheFull, LoadFailed, LoadPending, ModelTooLarge, StorageUnavailable
from runtime.contract import Contract
from runtime.errors import DeadlineExceeded, InferenceFailed, Overloaded, Unsupported
from runtime.rest import create_app
from runtime.servable import LoadPhases
from runtime.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from runtime.status import public_message
from runtime.urls import Target
from tests.fakes import PATIENCE, Gate
from tests.runtime.asgi import App, Reply, call
from tests.runtime.servables import F32, NAME, HalfPlusTwo, Stage, finish_start, stage
from tests.runtime.test_urls import MALFORMED, TARGETS

MODEL = f"/v1/models/{NAME}"
PREDICT = f"{MODEL}:predict"
ROWS = json.dumps({"instances": [1.0, 2.0, 5.0]}).encode()
COLUMNS = json.dumps({"inputs": {"x": [1.0, 2.0, 5.0]}}).encode()
MAX_BODY = 1000
SECRET = "the bug's own text"


def app_of(stage: Stage, *, is_ready: Callable[[], bool] = lambda: True, **options: Any) -> App:
    return create_app(Contract(stage.server, **{"max_body": MAX_BODY, **options}), is_ready)


@pytest.fixture(autouse=True)
def _no_first_requests() -> None:
    finish_start()


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(1, 2) as made:
        yield made


@pytest.fixture
def app(s: Stage) -> App:
    return app_of(s)


def test_rows_are_answered_with_rows(app: App) -> None:
    reply = call(app, "POST", PREDICT, ROWS)
    assert reply.status == 200
    assert reply.headers == {"content-type": "application/json", "content-length": str(len(reply.content))}
    assert reply.body == {"predictions": [{"y": y, "version": 2} for y in (2.5, 3.0, 4.5)]}


def test_columns_are_answered_with_columns(app: App) -> None:
    reply = call(app, "POST", PREDICT, COLUMNS)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.body == {"outputs": {"y": [2.5, 3.0, 4.5], "version": [2, 2, 2]}}


def test_one_output_is_not_named(app: App) -> None:
    body = {"signature_name": "only_y", "instances": [1.0]}
    assert call(app, "POST", PREDICT, json.dumps(body).encode()).body == {"predictions": [2.5]}
    assert call(app, "POST", PREDICT, b'{"signature_name": "only_y", "inputs": [1]}').body == {"outputs": [2.5]}


def test_the_version_in_the_url_answers(app: App) -> None:
    reply = call(app, "POST", f"{MODEL}/versions/1:predict", b'{"instances": [1]}')
    assert reply.body == {"predictions": [{"y": 2.5, "version": 1}]}


def test_the_content_type_of_a_request_is_not_looked_at(app: App) -> None:
    for content_type in ("application/x-www-form-urlencoded", "text/plain", "image/png; charset=x"):
        assert call(app, "POST", PREDICT, ROWS, headers={"content-type": content_type}).status == 200


def test_the_status_of_a_model_lists_its_versions(s: Stage, app: App) -> None:
    s.loader.broken[2] = LoadFailed("Incorrect weights in bin file!")
    call(app, "POST", PREDICT, ROWS)
    reply = call(app, "GET", MODEL)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.body == {
        "model_version_status": [
            {
                "version": "2",
                "state": "END",
                "status": {"error_code": "FAILED_PRECONDITION", "error_message": "Incorrect weights in bin file!"},
            },
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
        ]
    }


def test_the_status_of_one_version_is_its_own(app: App) -> None:
    statuses = call(app, "GET", f"{MODEL}/versions/1").body["model_version_status"]
    assert [status["version"] for status in statuses] == ["1"]


def test_metadata_has_the_signatures_of_the_version_that_would_answer(app: App) -> None:
    reply = call(app, "GET", f"{MODEL}/metadata")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.body["model_spec"] == {"name": NAME, "signature_name": "", "version": "2"}
    signatures = reply.body["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
        "name": "x",
    }
    assert signatures.keys() == {"serving_default", "only_y"}
    assert call(app, "GET", f"{MODEL}/versions/1/metadata").body["model_spec"]["version"] == "1"


def held(app: App, model: str = NAME) -> list[Any]:
    versions: list[Any] = call(app, "GET", "/v1/cache").body["models"][model]["versions"]
    return versions


def test_the_cache_is_shown_with_all_that_is_known_of_each_version(tmp_path: Path) -> None:
    def make(version: int) -> HalfPlusTwo:
        servable = HalfPlusTwo(version)
        servable.phases = LoadPhases(Fetched(3_000_000, 1.5), 0.25, 2.0)
        return servable

    disk = DiskCache(tmp_path, 1000)
    with stage(1, 2, make=make, disk=disk) as s:
        app = app_of(s)
        s.put(1, b"five!")
        with disk.lease(s.repository.find(1)):
            call(app, "POST", f"{MODEL}/versions/1:predict", ROWS)
        reply = call(app, "GET", "/v1/cache")
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        body = reply.body
        assert body["memory"].pop("rss") == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
        free = shutil.disk_usage(tmp_path).free
        assert body["disk"].pop("free") == pytest.approx(free, rel=0.2)
        assert body["disk"].pop("used") >= 5
        assert body == {
            "memory": {"budget": 100, "used": 1},
            "disk": {"budget": 1000},
            "models": {
                NAME: {
                    "error": None,
                    "versions": [
                        {
                            "version": "2",
                            "state": "AVAILABLE",
                            "where": {"bucket": True, "disk": False, "memory": False},
                            "bytes": {"storage": 0, "memory": 0},
                            "leases": 0,
                            "last_used": None,
                            "load": None,
                        },
                        {
                            "version": "1",
                            "state": "AVAILABLE",
                            "where": {"bucket": True, "disk": True, "memory": True},
                            "bytes": {"storage": 5, "memory": 1},
                            "leases": 0,
                            "last_used": "1970-01-12T13:47:00.000Z",
                            "load": {
                                "fetch": {"seconds": 1.5, "bytes": 3_000_000, "mb_per_second": 2.0},
                                "compile": {"seconds": 0.25},
                                "warm_up": {"seconds": 0.0},
                                "total": {"seconds": 2.0},
                            },
                        },
                    ],
                }
            },
        }


def test_the_cache_shows_what_is_loading_and_what_is_leaving(s: Stage, app: App) -> None:
    with s.server.lease(NAME), ThreadPoolExecutor(1) as pool:
        gate = s.loader.hold(1)
        loading = pool.submit(call, app, "POST", f"{MODEL}/versions/1:predict", ROWS)
        gate.wait_until_reached()
        s.remove(2)
        s.cache.retire(s.server._serving[NAME])
        leaving, coming = held(app)
        assert (leaving["version"], leaving["state"], leaving["leases"]) == ("2", "UNLOADING", 1)
        assert leaving["where"] == {"bucket": False, "disk": False, "memory": True}
        assert (coming["version"], coming["state"], coming["leases"]) == ("1", "LOADING", 1)
        assert coming["load"] is None
        gate.open()
        assert loading.result(PATIENCE).status == 200
    (there,) = held(app)
    seconds = {"compile": {"seconds": 0.25}, "warm_up": {"seconds": 0.0}, "total": {"seconds": 0.5}}
    assert there["load"] == {"fetch": None, **seconds}


def test_the_cache_shows_what_has_only_just_appeared(s: Stage, app: App) -> None:
    held(app)
    s.storage.blobs["3/model.xml"] = b""
    s.look()
    assert held(app)[0] == {
        "version": "3",
        "state": "START",
        "where": {"bucket": True, "disk": False, "memory": False},
        "bytes": {"storage": None, "memory": 0},
        "leases": 0,
        "last_used": None,
        "load": None,
    }


def test_the_cache_is_shown_without_the_versions_of_a_storage_that_is_away(s: Stage, app: App) -> None:
    s.break_storage(StorageUnavailable("s3://secret-bucket: AccessDenied"))
    reply = call(app, "GET", "/v1/cache")
    assert reply.status == 200
    assert reply.body["models"][NAME]["versions"] == []
    assert "storage cannot be read" in reply.body["models"][NAME]["error"]
    assert b"secret" not in reply.content


def test_looking_at_the_cache_loads_nothing_and_tells_no_places(s: Stage, app: App) -> None:
    reply = call(app, "GET", "/v1/cache")
    assert s.loader.loads == []
    assert b"memory:" not in reply.content
    assert b"/nowhere" not in reply.content


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("POST", "/v1/models/other:predict", "Servable not found for request: Latest(other)"),
        ("POST", "/v1/models/other/versions/3:predict", "Servable not found for request: "),
        ("POST", f"{MODEL}/versions/3:predict", f"Servable not found for request: Specific({NAME}, 3)"),
        ("POST", f"{MODEL}/versions/{10**18}:predict", f"Servable not found for request: Specific({NAME}, {10**18})"),
        ("GET", "/v1/models/other", "other"),
        ("GET", f"{MODEL}/versions/3", f"Could not find version 3 of model {NAME}"),
        ("GET", "/v1/models/other/metadata", "Servable not found for request: Latest(other)"),
        ("GET", f"{MODEL}/versions/3/metadata", f"Servable not found for request: Specific({NAME}, 3)"),
    ],
)
def test_what_is_not_there_is_404(app: App, s: Stage, method: str, path: str, message: str) -> None:
    reply = call(app, method, path, ROWS if method == "POST" else b"")
    assert reply.status == 404
    assert message in reply.error
    assert s.loader.loads == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The document is empty"),
        (b"{", "JSON Parse error"),
        (b"\xff", "JSON Parse error"),
        (b"[" * MAX_BODY, "JSON Parse error"),
        (b"[1]", "Is not object"),
        (b'{"instance": [1]}', "Missing 'inputs' or 'instances' key"),
        (b'{"instances": []}', "No values in 'instances' array"),
        (b'{"instances": ["a"]}', "is not of expected type: float"),
        (b'{"instances": [[1], [2, 3]]}', "Expecting tensor size: 1 but got: 2"),
        (b'{"instances": [{"z": 1}]}', "does not have named input: z"),
        (b'{"instances": [[1], [2]]}', "(2, 1)"),
        (b'{"signature_name": "none", "instances": [1]}', 'Serving signature name: "none" not found in signature def'),
        (b'{"signature_name": "\\ud800", "instances": [1]}', "JSON Parse error"),
        (b'{"inputs": 1}', "()"),
    ],
)
def test_a_bad_body_is_400_with_what_is_wrong_with_it(app: App, body: bytes, message: str) -> None:
    reply = call(app, "POST", PREDICT, body)
    assert reply.status == 400
    assert message in reply.error
    assert "retry-after" not in reply.headers


def test_a_bad_body_is_400_whatever_the_model_and_loads_nothing(app: App, s: Stage) -> None:
    for body in (b"", b"{", b'{"signature_name": 1, "instances": [1]}', b"[1]"):
        assert call(app, "POST", "/v1/models/other:predict", body).status == 400
        assert call(app, "POST", PREDICT, body).status == 400
    assert s.loader.loads == []


@pytest.mark.parametrize(("method", "path", "target"), TARGETS)
def test_what_a_url_asks_for_is_answered(method: str, path: str, target: Target) -> None:
    name, version, label = target.name or NAME, target.version or 1, target.label
    version = 0 if target.version == 0 else version
    with stage(version, name=name) as s:
        s.server.configure({name: s.repository}, {name: {label: version}} if label else {})
        reply = call(app_of(s), method, path, ROWS if target.verb == "predict" else b"")
    if target.verb == "predict":
        assert reply.body["predictions"][0] == {"y": 2.5, "version": version}
    elif target.verb == "status":
        assert statuses(reply) == {str(version): "AVAILABLE"}
    elif target.verb == "metadata":
        assert reply.body["model_spec"] == {"name": name, "signature_name": "", "version": str(version)}
    elif target.verb == "coldstart":
        assert (reply.status, reply.headers["content-type"], bool(reply.body)) == (200, "application/json", True)
    elif target.verb == "coldstart.svg":
        assert (reply.status, reply.headers["content-type"], reply.content[:4]) == (200, "image/svg+xml", b"<svg")
    elif target.verb == "cache":
        assert reply.body["models"].keys() == {name}
    elif target.verb == "config":
        assert reply.body.keys() == {name}
    elif target.verb == "reload":
        assert (reply.status, reply.error) == (501, "this server has no configuration that could be reloaded")
    else:
        assert (reply.status, reply.error[:16]) == (400, "JSON Parse error")


@pytest.mark.parametrize(("method", "path"), MALFORMED)
def test_a_malformed_url_is_400(app: App, s: Stage, method: str, path: str) -> None:
    reply = call(app, method, path, ROWS if method == "POST" else b"")
    assert reply.status == 400
    assert reply.headers.keys() == {"content-type", "content-length"}
    if method == "HEAD":
        assert reply.content == b""
    else:
        assert reply.error == f"Malformed request: {method} {path}"
    assert s.loader.loads == []


@pytest.mark.parametrize("query", ["?", "?key=value", "?a=/v1/models/b:predict"])
def test_a_query_is_not_looked_at(app: App, query: str) -> None:
    assert call(app, "POST", PREDICT + query, ROWS).status == 200
    assert call(app, "GET", MODEL + query).status == 200
    assert call(app, "GET", f"{MODEL}/metadata{query}").body["model_spec"]["version"] == "2"


def test_a_label_means_its_version(s: Stage, app: App) -> None:
    s.server.configure({NAME: s.repository}, {NAME: {"stable": 1}})
    reply = call(app, "POST", f"{MODEL}/labels/stable:predict", b'{"instances": [1]}')
    assert reply.body == {"predictions": [{"y": 2.5, "version": 1}]}
    assert call(app, "GET", f"{MODEL}/labels/stable/metadata").body["model_spec"]["version"] == "1"
    # All versions, whatever the label, as TensorFlow Serving.
    for label in ("stable", "none"):
        assert statuses(call(app, "GET", f"{MODEL}/labels/{label}")).keys() == {"1", "2"}


@pytest.mark.parametrize(("method", "tail"), [("POST", ":predict"), ("POST", ":classify"), ("GET", "/metadata")])
def test_a_label_that_is_not_there_is_400(app: App, s: Stage, method: str, tail: str) -> None:
    body = b'{"instances": [1], "examples": [{"x": 1.0}]}'
    reply = call(app, method, f"{MODEL}/labels/none{tail}", body)
    assert reply.status == 400
    assert reply.error.startswith("Unrecognized servable version label: none")
    assert s.loader.loads == []


@pytest.mark.parametrize("verb", ["predict", "classify", "regress"])
def test_checks_are_made_in_tensorflow_servings_order(app: App, s: Stage, verb: str) -> None:
    bad_body, bad_signature = b"{", b'{"signature_name": "none", "instances": 1, "examples": [{"x": 1.0}]}'
    assert call(app, "POST", f"/v1/other:{verb}", bad_body).error.startswith("Malformed request")
    assert call(app, "POST", f"/v1/models/other:{verb}", bad_body).error.startswith("JSON Parse error")
    assert call(app, "POST", f"{MODEL}/labels/none:{verb}", bad_body).error.startswith("JSON Parse error")
    reply = call(app, "POST", f"/v1/models/other:{verb}", bad_signature)
    assert (reply.status, reply.error[:38]) == (404, "Servable not found for request: Latest")
    assert s.loader.loads == []
    reply = call(app, "POST", f"{MODEL}:{verb}", bad_signature)
    assert (reply.status, "none" in reply.error) == (400, True)


class Classifier(HalfPlusTwo):
    """Of two classes, by whether x is negative."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        outputs = {
            "scores": TensorSpec("scores", F32, (-1, 2)),
            "classes": TensorSpec("classes", np.dtype(object), (-1, 2)),
        }
        self.signatures = {DEFAULT_SIGNATURE: Signature({"x": TensorSpec("x", F32, (-1, 1))}, outputs)}

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        x = inputs["x"].ravel()
        scores = np.stack([x < 0, x >= 0], axis=1).astype(np.float32)
        return {"scores": scores, "classes": np.array([[b"below", b"above"]] * len(x), object)}


EXAMPLES = b'{"context": {"x": -1.0}, "examples": [{"x": 2.5}, {"y": 1}, {"x": [-4.0]}]}'


def test_examples_are_classified_and_regressed() -> None:
    with stage(1, make=Classifier) as s:
        reply = call(app_of(s), "POST", f"{MODEL}:classify", EXAMPLES)
        below, above = [["below", 1.0], ["above", 0.0]], [["below", 0.0], ["above", 1.0]]
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        assert reply.body == {"results": [above, below, below]}
        assert "regression" in call(app_of(s), "POST", f"{MODEL}:regress", EXAMPLES).error
    with stage(1, 2) as s:
        s.server.configure({NAME: s.repository}, {NAME: {"stable": 1}})
        for which in ("", "/versions/1", "/labels/stable"):
            reply = call(app_of(s), "POST", f"{MODEL}{which}:regress", EXAMPLES)
            assert (reply.status, reply.body) == (200, {"results": [3.25, 1.5, 0.0]})
        assert "classification" in call(app_of(s), "POST", f"{MODEL}:classify", EXAMPLES).error


class Timed(HalfPlusTwo):
    deadlines: ClassVar[list[float | None]] = []

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        self.deadlines.append(deadline)
        return super().predict(signature_name, inputs, deadline)


def test_the_time_of_a_request_runs_from_when_its_model_is_there() -> None:
    with stage(1, make=Timed) as s, ThreadPoolExecutor(1) as pool:
        app = app_of(s, timeout=30.0)
        gate = s.loader.hold(1)
        reply = pool.submit(call, app, "POST", PREDICT, ROWS)
        gate.wait_until_reached()
        loading = time.monotonic()
        gate.open()
        assert reply.result(PATIENCE).status == 200
        deadline = Timed.deadlines.pop()
        assert deadline is not None
        assert loading + 30 <= deadline <= time.monotonic() + 30
        # Without end, as TensorFlow Serving.
        assert call(app_of(s, timeout=0), "POST", PREDICT, ROWS).status == 200
        assert Timed.deadlines.pop() is None


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_compressed_body_is_read(app: App, coding: str) -> None:
    sent = COMPRESS[coding](ROWS)
    reply = call(app, "POST", PREDICT, [sent[:7], sent[7:]], headers={"content-encoding": coding})
    assert reply.body == call(app, "POST", PREDICT, ROWS).body


def test_a_body_that_does_not_inflate_is_400_and_loads_nothing(app: App, s: Stage) -> None:
    for path in (PREDICT, "/v1/models/other:predict"):
        reply = call(app, "POST", path, ROWS, headers={"content-encoding": "gzip"})
        assert reply.status == 400
        assert reply.error.startswith("JSON Parse error: The document is empty at offset: 0, as the body is not gzip")
    assert s.loader.loads == []


def test_a_body_may_inflate_to_so_much_and_no_more(app: App) -> None:
    for size, status in ((MAX_BODY, 200), (MAX_BODY + 1, 413), (1 << 24, 413)):
        sent = gzip.compress(ROWS + b" " * (size - len(ROWS)))
        reply = call(app, "POST", PREDICT, [sent[:MAX_BODY]], headers={"content-encoding": "gzip"})
        assert reply.status == status


class Wide(HalfPlusTwo):
    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        return {"y": np.arange(inputs["x"][0], dtype=np.float32)}


def test_a_large_answer_is_compressed_for_who_asks_for_it() -> None:
    with stage(1, make=Wide) as s:
        app = app_of(s)
        body = b'{"inputs": [10000]}'
        plain = call(app, "POST", PREDICT, body)
        assert plain.headers == {
            "content-type": "application/json",
            "content-length": str(len(plain.content)),
            "vary": "Accept-Encoding",
        }
        for accepted, coding, read in (
            ("gzip, deflate", "gzip", gzip.decompress),
            ("gzip, zstd", "zstd", zstandard.ZstdDecompressor().decompress),
        ):
            reply = call(app, "POST", PREDICT, body, headers={"accept-encoding": accepted})
            assert read(reply.content) == plain.content
            assert reply.headers == {
                "content-type": "application/json",
                "content-length": str(len(reply.content)),
                "content-encoding": coding,
                "vary": "Accept-Encoding",
            }
        small = call(app, "POST", PREDICT, b'{"inputs": [10]}', headers={"accept-encoding": "gzip"})
        assert small.headers.keys() == {"content-type", "content-length"}


CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "POST, GET",
    "access-control-allow-headers": "Content-Type, Inference-Header-Content-Length",
    "access-control-expose-headers": "Inference-Header-Content-Length",
}


@pytest.mark.parametrize("has_cors", [False, True])
def test_pages_of_other_origins_may_call_if_that_is_wanted(s: Stage, has_cors: bool) -> None:
    app = app_of(s, has_cors=has_cors)
    origin = {"origin": "https://a.example"}
    answers = [
        call(app, "POST", PREDICT, ROWS, headers=origin),
        call(app, "POST", PREDICT, b"{", headers=origin),
        call(app, "GET", "/v1/models/other"),
        call(app, "DELETE", MODEL),
        call(app, "OPTIONS", PREDICT, headers=origin),
        call(app, "OPTIONS", PREDICT),
    ]
    assert [reply.status for reply in answers] == [200, 400, 404, 400, 200, 400]
    for reply in answers:
        found = {name: value for name, value in reply.headers.items() if name.startswith("access-control-")}
        assert found == (CORS if has_cors else {})


@pytest.mark.parametrize(
    ("origin", "status"), [("http://a", 200), ("https://a:8080", 200), ("null", 400), ("", 400), ("ftp://a", 400)]
)
@pytest.mark.parametrize("path", [PREDICT, "/V1/nothing", "/v1/models"])
def test_options_are_answered_as_tensorflow_serving_does(app: App, origin: str, status: int, path: str) -> None:
    reply = call(app, "OPTIONS", path, headers={"origin": origin} if origin else {})
    assert (reply.status, reply.content) == (status, b"")


def test_a_head_of_what_tensorflow_serving_has_is_no_success(app: App) -> None:
    for path in (MODEL, PREDICT, f"{MODEL}/metadata"):
        assert 400 <= call(app, "HEAD", path).status < 500


def test_models_without_a_name_is_400(app: App) -> None:
    reply = call(app, "GET", "/v1/models")
    assert (reply.status, reply.error) == (400, "Missing model name in request.")


@pytest.mark.parametrize("path", ["/", "/V2", "/v20", "/v10/models/a", "/favicon.ico", "/V3", "//v1/models", "/\udcff"])
def test_anything_else_is_404(app: App, path: str) -> None:
    reply = call(app, "GET", path)
    assert reply.status == 404
    assert reply.error


def test_a_message_quotes_no_more_than_a_piece_of_the_url(app: App) -> None:
    for path in ("/v1/" + "a" * 60_000, "/" + "a" * 60_000, "/v1/models/" + "a" * 60_000):
        assert len(call(app, "GET", path).error) < 1000


@pytest.mark.parametrize(
    "name", ["a b", "ü", "模型", "a%b", "a?b#c", 'a"b', "a.b-c_d", "\U0001f600", "..", "%2F", "\t", "a/b", "a:b"]
)
def test_a_name_may_have_any_characters(name: str) -> None:
    with stage(1, name=name) as s:
        app = app_of(s)
        encoded = quote(name, safe="")
        assert call(app, "POST", f"/v1/models/{encoded}:predict", ROWS).status == 200
        assert call(app, "GET", f"/v1/models/{encoded}/metadata").body["model_spec"]["name"] == name
        assert call(app, "GET", f"/v1/models/{encoded}").status == 200


@pytest.mark.parametrize("name", ["%FF", "a%C3%28", "%ED%A0%80", "\udcff", "a\udc80b", "%00", "%0D%0Ax%3A y", "%"])
def test_a_name_that_is_no_text_is_not_found_and_does_no_harm(app: App, name: str) -> None:
    for method, path in (("POST", f"/v1/models/{name}:predict"), ("GET", f"/v1/models/{name}")):
        reply = call(app, method, path, ROWS)
        assert reply.status == 404
        assert reply.error
        assert reply.headers.keys() == {"content-type", "content-length"}


@pytest.mark.parametrize("size", [MAX_BODY, MAX_BODY + 1])
@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_body_may_be_so_large_and_no_larger(app: App, size: int, is_chunked: bool) -> None:
    body = ROWS + b" " * (size - len(ROWS))
    chunks = [body[i : i + 100] for i in range(0, size, 100)]
    reply = call(app, "POST", PREDICT, chunks if is_chunked else body)
    if size == MAX_BODY:
        assert reply.status == 200
    else:
        assert reply.status == 413
        assert str(MAX_BODY) in reply.error
        assert "--max_body_size" in reply.error


def test_a_body_that_says_it_is_too_large_is_413(app: App) -> None:
    assert call(app, "POST", PREDICT, b"x", headers={"content-length": str(MAX_BODY + 1)}).status == 413


def test_a_body_without_an_end_is_not_read_to_it(app: App) -> None:
    reply = call(app, "POST", PREDICT, [b"x" * 100] * 1000)
    assert reply.status == 413
    assert reply.chunks_read <= MAX_BODY // 100 + 1


def test_a_body_that_is_longer_than_it_says_is_413_too(app: App) -> None:
    assert call(app, "POST", PREDICT, b"x" * (MAX_BODY + 1), headers={"content-length": "5"}).status == 413


@pytest.mark.parametrize("declared", ["", "-1", "+5", "1e3", "five", "5.0", "\xb2", "0x10", "1_0"])
def test_a_length_that_is_no_number_is_400(app: App, declared: str) -> None:
    reply = call(app, "POST", PREDICT, ROWS, headers={"content-length": declared})
    assert reply.status == 400
    assert "Content-Length" in reply.error


def test_a_length_of_any_number_of_digits_is_a_number(app: App) -> None:
    assert call(app, "POST", PREDICT, ROWS, headers={"content-length": "9" * 5000}).status == 413
    assert call(app, "POST", PREDICT, [ROWS], headers={"content-length": f"{len(ROWS):025}"}).status == 200


def test_a_body_in_pieces_is_put_together(app: App) -> None:
    pieces = [ROWS[:5], b"", ROWS[5:6], ROWS[6:]]
    assert call(app, "POST", PREDICT, pieces).body == call(app, "POST", PREDICT, ROWS).body


UNAVAILABLE = [
    StorageUnavailable("no such bucket: models"),
    LoadFailed("Incorrect weights in bin file!"),
    LoadPending("still loading"),
    CacheFull("most by requests now"),
]


@pytest.mark.parametrize("error", UNAVAILABLE, ids=lambda error: type(error).__name__)
def test_what_may_be_over_soon_is_503_with_when_to_come_again(error: Exception) -> None:
    with stage(1) as s:
        s.loader.broken[1] = error
        app = app_of(s)
        for reply in (call(app, "POST", PREDICT, ROWS), call(app, "GET", f"{MODEL}/metadata")):
            assert reply.status == 503
            assert int(reply.headers["retry-after"]) >= 1
            assert public_message(error) in reply.error
            assert "bucket" not in reply.error


def test_a_model_that_will_never_fit_is_507() -> None:
    with stage(1) as s:
        s.loader.broken[1] = ModelTooLarge("1 needs 5 bytes; the whole budget is 4")
        reply = call(app_of(s), "POST", PREDICT, ROWS)
    assert (reply.status, reply.error) == (507, "1 needs 5 bytes; the whole budget is 4")
    assert "retry-after" not in reply.headers


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Overloaded("busy"), 503),
        (DeadlineExceeded("late"), 504),
        (InferenceFailed("engine"), 500),
        (Unsupported("labels"), 501),
    ],
)
def test_what_the_engine_says_is_passed_on(s: Stage, app: App, error: Exception, status: int) -> None:
    call(app, "POST", PREDICT, ROWS)
    s.loader.servables[2].bug = error
    reply = call(app, "POST", PREDICT, ROWS)
    assert (reply.status, reply.error) == (status, str(error))


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.exc_text or "" for record in caplog.records if record.exc_info]


def test_a_bug_is_500_shown_to_nobody_and_logged_once(s: Stage, app: App, caplog: pytest.LogCaptureFixture) -> None:
    call(app, "POST", PREDICT, ROWS)
    s.loader.servables[2].bug = ZeroDivisionError(SECRET)
    caplog.clear()
    reply = call(app, "POST", PREDICT, ROWS)
    assert (reply.status, reply.body) == (500, {"error": "internal error"})
    assert reply.headers == {"content-type": "application/json", "content-length": str(len(reply.content))}
    assert len(tracebacks(caplog)) == 1
    assert SECRET in caplog.text
    assert "HalfPlusTwo" not in reply.content.decode()
    # It was that request's trouble and nobody else's.
    s.loader.servables[2].bug = None
    assert call(app, "POST", PREDICT, ROWS).status == 200


def test_a_bug_while_loading_is_500_too(s: Stage, app: App, caplog: pytest.LogCaptureFixture) -> None:
    s.loader.broken[2] = ZeroDivisionError(SECRET)
    for method, path in (("POST", PREDICT), ("GET", f"{MODEL}/metadata")):
        caplog.clear()
        reply = call(app, method, path, ROWS)
        assert (reply.status, reply.body) == (500, {"error": "internal error"})
        assert len(tracebacks(caplog)) == 1


def test_the_clients_mistakes_are_not_logged_as_ours(app: App, caplog: pytest.LogCaptureFixture) -> None:
    call(app, "POST", PREDICT, b"{")
    call(app, "POST", "/v1/models/other:predict", ROWS)
    call(app, "POST", PREDICT, b"x" * (MAX_BODY + 1))
    call(app, "DELETE", MODEL)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_log_line_cannot_be_forged_by_a_path(s: Stage, app: App, caplog: pytest.LogCaptureFixture) -> None:
    s.loader.broken[2] = ZeroDivisionError(SECRET)
    with stage(1, name="a\nERROR forged") as forged:
        forged.loader.broken[1] = ZeroDivisionError(SECRET)
        call(app_of(forged), "POST", "/v1/models/a%0AERROR%20forged:predict", ROWS)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "\n" not in record.getMessage()


class NotFinite(HalfPlusTwo):
    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        return {"y": np.array([np.nan, np.inf, -np.inf], np.float32)}


def test_tokens_for_what_is_not_finite_go_in_and_out() -> None:
    with stage(1, make=NotFinite) as s:
        reply = call(app_of(s), "POST", PREDICT, b'{"instances": [NaN, Infinity, -Infinity]}')
    assert reply.content == b'{"predictions":[NaN,Infinity,-Infinity]}'


class Uneven(HalfPlusTwo):
    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        return {"y": np.zeros(2, np.float32), "version": np.zeros(3, np.int64)}


def test_outputs_that_have_not_a_row_for_each_row_are_400_in_rows_only() -> None:
    with stage(1, make=Uneven) as s:
        app = app_of(s)
        assert "inconsistent batch size" in call(app, "POST", PREDICT, ROWS).error
        assert call(app, "POST", PREDICT, COLUMNS).body == {"outputs": {"y": [0, 0], "version": [0, 0, 0]}}


@pytest.mark.parametrize(
    ("path", "is_ready", "status"),
    [
        ("/v2/health/live", False, 200),
        ("/v2/health/live", True, 200),
        ("/v2/health/ready", False, 503),
        ("/v2/health/ready", True, 200),
        ("/v2/health/live/", False, 200),
        ("/v2/health/ready/", False, 503),
        ("/v2/health/ready/", True, 200),
    ],
)
def test_health_is_asked_for_and_loads_nothing(s: Stage, path: str, is_ready: bool, status: int) -> None:
    reply = call(app_of(s, is_ready=lambda: is_ready), "GET", path)
    assert (reply.status, reply.body) == (status, {path.split("/")[3]: status == 200})
    assert s.loader.loads == []


def test_health_is_asked_anew_each_time(s: Stage) -> None:
    gate = Gate()
    app = app_of(s, is_ready=gate.opened.is_set)
    assert call(app, "GET", "/v2/health/ready").status == 503
    gate.open()
    assert call(app, "GET", "/v2/health/ready").status == 200


def statuses(reply: Reply) -> dict[str, str]:
    return {status["version"]: status["state"] for status in reply.body["model_version_status"]}


def test_a_request_waits_for_no_other_models_trouble(s: Stage, app: App) -> None:
    s.loader.broken[1] = LoadFailed("broken")
    assert call(app, "POST", f"{MODEL}/versions/1:predict", ROWS).status == 503
    assert call(app, "POST", PREDICT, ROWS).status == 200
    assert statuses(call(app, "GET", MODEL)) == {"1": "END", "2": "AVAILABLE"}


def test_more_requests_than_may_be_are_refused() -> None:
    with stage(1) as s:
        assert call(app_of(s, max_requests=0), "POST", PREDICT, ROWS).status == 503


def test_health_is_answered_to_head_and_nothing_redirects(app: App) -> None:
    assert call(app, "HEAD", "/v2/health/live").status == 200
    for path, status in (("/v2/health/live//", 404), ("/v2/health/", 404), ("/docs/", 404)):
        assert call(app, "GET", path).status == status
