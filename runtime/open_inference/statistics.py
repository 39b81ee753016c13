"""Triton's statistics extension: what is counted of the requests of this protocol, over HTTP and gRPC.

There are counters of versions that are offered or in memory, and of no other. Imports no numpy, as the supervisor of
several processes adds up what they have counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from operator import add
from typing import TYPE_CHECKING, TypeAlias

from model_cache.errors import ModelNotFound
from model_cache.repository import ServableId
from runtime.codecs.open_inference.reports import Duration, ModelStatistics
from runtime.errors import NAME, quoted

if TYPE_CHECKING:
    from runtime.server import ModelServer

Counts: TypeAlias = dict[tuple[str, int], list[float]]
"""By model and version, as in `_FIELDS`. It can be pickled."""

_FIELDS = (
    "last",
    "rows",
    "successes",
    "failures",
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
)
_NOTHING = (0.0,) * len(_FIELDS)


class VersionStatistics:
    """Of one version of a model. Thread-safe. All times are seconds."""

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        # Guards the other, whose numbers belong together.
        self._lock = threading.Lock()
        self._counts = list(_NOTHING)

    def succeeded(
        self, rows: int, queue: float, compute_input: float, compute_infer: float, compute_output: float, total: float
    ) -> None:
        """
        Args:
            rows: the size of its batch; 1 if it has none.
            queue: that it waited for its model and for its turn, as far as that is known.
            compute_input: until its tensors were ready for the model.
            compute_infer: that the model took.
            compute_output: until its answer was ready.
            total: all that it took.
        """
        self._add(time.time(), rows, 1, 0, total, 0.0, queue, compute_input, compute_infer, compute_output)

    def failed(self, total: float) -> None:
        self._add(0.0, 0, 0, 1, 0.0, total, 0.0, 0.0, 0.0, 0.0)

    def counts(self) -> list[float]:
        with self._lock:
            return list(self._counts)

    def _add(self, *numbers: float) -> None:
        """
        Args:
            numbers: as in `_FIELDS`.
        """
        with self._lock:
            self._counts = _sum(self._counts, numbers)


class Statistics:
    """Of one process. Thread-safe."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        # Guards the next, which is replaced as a whole, or added to, so that it can be read without it.
        self._lock = threading.Lock()
        self._versions: dict[ServableId, VersionStatistics] = {}

    def of(self, id: ServableId) -> VersionStatistics:
        """Return those of a version that a request has, or has had."""
        found = self._versions.get(id)
        return self._add(id) if found is None else found

    def counts(self) -> Counts:
        """Return what this process has counted, also of versions of which that is nothing yet."""
        wanted = self._server.wanted()
        with self._lock:
            self._versions = {id: self._versions.get(id) or VersionStatistics() for id in wanted}
            versions = dict(self._versions)
        return {(id.name, id.version): version.counts() for id, version in versions.items()}

    def _add(self, id: ServableId) -> VersionStatistics:
        # Nobody may ever ask for them, so that what is there no more has to leave as others come.
        wanted = self._server.wanted()
        with self._lock:
            self._versions = {known: version for known, version in self._versions.items() if known in wanted}
            return self._versions.setdefault(id, VersionStatistics())


def of(server: ModelServer) -> Statistics:
    """Return those that all of a server's fronts have in common."""
    return server.statistics


def rows(
    server: ModelServer, name: str = "", version: int | None = None, until: float | None = None
) -> list[ModelStatistics]:
    """Return the statistics of one version, of all of a model's, or of all there are; of all processes.

    Args:
        server: whose models these are.
        name: of the model; empty for all.
        version: None for all; so is 0, as it is for other requests, of a model that has no version of that number.
        until: in seconds of the monotonic clock, when the model's first listing is not waited for any more.

    Raises:
        ModelNotFound: no such model or version, or one that is not offered any more.
        Overloaded: there are several processes, and they cannot be asked now.
        ModelCacheError: as `ModelServer.status`.
    """
    if name:
        server.status(name, version, until=until)
    ids = sorted(id for id in server.wanted() if name in ("", id.name))
    if version and ServableId(name, version) not in ids:
        raise ModelNotFound(f"Could not find version {version} of model {quoted(name, NAME)}")
    if version is not None and ServableId(name, version) in ids:
        ids = [ServableId(name, version)]
    counts = of(server).counts() if server.peers is None else server.peers.statistics()
    return [_row(id, counts.get((id.name, id.version), _NOTHING)) for id in ids]


def added_up(all_counts: Iterable[Counts]) -> Counts:
    """Return what several processes have counted together."""
    total: Counts = {}
    for counts in all_counts:
        for id, numbers in counts.items():
            total[id] = _sum(total[id], numbers) if id in total else numbers
    return total


def counted(counts: Counts) -> Counts:
    """Return what stays of a process that is gone, which is all that it has counted."""
    return counts


def still_there(counts: Counts, now: Counts) -> Counts:
    """Return the counts of a process that is gone, but for versions that nobody has any more."""
    return {id: numbers for id, numbers in counts.items() if id in now}


def _sum(one: Iterable[float], other: Iterable[float]) -> list[float]:
    first, *rest = one
    last, *more = other
    # Of when it was last: a clock may be set back.
    return [max(first, last), *map(add, rest, more)]


def _row(id: ServableId, counts: Iterable[float]) -> ModelStatistics:
    number = dict(zip(_FIELDS, counts, strict=True))
    successes = int(number["successes"])
    return ModelStatistics(
        id.name,
        str(id.version),
        last_inference=int(number["last"] * 1e3),
        inference_count=int(number["rows"]),
        # What has run in a batch with others counts as if it had run alone.
        execution_count=successes,
        success=_duration(successes, number["success"]),
        fail=_duration(int(number["failures"]), number["fail"]),
        queue=_duration(successes, number["queue"]),
        compute_input=_duration(successes, number["compute_input"]),
        compute_infer=_duration(successes, number["compute_infer"]),
        compute_output=_duration(successes, number["compute_output"]),
    )


def _duration(count: int, seconds: float) -> Duration:
    return Duration(count, int(seconds * 1e9))
