"""Models in Google Cloud Storage, through google-cloud-storage.

Credentials are the SDK's own chain: key file, gcloud, workload identity, metadata server. Where it ends with none,
requests are anonymous, as OVMS's were. STORAGE_EMULATOR_HOST is the SDK's, too.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from urllib.parse import quote

from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError, RetryError, from_http_response
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage import Blob as Listed
from google.cloud.storage import Client
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException

from model_cache.errors import BlobChanged, StorageInterrupted, StorageUnavailable
from model_cache.http_range import error_of, pieces, reason
from model_cache.storage import MAX_BLOBS, Blob, StorageOptions

_RETRY = DEFAULT_RETRY.with_timeout(5.0).with_delay(initial=0.2, maximum=2.0)
"""Of a page of a listing. The SDK would go on for two minutes."""
_CONNECTIONS = 32
_PROJECT = "none"
"""Reading takes no project, but the SDK does not begin without one."""
_BINARY = "application/octet-stream"
_FIELDS = "items(name,size,generation,crc32c,md5Hash,updated),nextPageToken"
_ERRORS = (GoogleAPIError, GoogleAuthError, RequestException)


def open(url: str, options: StorageOptions) -> GcsStorage:
    bucket, _, prefix = url.partition("://")[2].partition("/")
    if not bucket:
        raise ValueError(f"{url!r} names no bucket; want gs://bucket/prefix")
    return GcsStorage(bucket, prefix.strip("/"), options)


class GcsStorage:
    in_place: Path | None = None

    def __init__(self, bucket: str, prefix: str, options: StorageOptions) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._options = options
        self._timeout = (options.connect_timeout, options.read_timeout)
        # Held while the client is made, which asks the metadata server who we are; so it is made once, and not when
        # the storage is opened.
        self._lock = threading.Lock()
        self._made: Client | None = None

    def __str__(self) -> str:
        return f"gs://{self._bucket}/{self._prefix}".rstrip("/")

    def reconnect(self, options: StorageOptions) -> None:
        with self._lock:
            client, self._made, self._options = self._made, None, options
        if client is not None:
            client.close()

    def list(self, prefix: str = "") -> Iterator[Blob]:
        count = 0
        try:
            listed = self._client().list_blobs(
                self._bucket, prefix=self._prefix + prefix, fields=_FIELDS, timeout=self._timeout, retry=_RETRY
            )
            for item in listed:
                count += 1
                if count > MAX_BLOBS:
                    raise StorageUnavailable(f"more than {MAX_BLOBS} objects below {self}; is this a model?")
                # Consoles make "folders" as empty objects whose name ends in a slash.
                if not item.name.endswith("/"):
                    yield self._blob(item)
        except _ERRORS as exc:
            raise StorageUnavailable(f"cannot list {self}: {_reason(exc)}") from exc
        # Whatever else answers 200, such as a captive portal.
        except (AttributeError, KeyError, TypeError) as exc:
            raise StorageUnavailable(f"cannot list {self}: the answer is no listing; is this Google's?") from exc

    def fetch(self, blob: Blob, start: int, stop: int) -> Generator[bytes | memoryview, None, None]:
        failure = f"cannot fetch gs://{self._bucket}/{self._prefix}{blob.key}"
        try:
            client = self._client()
            answer = client._http.get(
                f"{client.api_endpoint}/download/storage/v1/b/{quote(self._bucket, safe='')}"
                f"/o/{quote(self._prefix + blob.key, safe='')}",
                # The bytes of another upload have another generation, and are not found under this one.
                params={"alt": "media", "generation": blob.etag},
                # Who does not take gzip gets what is stored as gzip unpacked, whatever range is asked for.
                headers={"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "gzip"},
                timeout=self._timeout,
                stream=True,
            )
            if answer.status_code not in (200, 206):
                with answer:
                    raise from_http_response(answer)
        except _ERRORS as exc:
            raise _error_of(exc)(f"{failure}: {_reason(exc)}") from exc
        yield from pieces(answer.raw, blob, start, stop, failure)

    def put(self, key: str, data: bytes) -> None:
        failure = f"cannot write gs://{self._bucket}/{self._prefix}{key}"
        try:
            blob = self._client().bucket(self._bucket).blob(self._prefix + key)
            blob.upload_from_string(data, _BINARY, timeout=self._timeout, retry=None, checksum="crc32c")
        except _ERRORS as exc:
            error = _error_of(exc)
            raise (StorageUnavailable if error is BlobChanged else error)(f"{failure}: {_reason(exc)}") from exc

    def _client(self) -> Client:
        with self._lock:
            if self._made is None:
                try:
                    self._made = _connect(self._options)
                except ValueError as exc:
                    raise StorageUnavailable(f"cannot set up {self}: {_reason(exc)}") from exc
            return self._made

    def _blob(self, item: Listed) -> Blob:
        return Blob(
            item.name[len(self._prefix) :],
            item.size,
            str(item.generation),
            _checksum(item),
            item.updated.timestamp() if item.updated else 0.0,
        )


def _connect(options: StorageOptions) -> Client:
    try:
        is_anonymous = options.is_anonymous or "STORAGE_EMULATOR_HOST" in options.environ
        client = _anonymous_client() if is_anonymous else Client(_PROJECT)
    except DefaultCredentialsError:
        # A file that is named and cannot be used is a mistake, and not "none".
        if options.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            raise
        client = _anonymous_client()
    # It would ask for the bucket itself, in a thread and for two minutes, to be able to name it in traces.
    client._bucket_metadata_cache = None
    for scheme in ("http://", "https://"):
        client._http.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))
    return client


def _anonymous_client() -> Client:
    credentials = AnonymousCredentials()
    # Else a refusal is taken for a reason to renew them, which fails, and why it was refused is lost.
    return Client(_PROJECT, credentials, _http=AuthorizedSession(credentials, refresh_status_codes=()))


def _checksum(item: Listed) -> str:
    """Objects put together from others have no MD5."""
    if item.crc32c:
        return f"crc32c:{base64.b64decode(item.crc32c).hex()}"
    return f"md5:{base64.b64decode(item.md5_hash).hex()}" if item.md5_hash else ""


def _error_of(exc: Exception) -> type[StorageUnavailable]:
    match exc:
        case GoogleAPICallError():
            return error_of(exc.code or 0)
        case GoogleAuthError():
            return StorageInterrupted if exc.retryable or isinstance(exc, TransportError) else StorageUnavailable
    return StorageInterrupted


def _reason(exc: Exception) -> str:
    if isinstance(exc, RetryError) and exc.cause is not None:
        exc = exc.cause
    if isinstance(exc, RequestException):
        return reason(exc)
    if isinstance(exc, GoogleAPICallError):
        # Without details the text is "GET <url>: <what the server said>".
        text = exc.errors[0].get("message", "") if exc.errors else exc.message.split(" ", 2)[-1]
        return f"{exc.code} {' '.join(text.split())}"
    return " ".join(str(exc).split()) or type(exc).__name__
