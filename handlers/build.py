"""From settings to a server: the one place where the layers meet. Does no I/O but to measure disk and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from handlers.configuration import ModelConfig, models_of, read
from handlers.limits import disk_room, is_in_memory, memory_room
from handlers.progress import watch
from handlers.settings import OF_BATCHING, Settings, SettingsError, is_on_cloud_run
from model_cache.cache import Loader, ModelCache
from model_cache.disk import DiskCache
from model_cache.repository import ModelRepository, ModelVersion
from model_cache.storage import open_storage
from runtime.engine import OpenVinoLoader
from runtime.servable import Servable
from runtime.server import ModelServer

if TYPE_CHECKING:
    from runtime.batching import BatchingParameters

MEMORY_SHARE = 0.7
"""Of the memory there is, for loaded models; the rest is for requests, and for the peak while a model compiles."""
_DISK_SHARE = 0.3
"""Of the memory there is, for downloads where the disk is memory; loaded models have that much less."""
_STREAM_MEMORY = 64 << 20
"""Bytes of memory there should be for each part that is read at once: a few of them are in buffers at any moment."""


def build_server(settings: Settings, models: Sequence[ModelConfig] | None = None) -> ModelServer:
    """Return the server of these models, or of those that the settings name, with nothing loaded.

    Raises:
        SettingsError: there is no model, or its path is of no kind that can be read.
        StorageUnavailable: the storage's SDK is missing or cannot be set up.
    """
    models = models_of(settings) if models is None else models
    share = MEMORY_SHARE - (_DISK_SHARE if _is_disk_memory(settings) else 0.0)
    memory_budget = settings.memory_budget or int(memory_room() * share)
    files = open_disk_cache(settings)
    return ModelServer(
        {model.name: open_repository(model, settings) for model in models},
        ModelCache[ModelVersion, Servable](_loader(settings, files), memory_budget),
        files,
        labels={model.name: model.labels for model in models},
        load_timeout=settings.load_timeout,
    )


def open_disk_cache(settings: Settings, *, is_durable: bool = False) -> DiskCache:
    directory = Path(settings.cache_dir)
    budget = settings.disk_budget or disk_room(directory)
    if not settings.disk_budget and _is_disk_memory(settings):
        budget = min(budget, int(memory_room() * _DISK_SHARE))
    threads = min(max(memory_room() // _STREAM_MEMORY, 2), 8)
    return DiskCache(directory, budget, threads=threads, watch=watch, is_durable=is_durable)


def open_repository(model: ModelConfig, settings: Settings) -> ModelRepository:
    try:
        storage = open_storage(model.base_path, settings.storage_options())
    except ValueError as exc:
        raise SettingsError(f"{model.name}: model_path: {exc}") from exc
    return ModelRepository(
        model.name,
        storage,
        ttl=settings.file_system_poll_wait_seconds or math.inf,
        policy=model.policy,
        ready_marker=settings.ready_marker,
    )


def _loader(settings: Settings, files: DiskCache) -> Loader[ModelVersion, Servable]:
    settings.require_batching()
    loader: Loader[ModelVersion, Servable] = OpenVinoLoader(files)
    # What is around the engine is imported by who wants it, as all that takes time at a cold start.
    if settings.enable_model_warmup or settings.enable_signature_warmup:
        from runtime.warmup import WarmingLoader

        loader = WarmingLoader(
            loader,
            files,
            replays=settings.enable_model_warmup,
            iterations=settings.num_request_iterations_for_warmup,
            from_signature=settings.enable_signature_warmup,
        )
    if not settings.enable_batching:
        return loader
    from runtime.batching import BatchingLoader

    return BatchingLoader(
        loader,
        files,
        parameters=_batching_parameters(settings),
        reads_per_model=settings.enable_per_model_batching_parameters,
    )


def _batching_parameters(settings: Settings) -> BatchingParameters | None:
    """Return those of all versions that have none of their own; None if such versions are not batched."""
    from runtime.batching import BatchingParameters, parse_parameters

    path = settings.batching_parameters_file
    # As in TensorFlow Serving, as long as nothing else is said.
    if settings.enable_per_model_batching_parameters and not path and not settings.given(OF_BATCHING):
        return None
    try:
        if path:
            return parse_parameters(read(path, settings.storage_options(), "batching_parameters_file").decode())
        return BatchingParameters(**{name: getattr(settings, name) for name in OF_BATCHING})
    except ValueError as exc:
        raise SettingsError(f"{path}: {exc}" if path else str(exc)) from exc
    except ModuleNotFoundError as exc:
        raise SettingsError(
            f"{path} needs {exc.name}, which is not installed; try: pip install 'decant[grpc]'"
        ) from exc


def _is_disk_memory(settings: Settings) -> bool:
    return is_on_cloud_run() or is_in_memory(Path(settings.cache_dir))
