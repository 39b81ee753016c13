"""Batching and warm-up as one has them: by flags, in a server, over REST and gRPC."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
import numpy as np

from runtime.codecs import schema, tensor_proto
from tests.runtime import models
from tests.servers.decant import Decant, decant_serve

CALLERS = 16
PARAMETERS = "max_batch_size { value: 8 } batch_timeout_micros { value: 2000 } allowed_batch_sizes: [4, 8]"


def framed(record: bytes) -> bytes:
    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


def request_of(number: int) -> bytes:
    request = schema.PredictRequest()
    request.model_spec.name = "doubler"
    tensor_proto.encode(np.full((1, 2), number, np.float32), request.inputs["x"])
    data: bytes = request.SerializeToString()
    return data


def rest(server: Decant, number: int) -> list[float]:
    reply = server.post("/v1/models/doubler:predict", {"instances": [[number, number]]})
    assert reply.status == 200, reply.body
    (answer,) = reply.body["predictions"]
    return [float(value) for value in answer]


def rpc(channel: grpc.Channel, number: int) -> list[float]:
    call: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    response = schema.PredictResponse.FromString(call(request_of(number), timeout=30))
    answer: list[float] = tensor_proto.decode("y", response.outputs["y"]).ravel().tolist()
    return answer


def test_everybody_gets_their_own_answer_from_a_server_that_batches(tmp_path: Path) -> None:
    version = models.save(models.doubler(), tmp_path / "model")
    (version / "batching_params.pbtxt").write_text(PARAMETERS)
    log = schema.PredictionLog()
    log.predict_log.request.ParseFromString(request_of(1))
    (version / "assets.extra").mkdir()
    (version / "assets.extra" / "tf_serving_warmup_requests").write_bytes(framed(log.SerializeToString()))
    flags = ("--model_name", "doubler", "--model_path", tmp_path / "model")
    with decant_serve(tmp_path, *flags, "--enable_batching", "--enable_per_model_batching_parameters") as server:
        assert "warmed up doubler/1 with 1 recorded requests in" in server.log()
        # Nine of them are refused, as no batch could be so large.
        assert server.post("/v1/models/doubler:predict", {"instances": [[1, 1]] * 9}).body == {
            "error": "Task size 9 is larger than maximum input batch size 8"
        }
        with ThreadPoolExecutor(CALLERS) as threads, grpc.insecure_channel(server.grpc_address) as channel:
            # Numbers that bfloat16 has, if the processor computes in that.
            answers = {n: (threads.submit(rest, server, n), threads.submit(rpc, channel, n)) for n in range(100)}
            for number, pair in answers.items():
                assert [future.result() for future in pair] == [[2 * number] * 2] * 2
