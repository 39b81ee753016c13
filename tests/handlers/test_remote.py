"""`decant predict` and a server: each protocol over each transport answers what the model itself does."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

from handlers.one_shot import predict
from handlers.remote import Protocol, Remote, Transport, ask, is_of_v2, remote_of
from handlers.settings import SettingsError, read_settings
from handlers.tls import Tls
from model_cache.errors import StorageUnavailable
from runtime.codecs import schema as tfs
from runtime.codecs.schema import open_inference as schema
from runtime.errors import InferenceError, InvalidRequest
from runtime.servable import Tensors
from runtime.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from runtime.stateful_servable import CONTROL, ID
from tests.conftest import DIGITS
from tests.handlers import grpc_front, http_front
from tests.handlers.test_cli import decant
from tests.runtime.image_samples import by_opencv, picture
from tests.runtime.servables import NAME, HalfPlusTwo, Stage, stage
from tests.servers.certificate import write_certificate
from tests.servers.decant import decant_serve
from tests.servers.processes import free_port

SEVEN = json.loads((DIGITS / "seven.json").read_bytes())["instances"]
TFS: dict[str, Any] = {"instances": SEVEN}
V2: dict[str, Any] = {"inputs": [{"name": "image", "shape": [1, 8, 8], "datatype": "FP32", "data": SEVEN}]}
F16, F32, I64, U8, TEXT = (np.dtype(name) for name in ("float16", "float32", "int64", "uint8", "object"))


@pytest.fixture(autouse=True)
def _of_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is asked over gRPC sets it for its process, which here goes on.
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")


class Kinds(HalfPlusTwo):
    """Answers what it was sent: numbers of several kinds, text, pixels, and which sequence it was."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        inputs = {"half": (F16, (-1,)), "long": (I64, (-1,)), "text": (TEXT, (-1,)), "pixels": (U8, (-1, 37, 53, 3))}
        specs = {name: TensorSpec(name, dtype, shape) for name, (dtype, shape) in inputs.items()}
        number = TensorSpec("sequence_id", ID.dtype, (1,))
        special = {ID.name: ID, CONTROL.name: CONTROL}
        self.signatures = {DEFAULT_SIGNATURE: Signature(specs, specs, "", special, {number.name: number})}

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        return {"sequence_id": np.zeros(1, np.uint64), **inputs}


class Served(NamedTuple):
    http: str
    grpc: str


@contextmanager
def serving(s: Stage) -> Iterator[Served]:
    port = free_port()
    with http_front.listening(s) as http, grpc_front.listening(s.server, port):
        yield Served(f"http://127.0.0.1:{http.port}", f"grpc://127.0.0.1:{port}")


@pytest.fixture
def kinds() -> Iterator[Served]:
    with stage(1, make=Kinds) as s, serving(s) as served:
        yield served


@pytest.fixture
def halves() -> Iterator[Served]:
    with stage(1, 2) as s, serving(s) as served:
        yield served


def asked(model: str, body: object, protocol: Protocol | None = None, version: int | None = None) -> Any:
    remote = remote_of(model, protocol, None)
    assert remote is not None
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return json.loads(ask(remote, version, content))


@pytest.mark.parametrize(
    ("model", "flags", "want"),
    [
        ("models/digits", (None, None), None),
        ("s3://bucket/v2/models/digits", ("v2", None), None),
        ("http://h:1/v1/models/m", (None, None), ("http://h:1/v1/models/m", "tfs", "http")),
        ("HTTPS://h/v2/models/m/", (None, None), ("HTTPS://h/v2/models/m", "v2", "http")),
        ("http://h:1/v2/models/m", ("v2", "http"), ("http://h:1/v2/models/m", "v2", "http")),
        # Behind a gateway's stage.
        ("http://h/v2/v1/models/m", (None, None), ("http://h/v2/v1/models/m", "tfs", "http")),
        ("http://h/v1/models/v2", (None, None), ("http://h/v1/models/v2", "tfs", "http")),
        ("http://h/v2/models/infer", (None, None), ("http://h/v2/models/infer", "v2", "http")),
        # As addresses are copied.
        ("http://h:1/v1/models/m:predict", (None, None), ("http://h:1/v1/models/m", "tfs", "http")),
        ("http://h:1/v2/models/m/infer", (None, None), ("http://h:1/v2/models/m", "v2", "http")),
        ("http://h:1/v2/models/m/versions/2/infer", (None, None), (
            "http://h:1/v2/models/m/versions/2", "v2", "http", "", "", False, True)),
        ("http://h:1/v1/models/m/labels/l", (None, None), (
            "http://h:1/v1/models/m/labels/l", "tfs", "http", "", "", False, True)),
        ("grpc://h:1/m", (None, None), ("grpc://h:1/m", "tfs", "grpc", "h:1", "m", False)),
        ("grpcs://[::1]:443/a%2Fb%40c", ("v2", "grpc"), (
            "grpcs://[::1]:443/a%2Fb%40c", "v2", "grpc", "[::1]:443", "a/b@c", True)),
    ],
)  # fmt: skip
def test_a_url_says_how_its_server_is_asked(
    model: str, flags: tuple[Protocol | None, Transport | None], want: Any
) -> None:
    assert remote_of(model, *flags) == (want and Remote(*want))


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("http://h:1/v1/models/m", ("v2", None), "protocol is v2, and http://h:1/v1/models/m is for tfs"),
        ("http://h:1/v2/models/m", ("tfs", None), "protocol is tfs, and http://h:1/v2/models/m is for v2"),
        ("http://h:1/v1/models/m", (None, "grpc"), "transport is grpc, and http://h:1/v1/models/m is for http"),
        ("grpcs://h:1/m", (None, "http"), "transport is http, and grpcs://h:1/m is for grpc"),
        ("http://h:1", (None, None), "cannot ask http://h:1: it is no model's"),
        ("http://h:1/v2", (None, None), "cannot ask http://h:1/v2: it is no model's"),
        ("http://h:1/v2/models/", (None, None), "cannot ask http://h:1/v2/models/: it is no model's"),
        ("http://h:1/v1/models/m:classify", (None, None), "cannot ask http://h:1/v1/models/m:classify: it is no"),
        ("http://h:1/v1/models/m/infer", (None, None), "cannot ask http://h:1/v1/models/m/infer: it is no model's"),
        ("http://h:1/v2/models/m/labels/l", (None, None), "cannot ask http://h:1/v2/models/m/labels/l: it is no"),
        ("http://h:1/m", ("v2", None), "cannot ask http://h:1/m: it is no model's"),
        ("http:///v1/models/m", (None, None), "cannot ask http:///v1/models/m: host or port is missing"),
        ("http://h:0/v1/models/m", (None, None), "cannot ask http://h:0/v1/models/m: host or port is missing"),
        ("http://h:99999/v1/models/m", (None, None), "cannot ask http://h:99999/v1/models/m: Port out of range"),
        ("localhost:8501/v2/models/m", (None, None), "localhost:8501/v2/models/m begins with a port and no scheme"),
        ("127.0.0.1:8500/m", (None, None), "127.0.0.1:8500/m begins with a port and no scheme"),
        ("models/digits", (None, "grpc"), "transport is grpc, and the model is no server"),
        ("http://me:hush@h/v1/models/m", (None, None), "the http:// URL has an @ in it"),
        ("http://me:hu/sh@h/v1/models/m", (None, None), "the http:// URL has an @ in it"),
        ("grpc://me:hush@h:1/m", (None, None), "the grpc:// URL has an @ in it"),
        ("https://h/v1/models/m?key=hush", (None, None), "the https:// URL has a query"),
        ("grpc://h:1/m#hush", (None, None), "the grpc:// URL has a query"),
        ("grpc://h/m", (None, None), "cannot ask grpc://h/m: host, port or name is missing"),
        ("grpc://h:1", (None, None), "cannot ask grpc://h:1: host, port or name is missing"),
        ("grpc://:1/m", (None, None), "cannot ask grpc://:1/m: host, port or name is missing"),
        ("grpc://h:0/m", (None, None), "cannot ask grpc://h:0/m: host, port or name is missing"),
        ("grpc://h:99999/m", (None, None), "cannot ask grpc://h:99999/m: Port out of range"),
        ("grpc://h:x/m", (None, None), "cannot ask grpc://h:x/m: Port could not be cast"),
        ("grpc://[/m", (None, None), "cannot ask grpc://[/m: "),
        ("grpc://h:1/%ff", (None, None), "cannot ask grpc://h:1/%ff: "),
    ],
)
def test_what_contradicts_itself_or_should_not_be_shown_is_a_usage_error(
    model: str, flags: tuple[Protocol | None, Transport | None], message: str
) -> None:
    with pytest.raises(SettingsError) as failure:
        remote_of(model, *flags)
    assert str(failure.value).startswith(message)
    assert "want http://HOST:PORT/v1/models/NAME" in str(failure.value)
    assert "hush" not in str(failure.value)
    assert "hu/sh" not in str(failure.value)


def test_the_command_answers_the_same_however_it_is_asked(tmp_path: Path) -> None:
    """Processes, as a user has them; what else there is to ask is asked in this one."""
    answers: dict[Protocol, list[Any]] = {"tfs": [], "v2": []}
    files: dict[Protocol, Path] = {}
    bodies: dict[Protocol, Any] = {"tfs": TFS, "v2": V2}
    for protocol, body in bodies.items():
        files[protocol] = tmp_path / f"{protocol}.json"
        files[protocol].write_text(json.dumps(body))
        settings = read_settings({"model_name": "digits", "model_path": str(DIGITS)})
        content = files[protocol].read_bytes()
        answers[protocol].append(json.loads(predict(settings, None, content, protocol)))
    with decant_serve(tmp_path, "--model_name", "digits", "--model_path", DIGITS) as server:
        over_grpc = f"grpc://{server.grpc_address}/digits"
        asked: list[tuple[Protocol, str, list[str]]] = [
            ("tfs", f"{server.rest_url}/v1/models/digits", []),
            ("tfs", over_grpc, []),
            ("v2", f"{server.rest_url}/v2/models/digits", ["--version", "1"]),
            ("v2", over_grpc, ["--protocol", "v2", "--transport", "grpc"]),
        ]
        for protocol, model, flags in asked:
            done = decant("predict", model, files[protocol], *flags)
            assert (done.returncode, done.stderr) == (0, b"")
            answers[protocol].append(json.loads(done.stdout))
    assert answers["tfs"][0]["predictions"][0]["digit"] == 7
    assert answers["v2"][0]["outputs"][0] == {"name": "digit", "datatype": "INT64", "shape": [1], "data": [7]}
    for given in answers.values():
        assert given[1:] == [given[0]] * 2


PIXELS = picture(3)
IMAGE = by_opencv(".png", PIXELS)
COLUMNS = {
    "half": [1.5, -2],
    "long": [2**63 - 1, -5],
    "text": ["a", {"b64": base64.b64encode(b"\xff").decode()}],
    "pixels": [{"b64": base64.b64encode(IMAGE).decode()}],
    "sequence_id": [7],
}


def test_over_grpc_numbers_are_of_the_dtypes_that_the_model_has(kinds: Served) -> None:
    answer = asked(f"{kinds.grpc}/{NAME}", {"inputs": COLUMNS})["outputs"]
    assert answer == asked(f"{kinds.http}/v1/models/{NAME}", {"inputs": COLUMNS})["outputs"]
    assert answer["long"] == [2**63 - 1, -5]
    assert answer["sequence_id"] == [7]
    assert answer["pixels"] == [PIXELS.tolist()]


V2_INPUTS: Sequence[dict[str, Any]] = [
    {"name": "half", "datatype": "FP16", "shape": [2], "data": [1.5, -2]},
    {"name": "long", "datatype": "INT64", "shape": [2], "data": [2**63 - 1, -5]},
    {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["ü"]},
    {"name": "pixels", "datatype": "UINT8", "shape": [1, 37, 53, 3], "data": PIXELS.ravel().tolist()},
]


def test_over_grpc_the_other_protocols_json_says_which_dtypes_they_are(kinds: Served) -> None:
    body = {
        "id": "mine",
        "parameters": {"binary_data_output": False, "sequence_id": 7, "priority": 2**63, "rate": 0.5, "by": "me"},
        "inputs": V2_INPUTS,
        "outputs": [
            {"name": "long", "parameters": {"binary_data": False, "classification": 1}},
            {"name": "half"},
            {"name": "text"},
        ],
    }
    answer = asked(f"{kinds.grpc}/{NAME}", body, "v2")
    assert answer == asked(f"{kinds.http}/v2/models/{NAME}", body)
    assert (answer["id"], answer["model_version"]) == ("mine", "1")
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    assert outputs == {"long": [f"{2**63 - 1}:0"], "half": [1.5, -2], "text": ["ü"], "sequence_id": [7]}


@pytest.mark.parametrize("protocol", ["tfs", "v2"])
def test_a_version_is_asked_for(protocol: Protocol, halves: Served) -> None:
    body: dict[str, Any] = {"inputs": [1.0]}
    if protocol == "v2":
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
    path = {"tfs": "v1", "v2": "v2"}[protocol]
    for model in (f"{halves.grpc}/{NAME}", f"{halves.http}/{path}/models/{NAME}"):
        for version in (1, 2):
            answer = asked(model, body, protocol, version)["outputs"]
            found = answer["version"] if protocol == "tfs" else answer[1]["data"]
            assert found == [version]
        with pytest.raises(InferenceError, match=r"answered (NOT_FOUND|404): .*Specific\(half_plus_two, 9\)"):
            asked(model, body, protocol, 9)
        chosen = f"{halves.http}/{path}/models/{NAME}/versions/2"
        answer = asked(chosen, body, protocol)["outputs"]
        assert (answer["version"] if protocol == "tfs" else answer[1]["data"]) == [2]
        with pytest.raises(
            SettingsError, match=r"version is 1, and http://\S+/versions/2 says which; want one of them"
        ):
            asked(chosen, body, protocol, 1)
    with pytest.raises(SettingsError, match=r"version is -1; want"):
        asked(f"{halves.grpc}/{NAME}", body, protocol, -1)


def test_another_signature_is_that_of_the_request(halves: Served) -> None:
    body = {"signature_name": "only_y", "instances": [1.0, 2.0]}
    assert asked(f"{halves.grpc}/{NAME}", body) == {"predictions": [2.5, 3.0]}
    body["signature_name"] = "other"
    with pytest.raises(InferenceError, match=r'Serving signature name: "other" not found'):
        asked(f"{halves.grpc}/{NAME}", body)


@pytest.mark.parametrize(
    ("protocol", "body", "message"),
    [
        ("tfs", b"no JSON", "JSON Parse error"),
        ("v2", b"no JSON", "JSON Parse error"),
        ("tfs", b'{"inputs": {"y": [1]}}', "Missing named input: x"),
        ("v2", b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [3], "data": [1]}]}', "'x'"),
        ("v2", b'{"inputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}]}', "not known {y}"),
        ("v2", b'{"inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}]}', "datatype INT8"),
    ],
)
def test_a_request_that_is_none_is_told_where_it_is_seen(
    protocol: Protocol, body: bytes, message: str, halves: Served
) -> None:
    path = {"tfs": "v1", "v2": "v2"}[protocol]
    for model in (f"{halves.grpc}/{NAME}", f"{halves.http}/{path}/models/{NAME}"):
        with pytest.raises(InferenceError) as failure:
            asked(model, body, protocol)
        assert message in str(failure.value)


def test_binary_tensors_are_not_printed(halves: Served) -> None:
    body: dict[str, Any] = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
    body["parameters"] = {"binary_data_output": True}
    with pytest.raises(InvalidRequest, match="binary tensors, which are not printed"):
        asked(f"{halves.http}/v2/models/{NAME}", body)
    # They are no others than these, over gRPC.
    assert asked(f"{halves.grpc}/{NAME}", body, "v2")["outputs"][0]["data"] == [2.5]
    body = {**V2, "parameters": {"binary_data_output": True}}
    settings = read_settings({"model_name": "a/b", "model_path": str(DIGITS)})
    with pytest.raises(InvalidRequest, match="binary tensors, which are not printed"):
        predict(settings, 1, json.dumps(body).encode(), "v2")


def test_tls_is_with_the_authorities_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = write_certificate(tmp_path, is_authority=True)
    port = free_port()
    tls = Tls(key.read_bytes(), certificate.read_bytes(), None)
    with stage(1) as s, grpc_front.listening(s.server, port, tls=tls):
        model, body = f"grpcs://127.0.0.1:{port}/{NAME}", {"instances": [1.0]}
        with pytest.raises(StorageUnavailable, match=rf"cannot reach grpcs://127.0.0.1:{port}/{NAME}: "):
            asked(model, body)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert asked(model, body)["predictions"][0]["y"] == 2.5


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "handlers.remote_grpc", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(
        StorageUnavailable, match=r"needs grpc, which is not installed; try: pip install 'decant\[grpc\]'"
    ):
        asked("grpc://h:1/m", TFS)


def test_a_server_that_is_not_there_is_told_in_one_line() -> None:
    model = f"grpc://127.0.0.1:{free_port()}/m"
    done = decant("predict", model, DIGITS / "seven.json")
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"decant: cannot reach {model}: ")


def test_a_request_of_the_other_protocol_is_told_how_to_be_sent(tmp_path: Path) -> None:
    (tmp_path / "v2.json").write_text(json.dumps(V2))
    done = decant("predict", DIGITS, tmp_path / "v2.json")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"; the request is one of v2; want --protocol v2, or the URL of /v2/models/NAME" in done.stderr


@pytest.mark.parametrize(
    ("body", "want"),
    [
        (json.dumps(V2).encode(), True),
        (json.dumps(TFS).encode(), False),
        (b'{"inputs": {"name": 1, "shape": 2, "datatype": 3}}', False),
        (b'{"inputs": [1]}', False),
        (b'{"inputs": []}', False),
        (b'{"inputs": [{"name": 1}]}', False),
        (b"[]", False),
        (b"no JSON", False),
        (b"\xff", False),
        (b"[" * 100_000, False),
    ],
)
def test_requests_of_the_other_protocol_have_tensors(body: bytes, want: bool) -> None:
    assert is_of_v2(body) is want


@contextmanager
def answering(content: bytes | grpc.StatusCode) -> Iterator[str]:
    """A gRPC server that answers each call with these bytes, or this error; yields its URL."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if isinstance(content, bytes):
            return content
        context.abort(content, "not \x1b[2J now")

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(1), [Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}/m"
    finally:
        server.stop(None).wait()


def response(*raw: bytes, **output: Any) -> bytes:
    message = schema.ModelInferResponse(model_name="m", model_version="3", raw_output_contents=raw)
    message.outputs.add(**{"name": "y", "datatype": "FP32", "shape": [1], **output})
    content: bytes = message.SerializeToString()
    return content


def metadata(signatures: bytes) -> bytes:
    message = tfs.GetModelMetadataResponse()
    message.metadata["signature_def"].value = signatures
    content: bytes = message.SerializeToString()
    return content


def complex_input() -> bytes:
    message = tfs.SignatureDefMap()
    message.signature_def["serving_default"].inputs["z"].dtype = 8
    content: bytes = message.SerializeToString()
    return content


SIGNATURES = complex_input()


@pytest.mark.parametrize(
    ("protocol", "answer", "message"),
    [
        ("tfs", b"\xff", "answered what is no GetModelMetadataResponse"),
        ("tfs", b"", "not found in signature def"),
        ("tfs", metadata(b"\xff"), "the server's metadata of m cannot be read"),
        ("tfs", metadata(SIGNATURES), r"input 'z' of the model is of DataType 8, which JSON has not"),
        ("v2", b"\xff", "answered what is no ModelInferResponse"),
        ("v2", response(b"\0\0\0"), "the server's answer cannot be read: .*'y' has 3 bytes; want 4"),
        ("v2", response(bytes(4), datatype="COMPLEX"), "the server's answer cannot be read: .*'y'.*COMPLEX"),
        ("v2", response(bytes(4), shape=[2**62]), "the server's answer cannot be read: .*'y'"),
        ("v2", response(bytes(4), bytes(4)), "the server's answer cannot be read: "),
    ],
)
def test_an_answer_that_is_none_is_the_servers_fault(protocol: Protocol, answer: bytes, message: str) -> None:
    body = TFS if protocol == "tfs" else V2
    with answering(answer) as model, pytest.raises(InferenceError, match=message) as failure:
        asked(model, body, protocol)
    assert not isinstance(failure.value, InvalidRequest)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND])
def test_an_error_that_a_server_answers_is_told_as_one(code: grpc.StatusCode) -> None:
    """UNAVAILABLE is also what there is where nobody answers."""
    with answering(code) as model, pytest.raises(InferenceError) as failure:
        asked(model, V2, "v2")
    assert str(failure.value) == f"{model} answered {code.name}: not \ufffd[2J now"


def test_an_answer_may_have_its_numbers_in_contents() -> None:
    """As those of MLServer have."""
    contents = schema.InferTensorContents(fp32_contents=[1.5])
    with answering(response(contents=contents)) as model:
        answer = asked(model, V2, "v2")
    assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.5]}]
