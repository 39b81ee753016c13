"""The schema as it is on the wire, for tools that build messages from what gRPC's reflection tells them.

The schema that messages are read with calls packed numbers bytes, which those tools would believe.
"""

from __future__ import annotations

from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from runtime.codecs import schema

_OURS = "UnpackedTensorProto"
"""A message that is in no TensorFlow."""
# Of TensorProto's fields.
_WIRE_TYPES = {
    "float_val": FieldDescriptorProto.TYPE_FLOAT,
    "double_val": FieldDescriptorProto.TYPE_DOUBLE,
    "int_val": FieldDescriptorProto.TYPE_INT32,
    "int64_val": FieldDescriptorProto.TYPE_INT64,
    "bool_val": FieldDescriptorProto.TYPE_BOOL,
    "half_val": FieldDescriptorProto.TYPE_INT32,
    "uint32_val": FieldDescriptorProto.TYPE_UINT32,
    "uint64_val": FieldDescriptorProto.TYPE_UINT64,
}


def wire_file() -> FileDescriptorProto:
    """Return the schema's file with every field's real type."""
    file = FileDescriptorProto.FromString(schema.COMPILED.read_bytes())
    messages = {message.name: message for message in file.message_type}
    file.message_type.remove(messages[_OURS])
    for field in messages["TensorProto"].field:
        field.type = _WIRE_TYPES.get(field.name, field.type)
    return file


def wire_pool() -> DescriptorPool:
    """Return a pool of its own with that file and what it imports."""
    pool = DescriptorPool()
    for module in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(wire_file().SerializeToString())
    return pool
