"""``/v2`` by the contract, without a transport."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cv2 import IMREAD_UNCHANGED, imdecode
from numpy.typing import NDArray

from model_cache.errors import LoadFailed
from runtime.answers import Answer
from runtime.contract import QUICK_OUTPUTS, Call, Contract
from runtime.encodings import COMPRESS_FROM
from runtime.errors import DeadlineExceeded, InferenceFailed, TooManySequences
from runtime.servable import Tensors
from runtime.signature import TensorSpec
from tests.runtime import models
from tests.runtime.image_samples import by_opencv, picture
from tests.runtime.open_inference.requests import Mirror
from tests.runtime.open_inference.test_infer import Lent
from tests.runtime.servables import F32, NAME, HalfPlusTwo, Stage, finish_start, stage

MODEL = f"/v2/models/{NAME}"
INFER = f"{MODEL}/infer"
SIZE = "inference-header-content-length"
BINARY = "application/octet-stream"


@pytest.fixture(autouse=True)
def started() -> None:
    finish_start()


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(1, 2) as made:
        yield made


@pytest.fixture
def contract(s: Stage) -> Contract:
    return Contract(s.server, max_body=1 << 20)


def ask(contract: Contract, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    return contract.answer(method, path.encode(), {key.replace("_", "-"): text for key, text in headers.items()}, body)


def said(answer: Answer) -> str:
    """The message of an error, which has to be all there is."""
    assert answer.headers["content-type"] == "application/json"
    ((key, message),) = json.loads(answer.body).items()
    assert key == "error"
    return str(message)


def x(*values: float) -> bytes:
    """A request in JSON."""
    data = ",".join(str(value) for value in values)
    return b'{"id":"i","inputs":[{"name":"x","shape":[%d],"datatype":"FP32","data":[%b]}]}' % (
        len(values),
        data.encode(),
    )


def binary(array: NDArray[Any], name: str = "x", datatype: str = "FP32") -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a request whose input and outputs are binary."""
    raw = array.tobytes()
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "shape": array.shape,
                    "datatype": datatype,
                    "parameters": {"binary_data_size": len(raw)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    return head + raw, {SIZE: str(len(head))}


def outputs(answer: Answer) -> dict[str, Any]:
    """The values by name, of JSON or of what follows it."""
    assert answer.status == 200, answer.body
    size = int(answer.headers.get(SIZE, len(answer.body)))
    found, at = {}, size
    for output in json.loads(answer.body[:size])["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
        else:
            dtype = {"FP32": np.float32, "INT64": np.int64, "INT32": np.int32}[output["datatype"]]
            end = at + output["parameters"]["binary_data_size"]
            found[output["name"]] = np.frombuffer(answer.body[at:end], dtype).tolist()
            at = end
    assert at == len(answer.body)
    return found


def test_a_request_in_json_is_answered_so(contract: Contract) -> None:
    answer = ask(contract, "POST", f"{MODEL}/versions/1/infer", x(1, 2))
    assert answer.headers == {"content-type": "application/json"}
    assert json.loads(answer.body) == {
        "model_name": NAME,
        "model_version": "1",
        "id": "i",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2], "data": [2.5, 3]},
            {"name": "version", "datatype": "INT64", "shape": [2], "data": [1, 1]},
        ],
    }


def test_tensors_may_follow_the_json_both_ways(contract: Contract) -> None:
    body, headers = binary(np.array([1, 2], np.float32))
    answer = contract.answer("POST", INFER.encode(), headers, body)
    assert answer.headers["content-type"] == BINARY
    assert outputs(answer) == {"y": [2.5, 3], "version": [2, 2]}


def test_a_body_may_be_the_only_tensor_and_is_answered_so(contract: Contract) -> None:
    body = np.array([1, 2], np.float32).tobytes()
    answer = contract.answer("POST", INFER.encode(), {SIZE: "0"}, body)
    assert (answer.headers["content-type"], outputs(answer)) == (BINARY, {"y": [2.5, 3], "version": [2, 2]})


def test_a_body_is_no_tensor_for_a_model_of_several() -> None:
    with stage(1, make=lambda _: Mirror(TensorSpec("a", F32, (-1,)), TensorSpec("b", F32, (-1,)))) as s:
        answer = contract_of(s).answer("POST", INFER.encode(), {SIZE: "0"}, b"1234")
    assert answer.status == 400
    assert "Inference-Header-Content-Length is 0" in said(answer)
    assert "{a,b}" in said(answer)


def contract_of(s: Stage, **options: Any) -> Contract:
    return Contract(s.server, max_body=1 << 20, **options)


def test_the_header_counts_bytes_of_what_was_sent_encoded(contract: Contract) -> None:
    body, headers = binary(np.array([1, 2], np.float32))
    answer = contract.answer("POST", INFER.encode(), {**headers, "content-encoding": "gzip"}, gzip.compress(body))
    assert outputs(answer)["y"] == [2.5, 3]


@pytest.mark.parametrize(
    "declared", ["", "-1", "+1", "1.0", " 1", "1,1", "0x10", "one", "1" * 19, "\u0661", "\xb2", "1" * 100_000]
)
def test_a_header_that_is_no_number_is_refused_before_the_body(contract: Contract, declared: str) -> None:
    answer = contract.begin("POST", INFER.encode(), {SIZE: declared})
    assert isinstance(answer, Answer)
    assert answer.status == 400
    assert "Inference-Header-Content-Length" in said(answer)
    assert len(said(answer)) < 400


@pytest.mark.parametrize("size", ["1", "5", "9" * 18, "000005"])
def test_a_header_that_does_not_fit_the_body_is_the_clients_fault(contract: Contract, size: str) -> None:
    assert contract.answer("POST", INFER.encode(), {SIZE: size}, x(1)).status == 400


def test_only_infer_looks_at_the_header(contract: Contract) -> None:
    assert contract.answer("GET", MODEL.encode(), {SIZE: "x"}, b"").status == 200


@pytest.mark.parametrize("accepted", ["", "gzip"])
def test_json_is_compressed_for_who_likes_it_and_tensors_are_not(contract: Contract, accepted: str) -> None:
    array = np.zeros(COMPRESS_FROM, np.float32)
    body, headers = binary(array)
    answer = contract.answer("POST", INFER.encode(), {**headers, "accept-encoding": accepted}, body)
    assert "content-encoding" not in answer.headers
    assert outputs(answer)["y"] == [2] * COMPRESS_FROM
    answer = contract.answer("POST", INFER.encode(), {"accept-encoding": accepted}, x(*array))
    assert answer.headers.get("content-encoding", "") == accepted
    content = gzip.decompress(answer.body) if accepted else answer.body
    assert json.loads(content)["outputs"][0]["data"] == [2] * COMPRESS_FROM


def test_large_tensors_are_written_from_where_they_are(contract: Contract) -> None:
    body, headers = binary(np.zeros(50_000, np.float32))
    call = contract.begin("POST", INFER.encode(), headers)
    assert isinstance(call, Call)
    with closing(call):
        assert call.take(len(body)) is None
        answer = call.answer(body)
    assert [len(piece) for piece in answer.tail] == [200_000, 400_000]
    assert answer.size == len(answer.body) + 600_000
    assert str(len(answer.body)) == answer.headers[SIZE]


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v2/nothing", 404, None),
        ("POST", "/v2/models/a/labels/b/infer", 404, None),
        ("POST", "/v2", 405, "GET, HEAD"),
        ("GET", INFER, 405, "POST"),
        ("PUT", INFER, 405, "POST"),
        ("GET", "/v2/repository/index", 405, "POST"),
        ("POST", "/v2/models/other/infer", 404, None),
        ("POST", f"{MODEL}/versions/9/infer", 404, None),
        ("POST", f"{MODEL}/versions/{'9' * 30}/infer", 400, None),
        ("GET", "/v2/models/other", 404, None),
        ("GET", "/v2/models/other/ready", 404, None),
        ("GET", "/v2/models/other/stats", 404, None),
        ("POST", "/v2/repository/models/other/load", 404, None),
        ("POST", "/v2/repository/models/other/unload", 404, None),
    ],
)
def test_what_there_is_not(contract: Contract, method: str, path: str, status: int, allow: str | None) -> None:
    answer = ask(contract, method, path, x(1) if path.endswith("infer") else b"")
    assert (answer.status, answer.headers.get("allow")) == (status, allow)
    assert said(answer)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"{", "JSON Parse error: Missing a name for object member. at offset: 1"),
        (b"[]", "JSON Value: [] Is not object"),
        (b'{"inputs":[]}', "missing inputs: 'inputs' are []; want a list of one or more"),
        (b'{"inputs":[{"name":"x","shape":[-1],"datatype":"FP32","data":[1]}]}', "input 'x' has shape (-1,); want"),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP99","data":[1]}]}', 'the datatype "FP99"; want one of'),
    ],
)
def test_a_body_that_makes_no_sense_loads_no_model(contract: Contract, s: Stage, body: bytes, text: str) -> None:
    answer = ask(contract, "POST", INFER, body)
    assert answer.status == 400
    assert text in said(answer)
    assert s.loader.loads == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"inputs":[{"name":"z","shape":[1],"datatype":"FP32","data":[1]}]}', "Required input: x"),
        (b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1]}]}', "input 'x'"),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT32","data":[1]}]}', "Expected: FP32; Actual: INT32"),
        (b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}]}', "Actual: (1,1); input name: x"),
        (
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}],"outputs":[{"name":"z"}]}',
            "output 'z' is none of the model's",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_the_clients_fault(contract: Contract, body: bytes, text: str) -> None:
    answer = ask(contract, "POST", INFER, body)
    assert answer.status == 400
    assert text in said(answer)


@pytest.mark.parametrize(
    ("bug", "status"),
    [
        (InferenceFailed("it broke"), 500),
        (DeadlineExceeded("too late"), 504),
        (TooManySequences("as many as may be"), 503),
        (ValueError("secret"), 500),
    ],
)
def test_what_fails_has_its_status(contract: Contract, s: Stage, bug: Exception, status: int) -> None:
    ask(contract, "POST", INFER, x(1))
    s.loader.servables[2].bug = bug
    answer = ask(contract, "POST", INFER, x(1))
    assert answer.status == status
    assert ("retry-after" in answer.headers) is (status == 503)
    assert said(answer) == ("internal error" if isinstance(bug, ValueError) else str(bug))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_may_be_read(contract: Contract, method: str, s: Stage) -> None:
    def read(path: str) -> Any:
        answer = ask(contract, method, path)
        assert answer.status == 200
        return json.loads(answer.body)

    assert read("/v2")["name"] == "decant"
    assert read(f"{MODEL}/ready") == {"name": NAME, "ready": True}
    assert s.loader.loads == []
    assert read(MODEL)["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1]}]
    assert read(f"{MODEL}/versions/1")["versions"] == ["1", "2"]
    assert read(f"{MODEL}/versions/1/config")["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}]
    ask(contract, "POST", INFER, x(1, 2, 3))
    for path, versions in (
        ("/v2/models/stats", ["1", "2"]),
        (f"{MODEL}/stats", ["1", "2"]),
        (f"{MODEL}/versions/2/stats", ["2"]),
    ):
        rows = read(path)["model_stats"]
        assert [row["version"] for row in rows] == versions
        assert (rows[-1]["inference_count"], rows[-1]["inference_stats"]["success"]["count"]) == (3, 1)


def test_a_version_that_cannot_be_loaded_is_not_ready(contract: Contract, s: Stage) -> None:
    s.loader.broken[2] = LoadFailed("it is broken")
    assert ask(contract, "POST", f"{MODEL}/versions/2/infer", x(1)).status == 503
    answer = ask(contract, "GET", f"{MODEL}/versions/2/ready")
    assert (answer.status, said(answer)) == (503, f"{NAME}/2 is UNAVAILABLE: it is broken")
    assert answer.headers["retry-after"] == "1"
    assert ask(contract, "GET", f"{MODEL}/ready").status == 200


def test_models_are_listed_and_leave_and_come(contract: Contract, s: Stage) -> None:
    rows = json.loads(ask(contract, "POST", "/v2/repository/index").body)
    assert [(row["name"], row["version"], row["state"]) for row in rows] == [(NAME, "2", "READY"), (NAME, "1", "READY")]
    answer = ask(contract, "POST", f"/v2/repository/models/{NAME}/load", b'{"parameters":{}}')
    assert json.loads(answer.body) == {"name": NAME, "load": True}
    assert s.loader.loads == [2]
    answer = ask(contract, "POST", f"/v2/repository/models/{NAME}/unload")
    assert json.loads(answer.body) == {"name": NAME, "unload": True}
    assert s.server.peek(NAME) is None
    assert ask(contract, "POST", INFER, x(1)).status == 200
    answer = ask(contract, "POST", f"/v2/repository/models/{NAME}/load", b'{"parameters":{"config":"{}"}}')
    assert answer.status == 400


def test_clients_may_be_kept_from_that(contract: Contract, s: Stage) -> None:
    s.server.is_controlled = False
    for verb in ("load", "unload"):
        answer = ask(contract, "POST", f"/v2/repository/models/{NAME}/{verb}")
        assert (answer.status, "is not allowed" in said(answer)) == (400, True)
    assert s.loader.loads == []
    assert ask(contract, "POST", "/v2/repository/index").status == 200
    assert "model_repository" not in json.loads(ask(contract, "GET", "/v2").body)["extensions"]


def test_a_model_that_is_still_loading_is_told_to_come_again(contract: Contract, s: Stage) -> None:
    gate = s.loader.hold(2)
    for method, path in (("POST", INFER), ("GET", MODEL)):
        answer = contract.answer(method, path.encode(), {}, x(1), until=0.0)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert said(answer).startswith(f"{NAME}/2 is still loading after ")
    gate.open()
    assert ask(contract, "POST", INFER, x(1)).status == 200
    assert s.loader.loads == [2]


class Quick(HalfPlusTwo):
    is_quick = True


def answer_if_quick(contract: Contract, body: bytes, **headers: str) -> tuple[Answer | None, Answer]:
    """Return the answer that was to be had at once, and the one that there was in the end."""
    call = contract.begin("POST", INFER.encode(), headers)
    assert isinstance(call, Call)
    with closing(call):
        assert call.take(len(body)) is None
        quick = call.answer_if_quick(body)
        return quick, quick or call.answer(body)


@pytest.mark.parametrize(
    ("rows", "is_quick"),
    # An output of four bytes and one of eight for each.
    [(1, True), (QUICK_OUTPUTS // 12, True), (QUICK_OUTPUTS // 12 + 1, False)],
)
@pytest.mark.parametrize("is_binary", [False, True])
def test_small_requests_to_quick_models_are_answered_at_once(rows: int, is_quick: bool, is_binary: bool) -> None:
    array = np.arange(rows).astype(np.float32)
    body, headers = binary(array) if is_binary else (x(*array), {})
    with stage(1, make=Quick) as s:
        contract = contract_of(s)
        assert answer_if_quick(contract, body, **headers)[0] is None
        quick, answer = answer_if_quick(contract, body, **headers)
        assert (quick is not None) is is_quick
        assert outputs(answer.joined())["y"] == (array / 2 + 2).tolist()
        # What is not sound is known at once.
        bad, _ = answer_if_quick(contract, b"{")
        assert bad is not None
        assert bad.status == 400


def test_images_wait_for_nobody() -> None:
    pixels = picture(3, height=4, width=5)
    spec = TensorSpec("x", np.dtype(np.uint8), (-1, 4, 5, 3), "NHWC")
    file = by_opencv(".png", pixels)
    head = b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":%d}}]}' % (
        len(file) + 4
    )
    body, headers = head + len(file).to_bytes(4, "little") + file, {SIZE: str(len(head))}
    with stage(1, make=lambda _: Mirror(spec)) as s:
        contract = contract_of(s)
        assert contract.answer("POST", INFER.encode(), headers, body).status == 200
        s.loader.servables[1].is_quick = True
        quick, answer = answer_if_quick(contract, body, **headers)
        assert quick is None
        assert outputs(answer)["x_out"] == pixels.reshape(-1).tolist()


@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp"])
def test_a_body_may_be_nothing_but_an_image(extension: str, tmp_path: Path) -> None:
    """``curl -H 'Inference-Header-Content-Length: 0' --data-binary @cat.jpg``, as the documentation has it."""
    file = by_opencv(extension, picture(3, height=4, width=5))
    pixels = np.asarray(imdecode(np.frombuffer(file, np.uint8), IMREAD_UNCHANGED), np.float32)
    with (
        models.serving(models.doubler(shape=(-1, 4, 5, 3)), tmp_path) as servable,
        stage(1, make=lambda _: Lent(servable)) as s,
    ):
        for body in (file, pixels.tobytes()):
            for _ in range(2):
                _, answer = answer_if_quick(contract_of(s), body, **{SIZE: "0"})
                assert answer.headers["content-type"] == BINARY
                assert outputs(answer.joined()) == {"y": (pixels * 2).reshape(-1).tolist()}
        answer = contract_of(s).answer("POST", INFER.encode(), {SIZE: "0"}, file[:100])
        assert (answer.status, "Image parsing failed: image 0 of input 'x'" in said(answer)) == (400, True)


def test_classes_wait_for_nobody() -> None:
    body = x(1, 2)[:-1] + b',"outputs":[{"name":"y","parameters":{"classification":1}}]}'
    with stage(1, make=Quick) as s:
        contract = contract_of(s)
        assert ask(contract, "POST", INFER, x(1)).status == 200
        assert answer_if_quick(contract, x(1))[0] is not None
        quick, answer = answer_if_quick(contract, body)
        assert (quick, outputs(answer)) == (None, {"y": ["3.0:1"]})


class Hesitant(Quick):
    """Is slower than it has been, once."""

    calls = 0

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        self.calls += 1
        if self.calls == 2:
            raise DeadlineExceeded("it was not quick")
        return super().predict(signature_name, inputs, deadline)


def test_what_was_not_quick_is_begun_again_and_has_not_failed() -> None:
    with stage(1, make=Hesitant) as s:
        contract = contract_of(s)
        assert ask(contract, "POST", INFER, x(1)).status == 200
        quick, answer = answer_if_quick(contract, x(1))
        assert (quick, answer.status, s.loader.servables[1].calls) == (None, 200, 3)
        (row,) = json.loads(ask(contract, "GET", f"{MODEL}/stats").body)["model_stats"]
        stats = row["inference_stats"]
        assert (stats["success"]["count"], stats["fail"]["count"]) == (2, 0)


def test_pages_of_other_origins_may_send_and_read_tensors(s: Stage) -> None:
    contract = contract_of(s, has_cors=True)
    origin = {"origin": "https://a.example"}
    body, headers = binary(np.array([1], np.float32))
    for answer in (
        contract.answer("OPTIONS", INFER.encode(), origin, b""),
        contract.answer("POST", INFER.encode(), {**origin, **headers}, body),
        contract.answer("GET", b"/v2/nothing", origin, b""),
    ):
        assert "Inference-Header-Content-Length" in answer.headers["access-control-allow-headers"]
        assert answer.headers["access-control-expose-headers"] == "Inference-Header-Content-Length"


def test_each_of_many_threads_has_the_answer_to_its_own_rows(tmp_path: Path) -> None:
    with models.serving(models.doubler(), tmp_path) as servable, stage(1, make=lambda _: Lent(servable)) as s:
        contract = contract_of(s)

        def check(number: int) -> None:
            rows = np.random.default_rng(number).integers(-1000, 1000, (1 + number % 7, 2)).astype(np.float32)
            if number % 2:
                body, headers = binary(rows)
            else:
                tensor = {"name": "x", "shape": rows.shape, "datatype": "FP32", "data": rows.tolist()}
                body, headers = json.dumps({"inputs": [tensor]}).encode(), {}
            quick, answer = answer_if_quick(contract, body, **headers)
            assert outputs((quick or answer).joined()) == {"y": (rows * 2).reshape(-1).tolist()}

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(check, range(300)))
