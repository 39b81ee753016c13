"""From settings to a server: the one place where the layers meet. Does no I/O but to measure disk and memory."""

from __future__ import annotations

from pathlib import Path

from handlers.limits import disk_room, memory_room
from handlers.settings import Settings, SettingsError
from model_cache.cache import ModelCache
from model_cache.download import Downloader, LocalModel
from model_cache.repository import Contents, ModelRepository, ModelVersion
from model_cache.storage import open_storage
from runtime.engine import OpenVinoLoader
from runtime.servable import Servable
from runtime.server import ModelServer

MEMORY_SHARE = 0.7
"""Of the memory there is, for loaded models; the rest is for requests, and for the peak while a model compiles."""


def build_server(settings: Settings) -> ModelServer:
    """Return the server that the settings describe, with nothing loaded.

    Raises:
        SettingsError: there is no model, or its path is of no kind that can be read.
        StorageUnavailable: the storage's SDK is missing or cannot be set up.
    """
    settings.require_model()
    cache_dir = Path(settings.cache_dir)
    disk_budget = settings.disk_budget or disk_room(cache_dir)
    memory_budget = settings.memory_budget or int(memory_room() * MEMORY_SHARE)
    files = ModelCache[Contents, LocalModel](Downloader(cache_dir), disk_budget)
    models = ModelCache[ModelVersion, Servable](OpenVinoLoader(files), memory_budget)
    return ModelServer({settings.model_name: open_repository(settings)}, models)


def open_repository(settings: Settings) -> ModelRepository:
    try:
        storage = open_storage(settings.model_path, endpoint=settings.s3_endpoint or None)
    except ValueError as exc:
        raise SettingsError(f"model_path: {exc}") from exc
    return ModelRepository(settings.model_name, storage)
