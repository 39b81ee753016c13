"""Requests that a version answers before it counts as loaded, so that no caller pays for what only the first one pays.

They are TensorFlow Serving's: recorded in a file beside the model. A model without such a file has at least its
signatures, and is asked for zeros in their shapes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_cache.cache import Loader
from model_cache.disk import DiskCache
from model_cache.errors import LoadFailed
from model_cache.repository import ModelVersion
from model_cache.timeline import span
from runtime.codecs.dtypes import is_string
from runtime.errors import InferenceError
from runtime.options import options_of
from runtime.servable import Servable
from runtime.signature import DYNAMIC, Signature, TensorSpec

logger = logging.getLogger(__name__)

RECORDS_FILE = "assets.extra/tf_serving_warmup_requests"
SPECIAL = ("sequence_id", "sequence_control_input")
"""Inputs and outputs that are a stateful model's beside its own."""
MAX_ZEROS = 256 << 20
"""Bytes that the inputs of a signature may take to be made up."""
_REMEDY = "try: pip install 'decant[grpc]'"


class WarmingLoader:
    """Warms up each servable that ``inner`` loads."""

    def __init__(
        self,
        inner: Loader[ModelVersion, Servable],
        files: DiskCache,
        *,
        replays: bool,
        iterations: int,
        from_signature: bool,
        is_awaited: Callable[[ModelVersion], bool] = lambda version: False,
    ) -> None:
        """
        Args:
            replays: whether what a version has recorded in ``assets.extra/tf_serving_warmup_requests`` is run.
            iterations: how often each of these requests is.
            from_signature: whether a version that has recorded nothing runs zeros in the shapes of its signatures.
            is_awaited: whether requests wait for a version that loads. Zeros would only be one more before them.
        """
        self._inner = inner
        self._files = files
        self._replays = replays
        self._iterations = iterations
        self._from_signature = from_signature
        self._is_awaited = is_awaited

    def estimate(self, version: ModelVersion) -> int:
        return self._inner.estimate(version)

    def load(self, version: ModelVersion) -> Servable:
        """Load it and warm it up.

        Raises:
            LoadFailed: a recorded request fails, or cannot be read; or as the inner loader.
        """
        servable = self._inner.load(version)
        began = time.perf_counter()
        try:
            with span("warm_up", model=str(version)):
                self._warm_up(version, servable)
        except BaseException:
            servable.close()
            raise
        seconds = time.perf_counter() - began
        phases = servable.phases
        servable.phases = phases._replace(warm_up=seconds, total=phases.total + seconds)
        return servable

    def _warm_up(self, version: ModelVersion, servable: Servable) -> None:
        if self._replays and self._replay(version, servable):
            return
        if self._from_signature and self._is_awaited(version):
            logger.info("did not warm up %s with zeros, as requests wait for it", version)
        elif self._from_signature:
            for name, signature in servable.signatures.items():
                _run_zeros(version, servable, name, signature)

    def _replay(self, version: ModelVersion, servable: Servable) -> bool:
        """Run the recorded requests, if there are any; return whether they could be run."""
        with self._files.lease(version) as files:
            path = files.directory / RECORDS_FILE
            if not path.is_file():
                return False
            try:
                from runtime.warmup_records import replay
            except ModuleNotFoundError as exc:
                logger.warning("%s is not warmed up as recorded: %s is not installed; %s", version, exc.name, _REMEDY)
                return False
            began = time.perf_counter()
            try:
                count = replay(path, servable, self._iterations, special=_special(version))
            except LoadFailed as exc:
                raise LoadFailed(f"cannot warm up {version}: {exc}") from exc.__cause__
        logger.info("warmed up %s with %d recorded requests in %.2f s", version, count, time.perf_counter() - began)
        return True


def _special(version: ModelVersion) -> tuple[str, ...]:
    """Return what requests to a version say of their sequences, of which there are none before it is loaded."""
    return SPECIAL if options_of(version.options).stateful else ()


def _run_zeros(version: ModelVersion, servable: Servable, name: str, signature: Signature) -> None:
    shapes = {key: _shape(spec) for key, spec in signature.inputs.items()}
    size = sum(math.prod(shapes[key]) * spec.dtype.itemsize for key, spec in signature.inputs.items())
    if size > MAX_ZEROS:
        logger.info("did not warm up %s of %s: its inputs would take %d bytes, of %d", name, version, size, MAX_ZEROS)
        return
    began = time.perf_counter()
    try:
        servable.predict(name, {key: _zeros(spec, shapes[key]) for key, spec in signature.inputs.items()})
    # Zeros are a guess: what a model makes of them is its own affair.
    except InferenceError as exc:
        logger.info("did not warm up %s of %s, as it fails for zeros: %s", name, version, exc)
        return
    logger.info("warmed up %s of %s with zeros in %.2f s", name, version, time.perf_counter() - began)


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    """Return the smallest shape that is not empty and that the spec may admit."""
    shape = spec.told_shape or ()
    least = [least for least, _ in spec.bounds] if spec.bounds else [1] * len(shape)
    return tuple(max(1, least) if size == DYNAMIC else size for size, least in zip(shape, least, strict=True))


def _zeros(spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.full(shape, b"", spec.dtype) if is_string(spec.dtype) else np.zeros(shape, spec.dtype)
