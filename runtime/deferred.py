"""A loader that is there before the engine is: what takes longest at a start, fetching, does not wait for imports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from model_cache.cache import Loader
from model_cache.disk import DiskCache
from model_cache.repository import ModelVersion
from model_cache.timeline import span
from runtime.memory import upper_bound
from runtime.servable import Servable


class DeferredLoader:
    """Fetches a version's files, and only then asks for the loader that makes a servable of them. Thread-safe."""

    def __init__(self, files: DiskCache, make: Callable[[], Loader[ModelVersion, Servable]]) -> None:
        """
        Args:
            make: returns the loader, and imports all that it takes; called once, unless it fails.
        """
        self._files = files
        self._make = make
        # Held while the loader is made, so that there is one.
        self._lock = threading.Lock()
        self._loader: Loader[ModelVersion, Servable] | None = None

    def estimate(self, version: ModelVersion) -> int:
        return upper_bound(version.size) if self._loader is None else self._loader.estimate(version)

    def load(self, version: ModelVersion) -> Servable:
        if self._loader is not None:
            return self._loader.load(version)
        began = time.perf_counter()
        with self._files.lease(version) as files:
            with span("wait"):
                loader = self.make()
            before = time.perf_counter() - began
            # It leases the files too, and finds them there.
            servable = loader.load(version)
        phases = servable.phases
        servable.phases = phases._replace(fetched=files.fetched, total=phases.total + before)
        return servable

    def make(self) -> Loader[ModelVersion, Servable]:
        """Return the loader, made now if it has not been."""
        with self._lock:
            if self._loader is None:
                self._loader = self._make()
            return self._loader
