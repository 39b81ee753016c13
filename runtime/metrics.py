"""What is counted of requests, models and caches, in counters of our own: a lock and an addition each.

Imported only if metrics are on. Of a scrape `metrics_text` makes Prometheus' text. There are series of versions that
are offered or in memory, of models that are served, and of no other: what is not, leaves at the next scrape.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from model_cache.cache import Holding, Loader
from model_cache.errors import ModelCacheError
from model_cache.repository import ModelVersion, ServableId
from runtime.memory import resident
from runtime.metric_families import METHODS, MICROSECONDS, ROWS, SECONDS, Labels, Snapshot, Value, selected
from runtime.servable import LoadPhases, Observed, Servable

if TYPE_CHECKING:
    from runtime.server import ModelServer

_Holding: TypeAlias = Holding[ModelVersion, Servable]
_INTERFACES = ("REST", "gRPC")
_METHODS = tuple(name for name, method in METHODS.items() if method.is_early and not method.is_of_model)
_OF_MODELS = tuple(name for name, method in METHODS.items() if method.is_of_model)


class Histogram:
    """Not thread-safe."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        # A bound is in its own bucket: Prometheus' "le".
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def value(self) -> Value:
        return [*self._counts, self._sum]


class VersionMetrics:
    """Of one version of a model. Thread-safe; an `Observer` of its servables."""

    def __init__(self, id: ServableId) -> None:
        self.id = id
        self.streams = 0
        # Guards all below, each of which is only ever added to but for the requests that are under way.
        self._lock = threading.Lock()
        self._answers = Counter({(i, m, ok): 0 for i in _INTERFACES for m in _METHODS for ok in (True, False)})
        self._times = {interface: Histogram(MICROSECONDS) for interface in _INTERFACES}
        self._inferences = Histogram(MICROSECONDS)
        self._waits = Histogram(MICROSECONDS)
        self._current = 0
        self._hits = self._misses = 0
        self._rows = Histogram(ROWS)
        self._loads = Histogram(SECONDS)
        self._failures = 0
        self._compiling = self._warming_up = 0.0
        self._downloads = self._downloaded = 0
        self._downloading = 0.0

    def begun(self) -> None:
        """Note that an inference request has this version, to be `ended`."""
        with self._lock:
            self._current += 1

    def ended(self) -> None:
        with self._lock:
            self._current -= 1

    def answered(self, interface: str, method: str, ok: bool, seconds: float | None, *, is_hit: bool | None) -> None:
        """
        Args:
            seconds: that an inference request took; None for any other.
            is_hit: whether the version was there before it was asked for; None if it was not asked for.
        """
        with self._lock:
            self._answers[interface, method, ok] += 1
            if seconds is None:
                return
            if is_hit is not None:
                self._hits += is_hit
                self._misses += not is_hit
            if ok:
                self._times[interface].observe(seconds * 1e6)

    def ran(self, waited: float, took: float) -> None:
        with self._lock:
            self._waits.observe(waited * 1e6)
            self._inferences.observe(took * 1e6)

    def stacked(self, rows: int) -> None:
        with self._lock:
            self._rows.observe(rows)

    def loaded(self, phases: LoadPhases) -> None:
        with self._lock:
            self._loads.observe(phases.total)
            self._compiling += phases.compile
            self._warming_up += phases.warm_up
            if phases.fetched is not None:
                self._downloads += 1
                self._downloaded += phases.fetched.size
                self._downloading += phases.fetched.seconds

    def failed(self) -> None:
        with self._lock:
            self._failures += 1

    def samples(self) -> Iterator[tuple[str, Labels, Value]]:
        labels = _labels(self.id)
        with self._lock:
            answers, times = dict(self._answers), {name: time.value() for name, time in self._times.items()}
            simple: dict[str, Value] = {
                "ovms_inference_time_us": self._inferences.value(),
                "ovms_wait_for_infer_req_time_us": self._waits.value(),
                "ovms_current_requests": self._current,
                "decant_cache_hits_total": self._hits,
                "decant_cache_misses_total": self._misses,
                "decant_batch_rows": self._rows.value(),
                "decant_load_seconds": self._loads.value(),
                "decant_load_failures_total": self._failures,
                "decant_compile_seconds_total": self._compiling,
                "decant_warmup_seconds_total": self._warming_up,
                "decant_downloads_total": self._downloads,
                "decant_download_bytes_total": self._downloaded,
                "decant_download_seconds_total": self._downloading,
            }
        for name, value in simple.items():
            yield name, labels, value
        for interface, time in times.items():
            yield "ovms_request_time_us", (("interface", interface), *labels), time
        for (interface, method, ok), count in answers.items():
            yield _of_requests(ok), (*_asked(interface, method), *labels), count


class Metrics:
    """Thread-safe.

    Args:
        names: of families; without any, those that are on by default.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        self.families = selected(names)
        self.gather: Callable[[], Snapshot] | None = None
        """Returns those of all workers, added up; None in a process on its own."""
        # Guards all below. Of versions and models that have been there; the rest leaves with a scrape.
        self._lock = threading.Lock()
        self._versions: dict[ServableId, VersionMetrics] = {}
        self._statuses: Counter[tuple[str, str, str, bool]] = Counter()
        # By interface and status, of which there are few.
        self._refused: Counter[tuple[str, str]] = Counter()

    def of(self, id: ServableId) -> VersionMetrics:
        """Return those of a version of a model that is served."""
        metrics = self._versions.get(id)
        if metrics is None:
            with self._lock:
                metrics = self._versions.setdefault(id, VersionMetrics(id))
        return metrics

    def answered_status(self, interface: str, method: str, name: str, ok: bool) -> None:
        """
        Args:
            name: of a model that is served.
        """
        with self._lock:
            self._statuses[name, interface, method, ok] += 1

    def refused(self, interface: str, status: str) -> None:
        with self._lock:
            self._refused[interface, status] += 1

    def snapshot(self, server: ModelServer) -> Snapshot:
        """Return the families that are on, of this process. Looks at the disk."""
        found: Snapshot = {name: {} for name in self.families}
        for name, labels, value in self._samples(server):
            series = found.get(name)
            if series is None:
                continue
            before = series.get(labels)
            # A version may be in memory twice, while it is loaded anew.
            series[labels] = before + value if isinstance(before, (int, float)) and isinstance(value, int) else value
        return found

    def _samples(self, server: ModelServer) -> Iterator[tuple[str, Labels, Value]]:
        cached = server.snapshot()
        for version in self._kept(server, cached.holdings):
            yield from version.samples()
        with self._lock:
            statuses, refused = dict(self._statuses), dict(self._refused)
        for name in server.repositories:
            for interface, method, ok in product(_INTERFACES, _OF_MODELS, (True, False)):
                count = statuses.get((name, interface, method, ok), 0)
                yield _of_requests(ok), (*_asked(interface, method), ("name", name)), count
        for (interface, status), count in refused.items():
            yield "decant_requests_refused_total", (("interface", interface), ("code", status)), count
        yield from self._in_memory(cached.holdings)
        disk = server.disk.usage()
        memory = resident()
        totals: Mapping[str, float] = {
            "decant_cache_evictions_total": cached.evictions,
            "decant_cache_bytes": cached.used,
            "decant_cache_budget_bytes": cached.budget,
            "decant_process_resident_bytes": memory.total if memory else 0,
            "decant_disk_evictions_total": server.disk.evictions,
            "decant_disk_bytes": disk.used,
            "decant_disk_budget_bytes": disk.budget,
            "decant_disk_free_bytes": disk.free,
        }
        for name, total in totals.items():
            yield name, (), total
        # Not before, as a start has no time for it.
        from runtime import coldstart

        seconds, phases = coldstart.phase_seconds()
        yield "decant_start_seconds", (), seconds
        for phase, took in phases.items():
            yield "decant_start_phase_seconds", (("phase", phase),), took

    def _kept(self, server: ModelServer, holdings: Iterable[_Holding]) -> Sequence[VersionMetrics]:
        """Forget what is neither offered nor in memory; return the rest."""
        repositories = server.repositories
        wanted = {holding.key.id for holding in holdings}
        for repository in repositories.values():
            wanted.update(version.id for version in (repository.known or {}).values())
        with self._lock:
            # What is loading is in memory, so nobody counts with what is forgotten here.
            self._versions = {id: metrics for id, metrics in self._versions.items() if id in wanted}
            self._statuses = Counter({key: count for key, count in self._statuses.items() if key[0] in repositories})
            return list(self._versions.values())

    def _in_memory(self, holdings: Iterable[_Holding]) -> Iterator[tuple[str, Labels, Value]]:
        for holding in holdings:
            servable = holding.value
            if servable is None:
                continue
            labels = _labels(holding.key.id)
            yield "decant_model_bytes", labels, holding.size
            yield "ovms_infer_req_queue_size", labels, servable.concurrency
            yield "ovms_streams", labels, self.of(holding.key.id).streams
            if isinstance(servable, Observed):
                usage = servable.usage
                yield "ovms_infer_req_active", labels, usage.active
                yield "decant_infer_queue_length", labels, usage.waiting
                yield "decant_batch_queue_length", labels, usage.stacking
            if isinstance(servable, _Stateful):
                yield "decant_sequences", labels, servable.sequences


@runtime_checkable
class _Stateful(Protocol):
    @property
    def sequences(self) -> int: ...


class MeteredLoader:
    """A loader around a loader: what it loads is counted, and says what it does. Thread-safe."""

    def __init__(self, inner: Loader[ModelVersion, Servable], metrics: Metrics) -> None:
        self._inner = inner
        self._metrics = metrics

    def estimate(self, version: ModelVersion) -> int:
        return self._inner.estimate(version)

    def load(self, version: ModelVersion) -> Servable:
        metrics = self._metrics.of(version.id)
        try:
            servable = self._inner.load(version)
        except ModelCacheError:
            metrics.failed()
            raise
        metrics.loaded(servable.phases)
        if isinstance(servable, Observed):
            # Now, as it may be closed when somebody wants to know.
            metrics.streams = servable.usage.streams
            servable.observer = metrics
        return servable


def _of_requests(ok: bool) -> str:
    return "ovms_requests_success" if ok else "ovms_requests_fail"


def _asked(interface: str, method: str) -> Labels:
    api = METHODS[method].api
    return (("api", api), ("interface", interface), ("method", method))


def _labels(id: ServableId) -> Labels:
    return (("name", id.name), ("version", str(id.version)))
