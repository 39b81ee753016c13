"""The models a server has, and the one way to use them: resolve a name, hold a lease, call the servable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from typing import NamedTuple

from model_cache.cache import ModelCache
from model_cache.errors import LoadFailed, ModelCacheError, ModelNotFound, StorageUnavailable
from model_cache.repository import ModelRepository, ModelVersion, ServableId
from runtime.servable import Servable
from runtime.status import Code, code_of

LOAD_TIMEOUT = 60.0
"""Seconds that a request waits for a load which another has begun, before it is told to come again."""


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
    ) -> None:
        self._models = models
        self._cache = cache
        self._load_timeout = load_timeout

    def start(self, name: str) -> ServableId:
        """Load the model's newest version that loads, without a request for it.

        Raises:
            ModelCacheError: as `lease`.
        """
        with self.lease(name) as lease:
            return lease.id

    @contextmanager
    def lease(self, name: str, version: int | None = None) -> Iterator[Lease]:
        """Hold a servable for the length of a with block; it is loaded if it is not.

        Without a version this is the newest that loads: if the newest is broken, the one before it goes on serving.

        Raises:
            ModelNotFound: no such model or version.
            ModelCacheError: it cannot be loaded, or not now.
        """
        candidates = self._resolve(name, version)
        with ExitStack() as stack:
            yield self._lease_first(stack, candidates)

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
                f"Servable not found for request: Latest({name}): no directory named by a number in {repository}"
            )
        return [versions[number] for number in sorted(versions, reverse=True)]

    def _lease_first(self, stack: ExitStack, candidates: list[ModelVersion]) -> Lease:
        first: ModelCacheError | None = None
        for version in candidates:
            # With the storage out of reach, another version helps only if it is here.
            if isinstance(first, StorageUnavailable) and not self._cache.is_loaded(version):
                continue
            try:
                return Lease(version.id, stack.enter_context(self._cache.lease(version, self._load_timeout)))
            except (LoadFailed, StorageUnavailable) as exc:
                if isinstance(exc, StorageUnavailable):
                    self._repository(version.id.name).expire()
                first = first or exc
        assert first is not None
        raise first

    def _status(self, version: ModelVersion) -> VersionStatus:
        number = version.id.version
        if self._cache.is_loaded(version):
            return VersionStatus(number, State.AVAILABLE, Code.OK, "")
        if self._cache.is_loading(version):
            return VersionStatus(number, State.LOADING, Code.OK, "")
        failure = self._cache.failure(version)
        if isinstance(failure, ModelCacheError):
            return VersionStatus(number, State.END, code_of(failure), str(failure))
        # It can be loaded on demand, so a predict sent now will be answered.
        return VersionStatus(number, State.AVAILABLE, Code.OK, "")


def _means_any(version: int, versions: Mapping[int, ModelVersion]) -> bool:
    # OpenVINO Model Server's clients say 0 for "the default one". To TensorFlow Serving's it is a version like any.
    return version == 0 and 0 not in versions
