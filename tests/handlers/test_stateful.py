"""A model that sums up what the requests of a sequence bring: over REST and gRPC, and by a server's own flags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

from handlers.http_server import HttpServer
from model_cache.cache import ModelCache
from model_cache.local import LocalStorage
from model_cache.repository import ModelRepository, ModelVersion
from runtime.codecs import schema
from runtime.options import ModelOptions, Stateful
from runtime.servable import Servable
from runtime.server import ModelServer
from runtime.stateful import StatefulLoader
from tests.fakes import PATIENCE
from tests.handlers import grpc_front
from tests.handlers.http_front import ask
from tests.runtime import models
from tests.runtime.servables import finish_start
from tests.servers.decant import Decant, Reply, decant_serve
from tests.servers.processes import accepts_connections, free_port

PREDICT = "/v1/models/sum:predict"
START, END = 1, 2
UINT32, UINT64, INT64, FLOAT = 22, 23, 9, 1


class Fronts(NamedTuple):
    rest: HttpServer
    channel: grpc.Channel
    server: ModelServer

    def post(self, body: object) -> tuple[int, Any]:
        status, _, content = ask(self.rest, "POST", PREDICT, json.dumps(body).encode())
        return status, json.loads(content)

    def call(self, request: Any) -> Any:
        return grpc_front.stub(self.channel)(request, timeout=PATIENCE)


@pytest.fixture
def fronts(tmp_path: Path) -> Iterator[Fronts]:
    models.save(models.accumulator(), tmp_path / "sum")
    options = ModelOptions(stateful=Stateful(max_sequences=3))
    files = models.files_at(tmp_path)
    cache = ModelCache[ModelVersion, Servable](
        StatefulLoader(models.loader(files)), 1 << 30, is_kept=lambda servable: servable.is_kept
    )
    repository = ModelRepository("sum", LocalStorage(tmp_path / "sum"), options=options)
    server = ModelServer({"sum": repository}, cache, files)
    finish_start()
    rest = HttpServer(server, "127.0.0.1", 0, max_body=1 << 20, max_in_flight=64, timeout=30)
    rest.start()
    port = free_port()
    try:
        with (
            grpc_front.listening(server, port, tensor_content_from=1),
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            yield Fronts(rest, channel, server)
    finally:
        assert rest.drain(PATIENCE)
        server.close()


def columns(number: int | None = None, control: int | None = None, x: float = 1) -> dict[str, Any]:
    inputs: dict[str, Any] = {"x": [[x, x]]}
    if number is not None:
        inputs["sequence_id"] = [number]
    if control is not None:
        inputs["sequence_control_input"] = [control]
    return {"inputs": inputs}


def request(number: int | None = None, control: int | None = None, x: float = 1) -> Any:
    message = schema.PredictRequest()
    message.model_spec.name = "sum"
    put(message, "x", FLOAT, 1, 2).tensor_content = np.full(2, x, np.float32).tobytes()
    if number is not None:
        put(message, "sequence_id", UINT64, 1).uint64_val.append(packed(number))
    if control is not None:
        put(message, "sequence_control_input", UINT32, 1).uint32_val.append(packed(control))
    return message


def put(message: Any, name: str, dtype: int, *shape: int) -> Any:
    tensor = message.inputs[name]
    tensor.dtype = dtype
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def packed(number: int) -> bytes:
    """Return the number as a packed field of a message has it, which is how it is declared here."""
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def unpacked(field: Any) -> int:
    (data,) = field
    return sum((byte & 127) << 7 * i for i, byte in enumerate(data))


def summed(response: Any) -> float:
    y = response.outputs["y"]
    return float(np.frombuffer(y.tensor_content, np.float32)[0])


def test_a_sequence_over_rest_in_columns(fronts: Fronts) -> None:
    answers = [fronts.post(columns(*request)) for request in ((10, START), (10,), (10, 0), (10, END, 5))]
    assert answers == [
        (200, {"outputs": {"y": [[total, total]], "sequence_id": [10]}}) for total in (1.0, 2.0, 3.0, 8.0)
    ]
    status, body = fronts.post(columns(10))
    assert status == 404
    assert "Sequence with provided ID does not exist" in body["error"]


@pytest.mark.parametrize("written", [lambda value: value, lambda value: [value]], ids=["bare", "in a list"])
def test_a_sequence_over_rest_in_rows(fronts: Fronts, written: Any) -> None:
    def post(x: float, control: int) -> tuple[int, Any]:
        row = {"x": [x, x], "sequence_id": written(10), "sequence_control_input": written(control)}
        return fronts.post({"instances": [row]})

    assert post(1, START) == (200, {"predictions": [{"y": [1.0, 1.0], "sequence_id": 10}]})
    assert post(2, END) == (200, {"predictions": [{"y": [3.0, 3.0], "sequence_id": 10}]})
    status, body = fronts.post({"instances": [{"x": [1, 1], "sequence_id": written(1)}] * 2})
    assert status == 400, body


def test_a_sequence_over_grpc(fronts: Fronts) -> None:
    first = fronts.call(request(None, START))
    assert first.outputs.keys() == {"y", "sequence_id"}
    answered = first.outputs["sequence_id"]
    # Where clients look for it, whatever flags say of other tensors.
    assert (answered.dtype, [dim.size for dim in answered.tensor_shape.dim]) == (UINT64, [1])
    number = unpacked(answered.uint64_val)
    assert number
    assert summed(fronts.call(request(number, x=4))) == 5
    last = fronts.call(request(number, END))
    assert (summed(last), unpacked(last.outputs["sequence_id"].uint64_val)) == (6, number)
    filtered = request(number, START)
    filtered.output_filter.append("y")
    assert fronts.call(filtered).outputs.keys() == {"y", "sequence_id"}


def test_a_sequence_may_go_from_one_front_to_the_other(fronts: Fronts) -> None:
    _, body = fronts.post(columns(None, START))
    (number,) = body["outputs"]["sequence_id"]
    assert summed(fronts.call(request(number))) == 2
    assert fronts.post(columns(number, END))[1]["outputs"]["y"] == [[3.0, 3.0]]


CASES = [
    (404, grpc.StatusCode.NOT_FOUND, "Sequence with provided ID does not exist", 2, None),
    (409, grpc.StatusCode.ALREADY_EXISTS, "Sequence with provided ID already exists", 1, START),
    (400, grpc.StatusCode.INVALID_ARGUMENT, "Sequence ID has not been provided in request inputs", None, None),
    (400, grpc.StatusCode.INVALID_ARGUMENT, "Sequence ID has not been provided in request inputs", 0, END),
    (400, grpc.StatusCode.INVALID_ARGUMENT, "Unexpected value of sequence control input", 1, 3),
]


@pytest.mark.parametrize(("status", "code", "text", "number", "control"), CASES)
def test_both_fronts_say_what_is_wrong(
    fronts: Fronts, status: int, code: grpc.StatusCode, text: str, number: int | None, control: int | None
) -> None:
    fronts.post(columns(1, START))
    answered, body = fronts.post(columns(number, control))
    assert (answered, body) == (status, {"error": text})
    with pytest.raises(grpc.RpcError) as caught:
        fronts.call(request(number, control))
    error: Any = caught.value
    assert (error.code(), error.details()) == (code, text)


def test_both_fronts_say_that_there_are_too_many(fronts: Fronts) -> None:
    text = "Max sequence number has been reached. Could not create new sequence."
    for number in (1, 2, 3):
        fronts.post(columns(number, START))
    assert fronts.post(columns(None, START)) == (503, {"error": text})
    with pytest.raises(grpc.RpcError) as caught:
        fronts.call(request(4, START))
    error: Any = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, text)


@pytest.mark.parametrize("value", ['"a"', "1.5", "-1", "18446744073709551616", "[]", "[1, 2]", "[[1]]", "null", "true"])
@pytest.mark.parametrize("name", ["sequence_id", "sequence_control_input"])
def test_a_special_input_that_is_no_number_is_the_clients_mistake(fronts: Fronts, name: str, value: str) -> None:
    special = {"sequence_id": "[1]", "sequence_control_input": "[1]", name: value}
    inputs = ", ".join(f'"{name}": {text}' for name, text in special.items())
    status, _, content = ask(fronts.rest, "POST", PREDICT, f'{{"inputs": {{"x": [[1, 1]], {inputs}}}}}'.encode())
    assert status == 400, content
    assert json.loads(content)["error"]
    with fronts.server.lease("sum") as lease:
        assert not lease.servable.is_kept


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda tensor: tensor.tensor_shape.Clear(), "Special input proto does not contain tensor shape information"),
        (
            lambda tensor: tensor.tensor_shape.dim.add(size=1),
            "Invalid number of shape dimensions - Required shape for sequence_id is: (1)",
        ),
        (
            lambda tensor: setattr(tensor, "dtype", INT64),
            "Could not find sequence id in expected tensor proto field uint64_val",
        ),
    ],
)
def test_a_special_input_in_another_form_is_refused_over_grpc(fronts: Fronts, change: Any, text: str) -> None:
    message = request(7, START)
    change(message.inputs["sequence_id"])
    with pytest.raises(grpc.RpcError) as caught:
        fronts.call(message)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(text)


def test_metadata_is_the_models_own(fronts: Fronts) -> None:
    status, _, content = ask(fronts.rest, "GET", "/v1/models/sum/metadata")
    assert status == 200
    assert b"sequence" not in content


def test_many_sequences_at_once_over_both_fronts(fronts: Fronts) -> None:
    def rest(number: int) -> list[float]:
        fronts.post(columns(number, START, number))
        return [fronts.post(columns(number, None, number))[1]["outputs"]["y"][0][0] for _ in range(20)]

    def rpc(number: int) -> list[float]:
        fronts.call(request(number, START, number))
        return [summed(fronts.call(request(number, None, number))) for _ in range(20)]

    with ThreadPoolExecutor(3) as pool:
        sums = [pool.submit(run, number) for number, run in enumerate((rest, rpc, rest), 1)]
    for number, future in enumerate(sums, 1):
        assert future.result() == [number * i for i in range(2, 22)]


def serve(directory: Path, *flags: str, wait: bool = True) -> AbstractContextManager[Decant]:
    model = ("--model_name", "sum", "--model_path", directory / "sum")
    return decant_serve(directory, *model, *flags, without_grpc=True, wait=wait)


def test_flags_say_how_many_sequences_there_are_and_how_long_they_last(tmp_path: Path) -> None:
    models.save(models.accumulator(), tmp_path / "sum")
    few = ("--stateful", "--max_sequence_number", "1", "--sequence_cleaner_poll_wait_minutes")
    with serve(tmp_path, *few, "0.0005") as server:
        assert post(server, 1, START).status == 200
        # Refused until the first has been idle for long enough.
        server.process.wait_until(lambda: post(server, 2, START).status == 200, PATIENCE)
        assert "dropped 1 idle sequences of sum/1" in server.log()
    for patient in (("0",), ("0.0005", "--idle_sequence_cleanup", "false")):
        with serve(tmp_path, *few, *patient) as server:
            assert post(server, 1, START).status == 200
            # In less time than that no sequence of the server before was there any more.
            for _ in range(100):
                assert post(server, 2, START).status == 503
            assert post(server, 1).body["outputs"]["y"] == [[2.0, 2.0]]


def test_a_flag_makes_a_state_of_a_loops(tmp_path: Path) -> None:
    models.save(models.looper(), tmp_path / "sum")
    with serve(tmp_path, "--stateful", "--low_latency_transformation") as server:
        for control, y in ((START, 1.0), (0, 2.0)):
            body = {"inputs": {"x": [[[1, 1]]], "sequence_id": [1], "sequence_control_input": [control]}}
            assert server.post(PREDICT, body).body["outputs"]["y"] == [[[y, y]]]


def test_several_workers_do_not_serve_a_stateful_model(tmp_path: Path) -> None:
    models.save(models.accumulator(), tmp_path / "sum")
    with serve(tmp_path, "--stateful", "--workers", "2", wait=False) as server:
        assert server.process.wait(30) == 64
        assert "stateful is given with workers 2; want workers 1" in server.log()
    plain = {"name": "plain", "base_path": str(tmp_path / "sum")}
    config = tmp_path / "config.json"
    configs = [{"config": plain}, {"config": {**plain, "name": "sum", "stateful": True}}]
    config.write_text(json.dumps({"model_config_list": configs}))
    flags = ("--config_path", config, "--workers", "2")
    with decant_serve(tmp_path, *flags, without_grpc=True, wait=False) as server:
        # It never is ready, as one of its models cannot be had.
        server.process.wait_until(lambda: accepts_connections(server.rest_port), 30)
        assert server.post("/v1/models/plain:predict", {"instances": [[1, 1]]}).status == 200
        reply = post(server, 1, START)
        assert reply.status == 503
        assert "sum/1 is stateful and workers is 2; want workers 1" in reply.body["error"]


def post(server: Decant, number: int, control: int = 0) -> Reply:
    return server.post(PREDICT, columns(number, control))
