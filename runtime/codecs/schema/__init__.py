"""TensorFlow Serving's messages, as classes made from the compiled schema; `open_inference` has the other protocol's.

They live in descriptor pools of their own: in the default one their names would collide with those of clients, such as
tensorflow, tensorflow-serving-api and tritonclient, should a process have both.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from runtime.errors import InvalidRequest

PACKAGE = "tensorflow.serving"
COMPILED = Path(__file__).with_name("tensorflow_serving.binpb")
IMPORTED = tuple(module.DESCRIPTOR.serialized_pb for module in (any_pb2, wrappers_pb2))
"""The files that schemas import, as they are in a pool."""


def pool_of(files: Iterable[bytes]) -> DescriptorPool:
    """Return a pool of its own with these files, each behind those it imports."""
    pool = DescriptorPool()
    for file in files:
        pool.AddSerializedFile(file)
    return pool


_POOL = pool_of((*IMPORTED, COMPILED.read_bytes()))


def message_class(pool: DescriptorPool, name: str) -> Any:
    """Return the class of a message by its full name.

    Raises:
        AttributeError: there is none, as for any other name that a module does not have.
    """
    # Any: classes made at run time have no static type.
    try:
        return GetMessageClass(pool.FindMessageTypeByName(name))
    except KeyError:
        raise AttributeError(f"the schema has no message {name}") from None


def parse(message: Any, content: bytes) -> Any:
    """Read a message of a class.

    Raises:
        InvalidRequest: the bytes are none.
    """
    try:
        return message.FromString(content)
    except DecodeError as exc:
        raise InvalidRequest(f"the message is no {message.DESCRIPTOR.name}: {exc}") from exc


def __getattr__(name: str) -> Any:
    """Return the message class of that name, as in ``schema.PredictRequest``; made when it is first asked for."""
    globals()[name] = message = message_class(_POOL, f"{PACKAGE}.{name}")
    return message
