"""TensorFlow Serving's messages by another way than the product's: compiled here from a schema of the tests' own, with
protobuf's own repeated floats. What the two exchange has to be the same bytes."""

from __future__ import annotations

import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc
from numpy.typing import NDArray

SCHEMA = Path(__file__).with_name("oracle.proto")

# numpy's name -> TensorFlow's, and the field that holds the values.
DATA_TYPES = {
    "float32": ("DT_FLOAT", "float_val"),
    "float64": ("DT_DOUBLE", "double_val"),
    "int32": ("DT_INT32", "int_val"),
    "int16": ("DT_INT16", "int_val"),
    "int8": ("DT_INT8", "int_val"),
    "uint8": ("DT_UINT8", "int_val"),
    "uint16": ("DT_UINT16", "int_val"),
    "int64": ("DT_INT64", "int64_val"),
    "uint32": ("DT_UINT32", "uint32_val"),
    "uint64": ("DT_UINT64", "uint64_val"),
    "bool": ("DT_BOOL", "bool_val"),
    "float16": ("DT_HALF", "half_val"),
    "bfloat16": ("DT_BFLOAT16", "half_val"),
    "object": ("DT_STRING", "string_val"),
}


def compile_schema(schema: Path) -> DescriptorPool:
    """A pool of its own with the messages of a schema."""
    pool = DescriptorPool()
    for module in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "oracle.binpb"
        includes = [f"-I{schema.parent}", f"-I{files('grpc_tools') / '_proto'}"]
        assert protoc.main(["protoc", *includes, f"--descriptor_set_out={out}", schema.name]) == 0
        for file in FileDescriptorSet.FromString(out.read_bytes()).file:
            pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = compile_schema(SCHEMA)


def message(name: str) -> Any:
    return GetMessageClass(_POOL.FindMessageTypeByName(f"tensorflow.serving.{name}"))


TensorProto = message("TensorProto")
PredictRequest = message("PredictRequest")
PredictResponse = message("PredictResponse")
GetModelMetadataRequest = message("GetModelMetadataRequest")
GetModelMetadataResponse = message("GetModelMetadataResponse")
GetModelStatusRequest = message("GetModelStatusRequest")
GetModelStatusResponse = message("GetModelStatusResponse")
SignatureDefMap = message("SignatureDefMap")
Example = message("Example")
ClassificationRequest = message("ClassificationRequest")
ClassificationResponse = message("ClassificationResponse")
RegressionRequest = message("RegressionRequest")
RegressionResponse = message("RegressionResponse")
MultiInferenceRequest = message("MultiInferenceRequest")
MultiInferenceResponse = message("MultiInferenceResponse")
ReloadConfigRequest = message("ReloadConfigRequest")
ReloadConfigResponse = message("ReloadConfigResponse")


DATA_TYPE = _POOL.FindEnumTypeByName("tensorflow.serving.DataType")


def data_type(name: str) -> int:
    """The number of, for instance, ``"DT_FLOAT"``."""
    return int(DATA_TYPE.values_by_name[name].number)


def typed(array: NDArray[Any]) -> Any:
    """The array as TensorFlow writes it: every value in the field of its dtype."""
    proto = _shaped(array)
    _, field = DATA_TYPES[array.dtype.name]
    flat = array.ravel()
    # Floats of 16 bits are written as those bits.
    values = flat.view(np.uint16) if field == "half_val" else flat
    getattr(proto, field).extend(values.tolist())
    return proto


def content(array: NDArray[Any]) -> Any:
    """The array as ``tf.make_tensor_proto`` writes most: all its bytes at once."""
    proto = _shaped(array)
    if array.dtype == object:
        strings = array.ravel().tolist()
        proto.tensor_content = b"".join([*(varint(len(string)) for string in strings), *strings])
    else:
        proto.tensor_content = array.tobytes()
    return proto


def varint(number: int) -> bytes:
    """Protocol Buffers' encoding, "Base 128 Varints"."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def example(**features: list[Any]) -> Any:
    """A tf.Example; the first value of each feature decides its kind."""
    made = Example()
    for name, values in features.items():
        feature = made.features.feature[name]
        kinds: dict[type, Any] = {bytes: feature.bytes_list, float: feature.float_list, int: feature.int64_list}
        kinds[type(values[0])].value.extend(values)
    return made


def array(proto: Any) -> NDArray[Any]:
    """The array of a tensor that has all its values in the field of its dtype."""
    number: str = DATA_TYPE.values_by_number[proto.dtype].name
    (name,) = [name for name, (data_type, _) in DATA_TYPES.items() if data_type == number]
    _, field = DATA_TYPES[name]
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    values = list(getattr(proto, field))
    if field == "string_val":
        strings = np.empty(len(values), object)
        strings[:] = values
        return strings.reshape([dim.size for dim in proto.tensor_shape.dim])
    flat = np.array(values, np.uint16).view(dtype) if field == "half_val" else np.array(values, dtype)
    return flat.reshape([dim.size for dim in proto.tensor_shape.dim])


def _shaped(array: NDArray[Any]) -> Any:
    proto = TensorProto(dtype=data_type(DATA_TYPES[array.dtype.name][0]))
    # Present for a scalar too.
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    return proto
