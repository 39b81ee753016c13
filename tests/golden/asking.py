"""Predict requests over both fronts of a real server, written and read here without Decant's codecs."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.golden.direct import Arrays
from tests.runtime import oracle
from tests.servers.decant import Decant

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Ask(Protocol):
    def __call__(self, server: Decant, model: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays: ...


def over_rest(server: Decant, model: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    """Ask in columns. A single output has no name there: it is "" here."""
    reply = server.post(f"/v1/models/{model}:predict", {"inputs": {name: x.tolist() for name, x in inputs.items()}})
    assert reply.status == 200, reply.body
    return by_name(reply.body["outputs"])


def over_grpc(server: Decant, model: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    return call(server, request(model, inputs))


def request(model: str, inputs: Mapping[str, NDArray[Any]]) -> Any:
    message = oracle.PredictRequest()
    message.model_spec.name = model
    for name, x in inputs.items():
        dtype, field = oracle.DATA_TYPES[x.dtype.name]
        tensor = _tensor(message, name, dtype, x.shape)
        # OpenVINO Model Server looks for a sequence's numbers in their field, and for all others in the content.
        if x.dtype.kind == "u":
            getattr(tensor, field).extend(x.ravel().tolist())
        else:
            tensor.tensor_content = x.tobytes()
    return message


def with_images(model: str, name: str, images: Sequence[bytes]) -> Any:
    """Return a gRPC request of encoded images."""
    message = oracle.PredictRequest()
    message.model_spec.name = model
    _tensor(message, name, "DT_STRING", (len(images),)).string_val.extend(images)
    return message


def call(server: Decant, message: Any) -> Arrays:
    """Return the outputs, by their names.

    Raises:
        grpc.RpcError: the server said no.
    """
    with grpc.insecure_channel(server.grpc_address, options=UNLIMITED) as channel:
        predict: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        answer = oracle.PredictResponse.FromString(predict(message.SerializeToString(), timeout=30))
    return {name: _array(tensor) for name, tensor in answer.outputs.items()}


def by_name(outputs: Any) -> Arrays:
    """Return the outputs in a REST answer in columns."""
    named = outputs if isinstance(outputs, dict) else {"": outputs}
    return {name: np.array(values) for name, values in named.items()}


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


def assert_same(outputs: Arrays, want: Arrays) -> None:
    """Check every output that came against the one of its name; "" is the only one there is."""
    assert outputs
    for name, array in outputs.items():
        expected = want[name] if name else next(iter(want.values()))
        assert array.shape == expected.shape, name
        # Sums are made in another order with other numbers of threads.
        np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-4, err_msg=name)


def _tensor(message: Any, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
    tensor = message.inputs[name]
    tensor.dtype = oracle.DATA_TYPE.values_by_name[dtype].number
    for size in shape:
        tensor.tensor_shape.dim.add().size = size
    return tensor


def _array(tensor: Any) -> NDArray[Any]:
    name = oracle.DATA_TYPE.values_by_number[tensor.dtype].name
    dtype, field = next((dtype, field) for dtype, (known, field) in oracle.DATA_TYPES.items() if known == name)
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    return np.array(getattr(tensor, field), dtype).reshape(shape)


both_fronts = pytest.mark.parametrize("ask", [over_rest, over_grpc], ids=["rest", "grpc"])
