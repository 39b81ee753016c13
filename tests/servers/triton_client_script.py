"""What tritonclient is told to do. Run by client_process_script.py, sees nothing of Decant."""

from __future__ import annotations

import queue
from functools import cache, partial
from typing import Any

import tritonclient.grpc
import tritonclient.http
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

TIMEOUT = 40.0


def answer(call: dict[str, Any]) -> Any:
    client = client_of(call["transport"], call["address"])
    if call["method"] not in KINDS:
        return plain(getattr(client, call["method"])(*call["args"], **call["options"]))
    return KINDS[call["method"]](client, call["transport"], call["requests"])


@cache
def client_of(transport: str, address: str) -> Any:
    if transport == "grpc":
        return tritonclient.grpc.InferenceServerClient(address)
    return tritonclient.http.InferenceServerClient(
        address, concurrency=16, connection_timeout=TIMEOUT, network_timeout=TIMEOUT
    )


def plain(value: Any) -> Any:
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return value


def infer(client: Any, transport: str, requests: list[dict[str, Any]]) -> Any:
    return [outcome(partial(client.infer, **arguments(transport, request))) for request in requests]


def async_infer(client: Any, transport: str, requests: list[dict[str, Any]]) -> Any:
    if transport == "http":
        under_way = [client.async_infer(**arguments(transport, request)) for request in requests]
        return [outcome(one.get_result) for one in under_way]
    waiting = []
    for request in requests:
        results: queue.Queue[Any] = queue.Queue()
        client.async_infer(
            callback=lambda result, error, results=results: results.put((result, error)),
            **arguments(transport, request),
        )
        waiting.append(results)
    return [outcome(partial(received, results)) for results in waiting]


def stream_infer(client: Any, transport: str, requests: list[dict[str, Any]]) -> Any:
    results: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=partial(put, results))
    try:
        for request in requests:
            client.async_stream_infer(**arguments(transport, request))
        return [outcome(partial(received, results)) for _ in requests]
    finally:
        client.stop_stream()


def put(results: queue.Queue[Any], result: Any, error: Any) -> None:
    results.put((result, error))


def received(results: queue.Queue[Any]) -> Any:
    result, error = results.get(timeout=TIMEOUT)
    if error is not None:
        raise error
    return result


def outcome(run: Any) -> tuple[bool, Any]:
    try:
        return True, told(run())
    except InferenceServerException as error:
        return False, (type(error).__name__, str(error.status()), error.message())


def told(result: Any) -> tuple[Any, dict[str, Any]]:
    response = plain(result.get_response())
    response.pop("raw_output_contents", None)
    return response, {output["name"]: result.as_numpy(output["name"]) for output in response.get("outputs", [])}


def arguments(transport: str, request: dict[str, Any]) -> dict[str, Any]:
    module: Any = tritonclient.http if transport == "http" else tritonclient.grpc
    inputs = []
    for name, array in request["inputs"].items():
        inputs.append(module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        form = {"binary_data": request["is_binary"]} if transport == "http" else {}
        inputs[-1].set_data_from_numpy(array, **form)
    outputs = None
    if request["outputs"] is not None:
        outputs = []
        for name, is_binary, classes in request["outputs"]:
            form = {"binary_data": is_binary} if transport == "http" else {}
            outputs.append(module.InferRequestedOutput(name, class_count=classes, **form))
    return {"model_name": request["model"], "inputs": inputs, "outputs": outputs, **request["options"]}


KINDS = {"infer": infer, "async_infer": async_infer, "stream_infer": stream_infer}
