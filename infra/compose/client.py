"""Ask Decant what digit a picture shows, over REST and over gRPC: ``client.py URL ADDRESS MODEL FILE``.

A job in Decant's image, which has all that this imports. A client of your own takes the messages from
tensorflow-serving-api, or ovmsclient, in place of ``runtime.codecs``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import grpc
import numpy as np

from runtime.codecs import schema, tensor_proto

PATIENCE = 60.0
"""Seconds for the server to be ready, where nobody has waited for that already."""
TIMEOUT = 30
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def main(url: str, address: str, model: str, file: str) -> None:
    body = Path(file).read_bytes()
    try:
        _wait_until_ready(url)
        digits = {"REST": over_rest(url, model, body), "gRPC": over_grpc(address, model, body)}
    except (OSError, grpc.RpcError) as exc:
        detail = exc.details() if isinstance(exc, grpc.Call) else exc
        sys.exit(f"no prediction of {model!r} from {url} and {address}: {detail}")
    for api, digit in digits.items():
        sys.stdout.write(f"{api}: the picture shows a {digit}\n")


def over_rest(url: str, model: str, body: bytes) -> int:
    """Send TensorFlow Serving's row format."""
    request = Request(f"{url}/v1/models/{model}:predict", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=TIMEOUT) as response:
        return int(json.load(response)["predictions"][0]["digit"])


def over_grpc(address: str, model: str, body: bytes) -> int:
    request = schema.PredictRequest()
    request.model_spec.name = model
    image = np.asarray(json.loads(body)["instances"], np.float32)
    tensor_proto.encode(image, request.inputs["image"], tensor_content_from=1)
    with grpc.insecure_channel(address) as channel:
        predict: Any = channel.unary_unary(
            PREDICT,
            request_serializer=schema.PredictRequest.SerializeToString,
            response_deserializer=schema.PredictResponse.FromString,
        )
        answer = predict(request, timeout=TIMEOUT)
    return int(tensor_proto.decode("digit", answer.outputs["digit"]).reshape(-1)[0])


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urlopen(f"{url}/v2/health/ready", timeout=5).close()
        except URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: client.py URL ADDRESS MODEL FILE")
    main(*sys.argv[1:])
