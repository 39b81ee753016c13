"""Where models are stored: two methods, list and fetch, and a URL that says which backend.

A backend is imported when a URL of its scheme is opened and not before: an SDK costs up to half a second.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import urlsplit

from model_cache.errors import StorageUnavailable

MAX_BLOBS = 100_000
"""A listing longer than this is refused: it is somebody's data lake, not a model."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One stored object, as listed. ``etag`` changes whenever the bytes do."""

    key: str
    """Relative to the storage's root, with ``/`` between the parts. From outside: not to be trusted."""
    size: int
    etag: str


class Storage(Protocol):
    """A tree of blobs below one URL, which ``str()`` gives. Methods may be called from several threads."""

    in_place: Path | None
    """The local directory that is this tree, if it is one: then nothing has to be fetched to be read."""

    def list(self, prefix: str = "") -> Iterator[Blob]:
        """Yield every blob whose key starts with ``prefix``.

        Raises:
            StorageUnavailable: the store, bucket or directory cannot be read.
        """
        ...

    def fetch(self, blob: Blob, path: Path) -> None:
        """Put the blob's bytes, as they were when it was listed, at ``path``, which must not exist.

        Raises:
            StorageUnavailable: it cannot be read, is gone, or is no longer what was listed.
        """
        ...


BACKENDS = {"": "model_cache.local", "file": "model_cache.local", "s3": "model_cache.s3"}
"""URL scheme -> module with ``open(url, endpoint) -> Storage``."""

_EXTRAS = {"boto3": "s3", "botocore": "s3"}


def open_storage(url: str, *, endpoint: str | None = None) -> Storage:
    """Return the storage below ``url``; does no I/O.

    Args:
        url: a path, ``file:///path`` or ``s3://bucket/prefix``.
        endpoint: for S3, the server's URL if it is not Amazon's.

    Raises:
        ValueError: no backend reads such a URL.
        StorageUnavailable: the backend's SDK is not installed.
    """
    scheme = urlsplit(url).scheme
    if scheme not in BACKENDS:
        raise ValueError(f"cannot read models from {url!r}; want a path, file:///path or s3://bucket/prefix")
    try:
        backend = importlib.import_module(BACKENDS[scheme])
    except ModuleNotFoundError as exc:
        if exc.name not in _EXTRAS:
            raise
        extra = _EXTRAS[exc.name]
        raise StorageUnavailable(
            f"{scheme}:// needs {exc.name}, which is not installed; try: pip install 'decant[{extra}]'"
        ) from exc
    return cast(Storage, backend.open(url, endpoint))
