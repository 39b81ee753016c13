"""The gRPC front in this process, over servables that behave, and calls to it on real sockets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2

from handlers.grpc_sidecar import GrpcServer
from runtime.codecs import schema
from runtime.server import ModelServer
from tests.fakes import PATIENCE
from tests.runtime.servables import NAME

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
PREDICT = "/tensorflow.serving.PredictionService/Predict"
X = np.array([1, 2, 5], np.float32)
Y = [2.5, 3.0, 4.5]
SERVING = health_pb2.HealthCheckResponse.SERVING


@contextlib.contextmanager
def listening(server: ModelServer, port: int = 0, **options: Any) -> Iterator[GrpcServer]:
    """The front, which has drained when the block ends."""
    front = GrpcServer(server, "127.0.0.1", port, **{"max_in_flight": 4, **options})
    front.start()
    try:
        yield front
    finally:
        assert front.drain(PATIENCE)


def request_of(name: str, x: np.ndarray[Any, Any]) -> Any:
    request = schema.PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].dtype = 1
    for size in x.shape:
        request.inputs["x"].tensor_shape.dim.add(size=size)
    request.inputs["x"].tensor_content = x.tobytes()
    return request


def stub(channel: grpc.Channel) -> Any:
    """What takes a PredictRequest and a timeout."""
    write, read = schema.PredictRequest.SerializeToString, schema.PredictResponse.FromString
    return channel.unary_unary(PREDICT, request_serializer=write, response_deserializer=read)


def predict(channel: grpc.Channel, timeout: float = PATIENCE) -> list[float]:
    response = stub(channel)(request_of(NAME, X), timeout=timeout)
    y: list[float] = np.frombuffer(b"".join(response.outputs["y"].float_val), "<f4").tolist()
    return y


def outcome(call: Any, *args: Any, **options: Any) -> grpc.StatusCode:
    try:
        call(*args, **options)
    except grpc.RpcError as exc:
        code: grpc.StatusCode = exc.code()
        return code
    return grpc.StatusCode.OK
