"""From settings to a server: the one place where the layers meet. Does no I/O but to measure disk and memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from handlers.configuration import Configuration, ModelConfig, models_of, read
from handlers.limits import MEMORY_SHARE, cpu_room, disk_room, is_in_memory, memory_room
from handlers.progress import watch
from handlers.properties import properties
from handlers.settings import OF_BATCHING, Settings, SettingsError, is_on_cloud_run
from model_cache.cache import Loader, ModelCache
from model_cache.disk import DiskCache
from model_cache.errors import StorageUnavailable
from model_cache.repository import ModelRepository, ModelVersion
from model_cache.storage import open_storage
from model_cache.timeline import span
from runtime.compiled import beginning_of, identity_of
from runtime.deferred import DeferredLoader
from runtime.options import DEFAULTS, options_of
from runtime.servable import Servable
from runtime.server import ModelServer
from runtime.status import public_message

if TYPE_CHECKING:
    from runtime.batching import BatchingParameters
    from runtime.metrics import Metrics

logger = logging.getLogger(__name__)

_DISK_SHARE = 0.3
"""Of the memory there is, for downloads where the disk is memory; loaded models have that much less."""
_STREAM_MEMORY = 64 << 20
"""Bytes of memory there should be for each part that is read at once: a few of them are in buffers at any moment."""


def build_server(settings: Settings, configuration: Configuration | None = None, processes: int = 1) -> ModelServer:
    """Return the server of these models, or of those that the settings name, with nothing loaded.

    Args:
        settings: what it is like.
        configuration: None for what the settings name.
        processes: how many like this one share memory and CPUs.

    Raises:
        SettingsError: there is no model, or its path is of no kind that can be read.
        StorageUnavailable: the storage's SDK is missing or cannot be set up.
    """
    configuration = models_of(settings) if configuration is None else configuration
    repositories, rejected = open_repositories(configuration, settings)
    config = properties(settings, cpu_room() / processes)
    # What other devices take is seen as their models are loaded.
    if settings.plugin_config and all(model.options.device == DEFAULTS.device for model in configuration.models):
        _check(config)
    files = open_disk_cache(settings, config)

    def is_awaited(version: ModelVersion) -> bool:
        # One caller may be no request: whoever loads all models at a start.
        return cache.waiting(version) > 1

    def on_drop() -> None:
        cache.look_again()

    loader = _loader(settings, files, config, is_awaited, on_drop, processes)
    metrics = _metrics(settings, configuration)
    if metrics is not None:
        from runtime.metrics import MeteredLoader

        loader = MeteredLoader(loader, metrics)
    cache = ModelCache[ModelVersion, Servable](
        loader,
        memory_budget(settings) // processes,
        is_kept=lambda servable: servable.is_kept,
    )
    return ModelServer(
        repositories,
        cache,
        files,
        labels={model.name: model.labels for model in configuration.models},
        rejected=rejected,
        load_timeout=settings.load_timeout,
        metrics=metrics,
        is_controlled=settings.model_control,
    )


def memory_budget(settings: Settings) -> int:
    """Return the bytes of memory that loaded models may take, of all processes together."""
    share = MEMORY_SHARE - (_DISK_SHARE if is_disk_memory(settings) else 0.0)
    return settings.memory_budget or int(memory_room() * share)


def disk_budget(settings: Settings) -> int:
    """Return the bytes that downloaded models may take."""
    if settings.disk_budget:
        return settings.disk_budget
    room = disk_room(Path(settings.cache_dir))
    return min(room, int(memory_room() * _DISK_SHARE)) if is_disk_memory(settings) else room


def is_disk_memory(settings: Settings) -> bool:
    """Return whether downloaded models take memory, too."""
    return is_on_cloud_run() or is_in_memory(Path(settings.cache_dir))


def open_disk_cache(
    settings: Settings, config: Mapping[str, str] | None = None, *, is_durable: bool = False
) -> DiskCache:
    """
    Args:
        config: the properties for which compiled models are fetched along; for any, if None.
    """

    def compiled(version: ModelVersion) -> str:
        return "" if config is None else beginning_of(identity_of(config, options_of(version.options)))

    threads = min(max(memory_room() // _STREAM_MEMORY, 2), 8)
    return DiskCache(
        Path(settings.cache_dir),
        disk_budget(settings),
        threads=threads,
        watch=watch,
        is_durable=is_durable,
        compiled=compiled if settings.compiled_cache else None,
    )


def open_repositories(
    configuration: Configuration, settings: Settings
) -> tuple[Mapping[str, ModelRepository], Mapping[str, str]]:
    """Return where each model is, and why some are nowhere, by their names.

    Raises:
        SettingsError, StorageUnavailable: one is nowhere, which for TensorFlow Serving's files and flags is for all.
    """
    repositories, rejected = {}, dict(configuration.rejected)
    for model in configuration.models:
        try:
            repositories[model.name] = open_repository(model, settings)
        except (SettingsError, StorageUnavailable) as exc:
            if not configuration.is_json:
                raise
            logger.warning("%s; it is not served", exc)
            rejected[model.name] = why_rejected(exc)
    return repositories, rejected


def why_rejected(error: SettingsError | StorageUnavailable) -> str:
    """Return what clients are told of a model that is not served."""
    return error.public if isinstance(error, SettingsError) else public_message(error)


def open_repository(model: ModelConfig, settings: Settings) -> ModelRepository:
    try:
        storage = open_storage(model.base_path, settings.storage_options())
    except ValueError as exc:
        public = f"{model.name}: model_path is none that can be opened"
        raise SettingsError(f"{model.name}: model_path: {exc}", public) from exc
    except StorageUnavailable as exc:
        raise type(exc)(f"{model.name}: {exc}") from exc
    return ModelRepository(
        model.name,
        storage,
        ttl=settings.listing_ttl or math.inf,
        policy=model.policy,
        options=model.options,
        ready_marker=settings.ready_marker,
    )


def import_engine(*, loads_plugin: bool = True) -> None:
    """Import what the first load needs once its files are there: a third of a small model's start.

    Args:
        loads_plugin: whether OpenVINO loads its plugin for this machine, too. No other thread goes on meanwhile, which
            is well if all wait for a download; but compiling would do the same beside them.
    """
    with span("imports.engine"):
        from runtime.openvino_core import DEVICE, core

        made = core()
        if loads_plugin:
            made.get_property(DEVICE, "FULL_DEVICE_NAME")
        import runtime.engine  # noqa: F401


def _loader(
    settings: Settings,
    files: DiskCache,
    config: Mapping[str, str],
    is_awaited: Callable[[ModelVersion], bool],
    on_drop: Callable[[], None],
    processes: int,
) -> Loader[ModelVersion, Servable]:
    settings.require_batching()
    parameters = _batching_parameters(settings) if settings.enable_batching else None
    return DeferredLoader(
        files, partial(_engine_loader, settings, files, parameters, config, is_awaited, on_drop, processes)
    )


def _engine_loader(
    settings: Settings,
    files: DiskCache,
    parameters: BatchingParameters | None,
    config: Mapping[str, str],
    is_awaited: Callable[[ModelVersion], bool],
    on_drop: Callable[[], None],
    processes: int,
) -> Loader[ModelVersion, Servable]:
    from runtime.engine import OpenVinoLoader
    from runtime.stateful import StatefulLoader

    loader: Loader[ModelVersion, Servable] = OpenVinoLoader(
        files,
        config,
        settings.nireq or None,
        uses_compiled=settings.compiled_cache,
        keeps_compiled=settings.keep_compiled,
        extension=settings.cpu_extension,
    )
    # What is around the engine is imported by who wants it, as all that takes time at a cold start.
    if settings.enable_model_warmup or settings.enable_signature_warmup:
        from runtime.warmup import WarmingLoader

        loader = WarmingLoader(
            loader,
            files,
            replays=settings.enable_model_warmup,
            iterations=settings.num_request_iterations_for_warmup,
            from_signature=settings.enable_signature_warmup,
            is_awaited=is_awaited,
        )
    loader = StatefulLoader(loader, settings.sequence_cleaner_poll_wait_minutes * 60, processes, on_drop=on_drop)
    if not settings.enable_batching:
        return loader
    from runtime.batching import BatchingLoader

    return BatchingLoader(
        loader, files, parameters=parameters, reads_per_model=settings.enable_per_model_batching_parameters
    )


def _metrics(settings: Settings, configuration: Configuration) -> Metrics | None:
    """Return what the flags want counted, or else the file; None if neither wants anything."""
    wanted = configuration.metrics
    names = settings.metrics_list
    if not settings.metrics_enable:
        if wanted is None or not wanted.is_enabled:
            return None
        names = wanted.families
    from runtime.metrics import Metrics

    try:
        return Metrics(names)
    except ValueError as exc:
        raise SettingsError(str(exc)) from exc


def _check(config: Mapping[str, str]) -> None:
    from runtime.openvino_core import check_properties

    try:
        check_properties(config)
    except ValueError as exc:
        raise SettingsError(f"plugin_config: {exc}") from exc


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
