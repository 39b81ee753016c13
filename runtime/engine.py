"""OpenVINO models as servables: read, compile, and a pool of infer requests.

OpenVINO is imported when the first model is loaded and not before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from cachetools import LRUCache

from model_cache.disk import DiskCache, Files
from model_cache.errors import LoadFailed
from model_cache.repository import ModelVersion
from runtime.behind import QUIET, Chore
from runtime.compiler import Compiler, Made
from runtime.memory import Meter, upper_bound
from runtime.openvino_core import core, reason
from runtime.openvino_servable import OpenVinoServable
from runtime.ports import signature_of
from runtime.servable import LoadPhases

logger = logging.getLogger(__name__)

POOL_TIMEOUT = 30.0
"""Seconds to wait for a free infer request; TensorFlow Serving gives a whole REST request as long."""
_MOST = 4
"""How many times the upper bound a measurement may say; what is beyond that is requests' rather than the model's."""
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
        quiet: float = QUIET,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            config: OpenVINO's properties.
            requests: infer requests of each model; None for as many as OpenVINO says are best.
            uses_compiled: whether compiled models are imported, from the cache directory or from beside the model.
            keeps_compiled: whether they are kept in the cache directory, if they are used.
            quiet: seconds after a model's first answer that it is left alone.
        """
        self._files = files
        self._compiler = Compiler(
            files, config, uses_compiled=uses_compiled, keeps_compiled=keeps_compiled, clock=clock
        )
        self._quiet = quiet
        self._requests = requests
        self._pool_timeout = pool_timeout
        self._meter = Meter()
        # Guards what versions were last measured to occupy, by digest. Bounded, as versions come and go.
        self._lock = threading.Lock()
        self._measured: LRUCache[str, int] = LRUCache(_MEASURED)

    def estimate(self, version: ModelVersion) -> int:
        """Return what it was measured to occupy when it was last loaded, else an upper bound."""
        with self._lock:
            return self._measured.get(version.digest) or upper_bound(version.size)

    def load(self, version: ModelVersion) -> OpenVinoServable:
        """Compile the version, or import what was compiled of it before.

        The files stay leased until the servable is closed, as weights are mapped from them.

        Raises:
            LoadFailed: there is no model among the files, or OpenVINO cannot read or compile it.
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
            servable.size = self._size(version, change.growth)
            servable.phases = LoadPhases(
                files.fetched, ended - began_compiling, ended - began, is_imported=made.is_imported
            )
            if made.keep is not None:
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
            self._measured[version.digest] = size
        return size

    def _make(self, version: ModelVersion, files: Files) -> tuple[OpenVinoServable, Made]:
        try:
            path = model_file(version, files.directory)
        except OSError as exc:
            raise LoadFailed(f"the files of {version} have gone or cannot be read: {exc.strerror}") from exc
        try:
            made = self._compiler.make(version, files, path)
            servable = OpenVinoServable(
                str(version), made.model, signature_of(made.model), self._pool_timeout, self._meter, self._requests
            )
            return servable, made
        # OpenVINO's only error class.
        except RuntimeError as exc:
            raise LoadFailed(f"cannot load {version} from {path.name}: {reason(exc, files.directory)}") from exc


def model_file(version: ModelVersion, directory: Path) -> Path:
    """Return which of a version's files is the model.

    Raises:
        LoadFailed: none of them is, or more than one.
    """
    names = sorted(path.name for path in directory.iterdir())
    for suffix in (".xml", ".onnx"):
        found = [name for name in names if name.endswith(suffix)]
        if len(found) > 1:
            raise LoadFailed(f"{version} has {len(found)} {suffix} files; want one: {', '.join(found[:10])}")
        if found:
            return directory / found[0]
    raise LoadFailed(f"no model in {version}: want one .xml with its .bin, or one .onnx; found {names[:10]}")
