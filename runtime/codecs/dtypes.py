"""numpy's dtypes and TensorFlow's DataType, one table for every codec.

Numbers and names: tensorflow/core/framework/types.proto.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from runtime.signature import Dtype

BFLOAT16 = 14

_DTYPES = {
    "float32": ("DT_FLOAT", 1),
    "float64": ("DT_DOUBLE", 2),
    "int32": ("DT_INT32", 3),
    "uint8": ("DT_UINT8", 4),
    "int16": ("DT_INT16", 5),
    "int8": ("DT_INT8", 6),
    # Arrays of bytes objects, of any length each.
    "object": ("DT_STRING", 7),
    "int64": ("DT_INT64", 9),
    "bool": ("DT_BOOL", 10),
    "bfloat16": ("DT_BFLOAT16", BFLOAT16),
    "uint16": ("DT_UINT16", 17),
    "float16": ("DT_HALF", 19),
    "uint32": ("DT_UINT32", 22),
    "uint64": ("DT_UINT64", 23),
}
_BY_NUMBER = {number: name for name, (_, number) in _DTYPES.items()}


def bfloat16() -> Dtype:
    # Imported when a model wants it: numpy has no bfloat16, and few models expose one.
    import ml_dtypes

    dtype: Dtype = np.dtype(ml_dtypes.bfloat16)
    return dtype


# numpy takes microseconds to make a dtype's name, each time it is asked.
@lru_cache(64)
def name_of(dtype: Dtype) -> str:
    """Return numpy's name."""
    return dtype.name


def tf_name(dtype: Dtype) -> str:
    """Return TensorFlow's name, or numpy's for what Decant does not carry."""
    name = name_of(dtype)
    return _DTYPES[name][0] if name in _DTYPES else name


def tf_number(dtype: Dtype) -> int:
    return _DTYPES[name_of(dtype)][1]


def from_tf_number(number: int) -> Dtype | None:
    """Return the dtype of a DataType number, or None for those that Decant does not carry."""
    if number == BFLOAT16:
        return bfloat16()
    name = _BY_NUMBER.get(number)
    return np.dtype(name) if name else None


def is_string(dtype: Dtype) -> bool:
    return dtype.hasobject


def is_float(dtype: Dtype) -> bool:
    return dtype.kind == "f" or is_bfloat16(dtype)


def is_bfloat16(dtype: Dtype) -> bool:
    # To numpy it is a structure without fields.
    return dtype.kind == "V" and name_of(dtype) == "bfloat16"
