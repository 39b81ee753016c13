"""Azure Blob Storage where it is unlike other stores: which account, who asks, and what must never be said aloud."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from azure.core.credentials import AccessToken
from azure.storage.blob import BlobBlock

from model_cache.azure import AzureStorage
from model_cache.errors import StorageInterrupted, StorageUnavailable
from model_cache.storage import Blob, Storage, StorageOptions, open_storage
from tests.servers.azurite import Azurite, azurite
from tests.servers.fault_proxy import ACCESS_DENIED, Answer, Cut, FaultProxy, Rule, Stall, on
from tests.servers.processes import free_port

pytestmark = pytest.mark.node

ACCOUNT_URL = "https://account.blob.core.windows.net"


def open_as(environ: dict[str, str], url: str = "az://models/digits", *, is_anonymous: bool = False) -> Storage:
    return open_storage(url, StorageOptions(client="sdk", environ=environ, is_anonymous=is_anonymous))


def first_bytes(storage: Storage) -> bytes:
    """Read of the digits model what shows that it can be listed and read."""
    [blob] = storage.list("1/model.xml")
    return b"".join(storage.fetch(blob, 0, 5))


@pytest.fixture
def proxy(azure: Azurite) -> Iterator[FaultProxy]:
    with FaultProxy(azure.endpoint) as proxy:
        yield proxy


@pytest.mark.parametrize("url", ["az:", "az://", "az:///digits", "azure://", "azure:digits"])
def test_a_url_needs_a_container(url: str) -> None:
    with pytest.raises(ValueError, match=r"names no container; want az://container/prefix"):
        open_as({"AZURE_STORAGE_ACCOUNT": "account"}, url)


def test_a_url_with_a_query_is_refused_and_not_repeated() -> None:
    """It is a SAS, as the portal shows it."""
    with pytest.raises(ValueError, match=r"'az://models/digits' has a query.*AZURE_STORAGE_SAS_TOKEN") as failure:
        open_as({"AZURE_STORAGE_ACCOUNT": "account"}, "az://models/digits?sv=2026&sig=secret")
    assert "secret" not in str(failure.value)


def test_both_schemes_are_one(azure: Azurite) -> None:
    assert first_bytes(open_as(azure.env(), "azure://models/digits")) == b"<?xml"
    assert str(open_as(azure.env(), "azure://models/digits/")) == "az://models/digits"


def test_any_name_can_be_a_prefix() -> None:
    assert str(open_as({"AZURE_STORAGE_ACCOUNT": "a"}, "az://models/a b/c#d/100%25/")) == "az://models/a b/c#d/100%25"


def accounts(azure: Azurite) -> dict[str, dict[str, str]]:
    """The ways to say who asks. OVMS knew the first."""
    named = {"AZURE_STORAGE_ACCOUNT_URL": azure.account_url(), "AZURE_STORAGE_ACCOUNT": azure.account}
    sas = azure.sas("models")
    return {
        "connection string": azure.env(),
        "connection string with a SAS": {
            "AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint={azure.account_url()};SharedAccessSignature={sas}"
        },
        "key": named | {"AZURE_STORAGE_KEY": azure.key},
        "access key": named | {"AZURE_STORAGE_ACCESS_KEY": azure.key},
        "account key": named | {"AZURE_STORAGE_ACCOUNT_KEY": azure.key},
        "key, and the account in the URL": {
            "AZURE_STORAGE_ACCOUNT_URL": azure.account_url(),
            "AZURE_STORAGE_KEY": azure.key,
        },
        "SAS": named | {"AZURE_STORAGE_SAS_TOKEN": sas},
        "SAS with a question mark": named | {"AZURE_STORAGE_SAS_TOKEN": f"?{sas}"},
        "SAS in the URL": {"AZURE_STORAGE_ACCOUNT_URL": f"{azure.account_url()}?{sas}"},
        "connection string before all else": azure.env()
        | {"AZURE_STORAGE_ACCOUNT_URL": ACCOUNT_URL, "AZURE_STORAGE_KEY": "bm90IHRoaXM="},
    }


WAYS = list(accounts(Azurite("http://127.0.0.1:1")))


@pytest.mark.parametrize("way", WAYS)
def test_the_environment_says_who_asks(azure: Azurite, way: str) -> None:
    assert first_bytes(open_as(accounts(azure)[way])) == b"<?xml"


def test_an_account_is_needed() -> None:
    wanted = "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT or AZURE_STORAGE_ACCOUNT_URL"
    with pytest.raises(StorageUnavailable, match=f"^az://models is in no known account: {wanted}$"):
        open_as({"AZURE_STORAGE_KEY": "bm90IHRoaXM="})


@pytest.mark.parametrize(
    "environ",
    [
        {"AZURE_STORAGE_CONNECTION_STRING": "secret"},
        {"AZURE_STORAGE_CONNECTION_STRING": "AccountKey=secret"},
        {"AZURE_STORAGE_ACCOUNT_URL": "https://?sig=secret"},
        {"AZURE_STORAGE_ACCOUNT_URL": "https://example.com", "AZURE_STORAGE_KEY": "secret"},
    ],
)
def test_an_account_that_makes_no_sense_is_told_without_its_secrets(environ: dict[str, str]) -> None:
    with pytest.raises(StorageUnavailable, match=r"az://models") as failure:
        open_as(environ)
    assert "secret" not in "".join(traceback.format_exception(failure.value)).partition("az://models")[2]


def test_a_key_that_is_none_is_told() -> None:
    storage = open_as({"AZURE_STORAGE_ACCOUNT": "account", "AZURE_STORAGE_KEY": "not base64"})
    with pytest.raises(StorageUnavailable, match=r"^cannot list az://models/digits: ") as failure:
        list(storage.list())
    assert "not base64" not in str(failure.value)


@pytest.mark.parametrize("way", WAYS)
def test_anonymous_is_anonymous_even_with_credentials(azure: Azurite, proxy: FaultProxy, way: str) -> None:
    environ = {
        name: value.replace(azure.endpoint, proxy.url).replace(ACCOUNT_URL, f"{proxy.url}/{azure.account}")
        for name, value in accounts(azure)[way].items()
    }
    with pytest.raises(StorageUnavailable, match=r"cannot list az://models/digits: 40\d "):
        list(open_as(environ, is_anonymous=True).list())
    assert proxy.requests
    for request in proxy.requests:
        assert "authorization" not in request.headers
        assert "sig=" not in request.path


def test_a_public_container_needs_nobody(azure: Azurite) -> None:
    azure.client.create_container("public", public_access="container")
    azure.put("public", "1/model.xml", b"<?xml")
    environ = {"AZURE_STORAGE_ACCOUNT_URL": azure.account_url()}
    assert first_bytes(open_as(environ, "az://public", is_anonymous=True)) == b"<?xml"


@pytest.mark.parametrize(
    "sas", [{"hours": -1.0}, {"permissions": "w"}, {"container": "another"}], ids=["expired", "may write", "another's"]
)
def test_a_sas_that_gives_no_right_is_told(azure: Azurite, sas: dict[str, object]) -> None:
    token = azure.sas(**{"container": "models", **sas})  # type: ignore[arg-type]  # one of three
    environ = {"AZURE_STORAGE_ACCOUNT_URL": azure.account_url(), "AZURE_STORAGE_SAS_TOKEN": token}
    with pytest.raises(StorageUnavailable, match=r"^cannot list az://models/digits: 403 \w+$"):
        list(open_as(environ).list())
    [blob] = open_as(azure.env()).list("1/model.xml")
    with pytest.raises(StorageUnavailable, match=r"^cannot fetch az://models/digits/1/model.xml: 403 \w+$") as failure:
        list(open_as(environ).fetch(blob, 0, 5))
    assert not isinstance(failure.value, StorageInterrupted)


TROUBLE: dict[str, tuple[Rule, ...]] = {
    "none": (),
    "refused": (on(ACCESS_DENIED),),
    "busy": (on(Answer(503)),),
    "cut": (on(Cut(after=3)),),
    "gone": (),
}


@pytest.mark.parametrize("what", TROUBLE)
@pytest.mark.parametrize("way", ["SAS", "connection string", "key"])
def test_secrets_are_said_nowhere(azure: Azurite, caplog: pytest.LogCaptureFixture, way: str, what: str) -> None:
    caplog.set_level(logging.DEBUG)
    with FaultProxy(azure.endpoint) as proxy:
        environ = {name: text.replace(azure.endpoint, proxy.url) for name, text in accounts(azure)[way].items()}
        storage = open_as(environ)
        [blob] = storage.list("1/model.xml")
        proxy.use(*TROUBLE[what])
        said = [str(storage), repr(storage)]
        if what != "gone":
            said += told(storage, blob)
    if what == "gone":
        said += told(storage, blob)
    assert (len(said) > 2) == (what != "none")
    for secret in (azure.key, environ.get("AZURE_STORAGE_SAS_TOKEN", azure.key).rpartition("sig=")[2]):
        assert secret not in caplog.text
        assert secret not in "".join(said)


def told(storage: Storage, blob: Blob) -> list[str]:
    """Return everything that the errors of a listing and a read say, tracebacks included."""
    texts = []
    for attempt in (lambda: list(storage.list()), lambda: list(storage.fetch(blob, 0, blob.size))):
        try:
            attempt()
        except StorageUnavailable as exc:
            texts += [str(exc), repr(exc), *traceback.format_exception(exc)]
    return texts


def test_the_sdk_does_not_tell_of_each_request(azure: Azurite, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first_bytes(open_as(azure.env()))
    assert caplog.records == []


@pytest.fixture
def container(azure: Azurite) -> Iterator[str]:
    """An empty one."""
    azure.client.create_container("scratch")
    yield "scratch"
    azure.client.delete_container("scratch")


def test_directories_of_a_hierarchical_account_are_no_blobs(azure: Azurite, container: str) -> None:
    with azure.client.get_container_client(container) as client:
        client.upload_blob("m/1", b"", metadata={"hdi_isfolder": "true"})
        client.upload_blob("m/2/", b"")
        client.upload_blob("m/1/model.xml", b"<net/>", metadata={"trained": "yesterday"})
    assert [blob.key for blob in open_as(azure.env(), f"az://{container}/m").list()] == ["1/model.xml"]


def test_a_blob_put_together_from_blocks_has_no_checksum(azure: Azurite, container: str) -> None:
    with azure.client.get_blob_client(container, "1/model.bin") as client:
        client.stage_block("MDAwMQ==", b"weig")
        client.stage_block("MDAwMg==", b"hts")
        client.commit_block_list([BlobBlock("MDAwMQ=="), BlobBlock("MDAwMg==")])
    storage = open_as(azure.env(), f"az://{container}")
    [blob] = storage.list()
    assert blob.checksum == ""
    assert b"".join(storage.fetch(blob, 1, 6)) == b"eight"


@pytest.mark.slow
def test_a_listing_longer_than_a_page_of_azures_is_whole(azure: Azurite, container: str) -> None:
    names = [f"{number:04}" for number in range(5001)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: azure.put(container, name, b""), names))
    assert sorted(blob.key for blob in open_as(azure.env(), f"az://{container}").list()) == names


@pytest.mark.slow
def test_both_tries_of_a_listing_take_no_longer_than_a_silence_may(azure: Azurite, proxy: FaultProxy) -> None:
    storage = open_storage(
        "az://models/digits", StorageOptions(client="sdk", environ=azure.env(proxy.url), read_timeout=6)
    )
    proxy.use(on(Stall()))
    began = time.monotonic()
    with pytest.raises(StorageUnavailable, match=r"^cannot list az://models/digits: .*timed out"):
        list(storage.list())
    # Two seconds are for the pause between them.
    assert time.monotonic() - began < 6 + 2 + 1


class Connects:
    """A proxy for https that notes where it is to connect to, and closes."""

    def __init__(self) -> None:
        self.wanted: list[str] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> Connects:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                self.wanted.append(lines.readline().decode().split(" HTTP")[0])


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_an_account_is_known_by_its_name_and_reached_through_ovmss_proxy(name: str) -> None:
    with Connects() as proxy:
        environ = {
            "AZURE_STORAGE_ACCOUNT": "account",
            "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=2",
            "AZURE_STORAGE_USE_HTTP_PROXY": "",
            name: proxy.url,
        }
        storage = open_as(environ)
        with pytest.raises(StorageUnavailable):
            list(storage.list())
        listings = len(proxy.wanted)
        assert listings
        with pytest.raises(StorageInterrupted):
            list(storage.fetch(Blob("1/model.xml", 5, "etag"), 0, 5))
        assert set(proxy.wanted) == {"CONNECT account.blob.core.windows.net:443"}
        assert len(proxy.wanted) == listings + 1


@pytest.fixture(scope="module")
def entra(tmp_path_factory: pytest.TempPathFactory, azure: Azurite) -> Iterator[Azurite]:
    """An Azurite that speaks https, for which alone there are tokens."""
    with azurite(tmp_path_factory.mktemp("entra"), is_https=True) as server:
        server.create_container("models")
        server.put("models", "digits/1/model.xml", b"<?xml")
        yield server


@pytest.fixture
def trusted(entra: Azurite, monkeypatch: pytest.MonkeyPatch) -> Azurite:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(entra.certificate))
    return entra


class Token:
    """A credential that has one token."""

    def __init__(self, token: str) -> None:
        self._token = AccessToken(token, int((datetime.now(UTC) + timedelta(hours=1)).timestamp()))

    def get_token(self, *scopes: str, **options: object) -> AccessToken:
        assert scopes == ("https://storage.azure.com/.default",)
        return self._token


def open_with(token: str, server: Azurite) -> Storage:
    options = StorageOptions(client="sdk", environ={"AZURE_STORAGE_ACCOUNT_URL": server.account_url()})
    return AzureStorage("models", "digits", options, credential=Token(token))


def test_a_token_opens_the_container(trusted: Azurite) -> None:
    assert first_bytes(open_with(trusted.token(), trusted)) == b"<?xml"


@pytest.mark.parametrize("wrong", [{"hours": -1.0}, {"audience": "https://graph.microsoft.com"}], ids=str)
def test_a_wrong_token_is_told(trusted: Azurite, wrong: dict[str, object]) -> None:
    token = trusted.token(**wrong)  # type: ignore[arg-type]  # one of two
    [blob] = open_with(trusted.token(), trusted).list()
    storage = open_with(token, trusted)
    for attempt in (lambda: list(storage.list()), lambda: list(storage.fetch(blob, 0, 5))):
        with pytest.raises(StorageUnavailable, match=r": 40\d \w+$") as failure:
            attempt()
        assert not isinstance(failure.value, StorageInterrupted)
        assert token not in "".join(traceback.format_exception(failure.value))


def test_a_server_that_is_not_trusted_gets_no_token(entra: Azurite) -> None:
    with pytest.raises(StorageUnavailable, match=r"certificate verify failed"):
        list(open_with(entra.token(), entra).list())


def test_a_managed_identity_opens_the_container(
    trusted: Azurite, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Container Apps, Functions and App Service, through azure-identity."""
    token = {
        "access_token": trusted.token(),
        "expires_on": str(int(time.time()) + 3600),
        "resource": "https://storage.azure.com",
        "token_type": "Bearer",
    }
    proxy.use(on(Answer(200, json.dumps(token).encode(), {"Content-Type": "application/json"}), "GET", "/token"))
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{proxy.url}/token")
    monkeypatch.setenv("IDENTITY_HEADER", "let me in")
    storage = open_as({"AZURE_STORAGE_ACCOUNT_URL": trusted.account_url()})
    assert first_bytes(storage) == b"<?xml"
    assert [request.headers["x-identity-header"] for request in proxy.requests] == ["let me in"]


def test_no_identity_is_told_in_a_line(trusted: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    storage = open_as({"AZURE_STORAGE_ACCOUNT_URL": trusted.account_url()})
    with pytest.raises(
        StorageUnavailable, match=r"^cannot list az://models/digits: .*EnvironmentCredential"
    ) as failure:
        list(storage.list())
    assert "\n" not in str(failure.value)
    with pytest.raises(StorageUnavailable, match=r"^cannot fetch az://models/digits/key: .*Environment") as failure:
        next(storage.fetch(Blob("key", 1, "etag"), 0, 1))
    assert not isinstance(failure.value, StorageInterrupted)


def test_without_azure_identity_requests_are_anonymous(
    azure: Azurite, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    storage = open_as({"AZURE_STORAGE_ACCOUNT_URL": azure.account_url(proxy.url)})
    with pytest.raises(StorageUnavailable, match=r"cannot list az://models/digits: 40\d "):
        list(storage.list())
    assert ["authorization" in request.headers for request in proxy.requests] == [False]


def test_an_identity_is_shown_to_https_alone() -> None:
    with pytest.raises(
        StorageUnavailable, match=r"cannot set up az://models/digits: Token credential is only .* HTTPS"
    ):
        open_as({"AZURE_STORAGE_ACCOUNT_URL": f"http://127.0.0.1:{free_port()}/account"})
