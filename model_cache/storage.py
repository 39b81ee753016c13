"""Where models are stored: list, fetch and put, and a URL that says which backend.

A backend is imported when a URL of its scheme is opened and not before: an SDK costs up to half a second.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, cast, runtime_checkable
from urllib.parse import urlsplit

from model_cache.errors import BlobChanged, ClientUnsuitable, StorageUnavailable
from model_cache.timeline import span

logger = logging.getLogger(__name__)

MAX_BLOBS = 100_000
"""A listing longer than this is refused: it is somebody's data lake, not a model."""


PIECE = 1 << 20
"""Bytes that `Storage.fetch` gives at once, at most."""
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 20.0
"""Seconds without a byte before a read is given up."""


class Blob(NamedTuple):
    """One stored object, as listed."""

    key: str
    """Relative to the storage's root, with ``/`` between the parts. From outside: not to be trusted."""
    size: int
    etag: str
    """Changes whenever the bytes do: an ETag, or a generation. Reads are pinned to it."""
    checksum: str = ""
    """``md5:`` or ``crc32c:`` and lower-case hex digits, if the store offers one with its listing."""
    modified: float = 0.0
    """Seconds since the epoch by the store's clock; 0 if it does not say."""


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

    def fetch(self, blob: Blob, start: int, stop: int) -> Generator[bytes | memoryview, None, None]:
        """Yield the blob's bytes from ``start`` up to ``stop``, as they were when it was listed, as they come.

        One attempt, from which every piece that came is good; whoever calls tries again from there. Closing the
        generator ends the read. Pieces have at most `PIECE` bytes, and are the caller's own.

        Args:
            start, stop: 0 <= start < stop <= blob.size.

        Raises:
            BlobChanged: it is gone, or no longer what was listed.
            StorageInterrupted: the read broke off, or the store was too busy: trying again may help.
            StorageUnavailable: it cannot be read, and trying again will not help now.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store a blob as a whole, in place of one that is there. One attempt, in one piece: for a few MB.

        Raises:
            StorageUnavailable: it cannot be written, as a rule because whoever serves models may only read them.
        """
        ...


@runtime_checkable
class VouchesForChecksums(Protocol):
    """A storage whose listing may give for a checksum what is none."""

    def vouches_for(self, blob: Blob) -> bool:
        """Return whether the blob's checksum is one; asked when bytes do not fit it.

        Raises:
            StorageUnavailable: as `Storage.fetch`.
        """
        ...


@runtime_checkable
class Reconnects(Protocol):
    """A storage that has connections, and credentials of its own."""

    def reconnect(self, options: StorageOptions) -> None:
        """Let go of both. Whoever asks next has new ones, as the options say; nothing must be under way.

        Raises:
            StorageUnavailable: it cannot be set up so.
        """
        ...


@dataclass(frozen=True)
class StorageOptions:
    """How to reach a store. Credentials are the SDKs' own business, and come from where these look for them."""

    s3_endpoint: str = ""
    """URL of an S3 server other than Amazon's."""
    client: str = "auto"
    """``obstore``, ``sdk``, or ``auto`` for obstore where it is installed and can read the credentials itself."""
    is_anonymous: bool = False
    """Whether to send no credentials, even if there are some."""
    # Not shown: there may be keys in it.
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The process's environment, for clients that do not read it themselves."""
    connect_timeout: float = CONNECT_TIMEOUT
    read_timeout: float = READ_TIMEOUT


_LOCAL = "model_cache.local"
BACKENDS = {
    "": _LOCAL,
    "file": _LOCAL,
    "s3": "model_cache.s3",
    "gs": "model_cache.gcs",
    "az": "model_cache.azure",
    "azure": "model_cache.azure",
}
"""URL scheme -> module with ``open(url, options) -> Storage``, which does no I/O."""

_EXTRAS = {"boto3": "s3", "botocore": "s3", "google": "gcs", "azure": "azure"}
_WANTED = "a path, file:///path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
_SIGNATURE = r"[?&](X-Amz-\w+|X-Goog-\w+|AWSAccessKeyId|GoogleAccessId|Signature|sig)="
_PATHS = {
    "s3": ("AWS_WEB_IDENTITY_TOKEN_FILE",),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS",),
    "az": ("AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_CERTIFICATE_PATH"),
}
"""Variables that name files with secrets, by scheme. Whoever finds no such file quotes them."""
_MAX_PATH = 255
_BEGINNINGS = ("{", '"', "-----", "eyJ", "eyA", "ewo", "ew0K", "LS0t")
"""Of keys in JSON or PEM, and of either in base64, as which tokens begin, too."""


def open_storage(url: str, options: StorageOptions | None = None) -> Storage:
    """Return the storage below ``url``; does no I/O beyond a look at local files of credentials.

    Raises:
        ValueError: no backend reads such a URL.
        StorageUnavailable: the client is not installed, or cannot read this.
    """
    options = options or StorageOptions()
    parts = urlsplit(url)
    scheme = parts.scheme
    # No bucket has such a name. What comes before may be a password, and errors end up in logs.
    if "@" in parts.netloc:
        raise ValueError(f"a {scheme}:// URL has something before an @; want {_WANTED}, and credentials in variables")
    if scheme not in BACKENDS:
        raise ValueError(f"cannot read models from {public_url(url)!r}; want {_WANTED}")
    if BACKENDS[scheme] == _LOCAL:
        return _open_backend(scheme, url, options)
    # The backend of Azure wants no query at all.
    if scheme in ("s3", "gs") and re.search(_SIGNATURE, url, re.IGNORECASE):
        raise ValueError(
            f"{public_url(url)!r} has a signature in its query; want {_WANTED}, and credentials in variables"
        )
    if misplaced := misplaced_secret(scheme, options):
        raise StorageUnavailable(f"cannot set up {scheme}://: {misplaced}")
    if options.client == "sdk":
        return _open_backend(scheme, url, options)
    try:
        fast, identity = _open_fast(url, options)
    except ClientUnsuitable as exc:
        if options.client == "obstore":
            raise StorageUnavailable(f"obstore cannot read this {scheme}:// as it is set up: {exc}") from exc
        storage = _open_backend(scheme, url, options)
        logger.debug("reading %s with the SDK, not obstore: %s", storage, exc)
        return storage
    logger.debug("reading %s with obstore, as %s", fast, identity)
    return fast if options.client == "obstore" else _FastIfSuitable(fast, url, options)


def public_url(url: str) -> str:
    """Return a URL without what may be secret: a name and a password before the host, and the query."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def misplaced_secret(scheme: str, options: StorageOptions) -> str:
    """Return what is wrong with a variable that has, for the path of a key or token, that itself; empty if none has.

    SDKs quote it as a file that is not there.
    """
    if options.is_anonymous:
        return ""
    for name in _PATHS[scheme.replace("azure", "az")]:
        given = options.environ.get(name, "")
        is_strange = len(given) > _MAX_PATH or "\n" in given or given.lstrip().startswith(_BEGINNINGS)
        if is_strange and not _is_file(given):
            return f"{name} is no path, but seems to be the secret itself; want the path of a file that has it"
    return ""


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    # Its name is too long for one.
    except OSError:
        return False


def _open_backend(scheme: str, url: str, options: StorageOptions) -> Storage:
    try:
        with span("imports.storage"):
            backend = importlib.import_module(BACKENDS[scheme])
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        raise StorageUnavailable(
            f"{scheme}:// needs {exc.name}, which is not installed; try: pip install 'decant[{_EXTRAS[package]}]'"
        ) from exc
    return cast(Storage, backend.open(url, options))


def _open_fast(url: str, options: StorageOptions) -> tuple[Storage, str]:
    try:
        with span("imports.storage"):
            fast = importlib.import_module("model_cache.fast")
    except ModuleNotFoundError as exc:
        if exc.name != "obstore":
            raise
        raise ClientUnsuitable("it is not installed; try: pip install 'decant[fast]'") from exc
    storage = fast.open(url, options)
    return cast(Storage, storage), storage.identity


class _FastIfSuitable:
    """Reads with obstore until that finds the bucket unsuitable, and from then on with the SDK."""

    in_place: Path | None = None

    def __init__(self, fast: Storage, url: str, options: StorageOptions) -> None:
        self._storage = fast
        self._url = url
        self._options = options

    def __str__(self) -> str:
        return str(self._storage)

    def list(self, prefix: str = "") -> Iterator[Blob]:
        try:
            yield from self._storage.list(prefix)
        except ClientUnsuitable as exc:
            # It has given nothing yet, here as below.
            yield from self._sdk(exc).list(prefix)

    def fetch(self, blob: Blob, start: int, stop: int) -> Generator[bytes | memoryview, None, None]:
        try:
            yield from self._storage.fetch(blob, start, stop)
        except ClientUnsuitable as exc:
            sdk = self._sdk(exc)
            # Both name what is there alike, but in Google's store: one goes by ETags there, the other by generations.
            if str(self).startswith("gs:"):
                raise BlobChanged(f"{self}/{blob.key} is to be listed by the client that can read it") from exc
            yield from sdk.fetch(blob, start, stop)

    def put(self, key: str, data: bytes) -> None:
        try:
            self._storage.put(key, data)
        except ClientUnsuitable as exc:
            self._sdk(exc).put(key, data)

    def vouches_for(self, blob: Blob) -> bool:
        return not isinstance(self._storage, VouchesForChecksums) or self._storage.vouches_for(blob)

    def reconnect(self, options: StorageOptions) -> None:
        self._options = options
        try:
            if isinstance(self._storage, Reconnects):
                self._storage.reconnect(options)
        except ClientUnsuitable as exc:
            self._sdk(exc)

    def _sdk(self, exc: ClientUnsuitable) -> Storage:
        logger.debug("reading %s with the SDK from now on: %s", self, exc)
        # By several threads perhaps, each of which then has one that works.
        self._storage = _open_backend(urlsplit(self._url).scheme, self._url, self._options)
        return self._storage
