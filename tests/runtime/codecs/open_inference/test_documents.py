"""What is told of the server and its models over REST."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest

from runtime.codecs.open_inference import documents
from runtime.codecs.open_inference.reports import Duration, IndexRow, ModelStatistics
from runtime.signature import Dtype, Signature, TensorSpec
from tests.runtime.codecs.specs import BFLOAT16, BOOL, DTYPES, STRING

DATATYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
    "object": "BYTES",
}


def test_the_server_says_what_it_is() -> None:
    assert json.loads(documents.server_metadata()) == {
        "name": "decant",
        "version": version("decant"),
        "extensions": [
            "binary_tensor_data",
            "classification",
            "model_configuration",
            "model_repository",
            "parameters",
            "sequence",
            "statistics",
        ],
    }


SHAPES: list[tuple[TensorSpec, list[int]]] = [
    (TensorSpec("x", BOOL, ()), []),
    (TensorSpec("x", BOOL, (1, 3)), [1, 3]),
    (TensorSpec("x", BOOL, (-1, 3)), [-1, 3]),
    (TensorSpec("x", BOOL, (-1, 3), bounds=((1, 8), (3, 3))), [-1, 3]),
    (TensorSpec("x", BOOL, (0, 2**40)), [0, 2**40]),
    # Of any shape by its configuration: that of its file.
    (TensorSpec("x", BOOL, None, stored_shape=(1, 3)), [1, 3]),
    # Of any rank; not a scalar's.
    (TensorSpec("x", BOOL, None), [-1]),
]


@pytest.mark.parametrize(("spec", "shape"), SHAPES)
def test_a_shape_is_told_so(spec: TensorSpec, shape: list[int]) -> None:
    (told,) = metadata(Signature({"x": spec}, {}))["inputs"]
    assert told == {"name": "x", "datatype": "BOOL", "shape": shape}


@pytest.mark.parametrize("dtype", [*DTYPES, STRING], ids=str)
def test_every_dtype_has_its_name(dtype: Dtype) -> None:
    (told,) = metadata(Signature({}, {"y": TensorSpec("y", dtype, ())}))["outputs"]
    assert told["datatype"] == DATATYPES.get(dtype.name, dtype.name.upper())


def test_a_model_has_its_tensors_in_order_and_none_but_its_own() -> None:
    inputs = {name: TensorSpec(name, np.dtype(np.int8), (1,)) for name in ("b", "a", "ü ☃")}
    special = {"sequence_id": TensorSpec("sequence_id", np.dtype(np.uint64), (1,))}
    told = metadata(Signature(inputs, {"y": TensorSpec("y", BFLOAT16, (2,))}, special_inputs=special))
    assert {key: told[key] for key in ("name", "versions", "platform")} == {
        "name": "m ☃",
        "versions": ["1", "12"],
        "platform": "openvino",
    }
    assert [spec["name"] for spec in told["inputs"]] == list(inputs)
    assert told["outputs"] == [{"name": "y", "datatype": "BF16", "shape": [2]}]


def metadata(signature: Signature) -> Any:
    return json.loads(documents.model_metadata("m ☃", [1, "12"], signature))


def test_the_index_has_a_row_for_each_version() -> None:
    rows = [
        IndexRow("a", "1", "READY"),
        IndexRow("a", "2", "UNAVAILABLE", "it is broken"),
        IndexRow("b", "", "UNKNOWN", "cannot be listed"),
    ]
    assert json.loads(documents.index(rows)) == [
        {"name": "a", "version": "1", "state": "READY", "reason": ""},
        {"name": "a", "version": "2", "state": "UNAVAILABLE", "reason": "it is broken"},
        {"name": "b", "state": "UNKNOWN", "reason": "cannot be listed"},
    ]
    assert documents.index([]) == b"[]"


def test_statistics_have_tritons_form() -> None:
    row = ModelStatistics(
        "m",
        "7",
        last_inference=1_700_000_000_123,
        inference_count=5,
        execution_count=2,
        success=Duration(3, 30),
        fail=Duration(1, 2**63),
        queue=Duration(4, 40),
        compute_input=Duration(5, 50),
        compute_infer=Duration(6, 60),
        compute_output=Duration(7, 70),
        cache_hit=Duration(8, 80),
        cache_miss=Duration(9, 90),
    )
    assert json.loads(documents.statistics([row])) == {
        "model_stats": [
            {
                "name": "m",
                "version": "7",
                "last_inference": 1_700_000_000_123,
                "inference_count": 5,
                "execution_count": 2,
                "inference_stats": {
                    "success": {"count": 3, "ns": 30},
                    "fail": {"count": 1, "ns": 2**63},
                    "queue": {"count": 4, "ns": 40},
                    "compute_input": {"count": 5, "ns": 50},
                    "compute_infer": {"count": 6, "ns": 60},
                    "compute_output": {"count": 7, "ns": 70},
                    "cache_hit": {"count": 8, "ns": 80},
                    "cache_miss": {"count": 9, "ns": 90},
                },
                "batch_stats": [],
            }
        ]
    }
    assert documents.statistics([]) == b'{"model_stats":[]}'
