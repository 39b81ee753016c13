"""The protocol's names of dtypes, for both of its transports.

https://github.com/kserve/open-inference-protocol, "Tensor Data Types", and Triton's BF16.
"""

from __future__ import annotations

import numpy as np

from runtime.codecs.dtypes import bfloat16, name_of
from runtime.signature import Dtype

BF16 = "BF16"
BYTES = "BYTES"
_NAMES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": BF16,
    # Arrays of bytes objects, of any length each.
    "object": BYTES,
}
_DTYPES = {datatype: np.dtype(name) for name, datatype in _NAMES.items() if datatype != BF16}


def datatype_of(dtype: Dtype) -> str:
    """Return the protocol's name, or numpy's for what Decant does not carry."""
    name = name_of(dtype)
    return _NAMES.get(name, name)


def dtype_of(datatype: str) -> Dtype | None:
    """Return the dtype, or None if the protocol has no such datatype."""
    return bfloat16() if datatype == BF16 else _DTYPES.get(datatype)


def known() -> str:
    """Return all of the names, as an error lists them."""
    return ", ".join(_NAMES.values())
