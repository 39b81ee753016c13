"""Models in S3 and in what speaks its protocol (SeaweedFS, MinIO, Ceph, R2), through boto3.

Credentials, region and proxies are the SDK's own chain: environment, profile, container or instance role.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from model_cache.errors import BlobChanged, StorageUnavailable
from model_cache.storage import MAX_BLOBS, Blob

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 20.0
"""Seconds without a byte before a read is given up."""
FETCH_TIMEOUT = 600.0
"""Seconds that one object may take as a whole; a server that trickles is not waited for for ever."""
_PAUSES = (0.1, 0.2, 0.4)
ATTEMPTS = len(_PAUSES) + 1
"""Of a request by the SDK, and of an object whose answer breaks off by us."""
_CHUNK = 1 << 20
# A redirect to nowhere makes the SDK look for the bucket's region until Python's stack ends.
_ERRORS = (BotoCoreError, ClientError, RecursionError)


def open(url: str, endpoint: str | None) -> S3Storage:
    parts = urlsplit(url)
    if not parts.netloc:
        raise ValueError(f"{url!r} names no bucket; want s3://bucket/prefix")
    return S3Storage(parts.netloc, parts.path.strip("/"), endpoint)


_GONE = ("PreconditionFailed", "NoSuchKey", "404", "412")


class S3Storage:
    in_place: Path | None = None

    def __init__(
        self,
        bucket: str,
        prefix: str,
        endpoint: str | None,
        *,
        read_timeout: float = READ_TIMEOUT,
        fetch_timeout: float = FETCH_TIMEOUT,
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _client(endpoint, read_timeout)
        self._fetch_timeout = fetch_timeout

    def __str__(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def list(self, prefix: str = "") -> Iterator[Blob]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        count = 0
        try:
            for page in pages:
                # Whatever else answers 200, such as a captive portal, has not said that there is nothing.
                if "IsTruncated" not in page:
                    raise StorageUnavailable(f"cannot list {self}: the answer is no listing; is this an S3 server?")
                for item in page.get("Contents", []):
                    count += 1
                    if count > MAX_BLOBS:
                        raise StorageUnavailable(f"more than {MAX_BLOBS} objects below {self}; is this a model?")
                    # Consoles make "folders" as empty objects whose key ends in a slash.
                    if not item["Key"].endswith("/"):
                        yield Blob(item["Key"][len(self._prefix) :], item["Size"], item["ETag"])
        except _ERRORS as exc:
            raise StorageUnavailable(f"cannot list {self}: {_reason(exc)}") from exc

    def fetch(self, blob: Blob, path: Path) -> None:
        deadline = time.monotonic() + self._fetch_timeout
        for pause in (*_PAUSES, None):
            try:
                return self._fetch_once(blob, path, deadline)
            except _Broken as exc:
                if pause is None:
                    raise StorageUnavailable(f"cannot fetch {self._url(blob)}: {exc}") from exc
                time.sleep(pause)

    def _fetch_once(self, blob: Blob, path: Path, deadline: float) -> None:
        try:
            # If-Match: bytes of another upload are an error, never part of this version.
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + blob.key, IfMatch=blob.etag)
        except _ERRORS as exc:
            # The SDK has tried again what that may help; what is left is final.
            error = BlobChanged if _code(exc) in _GONE else StorageUnavailable
            raise error(f"cannot fetch {self._url(blob)}: {_reason(exc)}") from exc
        # A server need not tell; but if it does, and it is not so, what comes is not the object that was listed.
        length = answer.get("ContentLength", blob.size)
        if length != blob.size:
            answer["Body"].close()
            raise _Broken(f"the answer has {length} bytes, want {blob.size}")
        received = 0
        with closing(answer["Body"]) as body, path.open("wb") as file:
            for chunk in _chunks(body):
                received += len(chunk)
                if received > blob.size:
                    break
                if time.monotonic() > deadline:
                    raise StorageUnavailable(
                        f"cannot fetch {self._url(blob)}: "
                        f"{received} of {blob.size} bytes after {self._fetch_timeout:.0f} s"
                    )
                file.write(chunk)
        if received != blob.size:
            raise _Broken(f"got {received} bytes, want {blob.size}")

    def _url(self, blob: Blob) -> str:
        return f"s3://{self._bucket}/{self._prefix}{blob.key}"


class _Broken(Exception):
    """An answer that had begun well broke off, or is not the object that was listed. The SDK does not retry those."""


def _chunks(body: Any) -> Iterator[bytes]:
    """Yield what comes as it comes. The body's own methods wait for a whole chunk, which may trickle in for days."""
    try:
        while chunk := body._raw_stream.read1(_CHUNK):
            yield chunk
    except HTTPError as exc:
        raise _Broken(_reason(exc)) from exc


def _client(endpoint: str | None, read_timeout: float) -> S3Client:
    # Path style for servers of one's own: bucket.host needs a wildcard DNS record that they seldom have.
    styles: Any = {"addressing_style": "path" if endpoint else "auto"}
    config = Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=32,
        s3=styles,
    )
    try:
        client = boto3.client("s3", endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError) as exc:
        raise StorageUnavailable(f"cannot set up S3: {_reason(exc)}") from exc
    return client


def _code(exc: Exception) -> str:
    return str(exc.response.get("Error", {}).get("Code", "")) if isinstance(exc, ClientError) else ""


def _reason(exc: Exception) -> str:
    if not isinstance(exc, ClientError):
        # Some of the SDK's messages have several lines.
        return " ".join(str(exc).split()) or type(exc).__name__
    error = exc.response.get("Error", {})
    return f"{error.get('Code', 'unknown error')}: {error.get('Message', '')}".rstrip(": ")
