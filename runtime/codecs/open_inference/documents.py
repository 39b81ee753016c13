"""What is told of the server and its models over REST, as JSON.

https://github.com/kserve/open-inference-protocol, "Server Metadata" and "Model Metadata", and Triton's
extension_model_configuration.md, extension_model_repository.md and extension_statistics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import orjson

from runtime.codecs.open_inference.datatypes import BYTES, datatype_of, dtype_of
from runtime.codecs.open_inference.reports import DURATIONS, Duration, IndexRow, ModelStatistics
from runtime.signature import DYNAMIC, Signature, TensorSpec

SERVER = "decant"
PLATFORM = "openvino"
_REPOSITORY = "model_repository"
_EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    _REPOSITORY,
    "parameters",
    "sequence",
    "statistics",
)


@cache
def server_metadata(is_controlled: bool = True) -> bytes:
    """Write the server's name, version and extensions.

    Args:
        is_controlled: whether clients may have models loaded and unloaded.
    """
    return orjson.dumps({"name": SERVER, "version": server_version(), "extensions": extensions(is_controlled)})


def extensions(is_controlled: bool) -> Sequence[str]:
    """Return the names of Triton's extensions that there are."""
    return [name for name in _EXTENSIONS if is_controlled or name != _REPOSITORY]


@cache
def server_version() -> str:
    # It takes a while to import, and few ask.
    from importlib.metadata import version

    return version("decant")


def model_metadata(name: str, versions: Iterable[int | str], signature: Signature) -> bytes:
    """Write a model's inputs and outputs, and which of its versions would be answered."""
    return orjson.dumps(
        {
            "name": name,
            "versions": [str(number) for number in versions],
            "platform": PLATFORM,
            "inputs": _tensors(signature.inputs),
            "outputs": _tensors(signature.outputs),
        }
    )


def model_config(name: str, signature: Signature) -> dict[str, Any]:
    """Return what there is of Triton's ModelConfig, by the names of its fields: what its tools ask for first."""
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        # Shapes are told whole, with their batch.
        "max_batch_size": 0,
        "input": _configured(signature.inputs),
        "output": _configured(signature.outputs),
    }


def shape_of(spec: TensorSpec) -> tuple[int, ...]:
    """Return the shape as the protocol tells it, -1 where any size will do.

    It has no form for an open rank, and Triton no such models; an empty shape would be that of a scalar. So it is told
    to be a vector of any size, which such a tensor may be.
    """
    return (DYNAMIC,) if spec.told_shape is None else spec.told_shape


def index(rows: Iterable[IndexRow]) -> bytes:
    return orjson.dumps([_row(row) for row in rows])


def statistics(rows: Iterable[ModelStatistics]) -> bytes:
    return orjson.dumps({"model_stats": [_statistics(row) for row in rows]})


def _tensors(specs: Mapping[str, TensorSpec]) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": datatype_of(spec.dtype), "shape": shape_of(spec)} for name, spec in specs.items()
    ]


def _configured(specs: Mapping[str, TensorSpec]) -> list[dict[str, Any]]:
    return [
        {"name": name, "data_type": _data_type(datatype_of(spec.dtype)), "dims": shape_of(spec)}
        for name, spec in specs.items()
    ]


def _data_type(datatype: str) -> str:
    if datatype == BYTES:
        return "TYPE_STRING"
    return "TYPE_INVALID" if dtype_of(datatype) is None else f"TYPE_{datatype}"


def _row(row: IndexRow) -> dict[str, str]:
    value = row._asdict()
    if not row.version:
        # As in Triton's; no version has an empty name.
        del value["version"]
    return value


def _statistics(row: ModelStatistics) -> dict[str, Any]:
    return {
        "name": row.name,
        "version": row.version,
        "last_inference": row.last_inference,
        "inference_count": row.inference_count,
        "execution_count": row.execution_count,
        "inference_stats": {name: _duration(getattr(row, name)) for name in DURATIONS},
        # How large the batches are that the engine gets is not counted.
        "batch_stats": [],
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.times, "ns": duration.ns}
