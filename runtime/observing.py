"""Requests as they are seen from outside: each is counted if metrics are on, and is a line of the log at DEBUG.

Imported only if one of the two is so. What is in here stands around the contract, the services and the server, and
nothing of it is on the way of a request that nobody looks at.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

from model_cache.repository import ServableId
from runtime import urls
from runtime.answers import Answer
from runtime.contract import Call, Contract
from runtime.errors import NAME, quoted
from runtime.metric_families import METHODS
from runtime.servable import Servable, Tensors
from runtime.server import Lease, ModelServer, VersionStatus
from runtime.status import Code

if TYPE_CHECKING:
    from runtime.metrics import Metrics, VersionMetrics
    from runtime.rpc import Attempt, Outcome

logger = logging.getLogger(__name__)

_INFERENCES = frozenset(name for name, method in METHODS.items() if method.is_inference)


class Observation:
    """One request, from when all of it has come to when its answer is made. Used by one thread at a time."""

    __slots__ = ("_infer", "_inferred_at", "_wait", "began", "id", "is_hit", "is_inference", "method", "name", "read")

    def __init__(self, method: str, read: int) -> None:
        """
        Args:
            method: gRPC's name of it; anything else for what is not counted.
            read: bytes of the request.
        """
        self.method = method
        self.read = read
        self.is_inference = method in _INFERENCES
        self.began = time.perf_counter()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all but when it began: what was tried has come to nothing."""
        self.name = ""
        """Of the model that was asked for."""
        self.id: ServableId | None = None
        """Which version has answered it, or was to."""
        self.is_hit: bool | None = None
        """Whether that was in memory; None if it was not asked for, or nobody wants to know."""
        self._wait = self._infer = self._inferred_at = 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def waited(self, seconds: float) -> None:
        """Note that it had to wait for its model, or for a thread."""
        self._wait += seconds

    def inferred(self, seconds: float) -> None:
        """Note that its model has just run, with whatever that had to wait for."""
        self._infer += seconds
        self._inferred_at = self.seconds

    def timings(self) -> str:
        """Return what it has taken, in milliseconds. What is neither waiting nor the model is reading and writing."""
        total = self.seconds
        encode = total - self._inferred_at if self._inferred_at else 0.0
        decode = max(0.0, total - encode - self._wait - self._infer)
        parts = {"wait": self._wait, "decode": decode, "infer": self._infer, "encode": encode, "total": total}
        return " ".join(f"{name} {seconds * 1e3:.3f}" for name, seconds in parts.items())


class _Here(threading.local):
    observation: Observation | None = None
    """The request that this thread is at."""


_here = _Here()


class _At:
    """A class, as `_ObservedLease`."""

    __slots__ = ("_observation",)

    def __init__(self, observation: Observation) -> None:
        self._observation = observation

    def __enter__(self) -> None:
        _here.observation = self._observation

    def __exit__(self, *error: object) -> None:
        _here.observation = None


class _Watch:
    """What is done with each request of an interface at its end. Thread-safe."""

    def __init__(self, interface: str, server: ModelServer) -> None:
        self._interface = interface
        self._server = server
        self._metrics = server.metrics

    def end(self, seen: Observation, line: str, status: str, ok: bool, sent: int) -> None:
        """
        Args:
            line: how it was asked for.
            status: what it was answered with.
            sent: bytes of the answer.
        """
        if self._metrics is not None and seen.method in METHODS:
            self._count(self._metrics, seen, status, ok)
        if logger.isEnabledFor(logging.DEBUG):
            which = seen.id or quoted(seen.name, NAME) or "-"
            timings = seen.timings()
            logger.debug("%s %s %s %s ms, %d bytes in, %d out", line, status, which, timings, seen.read, sent)

    def _count(self, metrics: Metrics, seen: Observation, status: str, ok: bool) -> None:
        if METHODS[seen.method].is_of_model:
            if seen.name in self._server.repositories:
                metrics.answered_status(self._interface, seen.method, seen.name, ok)
            else:
                metrics.refused(self._interface, status)
        elif seen.id is not None:
            seconds = seen.seconds if seen.is_inference else None
            metrics.of(seen.id).answered(self._interface, seen.method, ok, seconds, is_hit=seen.is_hit)
        else:
            metrics.refused(self._interface, status)

    def refused(self, line: str, status: str) -> None:
        """Note that what has come was no request, or one too many."""
        if self._metrics is not None:
            self._metrics.refused(self._interface, status)
        logger.debug("%s %s", line, status)


class ObservedServer:
    """A `ModelServer` that tells the request which version has answered it, and when what happened to it."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def lease(
        self,
        name: str,
        version: int | None = None,
        *,
        label: str | None = None,
        deadline: float | None = None,
        until: float | None = None,
    ) -> AbstractContextManager[Lease]:
        inner = self._server.lease(name, version, label=label, deadline=deadline, until=until)
        seen = _here.observation
        if seen is None:
            return inner
        seen.name = name
        if seen.is_inference and self._server.metrics is not None:
            # Of version 0 the clients of OpenVINO Model Server say that it is the one that serves.
            seen.is_hit = self._server.peek(name, version or None, label) is not None
        return _ObservedLease(inner, seen, self._server.metrics)

    def status(
        self, name: str, version: int | None = None, *, deadline: float | None = None, until: float | None = None
    ) -> list[VersionStatus]:
        seen = _here.observation
        if seen is not None:
            seen.name = name
        return self._server.status(name, version, deadline=deadline, until=until)


class _ObservedLease:
    """A class, as a generator would cost more than all that it does."""

    __slots__ = ("_counts", "_inner", "_metrics", "_seen")

    def __init__(self, inner: AbstractContextManager[Lease], seen: Observation, metrics: Metrics | None) -> None:
        self._inner = inner
        self._seen = seen
        self._metrics = metrics
        self._counts: VersionMetrics | None = None

    def __enter__(self) -> Lease:
        began = time.perf_counter()
        lease = self._inner.__enter__()
        self._seen.waited(time.perf_counter() - began)
        self._seen.id = lease.id
        if self._metrics is not None and self._seen.is_inference:
            self._counts = self._metrics.of(lease.id)
            self._counts.begun()
        return Lease(lease.id, cast(Servable, _ObservedServable(lease.servable, self._seen)))

    def __exit__(self, *error: Any) -> bool | None:
        if self._counts is not None:
            self._counts.ended()
        return self._inner.__exit__(*error)


class _ObservedServable:
    __slots__ = ("_inner", "_seen")

    def __init__(self, inner: Servable, seen: Observation) -> None:
        self._inner = inner
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        began = time.perf_counter()
        try:
            return self._inner.predict(signature_name, inputs, deadline)
        finally:
            self._seen.inferred(time.perf_counter() - began)


class ObservedContract(Contract):
    def __init__(self, server: ModelServer, **options: Any) -> None:
        super().__init__(cast(ModelServer, ObservedServer(server)), **options)
        self.call_type = ObservedCall
        self.watch = _Watch("REST", server)

    def failed(self, method: str, path: bytes, exc: BaseException) -> Answer:
        answer = super().failed(method, path, exc)
        # What fails once it is a request ends as others do.
        if _here.observation is None:
            self.watch.refused(urls.line(method, path), str(answer.status))
        return answer


class ObservedCall(Call):
    __slots__ = ("_paused_at", "_seen")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._seen: Observation | None = None
        # Since when it waits to be answered by another thread.
        self._paused_at = 0.0

    def answer_if_quick(self, body: bytes) -> Answer | None:
        seen = self._seen = Observation(self._operation.method, len(body))
        with _At(seen):
            answer = super().answer_if_quick(body)
        if answer is not None:
            self._end(seen, answer)
            return answer
        self._paused_at = time.perf_counter()
        # Unless it is only to be written: so far it has done nothing but wait.
        if self._encode is None:
            seen.begin_anew()
            self._paused_at = seen.began
        return None

    def answer(self, body: bytes) -> Answer:
        seen = self._seen
        if seen is None:
            seen = Observation(self._operation.method, len(body))
        else:
            seen.waited(time.perf_counter() - self._paused_at)
        with _At(seen):
            answer = super().answer(body)
        self._end(seen, answer)
        return answer

    def _end(self, seen: Observation, answer: Answer) -> None:
        operation = self._operation
        contract = cast(ObservedContract, self._contract)
        seen.name = seen.name or operation.name
        if seen.id is None and seen.is_inference:
            # A body that makes no sense is found out before its model is looked for.
            seen.id = contract.server.peek(operation.name, operation.version or None, operation.label)
        line = urls.line(self._method, self._path)
        contract.watch.end(
            seen, line, str(answer.status), answer.status < 400, answer.size if answer.tail else len(answer.body)
        )


class ObservedServices:
    """What stands around gRPC's methods."""

    def __init__(self, server: ModelServer) -> None:
        self.server = cast(ModelServer, ObservedServer(server))
        self._watch = _Watch("gRPC", server)

    def around(self, service: str, name: str, attempt: Attempt) -> Attempt:
        """Return what does as ``attempt``, and is observed."""
        line = f"/{service}/{name}"

        def observed(content: bytes, deadline: float | None) -> Outcome:
            seen = Observation(name, len(content))
            with _At(seen):
                outcome = attempt(content, deadline)
            self._watch.end(seen, line, outcome.code.name, outcome.code is Code.OK, len(outcome.content))
            return outcome

        return observed
