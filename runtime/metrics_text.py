"""A scrape's values as Prometheus' text, by prometheus-client, which is imported by the first scrape: it takes longer
than a cold start has.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest

from runtime.metric_families import FAMILIES, Labels, Snapshot, Value

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TOTAL = "_total"


def metrics_text(snapshot: Snapshot) -> bytes:
    text = generate_latest(_Scrape(snapshot))
    for name, family in FAMILIES.items():
        # The library gives every counter OpenMetrics' suffix where it says its type; some of OVMS's have none.
        if family.kind == "counter" and not name.endswith(_TOTAL):
            text = text.replace(f" {name}{_TOTAL} ".encode(), f" {name} ".encode())
    return text


class _Scrape:
    """prometheus-client's Collector."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for name, family in FAMILIES.items():
            series = self._snapshot.get(name)
            if not series:
                continue
            metric = Metric(name.removesuffix(_TOTAL), family.text, family.kind)
            for labels, value in series.items():
                _add(metric, name, family.bounds, labels, value)
            yield metric


def _add(metric: Metric, name: str, bounds: tuple[float, ...], labels: Labels, value: Value) -> None:
    if not isinstance(value, list):
        metric.add_sample(name, dict(labels), value)
        return
    *counts, total = value
    marks = [*(f"{bound:.12g}" for bound in bounds), "+Inf"]
    for mark, count in zip(marks, accumulate(counts), strict=True):
        metric.add_sample(f"{name}_bucket", {**dict(labels), "le": mark}, count)
    metric.add_sample(f"{name}_count", dict(labels), sum(counts))
    metric.add_sample(f"{name}_sum", dict(labels), total)
