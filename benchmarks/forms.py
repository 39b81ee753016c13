"""A task's request in each protocol and form, with what checks an answer to it.

Each of the Open Inference Protocol's is what its clients send: JSON with the numbers flat; JSON with the tensors behind
it, both ways; a ``ModelInferRequest`` with raw contents.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tasks import BenchmarkFailed, Task

PREDICT = "tensorflow.serving.PredictionService/Predict"
INFER = "inference.GRPCInferenceService/ModelInfer"
PROTOCOLS = ("tfs", "v2")

JSON: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"})

Check = Callable[[str, bytes], None]
"""Takes who answered and the answer; raises BenchmarkFailed unless it is right."""


class HttpForm(NamedTuple):
    path: str
    body: bytes
    check: Check
    headers: Mapping[str, str] = JSON


class GrpcForm(NamedTuple):
    message: bytes
    check: Check
    method: str = PREDICT


def tfs_json(task: Task) -> HttpForm:
    return HttpForm(f"/v1/models/{task.model}:predict", task.request(), task.check)


def tfs_grpc(task: Task) -> GrpcForm:
    return GrpcForm(task.message(), task.check_message)


def naive(task: Task) -> HttpForm:
    return HttpForm("/predict", task.request(), task.check)


def v2_json(task: Task) -> HttpForm:
    # f32 printed as f64 would be twenty digits of noise per number.
    data = np.round(task.image.astype(np.float64), 4).ravel().tolist()
    body = json.dumps({"inputs": [{**_head(task), "data": data}]}).encode()
    return HttpForm(_infer(task), body, task.check)


def v2_binary(task: Task) -> HttpForm:
    content = task.image.tobytes()
    head = json.dumps(
        {
            "inputs": [{**_head(task), "parameters": {"binary_data_size": len(content)}}],
            "outputs": [{"name": task.output, "parameters": {"binary_data": True}}],
        }
    ).encode()

    def check(who: str, answer: bytes) -> None:
        task.check_values(who, binary_output(answer, task.output), answer)

    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return HttpForm(_infer(task), head + content, check, headers)


def v2_grpc(task: Task) -> GrpcForm:
    from runtime.codecs.schema import open_inference as schema

    request = schema.ModelInferRequest(model_name=task.model)
    tensor = request.inputs.add(name="image", datatype="FP32")
    tensor.shape.extend(task.image.shape)
    request.raw_input_contents.append(task.image.tobytes())

    def check(who: str, answer: bytes) -> None:
        response = schema.ModelInferResponse.FromString(answer)
        number = [output.name for output in response.outputs].index(task.output)
        task.check_values(who, np.frombuffer(response.raw_output_contents[number], np.float32), answer)

    return GrpcForm(request.SerializeToString(), check, INFER)


def binary_output(answer: bytes, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return an output out of what follows an answer's JSON; raise BenchmarkFailed if it is not there."""
    # Each byte a character, so that where the JSON ends is where the tensors begin.
    document, offset = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size", 0)
        if output["name"] == name and size and offset + size <= len(answer):
            return np.frombuffer(answer[offset : offset + size], np.float32)
        offset += size
    raise BenchmarkFailed(f"an answer has no binary '{name}': {answer[:500]!r}")


def _infer(task: Task) -> str:
    return f"/v2/models/{task.model}/infer"


def _head(task: Task) -> dict[str, Any]:
    return {"name": "image", "shape": list(task.image.shape), "datatype": "FP32"}
