"""The models a server has, and the one way to use them: resolve a name, hold a lease, call the servable."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from typing import NamedTuple

from cachetools import LRUCache

from model_cache.cache import ModelCache
from model_cache.errors import LoadFailed, ModelCacheError, ModelNotFound, StorageUnavailable
from model_cache.repository import ModelRepository, ModelVersion, ServableId
from runtime.servable import Servable
from runtime.status import Code, code_of, is_ours, public_message

logger = logging.getLogger(__name__)

LOAD_TIMEOUT = 60.0
"""Seconds that a request waits for a load before it is told to come again; the load goes on."""
RETRY = 10.0
"""Seconds between two attempts to load a version in the background."""


class State(IntEnum):
    """TensorFlow Serving's ModelVersionStatus.State."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class VersionStatus(NamedTuple):
    version: int
    state: State
    code: Code
    message: str


class Lease(NamedTuple):
    id: ServableId
    servable: Servable


class ModelServer:
    """Thread-safe. ``close`` waits for nobody: leases still held end as they end."""

    def __init__(
        self,
        models: Mapping[str, ModelRepository],
        cache: ModelCache[ModelVersion, Servable],
        *,
        load_timeout: float = LOAD_TIMEOUT,
        # Not the monotonic clock: it stands still while a platform has the process frozen.
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._models = models
        self._cache = cache
        self._load_timeout = load_timeout
        self._clock = clock
        # The version that last answered a request for none in particular, by model. Read and replaced, each at once.
        self._serving: dict[str, int] = {}
        # Guards _next_tries: when each version may be loaded in the background again. Bounded, as versions come and go.
        self._lock = threading.Lock()
        self._next_tries: LRUCache[ModelVersion, float] = LRUCache(256)

    def start(self, name: str) -> ServableId:
        """Load the model's newest version that loads, however long that takes.

        Raises:
            ModelCacheError: as `lease`.
        """
        with ExitStack() as stack:
            lease = self._lease_first(stack, self._resolve(name, None), None)
            self._serving[name] = lease.id.version
            return lease.id

    @contextmanager
    def lease(self, name: str, version: int | None = None) -> Iterator[Lease]:
        """Hold a servable for the length of a with block; it is loaded if it is not.

        Without a version this is the newest that loads: if the newest is broken, the one before it goes on serving.
        While a newer one than it has served so far is loading, the model goes on serving the one it has.

        Raises:
            ModelNotFound: no such model or version.
            ModelCacheError: it cannot be loaded, or not now.
        """
        candidates = self._resolve(name, version)
        if version is None:
            candidates = self._prefer_serving(name, candidates)
        with ExitStack() as stack:
            lease = self._lease_first(stack, candidates, self._load_timeout)
            if version is None:
                self._serving[name] = lease.id.version
            yield lease

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Return the state of one version, or of all, newest first.

        Raises:
            ModelNotFound: no such model or version.
            StorageUnavailable: the storage cannot be listed and never could be.
        """
        versions = self._repository(name).versions()
        if not versions:
            raise ModelNotFound(f"Could not find any versions of model {name}")
        if version is None or _means_any(version, versions):
            return [self._status(versions[number]) for number in sorted(versions, reverse=True)]
        if version not in versions:
            raise ModelNotFound(f"Could not find version {version} of model {name}")
        return [self._status(versions[version])]

    def close(self) -> None:
        self._cache.close()

    def _repository(self, name: str) -> ModelRepository:
        repository = self._models.get(name)
        if repository is None:
            raise ModelNotFound(f"Servable not found for request: Latest({name})")
        return repository

    def _resolve(self, name: str, version: int | None) -> list[ModelVersion]:
        """Return the versions that would do, best first; at least one."""
        repository = self._repository(name)
        versions = repository.versions()
        if version is not None and not _means_any(version, versions):
            return [repository.find(version)]
        if not versions:
            raise ModelNotFound(
                f"Servable not found for request: Latest({name}): where it is stored there is no directory named by a "
                "number, which would be a version"
            )
        return [versions[number] for number in sorted(versions, reverse=True)]

    def _prefer_serving(self, name: str, candidates: list[ModelVersion]) -> list[ModelVersion]:
        """Keep to the version that serves, if it is loaded, and have a newer one loaded meanwhile."""
        number = self._serving.get(name)
        serving = next((version for version in candidates if version.id.version == number), None)
        if serving is None or self._cache.is_loaded(candidates[0]) or not self._cache.is_loaded(serving):
            return candidates
        self._load_behind(candidates[0])
        return [serving]

    def _load_behind(self, version: ModelVersion) -> None:
        """Load a version in the background, unless that is being done or has lately been tried in vain."""
        with self._lock:
            now = self._clock()
            if now < self._next_tries.get(version, 0.0):
                return
            self._next_tries[version] = now + RETRY
        threading.Thread(target=self._try_load, args=(version,), name=f"behind {version}", daemon=True).start()

    def _try_load(self, version: ModelVersion) -> None:
        try:
            with self._cache.lease(version):
                pass
        except ModelCacheError as exc:
            self._note(version, exc)
            if is_ours(exc):
                logger.warning("%s is not loaded, the version before it goes on serving: %s", version, exc)

    def _lease_first(self, stack: ExitStack, candidates: list[ModelVersion], timeout: float | None) -> Lease:
        first: ModelCacheError | None = None
        try:
            for version in candidates:
                # Only broken files are a reason to load an older version; any other trouble would meet it too.
                if first and not isinstance(first, LoadFailed) and not self._cache.is_loaded(version):
                    continue
                try:
                    return Lease(version.id, stack.enter_context(self._cache.lease(version, timeout)))
                except ModelCacheError as exc:
                    self._note(version, exc)
                    first = first or exc
            assert first is not None
            raise first
        finally:
            # Its traceback has this frame, which must not have it in turn.
            del first

    def _note(self, version: ModelVersion, error: ModelCacheError) -> None:
        if isinstance(error, StorageUnavailable):
            self._repository(version.id.name).expire()

    def _status(self, version: ModelVersion) -> VersionStatus:
        number = version.id.version
        if self._cache.is_loaded(version):
            return VersionStatus(number, State.AVAILABLE, Code.OK, "")
        if self._cache.is_loading(version):
            return VersionStatus(number, State.LOADING, Code.OK, "")
        failure = self._cache.failure(version)
        if isinstance(failure, ModelCacheError):
            return VersionStatus(number, State.END, code_of(failure), public_message(failure))
        # It can be loaded on demand, so a predict sent now will be answered.
        return VersionStatus(number, State.AVAILABLE, Code.OK, "")


def _means_any(version: int, versions: Mapping[int, ModelVersion]) -> bool:
    # OpenVINO Model Server's clients say 0 for "the default one". To TensorFlow Serving's it is a version like any.
    return version == 0 and 0 not in versions
