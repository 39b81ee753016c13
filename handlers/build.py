"""From settings to a server: the one place where the layers meet. Does no I/O but to measure disk and memory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from handlers.settings import Settings, SettingsError
from model_cache.cache import ModelCache
from model_cache.download import Downloader, LocalModel
from model_cache.repository import Contents, ModelRepository, ModelVersion
from model_cache.storage import open_storage
from runtime.engine import OpenVinoLoader
from runtime.servable import Servable
from runtime.server import ModelServer

MEMORY_SHARE = 0.7
"""Of the machine's memory, for loaded models; the rest is for requests, and for the peak while a model compiles."""


def build_server(settings: Settings) -> ModelServer:
    """Return the server that the settings describe, with nothing loaded.

    Raises:
        SettingsError: there is no model, or its path is of no kind that can be read.
        StorageUnavailable: the storage's SDK is missing or cannot be set up.
    """
    settings.require_model()
    files = ModelCache[Contents, LocalModel](Downloader(Path(settings.cache_dir)), _disk_budget(settings))
    models = ModelCache[ModelVersion, Servable](OpenVinoLoader(files), _memory_budget(settings))
    return ModelServer({settings.model_name: open_repository(settings)}, models)


def open_repository(settings: Settings) -> ModelRepository:
    try:
        storage = open_storage(settings.model_path, endpoint=settings.s3_endpoint or None)
    except ValueError as exc:
        raise SettingsError(f"model_path: {exc}") from exc
    return ModelRepository(settings.model_name, storage)


def _disk_budget(settings: Settings) -> int:
    if settings.disk_budget:
        return settings.disk_budget
    existing = Path(settings.cache_dir).absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def _memory_budget(settings: Settings) -> int:
    if settings.memory_budget:
        return settings.memory_budget
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_SHARE)
