"""What is told of models: the rows of the repository's index and of the statistics, as both transports write them.

Triton's extensions: extension_model_repository.md and extension_statistics.md of triton-inference-server/server.
"""

from __future__ import annotations

from typing import NamedTuple


class IndexRow(NamedTuple):
    name: str
    version: str
    """Empty for what is wrong with a model as a whole."""
    state: str
    """READY, LOADING, UNLOADING, UNAVAILABLE or UNKNOWN."""
    reason: str = ""
    """Empty if there is nothing to say."""


class Duration(NamedTuple):
    times: int = 0
    """How often something has been done: ``count`` on the wire, which is a tuple's own."""
    ns: int = 0
    """Nanoseconds spent with it in all."""


class ModelStatistics(NamedTuple):
    """Of one version, since the process started."""

    name: str
    version: str
    last_inference: int = 0
    """Milliseconds since the epoch; 0 if there was none."""
    inference_count: int = 0
    """Rows of the requests that were answered."""
    execution_count: int = 0
    """How often the model has run for them: once for a batch."""
    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()


DURATIONS = tuple(name for name, nothing in ModelStatistics._field_defaults.items() if isinstance(nothing, Duration))
"""Triton's names of them."""
