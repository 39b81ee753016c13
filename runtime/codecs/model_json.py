"""Status and metadata of models as TensorFlow Serving's REST writes them: protobuf's JSON, defaults included.

Integers of 64 bits are strings there. ``@type`` is what OpenVINO Model Server's clients need to read the metadata as
strict protobuf JSON; TensorFlow Serving's do not look at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from runtime.codecs.dtypes import tf_name
from runtime.signature import Signature, TensorSpec

SIGNATURE_DEF_MAP = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


def encode_status(versions: Iterable[tuple[int, str, str, str]]) -> bytes:
    """Write the states of versions, each given as (version, state, name of the error code, message)."""
    return orjson.dumps(
        {
            "model_version_status": [
                {"version": str(version), "state": state, "status": {"error_code": code, "error_message": message}}
                for version, state, code, message in versions
            ]
        }
    )


def encode_metadata(name: str, version: int, signatures: Mapping[str, Signature]) -> bytes:
    return orjson.dumps(
        {
            "model_spec": {"name": name, "signature_name": "", "version": str(version)},
            "metadata": {
                "signature_def": {
                    "@type": SIGNATURE_DEF_MAP,
                    "signature_def": {key: _signature(signature) for key, signature in signatures.items()},
                }
            },
        }
    )


def _signature(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": {name: _tensor_info(spec) for name, spec in signature.inputs.items()},
        "outputs": {name: _tensor_info(spec) for name, spec in signature.outputs.items()},
        "method_name": signature.method_name,
        "defaults": {},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    return {
        "dtype": tf_name(spec.dtype),
        "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in spec.shape or ()],
            "unknown_rank": spec.shape is None,
        },
        "name": spec.name,
    }
