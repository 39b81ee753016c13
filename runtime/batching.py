"""TensorFlow Serving's request batching: its parameters, and which servables it is put around."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from model_cache.cache import Loader
from model_cache.disk import DiskCache
from model_cache.errors import LoadFailed
from model_cache.repository import ModelVersion
from runtime.batching_servable import BatchingServable
from runtime.errors import quoted
from runtime.servable import Servable
from runtime.signature import DYNAMIC, Signature, batch_axis

logger = logging.getLogger(__name__)

PARAMETERS_FILE = "batching_params.pbtxt"
_MAX_FILE = 64 << 10


@dataclass(frozen=True, kw_only=True)
class BatchingParameters:
    """TensorFlow Serving's, by its names and with its defaults. Sizes count examples: the 0th dimension.

    Raises:
        ValueError: they contradict each other.
    """

    max_batch_size: int = 1000
    """Of a request; and of a batch, unless large ones are split."""
    batch_timeout_micros: int = 0
    """How long a request waits for others to fill its batch; 0 for no longer than until there is a slot."""
    max_enqueued_batches: int = 10
    """Of one signature and shape, that wait for a slot."""
    num_batch_threads: int = 0
    """Batches run at once; 0 for as many as the engine runs at once."""
    allowed_batch_sizes: tuple[int, ...] = ()
    """What batches are padded to."""
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    """Whether a request may be larger than what is run at once, and is then run in parts."""
    max_execution_batch_size: int = 0
    """Of a batch, if large ones are split; 0 for ``max_batch_size``."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if (given := getattr(self, name)) < least:
                raise ValueError(f"{name} is {given}; want {least} or more")
        if self.max_execution_batch_size > self.max_batch_size:
            raise ValueError(
                f"max_execution_batch_size is {self.max_execution_batch_size}; "
                f"want no more than max_batch_size, which is {self.max_batch_size}"
            )
        sizes = self.allowed_batch_sizes
        if any(size < 1 for size in sizes) or any(size >= larger for size, larger in pairwise(sizes)):
            given = quoted(str(list(sizes)))
            raise ValueError(f"allowed_batch_sizes is {given}; want positive sizes, each larger than the last")
        if sizes and sizes[-1] != self.batch_limit:
            limit = "max_execution_batch_size" if self.enable_large_batch_splitting else "max_batch_size"
            raise ValueError(f"allowed_batch_sizes ends in {sizes[-1]}; want {limit}, which is {self.batch_limit}")

    @property
    def batch_limit(self) -> int:
        if self.enable_large_batch_splitting and self.max_execution_batch_size:
            return self.max_execution_batch_size
        return self.max_batch_size

    def padded(self, size: int) -> int:
        """Return the size that a batch of so many examples is padded to."""
        return next((allowed for allowed in self.allowed_batch_sizes if allowed >= size), size)


_LEAST = {
    "max_batch_size": 1,
    "batch_timeout_micros": 0,
    "max_enqueued_batches": 1,
    "num_batch_threads": 0,
    "max_execution_batch_size": 0,
}


def parse_parameters(text: str) -> BatchingParameters:
    """Read TensorFlow Serving's text proto, ``tensorflow.serving.BatchingParameters``.

    ``thread_pool_name`` is read and means nothing: it names threads that there are none of.

    Raises:
        ValueError: it is no such text, or the parameters contradict each other.
    """
    from google.protobuf import text_format

    from runtime.codecs import schema

    try:
        message = text_format.Parse(text, schema.BatchingParameters())
    except text_format.ParseError as exc:
        raise ValueError(f"not a text proto of BatchingParameters: {quoted(str(exc))}") from exc
    given = {descriptor.name: value for descriptor, value in message.ListFields()}
    given.pop("thread_pool_name", None)
    sizes = tuple(given.pop("allowed_batch_sizes", ()))
    # The others are bools, or wrappers around what may be unset.
    values = {name: getattr(value, "value", value) for name, value in given.items()}
    if values.get("num_batch_threads") == 0:
        raise ValueError("num_batch_threads is 0; want 1 or more, or no such field")
    return BatchingParameters(allowed_batch_sizes=sizes, **values)


class BatchingLoader:
    """Puts batching around each servable that ``inner`` loads."""

    def __init__(
        self,
        inner: Loader[ModelVersion, Servable],
        files: DiskCache,
        *,
        parameters: BatchingParameters | None,
        reads_per_model: bool,
    ) -> None:
        """
        Args:
            parameters: of models that have none of their own; None for no batching.
            reads_per_model: whether a version's own ``batching_params.pbtxt`` counts, instead of ``parameters``.
        """
        self._inner = inner
        self._files = files
        self._parameters = parameters
        self._reads_per_model = reads_per_model

    def estimate(self, version: ModelVersion) -> int:
        return self._inner.estimate(version)

    def load(self, version: ModelVersion) -> Servable:
        """Load it, and put batching around it if it has parameters and its shapes allow it.

        Raises:
            LoadFailed: its own parameters cannot be read; or as the inner loader.
        """
        servable = self._inner.load(version)
        try:
            parameters = self._own_parameters(version) or self._parameters
        except BaseException:
            servable.close()
            raise
        if parameters is None:
            return servable
        reasons = {name: _why_not(signature) for name, signature in servable.signatures.items()}
        for name, reason in reasons.items():
            if reason:
                logger.info("requests to %s of %s are not batched: %s", name, version, reason)
        batched = frozenset(name for name, reason in reasons.items() if not reason)
        if not batched:
            return servable
        return BatchingServable(str(version), servable, parameters, batched)

    def _own_parameters(self, version: ModelVersion) -> BatchingParameters | None:
        if not self._reads_per_model:
            return None
        with self._files.lease(version) as files:
            text = _read(files.directory / PARAMETERS_FILE, version)
        if text is None:
            return None
        try:
            return parse_parameters(text)
        except ValueError as exc:
            raise LoadFailed(f"{PARAMETERS_FILE} of {version}: {exc}") from exc
        except ModuleNotFoundError as exc:
            raise LoadFailed(
                f"to read {PARAMETERS_FILE} of {version} needs {exc.name}, which is not installed; "
                "try: pip install 'decant[grpc]'"
            ) from exc


def _why_not(signature: Signature) -> str:
    """Return why requests to the signature cannot be stacked; nothing if they can."""
    if not signature.inputs:
        return "it has no inputs"
    if signature.special_inputs:
        return "each of them belongs to a sequence"
    for spec in signature.inputs.values():
        if spec.shape is None or spec.shape[:1] != (DYNAMIC,):
            return f"input '{spec.name}' has shape {spec.shape}; want an open first dimension"
        if batch_axis(spec.layout):
            return f"input '{spec.name}' has layout {spec.layout}; want one that begins with N"
    for spec in signature.outputs.values():
        if spec.shape is not None and spec.shape[:1] != (DYNAMIC,):
            return f"output '{spec.name}' has shape {spec.shape}; want an open first dimension"
        if batch_axis(spec.layout):
            return f"output '{spec.name}' has layout {spec.layout}; want one that begins with N"
    return ""


def _read(path: Path, version: ModelVersion) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
        text = data.decode()
    except FileNotFoundError:
        return None
    # Not as it says itself, which is where the model lies.
    except OSError as exc:
        raise LoadFailed(f"{path.name} of {version} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise LoadFailed(f"{path.name} of {version} has bytes that are no UTF-8 at {exc.start}; want text") from exc
    if len(data) > _MAX_FILE:
        raise LoadFailed(f"{path.name} of {version} has more than {_MAX_FILE} bytes")
    return text
