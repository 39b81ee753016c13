"""TensorFlow Serving's gRPC services on a real socket, asked with messages of the tests' own schema."""

from __future__ import annotations

import logging
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import EncodeError

from model_cache.cache import ModelCache
from model_cache.errors import CacheFull, LoadFailed, LoadPending, ModelTooLarge, StorageUnavailable
from model_cache.local import LocalStorage
from model_cache.repository import ModelRepository, ModelVersion
from runtime import rpc, servicers
from runtime.codecs import schema
from runtime.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    PreconditionFailed,
    Unsupported,
)
from runtime.servable import Servable
from runtime.server import ModelServer
from runtime.servicers import service_handlers
from runtime.signature import DEFAULT_SIGNATURE, Dtype, Signature, TensorSpec
from runtime.status import public_message
from tests.fakes import PATIENCE, Gate, until
from tests.runtime import models, oracle
from tests.runtime.codecs.specs import DTYPES, assert_same
from tests.runtime.servables import NAME, HalfPlusTwo, Stage, stage

SECRET = "the bug's own text"
X = np.array([1, 2, 5], np.float32)
MEBIBYTE = 1 << 20


class Client:
    """A client of all methods, which speaks the tests' own schema."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def predict(self, request: Any) -> Any:
        return self.call("PredictionService/Predict", request, oracle.PredictResponse)

    def metadata(self, request: Any) -> Any:
        return self.call("PredictionService/GetModelMetadata", request, oracle.GetModelMetadataResponse)

    def status(self, request: Any) -> Any:
        return self.call("ModelService/GetModelStatus", request, oracle.GetModelStatusResponse)

    def classify(self, request: Any) -> Any:
        return self.call("PredictionService/Classify", request, oracle.ClassificationResponse)

    def regress(self, request: Any) -> Any:
        return self.call("PredictionService/Regress", request, oracle.RegressionResponse)

    def multi_inference(self, request: Any) -> Any:
        return self.call("PredictionService/MultiInference", request, oracle.MultiInferenceResponse)

    def reload(self, request: Any) -> Any:
        return self.call("ModelService/HandleReloadConfigRequest", request, oracle.ReloadConfigResponse)

    def call(self, method: str, request: Any, answer: Any) -> Any:
        return self._method(method, answer)(_wire(request), timeout=PATIENCE)

    def begin(self, request: Any, timeout: float | None, method: str = "PredictionService/Predict") -> Any:
        """Begin a call; return gRPC's future of the answer."""
        return self._method(method, oracle.PredictResponse).future(_wire(request), timeout=timeout)

    def _method(self, method: str, answer: Any) -> Any:
        path = f"/tensorflow.serving.{method}"
        return self._channel.unary_unary(path, response_deserializer=answer.FromString)


def _wire(request: Any) -> bytes:
    wire: bytes = request if isinstance(request, bytes) else request.SerializeToString()
    return wire


@contextmanager
def served(server: ModelServer, threads: int = 8, **options: Any) -> Iterator[Client]:
    with ThreadPoolExecutor(threads) as pool:
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        listening = grpc.server(pool, options=unlimited)
        listening.add_generic_rpc_handlers(tuple(service_handlers(server, **options)))
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


def strings(*values: bytes) -> Any:
    return np.array(values, object)


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
    (
        request(z=X, a=X),
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=1 len({a,z}) != len({x}). Sent extra: {a,z}. Missing but required: "
        "{x}.",
    ),
    (
        request(z=X),
        "INVALID_ARGUMENT",
        "Signature input alias: x(feed name: x) not found in request and no default value provided. Inputs expected to "
        "be in the request {z}, or default input alias set: ",
    ),
    (request(x=X.astype(np.float64)), "INVALID_ARGUMENT", "Expects arg[0] to be float but double is provided"),
    (request(x=X.astype(bool)), "INVALID_ARGUMENT", "Expects arg[0] to be float but bool is provided"),
    (request(x=strings(b"a")), "INVALID_ARGUMENT", "Expects arg[0] to be float but string is provided"),
    (request(x=X.reshape(1, 3)), "INVALID_ARGUMENT", "(1, 3)"),
    (request(x=oracle.TensorProto()), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (request(x=oracle.TensorProto(dtype=8, scomplex_val=[1, 2])), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (request(x=shaped(-1)), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (request(x=shaped(2**40)), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (request(x=shaped(2**62, 2**62)), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (request(x=shaped(0, 2**62)), "INVALID_ARGUMENT", "x"),
    (request(x=broken_content()), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (
        request(x=X, outputs=["y", "z"]),
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: z Outputs expected to be in the set {version,y}.",
    ),
    (request(x=X, outputs=["y", "y"]), "INVALID_ARGUMENT", "duplicate output tensor alias: y"),
]


# Two mistakes each, of which TensorFlow Serving finds the first one first: servables/tensorflow/predict_util.cc.
TWICE_WRONG = [
    (request(name="", signature="none", z=X), "ModelSpec has no name specified."),
    (request(name="other", signature="none"), "Latest(other)"),
    (request(signature="none", z=X), 'Serving signature key "none" not found.'),
    (request(x=broken_content(), z=X), "input size does not match signature"),
    (request(z=broken_content()), "Signature input alias: x"),
    (request(x=broken_content(), outputs=["z"]), "tensor parsing error: x"),
    (request(x=X.astype(bool), outputs=["z"]), "output tensor alias not found in signature: z"),
    (request(x=X.reshape(1, 3), outputs=["y", "y"]), "duplicate output tensor alias: y"),
]


@pytest.mark.parametrize(("message", "details"), TWICE_WRONG)
def test_mistakes_are_found_in_tensorflow_servings_order(client: Client, message: Any, details: str) -> None:
    assert details in refusal(client.predict, message)[1]


def test_an_output_that_is_not_there_is_found_before_the_model_runs(s: Stage, client: Client) -> None:
    client.predict(request(x=X))
    s.loader.servables[2].bug = ZeroDivisionError(SECRET)
    assert refusal(client.predict, request(x=X, outputs=["z"]))[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(("message", "code", "details"), REFUSED)
def test_a_request_that_is_wrong_is_refused_with_why(client: Client, message: Any, code: str, details: str) -> None:
    given = refusal(client.predict, message)
    assert given[0] == code
    assert details in given[1]


# In bytes, as TensorFlow Serving's: gRPC sends each of those that is no ASCII as three, and refuses, now and then, what
# is longer than 8 KiB then.
@pytest.mark.parametrize("text", ["n" * 10_000, "模" * 5_000, "模" * 600, "\n" * 5_000, "n" * 1025])
def test_details_are_cut(s: Stage, client: Client, text: str) -> None:
    client.predict(request(x=X))
    s.loader.servables[2].bug = InvalidRequest(text)
    for _ in range(10):
        code, details = refusal(client.predict, request(x=X))
        assert code == "INVALID_ARGUMENT"
        assert details.endswith("...TRUNCATED")
        assert text.startswith(details.removesuffix("...TRUNCATED"))
        assert 1020 < len(details.encode()) <= 1024 + len("...TRUNCATED")
    s.loader.servables[2].bug = InvalidRequest(text[: 1024 // len(text[0].encode())])
    assert "TRUNCATED" not in refusal(client.predict, request(x=X))[1]


@pytest.mark.parametrize("name", ["n" * 10_000, "模" * 5_000])
def test_a_long_name_is_not_told_in_full(client: Client, name: str) -> None:
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
        (
            metadata_request(name=""),
            "INVALID_ARGUMENT",
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (metadata_request("other", name=""), "INVALID_ARGUMENT", "Metadata field other is not supported"),
        (metadata_request("signature_def", name=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
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
    code, _ = refusal(lambda wire: client.call("SessionService/SessionRun", wire, oracle.PredictResponse), b"")
    assert code == "UNIMPLEMENTED"


def test_a_label_is_a_version(s: Stage, client: Client) -> None:
    s.server.configure({NAME: s.repository}, {NAME: {"stable": 1}})
    answer = client.predict(with_label("stable"))
    assert answer.model_spec.version.value == 1
    assert not answer.model_spec.version_label
    labelled = metadata_request("signature_def")
    labelled.model_spec.version_label = "stable"
    assert client.metadata(labelled).model_spec.version.value == 1
    code, details = refusal(client.predict, with_label("canary"))
    assert code == "INVALID_ARGUMENT"
    assert details.startswith("Unrecognized servable version label: canary")


def test_a_request_that_is_no_message_harms_nobody(client: Client) -> None:
    code, details = refusal(client.predict, b"\xff\xff\xff")
    assert code == "INVALID_ARGUMENT"
    assert details.startswith("the message is no PredictRequest: ")
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


STRING = np.dtype(object)


def test_strings_go_both_ways() -> None:
    array = strings(b"", b"\xff\x00", b"x" * 300).reshape(3, 1)
    with stage(1, make=lambda version: Echo(version, STRING)) as s, served(s.server) as client:
        for proto in (oracle.typed(array), oracle.content(array)):
            (answer,) = client.predict(request(x=proto)).outputs.values()
            assert answer == oracle.typed(array)


@pytest.mark.parametrize(
    ("tensor_content_from", "written"), [(0, oracle.typed), (1, oracle.content), (25, oracle.typed)]
)
def test_answers_are_in_content_from_a_size_on(tensor_content_from: int, written: Any) -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    with (
        stage(1, make=lambda version: Echo(version, array.dtype)) as s,
        served(s.server, tensor_content_from=tensor_content_from) as client,
    ):
        (answer,) = client.predict(request(x=array)).outputs.values()
        assert answer == written(array)


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


class Waiting(HalfPlusTwo):
    """Takes until it is told to go on, or until the deadline."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.gate = Gate()
        self.given: list[tuple[list[float], float | None]] = []
        """Of each call x, and the seconds it was given."""

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        left = None if deadline is None else deadline - time.monotonic()
        self.given.append((inputs["x"].tolist(), left))
        self.gate.reached.set()
        if not self.gate.opened.wait(PATIENCE if left is None else left):
            raise DeadlineExceeded("too late")
        return super().predict(signature_name, inputs, deadline)


@contextmanager
def waiting(threads: int, **options: Any) -> Iterator[tuple[Client, Waiting]]:
    with stage(1, make=Waiting) as s, served(s.server, threads, **options) as client:
        with s.server.lease(NAME):
            pass
        servable = s.loader.servables[1]
        try:
            yield client, servable
        finally:
            servable.gate.open()


def test_the_clients_deadline_is_the_servables() -> None:
    with waiting(2) as (client, servable):
        began = time.monotonic()
        code, _ = refusal(lambda message: client.begin(message, 0.5).result(), request(x=X))
        assert code == "DEADLINE_EXCEEDED"
        assert time.monotonic() - began < PATIENCE / 2
        # The client's clock may end the call before the server's thread has come so far.
        until(lambda: bool(servable.given))
        ((_, left),) = servable.given
        assert left is not None
        # gRPC rounds up what it sends.
        assert 0 < left < 0.6


def test_without_a_deadline_there_is_none() -> None:
    with waiting(2) as (client, servable):
        servable.gate.open()
        assert client.begin(request(x=X), None).result(PATIENCE).outputs
        assert servable.given == [(X.tolist(), None)]


def test_a_call_whose_deadline_passed_before_there_was_a_thread_is_not_run() -> None:
    with waiting(1) as (client, servable):
        first = client.begin(request(x=X), PATIENCE)
        servable.gate.wait_until_reached()
        late, last = client.begin(request(x=X + 1), 0.1), client.begin(request(x=X + 2), PATIENCE)
        assert refusal(lambda call: call.result(), late)[0] == "DEADLINE_EXCEEDED"
        servable.gate.open()
        assert first.result(PATIENCE).outputs
        # It came later, so that the one before it has had its turn.
        assert last.result(PATIENCE).outputs
        assert [x for x, _ in servable.given] == [X.tolist(), (X + 2).tolist()]


def test_more_calls_than_may_be_are_refused() -> None:
    with waiting(4, max_in_flight=1) as (client, servable):
        first = client.begin(request(x=X), PATIENCE)
        servable.gate.wait_until_reached()
        code, details = refusal(client.predict, request(x=X))
        assert (code, "--max_in_flight" in details) == ("UNAVAILABLE", True)
        servable.gate.open()
        assert first.result(PATIENCE).outputs
        assert client.predict(request(x=X)).outputs


def test_more_bytes_of_requests_than_may_be_are_refused() -> None:
    small, large = request(x=X), request(x=np.arange(1000, dtype=np.float32))
    with waiting(4, max_requests=1000) as (client, servable):
        # Whatever its size by itself, as there will never be more room.
        first = client.begin(large, PATIENCE)
        servable.gate.wait_until_reached()
        size = len(large.SerializeToString())
        assert refusal(client.predict, small) == ("UNAVAILABLE", f"the requests of 1 calls take {size} bytes already")
        servable.gate.open()
        assert first.result(PATIENCE).outputs
        assert client.predict(small).outputs
    with waiting(4, max_requests=1000) as (client, servable):
        calls = [client.begin(small, PATIENCE) for _ in range(3)]
        until(lambda: len(servable.given) == 3)
        assert refusal(client.predict, large)[0] == "UNAVAILABLE"
        servable.gate.open()
        assert all(call.result(PATIENCE).outputs for call in calls)
        assert client.predict(large).outputs


def test_an_answer_that_is_too_large_is_refused_with_its_size(client: Client, s: Stage) -> None:
    size = len(client.predict(request(x=X)).SerializeToString())
    with served(s.server, max_response=size) as exact, served(s.server, max_response=size - 1) as less:
        assert exact.predict(request(x=X)).outputs
        assert refusal(less.predict, request(x=X)) == (
            "RESOURCE_EXHAUSTED",
            f"the answer has {size} bytes; want {size - 1} at most",
        )
        assert less.predict(request(x=X[:1])).outputs


class Unwritable:
    """As a message in which there is one of more than 2 GiB."""

    def SerializeToString(self) -> bytes:
        raise EncodeError("Failed to serialize proto")


def test_an_answer_that_no_message_can_be_is_refused() -> None:
    with pytest.raises(
        PayloadTooLarge, match=r"^the answer cannot be written: Failed to serialize proto; want 2147483"
    ):
        rpc.serialize(Unwritable())


@pytest.mark.parametrize("method", ["PredictionService/Predict", "ModelService/GetModelStatus"])
def test_the_clients_deadline_is_kept_while_the_model_is_listed(s: Stage, method: str) -> None:
    gate = Gate()
    s.storage.before_list = gate.pass_through
    with served(s.server, max_in_flight=1) as client:
        # The client's own clock ends the call in any case; of the server's it sees when there is a place again.
        message = request(x=X) if method == "PredictionService/Predict" else of_model()
        began = time.monotonic()
        assert refusal(lambda call: call.result(), client.begin(message, 0.1, method))[0] == "DEADLINE_EXCEEDED"
        until(lambda: refusal(client.predict, request(name="other", x=X))[0] == "NOT_FOUND")
        assert time.monotonic() - began < PATIENCE / 2
        gate.open()
        assert client.status(of_model()).model_version_status


def of_model() -> Any:
    message = oracle.GetModelStatusRequest()
    message.model_spec.name = NAME
    return message


def test_a_configuration_whose_deadline_passed_is_not_set() -> None:
    given: list[Any] = []
    with waiting(1, reload=lambda config, deadline: given.append(config)) as (client, servable):
        first = client.begin(request(x=X), PATIENCE)
        servable.gate.wait_until_reached()
        method = "ModelService/HandleReloadConfigRequest"
        late = client.begin(reload_request("late"), 0.1, method)
        in_time = client.begin(reload_request("in time"), PATIENCE, method)
        assert refusal(lambda call: call.result(), late)[0] == "DEADLINE_EXCEEDED"
        servable.gate.open()
        assert first.result(PATIENCE).outputs
        in_time.result(PATIENCE)
    assert [config.model_config_list.config[0].name for config in given] == ["in time"]


def reload_request(*names: str) -> Any:
    made = oracle.ReloadConfigRequest()
    made.config.model_config_list.SetInParent()
    for name in names:
        made.config.model_config_list.config.add(name=name, base_path=f"/models/{name}")
    return made


def test_a_configuration_is_handed_on_and_answered_when_it_serves(s: Stage) -> None:
    given: list[Any] = []
    with served(s.server, reload=lambda config, deadline: given.append(config)) as client:
        answer = client.reload(reload_request("a", "b"))
    assert answer.HasField("status")
    assert (answer.status.error_code, answer.status.error_message) == (0, "")
    (config,) = given
    assert [(model.name, model.base_path) for model in config.model_config_list.config] == [
        ("a", "/models/a"),
        ("b", "/models/b"),
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("duplicate name"), "INVALID_ARGUMENT"),
        (PreconditionFailed("Request to assign label to version 3 of model a"), "FAILED_PRECONDITION"),
    ],
)
def test_a_configuration_that_cannot_be_says_why(s: Stage, error: Exception, code: str) -> None:
    def reload(config: Any, deadline: float | None) -> None:
        raise error

    with served(s.server, reload=reload) as client:
        assert refusal(client.reload, reload_request("a")) == (code, str(error))


def test_a_configuration_has_the_callers_deadline(s: Stage) -> None:
    deadlines: list[float | None] = []
    with served(s.server, reload=lambda config, deadline: deadlines.append(deadline)) as client:
        client.begin(reload_request("a"), PATIENCE, "ModelService/HandleReloadConfigRequest").result()
        left = (deadlines.pop() or 0) - time.monotonic()
    assert PATIENCE / 2 < left < PATIENCE + 1


def test_only_a_list_of_models_is_a_configuration(s: Stage) -> None:
    custom = oracle.ReloadConfigRequest()
    custom.config.custom_model_config.type_url = "type.googleapis.com/x"
    given: list[Any] = []
    with served(s.server, reload=lambda config, deadline: given.append(config)) as client:
        for wrong in (oracle.ReloadConfigRequest(), custom):
            code, details = refusal(client.reload, wrong)
            assert code == "INVALID_ARGUMENT"
            assert "Only ModelConfigList is currently supported" in details
    assert given == []


def test_a_server_whose_configuration_is_fixed_says_so(client: Client) -> None:
    assert refusal(client.reload, reload_request("a"))[0] == "UNIMPLEMENTED"


class Inferring(HalfPlusTwo):
    """Scores are 1 - x and x, of which the second is the value too; the labels are no and yes."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        x = {"x": TensorSpec("x", np.dtype(np.float32), (-1,))}
        scores, values = (TensorSpec(name, np.dtype(np.float32), (-1, size)) for name, size in (("s", 2), ("v", 1)))
        self.signatures = {
            DEFAULT_SIGNATURE: Signature(x, {"s": scores, "labels": TensorSpec("labels", STRING, (-1, 2))}),
            "bare": Signature(x, {"s": scores}),
            "regress": Signature(x, {"v": values}),
        }

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        x = inputs["x"]
        labels = np.array([[b"no", b"yes"]] * len(x), object)
        outputs = {"s": np.stack([1 - x, x], axis=1), "v": x[:, np.newaxis], "labels": labels}
        return {name: outputs[name] for name in self.signatures[signature_name].outputs}


@pytest.fixture
def inferring() -> Iterator[Client]:
    with stage(1, 2, make=Inferring) as s, served(s.server) as client:
        yield client


def inference(message: Any, *examples: Any, signature: str = "", name: str = NAME, context: Any = None) -> Any:
    made = message()
    made.model_spec.name = name
    made.model_spec.signature_name = signature
    write_input(made.input, *examples, context=context)
    return made


def write_input(written: Any, *examples: Any, context: Any = None) -> None:
    if context is not None:
        written.example_list_with_context.context.CopyFrom(context)
        written.example_list_with_context.examples.extend(examples)
    elif examples:
        written.example_list.examples.extend(examples)


ONE = (oracle.example(x=[0.25]),)


def tasks(*wanted: tuple[str, str], name: str = NAME, examples: Any = ONE) -> Any:
    """A MultiInferenceRequest; each task is given as signature and method."""
    made = oracle.MultiInferenceRequest()
    for signature, method in wanted:
        task = made.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name = name
        task.model_spec.signature_name = signature
    write_input(made.input, *examples)
    return made


def scored(result: Any) -> list[list[tuple[str, float]]]:
    return [[(each.label, each.score) for each in row.classes] for row in result.classifications]


TWO = (oracle.example(x=[0.25]), oracle.example(x=[0.5], unused=[b"a"]))


def test_examples_are_classified(inferring: Client) -> None:
    answer = inferring.classify(inference(oracle.ClassificationRequest, *TWO))
    assert scored(answer.result) == [[("no", 0.75), ("yes", 0.25)], [("no", 0.5), ("yes", 0.5)]]
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == (NAME, 2, "serving_default")
    bare = inferring.classify(inference(oracle.ClassificationRequest, *TWO[:1], signature="bare"))
    assert scored(bare.result) == [[("", 0.75), ("", 0.25)]]
    assert bare.model_spec.signature_name == "bare"


def test_examples_are_regressed(inferring: Client) -> None:
    answer = inferring.regress(inference(oracle.RegressionRequest, *TWO, signature="regress"))
    assert [each.value for each in answer.result.regressions] == [0.25, 0.5]
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == (NAME, 2, "regress")


def test_features_of_the_context_are_every_examples_unless_it_has_its_own(inferring: Client) -> None:
    examples = [oracle.example(), oracle.example(x=[0.5]), oracle.example(other=[1])]
    given = inference(
        oracle.RegressionRequest, *examples, signature="regress", context=oracle.example(x=[0.25], unused=[1])
    )
    assert [each.value for each in inferring.regress(given).result.regressions] == [0.25, 0.5, 0.25]


def test_several_signatures_answer_for_the_same_examples(inferring: Client) -> None:
    wanted = tasks(("", "classify"), ("regress", "regress"), ("bare", "classify"))
    wanted.tasks[0].model_spec.version.value = 1
    first, second, third = inferring.multi_inference(wanted).results
    assert scored(first.classification_result) == [[("no", 0.75), ("yes", 0.25)]]
    assert [each.value for each in second.regression_result.regressions] == [0.25]
    assert scored(third.classification_result) == [[("", 0.75), ("", 0.25)]]
    # The first task's version is all tasks' version.
    assert [
        (each.model_spec.name, each.model_spec.version.value, each.model_spec.signature_name)
        for each in (first, second, third)
    ] == [(NAME, 1, "serving_default"), (NAME, 1, "regress"), (NAME, 1, "bare")]


def two_models() -> Any:
    made = tasks(("", "classify"), ("regress", "regress"))
    made.tasks[1].model_spec.name = "other"
    return made


def second_without_a_name() -> Any:
    made = two_models()
    made.tasks[1].model_spec.name = ""
    return made


CLASSIFICATION, REGRESSION = oracle.ClassificationRequest, oracle.RegressionRequest
# classifier.cc, regressor.cc, multi_inference.cc and util.cc of servables/tensorflow, and server_core.cc.
NOT_INFERRED = [
    ("classify", CLASSIFICATION(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    ("classify", inference(CLASSIFICATION), "INVALID_ARGUMENT", "Input is empty"),
    ("classify", inference(CLASSIFICATION, context=oracle.example(x=[1.0])), "INVALID_ARGUMENT", "Input is empty"),
    (
        "classify",
        inference(CLASSIFICATION, signature="none"),
        "INVALID_ARGUMENT",
        "No signature was found with the name: none",
    ),
    ("classify", inference(CLASSIFICATION, signature="regress"), "INVALID_ARGUMENT", "Input is empty"),
    ("classify", inference(CLASSIFICATION, *TWO, name="other"), "NOT_FOUND", "Latest(other)"),
    ("classify", inference(CLASSIFICATION, oracle.example()), "INVALID_ARGUMENT", "example 0 has no feature 'x'"),
    (
        "classify",
        inference(CLASSIFICATION, oracle.example(x=[1])),
        "INVALID_ARGUMENT",
        "as int64_list; want float_list",
    ),
    ("regress", inference(REGRESSION), "INVALID_ARGUMENT", "Expected regression signature outputs"),
    ("regress", inference(REGRESSION, signature="regress"), "INVALID_ARGUMENT", "Input is empty"),
    ("regress", inference(REGRESSION, signature="none"), "INVALID_ARGUMENT", "No signature was found with the name"),
    ("multi_inference", oracle.MultiInferenceRequest(), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    ("multi_inference", tasks(("", "classify"), name="other"), "NOT_FOUND", "Latest(other)"),
    ("multi_inference", tasks(("", "classify"), examples=()), "INVALID_ARGUMENT", "Input is empty"),
    ("multi_inference", two_models(), "INVALID_ARGUMENT", "must access the same model name"),
    ("multi_inference", second_without_a_name(), "INVALID_ARGUMENT", "Found ModelSpec with an empty model name."),
    (
        "multi_inference",
        tasks(("", "classify"), ("serving_default", "classify")),
        "INVALID_ARGUMENT",
        "Duplicate evaluation of signature: serving_default",
    ),
    (
        "multi_inference",
        tasks(("none", "classify")),
        "INVALID_ARGUMENT",
        "Requested signature not found in model graph: none",
    ),
    ("multi_inference", tasks(("", "regress")), "INVALID_ARGUMENT", "Expected regression signature outputs"),
    (
        "multi_inference",
        tasks(("", "predict")),
        "UNIMPLEMENTED",
        "Unsupported signature method_name: tensorflow/serving/predict",
    ),
]


@pytest.mark.parametrize(("method", "message", "code", "details"), NOT_INFERRED)
def test_an_inference_that_is_wrong_is_refused_with_why(
    inferring: Client, method: str, message: Any, code: str, details: str
) -> None:
    given = refusal(getattr(inferring, method), message)
    assert given[0] == code
    assert details in given[1]


def test_concurrent_inferences_get_their_own_answers(inferring: Client) -> None:
    start = threading.Barrier(8)

    def ask(number: int) -> bool:
        start.wait(PATIENCE)
        x = [i / 1024 for i in range(number, number + 20)]
        examples = [oracle.example(x=[value]) for value in x]
        for _ in range(5):
            regressed = inferring.regress(inference(REGRESSION, *examples, signature="regress"))
            classified = inferring.classify(inference(CLASSIFICATION, *examples))
            assert [each.value for each in regressed.result.regressions] == x
            assert scored(classified.result) == [[("no", 1 - value), ("yes", value)] for value in x]
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))


# Of different carriers and lengths at the same time, each row its own.
def test_concurrent_calls_of_every_kind_are_not_swapped() -> None:
    with (
        stage(1, make=lambda version: Echo(version, STRING)) as s,
        served(s.server) as echoing,
        ThreadPoolExecutor(8) as pool,
    ):

        def ask(number: int) -> bool:
            array = strings(*(b"%d" % (number * 1000 + i) for i in range(number + 1))).reshape(-1, 1)
            written = (oracle.typed, oracle.content)[number % 2]
            (answer,) = echoing.predict(request(x=written(array))).outputs.values()
            return [*answer.string_val] == [*array.ravel()]

        assert list(pool.map(ask, range(200))) == [True] * 200
