"""The messages of tensorflow-serving-api, measured in a process of their own, which ``benchmarks.codecs`` starts.

Nothing but TensorFlow's packages is on the path here.
"""

from __future__ import annotations

import json
import statistics
import sys
import timeit
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2


def cases(shape: list[int]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    array = np.random.default_rng(4).standard_normal(shape).astype(np.float32)

    def content() -> bytes:
        response = predict_pb2.PredictResponse()
        response.outputs["y"].CopyFrom(tf.make_tensor_proto(array))
        serialized: bytes = response.SerializeToString()
        return serialized

    def typed() -> bytes:
        response = predict_pb2.PredictResponse()
        proto = response.outputs["y"]
        proto.dtype = tf.float32.as_datatype_enum
        for size in array.shape:
            proto.tensor_shape.dim.add(size=size)
        proto.float_val.extend(array.ravel().tolist())
        serialized: bytes = response.SerializeToString()
        return serialized

    for form, write in (("tensor_content", content), ("typed fields", typed)):
        request = predict_pb2.PredictRequest()
        request.inputs["x"].CopyFrom(predict_pb2.PredictResponse.FromString(write()).outputs["y"])
        serialized = request.SerializeToString()

        def read(serialized: bytes = serialized) -> Any:
            return tf.make_ndarray(predict_pb2.PredictRequest.FromString(serialized).inputs["x"])

        assert np.array_equal(read(), array)
        yield form, "read", read
        yield form, "write", write


def main() -> None:
    shapes, runs, at_least = json.loads(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    results = []
    for shape in shapes:
        for form, what, call in cases(shape):
            timer = timeit.Timer(call)
            timer.timeit(1)
            number = max(1, round(at_least / max(timer.timeit(1), 1e-7)))
            milliseconds = statistics.median(timer.repeat(runs, number)) / number * 1000
            results.append((form, shape, what, "TensorFlow's messages", milliseconds))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
