"""From settings to a server: the one place where the layers meet. Does no I/O but to measure disk and memory."""

from __future__ import annotations

import math
from pathlib import Path

from handlers.limits import disk_room, is_in_memory, memory_room
from handlers.progress import watch
from handlers.settings import Settings, SettingsError, is_on_cloud_run
from model_cache.cache import ModelCache
from model_cache.disk import DiskCache
from model_cache.repository import ModelRepository, ModelVersion
from model_cache.storage import open_storage
from runtime.engine import OpenVinoLoader
from runtime.servable import Servable
from runtime.server import ModelServer

MEMORY_SHARE = 0.7
"""Of the memory there is, for loaded models; the rest is for requests, and for the peak while a model compiles."""
_DISK_SHARE = 0.3
"""Of the memory there is, for downloads where the disk is memory; loaded models have that much less."""
_STREAM_MEMORY = 64 << 20
"""Bytes of memory there should be for each part that is read at once: a few of them are in buffers at any moment."""


def build_server(settings: Settings) -> ModelServer:
    """Return the server that the settings describe, with nothing loaded.

    Raises:
        SettingsError: there is no model, or its path is of no kind that can be read.
        StorageUnavailable: the storage's SDK is missing or cannot be set up.
    """
    settings.require_model()
    share = MEMORY_SHARE - (_DISK_SHARE if _is_disk_memory(settings) else 0.0)
    memory_budget = settings.memory_budget or int(memory_room() * share)
    files = open_disk_cache(settings)
    models = ModelCache[ModelVersion, Servable](OpenVinoLoader(files), memory_budget)
    return ModelServer(
        {settings.model_name: open_repository(settings)}, models, files, load_timeout=settings.load_timeout
    )


def open_disk_cache(settings: Settings, *, is_durable: bool = False) -> DiskCache:
    directory = Path(settings.cache_dir)
    budget = settings.disk_budget or disk_room(directory)
    if not settings.disk_budget and _is_disk_memory(settings):
        budget = min(budget, int(memory_room() * _DISK_SHARE))
    threads = min(max(memory_room() // _STREAM_MEMORY, 2), 8)
    return DiskCache(directory, budget, threads=threads, watch=watch, is_durable=is_durable)


def open_repository(settings: Settings) -> ModelRepository:
    try:
        storage = open_storage(settings.model_path, settings.storage_options())
    except ValueError as exc:
        raise SettingsError(f"model_path: {exc}") from exc
    return ModelRepository(
        settings.model_name,
        storage,
        ttl=settings.file_system_poll_wait_seconds or math.inf,
        policy=settings.model_version_policy,
        ready_marker=settings.ready_marker,
    )


def _is_disk_memory(settings: Settings) -> bool:
    return is_on_cloud_run() or is_in_memory(Path(settings.cache_dir))
