"""OpenVINO models as servables: read, compile, and a pool of infer requests.

OpenVINO is imported when the first model is loaded and not before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

from model_cache.disk import DiskCache, Files
from model_cache.errors import LoadFailed
from model_cache.repository import ModelVersion
from runtime.behind import QUIET, Chore
from runtime.compiler import Compiler, Made, Recipe, Sizes, Unsuited, recipe_of
from runtime.errors import CannotReshape, InvalidRequest
from runtime.formats import model_file
from runtime.memory import Meter, upper_bound
from runtime.openvino_core import add_extension, core, reason
from runtime.openvino_servable import Compiled, OpenVinoServable
from runtime.options import options_of
from runtime.ports import NO_NAMES, Names, signature_of
from runtime.servable import LoadPhases
from runtime.signature import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    # Of use to few models.
    from runtime.shaped_servable import ShapedServable, Shapes

logger = logging.getLogger(__name__)

POOL_TIMEOUT = 30.0
"""Seconds to wait for a free infer request; TensorFlow Serving gives a whole REST request as long."""
_MOST = 4
"""How many times the upper bound a measurement may say; what is beyond that is requests' rather than the model's."""
MAPPING = "mapping_config.json"
_MEASURED = 1024


class OpenVinoLoader:
    """Makes servables of versions whose files come from ``files``. One OpenVINO core serves all."""

    def __init__(
        self,
        files: DiskCache,
        config: Mapping[str, str] | None = None,
        requests: int | None = None,
        *,
        pool_timeout: float = POOL_TIMEOUT,
        uses_compiled: bool = False,
        keeps_compiled: bool = False,
        extension: str = "",
        quiet: float = QUIET,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            config: OpenVINO's properties, before which those of a model's own options hold.
            requests: infer requests of each model whose options say nothing; None for as many as OpenVINO says are
                best.
            uses_compiled: whether compiled models are imported, from the cache directory or from beside the model.
            keeps_compiled: whether they are kept in the cache directory, if they are used.
            extension: a library of operations, without which some models cannot be read; nothing compiled is used then.
            quiet: seconds after a model's first answer that it is left alone.
        """
        self._files = files
        self._config = config
        self._extension = extension
        # Nobody could tell which of the library's versions an operation is of.
        uses_compiled = uses_compiled and not extension
        self._compiler = Compiler(files, uses_compiled=uses_compiled, keeps_compiled=keeps_compiled, clock=clock)
        self._quiet = quiet
        self._requests = requests
        self._pool_timeout = pool_timeout
        self._meter = Meter()
        # Guards what versions were last measured to occupy. Bounded, as they come and go.
        self._lock = threading.Lock()
        self._measured: LRUCache[tuple[str, Hashable], int] = LRUCache(_MEASURED)

    def estimate(self, version: ModelVersion) -> int:
        """Return what it was measured to occupy when it was last loaded, else an upper bound."""
        with self._lock:
            return self._measured.get(_measured_as(version)) or upper_bound(version.size)

    def load(self, version: ModelVersion) -> OpenVinoServable | ShapedServable:
        """Compile the version as its options say, or import what was compiled of it before.

        The files stay leased until the servable is closed, as weights are mapped from them.

        Raises:
            LoadFailed: there is no model among the files, OpenVINO cannot read or compile it, or its options do not
                fit it.
            ModelCacheError: the files cannot be had; as `DiskCache.lease`.
        """
        began = time.perf_counter()
        with ExitStack() as stack:
            files = stack.enter_context(self._files.lease(version))
            # Not to be measured with the first model.
            core()
            began_compiling = time.perf_counter()
            with self._meter.change() as change:
                servable, made = self._make(version, files)
            ended = time.perf_counter()
            # Of the former nothing is compiled yet, and then one after the other.
            is_shaped = not isinstance(servable, OpenVinoServable)
            servable.size = self._size(version, _MOST * upper_bound(version.size) if is_shaped else change.growth)
            servable.phases = LoadPhases(
                files.fetched, ended - began_compiling, ended - began, is_imported=made.is_imported
            )
            if made.keep is not None and isinstance(servable, OpenVinoServable):
                servable.chore = Chore(made.keep, servable.is_idle, self._quiet)
            servable.resources.push(stack.pop_all())
        how = ", compiled before" if made.is_imported else ""
        logger.info("loaded %s in %.2f s, %.1f MiB%s", version, ended - began, servable.size / 2**20, how)
        return servable

    def _size(self, version: ModelVersion, growth: int | None) -> int:
        """Return what a version occupies: its files, which are mapped, and what its load has added to the memory."""
        if growth is None:
            return self.estimate(version)
        size = min(version.size + max(growth, 0), _MOST * upper_bound(version.size))
        with self._lock:
            self._measured[_measured_as(version)] = size
        return size

    def _make(self, version: ModelVersion, files: Files) -> tuple[OpenVinoServable | ShapedServable, Made]:
        options = options_of(version.options)
        try:
            path = model_file(version, files.directory)
            names = names_of(version, files.directory)
        except OSError as exc:
            raise LoadFailed(f"the files of {version} have gone or cannot be read: {exc.strerror}") from exc
        recipe = recipe_of(options, names, self._config)
        with _failing(version, path, files):
            self._add_extension()
            try:
                made = self._compiler.make(version, files, path, recipe)
                return self._servable(version, files, path, recipe, made.model), made
            except (Unsuited, RuntimeError) as exc:
                if not options.is_auto:
                    raise
                logger.debug("%s is compiled for one shape at a time: %s", version, exc)
            return self._shaped(version, files, path, recipe), Made(None, is_imported=False)

    def _add_extension(self) -> None:
        if self._extension:
            try:
                add_extension(self._extension)
            except ValueError as exc:
                raise Unsuited(f"cpu_extension {self._extension}: {exc}") from exc

    def _servable(
        self, version: ModelVersion, files: Files, path: Path, recipe: Recipe, model: Any, sizes: Sizes | None = None
    ) -> OpenVinoServable:
        """
        Args:
            model: what the recipe makes of what is in the path.
            sizes: that it is compiled for, as `Recipe.compile` has them.
        """
        options = recipe.options
        own = signature = signature_of(model, recipe.names)
        if options.is_auto and sizes is None:
            from runtime.preparing import prepare, with_stored_shapes

            signature = with_stored_shapes(own, signature_of(prepare(path, options, recipe.names, {}), recipe.names))

        def compile_anew() -> Compiled:
            with _failing(version, path, files):
                again = recipe.compile(path, sizes=sizes)
                # What is read where it lies may have been replaced.
                if signature_of(again, recipe.names) != own:
                    raise Unsuited("its inputs and outputs are not what they were")
                return self._with_initial_states(again, path, recipe)

        def why_not(shapes: Sequence[tuple[int, ...]], states: Mapping[str, tuple[int, ...]]) -> str:
            # Only who has seen an inference fail asks.
            from runtime.preparing import prepare, why_not

            try:
                return why_not(prepare(path, options, recipe.names, sizes), shapes, states, files.directory)
            # Its files may have gone, or names be the engine's own; what it has of the model may run all the same.
            except (RuntimeError, Unsuited, KeyError):
                return ""

        return OpenVinoServable(
            str(version),
            self._with_initial_states(model, path, recipe),
            signature,
            self._pool_timeout,
            self._meter,
            options.requests or self._requests,
            misfit=CannotReshape if options.is_auto else InvalidRequest,
            compile_anew=compile_anew,
            why_not=why_not,
        )

    def _with_initial_states(self, model: Any, path: Path, recipe: Recipe) -> Compiled:
        options = recipe.options
        # Nobody else sets states.
        if options.stateful is None:
            return Compiled(model)
        from runtime.initial_states import initial_states
        from runtime.preparing import prepare

        return Compiled(model, initial_states(prepare(path, options, recipe.names), options.device, recipe.config))

    def _shaped(self, version: ModelVersion, files: Files, path: Path, recipe: Recipe) -> ShapedServable:
        """Return what compiles the model for each shape, having seen that it can be compiled for its own."""
        from runtime.preparing import opened
        from runtime.shaped_servable import ShapedServable

        def make(shapes: Shapes) -> OpenVinoServable:
            sizes = dict(zip(signature.inputs, shapes, strict=True))
            with _failing(version, path, files):
                return self._servable(version, files, path, recipe, recipe.compile(path, sizes=sizes), sizes)

        own = self._servable(version, files, path, recipe, recipe.compile(path, sizes={}), {})
        signature = opened(own.signatures[DEFAULT_SIGNATURE], recipe.options)
        concurrency = own.concurrency
        own.close()
        return ShapedServable(str(version), signature, concurrency, make)


def names_of(version: ModelVersion, directory: Path) -> Names:
    """Return what clients call a version's tensors."""
    if not (directory / MAPPING).exists():
        return NO_NAMES
    # Of use to few models.
    from runtime.mapping import read_names

    return read_names(str(version), directory / MAPPING)


def _measured_as(version: ModelVersion) -> tuple[str, Hashable]:
    return version.digest, version.options


@contextmanager
def _failing(version: ModelVersion, path: Path, files: Files) -> Iterator[None]:
    """Turn what is wrong with a model, its options, or both together into LoadFailed."""
    try:
        yield
    # The former is OpenVINO's only error class.
    except (RuntimeError, Unsuited) as exc:
        name = path.name if path != files.directory else "its SavedModel"
        raise LoadFailed(f"cannot load {version} from {name}: {reason(exc, files.directory)}") from exc
