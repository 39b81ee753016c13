"""Models in S3 and in what speaks its protocol (SeaweedFS, MinIO, Ceph, R2), through boto3.

Credentials, region and proxies are the SDK's own chain: environment, profile, container or instance role. Where it ends
with none, requests are not signed, as OVMS's were not.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import botocore.exceptions
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from model_cache.errors import BlobChanged, StorageInterrupted, StorageUnavailable
from model_cache.http_range import pieces
from model_cache.s3_location import S3Location, checksum_of, is_etag_md5, locate
from model_cache.storage import MAX_BLOBS, Blob, StorageOptions

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import GetObjectRequestTypeDef, ListObjectsV2OutputTypeDef, ObjectTypeDef

    Answer = TypeVar("Answer")

PAUSES = (0.1, 0.2, 0.4)
"""Seconds between tries of a listing's page."""
_CONNECTIONS = 32
# A redirect to nowhere makes the SDK look for the bucket's region until Python's stack ends.
# And it takes it for granted that credentials have a token, where those that do not expire have none.
_ERRORS = (BotoCoreError, ClientError, ResponseParserError, RecursionError, KeyError)
_NETWORK = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    ResponseParserError,
)
_GONE = ("PreconditionFailed", "NoSuchKey", "InvalidRange", "404", "412", "416")
_BUSY = ("SlowDown", "RequestTimeout", "RequestTimeoutException", "Throttling", "ThrottlingException", "408", "429")
_REFUSED = ("AccessDenied", "401", "403")

# Sessions are not made for several threads: held while one makes a client.
_sessions = threading.Lock()


def open(url: str, options: StorageOptions) -> S3Storage:
    return S3Storage(locate(url, options.s3_endpoint), options)


class S3Storage:
    in_place: Path | None = None

    def __init__(self, location: S3Location, options: StorageOptions) -> None:
        self._name, self._bucket, self._prefix, self._endpoint = location
        self._options = options
        # Held while the client is made, which may ask the metadata service who we are: so it is made once, and not when
        # the storage is opened.
        self._lock = threading.Lock()
        self._made: S3Client | None = None
        self._found_nobody = False

    def __str__(self) -> str:
        return f"{self._name}/{self._prefix}".rstrip("/")

    def reconnect(self, options: StorageOptions) -> None:
        with self._lock:
            client, self._made, self._options = self._made, None, options
        with _sessions:
            # It has found credentials, and keeps them.
            boto3.DEFAULT_SESSION = None
        if client is not None:
            client.close()

    def list(self, prefix: str = "") -> Iterator[Blob]:
        count = 0
        for page in self._pages(self._prefix + prefix):
            for item in page.get("Contents", []):
                count += 1
                if count > MAX_BLOBS:
                    raise StorageUnavailable(f"more than {MAX_BLOBS} objects below {self}; is this a model?")
                # Consoles make "folders" as empty objects whose key ends in a slash.
                if not item["Key"].endswith("/"):
                    yield self._blob(item)

    def fetch(self, blob: Blob, start: int, stop: int) -> Generator[bytes, None, None]:
        failure = f"cannot fetch {self._name}/{self._prefix}{blob.key}"
        # If-Match: bytes of another upload are an error, never part of this version.
        request: GetObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._prefix + blob.key,
            "IfMatch": blob.etag,
        }
        if (start, stop) != (0, blob.size):
            request["Range"] = f"bytes={start}-{stop - 1}"
        answer = self._ask(failure, lambda client: client.get_object(**request))
        body: Any = answer["Body"]
        with closing(body):
            etag = answer.get("ETag") or blob.etag
            if etag != blob.etag:
                raise BlobChanged(f"{failure}: its ETag is {etag}, was {blob.etag}")
            # The body's own methods wait for all they are asked for, which may trickle in for days.
            yield from pieces(body._raw_stream, blob, start, stop, failure)

    def put(self, key: str, data: bytes) -> None:
        self._ask(
            f"cannot write {self._name}/{self._prefix}{key}",
            lambda client: client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data),
            gone=StorageUnavailable,
        )

    def vouches_for(self, blob: Blob) -> bool:
        """Whether the blob's checksum is one: the ETag, from which it is, is another thing if a key of KMS or of the
        client encrypts the object.

        Raises:
            StorageUnavailable: as `fetch`.
        """
        answer = self._ask(
            f"cannot look at {self._name}/{self._prefix}{blob.key}",
            lambda client: client.head_object(Bucket=self._bucket, Key=self._prefix + blob.key, IfMatch=blob.etag),
        )
        return is_etag_md5(answer.get("ServerSideEncryption"), answer.get("SSECustomerAlgorithm"))

    def _pages(self, prefix: str) -> Iterator[ListObjectsV2OutputTypeDef]:
        failure = f"cannot list {self}"
        token: dict[str, Any] = {}
        while True:
            page = self._list(failure, {"Prefix": prefix, **token})
            # Whatever else answers 200, such as a captive portal, has not said that there is nothing.
            if "IsTruncated" not in page:
                raise StorageUnavailable(f"{failure}: the answer is no listing; is this an S3 server?")
            yield page
            if not page["IsTruncated"]:
                return
            following = page.get("NextContinuationToken")
            if following in (None, token.get("ContinuationToken")):
                raise StorageUnavailable(f"{failure}: the answer says that there is more, and not where")
            token = {"ContinuationToken": following}

    def _list(self, failure: str, request: dict[str, Any]) -> ListObjectsV2OutputTypeDef:
        for pause in (*PAUSES, None):
            try:
                return self._ask(
                    failure,
                    lambda client: client.list_objects_v2(Bucket=self._bucket, **request),
                    gone=StorageUnavailable,
                )
            except StorageInterrupted:
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError

    def _ask(
        self,
        failure: str,
        request: Callable[[S3Client], Answer],
        gone: type[StorageUnavailable] = BlobChanged,
    ) -> Answer:
        client, is_nobody = self._client()
        try:
            return request(client)
        except _ERRORS as exc:
            reason = _reason(exc)
            if is_nobody and _code(exc) in _REFUSED:
                reason += " (asked without credentials, as none are found)"
                # There may be some later: a metadata service that was too slow is not asked again by a client.
                with self._lock:
                    self._made = None
            error = gone if _code(exc) in _GONE else _error_of(exc)
            raise error(f"{failure}: {reason}") from exc

    def _client(self) -> tuple[S3Client, bool]:
        """Return the client, and whether it asks as nobody because no credentials are found."""
        with self._lock:
            if self._made is None:
                try:
                    self._made, self._found_nobody = _connect(self._endpoint, self._options)
                except (BotoCoreError, ValueError, KeyError) as exc:
                    raise StorageUnavailable(f"cannot set up S3: {_reason(exc)}") from exc
            return self._made, self._found_nobody

    def _blob(self, item: ObjectTypeDef) -> Blob:
        etag = item["ETag"]
        return Blob(
            item["Key"][len(self._prefix) :],
            item["Size"],
            etag,
            checksum_of(etag, self._bucket),
            item["LastModified"].timestamp(),
        )


def _connect(endpoint: str, options: StorageOptions) -> tuple[S3Client, bool]:
    # Path style for servers of one's own: bucket.host needs a wildcard DNS record that they seldom have.
    styles: Any = {"addressing_style": "path" if endpoint else "auto"}
    config = Config(
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        # Whoever fetches tries again, and so does list().
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=_CONNECTIONS,
        s3=styles,
        # The SDK would compute it in Python.
        response_checksum_validation="when_required",
    )
    with _sessions:
        if boto3.DEFAULT_SESSION is None:
            boto3.setup_default_session()
        session = boto3.DEFAULT_SESSION
        assert session is not None
        found_nobody = not options.is_anonymous and session.get_credentials() is None
        if found_nobody or options.is_anonymous:
            config = config.merge(Config(signature_version=UNSIGNED))
        return session.client("s3", endpoint_url=endpoint or None, config=config), found_nobody


def _error_of(exc: Exception) -> type[StorageUnavailable]:
    if isinstance(exc, ClientError):
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return StorageInterrupted if status >= 500 or _code(exc) in _BUSY else StorageUnavailable
    return StorageInterrupted if isinstance(exc, _NETWORK) else StorageUnavailable


def _code(exc: Exception) -> str:
    return str(exc.response.get("Error", {}).get("Code", "")) if isinstance(exc, ClientError) else ""


def _reason(exc: Exception) -> str:
    if isinstance(exc, KeyError):
        return f"the SDK misses {exc} in what it was answered, such as credentials; try storage_client obstore"
    if not isinstance(exc, ClientError):
        # Some of the SDK's messages have several lines, or an endpoint's or proxy's URL with a password in it.
        return re.sub(r"(\w+://)[^\s/]+@", r"\1", " ".join(str(exc).split())) or type(exc).__name__
    error = exc.response.get("Error", {})
    return f"{error.get('Code', 'unknown error')}: {error.get('Message', '')}".rstrip(": ")
