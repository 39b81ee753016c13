"""Models in S3, Google Cloud Storage and Azure Blob Storage, through obstore: object_store, which is Rust.

It is imported in a few hundredths of the time that the SDKs take. It cannot do all that they can: `open` says so.
"""

from __future__ import annotations

import builtins
import re
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import obstore
from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, PreconditionError

from model_cache.errors import BlobChanged, ClientUnsuitable, StorageInterrupted, StorageUnavailable
from model_cache.fast_stores import Place, find
from model_cache.s3_location import checksum_of, is_etag_md5
from model_cache.storage import MAX_BLOBS, PIECE, Blob, StorageOptions

if TYPE_CHECKING:
    from email.message import Message

    from obstore import ObjectMeta

PAUSES = (0.1, 0.2, 0.4)
"""Seconds between tries of a listing."""
_PAGE = 1000
_MAX_EMPTY = 1000
_MAX_KNOWN = 10_000
_PARALLEL = 8
_ABSENT = ".decant-is-not-there"
# It raises Python's own for paths that it cannot say, and where there is nothing.
_ERRORS = (BaseError, FileNotFoundError, ValueError)
_NOWHERE = ("NoSuchBucket", "ContainerNotFound")
_BUSY = ("RequestTimeout", "SlowDown")
_BEYOND_IT = (
    "incorrectly configured region",
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "Content-Length Header missing",
)
"""What it says of a bucket in another region, which the SDK finds, and of answers whose length is not told."""


def open(url: str, options: StorageOptions) -> FastStorage:
    """
    Raises:
        ClientUnsuitable: this is for the SDK to read.
    """
    return FastS3Storage(url, options) if urlsplit(url).scheme == "s3" else FastStorage(url, options)


class FastStorage:
    in_place: Path | None = None

    def __init__(self, url: str, options: StorageOptions) -> None:
        self._url = url
        self._timeout = options.read_timeout
        self._is_anonymous = options.is_anonymous
        self.reconnect(options)
        # Of empty blobs that were looked at. Replaced as a whole, so that threads need no lock.
        self._is_folder: dict[Blob, bool] = {}

    def __str__(self) -> str:
        return f"{self._place.name}/{self._place.prefix}".rstrip("/")

    @property
    def identity(self) -> str:
        """As whom it asks."""
        return self._place.identity

    def reconnect(self, options: StorageOptions) -> None:
        """As `Reconnects.reconnect`.

        Raises:
            ClientUnsuitable: as `open`.
        """
        place = find(self._url, options)
        # The connections and credentials that there are go with the store that has them.
        self._place: Place = place
        self._store = place.store

    def list(self, prefix: str = "") -> Iterator[Blob]:
        """As `Storage.list`.

        Raises:
            ClientUnsuitable: this client cannot list it; no blob has been given then.
        """
        failure = f"cannot list {self}"
        for pause in (*PAUSES, None):
            try:
                blobs = self._list(prefix, failure)
                break
            except StorageInterrupted:
                if pause is None:
                    raise
                time.sleep(pause)
        yield from blobs

    def fetch(self, blob: Blob, start: int, stop: int) -> Generator[bytes, None, None]:
        """As `Storage.fetch`.

        Raises:
            ClientUnsuitable: this client cannot read it; nothing has been given then.
        """
        failure = f"cannot fetch {self._place.name}/{self._key(blob)}"
        etag = blob.etag.strip('"')
        received = 0
        try:
            answer = obstore.get(
                self._store,
                self._key(blob),
                # If-Match: bytes of another upload are an error, never part of this version.
                options={"range": (start, stop), "if_match": f'"{etag}"'},
            )
            meta = answer.meta
            # A server may not know If-Match.
            if (meta["e_tag"] or etag).strip('"') != etag or meta["size"] != blob.size:
                raise BlobChanged(f"{failure}: it has {meta['size']} bytes and the ETag {meta['e_tag']}, had {etag}")
            for data in answer.stream(min_chunk_size=1):
                received += len(data)
                if received > stop - start:
                    break
                yield from _pieces(data)
        except _ERRORS as exc:
            raise self._error(exc, failure) from None
        if received != stop - start:
            raise StorageInterrupted(f"{failure}: got {received} bytes, want {stop - start}")

    def put(self, key: str, data: bytes) -> None:
        """As `Storage.put`.

        Raises:
            ClientUnsuitable: this client cannot write it; nothing has been stored then.
        """
        failure = f"cannot write {self._place.name}/{self._place.prefix}{key}"
        if self._place.name.startswith("gs:"):
            # By an interface of Google's that no server but Google's own has, so that nobody could say it works.
            raise ClientUnsuitable(f"{failure}: that is for the SDK; try: pip install 'decant[gcs]'")
        try:
            obstore.put(self._store, self._place.prefix + key, data, use_multipart=False)
        except _ERRORS as exc:
            error = self._error(exc, failure)
            # There is no blob yet that could have changed.
            raise (StorageUnavailable(*error.args) if isinstance(error, BlobChanged) else error) from None

    def _list(self, prefix: str, failure: str) -> builtins.list[Blob]:
        """Return what there is, as a whole."""
        wanted = self._place.prefix + prefix
        blobs: builtins.list[Blob] = []
        empty: builtins.list[Blob] = []
        directories: set[str] = set()
        count = 0
        try:
            for page in self._pages(wanted.rpartition("/")[0]):
                count += len(page)
                if count > MAX_BLOBS:
                    raise StorageUnavailable(f"more than {MAX_BLOBS} objects below {self}; is this a model?")
                for item in page:
                    path = item["path"]
                    directories.update(_directories(path))
                    if path.startswith(wanted):
                        (blobs if item["size"] else empty).append(self._blob(item))
            if not count:
                self._expect_a_store(failure)
            blobs += self._without_folders([blob for blob in empty if self._key(blob) not in directories])
        except _ERRORS as exc:
            raise self._error(exc, failure) from None
        return blobs

    def _pages(self, directory: str) -> Iterator[Sequence[ObjectMeta]]:
        return iter(obstore.list(self._store, directory or None, chunk_size=_PAGE))

    def _expect_a_store(self, failure: str) -> None:
        """Fail unless it is a store that has said that there is nothing.

        To obstore any markup is a listing, and the page of a captive portal an empty one. Only a store says of what is
        not there that it is not.
        """
        try:
            obstore.get(self._store, self._place.prefix + _ABSENT)
        except FileNotFoundError:
            return
        except PermissionDeniedError as exc:
            # S3 says so, and not that it is not there, to who may list some prefixes only.
            if _code(str(exc)):
                return
            raise
        raise StorageUnavailable(f"{failure}: the answer is no listing; is this the right server?")

    def _without_folders(self, empty: builtins.list[Blob]) -> builtins.list[Blob]:
        """Return those of some empty blobs that do not stand for a folder.

        Consoles make folders as empty objects whose key ends in a slash, which obstore takes away; so what it has
        listed is not there. In Azure's hierarchical accounts it is, and its metadata say what it is.
        """
        known = self._is_folder
        unknown = [blob for blob in empty if blob not in known]
        if len(unknown) > _MAX_EMPTY:
            raise ClientUnsuitable(f"{len(unknown)} objects below {self} are empty, and obstore has to look at each")
        if unknown:
            with ThreadPoolExecutor(_PARALLEL, "empty blobs") as pool:
                looked_at = dict(zip(unknown, pool.map(self._looks_like_a_folder, unknown), strict=True))
            known = known | looked_at
            self._is_folder = known if len(known) < _MAX_KNOWN else looked_at
        return [blob for blob in empty if not known[blob]]

    def _looks_like_a_folder(self, blob: Blob) -> bool:
        try:
            attributes = obstore.get(self._store, self._key(blob), options={"head": True}).attributes
        # The latter as in `_expect_a_store`.
        except (FileNotFoundError, PermissionDeniedError):
            return True
        return attributes.get("hdi_isfolder") == "true"

    def _key(self, blob: Blob) -> str:
        return self._place.prefix + blob.key

    def _blob(self, item: ObjectMeta) -> Blob:
        key = item["path"][len(self._place.prefix) :]
        return Blob(key, item["size"], (item["e_tag"] or "").strip('"'), modified=item["last_modified"].timestamp())

    def _error(self, exc: Exception, failure: str) -> StorageUnavailable:
        """Make our error of obstore's, whose own text goes on for a page."""
        text = str(exc)
        status, code = _status(text), _code(text)
        error: type[StorageUnavailable] = StorageUnavailable
        if isinstance(exc, InvalidPathError | ValueError) or any(mark in text for mark in _BEYOND_IT):
            error = ClientUnsuitable
        elif not status:
            return StorageInterrupted(f"{failure}: {_reason(text)} ({self._place.endpoint})")
        elif code not in _NOWHERE and (isinstance(exc, FileNotFoundError | PreconditionError) or status in (412, 416)):
            error = BlobChanged
        elif status in (408, 429) or status >= 500 or code in _BUSY:
            error = StorageInterrupted
        return error(f"{failure}: {_reason(text)}")


class FastS3Storage(FastStorage):
    def vouches_for(self, blob: Blob) -> bool:
        """As `VouchesForChecksums.vouches_for`: the ETag, from which the checksum is, is another thing if a key of KMS
        or of the client encrypts the object."""
        from urllib.error import HTTPError

        failure = f"cannot look at {self._place.name}/{self._key(blob)}"
        try:
            headers = self._head(blob)
        except _ERRORS as exc:
            raise self._error(exc, failure) from None
        except HTTPError as exc:
            exc.close()
            raise (BlobChanged if exc.code in (404, 412) else StorageInterrupted)(f"{failure}: {exc}") from exc
        except OSError as exc:
            raise StorageInterrupted(f"{failure}: {exc}") from exc
        return is_etag_md5(
            headers.get("x-amz-server-side-encryption"), headers.get("x-amz-server-side-encryption-customer-algorithm")
        )

    def _head(self, blob: Blob) -> Message:
        """Ask for an answer's headers, which obstore keeps to itself."""
        # Here, as it takes longer than obstore itself, and is hardly ever needed.
        from urllib.request import Request, urlopen

        bucket = self._place.name.rpartition("/")[2]
        url = f"{self._place.endpoint}/{bucket}/{quote(self._key(blob))}"
        if not self._is_anonymous:
            url = obstore.sign(self._store, "HEAD", self._key(blob), timedelta(seconds=60))
        request = Request(url, method="HEAD", headers={"If-Match": blob.etag})
        with urlopen(request, timeout=self._timeout) as answer:
            headers: Message = answer.headers
        return headers

    def _blob(self, item: ObjectMeta) -> Blob:
        key, etag = item["path"][len(self._place.prefix) :], item["e_tag"] or ""
        checksum = checksum_of(etag, "")
        return Blob(key, item["size"], etag, checksum, item["last_modified"].timestamp())


def _pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]


def _directories(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _status(text: str) -> int:
    match = re.search(r"non-2xx status code: (\d{3})", text)
    return int(match[1]) if match else 0


def _code(text: str) -> str:
    match = re.search(r"<Code>(.*?)</Code>", text)
    return match[1] if match else ""


def _reason(text: str) -> str:
    """Say in a line what obstore says in fifty: without the request, whose URL may hold a secret."""
    text, _, details = text.partition("\n\nDebug source:")
    if code := _code(text):
        message = re.search(r"<Message>\s*(.*?)\s*(\n|</Message>)", text)
        return f"{code}: {message[1]}" if message and message[1] else code
    if match := re.search(r"non-2xx status code: (\d{3} [^:\n]*)", text):
        return match[1]
    reason = re.sub(r"\?\S*", "", " ".join(text.rpartition(" - ")[2].split()))
    if "TimedOut" in details:
        return f"{reason}: timed out"
    causes = re.findall(r'(?:message|error): "([^"]+)"', details)
    return f"{reason}: {causes[-1]}" if causes else reason
