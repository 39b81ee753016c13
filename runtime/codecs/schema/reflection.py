"""The schemas as they are on the wire, for tools that build messages from what gRPC's reflection tells them.

The one that TensorFlow Serving's messages are read with calls packed numbers bytes, which those tools would believe.
"""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from runtime.codecs import schema
from runtime.codecs.schema import open_inference

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
    """Return the file of TensorFlow Serving's messages with every field's real type."""
    file = FileDescriptorProto.FromString(schema.COMPILED.read_bytes())
    messages = {message.name: message for message in file.message_type}
    file.message_type.remove(messages[_OURS])
    for field in messages["TensorProto"].field:
        field.type = _WIRE_TYPES.get(field.name, field.type)
    return file


def wire_pool() -> DescriptorPool:
    """Return a pool of its own with that file, the Open Inference Protocol's, and what they import."""
    files = (*schema.IMPORTED, wire_file().SerializeToString(), open_inference.COMPILED.read_bytes())
    return schema.pool_of(files)
