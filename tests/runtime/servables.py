"""Servables and loaders that behave, without an engine, until a test tells them to misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from model_cache.cache import ModelCache
from model_cache.disk import DiskCache
from model_cache.errors import ModelCacheError
from model_cache.policy import VersionPolicy
from model_cache.repository import LISTING_TTL, ModelRepository, ModelVersion
from model_cache.timeline import timeline
from runtime.errors import InvalidRequest, SignatureNotFound
from runtime.metrics import MeteredLoader, Metrics
from runtime.servable import LoadPhases, Servable, Tensors
from runtime.server import ModelServer
from runtime.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from tests.fakes import Clock, Gate, MemoryStorage, until

NAME = "half_plus_two"
F32 = np.dtype(np.float32)


class HalfPlusTwo:
    """TensorFlow Serving's own example: ``y = x / 2 + 2``. Also says which version it is."""

    size = 1
    phases = LoadPhases(None, 0.25, 0.5)
    concurrency = 1
    is_quick = False
    is_kept = False

    def __init__(self, version: int) -> None:
        self._version = version
        self.is_closed = False
        self.bug: Exception | None = None
        """What predict raises, as nothing of it should be shown to anybody."""
        self.signatures = {
            DEFAULT_SIGNATURE: Signature(
                {"x": TensorSpec("x", F32, (-1,))},
                {"y": TensorSpec("y", F32, (-1,)), "version": TensorSpec("version", np.dtype(np.int64), (-1,))},
            ),
            "only_y": Signature({"x": TensorSpec("x", F32, (-1,))}, {"y": TensorSpec("y", F32, (-1,))}),
        }

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        assert not self.is_closed
        if self.bug is not None:
            raise self.bug
        if signature_name not in self.signatures:
            raise SignatureNotFound(f'Serving signature key "{signature_name}" not found.')
        if inputs.keys() != {"x"}:
            raise InvalidRequest(f"input size does not match signature: given {sorted(inputs)}; want ['x']")
        x = inputs["x"]
        if x.dtype != F32 or x.ndim != 1:
            raise InvalidRequest(f"input 'x' is {x.dtype} {x.shape}; want float32 (-1,)")
        outputs = {"y": x / 2 + 2, "version": np.full(x.shape, self._version, np.int64)}
        return {name: outputs[name] for name in self.signatures[signature_name].outputs}

    def close(self) -> None:
        self.is_closed = True


class VersionLoader:
    """Loads a servable for every version but those that are broken."""

    def __init__(self, make: Callable[[int], Any] = HalfPlusTwo) -> None:
        self._make = make
        self.broken: dict[int, Exception] = {}
        """By version, what loading it raises."""
        self.gates: dict[int, Gate] = {}
        self.loads: list[int] = []
        self.servables: dict[int, Any] = {}
        """The last one of each version."""
        self.made: list[Any] = []

    def estimate(self, version: ModelVersion) -> int:
        return 1

    def load(self, version: ModelVersion) -> Servable:
        number = version.id.version
        self.loads.append(number)
        if gate := self.gates.get(number):
            gate.pass_through()
        if error := self.broken.get(number):
            raise error
        servable: Servable = self._make(number)
        self.servables[number] = servable
        self.made.append(servable)
        return servable

    def hold(self, version: int) -> Gate:
        self.gates[version] = Gate()
        return self.gates[version]


class Stage:
    """A model server over fakes, and the strings to pull."""

    def __init__(
        self,
        *versions: int,
        make: Callable[[int], Any] = HalfPlusTwo,
        name: str = NAME,
        load_timeout: float = 60,
        policy: VersionPolicy | None = None,
        budget: int = 100,
        room_timeout: float = 0.05,
        disk: DiskCache | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.storage = MemoryStorage({f"{version}/model.xml": b"" for version in versions})
        self.loader = VersionLoader(make)
        self.clock = Clock()
        self.repository = ModelRepository(name, self.storage, policy=policy, clock=self.clock)
        # Every servable takes one byte of the budget.
        self.cache = ModelCache[ModelVersion, Servable](
            self.loader if metrics is None else MeteredLoader(self.loader, metrics),
            budget,
            room_timeout=room_timeout,
            clock=self.clock,
        )
        self.server = ModelServer(
            {name: self.repository},
            self.cache,
            disk or DiskCache(Path("/nowhere"), 0),
            load_timeout=load_timeout,
            metrics=metrics,
            clock=self.clock,
        )

    def put(self, version: int, data: bytes = b"") -> None:
        """Upload a version, and let pass what it takes to be taken for whole."""
        self.storage.blobs[f"{version}/model.xml"] = data
        self.list_anew()

    def remove(self, *versions: int) -> None:
        for version in versions:
            del self.storage.blobs[f"{version}/model.xml"]
        self.list_anew()

    def list_anew(self) -> None:
        for _ in range(2):
            self.pass_seconds(LISTING_TTL)
            self.look()

    def look(self) -> None:
        """List now, and not in the background."""
        self.repository.expire()
        self.repository.versions()

    def break_storage(self, error: ModelCacheError) -> None:
        def fail(*_: object) -> None:
            raise error

        self.storage.before_list = fail

    def pass_seconds(self, seconds: float) -> None:
        self.clock.now += seconds


@contextmanager
def stage(*versions: int, **options: Any) -> Iterator[Stage]:
    """A stage on which everything has been closed at the end."""
    made = Stage(*versions, **options)
    try:
        yield made
    finally:
        made.server.close()
        until(lambda: all(servable.is_closed for servable in made.loader.made))


def finish_start() -> None:
    """Have this process's first predict requests, whose answers say how long its start took, behind it."""
    while timeline.is_fresh:
        with timeline.predict():
            pass


def predict(server: ModelServer, version: int | None = None, name: str = NAME) -> tuple[int, list[float]]:
    """Predict for 1 and 2; return the version that answered, by its own account, and y."""
    with server.lease(name, version) as lease:
        outputs: Mapping[str, Any] = lease.servable.predict(DEFAULT_SIGNATURE, {"x": np.array([1, 2], np.float32)})
        assert set(outputs["version"]) == {lease.id.version}
    return lease.id.version, outputs["y"].tolist()
