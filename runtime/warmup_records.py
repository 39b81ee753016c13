"""TensorFlow Serving's recorded warm-up requests: a TFRecord file of PredictionLogs, run against a servable.

Imports protobuf; `warmup` imports this when there is such a file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from model_cache.errors import LoadFailed
from runtime import calls
from runtime.codecs import schema
from runtime.codecs.tfrecord import BrokenRecord, read_records
from runtime.errors import InferenceError
from runtime.servable import Servable

MAX_RECORDS = 1000
"""TensorFlow Serving's."""

_CALLS: dict[str, Callable[[Servable, Any], object]] = {
    "predict_log": calls.predict,
    "classify_log": calls.classify,
    "regress_log": calls.regress,
    "multi_inference_log": calls.multi_inference,
}


def replay(path: Path, servable: Servable, iterations: int, *, special: Collection[str] = ()) -> int:
    """Run each request of the file so often; return how many there are.

    Args:
        special: inputs and outputs that requests name and the servable has not.

    Raises:
        LoadFailed: one of them fails, or cannot be read.
    """
    number = 0
    for number, record in enumerate(_records(path), 1):
        run = _request(number, record, special)
        try:
            for _ in range(iterations):
                run(servable)
        except InferenceError as exc:
            raise LoadFailed(f"warm-up record {number} fails: {exc}") from exc
    return number


def _records(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            for number, record in enumerate(read_records(file), 1):
                if number > MAX_RECORDS:
                    raise LoadFailed(f"Number of warmup records exceeds the maximum ({MAX_RECORDS})")
                yield record
    except BrokenRecord as exc:
        raise LoadFailed(f"{exc}. Please verify your warmup data is in TFRecord format.") from exc
    except OSError as exc:
        raise LoadFailed(f"{path.name} cannot be read: {exc.strerror}") from exc


def _request(number: int, record: bytes, special: Collection[str]) -> Callable[[Servable], object]:
    """Return the request in a record, to be made of a servable; whichever model and version it names."""
    try:
        log = schema.PredictionLog.FromString(record)
    except DecodeError as exc:
        raise LoadFailed(f"Failed to parse warmup record: record {number} is no PredictionLog") from exc
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        _leave_out(log.predict_log.request, special)
    if kind in _CALLS:
        return lambda servable: _CALLS[kind](servable, getattr(log, kind).request)
    # An empty one, which TensorFlow Serving takes too.
    if kind is None:
        return lambda servable: None
    field = log.DESCRIPTOR.fields_by_name[kind].number
    raise LoadFailed(f"warm-up record {number} is a {kind}: Unsupported log_type for warmup: {field}")


def _leave_out(request: Any, special: Collection[str]) -> None:
    for name in special:
        request.inputs.pop(name, None)
    wanted = [name for name in request.output_filter if name not in special]
    del request.output_filter[:]
    request.output_filter.extend(wanted)
