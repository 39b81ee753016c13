"""The benchmark's requests in each form say what they are to say, and its checks refuse what is not right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.forms import INFER, GrpcForm, HttpForm, binary_output, tfs_json, v2_binary, v2_grpc, v2_json
from benchmarks.tasks import BenchmarkFailed, Task
from runtime.codecs.open_inference import infer_answer, infer_json, infer_wire, messages
from runtime.codecs.open_inference.inference import InferRequest, InferResponse, Output

IMAGE = np.array([[0.5, -1.25, 3]], np.float32)
ANSWER = np.array([[0.0, 0.25, 1.0]], np.float32)
TASK = Task("m", Path("m"), IMAGE, "y", ANSWER)


def json_size(form: HttpForm) -> int | None:
    size = form.headers.get("Inference-Header-Content-Length")
    return None if size is None else int(size)


def request_of(form: HttpForm | GrpcForm) -> InferRequest:
    if isinstance(form, GrpcForm):
        return messages.decode(infer_wire.receive(form.message))
    return infer_json.parse(form.body, json_size(form))


def answer_to(form: HttpForm | GrpcForm, values: np.ndarray) -> bytes:
    """As Decant has it, behind an output that nobody has asked for."""
    is_binary = isinstance(form, HttpForm) and json_size(form) is not None
    outputs = [Output("x", np.zeros(2, np.float32), is_binary), Output("y", values, is_binary)]
    response = InferResponse("m", "1", outputs)
    if isinstance(form, GrpcForm):
        return messages.encode(response)
    reply = infer_answer.encode(response)
    return b"".join((reply.content, *reply.tail))


@pytest.mark.parametrize("make", [v2_json, v2_binary, v2_grpc])
def test_a_request_has_the_image_and_its_answer_is_checked(make: object) -> None:
    form = make(TASK)  # type: ignore[operator]
    (tensor,) = request_of(form).inputs
    assert (tensor.name, tensor.shape) == ("image", IMAGE.shape)
    np.testing.assert_array_equal(tensor.read(None), IMAGE)
    form.check("it", answer_to(form, ANSWER))
    with pytest.raises(BenchmarkFailed, match="it gave a wrong answer for m"):
        form.check("it", answer_to(form, ANSWER + np.float32(0.02)))


def test_forms_go_where_the_protocols_have_them() -> None:
    assert tfs_json(TASK).path == "/v1/models/m:predict"
    assert v2_json(TASK).path == v2_binary(TASK).path == "/v2/models/m/infer"
    assert v2_grpc(TASK).method == INFER
    assert [output.is_binary for output in request_of(v2_binary(TASK)).outputs] == [True]


@pytest.mark.parametrize(
    "output",
    [
        {"name": "y", "data": [0, 0.25, 1]},
        {"name": "y", "parameters": {"binary_data_size": 13}},
        {"name": "z", "parameters": {"binary_data_size": 12}},
    ],
)
def test_an_answer_without_the_output_in_binary_ends_the_benchmark(output: object) -> None:
    answer = json.dumps({"outputs": [output]}).encode() + ANSWER.tobytes()
    with pytest.raises(BenchmarkFailed, match="no binary 'y'"):
        binary_output(answer, "y")
