"""A model in TensorFlow's own formats, written without TensorFlow: ``y = x + x`` with x f32 [-1, 2].

Messages: ``graph.proto`` of tensorflow/core/framework, ``saved_model.proto`` and ``meta_graph.proto`` of .../protobuf.
"""

from __future__ import annotations

_FLOAT = 1


def frozen_graph() -> bytes:
    """Return a GraphDef."""
    float_type = _field(6, _FLOAT)
    x = _node("x", "Placeholder", dtype=float_type, shape=_field(7, _shape(-1, 2)))
    y = _node("y", "AddV2", "x", "x", T=float_type)
    return _field(1, x) + _field(1, y) + _field(4, _field(1, 1))


def saved_model() -> bytes:
    """Return a SavedModel of which the serving signature has x and y."""
    signature = (
        _field(1, _entry("x", _tensor_info("x:0")))
        + _field(2, _entry("y", _tensor_info("y:0")))
        + _field(3, "tensorflow/serving/predict")
    )
    meta_graph = (
        _field(1, _field(4, "serve")) + _field(2, frozen_graph()) + _field(5, _entry("serving_default", signature))
    )
    return _field(1, 1) + _field(2, meta_graph)


def _node(name: str, operation: str, *inputs: str, **attributes: bytes) -> bytes:
    parts = [_field(1, name), _field(2, operation), *(_field(3, each) for each in inputs)]
    return b"".join([*parts, *(_field(5, _entry(key, value)) for key, value in attributes.items())])


def _tensor_info(name: str) -> bytes:
    return _field(1, name) + _field(2, _FLOAT) + _field(3, _shape(-1, 2))


def _shape(*sizes: int) -> bytes:
    return b"".join(_field(2, _field(1, size)) for size in sizes)


def _entry(key: str, value: bytes) -> bytes:
    return _field(1, key) + _field(2, value)


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value % 2**64)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)
