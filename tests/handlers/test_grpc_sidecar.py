"""What only the real gRPC front shows: message sizes, its limit of calls, and what becomes of garbage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from runtime.codecs import schema
from tests.runtime import models
from tests.servers.decant import decant_serve

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def test_messages_far_above_grpcs_own_limit_go_both_ways(tmp_path: Path) -> None:
    models.save(models.doubler(), tmp_path / "model")
    flags = ["--model_name", "doubler", "--model_path", str(tmp_path / "model")]
    array = np.arange(16 << 20, dtype=np.float32).reshape(-1, 2)
    request = schema.PredictRequest()
    request.model_spec.name = "doubler"
    request.inputs["x"].dtype = 1
    for size in array.shape:
        request.inputs["x"].tensor_shape.dim.add(size=size)
    request.inputs["x"].tensor_content = array.tobytes()
    with (
        decant_serve(tmp_path, *flags, without_rest=True) as server,
        grpc.insecure_channel(server.grpc_address, options=UNLIMITED) as channel,
    ):
        predict: Any = channel.unary_unary(PREDICT, response_deserializer=schema.PredictResponse.FromString)
        response = predict(request.SerializeToString(), timeout=60)
        answer = np.frombuffer(b"".join(response.outputs["y"].float_val), "<f4")
        # In bfloat16, perhaps: powers of two pass through it unharmed.
        powers = 2 ** np.arange(24)
        assert answer[powers].tolist() == (2 * powers).tolist()
        assert answer.shape == (16 << 20,)

        with pytest.raises(grpc.RpcError) as caught:
            predict(b"\xff not a message", timeout=60)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert predict(request.SerializeToString(), timeout=60).model_spec.version.value == 1
