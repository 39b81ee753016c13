"""What the kserve package's clients are told to do. Run by client_process_script.py, sees nothing of Decant."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput, to_http_parameters
from kserve.utils.numpy_codec import from_np_dtype

TIMEOUT = 40.0


def answer(call: dict[str, Any]) -> Any:
    return loop().run_until_complete(infer(call) if call["method"] == "infer" else run(call))


@cache
def loop() -> asyncio.AbstractEventLoop:
    """Return the one loop that all clients belong to."""
    return asyncio.new_event_loop()


@cache
def rest() -> Any:
    return InferenceRESTClient(RESTConfig(protocol="v2", timeout=TIMEOUT))


@cache
def grpc(address: str) -> Any:
    # It would ask again what is unavailable, which tests want to see.
    return InferenceGRPCClient(address, timeout=TIMEOUT, retries=0)


async def run(call: dict[str, Any]) -> Any:
    if call["transport"] == "grpc":
        return await getattr(grpc(call["address"]), call["method"])(*call["args"])
    return await getattr(rest(), call["method"])(call["address"], *call["args"])


async def infer(call: dict[str, Any]) -> Any:
    inputs = []
    for name, array in call["inputs"].items():
        inputs.append(InferInput(name, list(array.shape), from_np_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array, binary_data=call["is_binary"])
    outputs = [RequestedOutput(name, parameters) for name, parameters in call["outputs"].items()]
    request = InferRequest(call["model"], inputs, request_outputs=outputs or None, **call["options"])
    if call["transport"] == "grpc":
        return told(await grpc(call["address"]).infer(request))
    return told(await rest().infer(call["address"], request, model_name=call["model"]))


def told(response: Any) -> Any:
    return (
        response.id,
        response.model_name,
        response.model_version,
        to_http_parameters(response.parameters or {}),
        {output.name: output.as_numpy() for output in response.outputs},
        {output.name: came_as_bytes(output) for output in response.outputs},
    )


def came_as_bytes(output: Any) -> bool:
    # Of an answer over HTTP it only leaves behind the parameters out of which it has taken the size.
    return output._raw_data is not None or output.parameters == {}
