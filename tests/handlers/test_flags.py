"""Flags whose way is long, from the command line of a real server to what its clients see."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from numpy.typing import NDArray

from handlers.cli import main
from runtime.codecs import schema, tensor_proto
from runtime.openvino_core import openvino
from runtime.signature import DEFAULT_SIGNATURE
from tests.conftest import DIGITS
from tests.fakes import until
from tests.handlers.test_batching_and_warmup import framed
from tests.runtime import models
from tests.servers.decant import Decant, decant_serve

# After the tests' models, which keep telemetry out.
from openvino import opset13 as ops  # isort: skip

PREDICT = "/v1/models/m:predict"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SERVICES = {
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
}


def witness() -> Any:
    """``seen = the shape of x``, for each row: what a request was run together with, and how that was padded."""
    x = _input((-1, -1))
    shape = ops.shape_of(x)
    rows = ops.gather(shape, np.array([0]), np.array(0))
    seen = ops.broadcast(shape, ops.concat([rows, ops.constant(np.array([2], np.int64))], 0))
    seen.output(0).get_tensor().set_names({"seen"})
    return openvino().Model([ops.result(seen)], [x], "witness")


def dice() -> Any:
    """``y = a random number`` for each row, of a series that goes on by one with each inference."""
    x = _input((-1,))
    drawn = ops.random_uniform(np.array([1]), np.array(0, np.int32), np.array(1 << 20, np.int32), "i32", 7, 9)
    y = ops.add(ops.convert(ops.multiply(x, np.zeros(1, np.float32)), "i32"), drawn)
    y.output(0).get_tensor().set_names({"y"})
    return openvino().Model([ops.result(y)], [x], "dice")


def drawn(base: Path, inferences: int) -> int:
    """What the model says after so many inferences."""
    with models.loaded(base) as servable:
        for _ in range(inferences):
            servable.predict(DEFAULT_SIGNATURE, {"x": zeros(1)})
        return int(servable.predict(DEFAULT_SIGNATURE, {"x": zeros(1)})["y"][0])


def _input(shape: tuple[int, ...]) -> Any:
    x = ops.parameter(openvino().PartialShape(list(shape)), openvino().Type.f32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    return x


def written(x: NDArray[np.float32]) -> bytes:
    request = schema.PredictRequest()
    request.model_spec.name = "m"
    tensor_proto.encode(x, request.inputs["x"], 1)
    content: bytes = request.SerializeToString()
    return content


def answered(channel: grpc.Channel, x: NDArray[np.float32]) -> Any:
    """The one tensor of the answer, as a message."""
    call: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    (tensor,) = schema.PredictResponse.FromString(call(written(x), timeout=60)).outputs.values()
    return tensor


def code_of(channel: grpc.Channel, x: NDArray[np.float32]) -> grpc.StatusCode:
    try:
        answered(channel, x)
    except grpc.RpcError as exc:
        code: grpc.StatusCode = exc.code()
        return code
    return grpc.StatusCode.OK


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def rows(tensor: Any) -> list[list[int]]:
    seen: list[list[int]] = tensor_proto.decode("seen", tensor).tolist()
    return seen


@contextmanager
def serving(directory: Path, *flags: str) -> Iterator[tuple[Decant, grpc.Channel]]:
    """A server of what is in ``directory / "model"``, and a channel to it."""
    with (
        decant_serve(directory, "--model_name", "m", "--model_path", directory / "model", *flags) as server,
        grpc.insecure_channel(server.grpc_address, options=UNLIMITED) as channel,
    ):
        yield server, channel


def test_what_is_run_together_waits_and_is_padded_as_flags_say_and_both_fronts_answer_as_they_say(
    tmp_path: Path,
) -> None:
    wait = 2.5
    batching = ["--enable_batching", "--max_batch_size", "4", "--batch_timeout_micros", f"{wait * 1e6:.0f}"]
    padding = ["--allowed_batch_sizes", "2,4", "--pad_variable_length_inputs"]
    models.save(witness(), tmp_path / "model")
    fronts = ["--rest_api_timeout_in_ms", "1000", "--rest_api_enable_cors_support", "--grpc_reflection"]
    fronts += ["--model_control", "false"]
    with (
        serving(tmp_path, *batching, *padding, *fronts, "--tensor_content_from", "64") as (server, channel),
        ThreadPoolExecutor(2) as pool,
    ):
        assert set(ProtoReflectionDescriptorDatabase(channel).get_services()) == SERVICES

        began = time.monotonic()
        lone = answered(channel, zeros(1, 3))
        assert wait <= time.monotonic() - began < 10 * wait
        assert rows(lone) == [[2, 3]]
        assert lone.int64_val

        pair = [pool.submit(answered, channel, zeros(1, width)) for width in (3, 5)]
        assert [rows(answer.result()) for answer in pair] == [[[2, 5]]] * 2

        full = answered(channel, zeros(4, 3))
        assert rows(full) == [[4, 3]] * 4
        assert full.tensor_content

        headers = {"Origin": "https://example.com"}
        reply = server.post(PREDICT, {"instances": [[0, 0]] * 4}, headers)
        assert (reply.status, reply.body) == (200, {"predictions": [[4, 2]] * 4})
        assert reply.headers["access-control-allow-origin"] == "*"
        assert server.post("/v2/repository/models/m/unload", {}).status == 400
        # Before the end of its wait for others.
        assert server.post(PREDICT, {"instances": [[0, 0]]}).status == 504


def test_so_many_batches_run_and_wait_at_a_time_as_flags_say(tmp_path: Path) -> None:
    limits = ["--max_batch_size", "2000", "--num_batch_threads", "2", "--max_enqueued_batches", "1"]
    content = "--enable_serialization_as_tensor_content"
    models.save(models.slow(), tmp_path / "model")
    with (
        serving(tmp_path, "--enable_batching", *limits, content) as (_, channel),
        ThreadPoolExecutor(8) as pool,
    ):
        full = np.ones((2000, 512), np.float32)
        # One after the other would take ten times as long as for all to come.
        codes = list(pool.map(code_of, [channel] * 8, [full] * 8))
        assert sorted(code.name for code in codes) == ["OK"] * 3 + ["UNAVAILABLE"] * 5
        assert answered(channel, full[:1]).tensor_content


RECORDED, ZEROS = "warmed up m/1 with 1 recorded requests", "warmed up serving_default of m/1 with zeros"


@pytest.mark.parametrize(
    ("flags", "inferences", "said", "unsaid"),
    [
        (["--num_request_iterations_for_warmup", "5"], 5, RECORDED, ZEROS),
        (["--enable_model_warmup", "false"], 1, ZEROS, RECORDED),
        (["--enable_model_warmup", "false", "--enable_signature_warmup", "false"], 0, "ready: m/1", "warmed up"),
    ],
    ids=["iterations", "no records", "neither"],
)
def test_so_many_inferences_warm_a_model_up_as_flags_say(
    flags: list[str], inferences: int, said: str, unsaid: str, tmp_path: Path
) -> None:
    log = schema.PredictionLog()
    log.predict_log.request.ParseFromString(written(zeros(1)))
    extra = models.save(dice(), tmp_path / "model") / "assets.extra"
    extra.mkdir()
    (extra / "tf_serving_warmup_requests").write_bytes(framed(log.SerializeToString()))
    with serving(tmp_path, *flags) as (server, _):
        assert server.post(PREDICT, {"instances": [0]}).body == {"predictions": [drawn(tmp_path / "model", inferences)]}
        server.process.wait_until(lambda: "ready: m/1" in server.log(), 10)
        assert said in server.log()
        assert unsaid not in server.log()


def test_a_model_without_records_is_not_warmed_up_if_flags_say_so(tmp_path: Path) -> None:
    models.save(dice(), tmp_path / "model")
    with serving(tmp_path, "--enable_signature_warmup", "false") as (server, _):
        assert server.post(PREDICT, {"instances": [0]}).body == {"predictions": [drawn(tmp_path / "model", 0)]}


def test_what_was_compiled_ahead_is_imported_unless_flags_say_otherwise(tmp_path: Path) -> None:
    models.save(models.weighty(), tmp_path / "model")
    assert main(["compile", str(tmp_path / "model"), "--force", "--cache_dir", str(tmp_path / "ahead")]) == 0
    said = {}
    for switch in ("true", "false"):
        with serving(tmp_path, "--compiled_cache", switch) as (server, _):
            assert server.post(PREDICT, {"instances": [[1.0] * 64]}).status == 200
            said[switch] = "compiled before" in server.log()
    assert said == {"true": True, "false": False}


def test_what_is_compiled_here_is_kept_unless_flags_say_otherwise(tmp_path: Path) -> None:
    # Not one of ours: of files that have only just changed nothing is kept.
    model = ("--model_path", DIGITS)
    with decant_serve(tmp_path / "not", *model, "--keep_compiled", "false") as server:
        # Each has been warmed up by now.
        with decant_serve(tmp_path / "kept", *model) as other:
            other.process.wait_until(lambda: any((tmp_path / "kept" / "cache").rglob("*.blob")), 20)
        assert server.is_ready()
    assert not any((tmp_path / "not" / "cache").rglob("*.blob"))


def test_so_many_servers_and_threads_answer_as_flags_say(tmp_path: Path) -> None:
    servers = min(2, len(os.sched_getaffinity(0)))
    wait = ["--enable_batching", "--batch_timeout_micros", "2500000"]
    threads = ["--rest_workers", "2", "--grpc_max_threads", "1", "--grpc_workers", str(servers)]
    models.save(witness(), tmp_path / "model")
    with (
        serving(tmp_path, *wait, *threads, "--grpc_channel_arguments", "grpc.max_receive_message_length=1000") as (
            server,
            channel,
        ),
        ThreadPoolExecutor(3) as pool,
    ):
        ends = psutil.Process(server.process.pid).net_connections("tcp")
        assert [end.laddr.port for end in ends if end.status == "LISTEN"].count(server.grpc_port) == servers
        assert code_of(channel, zeros(1, 1000)) is grpc.StatusCode.RESOURCE_EXHAUSTED

        # These wait for others to run with, each in a thread.
        waiting: list[Future[Any]] = [pool.submit(answered, channel, zeros(1, 3))]
        waiting += [pool.submit(server.post, PREDICT, {"instances": [[0, 0]]}) for _ in range(2)]
        until(lambda: is_kept_waiting(lambda: server.get("/v1/models/m", timeout=0.2)))
        check = health_pb2_grpc.HealthStub(channel).Check
        until(lambda: is_kept_waiting(lambda: check(health_pb2.HealthCheckRequest(), timeout=0.2)))
        assert not any(future.done() for future in waiting)
        assert server.get("/v2/health/live").status == 200
        assert [future.result().status for future in waiting[1:]] == [200, 200]
        assert waiting[0].exception() is None
        assert server.get("/v1/models/m").status == 200


def is_kept_waiting(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except TimeoutError:
        return True
    except grpc.RpcError as exc:
        return exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    return False


def test_a_model_is_made_as_its_flags_say(tmp_path: Path) -> None:
    steps = ["--mean", "[1,2,3]", "--scale", "4", "--color_format", "RGB:BGR", "--precision", "uint8:fp32"]
    form = ["--shape", "(1,2,2,3)", "--layout", "NHWC:NCHW", "--target_device", "CPU", "--nireq", "3"]
    models.save(image_doubler(), tmp_path / "model")
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    with serving(tmp_path, *steps, *form, "--plugin_config", '{"INFERENCE_PRECISION_HINT": "f32"}') as (server, _):
        (spec,) = inputs_of(server)
        assert (spec["dtype"], [dim["size"] for dim in spec["tensor_shape"]["dim"]]) == (
            "DT_UINT8",
            ["1", "2", "2", "3"],
        )
        answer = server.post(PREDICT, {"inputs": pixels.tolist()})
        # Channels are turned before the mean of each is taken away.
        want = 2 * (pixels[..., ::-1].astype(np.float32) - np.array([1, 2, 3], np.float32)) / 4
        assert np.array_equal(answer.body["outputs"], want.transpose(0, 3, 1, 2))


def image_doubler() -> Any:
    """``y = 2x`` for images of one size in NCHW."""
    return models.doubler(shape=(1, 3, 2, 2))


def inputs_of(server: Decant) -> list[Any]:
    signatures = server.get("/v1/models/m/metadata").body["metadata"]["signature_def"]["signature_def"]
    return list(signatures["serving_default"]["inputs"].values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target_device", "NPU"], "Cannot compile model into target device NPU: "),
        (["--shape", '{"z": "(1,2)"}'], "Shape from config not found in model: z is given; want one of x"),
        (["--layout", '{"z": "NC:CN"}'], "Layout from config not found in model: z is given; want one of y, x"),
        (["--cpu_extension", str(DIGITS / "seven.json")], f"cpu_extension {DIGITS / 'seven.json'}: "),
        (["--batch_size", "2", "--model_version_policy", '{"specific": {"versions": [7]}}'], "Model with requested"),
    ],
)
def test_what_a_model_cannot_be_made_into_is_told(flags: list[str], message: str, tmp_path: Path) -> None:
    models.save(models.doubler(), tmp_path / "model")
    argv = ["--model_name", "m", "--model_path", str(tmp_path / "model"), *flags]
    with decant_serve(tmp_path, *argv, without_grpc=True, wait=False) as server:
        server.process.wait_until(lambda: " ERROR handlers.lifecycle: " in server.log(), 30)
        (line, *_) = [line for line in server.log().splitlines() if " ERROR handlers.lifecycle: " in line]
    assert message in line
