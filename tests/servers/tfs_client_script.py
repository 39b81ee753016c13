"""Ask a server what TensorFlow Serving's clients ask, and write down what came of it. Started by tfs_client.py, in a
process that sees the standard library and tensorflow-serving-api with its TensorFlow, and nothing of Decant.

What came of a case is ``{"code": …, "details": …}`` for an error, else what the case returns.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TIMEOUT = 20.0
Case = tuple[str, Callable[[], Any]]

# OpenVINO's names of the element types, TensorFlow's, and the field of each.
DTYPES = {
    "f32": ("float32", "float_val"),
    "f64": ("float64", "double_val"),
    "f16": ("float16", "half_val"),
    "bf16": ("bfloat16", "half_val"),
    "i8": ("int8", "int_val"),
    "i16": ("int16", "int_val"),
    "i32": ("int32", "int_val"),
    "i64": ("int64", "int64_val"),
    "u8": ("uint8", "int_val"),
    "u16": ("uint16", "int_val"),
    "u32": ("uint32", "uint32_val"),
    "u64": ("uint64", "uint64_val"),
    "boolean": ("bool", "bool_val"),
}


def main(packages: str, directory: Path) -> None:
    """Read call.json: ``socket`` and ``address``, two ways to one server; ``root``, the certificate that it shows at
    the second; ``content_socket``, of a server that answers in tensor_content; ``schema``, a FileDescriptorProto to
    compare; ``reload``, a ModelServerConfig as text."""
    sys.path.insert(0, packages)
    call = json.loads((directory / "call.json").read_text())
    import grpc

    results: dict[str, Any] = {}
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"unix:{call['socket']}", options=unlimited) as channel:
        for name, ask in cases(Client(channel), call):
            assert name not in results, name
            try:
                results[name] = ask()
            except grpc.RpcError as error:
                results[name] = {"code": error.code().name, "details": error.details()}
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what the client told its user
                results[name] = {"code": type(error).__name__, "details": str(error)}
    (directory / "results.json").write_text(json.dumps(results))


class Client:
    def __init__(self, channel: Any) -> None:
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        self.channel = channel
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(channel)

    def predict(self, request: Any) -> Any:
        return self.prediction.Predict(request, timeout=TIMEOUT)


def cases(client: Client, call: dict[str, Any]) -> Iterator[Case]:
    for element_type in DTYPES:
        yield from dtype_cases(client, element_type)
    yield from string_cases(client)
    yield from predict_cases(client)
    yield from error_cases(client)
    yield from metadata_cases(client)
    yield from example_cases(client)
    yield "over TLS", lambda: over_tls(call)
    yield from content_cases(call["content_socket"])
    yield "same bytes", lambda: same_bytes(client)
    yield "schema", lambda: differences(Path(call["schema"]).read_bytes())
    # Last, as nothing is as before then.
    yield from reload_cases(client, call["reload"])


def predict_request(model: str, **inputs: Any) -> Any:
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    for name, proto in inputs.items():
        request.inputs[name].CopyFrom(proto)
    return request


def told(proto: Any, field: str) -> dict[str, Any]:
    """What a client sees of a tensor: by TensorFlow's way to read one, and in the field of its dtype."""
    import tensorflow as tf

    array = tf.make_ndarray(proto)
    return {
        "dtype": tf.dtypes.as_dtype(proto.dtype).name,
        "shape": list(array.shape),
        "values": plain(array.tolist()),
        "field": plain(list(getattr(proto, field))),
        "content": len(proto.tensor_content),
    }


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


def dtype_cases(client: Client, element_type: str) -> Iterator[Case]:
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2
    from tensorflow.python.framework import tensor_util

    name, field = DTYPES[element_type]
    dtype = tf.dtypes.as_dtype(name)
    values = [[True, False], [False, True]] if name == "bool" else [[1, 2], [3, 50]]
    array = tf.constant(values, dtype).numpy()
    # In either form, by the dtype.
    made = tf.make_tensor_proto(array)
    content, typed = (tensor_pb2.TensorProto(dtype=made.dtype, tensor_shape=made.tensor_shape) for _ in range(2))
    content.tensor_content = array.tobytes()
    tensor_util.GetNumpyAppendFn(array.dtype)(typed, array.ravel())
    repeated = tf.make_tensor_proto(values[0][1], dtype, shape=[3, 2])
    none = tf.make_tensor_proto(array[:0])

    def ask(proto: Any) -> Callable[[], Any]:
        return lambda: told(client.predict(predict_request(element_type, x=proto)).outputs["y"], field)

    yield f"{name} as it is made", ask(made)
    yield f"{name} as content", ask(content)
    yield f"{name} in its field", ask(typed)
    assert len(getattr(repeated, field)) == 1
    yield f"{name} repeated", ask(repeated)
    yield f"{name} empty", ask(none)


def string_cases(client: Client) -> Iterator[Case]:
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2, types_pb2

    def ask(proto: Any) -> Any:
        outputs = client.predict(predict_request("speller", x=proto)).outputs
        return {"y": told(outputs["y"], "string_val"), "length": tf.make_ndarray(outputs["length"]).tolist()}

    words = [b"", b"plain", "ä€".encode(), b"\x00\xff"]
    yield "strings", lambda: ask(tf.make_tensor_proto(words))
    yield "strings repeated", lambda: ask(tf.make_tensor_proto("ab", shape=[3]))
    # TensorFlow's other form, which make_tensor_proto does not write: lengths, then bytes.
    form = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_content=b"\x02\x00\x03abxyz")
    form.tensor_shape.dim.add(size=3)
    yield "strings as content", lambda: ask(form)
    yield (
        "strings as content, by TensorFlow",
        lambda: plain(tf.io.parse_tensor(form.SerializeToString(), tf.string).numpy().tolist()),
    )


def predict_cases(client: Client) -> Iterator[Case]:
    import numpy as np
    import tensorflow as tf

    x = tf.make_tensor_proto(np.ones((1, 2), np.float32))

    def spec(**fields: Any) -> Callable[[], Any]:
        def ask() -> Any:
            request = predict_request("two", x=x)
            version = fields.pop("version", None)
            if version is not None:
                request.model_spec.version.value = version
            for name, value in fields.items():
                setattr(request.model_spec, name, value)
            answered = client.predict(request).model_spec
            return [answered.name, answered.version.value, answered.signature_name, answered.version_label]

        return ask

    yield "the newest version", spec()
    yield "a version", spec(version=1)
    yield "a label", spec(version_label="stable")
    yield "another label", spec(version_label="canary")
    yield "a signature", spec(signature_name="serving_default")

    left, right = np.ones((1, 3), np.float32), np.ones((2, 1), np.int32)
    both = {"left": tf.make_tensor_proto(left), "right": tf.make_tensor_proto(right)}

    def filtered(*names: str) -> Callable[[], Any]:
        def ask() -> Any:
            request = predict_request("crossing", **both)
            request.output_filter.extend(names)
            return {key: tf.make_ndarray(proto).tolist() for key, proto in client.predict(request).outputs.items()}

        return ask

    yield "all outputs", filtered()
    yield "one output", filtered("doubled")
    yield "an output that is not there", filtered("z")
    yield "an output twice", filtered("total", "total")
    vector = tf.make_tensor_proto(np.array([1, 2, 4], np.float32))
    yield (
        "a scalar out",
        lambda: told(client.predict(predict_request("summer", x=vector)).outputs["total"], "float_val"),
    )
    many = tf.make_tensor_proto(np.ones((1 << 20, 2), np.float32))
    yield (
        "eight megabytes",
        lambda: float(tf.make_ndarray(client.predict(predict_request("f32", x=many)).outputs["y"]).sum()),
    )


def error_cases(client: Client) -> Iterator[Case]:
    import numpy as np
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

    x = tf.make_tensor_proto(np.ones((1, 2), np.float32))
    wrong_dtype = tf.make_tensor_proto(np.ones((1, 2), np.int64))
    wrong_shape = tf.make_tensor_proto(np.ones((1, 3), np.float32))
    no_tensor = tensor_pb2.TensorProto(dtype=1, tensor_content=b"123")

    def ask(model: str, inputs: dict[str, Any], **fields: Any) -> Callable[[], Any]:
        def send() -> Any:
            request = predict_request(model, **inputs)
            version = fields.pop("version", None)
            if version is not None:
                request.model_spec.version.value = version
            for name, value in fields.items():
                setattr(request.model_spec, name, value)
            return str(client.predict(request))

        return send

    yield "no model_spec", lambda: str(client.predict(predict_pb2.PredictRequest()))
    yield "no name", ask("", {"x": x})
    yield "unknown model", ask("absent", {"x": x})
    yield "unknown version", ask("two", {"x": x}, version=9)
    yield "unknown label", ask("two", {"x": x}, version_label="gold")
    yield "unknown signature", ask("two", {"x": x}, signature_name="other")
    yield "no input", ask("two", {})
    yield "an input too many", ask("two", {"x": x, "z": x})
    yield "another input", ask("two", {"z": x})
    yield "no tensor", ask("two", {"x": no_tensor})
    yield "another dtype", ask("two", {"x": wrong_dtype})
    yield "another shape", ask("two", {"x": wrong_shape})

    metadata = get_model_metadata_pb2.GetModelMetadataRequest()
    yield "metadata without model_spec", lambda: str(client.prediction.GetModelMetadata(metadata, timeout=TIMEOUT))
    nothing = get_model_metadata_pb2.GetModelMetadataRequest(model_spec={"name": "two"})
    yield "metadata of nothing", lambda: str(client.prediction.GetModelMetadata(nothing, timeout=TIMEOUT))
    other = get_model_metadata_pb2.GetModelMetadataRequest(model_spec={"name": "two"}, metadata_field=["other"])
    yield "other metadata", lambda: str(client.prediction.GetModelMetadata(other, timeout=TIMEOUT))
    absent = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "absent"})
    yield "status of an unknown model", lambda: str(client.model.GetModelStatus(absent, timeout=TIMEOUT))
    version = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "two", "version": {"value": 9}})
    yield "status of an unknown version", lambda: str(client.model.GetModelStatus(version, timeout=TIMEOUT))


def metadata_cases(client: Client) -> Iterator[Case]:
    from tensorflow.core.framework import types_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

    def infos(signature: Any) -> Any:
        return [
            [
                [name, info.name, types_pb2.DataType.Name(info.dtype), [dim.size for dim in info.tensor_shape.dim]]
                for name, info in sorted(side.items())
            ]
            for side in (signature.inputs, signature.outputs)
        ]

    def metadata(model: str) -> Any:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec={"name": model}, metadata_field=["signature_def"]
        )
        response = client.prediction.GetModelMetadata(request, timeout=TIMEOUT)
        packed = response.metadata["signature_def"]
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert packed.Unpack(signatures)
        return {
            "type_url": packed.type_url,
            "model_spec": [response.model_spec.name, response.model_spec.version.value],
            "signatures": {name: infos(signature) for name, signature in signatures.signature_def.items()},
            "method_names": [signature.method_name for signature in signatures.signature_def.values()],
        }

    def status(**spec: Any) -> Any:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        states = get_model_status_pb2.ModelVersionStatus.State
        return [
            [entry.version, states.Name(entry.state), entry.status.error_code, entry.status.error_message]
            for entry in client.model.GetModelStatus(request, timeout=TIMEOUT).model_version_status
        ]

    yield "metadata", lambda: metadata("crossing")
    yield "metadata of strings", lambda: metadata("speller")["signatures"]
    yield "status", lambda: sorted(status(name="two"))
    yield "status of a version", lambda: status(name="two", version={"value": 1})
    yield "status by a label", lambda: sorted(status(name="two", version_label="nobody has it"))


def example_cases(client: Client) -> Iterator[Case]:
    import tensorflow as tf
    from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, regression_pb2

    def example(**features: Any) -> Any:
        return tf.train.Example(
            features=tf.train.Features(
                feature={
                    name: tf.train.Feature(float_list=tf.train.FloatList(value=values))
                    for name, values in features.items()
                }
            )
        )

    def examples(*members: Any, context: Any = None) -> Any:
        made = input_pb2.Input()
        if context is None:
            made.example_list.examples.extend(members)
        else:
            made.example_list_with_context.examples.extend(members)
            made.example_list_with_context.context.CopyFrom(context)
        return made

    def classes(result: Any) -> Any:
        return [[[item.label, item.score] for item in row.classes] for row in result.classifications]

    def classify(given: Any) -> Any:
        request = classification_pb2.ClassificationRequest(model_spec={"name": "f32"}, input=given)
        response = client.prediction.Classify(request, timeout=TIMEOUT)
        return [classes(response.result), response.model_spec.name, response.model_spec.version.value]

    def regress(given: Any) -> Any:
        request = regression_pb2.RegressionRequest(model_spec={"name": "adder"}, input=given)
        return [row.value for row in client.prediction.Regress(request, timeout=TIMEOUT).result.regressions]

    def multi(*methods: str) -> Any:
        request = inference_pb2.MultiInferenceRequest(input=examples(example(x=[1, 2])))
        for method in methods:
            request.tasks.add(model_spec={"name": "f32"}, method_name=method)
        response = client.prediction.MultiInference(request, timeout=TIMEOUT)
        return [classes(result.classification_result) for result in response.results]

    yield "classify", lambda: classify(examples(example(x=[1, 2]), example(x=[3, 4])))
    yield "classify nothing", lambda: classify(examples())
    yield "regress", lambda: regress(examples(example(a=[1], b=[10]), example(a=[2], b=[20])))
    yield "regress with context", lambda: regress(examples(example(a=[1]), example(a=[2]), context=example(b=[10])))
    yield "several inferences", lambda: multi("tensorflow/serving/classify")
    yield "an inference of no kind", lambda: multi("tensorflow/serving/guess")


def over_tls(call: dict[str, Any]) -> Any:
    import grpc
    import numpy as np
    import tensorflow as tf

    credentials = grpc.ssl_channel_credentials(Path(call["root"]).read_bytes())
    with grpc.secure_channel(call["address"], credentials) as channel:
        x = tf.make_tensor_proto(np.ones((1, 2), np.float32))
        return tf.make_ndarray(Client(channel).predict(predict_request("two", x=x)).outputs["y"]).tolist()


def content_cases(socket: str) -> Iterator[Case]:
    import grpc
    import numpy as np
    import tensorflow as tf

    def ask(model: str, x: Any, field: str) -> Callable[[], Any]:
        def send() -> Any:
            with grpc.insecure_channel(f"unix:{socket}") as channel:
                request = predict_request(model, x=tf.make_tensor_proto(x))
                return told(Client(channel).predict(request).outputs["y"], field)

        return send

    for element_type, (name, field) in DTYPES.items():
        dtype = tf.dtypes.as_dtype(name)
        yield f"{name} answered in content", ask(element_type, tf.ones((2, 2), dtype).numpy(), field)
    yield "strings answered in content", ask("speller", np.array([b"ab", b""], object), "string_val")


def same_bytes(client: Client) -> Any:
    """For each kind of answer: whether TensorFlow Serving's own messages, read from it, are written the same."""
    import numpy as np
    import tensorflow as tf
    from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

    x = tf.make_tensor_proto(np.array([[0.1, -2], [3, 4]], np.float32))
    spec = {"name": "two"}
    asked = {
        "PredictionService/Predict": (predict_request("two", x=x), predict_pb2.PredictResponse),
        "PredictionService/GetModelMetadata": (
            get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"]),
            get_model_metadata_pb2.GetModelMetadataResponse,
        ),
        "ModelService/GetModelStatus": (
            get_model_status_pb2.GetModelStatusRequest(model_spec=spec),
            get_model_status_pb2.GetModelStatusResponse,
        ),
    }
    same = {}
    for method, (request, answer) in asked.items():
        content = client.channel.unary_unary(f"/tensorflow.serving.{method}")(
            request.SerializeToString(), timeout=TIMEOUT
        )
        message = answer.FromString(content)
        message.DiscardUnknownFields()
        same[method] = message.SerializeToString(deterministic=True) == content
    return same


def differences(serialized: bytes) -> Any:
    """Compare a FileDescriptorProto with what TensorFlow and TensorFlow Serving have under the same names: how many
    fields there are, and those that would be written differently."""
    from google.protobuf import descriptor_pb2, descriptor_pool
    from tensorflow_serving.apis import prediction_log_pb2, prediction_service_pb2  # noqa: F401 - puts all in the pool
    from tensorflow_serving.config import model_server_config_pb2  # noqa: F401

    pool = descriptor_pool.Default()
    kinds = descriptor_pb2.FieldDescriptorProto

    def wire(field: Any, is_repeated: bool) -> Any:
        # Enums travel as int32.
        return [field.number, kinds.TYPE_INT32 if field.type == kinds.TYPE_ENUM else field.type, is_repeated]

    compared, unlike, unknown = 0, [], []
    for message in descriptor_pb2.FileDescriptorProto.FromString(serialized).message_type:
        original = None
        for scope in ("tensorflow.serving", "tensorflow", "tensorflow.serving.FileSystemStoragePathSourceConfig"):
            try:
                original = pool.FindMessageTypeByName(f"{scope}.{message.name}")
                break
            except KeyError:
                pass
        if original is None:
            unknown.append(message.name)
            continue
        for field in message.field:
            compared += 1
            theirs = original.fields_by_name.get(field.name)
            ours = wire(field, field.label == kinds.LABEL_REPEATED)
            if theirs is None or wire(theirs, theirs.is_repeated) != ours:
                unlike.append(f"{message.name}.{field.name}")
    return {"compared": compared, "unlike": unlike, "unknown": unknown}


def reload_cases(client: Client, config: str) -> Iterator[Case]:
    import numpy as np
    import tensorflow as tf
    from google.protobuf import text_format
    from tensorflow_serving.apis import model_management_pb2

    def reload(text: str) -> Any:
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(text, request.config)
        response = client.model.HandleReloadConfigRequest(request, timeout=TIMEOUT)
        return [response.status.error_code, response.status.error_message]

    x = tf.make_tensor_proto(np.ones((1, 2), np.float32))

    def predict(model: str) -> Callable[[], Any]:
        return lambda: client.predict(predict_request(model, x=x)).model_spec.name

    once = config.replace("model_config_list {", "").rpartition("}")[0]
    yield "reload of nothing", lambda: reload("")
    yield "reload with a name twice", lambda: reload(f"model_config_list {{ {once} {once} }}")
    yield "before the reload", predict("two")
    yield "reload", lambda: reload(config)
    yield "what came", predict("new")
    yield "what went", predict("two")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
