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


def __getattr__(name: str) -> Any:
    """Return the message class of that name, as in ``schema.PredictRequest``; made when it is first asked for."""
    # Any: classes made at run time have no static type.
    try:
        descriptor = _POOL.FindMessageTypeByName(f"{PACKAGE}.{name}")
    except KeyError:
        raise AttributeError(f"the schema has no message {name}") from None
    globals()[name] = message = GetMessageClass(descriptor)
    return message
