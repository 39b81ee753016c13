"""TensorFlow Serving's messages, as classes made from the compiled schema.

They live in a descriptor pool of their own: in the default one their names would collide with tensorflow's and
tensorflow-serving-api's, should a process have both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "tensorflow.serving"
COMPILED = Path(__file__).with_name("tensorflow_serving.binpb")


def _load() -> DescriptorPool:
    pool = DescriptorPool()
    for module in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(COMPILED.read_bytes())
    return pool


_POOL = _load()


def _message(name: str) -> Any:
    # Any: classes made at run time have no static type.
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


TensorProto = _message("TensorProto")
TensorShapeProto = _message("TensorShapeProto")
PredictRequest = _message("PredictRequest")
PredictResponse = _message("PredictResponse")
SignatureDefMap = _message("SignatureDefMap")
GetModelMetadataRequest = _message("GetModelMetadataRequest")
GetModelMetadataResponse = _message("GetModelMetadataResponse")
GetModelStatusRequest = _message("GetModelStatusRequest")
GetModelStatusResponse = _message("GetModelStatusResponse")
