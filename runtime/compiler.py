"""Models made ready to run: imported, if they were compiled before and that is quicker, or else compiled."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model_cache.disk import DiskCache, Files
from model_cache.errors import ModelCacheError
from model_cache.repository import ModelVersion
from model_cache.timeline import span
from runtime.compiled import CompiledFiles, CompiledModel, Origin, Unfit, can_be_exported, properties_of, with_defaults
from runtime.openvino_core import DEVICE, core, openvino

logger = logging.getLogger(__name__)

# What is exported has no weights in it, and what is imported finds them in the .bin. That neither inferences nor memory
# suffer, for as long as the model lives, was measured: see docs/compiled.md.
_WEIGHTLESS = {"CACHE_MODE": "OPTIMIZE_SIZE"}
_REQUIREMENTS = "RUNTIME_REQUIREMENTS"


class Made(NamedTuple):
    model: Any
    """OpenVINO's CompiledModel."""
    is_imported: bool
    keep: Callable[[], None] | None = None
    """To be called when nobody waits, so that later processes have it quicker; raises nothing."""


class Compiler:
    def __init__(
        self,
        files: DiskCache,
        config: Mapping[str, str] | None,
        *,
        uses_compiled: bool,
        keeps_compiled: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            config: OpenVINO's properties.
            uses_compiled: whether compiled models are imported, from wherever they are.
            keeps_compiled: whether some are made for later processes; they must be used, too.
        """
        self._files = files
        self._config = with_defaults(config)
        self._uses_compiled = uses_compiled
        self._keeps_compiled = uses_compiled and keeps_compiled
        self._clock = clock

    def make(self, version: ModelVersion, files: Files, path: Path) -> Made:
        """
        Args:
            path: the model, which is among the files.

        Raises:
            RuntimeError: OpenVINO cannot read or compile it.
        """
        made = self._make(version, files, path)
        return made if self._keeps_compiled else made._replace(keep=None)

    def _make(self, version: ModelVersion, files: Files, path: Path) -> Made:
        known = self._known(version, files, path)
        if known is None:
            return Made(self._compile(version, path)[0], is_imported=False)
        began = time.perf_counter()
        for found, is_kept in known.fitting():
            if found.header.is_slow:
                model, seconds = self._compile(version, path)
                return Made(model, is_imported=False, keep=self._what_a_compile_told(known, found, seconds))
            with span("import", model=str(version), bytes=found.header.size):
                model = self._import(known, found)
            if model is not None:
                keep = self._what_an_import_told(known, found, time.perf_counter() - began, is_kept=is_kept)
                return Made(model, is_imported=True, keep=keep)
        model, seconds = self._compile(version, path, is_exported=self._keeps_compiled)
        return Made(model, is_imported=False, keep=partial(self._keep, known, lambda: exported(known, model, seconds)))

    def _known(self, version: ModelVersion, files: Files, path: Path) -> CompiledFiles | None:
        if not self._uses_compiled or not can_be_exported(path, self._config):
            return None
        try:
            properties = properties_of(self._config)
            return CompiledFiles(version, files, path, properties, openvino().get_version(), self._clock)
        # Who compiles it will say what is wrong with it.
        except OSError:
            return None

    def _compile(self, version: ModelVersion, path: Path, *, is_exported: bool = False) -> tuple[Any, float]:
        began = time.perf_counter()
        with span("compile", model=str(version)):
            model = (compile_to_export if is_exported else compile_model)(path, self._config)
        return model, time.perf_counter() - began

    def _import(self, known: CompiledFiles, found: CompiledModel) -> Any:
        """Return the model, or None if OpenVINO does not take it here."""
        try:
            model = import_model(found.blob, known.weights, self._config)
            requirements = model.get_property(_REQUIREMENTS)
        except RuntimeError as exc:
            logger.debug("passing over %s: %s", found.header.name, " ".join(str(exc).split())[:500])
            return None
        if requirements != found.header.requirements or not known.is_unchanged():
            logger.debug("passing over %s: it wants %s, or its model is changing", found.header.name, requirements)
            return None
        return model

    def _what_an_import_told(
        self, known: CompiledFiles, found: CompiledModel, seconds: float, *, is_kept: bool
    ) -> Callable[[], None] | None:
        """Return how to keep that it is good, and whether it was quicker; None if that is known."""
        header = found.header
        slow_imports = header.slow_imports + 1 if seconds > header.compile_seconds else 0
        if is_kept and slow_imports == header.slow_imports:
            return None
        least = min(seconds, header.import_seconds or seconds)
        told = found._replace(header=header._replace(slow_imports=slow_imports, import_seconds=least))
        return partial(self._keep, known, lambda: told)

    def _what_a_compile_told(
        self, known: CompiledFiles, found: CompiledModel, seconds: float
    ) -> Callable[[], None] | None:
        """Return how to keep that compiling is no quicker after all, or None if it is."""
        if seconds <= (found.header.import_seconds or 0.0):
            return None
        told = found._replace(header=found.header._replace(slow_imports=0, compile_seconds=seconds))
        return partial(self._keep, known, lambda: told)

    def _keep(self, known: CompiledFiles, make: Callable[[], CompiledModel]) -> None:
        try:
            compiled = make()
            known.keep(compiled, self._files)
        # The disk is full or not ours to write to, the model has gone, or OpenVINO cannot export it.
        except (Unfit, ModelCacheError, OSError, RuntimeError) as exc:
            logger.debug("not keeping what was compiled: %s", " ".join(str(exc).split())[:500])
        else:
            logger.debug("kept %s, %d bytes", compiled.header.name, compiled.header.size)


def compile_model(path: Path, config: Mapping[str, str]) -> Any:
    return core().compile_model(path, DEVICE, dict(config))


def compile_to_export(path: Path, config: Mapping[str, str]) -> Any:
    """Compile a model so that it can be `exported`."""
    return compile_model(path, {**config, **_WEIGHTLESS})


def import_model(blob: bytes, weights: Path, config: Mapping[str, str]) -> Any:
    """Import what was exported of a model with these weights, compiled with this config."""
    # A copy, which is OpenVINO's own for as long as it wants.
    tensor = openvino().Tensor(np.frombuffer(blob, np.uint8))
    return core().import_model(tensor, DEVICE, {**config, **_WEIGHTLESS, "WEIGHTS_PATH": str(weights)})


def exported(known: CompiledFiles, model: Any, seconds: float, origin: Origin | None = None) -> CompiledModel:
    """Export a model that took so many seconds to compile.

    Raises:
        RuntimeError: OpenVINO cannot.
        Unfit: as `CompiledFiles.new`.
    """
    # The interpreter is free meanwhile.
    blob: bytes = model.export_model().getvalue()
    return known.new(blob, model.get_property(_REQUIREMENTS), seconds, origin)
