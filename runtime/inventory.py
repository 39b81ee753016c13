"""What a server says of its models: where each version is, what it occupies, and how it came there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from model_cache.disk import Usage
from runtime.servable import LoadPhases


class Whereabouts(NamedTuple):
    """One version. Sizes are in bytes."""

    version: int
    state: str
    is_stored: bool
    """Whether it was there when its storage was last listed."""
    is_on_disk: bool
    is_in_memory: bool
    stored_size: int | None
    """None until it is known to be whole."""
    memory_size: int
    """0 if it is not in memory. Until it is loaded an estimate."""
    leases: int
    """Requests that use it or wait for it."""
    leased_at: float | None
    """When the last of them came, in seconds since the epoch; None if it is not in memory."""
    phases: LoadPhases | None
    """Of its load; None unless it is loaded."""


class ModelInventory(NamedTuple):
    versions: Sequence[Whereabouts]
    """Newest first."""
    error: str
    """Why its versions are not known, or nothing."""


class MemoryUsage(NamedTuple):
    """In bytes."""

    budget: int
    used: int
    """By models loading and loaded, as they are accounted for."""
    rss: int | None
    """By the process, if the system tells."""


class Inventory(NamedTuple):
    memory: MemoryUsage
    disk: Usage
    models: Mapping[str, ModelInventory]
