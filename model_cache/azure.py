"""Models in Azure Blob Storage, through azure-storage-blob.

The account and who asks are in the variables that OVMS, Azure's command line and its SDKs have for them, see
`container_of`; a managed or workload identity comes from azure-identity, if it is installed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

from azure.core.credentials import TokenCredential
from azure.core.exceptions import (
    AzureError,
    DeserializationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.pipeline import Pipeline
from azure.core.pipeline.policies import BearerTokenCredentialPolicy
from azure.core.pipeline.transport import HttpRequest, RequestsTransport
from azure.storage.blob import BlobProperties, ContainerClient, LinearRetry
from requests import Session
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException

from model_cache.errors import BlobChanged, StorageInterrupted, StorageUnavailable
from model_cache.http_range import error_of, pieces, reason
from model_cache.storage import MAX_BLOBS, Blob, StorageOptions

_TOKEN_SCOPE = "https://storage.azure.com/.default"
_CONNECTIONS = 32
_REASON = 500
_KEYS = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY")
_WANTED = "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT or AZURE_STORAGE_ACCOUNT_URL"

# It tells of every request.
logging.getLogger("azure").setLevel(logging.WARNING)
# It shows whole URLs, and with them the signature that opens the container to whoever has it.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def open(url: str, options: StorageOptions) -> AzureStorage:
    location, _, query = url.partition("?")
    if query:
        raise ValueError(f"{location!r} has a query, which Azure's names have not; is it AZURE_STORAGE_SAS_TOKEN?")
    container, _, prefix = url.partition("://")[2].partition("/")
    if not container:
        raise ValueError(f"{url!r} names no container; want az://container/prefix")
    return AzureStorage(container, prefix.strip("/"), options)


class AzureStorage:
    in_place: Path | None = None

    def __init__(
        self, container: str, prefix: str, options: StorageOptions, *, credential: TokenCredential | None = None
    ) -> None:
        """``credential`` takes the place of an identity that azure-identity finds."""
        self._name = container
        self._url = f"az://{container}"
        self._prefix = f"{prefix}/" if prefix else ""
        self._credential = credential
        self._connect(options)

    def reconnect(self, options: StorageOptions) -> None:
        before = self._container
        self._connect(options)
        before.close()

    def _connect(self, options: StorageOptions) -> None:
        # Two tries of a listing, in the time of one read.
        self._list_timeout = options.read_timeout / 2
        self._proxies = _proxies(options.environ)
        session = Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))
        transport = RequestsTransport(
            session=session, connection_timeout=options.connect_timeout, read_timeout=options.read_timeout
        )
        settings: dict[str, Any] = {
            "transport": transport,
            "proxies": self._proxies,
            "retry_policy": LinearRetry(backoff=1, random_jitter_range=1, retry_total=3, retry_read=1),
        }
        try:
            self._container = container_of(self._name, options, self._credential, settings)
        except ValueError as exc:
            # From none: the text has the URL that makes no sense, and with it a SAS.
            raise StorageUnavailable(f"cannot set up {self}: {_reason(exc)}") from None
        # The SDK's own reader keeps what it has asked for in memory before it gives the first byte.
        self._reader = Pipeline(transport, policies=_authentication(self._container))

    def __str__(self) -> str:
        return f"{self._url}/{self._prefix}".rstrip("/")

    def list(self, prefix: str = "") -> Iterator[Blob]:
        count = 0
        try:
            listed = self._container.list_blobs(
                self._prefix + prefix, include=["metadata"], read_timeout=self._list_timeout
            )
            for item in listed:
                count += 1
                if count > MAX_BLOBS:
                    raise StorageUnavailable(f"more than {MAX_BLOBS} blobs below {self}; is this a model?")
                if not _is_directory(item):
                    yield self._blob(item)
        except AzureError as exc:
            raise StorageUnavailable(f"cannot list {self}: {_reason(exc)}") from _cause(exc)
        # Whatever else answers 200, such as a captive portal.
        except (DeserializationError, AttributeError, KeyError, TypeError) as exc:
            raise StorageUnavailable(f"cannot list {self}: the answer is no listing; is this Azure's?") from exc

    def fetch(self, blob: Blob, start: int, stop: int) -> Generator[bytes | memoryview, None, None]:
        failure = f"cannot fetch {self._url}/{self._prefix}{blob.key}"
        request = HttpRequest(
            "GET",
            self._container.get_blob_client(self._prefix + blob.key).url,
            headers={
                "x-ms-version": self._container.api_version,
                "x-ms-date": formatdate(usegmt=True),
                # Not Range, which the SDK does not sign.
                "x-ms-range": f"bytes={start}-{stop - 1}",
                "If-Match": f'"{blob.etag}"',
                "Accept-Encoding": "identity",
            },
        )
        try:
            answer = self._reader.run(request, stream=True, proxies=self._proxies).http_response.internal_response
        except AzureError as exc:
            raise _error_of(exc)(f"{failure}: {_reason(exc)}") from _cause(exc)
        if answer.status_code not in (200, 206):
            answer.close()
            code = answer.headers.get("x-ms-error-code") or answer.reason
            raise error_of(answer.status_code)(f"{failure}: {answer.status_code} {code}")
        yield from pieces(answer.raw, blob, start, stop, failure)

    def put(self, key: str, data: bytes) -> None:
        failure = f"cannot write {self._url}/{self._prefix}{key}"
        try:
            blob = self._container.get_blob_client(self._prefix + key)
            blob.upload_blob(data, overwrite=True, retry_total=0)
        except AzureError as exc:
            error = _error_of(exc)
            raise (StorageUnavailable if error is BlobChanged else error)(f"{failure}: {_reason(exc)}") from _cause(exc)

    def _blob(self, item: BlobProperties) -> Blob:
        md5 = item.content_settings.content_md5
        return Blob(
            item.name[len(self._prefix) :],
            item.size,
            item.etag.strip('"'),
            f"md5:{bytes(md5).hex()}" if md5 else "",
            item.last_modified.timestamp(),
        )


def container_of(
    name: str, options: StorageOptions, credential: TokenCredential | None, settings: Mapping[str, Any]
) -> ContainerClient:
    """Return the container, of the account and with the rights that the environment names.

    The first of these that is set counts: a connection string; else the account's URL or name, with a key, a SAS, or
    an identity.
    """
    environ = options.environ
    if text := environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        container = ContainerClient.from_connection_string(text, name, **settings)
        if not options.is_anonymous:
            return container
        account = container.url.partition("?")[0].rpartition("/")[0]
        return ContainerClient(account, name, **settings)
    account, _, sas = environ.get("AZURE_STORAGE_ACCOUNT_URL", "").partition("?")
    account_name = environ.get("AZURE_STORAGE_ACCOUNT")
    if not account and account_name:
        account = f"https://{account_name}.blob.core.windows.net"
    if not account:
        raise StorageUnavailable(f"az://{name} is in no known account: {_WANTED}")
    if options.is_anonymous:
        return ContainerClient(account, name, **settings)
    if key := next(filter(None, map(environ.get, _KEYS)), None):
        named = {"account_name": account_name, "account_key": key} if account_name else key
        return ContainerClient(account, name, named, **settings)
    if sas := environ.get("AZURE_STORAGE_SAS_TOKEN", sas).lstrip("?"):
        return ContainerClient(f"{account}?{sas}", name, **settings)
    return ContainerClient(account, name, credential or _identity(), **settings)


def _identity() -> TokenCredential | None:
    """Return the identity of this machine, pod or user, whichever is found when it is asked for; None if nobody can."""
    try:
        from azure.identity import DefaultAzureCredential
    except ModuleNotFoundError:
        return None
    return DefaultAzureCredential()


def _authentication(container: ContainerClient) -> list[Any]:
    # A SAS is no credential to the SDK, but part of the URLs. A key has been made what signs requests.
    if isinstance(container.credential, TokenCredential):
        return [BearerTokenCredentialPolicy(container.credential, _TOKEN_SCOPE)]
    return [container.credential] if container.credential is not None else []


def _proxies(environ: Mapping[str, str]) -> dict[str, str] | None:
    """Return the proxies that take the place of those which the SDK finds."""
    proxy = environ.get("http_proxy") or environ.get("HTTP_PROXY")
    return {"https": proxy} if proxy and "AZURE_STORAGE_USE_HTTP_PROXY" in environ else None


def _is_directory(item: BlobProperties) -> bool:
    """Whether it is an empty blob that stands for a directory: of a console, or of a hierarchical account."""
    return item.name.endswith("/") or (item.metadata or {}).get("hdi_isfolder") == "true"


def _error_of(exc: AzureError) -> type[StorageUnavailable]:
    if isinstance(exc, HttpResponseError):
        return error_of(exc.status_code or 0)
    is_network = isinstance(exc, ServiceRequestError | ServiceResponseError)
    return StorageInterrupted if is_network else StorageUnavailable


def _reason(exc: Exception) -> str:
    if isinstance(exc, HttpResponseError) and exc.status_code:
        code = getattr(exc, "error_code", None) or exc.reason
        return f"{exc.status_code} {getattr(code, 'value', code)}"
    if isinstance(network := getattr(exc, "inner_exception", None), RequestException):
        return reason(network)
    # On one line, not longer than a line, and without the queries of URLs, which may hold a SAS.
    return re.sub(r"\?\S*", "", " ".join(str(exc).split()))[:_REASON] or type(exc).__name__


def _cause(exc: AzureError) -> BaseException:
    """Return what is at the bottom of it. What lies between has the URL, and that a SAS, in its text."""
    cause: BaseException = exc
    while inner := getattr(cause, "inner_exception", None) or cause.__cause__ or cause.__context__:
        cause = inner
    return cause
