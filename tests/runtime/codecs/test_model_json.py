"""Status and metadata in JSON, against what protobuf's own JSON makes of TensorFlow Serving's messages."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from runtime.codecs.model_json import encode_metadata, encode_status
from runtime.signature import Signature, TensorSpec
from tests.runtime import oracle
from tests.runtime.codecs.specs import DTYPES


def as_json(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def test_a_status_is_protobufs_json() -> None:
    message = oracle.GetModelStatusResponse()
    for version, state, code, text in ((2**62, 50, 9, 'no "model"\n☃'), (1, 30, 0, "")):
        written = message.model_version_status.add(version=version, state=state)
        written.status.error_code = code
        written.status.error_message = text
    given = [(2**62, "END", "FAILED_PRECONDITION", 'no "model"\n☃'), (1, "AVAILABLE", "OK", "")]
    assert json.loads(encode_status(given)) == as_json(message)


def specs(*shapes: tuple[int, ...] | None) -> dict[str, TensorSpec]:
    return {
        f"t{i}": TensorSpec(f"t{i}", dtype, shape)
        for i, (dtype, shape) in enumerate((dtype, shape) for shape in shapes for dtype in DTYPES)
    }


SIGNATURE = Signature(specs((-1, 3), ()), specs((2**40, 0, 1), None))


def message_of(signature: Signature) -> Any:
    message = oracle.SignatureDefMap()
    definition = message.signature_def["serving_default"]
    for infos, tensors in ((definition.inputs, signature.inputs), (definition.outputs, signature.outputs)):
        for name, spec in tensors.items():
            info = infos[name]
            info.name = name
            info.dtype = oracle.data_type(oracle.DATA_TYPES[spec.dtype.name][0])
            info.tensor_shape.unknown_rank = spec.shape is None
            for size in spec.shape or ():
                info.tensor_shape.dim.add(size=size)
    definition.method_name = "tensorflow/serving/predict"
    return message


def test_signatures_are_protobufs_json_and_say_what_they_are() -> None:
    metadata = json.loads(encode_metadata("m", 7, {"serving_default": SIGNATURE}))
    assert metadata["model_spec"] == {"name": "m", "signature_name": "", "version": "7"}
    (signatures,) = metadata["metadata"].values()
    assert signatures.pop("@type") == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    assert signatures == as_json(message_of(SIGNATURE))


@pytest.mark.parametrize("name", ["a b", 'q"', "ü☃"])
def test_names_are_kept_as_they_are(name: str) -> None:
    signature = Signature({name: TensorSpec(name, np.dtype(np.int8), ())}, {})
    metadata = json.loads(encode_metadata(name, 1, {name: signature}))
    assert metadata["model_spec"]["name"] == name
    assert list(metadata["metadata"]["signature_def"]["signature_def"][name]["inputs"]) == [name]
