"""What was compiled of a model and is stored beside it: fetched along with a version, and never waited for.

To whom it is of use, and what is in it, is the runtime's affair. Nothing depends on it: what is missing, too large, too
slow or fails to come is done without.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import closing

from model_cache.errors import StorageUnavailable
from model_cache.repository import ModelVersion
from model_cache.storage import Blob, Storage
from model_cache.timeline import span

logger = logging.getLogger(__name__)

DIRECTORY = "compiled"
"""In a version's directory, in a storage as on disk."""
MAX_SIZE = 16 << 20
"""Bytes of one that are fetched, kept or read. It has no weights in it, and so a few hundred KB as a rule."""
MAX_COUNT = 4
"""That are fetched of a version, the newest: one for each kind of processor that servers run on."""
PATIENCE = 0.25
"""Seconds to wait for them when the version's own files are there."""


def wanted(version: ModelVersion, beginning: str) -> list[Blob]:
    """Return what of a version is fetched: names that begin so, within the limits."""
    start = f"{version.prefix}{DIRECTORY}/{beginning}"
    found = [blob for blob in version.compiled if blob.key.startswith(start) and 0 < blob.size <= MAX_SIZE]
    return found[:MAX_COUNT]


class CompiledDownload:
    """Fetches some blobs into memory, in a thread of its own that begins at once."""

    def __init__(self, storage: Storage, blobs: Sequence[Blob]) -> None:
        self._storage = storage
        self._blobs = blobs
        self._is_over = threading.Event()
        self._has_ended = threading.Event()
        # Added to by the thread, and not looked at before it has ended.
        self._arrived: dict[str, bytes] = {}
        self._begin()

    def _begin(self) -> None:
        if self._blobs:
            try:
                threading.Thread(target=self._run, name="download compiled", daemon=True).start()
                return
            # The process may have no more threads.
            except RuntimeError as exc:
                logger.debug("fetching nothing compiled: %s", exc)
        self._has_ended.set()

    def end(self, patience: float = PATIENCE) -> dict[str, bytes]:
        """Return what has arrived, by the name of its file, or nothing if not all has come or failed in time."""
        is_complete = self._has_ended.wait(patience)
        self._is_over.set()
        return self._arrived if is_complete else {}

    def _run(self) -> None:
        try:
            with span("download.compiled", bytes=sum(blob.size for blob in self._blobs)):
                for blob in self._blobs:
                    self._fetch(blob)
        finally:
            self._has_ended.set()

    def _fetch(self, blob: Blob) -> None:
        began, data = time.perf_counter(), bytearray()
        try:
            with closing(self._storage.fetch(blob, 0, blob.size)) as pieces:
                for piece in pieces:
                    if self._is_over.is_set():
                        return
                    data += piece
        except StorageUnavailable as exc:
            logger.debug("doing without %s: %s", blob.key, exc)
            return
        if len(data) == blob.size:
            self._arrived[blob.key.rpartition("/")[2]] = bytes(data)
            logger.debug("fetched %s, %d bytes in %.2f s", blob.key, blob.size, time.perf_counter() - began)
