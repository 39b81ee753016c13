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
from runtime.compiled import CompiledFiles, CompiledModel, Origin, Unfit, can_be_exported, config_of, identity_of
from runtime.openvino_core import DEVICE, core, openvino, reason, unsupported
from runtime.options import DEFAULTS, ModelOptions
from runtime.ports import NO_NAMES, Names

logger = logging.getLogger(__name__)

# What is exported has no weights in it, and what is imported finds them in the .bin. That neither inferences nor memory
# suffer, for as long as the model lives, was measured: see docs/compiled.md.
_WEIGHTLESS = {"CACHE_MODE": "OPTIMIZE_SIZE"}
_REQUIREMENTS = "RUNTIME_REQUIREMENTS"


Sizes = Mapping[str, tuple[int, ...]]
"""Shapes of inputs, by the names that clients use."""


class Unsuited(Exception):
    """What is to be made of a model does not fit it, or this machine."""


class Recipe(NamedTuple):
    options: ModelOptions = DEFAULTS
    names: Names = NO_NAMES
    """What its tensors are called, which is how the options name them."""
    config: Mapping[str, str] = config_of(None, DEFAULTS)
    """All properties that it is compiled with, see `recipe_of`."""

    @property
    def identity(self) -> dict[str, str]:
        """What makes models that are compiled so what they are, as `Header.properties`."""
        return identity_of(self.config, self.options, self.names)

    @property
    def is_for_others(self) -> bool:
        """Whether what is compiled so may be used again, by whoever makes the same of the same model."""
        # As in OpenVINO Model Server, what takes any shape is not cached if nobody has allowed it.
        return self.options.device == DEVICE and (self.options.allows_cache or not self.options.is_auto)

    def can_be_exported(self, path: Path) -> bool:
        return self.is_for_others and can_be_exported(path, self.config)

    def compile(self, path: Path, more: Mapping[str, str] | None = None, sizes: Sizes | None = None) -> Any:
        """Compile a model; return OpenVINO's CompiledModel.

        Args:
            more: properties besides.
            sizes: as `prepare` has them.

        Raises:
            Unsuited: as it says.
            RuntimeError: OpenVINO cannot read or compile it.
        """
        options, config = self.options, {**self.config, **(more or {})}
        if options.device != DEVICE:
            _check_device(options.device)
            # What is made of others would ignore them.
            _check_keys(options.device, config)
        model = self._model(path, sizes)
        try:
            return core().compile_model(model, options.device, config)
        # OpenVINO's only error class.
        except RuntimeError as exc:
            _check_keys(options.device, config)
            if options.device == DEVICE and not options.changes:
                raise
            raise Unsuited(f"Cannot compile model into target device {options.device}: {reason(exc)}") from exc

    def _model(self, path: Path, sizes: Sizes | None) -> Any:
        if not self.options.changes:
            return path
        # Only now: most models are compiled as they are stored.
        from runtime.preparing import prepare

        return prepare(path, self.options, self.names, sizes)


def recipe_of(options: ModelOptions, names: Names, config: Mapping[str, str] | None) -> Recipe:
    """
    Args:
        config: properties that hold for all models, if this one has none of its own.
    """
    return Recipe(options, names, config_of(config, options))


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
        *,
        uses_compiled: bool,
        keeps_compiled: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            uses_compiled: whether compiled models are imported, from wherever they are.
            keeps_compiled: whether some are made for later processes; they must be used, too.
        """
        self._files = files
        self._uses_compiled = uses_compiled
        self._keeps_compiled = uses_compiled and keeps_compiled
        self._clock = clock

    def make(self, version: ModelVersion, files: Files, path: Path, recipe: Recipe) -> Made:
        """
        Args:
            path: the model, which is among the files.

        Raises:
            Unsuited, RuntimeError: as `Recipe.compile`.
        """
        made = self._make(version, files, path, recipe)
        return made if self._keeps_compiled else made._replace(keep=None)

    def _make(self, version: ModelVersion, files: Files, path: Path, recipe: Recipe) -> Made:
        known = self._known(version, files, path, recipe)
        if known is None:
            return Made(self._compile(version, path, recipe)[0], is_imported=False)
        began = time.perf_counter()
        for found, is_kept in known.fitting():
            if found.header.is_slow:
                model, seconds = self._compile(version, path, recipe)
                return Made(model, is_imported=False, keep=self._what_a_compile_told(known, found, seconds))
            with span("import", model=str(version), bytes=found.header.size):
                model = self._import(known, found, recipe)
            if model is not None:
                keep = self._what_an_import_told(known, found, time.perf_counter() - began, is_kept=is_kept)
                return Made(model, is_imported=True, keep=keep)
        model, seconds = self._compile(version, path, recipe, is_exported=self._keeps_compiled)
        return Made(model, is_imported=False, keep=partial(self._keep, known, lambda: exported(known, model, seconds)))

    def _known(self, version: ModelVersion, files: Files, path: Path, recipe: Recipe) -> CompiledFiles | None:
        if not self._uses_compiled or not recipe.can_be_exported(path):
            return None
        try:
            return CompiledFiles(version, files, path, recipe.identity, openvino().get_version(), self._clock)
        # Who compiles it will say what is wrong with it.
        except OSError:
            return None

    def _compile(
        self, version: ModelVersion, path: Path, recipe: Recipe, *, is_exported: bool = False
    ) -> tuple[Any, float]:
        began = time.perf_counter()
        with span("compile", model=str(version)):
            model = compile_to_export(path, recipe) if is_exported else recipe.compile(path)
        return model, time.perf_counter() - began

    def _import(self, known: CompiledFiles, found: CompiledModel, recipe: Recipe) -> Any:
        """Return the model, or None if OpenVINO does not take it here."""
        try:
            model = import_model(found.blob, known.weights, recipe.config)
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


def compile_to_export(path: Path, recipe: Recipe) -> Any:
    """Compile a model so that it can be `exported`; raises as `Recipe.compile`."""
    return recipe.compile(path, _WEIGHTLESS)


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


def _check_device(device: str) -> None:
    try:
        unsupported(device, {})
    except RuntimeError as exc:
        there = ", ".join(core().available_devices)
        raise Unsuited(
            f"Cannot compile model into target device {device}: {reason(exc)}; want what is here, which is {there}"
        ) from exc


def _check_keys(device: str, config: Mapping[str, str]) -> None:
    if unknown := unsupported(device, config):
        raise Unsuited(f"Plugin config contains unsupported keys: {', '.join(unknown)}; want {device}'s")
