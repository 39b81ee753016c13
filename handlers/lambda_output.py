"""Where answers are written that nobody waits for: below the URLs that the operator has named, and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from handlers.lambda_failures import InvocationFailed
from model_cache.errors import StorageUnavailable
from model_cache.storage import Storage, StorageOptions, open_storage
from runtime.errors import quoted, shown
from runtime.within import within

logger = logging.getLogger(__name__)

_MAX_KEY = 900
"""Bytes; stores take 1024 with what is before it."""


class Place(NamedTuple):
    base: str
    key: str


class Outputs:
    def __init__(
        self, bases: Sequence[str], options: Callable[[], StorageOptions], taken: Callable[[], Iterable[str]]
    ) -> None:
        """
        Args:
            bases: URLs, without a slash at the end.
            options: how to reach stores.
            taken: what must not be written to though it may be below one of those: URLs or paths of what is served.
        """
        self._bases = bases
        self._options = options
        self._taken = taken
        self._storages: dict[str, Storage] = {}

    def place(self, url: str) -> Place:
        """
        Raises:
            InvocationFailed: nothing may be written there.
        """
        if not self._bases:
            raise InvocationFailed(400, "output is given, and this function writes nothing; see lambda_outputs")
        if any(f"{_plain(url)}/".startswith(f"{_plain(place)}/") for place in self._taken()):
            raise InvocationFailed(400, f"output is {quoted(shown(url))}; want a place that has no files of models")
        for base in self._bases:
            if url.startswith(f"{base}/"):
                key = url[len(base) + 1 :]
                parts = key.split("/")
                is_sound = key.isprintable() and not any(part in ("", ".", "..") for part in parts)
                if is_sound and len(key.encode(errors="replace")) <= _MAX_KEY:
                    return Place(base, key)
        raise InvocationFailed(
            400, f"output is {quoted(shown(url))}; want a URL below one of lambda_outputs, without '..' in it"
        )

    def write(self, place: Place, data: bytes, until: float) -> None:
        """
        Raises:
            InvocationFailed: it cannot be written.
            LoadPending: it has not been by then.
        """
        try:
            if place.base not in self._storages:
                self._storages[place.base] = open_storage(place.base, self._options())
            storage = self._storages[place.base]
            within(lambda: storage.put(place.key, data), until, "the answer is still being written")
        # The latter of a place that no storage can be.
        except (StorageUnavailable, ValueError) as exc:
            logger.warning("output %s/%s: %s", place.base, place.key, exc)
            raise InvocationFailed(503, "the answer cannot be written to its output; the log says why") from exc


def _plain(url: str) -> str:
    """Return a URL as what may be said otherwise is said in one way."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url.rstrip("/")
    return f"{'' if scheme.lower() == 'file' else f'{scheme.lower()}://'}{rest.rstrip('/')}"
