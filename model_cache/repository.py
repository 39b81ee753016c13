"""The versions of one model: ``<base>/<version>/...`` in a storage, as last listed.

A listing that once succeeded is kept until a newer one succeeds: a bucket that cannot be listed takes no model away.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from model_cache.errors import ModelNotFound, StorageUnavailable
from model_cache.storage import Blob, Storage

logger = logging.getLogger(__name__)

LISTING_TTL = 10.0
"""Seconds for which a listing is believed. Listing costs money (S3: 5 USD for a million) and a round trip."""

_MAX_VERSION = 2**63 - 1


class ServableId(NamedTuple):
    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, eq=False)
class ModelVersion:
    """A version as found in storage. Two are equal if they are the same version of the same bytes."""

    id: ServableId
    prefix: str
    """What the blobs' keys start with, ending in a slash."""
    blobs: tuple[Blob, ...]
    storage: Storage

    def __str__(self) -> str:
        return str(self.id)

    @cached_property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over (key, size, etag): another upload is another digest."""
        digest = hashlib.sha256()
        for blob in sorted(self.blobs, key=lambda blob: blob.key):
            digest.update(repr((blob.key.removeprefix(self.prefix), blob.size, blob.etag)).encode())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelVersion) and (self.id, self.digest) == (other.id, other.digest)

    @property
    def contents(self) -> Contents:
        return Contents(self.digest, self)

    @cached_property
    def _hash(self) -> int:
        return hash((self.id, self.digest))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True)
class Contents:
    """A version's files, whichever version of whichever model they are: the unit that is kept on disk."""

    digest: str
    version: ModelVersion = field(compare=False)

    def __str__(self) -> str:
        return f"files of {self.version}"


class ModelRepository:
    """The versions of one model in one storage, listed when asked for and at most once per ``ttl`` seconds."""

    def __init__(
        self,
        name: str,
        storage: Storage,
        *,
        ttl: float = LISTING_TTL,
        # Not the monotonic clock: it stands still while a platform has the process frozen.
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._storage = storage
        self._ttl = ttl
        self._clock = clock
        # Held while listing. Whoever finds it taken uses the listing that is there; only the first has to wait.
        self._listing = threading.Lock()
        # Replaced as a whole, never changed in place, so that it can be read without the lock.
        self._versions: Mapping[int, ModelVersion] | None = None
        self._expires = 0.0
        # How often `expire` was called, so that a listing begun before is not believed after.
        self._expiries = 0
        # How many listings have ended, and the error of the last if it was the first one that failed.
        self._listings = 0
        self._failure = ""

    def __str__(self) -> str:
        return f"{self.name} at {self._storage}"

    def versions(self) -> Mapping[int, ModelVersion]:
        """Return the versions there are, by number, in ascending order.

        Raises:
            StorageUnavailable: the storage cannot be listed and never could be.
        """
        known, listings = self._versions, self._listings
        if known is not None and self._clock() < self._expires:
            return known
        if not self._listing.acquire(blocking=known is None):
            assert known is not None
            return known
        try:
            # Those who have waited for a first listing share its failure; one after the other they would wait long.
            if self._versions is None and self._listings > listings and self._failure:
                raise StorageUnavailable(self._failure)
            return self._refresh()
        finally:
            self._listings += 1
            self._listing.release()

    def find(self, version: int) -> ModelVersion:
        """Return one version.

        Raises:
            ModelNotFound: there is no such version.
            StorageUnavailable: as `versions`.
        """
        versions = self.versions()
        if version not in versions:
            raise ModelNotFound(f"Servable not found for request: Specific({self.name}, {version})")
        return versions[version]

    def expire(self) -> None:
        """List again at the next call; for when what was listed has turned out not to be there."""
        self._expiries += 1
        self._expires = 0.0

    def _refresh(self) -> Mapping[int, ModelVersion]:
        known, expiries = self._versions, self._expiries
        if known is not None and self._clock() < self._expires:
            return known
        self._failure = ""
        try:
            found = self._keep_same(known or {}, self._list())
        except StorageUnavailable as exc:
            if known is None:
                self._failure = str(exc)
                raise
            logger.warning("%s: keeping the versions known: %s", self.name, exc)
            found = known
        self._versions = found
        if self._expiries == expiries:
            self._expires = self._clock() + self._ttl
        return found

    def _list(self) -> Mapping[int, ModelVersion]:
        blobs: dict[int, list[Blob]] = defaultdict(list)
        prefixes: dict[int, str] = {}
        for blob in self._storage.list():
            directory, slash, _ = blob.key.partition("/")
            version = _version(directory) if slash else None
            if version is None:
                continue
            # "007" and "7" are one version; the first found is it.
            if prefixes.setdefault(version, f"{directory}/") == f"{directory}/":
                blobs[version].append(blob)
        return {
            version: ModelVersion(
                ServableId(self.name, version), prefixes[version], tuple(blobs[version]), self._storage
            )
            for version in sorted(blobs)
        }

    def _keep_same(
        self, known: Mapping[int, ModelVersion], found: Mapping[int, ModelVersion]
    ) -> Mapping[int, ModelVersion]:
        """Prefer the objects we have, so that a cache's look-up of an unchanged version is an identity check."""
        return {number: known[number] if known.get(number) == version else version for number, version in found.items()}


def _version(directory: str) -> int | None:
    # ASCII digits alone; int() would take "+1", "1_0" and Arabic digits, and refuse very long ones.
    if not (directory.isascii() and directory.isdigit()) or len(directory.lstrip("0")) > len(str(_MAX_VERSION)):
        return None
    version = int(directory)
    return version if version <= _MAX_VERSION else None
