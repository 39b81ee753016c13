"""TensorFlow Serving's gRPC services on a real socket, asked with messages of the tests' own schema."""

from __future__ import annotations

import logging
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from model_cache.cache import ModelCache
from model_cache.errors import CacheFull, LoadFailed, LoadPending, ModelTooLarge, StorageUnavailable
from model_cache.local import LocalStorage
from model_cache.repository import ModelRepository, ModelVersion
from runtime import servicers
from runtime.codecs import schema
from runtime.errors import InferenceFailed, InvalidRequest, Overloaded, Unsupported
from runtime.servable import Servable
from runtime.server import ModelServer
from runtime.servicers import service_handlers
from runtime.signature import DEFAULT_SIGNATURE, Dtype, Signature, TensorSpec
from runtime.status import public_message
from tests.fakes import PATIENCE
from tests.runtime import models, oracle
from tests.runtime.codecs.specs import DTYPES, assert_same
from tests.runtime.servables import NAME, HalfPlusTwo, Stage, stage

SECRET = "the bug's own text"
X = np.array([1, 2, 5], np.float32)
MEBIBYTE = 1 << 20


class Client:
    """A client of the three methods there are, which speaks the tests' own schema."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def predict(self, request: Any) -> Any:
        return self.call("PredictionService/Predict", request, oracle.PredictResponse)

    def metadata(self, request: Any) -> Any:
        return self.call("PredictionService/GetModelMetadata", request, oracle.GetModelMetadataResponse)

    def status(self, request: Any) -> Any:
        return self.call("ModelService/GetModelStatus", request, oracle.GetModelStatusResponse)

    def call(self, method: str, request: Any, answer: Any) -> Any:
        wire = request if isinstance(request, bytes) else request.SerializeToString()
        path = f"/tensorflow.serving.{method}"
        send: Any = self._channel.unary_unary(path, response_deserializer=answer.FromString)
        return send(wire, timeout=PATIENCE)


@contextmanager
def served(server: ModelServer) -> Iterator[Client]:
    with ThreadPoolExecutor(8) as pool:
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        listening = grpc.server(pool, options=unlimited)
        listening.add_generic_rpc_handlers(tuple(service_handlers(server)))
        port = listening.add_insecure_port("127.0.0.1:0")
        listening.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=unlimited) as channel:
                yield Client(channel)
        finally:
            listening.stop(None).wait(PATIENCE)


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(1, 2) as made:
        yield made


@pytest.fixture
def client(s: Stage) -> Iterator[Client]:
    with served(s.server) as made:
        yield made


def request(
    *,
    name: str = NAME,
    version: int | None = None,
    signature: str = "",
    outputs: list[str] | None = None,
    **inputs: Any,
) -> Any:
    """A predict request; an input may be an array, which is written in typed fields, or a message."""
    made = oracle.PredictRequest(output_filter=outputs or [])
    made.model_spec.name = name
    made.model_spec.signature_name = signature
    if version is not None:
        made.model_spec.version.value = version
    for key, value in inputs.items():
        made.inputs[key].CopyFrom(oracle.typed(value) if isinstance(value, np.ndarray) else value)
    return made


def refusal(call: Any, message: Any) -> tuple[str, str]:
    """The name of the code and the details with which a call ends."""
    with pytest.raises(grpc.RpcError) as caught:
        call(message)
    error: Any = caught.value
    return error.code().name, error.details()


def test_predict_answers_and_says_who_answered(client: Client) -> None:
    answer = client.predict(request(x=X))
    assert_same(oracle.array(answer.outputs["y"]), X / 2 + 2)
    assert oracle.array(answer.outputs["version"]).tolist() == [2, 2, 2]
    assert set(answer.outputs) == {"y", "version"}
    assert answer.model_spec.name == NAME
    assert answer.model_spec.version.value == 2
    assert answer.model_spec.signature_name == "serving_default"


# Test code written for TensorFlow Serving looks into float_val.
def test_answers_are_in_the_typed_fields(client: Client) -> None:
    answer = client.predict(request(x=X))
    assert list(answer.outputs["y"].float_val) == [2.5, 3.0, 4.5]
    assert list(answer.outputs["version"].int64_val) == [2, 2, 2]
    assert [dim.size for dim in answer.outputs["y"].tensor_shape.dim] == [3]


def test_content_and_typed_fields_mean_the_same(client: Client) -> None:
    assert client.predict(request(x=oracle.content(X))) == client.predict(request(x=X))


def test_the_last_of_too_few_values_repeats(client: Client) -> None:
    proto = oracle.typed(X[:1])
    proto.tensor_shape.dim[0].size = 4
    assert oracle.array(client.predict(request(x=proto)).outputs["y"]).tolist() == [2.5] * 4


def test_unpacked_floats_are_read(client: Client) -> None:
    tensor = b"\x08\x01\x12\x04\x12\x02\x08\x02" + b"".join(b"\x2d" + struct.pack("<f", value) for value in (1, 2))
    entry = b"\x0a\x01x\x12" + bytes([len(tensor)]) + tensor
    wire = request().SerializeToString() + b"\x12" + bytes([len(entry)]) + entry
    assert oracle.array(client.predict(wire).outputs["y"]).tolist() == [2.5, 3.0]


def test_an_empty_batch_is_answered_with_one(client: Client) -> None:
    answer = client.predict(request(x=X[:0]))
    assert oracle.array(answer.outputs["y"]).shape == (0,)


def test_the_version_that_is_asked_for_answers(client: Client) -> None:
    answer = client.predict(request(x=X, version=1))
    assert answer.model_spec.version.value == 1
    assert oracle.array(answer.outputs["version"]).tolist() == [1, 1, 1]


def test_a_signature_is_named_and_named_in_the_answer(client: Client) -> None:
    answer = client.predict(request(x=X, signature="only_y"))
    assert set(answer.outputs) == {"y"}
    assert answer.model_spec.signature_name == "only_y"


def test_fields_that_are_not_known_are_ignored(client: Client) -> None:
    made = request(x=X)
    made.client_id = b"somebody"
    assert client.predict(made).outputs.keys() == {"y", "version"}


@pytest.mark.parametrize("outputs", [["y"], ["version"], ["version", "y"], []])
def test_the_outputs_that_are_asked_for_are_answered_with(client: Client, outputs: list[str]) -> None:
    assert set(client.predict(request(x=X, outputs=outputs)).outputs) == set(outputs or ["y", "version"])


def without_spec() -> Any:
    made = request(x=X)
    made.ClearField("model_spec")
    return made


def with_label(label: str) -> Any:
    made = request(x=X)
    made.model_spec.version_label = label
    return made


def shaped(*sizes: int) -> Any:
    proto = oracle.TensorProto(dtype=1, float_val=[1])
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    return proto


def broken_content() -> Any:
    proto = oracle.content(X)
    proto.tensor_content = b"three"
    return proto


REFUSED = [
    (without_spec(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    (request(name="", x=X), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    (request(name="other", x=X), "NOT_FOUND", "Servable not found for request: Latest(other)"),
    (request(version=7, x=X), "NOT_FOUND", f"Servable not found for request: Specific({NAME}, 7)"),
    (request(version=-1, x=X), "NOT_FOUND", f"Servable not found for request: Specific({NAME}, -1)"),
    (request(version=2**63 - 1, x=X), "NOT_FOUND", "Servable not found for request: "),
    (with_label("stable"), "INVALID_ARGUMENT", "Unrecognized servable version label: stable"),
    (request(signature="none", x=X), "FAILED_PRECONDITION", 'Serving signature key "none" not found.'),
    (request(), "INVALID_ARGUMENT", "input size does not match signature"),
    (request(x=X, z=X), "INVALID_ARGUMENT", "input size does not match signature"),
    (request(z=X), "INVALID_ARGUMENT", "input size does not match signature"),
    (request(x=X.astype(np.float64)), "INVALID_ARGUMENT", "input 'x' "),
    (request(x=X.reshape(1, 3)), "INVALID_ARGUMENT", "(1, 3)"),
    (request(x=oracle.TensorProto()), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (request(x=oracle.TensorProto(dtype=7, string_val=[b"a"])), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (request(x=shaped(-1)), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (request(x=shaped(2**40)), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (request(x=shaped(2**62, 2**62)), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (request(x=shaped(0, 2**62)), "INVALID_ARGUMENT", "x"),
    (request(x=broken_content()), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (request(x=X, outputs=["z"]), "INVALID_ARGUMENT", "output tensor alias not found in signature: z"),
    (request(x=X, outputs=["y", "y"]), "INVALID_ARGUMENT", "duplicate output tensor alias: y"),
]


@pytest.mark.parametrize(("message", "code", "details"), REFUSED)
def test_a_request_that_is_wrong_is_refused_with_why(client: Client, message: Any, code: str, details: str) -> None:
    given = refusal(client.predict, message)
    assert given[0] == code
    assert details in given[1]


# In bytes, as TensorFlow Serving's: gRPC sends each of those that is no ASCII as three, and refuses, now and then, what
# is longer than 8 KiB then.
@pytest.mark.parametrize("name", ["n" * 10_000, "模" * 5_000, "模" * 600, "\n" * 5_000])
def test_details_are_cut(client: Client, name: str) -> None:
    for _ in range(10):
        code, details = refusal(client.predict, request(name=name, x=X))
        assert code == "NOT_FOUND"
        assert details.startswith("Servable not found for request: Latest(")
        assert len(details.encode()) <= 1024 + len("...TRUNCATED")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageUnavailable("no such bucket: models"), "UNAVAILABLE"),
        (LoadFailed("Incorrect weights in bin file!"), "FAILED_PRECONDITION"),
        (LoadPending("still loading"), "UNAVAILABLE"),
        (CacheFull("most by requests now"), "UNAVAILABLE"),
        (ModelTooLarge("the whole budget is 4"), "RESOURCE_EXHAUSTED"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_model_that_cannot_be_loaded_says_why(error: Exception, code: str) -> None:
    with stage(1) as s, served(s.server) as client:
        s.loader.broken[1] = error
        assert refusal(client.predict, request(x=X)) == (code, public_message(error))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Overloaded("busy"), "UNAVAILABLE"),
        (InferenceFailed("engine"), "INTERNAL"),
        (Unsupported("strings"), "UNIMPLEMENTED"),
        (InvalidRequest("shapes"), "INVALID_ARGUMENT"),
    ],
)
def test_what_the_engine_says_is_passed_on(s: Stage, client: Client, error: Exception, code: str) -> None:
    client.predict(request(x=X))
    s.loader.servables[2].bug = error
    assert refusal(client.predict, request(x=X)) == (code, str(error))


def test_a_bug_is_internal_shown_to_nobody_and_logged_once(
    s: Stage, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.predict(request(x=X))
    s.loader.servables[2].bug = ZeroDivisionError(SECRET)
    caplog.clear()
    assert refusal(client.predict, request(x=X)) == ("INTERNAL", "internal error")
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert SECRET in caplog.text
    s.loader.servables[2].bug = None
    assert client.predict(request(x=X)).outputs


def test_the_clients_mistakes_are_not_logged_as_ours(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    for message, _, _ in REFUSED:
        refusal(client.predict, message)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def metadata_request(*fields: str, name: str = NAME, version: int | None = None) -> Any:
    made = oracle.GetModelMetadataRequest(metadata_field=fields)
    made.model_spec.name = name
    if version is not None:
        made.model_spec.version.value = version
    return made


def test_metadata_has_the_signatures_in_an_any(client: Client) -> None:
    answer = client.metadata(metadata_request("signature_def"))
    assert (answer.model_spec.name, answer.model_spec.version.value) == (NAME, 2)
    assert answer.model_spec.signature_name == ""
    assert list(answer.metadata) == ["signature_def"]
    packed = answer.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signatures = oracle.SignatureDefMap()
    assert packed.Unpack(signatures)
    assert set(signatures.signature_def) == {"serving_default", "only_y"}
    default = signatures.signature_def["serving_default"]
    assert default.method_name == "tensorflow/serving/predict"
    assert {name: (info.name, info.dtype) for name, info in default.outputs.items()} == {
        "y": ("y", oracle.data_type("DT_FLOAT")),
        "version": ("version", oracle.data_type("DT_INT64")),
    }
    assert [dim.size for dim in default.inputs["x"].tensor_shape.dim] == [-1]
    assert not default.inputs["x"].tensor_shape.unknown_rank


def test_metadata_is_that_of_the_version_asked_for(client: Client) -> None:
    assert client.metadata(metadata_request("signature_def", version=1)).model_spec.version.value == 1


@pytest.mark.parametrize(
    ("message", "code", "details"),
    [
        (oracle.GetModelMetadataRequest(metadata_field=["signature_def"]), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (metadata_request(), "INVALID_ARGUMENT", "must specify at least one metadata_field"),
        (metadata_request("signatures"), "INVALID_ARGUMENT", "Metadata field signatures is not supported"),
        (metadata_request("signature_def", "more"), "INVALID_ARGUMENT", "Metadata field more is not supported"),
        (metadata_request("signature_def", name="other"), "NOT_FOUND", "Latest(other)"),
        (metadata_request("signature_def", version=7), "NOT_FOUND", f"Specific({NAME}, 7)"),
    ],
)
def test_metadata_that_is_not_there_is_refused_with_why(client: Client, message: Any, code: str, details: str) -> None:
    given = refusal(client.metadata, message)
    assert given[0] == code
    assert details in given[1]


def status_request(*, name: str = NAME, version: int | None = None, label: str = "") -> Any:
    made = oracle.GetModelStatusRequest()
    made.model_spec.name = name
    if version is not None:
        made.model_spec.version.value = version
    if label:
        made.model_spec.version_label = label
    return made


def states(answer: Any) -> list[tuple[int, int, int, str]]:
    return [
        (status.version, status.state, status.status.error_code, status.status.error_message)
        for status in answer.model_version_status
    ]


AVAILABLE, END = 30, 50


def test_the_status_lists_versions_states_and_reasons(s: Stage, client: Client) -> None:
    s.loader.broken[2] = LoadFailed("Incorrect weights in bin file!")
    client.predict(request(x=X))
    all_of_them = [(2, END, 9, "Incorrect weights in bin file!"), (1, AVAILABLE, 0, "")]
    assert states(client.status(status_request())) == all_of_them
    assert states(client.status(status_request(version=1))) == all_of_them[1:]
    # A label is ignored here, also one that nobody knows.
    assert states(client.status(status_request(label="stable"))) == all_of_them


@pytest.mark.parametrize(
    ("message", "code", "details"),
    [
        (oracle.GetModelStatusRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (status_request(name=""), "INVALID_ARGUMENT", "ModelSpec"),
        (status_request(name="other"), "NOT_FOUND", "other"),
        (status_request(version=7), "NOT_FOUND", f"Could not find version 7 of model {NAME}"),
    ],
)
def test_a_status_that_is_not_there_is_refused_with_why(client: Client, message: Any, code: str, details: str) -> None:
    given = refusal(client.status, message)
    assert given[0] == code
    assert details in given[1]


def test_a_method_that_is_not_there_is_unimplemented(client: Client) -> None:
    for method in ("PredictionService/Classify", "ModelService/HandleReloadConfigRequest"):
        code, _ = refusal(lambda message, method=method: client.call(method, message, oracle.PredictResponse), b"")
        assert code == "UNIMPLEMENTED"


def test_a_request_that_is_no_message_harms_nobody(client: Client) -> None:
    code, _ = refusal(client.predict, b"\xff\xff\xff")
    assert code in ("INTERNAL", "INVALID_ARGUMENT")
    assert client.predict(request(x=X)).outputs


def test_concurrent_calls_get_their_own_answers(client: Client) -> None:
    start = threading.Barrier(8)

    def ask(number: int) -> bool:
        start.wait(PATIENCE)
        x = np.full(100 + number, number, np.float32)
        return all(
            np.array_equal(oracle.array(client.predict(request(x=x)).outputs["y"]), x / 2 + 2) for _ in range(10)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))


# A few bytes claim 256 MiB each. Those of no input that the model has, or of none that it could be, are not to be made.
@pytest.mark.parametrize(
    "inputs",
    [
        {"x": X, "a": shaped(64 * MEBIBYTE), "b": shaped(64 * MEBIBYTE)},
        {"x": shaped(64, MEBIBYTE)},
        {"x": oracle.TensorProto(dtype=2, double_val=[1], tensor_shape=shaped(32 * MEBIBYTE).tensor_shape)},
    ],
    ids=["unknown names", "the wrong rank", "the wrong dtype"],
)
def test_what_does_not_fit_the_signature_is_refused_before_it_takes_memory(s: Stage, inputs: dict[str, Any]) -> None:
    wire = request(**inputs).SerializeToString()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest):
            servicers.predict(s.server, schema.PredictRequest.FromString(wire))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MEBIBYTE


class Echo(HalfPlusTwo):
    """Answers with what it was given."""

    def __init__(self, version: int, dtype: Dtype) -> None:
        super().__init__(version)
        specs = {"x": TensorSpec("x", dtype, (-1, -1))}
        self.signatures = {DEFAULT_SIGNATURE: Signature(specs, specs)}

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        return {name: array.copy() for name, array in inputs.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_goes_both_ways(dtype: Dtype) -> None:
    array = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    with stage(1, make=lambda version: Echo(version, dtype)) as s, served(s.server) as client:
        for proto in (oracle.typed(array), oracle.content(array)):
            assert_same(oracle.array(client.predict(request(x=proto)).outputs["x"]), array)


@pytest.fixture(scope="module")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """A server of a real model, ``y = x + x`` with x f32 [-1, 1000]."""
    base = tmp_path_factory.mktemp("doubler")
    models.save(models.doubler(shape=(-1, 1000)), base)
    files = models.files_at(base)
    cache = ModelCache[ModelVersion, Servable](models.loader(files), 1 << 30)
    server = ModelServer({"doubler": ModelRepository("doubler", LocalStorage(base))}, cache, files)
    yield server
    server.close()


@pytest.mark.parametrize("written", [oracle.typed, oracle.content])
def test_a_real_model_computes_with_what_was_sent(doubling: ModelServer, written: Any) -> None:
    with served(doubling) as client, ThreadPoolExecutor(8) as pool:

        def ask(number: int) -> bool:
            x = np.arange(40_000, dtype=np.float32).reshape(40, 1000) % 7 + number
            answer = client.predict(request(name="doubler", x=written(x)))
            return np.array_equal(oracle.array(answer.outputs["y"]), x * 2)

        assert list(pool.map(ask, range(32))) == [True] * 32
