"""What it takes to read a request and to write an answer, in each form that they may have.

One process, one thread, three tensors of float32: a single number, a thousand, an image of 1x3x224x224. Beside Decant's
codecs do the same: ``json`` or ``orjson`` with numpy, which is what a hand-written handler has, and the messages of
tensorflow-serving-api with the functions that TensorFlow has for them, if ``infra/ci/install.sh`` has installed it.
In the form "b64" the tensor's bytes are one string, as an encoded image would be. The forms "v2" are the Open Inference
Protocol's, over REST as JSON and with the tensor behind it, and over gRPC with raw contents.

A request is what a client in Python sends: the floats as ``json.dumps`` writes ``array.tolist()``. Reading ends with an
array of the signature's dtype, writing with the bytes of the body or the message; both are compared with what they
have to be before they are measured.

Run as ``python -m benchmarks.codecs``. ``docs/performance.md`` has the results.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.machine import machine, noting_others
from benchmarks.report import Findings
from runtime.codecs import json_answer, json_tensor, schema, tensor_proto
from runtime.codecs.open_inference import infer_answer, infer_json, infer_wire, messages
from runtime.codecs.open_inference.inference import InferResponse, Output
from runtime.codecs.schema import open_inference
from runtime.signature import TensorSpec

SHAPES = ((1, 1), (1, 1000), (1, 3, 224, 224))
TFSERVING = Path(__file__).parents[1] / ".tools" / "tfserving"
_F32 = np.dtype(np.float32)
RUNS = 15
_AT_LEAST = 0.02
"""Seconds that one sample lasts: a call of a microsecond is made many times."""

Call = Callable[[], Any]


class Result(NamedTuple):
    form: str
    shape: tuple[int, ...]
    what: str
    by: str
    milliseconds: float


def cases(shape: tuple[int, ...]) -> Iterator[tuple[str, str, str, Call]]:
    """Yield (form, reading or writing, by whom, call)."""
    array = an_image(shape)
    yield from _json("JSON row", array, json.dumps({"instances": array.tolist()}), is_row=True)
    yield from _json("JSON columns", array, json.dumps({"inputs": {"x": array.tolist()}}), is_row=False)
    yield from _b64(array.tobytes())
    yield from _messages("tensor_content", array, tensor_content_from=1)
    yield from _messages("typed fields", array, tensor_content_from=0)
    yield from _v2_json(array)
    yield from _v2_binary(array)
    yield from _v2_grpc(array)


def an_image(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(4).standard_normal(shape).astype(np.float32)


def _json(form: str, array: NDArray[Any], text: str, *, is_row: bool) -> Iterator[tuple[str, str, str, Call]]:
    body = text.encode()
    specs = {"x": TensorSpec("x", _F32, (-1, *array.shape[1:]))}

    def tensor(document: Any) -> NDArray[Any]:
        return np.array(document["instances"] if is_row else document["inputs"]["x"], np.float32)

    def read() -> NDArray[Any]:
        return json_tensor.parse_predict(body).inputs(specs)["x"]

    key = "predictions" if is_row else "outputs"
    for call in (read, lambda: tensor(json.loads(body)), lambda: tensor(orjson.loads(body))):
        assert np.array_equal(call(), array)
    yield form, "read", "decant", read
    yield form, "read", "json + numpy", lambda: tensor(json.loads(body))
    yield form, "read", "orjson + numpy", lambda: tensor(orjson.loads(body))

    def write() -> bytes:
        return json_answer.encode({"y": array}, is_row)

    def write_json() -> bytes:
        return json.dumps({key: array.tolist()}).encode()

    def write_orjson() -> bytes:
        return orjson.dumps({key: array.tolist()})

    for written in (write(), write_json(), write_orjson()):
        assert np.array_equal(np.array(json.loads(written)[key], np.float32), array)
    yield form, "write", "decant", write
    yield form, "write", "json + numpy", write_json
    yield form, "write", "orjson + numpy", write_orjson


def _b64(content: bytes) -> Iterator[tuple[str, str, str, Call]]:
    body = json.dumps({"instances": [{"b64": base64.b64encode(content).decode()}]}).encode()
    specs = {"x": TensorSpec("x", np.dtype(object), (-1,))}
    answer = np.empty(1, object)
    answer[0] = content

    def read() -> NDArray[Any]:
        return json_tensor.parse_predict(body).inputs(specs)["x"]

    def by(load: Callable[[bytes], Any]) -> Call:
        return lambda: np.array([base64.b64decode(row["b64"]) for row in load(body)["instances"]], object)

    def write() -> bytes:
        return json_answer.encode({"y_bytes": answer}, True)

    def write_by(dump: Callable[[Any], str | bytes]) -> Call:
        return lambda: dump({"predictions": [{"b64": base64.b64encode(item).decode()} for item in answer]})

    for call in (read, by(json.loads), by(orjson.loads)):
        assert call().tolist() == [content]
    for written in (write(), write_by(json.dumps)(), write_by(orjson.dumps)()):
        assert base64.b64decode(json.loads(written)["predictions"][0]["b64"]) == content
    yield "b64", "read", "decant", read
    yield "b64", "read", "json + numpy", by(json.loads)
    yield "b64", "read", "orjson + numpy", by(orjson.loads)
    yield "b64", "write", "decant", write
    yield "b64", "write", "json + numpy", write_by(json.dumps)
    yield "b64", "write", "orjson + numpy", write_by(orjson.dumps)


def _messages(form: str, array: NDArray[Any], tensor_content_from: int) -> Iterator[tuple[str, str, str, Call]]:
    request = schema.PredictRequest()
    tensor_proto.encode(array, request.inputs["x"], tensor_content_from)
    content = request.SerializeToString()

    def read() -> NDArray[Any]:
        return tensor_proto.decode("x", schema.PredictRequest.FromString(content).inputs["x"])

    def write() -> bytes:
        response = schema.PredictResponse()
        tensor_proto.encode(array, response.outputs["y"], tensor_content_from)
        serialized: bytes = response.SerializeToString()
        return serialized

    assert np.array_equal(read(), array)
    assert np.array_equal(tensor_proto.decode("y", schema.PredictResponse.FromString(write()).outputs["y"]), array)
    yield form, "read", "decant", read
    yield form, "write", "decant", write


def _v2_json(array: NDArray[Any]) -> Iterator[tuple[str, str, str, Call]]:
    body = json.dumps({"inputs": [{**_head("x", array), "data": array.ravel().tolist()}]}).encode()

    def read() -> NDArray[Any]:
        return infer_json.parse(body, None).inputs[0].read(None)

    def by(load: Callable[[bytes], Any]) -> Call:
        def read_by() -> NDArray[Any]:
            tensor = load(body)["inputs"][0]
            return np.array(tensor["data"], np.float32).reshape(tensor["shape"])

        return read_by

    def write() -> bytes:
        return infer_answer.encode(InferResponse("m", "1", [Output("y", array)])).content

    def write_by(dump: Callable[[Any], str | bytes]) -> Call:
        return lambda: dump(_answer({**_head("y", array), "data": array.ravel().tolist()}))

    for call in (read, by(json.loads), by(orjson.loads)):
        assert np.array_equal(call(), array)
    for written in (write(), write_by(json.dumps)(), write_by(orjson.dumps)()):
        assert np.array_equal(np.array(json.loads(written)["outputs"][0]["data"], np.float32), array.ravel())
    yield "v2 JSON", "read", "decant", read
    yield "v2 JSON", "read", "json + numpy", by(json.loads)
    yield "v2 JSON", "read", "orjson + numpy", by(orjson.loads)
    yield "v2 JSON", "write", "decant", write
    yield "v2 JSON", "write", "json + numpy", write_by(json.dumps)
    yield "v2 JSON", "write", "orjson + numpy", write_by(orjson.dumps)


def _v2_binary(array: NDArray[Any]) -> Iterator[tuple[str, str, str, Call]]:
    parameters = {"parameters": {"binary_data_size": array.nbytes}}
    head = json.dumps({"inputs": [{**_head("x", array), **parameters}]}).encode()
    body = head + array.tobytes()

    def read() -> NDArray[Any]:
        return infer_json.parse(body, len(head)).inputs[0].read(None)

    def by(load: Callable[[bytes], Any]) -> Call:
        def read_by() -> NDArray[Any]:
            tensor = load(body[: len(head)])["inputs"][0]
            return np.frombuffer(body, np.float32, offset=len(head)).reshape(tensor["shape"])

        return read_by

    # What a server has to send, one behind the other.
    def write() -> tuple[bytes, Sequence[memoryview]]:
        reply = infer_answer.encode(InferResponse("m", "1", [Output("y", array, is_binary=True)]))
        return reply.content, reply.tail

    def write_by(dump: Callable[[Any], str | bytes]) -> Call:
        return lambda: (dump(_answer({**_head("y", array), **parameters})), [array.tobytes()])

    for call in (read, by(json.loads), by(orjson.loads)):
        assert np.array_equal(call(), array)
    for written, tail in (write(), write_by(json.dumps)(), write_by(orjson.dumps)()):
        assert json.loads(written)["outputs"][0]["parameters"] == parameters["parameters"]
        assert b"".join(tail) == array.tobytes()
    yield "v2 binary", "read", "decant", read
    yield "v2 binary", "read", "json + numpy", by(json.loads)
    yield "v2 binary", "read", "orjson + numpy", by(orjson.loads)
    yield "v2 binary", "write", "decant", write
    yield "v2 binary", "write", "json + numpy", write_by(json.dumps)
    yield "v2 binary", "write", "orjson + numpy", write_by(orjson.dumps)


def _v2_grpc(array: NDArray[Any]) -> Iterator[tuple[str, str, str, Call]]:
    request = open_inference.ModelInferRequest(model_name="m", raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    content = request.SerializeToString()

    def read() -> NDArray[Any]:
        return messages.decode(infer_wire.receive(content)).inputs[0].read(None)

    def write() -> bytes:
        return messages.encode(InferResponse("m", "1", [Output("y", array)]))

    assert np.array_equal(read(), array)
    assert open_inference.ModelInferResponse.FromString(write()).raw_output_contents[0] == array.tobytes()
    yield "v2 gRPC", "read", "decant", read
    yield "v2 gRPC", "write", "decant", write


def _head(name: str, array: NDArray[Any]) -> dict[str, Any]:
    return {"name": name, "shape": array.shape, "datatype": "FP32"}


def _answer(output: dict[str, Any]) -> dict[str, Any]:
    return {"model_name": "m", "model_version": "1", "outputs": [output]}


def measure(call: Call, runs: int) -> float:
    """Return milliseconds that one call takes: the median over runs of many calls each."""
    timer = timeit.Timer(call)
    timer.timeit(1)
    number = max(1, round(_AT_LEAST / max(timer.timeit(1), 1e-7)))
    return statistics.median(timer.repeat(runs, number)) / number * 1000


def peers(runs: int) -> list[Result]:
    """Ask a process that has TensorFlow's own messages for the same; return nothing where there is none."""
    if not TFSERVING.exists():
        print("TensorFlow Serving's messages are not installed, so they are left out", file=sys.stderr)
        return []
    program = Path(__file__).with_name("tfs_messages.py")
    environ = {**os.environ, "PYTHONPATH": str(TFSERVING), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(program), json.dumps(SHAPES), str(runs), str(_AT_LEAST)]
    output = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [
        Result(form, tuple(shape), what, by, milliseconds) for form, shape, what, by, milliseconds in json.loads(output)
    ]


def table(results: list[Result]) -> str:
    contestants = list(dict.fromkeys(result.by for result in results))
    figures = {result[:4]: result.milliseconds for result in results}
    lines = [
        f"| tensor | form | ms to | {' | '.join(contestants)} |",
        f"| --- | --- | --- |{' ---: |' * len(contestants)}",
    ]
    for shape, form, what in dict.fromkeys((result.shape, result.form, result.what) for result in results):
        cells = [figures.get((form, shape, what, by)) for by in contestants]
        written = ["" if cell is None else f"{cell:.3g}" for cell in cells]
        lines.append(f"| {'x'.join(map(str, shape))} | {form} | {what} | {' | '.join(written)} |")
    return "\n".join(lines)


def findings(runs: int = RUNS) -> Findings:
    results = [
        Result(form, shape, what, by, measure(call, runs)) for shape in SHAPES for form, what, by, call in cases(shape)
    ]
    results += peers(runs)
    found = Findings("Codecs: milliseconds to read a request and to write an answer", [table(results)])
    found.figures["results"] = results
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    facts = machine()
    with noting_others(facts):
        found = findings(options.runs)
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()), end="\n\n")
    print(*found.tables, sep="\n\n")


if __name__ == "__main__":
    main()
