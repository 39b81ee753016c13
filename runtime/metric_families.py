"""Which metrics there are: names, types, and how those of several processes become one.

Names, labels and buckets of ``ovms_`` are OpenVINO Model Server's (docs/metrics.md, src/metric_config.cpp); times in
them are microseconds. Those of ``decant_`` have base units in their names, as Prometheus wants it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

MICROSECONDS = tuple(int(10 * 1.8**i) for i in range(33))
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
ROWS = tuple(1 << i for i in range(11))

Labels: TypeAlias = tuple[tuple[str, str], ...]
Value: TypeAlias = float | list[float]
"""Of a histogram the counts, one by one and not added up, of which the last is of what is above all bounds; then the
sum of what was observed."""
Snapshot: TypeAlias = dict[str, dict[Labels, Value]]
"""The values of all series at one moment, by family and labels. It can be pickled."""


class Method(NamedTuple):
    """What a request is counted as, over HTTP too."""

    api: Literal["TensorFlowServing", "KServe"]
    is_inference: bool = False
    is_of_model: bool = False
    """Whether it is about a model, whatever its version."""
    is_early: bool = True
    """Whether its series are there before the first request is, so that a rate knows of that one."""


METHODS: Mapping[str, Method] = {
    "Predict": Method("TensorFlowServing", is_inference=True),
    "Classify": Method("TensorFlowServing", is_inference=True, is_early=False),
    "Regress": Method("TensorFlowServing", is_inference=True, is_early=False),
    "MultiInference": Method("TensorFlowServing", is_inference=True, is_early=False),
    "GetModelMetadata": Method("TensorFlowServing"),
    "GetModelStatus": Method("TensorFlowServing", is_of_model=True),
    "ModelInfer": Method("KServe", is_inference=True),
    "ModelStreamInfer": Method("KServe", is_inference=True, is_early=False),
    "ModelMetadata": Method("KServe"),
    "ModelReady": Method("KServe", is_of_model=True),
}
"""All that are counted, by gRPC's names."""


class Family(NamedTuple):
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    bounds: tuple[float, ...] = ()
    is_default: bool = True
    is_shared: bool = False
    """Whether it is of what all workers have in common, so that the largest counts and not the sum."""


FAMILIES: Mapping[str, Family] = {
    "ovms_requests_success": Family("counter", "Requests that succeeded, of a model that was there."),
    "ovms_requests_fail": Family("counter", "Requests that failed, of a model that was there."),
    "ovms_request_time_us": Family(
        "histogram", "Microseconds that successful inference requests took, from their last byte.", MICROSECONDS
    ),
    "ovms_inference_time_us": Family("histogram", "Microseconds that inferences took in the engine.", MICROSECONDS),
    "ovms_wait_for_infer_req_time_us": Family(
        "histogram", "Microseconds that inferences waited for an infer request.", MICROSECONDS
    ),
    "ovms_streams": Family("gauge", "OpenVINO's execution streams."),
    "ovms_current_requests": Family("gauge", "Inference requests that are being answered."),
    "ovms_infer_req_queue_size": Family("gauge", "Infer requests there are.", is_default=False),
    "ovms_infer_req_active": Family("gauge", "Infer requests that are in use.", is_default=False),
    "decant_requests_refused_total": Family(
        "counter", "Requests that were answered without a model, by the status they were answered with."
    ),
    "decant_cache_hits_total": Family("counter", "Requests whose version was in memory."),
    "decant_cache_misses_total": Family("counter", "Requests that had to wait for their version to be loaded."),
    "decant_cache_evictions_total": Family("counter", "Versions that left the memory to make room."),
    "decant_cache_bytes": Family("gauge", "Memory of models loaded and loading, as it is accounted for."),
    "decant_cache_budget_bytes": Family("gauge", "Memory that models may take."),
    "decant_model_bytes": Family("gauge", "Memory of a version that is loaded, as it is accounted for."),
    "decant_process_resident_bytes": Family("gauge", "Memory of the process."),
    "decant_disk_evictions_total": Family("counter", "Versions whose files left the disk to make room."),
    "decant_disk_bytes": Family("gauge", "Files of versions in the cache directory.", is_shared=True),
    "decant_disk_budget_bytes": Family("gauge", "What the cache directory may take.", is_shared=True),
    "decant_disk_free_bytes": Family("gauge", "What the cache directory's file system has left.", is_shared=True),
    "decant_downloads_total": Family("counter", "Versions downloaded."),
    "decant_download_bytes_total": Family("counter", "Bytes of them."),
    "decant_download_seconds_total": Family("counter", "Seconds that this took."),
    "decant_load_seconds": Family("histogram", "Seconds that successful loads took, with downloads.", SECONDS),
    "decant_load_failures_total": Family("counter", "Loads that failed."),
    "decant_compile_seconds_total": Family("counter", "Seconds that compiling took, or importing what was compiled."),
    "decant_warmup_seconds_total": Family("counter", "Seconds that warming up took."),
    "decant_infer_queue_length": Family("gauge", "Inferences that wait for an infer request."),
    "decant_batch_queue_length": Family("gauge", "Requests that wait in a batch."),
    "decant_batch_rows": Family("histogram", "Rows of the batches that were run.", ROWS),
    "decant_sequences": Family("gauge", "Open sequences of a stateful model."),
    "decant_start_seconds": Family(
        "gauge", "Seconds from the start of the process to its first answer, or to now.", is_shared=True
    ),
    "decant_start_phase_seconds": Family(
        "gauge", "Seconds that a phase of the start was under way; phases overlap.", is_shared=True
    ),
    "decant_workers": Family("gauge", "Worker processes, by whether their numbers are of now."),
}

# Of what Decant does not do. A list of metrics may have them, as it may be an old one.
_WITHOUT_SERIES = frozenset(
    {
        "ovms_requests_accepted",
        "ovms_requests_rejected",
        "ovms_responses",
        "ovms_graph_error",
        "ovms_current_graphs",
        "ovms_graph_processing_time_us",
        "ovms_graph_request_latency_us",
    }
)


def selected(names: Collection[str] = ()) -> frozenset[str]:
    """Return the families of a ``metrics_list``; without one those that are on by default.

    Raises:
        ValueError: there is no such family.
    """
    if unknown := [name for name in names if name not in FAMILIES and name not in _WITHOUT_SERIES]:
        known = ", ".join(name for name in FAMILIES if name.startswith("ovms_"))
        raise ValueError(f"Invalid name in metrics_list: {unknown[0][:80]!r}; want some of {known}, or of decant_...")
    if names:
        return frozenset(names)
    return frozenset(name for name, family in FAMILIES.items() if family.is_default)


def added_up(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return one snapshot of several processes."""
    total: Snapshot = {}
    for snapshot in snapshots:
        for name, series in snapshot.items():
            family = total.setdefault(name, {})
            for labels, value in series.items():
                family[labels] = _sum(name, family[labels], value) if labels in family else value
    return total


def counted(snapshot: Snapshot) -> Snapshot:
    """Return what stays of a process that is gone: what it has counted, and not what was so at the moment."""
    return {name: series for name, series in snapshot.items() if FAMILIES[name].kind != "gauge"}


def still_there(snapshot: Snapshot, now: Snapshot) -> Snapshot:
    """Return the series of a process that is gone, but for those of models that nobody has any more."""
    models = {_model(labels) for series in now.values() for labels in series} | {None}
    return {
        name: {labels: value for labels, value in series.items() if _model(labels) in models}
        for name, series in snapshot.items()
    }


def _model(labels: Labels) -> str | None:
    return next((value for name, value in labels if name == "name"), None)


def _sum(name: str, one: Value, other: Value) -> Value:
    if isinstance(one, list) and isinstance(other, list):
        return [a + b for a, b in zip(one, other, strict=True)]
    assert not isinstance(one, list)
    assert not isinstance(other, list)
    return max(one, other) if FAMILIES[name].is_shared else one + other
