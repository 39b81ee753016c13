"""The methods of GRPCInferenceService without a transport, asked with messages of the tests' own schema."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_cache.errors import LoadFailed, ModelNotFound
from runtime.errors import DeadlineExceeded, InvalidRequest, PayloadTooLarge, PreconditionFailed, Unsupported
from runtime.open_inference.services import Service
from runtime.rpc import MAX_MESSAGE, Admission, Outcome
from runtime.servicers import OPEN_INFERENCE_METHODS
from runtime.signature import TensorSpec
from runtime.status import Code
from tests.runtime.codecs.specs import DTYPES, STRING, assert_same
from tests.runtime.open_inference import oracle
from tests.runtime.open_inference.requests import Mirror
from tests.runtime.servables import NAME, HalfPlusTwo, Stage, stage

X = np.array([1, 2, 5], np.float32)
SECRET = "the bug's own text"


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(1, 2) as made:
        yield made


def service(s: Stage, is_ready: bool = True, max_response: int = MAX_MESSAGE) -> Service:
    return Service(s.server, lambda: is_ready, max_response)


def ask(s: Stage, method: str, request: str, answer: str, *, is_ready: bool = True, **fields: Any) -> Any:
    wire = oracle.message(request)(**fields).SerializeToString()
    return oracle.message(answer).FromString(service(s, is_ready).answer(method, wire, None))


def infer(s: Stage, request: Any, deadline: float | None = None, **options: Any) -> Any:
    wire = service(s, **options).answer("ModelInfer", request.SerializeToString(), deadline)
    return oracle.ModelInferResponse.FromString(wire)


def stream(s: Stage, content: bytes, admission: Admission | None = None, **options: Any) -> tuple[Outcome, Any]:
    """What becomes of a message of a stream, and the answer."""
    outcome = service(s, **options).answer_in_stream(admission or Admission(1, 1 << 20), content, None)
    return outcome, oracle.ModelStreamInferResponse.FromString(outcome.content)


@pytest.mark.parametrize("is_raw", [True, False])
def test_a_request_is_answered_with_raw_contents(s: Stage, is_raw: bool) -> None:
    answer = infer(s, oracle.request(NAME, id="7", is_raw=is_raw, x=X))
    assert (answer.model_name, answer.model_version, answer.id) == (NAME, "2", "7")
    outputs = oracle.arrays(answer)
    assert list(outputs) == ["y", "version"]
    assert_same(outputs["y"], X / 2 + 2)
    assert outputs["version"].tolist() == [2, 2, 2]


def test_the_version_and_the_outputs_that_are_asked_for_answer(s: Stage) -> None:
    answer = infer(s, oracle.request(NAME, version="1", outputs=["version", "y"], x=X))
    assert answer.model_version == "1"
    assert [output.name for output in answer.outputs] == ["version", "y"]
    assert list(oracle.arrays(infer(s, oracle.request(NAME, outputs=["y"], x=X)))) == ["y"]


def test_classes_are_answered_as_strings(s: Stage) -> None:
    request = oracle.request(NAME, outputs=["y"], x=X)
    request.outputs[0].parameters["classification"].int64_param = 2
    (output,) = oracle.arrays(infer(s, request)).values()
    assert [string.rpartition(b":")[2] for string in output.ravel().tolist()] == [b"2", b"1"]


@pytest.mark.parametrize("dtype", [*DTYPES, STRING], ids=str)
def test_every_dtype_goes_both_ways(dtype: Any) -> None:
    array = (
        np.array([[0, 1], [1, 0]]).astype(dtype)
        if dtype != STRING
        else np.array([[b"", b"\xff"], [b"a", b"b"]], STRING)
    )
    with stage(1, make=lambda version: Mirror(TensorSpec("x", dtype, (-1, 2)))) as s:
        for is_raw in {True, not oracle.DATATYPES[dtype.name][1]}:
            answer = infer(s, oracle.request(NAME, is_raw=is_raw, x=array))
            assert_same(oracle.arrays(answer)["x_out"], array)


def test_sequences_are_in_parameters() -> None:
    special = [
        TensorSpec("sequence_id", np.dtype(np.uint64), (1,)),
        TensorSpec("sequence_control_input", np.dtype(np.uint32), (1,)),
    ]
    with stage(1, make=lambda version: Mirror(TensorSpec("x", X.dtype, (-1,)), special=special)) as s:
        request = oracle.request(NAME, x=X)
        request.parameters["sequence_id"].int64_param = 9
        request.parameters["sequence_start"].bool_param = True
        assert oracle.arrays(infer(s, request))["sequence_id"].tolist() == [9]
        assert s.loader.servables[1].given["sequence_control_input"] == [1]


def wanted(**changes: Any) -> Any:
    return oracle.request(**{"name": NAME, "x": X, **changes})


@pytest.mark.parametrize(
    ("request_", "error", "why"),
    [
        (wanted(name="other"), ModelNotFound, "Servable not found for request: "),
        (wanted(name=""), ModelNotFound, "Servable not found for request: "),
        (wanted(version="7"), ModelNotFound, "Servable not found for request: "),
        (wanted(version="x"), InvalidRequest, "invalid model version format in request: it is 'x'; want a number"),
        (wanted(version="-1"), InvalidRequest, "invalid model version format in request"),
        (wanted(version=" 1"), InvalidRequest, "invalid model version format in request"),
        (wanted(version="1\n"), InvalidRequest, "invalid model version format in request"),
        (wanted(version="²"), InvalidRequest, "invalid model version format in request"),
        (wanted(version="9" * 5000), InvalidRequest, "Failed to convert version: "),
        (wanted(outputs=["z"]), InvalidRequest, "output 'z' is none of the model's"),
        (wanted(x=X.astype(np.float64)), InvalidRequest, "input 'x' has datatype FP64; want FP32"),
        (wanted(x=X.reshape(3, 1)), InvalidRequest, "input 'x' has shape (3, 1)"),
        (wanted(z=X), InvalidRequest, "not known {z}"),
        (oracle.request(NAME), InvalidRequest, "missing {x}"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused(s: Stage, request_: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error) as caught:
        infer(s, request_)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("method", OPEN_INFERENCE_METHODS)
def test_what_is_no_message_is_refused(s: Stage, method: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^the message is no {method}Request: "):
        service(s).answer(method, b"\xff not a message", None)


def test_the_deadline_is_kept_while_the_model_is_loaded(s: Stage) -> None:
    gate = s.loader.hold(2)
    with pytest.raises(DeadlineExceeded):
        infer(s, wanted(), time.monotonic() + 0.05)
    gate.open()


def test_the_server_tells_of_itself(s: Stage) -> None:
    assert ask(s, "ServerLive", "Empty", "Live").live
    assert ask(s, "ServerReady", "Empty", "Ready").ready
    assert not ask(s, "ServerReady", "Empty", "Ready", is_ready=False).ready
    told = ask(s, "ServerMetadata", "Empty", "ServerMetadataResponse")
    assert told.name == "decant"
    assert told.version
    assert {"binary_tensor_data", "model_repository"} <= set(told.extensions)
    s.server.is_controlled = False
    told = ask(s, "ServerMetadata", "Empty", "ServerMetadataResponse")
    assert "model_repository" not in told.extensions


def test_a_model_is_ready_if_it_would_answer(s: Stage) -> None:
    def is_ready(**fields: Any) -> bool:
        ready: bool = ask(s, "ModelReady", "NameAndVersion", "Ready", **fields).ready
        return ready

    # Nothing of it is loaded for that.
    assert is_ready(name=NAME)
    assert is_ready(name=NAME, version="1")
    assert not s.loader.loads
    s.loader.broken[2] = LoadFailed("it is broken")
    with pytest.raises(LoadFailed):
        infer(s, wanted(version="2"))
    assert not is_ready(name=NAME, version="2")
    assert is_ready(name=NAME)
    for fields in ({"name": "other"}, {"name": NAME, "version": "7"}):
        with pytest.raises(ModelNotFound):
            is_ready(**fields)
    with pytest.raises(InvalidRequest, match="invalid model version format"):
        is_ready(name=NAME, version="latest")


def test_metadata_is_the_models(s: Stage) -> None:
    told = ask(s, "ModelMetadata", "NameAndVersion", "ModelMetadataResponse", name=NAME)
    assert (told.name, list(told.versions), told.platform) == (NAME, ["1", "2"], "openvino")
    assert [(one.name, one.datatype, list(one.shape)) for one in told.inputs] == [("x", "FP32", [-1])]
    assert [one.name for one in told.outputs] == ["y", "version"]
    with pytest.raises(ModelNotFound):
        ask(s, "ModelMetadata", "NameAndVersion", "ModelMetadataResponse", name="other")


def test_statistics_count_what_was_asked(s: Stage) -> None:
    infer(s, wanted(version="1"))
    with pytest.raises(InvalidRequest):
        infer(s, wanted(version="1", z=X))

    def rows(**fields: Any) -> dict[tuple[str, str], Any]:
        told = ask(s, "ModelStatistics", "NameAndVersion", "ModelStatisticsResponse", **fields)
        return {(one.name, one.version): one for one in told.model_stats}

    assert rows().keys() == rows(name=NAME).keys() == {(NAME, "1"), (NAME, "2")}
    (one,) = rows(name=NAME, version="1").values()
    assert (one.inference_count, one.execution_count) == (3, 1)
    assert (one.inference_stats.success.count, one.inference_stats.fail.count) == (1, 1)
    assert one.inference_stats.success.ns > 0
    with pytest.raises(ModelNotFound):
        rows(name="other")


def test_the_index_lists_what_there_is(s: Stage) -> None:
    def states(**fields: Any) -> list[tuple[str, str, str]]:
        told = ask(s, "RepositoryIndex", "RepositoryIndexRequest", "RepositoryIndexResponse", **fields)
        return sorted((one.name, one.version, one.state) for one in told.models)

    assert states() == [(NAME, "1", "READY"), (NAME, "2", "READY")]
    s.loader.broken[2] = LoadFailed("it is broken")
    with pytest.raises(LoadFailed):
        infer(s, wanted(version="2"))
    assert states() == [(NAME, "1", "READY"), (NAME, "2", "UNAVAILABLE")]
    assert states(ready=True) == [(NAME, "1", "READY")]
    with pytest.raises(Unsupported):
        states(repository_name="/models")


# Triton's clients have the name in the second field, KServe's in the first.
@pytest.mark.parametrize(
    ("form", "fields"),
    [
        ("TritonRepositoryRequest", {"model_name": NAME}),
        ("TritonRepositoryRequest", {"repository_name": "/models", "model_name": NAME}),
        ("KServeRepositoryRequest", {"model_name": NAME}),
    ],
)
def test_models_are_loaded_and_unloaded_in_both_forms(s: Stage, form: str, fields: Any) -> None:
    for method, is_loaded in (("RepositoryModelLoad", True), ("RepositoryModelUnload", False)):
        told = ask(s, method, form, "KServeRepositoryResponse", **fields)
        assert (told.model_name, told.is_done) == (NAME, True)
        assert (s.server.peek(NAME) is not None) is is_loaded


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_clients_may_be_kept_from_that(s: Stage, method: str) -> None:
    s.server.is_controlled = False
    with pytest.raises(PreconditionFailed):
        ask(s, method, "TritonRepositoryRequest", "Empty", model_name=NAME)


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_models_there_are_not_cannot_be_loaded(s: Stage, method: str) -> None:
    with pytest.raises(ModelNotFound):
        ask(s, method, "TritonRepositoryRequest", "Empty", model_name="other")
    with pytest.raises(ModelNotFound):
        ask(s, method, "TritonRepositoryRequest", "Empty")


@pytest.mark.parametrize(
    ("method", "name", "field", "value"),
    [
        ("RepositoryModelLoad", "config", "string_param", "{}"),
        ("RepositoryModelLoad", "file:1/model.onnx", "bytes_param", b"onnx"),
        ("RepositoryModelUnload", "unload_dependents", "int64_param", 1),
    ],
)
def test_parameters_that_cannot_be_heeded_are_refused(s: Stage, method: str, name: str, field: str, value: Any) -> None:
    request = oracle.message("TritonRepositoryRequest")(model_name=NAME)
    setattr(request.parameters[name], field, value)
    with pytest.raises(InvalidRequest, match=name):
        service(s).answer(method, request.SerializeToString(), None)


def test_an_answer_that_is_too_large_is_refused_with_its_size(s: Stage) -> None:
    size = infer(s, wanted()).ByteSize()
    assert infer(s, wanted(), max_response=size).outputs
    with pytest.raises(PayloadTooLarge, match=f"^the answer has {size} bytes; want {size - 1} at most$"):
        infer(s, wanted(), max_response=size - 1)
    with pytest.raises(PayloadTooLarge):
        service(s, max_response=10).answer("ServerMetadata", b"", None)


def test_a_message_of_a_stream_is_answered_as_a_call(s: Stage) -> None:
    outcome, answer = stream(s, wanted(id="7").SerializeToString())
    assert outcome.code is Code.OK
    assert not answer.error_message
    assert answer.infer_response.id == "7"
    assert_same(oracle.arrays(answer.infer_response)["y"], X / 2 + 2)


def large(array: NDArray[Any]) -> NDArray[Any]:
    return np.resize(array, 100_000)


@pytest.mark.parametrize("x", [X, large(X)], ids=["small", "large"])
@pytest.mark.parametrize(
    ("changes", "code", "why"),
    [
        ({"name": "other"}, Code.NOT_FOUND, "Servable not found for request: "),
        ({"version": "x"}, Code.INVALID_ARGUMENT, "invalid model version format in request"),
        ({"z": X}, Code.INVALID_ARGUMENT, "not known {z}"),
    ],
)
def test_an_error_in_a_stream_is_a_message_that_says_of_what(
    s: Stage, x: Any, changes: Any, code: Code, why: str
) -> None:
    outcome, answer = stream(s, wanted(**{"id": "7", "version": "2", "x": x, **changes}).SerializeToString())
    assert outcome.code is code
    assert why in outcome.message
    assert answer.error_message == outcome.message
    head = answer.infer_response
    assert (head.id, head.model_name) == ("7", changes.get("name", NAME))
    assert head.model_version == changes.get("version", "2")
    assert not head.outputs


def test_what_is_no_message_is_an_error_in_a_stream(s: Stage) -> None:
    outcome, answer = stream(s, b"\xff not a message")
    assert outcome.code is Code.INVALID_ARGUMENT
    assert answer.error_message.startswith("the message is no ModelInferRequest: ")
    assert not answer.infer_response.id


def test_a_message_that_is_not_admitted_is_an_error_in_a_stream(s: Stage) -> None:
    admission = Admission(1, 1 << 20)
    with admission.admitted(1):
        outcome, answer = stream(s, wanted(id="7").SerializeToString(), admission)
        assert outcome.code is Code.UNAVAILABLE
        assert "--max_in_flight" in answer.error_message
        assert answer.infer_response.id == "7"
        # It is not read before it is admitted.
        _, answer = stream(s, wanted(id="7", x=large(X)).SerializeToString(), admission)
        assert "--max_in_flight" in answer.error_message
        assert not answer.infer_response.id
    assert not stream(s, wanted().SerializeToString(), admission)[1].error_message


@pytest.mark.parametrize(
    ("bug", "message", "log"),
    [
        (RuntimeError(SECRET), "internal error", SECRET),
        # Without a text it would be no error.
        (DeadlineExceeded(""), "DEADLINE_EXCEEDED", ""),
    ],
)
def test_a_bug_is_logged_and_shown_to_nobody(
    s: Stage, caplog: pytest.LogCaptureFixture, bug: Exception, message: str, log: str
) -> None:
    infer(s, wanted())
    s.loader.servables[2].bug = bug
    with caplog.at_level(logging.INFO):
        _, answer = stream(s, wanted(id="7").SerializeToString())
    assert (answer.error_message, answer.infer_response.id) == (message, "7")
    assert log in caplog.text
    assert SECRET not in str(answer)


def test_a_deadline_is_passed_on(s: Stage) -> None:
    given: list[float | None] = []

    class Noting(HalfPlusTwo):
        def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
            given.append(deadline)
            return super().predict(signature_name, inputs, deadline)

    with stage(1, make=Noting) as noting:
        infer(noting, wanted())
        deadline = time.monotonic() + 60
        infer(noting, wanted(), deadline)
        request = wanted()
        request.parameters["timeout"].int64_param = 30_000_000
        infer(noting, request, deadline)
    assert given[:2] == [None, deadline]
    assert given[2] is not None
    assert time.monotonic() < given[2] < deadline
