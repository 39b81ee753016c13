"""Which credentials obstore is trusted with, who it then is to the store, and that it tells nobody."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import logging
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from model_cache.container_credentials import ContainerCredentials
from model_cache.errors import StorageUnavailable
from model_cache.fast import FastStorage
from model_cache.storage import Blob, Storage, StorageOptions, open_storage
from tests.conftest import ROOT
from tests.model_cache.conftest import BecomeS3User
from tests.servers.azurite import Azurite
from tests.servers.certificate import write_certificate
from tests.servers.fake_gcs import FakeGcs
from tests.servers.fault_proxy import ACCESS_DENIED, Answer, FaultProxy, on
from tests.servers.processes import clean_environment
from tests.servers.seaweedfs import SeaweedFS

KEYS = {"AWS_ACCESS_KEY_ID": "AKIASOMEBODY", "AWS_SECRET_ACCESS_KEY": "s3cr3t"}
REGION = {"AWS_REGION": "eu-west-1"}
WEB = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/models"}
ECS = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/1"}
SNAPSTART = {
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9001/2021-11-15/credentials",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN": "t0ken",
}
EKS = {
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/var/run/token",
}
AZURE = {"AZURE_STORAGE_ACCOUNT": "somebody"}
A_KEY = base64.b64encode(b"a key").decode()
SAS = "sv=2025-01-05&sp=rl&sig=s3cr3t"
WORKLOAD = {"AZURE_FEDERATED_TOKEN_FILE": "/var/run/token", "AZURE_CLIENT_ID": "client", "AZURE_TENANT_ID": "tenant"}
MANAGED = {"IDENTITY_ENDPOINT": "http://127.0.0.1:42356/msi/token", "IDENTITY_HEADER": "s3cr3t"}

NATIVE: dict[str, tuple[str, dict[str, str], str]] = {
    "keys": ("s3://b/p", KEYS | REGION, "the keys in the environment"),
    "keys of a session, as on Lambda": (
        "s3://b/p",
        KEYS | REGION | {"AWS_SESSION_TOKEN": "t0ken", "AWS_LAMBDA_FUNCTION_NAME": "f"},
        "the keys in the environment",
    ),
    "another variable for the region": ("s3://b/p", KEYS | {"AWS_DEFAULT_REGION": "us-gov-west-1"}, "the keys in "),
    "web identity": ("s3://b/p", WEB | REGION, "web identity for arn:aws:iam::1:role/models"),
    "ECS": ("s3://b/p", ECS | REGION, "the container's credentials"),
    "SnapStart": ("s3://b/p", SNAPSTART | REGION, "the container's credentials"),
    "EKS Pod Identity": ("s3://b/p", EKS | REGION, "the container's credentials"),
    "keys before web identity": ("s3://b/p", KEYS | WEB | REGION, "the keys in the environment"),
    "web identity before ECS": ("s3://b/p", WEB | ECS | REGION, "web identity"),
    "a server in the URL needs no region": ("s3://minio:9000/b/p", KEYS, "the keys in the environment"),
    "an emulator": ("gs://b/p", {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:4443"}, "nobody"),
    "an emulator without a scheme": ("gs://b/p", {"STORAGE_EMULATOR_HOST": "127.0.0.1:4443"}, "nobody"),
    "Cloud Run": ("gs://b/p", {"K_SERVICE": "decant"}, "the service account that the metadata server tells"),
    "a Cloud Run job": ("gs://b/p", {"CLOUD_RUN_JOB": "pull"}, "the service account that the metadata server tells"),
    "a metadata server": ("gs://b/p", {"GCE_METADATA_HOST": "metadata.google.internal"}, "the service account that"),
    "an account's key": ("az://c/p", AZURE | {"AZURE_STORAGE_KEY": A_KEY}, "the account's key"),
    "another variable for the key": ("az://c/p", AZURE | {"AZURE_STORAGE_ACCESS_KEY": A_KEY}, "the account's key"),
    "the account in its URL": (
        "azure://c/p",
        {"AZURE_STORAGE_ACCOUNT_URL": "https://somebody.blob.core.windows.net/", "AZURE_STORAGE_ACCOUNT_KEY": A_KEY},
        "the account's key",
    ),
    "a SAS": ("az://c/p", AZURE | {"AZURE_STORAGE_SAS_TOKEN": f"?{SAS}"}, "a shared access signature"),
    "a SAS in the account's URL": (
        "az://c/p",
        {"AZURE_STORAGE_ACCOUNT_URL": f"https://somebody.blob.core.windows.net?{SAS}"},
        "a shared access signature",
    ),
    "a connection string": (
        "az://c/p",
        {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=somebody;AccountKey={A_KEY};EndpointSuffix=core.windows.net"},
        "the account's key",
    ),
    "a connection string with a SAS": (
        "az://c/p",
        {
            "AZURE_STORAGE_CONNECTION_STRING": (
                f"BlobEndpoint=https://somebody.blob.core.windows.net/;SharedAccessSignature={SAS}"
            )
        },
        "a shared access signature",
    ),
    "workload identity": ("az://c/p", AZURE | WORKLOAD, "workload identity"),
    "managed identity": ("az://c/p", AZURE | MANAGED, "managed identity"),
    "a chosen managed identity": ("az://c/p", AZURE | MANAGED | {"AZURE_CLIENT_ID": "client"}, "managed identity"),
}


def open_fast(url: str, environ: Mapping[str, str], **options: Any) -> FastStorage:
    storage = open_storage(url, StorageOptions(environ=environ, client="obstore", **options))
    assert isinstance(storage, FastStorage)
    return storage


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """A home without the developer's own configuration."""
    return {"HOME": str(tmp_path)}


@pytest.mark.parametrize("what", NATIVE)
def test_what_the_environment_names_outright_is_for_obstore(what: str, home: dict[str, str]) -> None:
    url, environ, identity = NATIVE[what]
    assert open_fast(url, home | environ).identity.startswith(identity)


FOREIGN: dict[str, tuple[str, dict[str, str], str]] = {
    "nothing": ("s3://b/p", REGION, "the environment names no credentials"),
    "a profile": ("s3://b/p", KEYS | REGION | {"AWS_PROFILE": "models"}, "AWS_PROFILE is set"),
    "half a key": ("s3://b/p", REGION | {"AWS_ACCESS_KEY_ID": "AKIA"}, "without the other"),
    "no region": ("s3://b/p", KEYS, "no region is set"),
    "China": ("s3://b/p", KEYS | {"AWS_REGION": "cn-north-1"}, "cn-north-1 is not one of aws.amazon.com's"),
    "FIPS": ("s3://b/p", KEYS | REGION | {"AWS_USE_FIPS_ENDPOINT": "true"}, "AWS_USE_FIPS_ENDPOINT is set"),
    "S3 Express": ("s3://b--use1-az4--x-s3/p", KEYS | REGION, "a directory bucket"),
    "a token sent to anybody": (
        "s3://b/p",
        REGION | {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com/credentials"},
        "no https URL",
    ),
    "certificates that are not there": (
        "s3://b/p",
        KEYS | REGION | {"AWS_CA_BUNDLE": "/nowhere"},
        "/nowhere is no file",
    ),
    "a prefix with nothing between slashes": ("s3://b/a//p", KEYS | REGION, "is no plain path"),
    "a prefix that climbs": ("s3://b/a/../p", KEYS | REGION, "is no plain path"),
    "no file": ("gs://b/p", {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere"}, "cannot be read: FileNotFoundError"),
    "gcloud's, or none": ("gs://b/p", {}, "the environment names no credentials"),
    "Knative, of whomever": (
        "gs://b/p",
        {"K_SERVICE": "decant", "KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        "no credentials",
    ),
    "no account": ("az://c/p", {}, "the environment names no account"),
    "an account and nothing else": ("az://c/p", AZURE, "the environment names no credentials"),
    "a client's secret": ("az://c/p", AZURE | WORKLOAD | {"AZURE_CLIENT_SECRET": "s"}, "AZURE_CLIENT_SECRET is set"),
    "half a workload identity": ("az://c/p", AZURE | {"AZURE_FEDERATED_TOKEN_FILE": "/f"}, "no credentials"),
    "a key of who knows whom": (
        "az://c/p",
        {"AZURE_STORAGE_ACCOUNT_URL": "https://models.example.com", "AZURE_STORAGE_KEY": A_KEY},
        "the key's account is not named",
    ),
    "a connection string without an account": (
        "az://c/p",
        {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"},
        "has no account",
    ),
    "a key that is none": ("az://c/p", AZURE | {"AZURE_STORAGE_KEY": "~~~"}, "obstore refuses"),
    "the SDKs' way to a proxy": (
        "az://c/p",
        AZURE | {"AZURE_STORAGE_KEY": A_KEY, "AZURE_STORAGE_USE_HTTP_PROXY": "1"},
        "AZURE_STORAGE_USE_HTTP_PROXY is set",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_takes_more_is_for_the_sdk(what: str, home: dict[str, str]) -> None:
    url, environ, reason = FOREIGN[what]
    with pytest.raises(StorageUnavailable, match=rf"^obstore cannot read this \w+:// as it is set up: .*{reason}"):
        open_fast(url, home | environ)


@pytest.mark.parametrize("name", ["config", "credentials"])
def test_a_file_of_profiles_is_for_the_sdk(name: str, home: dict[str, str], tmp_path: Path) -> None:
    assert open_fast("s3://b/p", home | KEYS | REGION).identity
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / name).write_text("[default]\n")
    with pytest.raises(StorageUnavailable, match=f"there is .*/.aws/{name}"):
        open_fast("s3://b/p", home | KEYS | REGION)
    elsewhere = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    assert open_fast("s3://b/p", home | KEYS | REGION | elsewhere).identity


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def test_googles_files_are_told_apart(private_key: str, tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    account = {
        "type": "service_account",
        "private_key": private_key,
        "private_key_id": "1",
        "client_email": "models@project.iam.gserviceaccount.com",
    }
    user = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    for credentials in (account, user):
        file.write_text(json.dumps(credentials))
        assert open_fast("gs://b/p", environ).identity == f"the {credentials['type']} in GOOGLE_APPLICATION_CREDENTIALS"
    for other in ({"type": "external_account"}, account | {"universe_domain": "example.com"}):
        file.write_text(json.dumps(other))
        with pytest.raises(StorageUnavailable, match=r"GOOGLE_APPLICATION_CREDENTIALS has \w+ credentials of"):
            open_fast("gs://b/p", environ)
    for text in ("[]", "{", ""):
        file.write_text(text)
        with pytest.raises(StorageUnavailable, match="cannot be read"):
            open_fast("gs://b/p", environ)


@pytest.mark.parametrize(
    ("url", "environ"), [("s3://b/p", REGION), ("gs://b/p", {}), ("az://c/p", AZURE | {"AZURE_STORAGE_KEY": A_KEY})]
)
def test_nobody_is_for_obstore_too(url: str, environ: dict[str, str], home: dict[str, str]) -> None:
    assert open_fast(url, home | environ, is_anonymous=True).identity == "nobody"


def test_the_choice_is_logged_with_its_reason_and_no_secret(
    home: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "model_cache")
    open_storage("s3://b/p", StorageOptions(environ=home | KEYS | REGION))
    open_storage("s3://b/p", StorageOptions(environ=home | KEYS))
    assert caplog.messages == [
        "reading s3://b/p with obstore, as the keys in the environment",
        "reading s3://b/p with the SDK, not obstore: no region is set",
    ]


def read(storage: Storage, blob: Blob) -> bytes:
    return b"".join(storage.fetch(blob, 0, blob.size))


def first(storage: Storage) -> Blob:
    return min(storage.list(), key=lambda blob: blob.key)


@contextlib.contextmanager
def server(
    answer: Callable[[BaseHTTPRequestHandler, bytes], tuple[int, str]], context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Run a server that answers every request as told, over TLS if there is a context."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            status, text = answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = handle_any

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = False
        if context is not None:
            httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
        acceptor = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        acceptor.start()
        try:
            yield f"{'https' if context else 'http'}://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            acceptor.join()


def in_the_future(hours: float) -> str:
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


class CredentialsServer:
    """What ECS, EKS and Lambda run beside a container; it gives out SeaweedFS's reader to whoever has the token."""

    def __init__(self, s3: SeaweedFS, token: str = "t0ken") -> None:
        self.token = token
        self.hours = 6.0
        self.requests: list[str] = []
        self._reader = s3.reader

    def __call__(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str]:
        self.requests.append(request.path)
        if request.headers.get("Authorization") != self.token:
            return 401, "who are you?"
        keys = {"AccessKeyId": self._reader.access_key, "SecretAccessKey": self._reader.secret_key}
        return 200, json.dumps(keys | {"Expiration": in_the_future(self.hours)})


@pytest.fixture
def credentials_server(s3: SeaweedFS) -> CredentialsServer:
    return CredentialsServer(s3)


def test_a_containers_credentials_read_the_bucket(
    s3: SeaweedFS, credentials_server: CredentialsServer, home: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    with server(credentials_server) as url:
        environ = home | {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/credentials?for=models"}
        for token in (
            {"AWS_CONTAINER_AUTHORIZATION_TOKEN": "t0ken"},
            {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token")},
        ):
            storage = open_fast("s3://models/digits", environ | token, s3_endpoint=s3.endpoint)
            blob = first(storage)
            assert len(read(storage, blob)) == blob.size
    # Once for each storage, and not once for each request.
    assert credentials_server.requests == ["/credentials?for=models"] * 2


def test_a_containers_credentials_are_renewed_before_they_expire(
    s3: SeaweedFS, credentials_server: CredentialsServer, home: dict[str, str]
) -> None:
    credentials_server.hours = -1
    with server(credentials_server) as url:
        environ = home | {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "t0ken"}
        storage = open_fast("s3://models/digits", environ, s3_endpoint=s3.endpoint)
        for _ in range(3):
            list(storage.list())
    assert credentials_server.requests == ["/"] * 3


def test_a_container_without_credentials_is_told_why(
    s3: SeaweedFS, credentials_server: CredentialsServer, home: dict[str, str]
) -> None:
    with server(credentials_server) as url:
        environ = home | {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "wr0ng"}
        storage = open_fast("s3://models/digits", environ, s3_endpoint=s3.endpoint)
        with pytest.raises(
            StorageUnavailable, match=r"^cannot list s3://models/digits: .*answered with 401"
        ) as failure:
            list(storage.list())
    assert "wr0ng" not in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"AccessKeyId": "a", "SecretAccessKey": "s3cr3t", "Expiration": "soon"}']
)
def test_credentials_that_are_none_are_an_error_that_shows_nothing(
    text: str, s3: SeaweedFS, home: dict[str, str]
) -> None:
    with server(lambda request, body: (200, text)) as url:
        storage = open_fast(
            "s3://models/digits", home | {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url}, s3_endpoint=s3.endpoint
        )
        with pytest.raises(StorageUnavailable, match="credentials are not what they should be") as failure:
            list(storage.list())
    assert "s3cr3t" not in str(failure.value)


def test_where_ecs_has_its_credentials_is_known() -> None:
    credentials = ContainerCredentials(ECS)
    assert credentials._url.geturl() == "http://169.254.170.2/v2/credentials/1"


STS = """<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>t0ken</SessionToken>
<Expiration>{expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""


def test_a_web_identity_becomes_its_role(s3: SeaweedFS, home: dict[str, str], tmp_path: Path) -> None:
    """As on EKS. SeaweedFS knows of no sessions, and so refuses the one that it is shown in the end."""
    asked: list[dict[str, list[str]]] = []

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str]:
        asked.append(parse_qs(urlsplit(request.path).query) | parse_qs(body.decode()))
        return 200, STS.format(key=s3.reader.access_key, secret=s3.reader.secret_key, expiration=in_the_future(1))

    certificate, key = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    (tmp_path / "token").write_text("who I am")
    role = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ROLE_ARN": "arn:aws:iam::1:role/models"}
    with server(answer, context) as url, FaultProxy(s3.endpoint) as proxy:
        environ = home | role | {"AWS_ENDPOINT_URL_STS": url, "AWS_CA_BUNDLE": str(certificate)}
        storage = open_fast("s3://models/digits", environ | {"AWS_ROLE_SESSION_NAME": "us"}, s3_endpoint=proxy.url)
        with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/digits: InvalidAccessKeyId"):
            list(storage.list())
    [form] = asked
    assert form["Action"] == ["AssumeRoleWithWebIdentity"]
    assert form["RoleArn"] == ["arn:aws:iam::1:role/models"]
    assert form["RoleSessionName"] == ["us"]
    assert form["WebIdentityToken"] == ["who I am"]
    [request] = proxy.requests
    assert request.headers["x-amz-security-token"] == "t0ken"
    assert f"Credential={s3.reader.access_key}/" in request.headers["authorization"]


@pytest.mark.node
def test_a_managed_identitys_token_is_shown(
    azure: Azurite, home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Container Apps and App Service. This Azurite takes no tokens, and so refuses it in the end."""

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str]:
        if request.headers["X-IDENTITY-HEADER"] != "s3cr3t" or "client_id=ours" not in request.path:
            return 400, "who are you?"
        until = int(time.time()) + 3600
        return 200, json.dumps({"access_token": "t0ken", "expires_on": str(until), "token_type": "Bearer"})

    # This one obstore reads from the process's environment only.
    monkeypatch.setenv("IDENTITY_HEADER", "s3cr3t")
    with server(answer) as url, FaultProxy(azure.endpoint) as proxy:
        identity = {"IDENTITY_ENDPOINT": f"{url}/msi/token", "IDENTITY_HEADER": "s3cr3t", "AZURE_CLIENT_ID": "ours"}
        account = {"AZURE_STORAGE_ACCOUNT_URL": azure.account_url(proxy.url)}
        with pytest.raises(StorageUnavailable, match=r"^cannot list az://models/digits: "):
            list(open_fast("az://models/digits", home | account | identity).list())
    assert proxy.requests[0].headers["authorization"] == "Bearer t0ken"


def test_other_settings_of_the_process_change_nothing_in_s3(
    s3: SeaweedFS, become: BecomeS3User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore looks into the process's, too."""
    become(s3.reader)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "somebody else's")
    for name in ("AWS_SKIP_SIGNATURE", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "AWS_S3_EXPRESS", "AWS_REQUEST_PAYER"):
        monkeypatch.setenv(name, "true")
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    environ = {"AWS_ACCESS_KEY_ID": s3.reader.access_key, "AWS_SECRET_ACCESS_KEY": s3.reader.secret_key}
    assert list(open_fast("s3://models/digits", environ, s3_endpoint=s3.endpoint).list())


def test_what_is_not_there_is_denied_to_who_may_list_a_prefix_alone(s3: SeaweedFS) -> None:
    """S3 answers 403 in the place of 404 where the right to list has a condition, as our templates give it."""
    environ = {"AWS_ACCESS_KEY_ID": s3.admin.access_key, "AWS_SECRET_ACCESS_KEY": s3.admin.secret_key}
    s3.admin.client().put_object(Bucket="models", Key="foldered/1/", Body=b"")
    s3.admin.client().put_object(Bucket="models", Key="foldered/2/model.xml", Body=b"x")
    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(ACCESS_DENIED, "GET", "decant-is-not-there"), on(Answer(403), "HEAD"))
        assert list(open_fast("s3://models/nowhere", environ, s3_endpoint=proxy.url).list()) == []
        found = open_fast("s3://models/foldered", environ, s3_endpoint=proxy.url).list()
        assert [blob.key for blob in found] == ["2/model.xml"]
        # But not to whom a proxy denies it.
        proxy.use(on(Answer(403, b"denied"), "GET", "decant-is-not-there"))
        with pytest.raises(StorageUnavailable, match="cannot list s3://models/nowhere"):
            list(open_fast("s3://models/nowhere", environ, s3_endpoint=proxy.url).list())


@pytest.mark.node
def test_the_connection_string_and_its_account_read_the_container(azure: Azurite) -> None:
    account = {"AZURE_STORAGE_ACCOUNT": azure.account, "AZURE_STORAGE_ACCOUNT_URL": azure.account_url()}
    for environ in (azure.env(), account | {"AZURE_STORAGE_KEY": azure.key}, azure.reader_env("models")):
        storage = open_fast("az://models/digits", environ)
        blob = first(storage)
        assert len(read(storage, blob)) == blob.size


@pytest.mark.node
def test_other_settings_of_the_process_change_nothing_in_azure(azure: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AZURE_STORAGE_SAS_TOKEN": SAS,
        "AZURE_CLIENT_ID": "client",
        "AZURE_CLIENT_SECRET": "secret",
        "AZURE_TENANT_ID": "tenant",
        "AZURE_STORAGE_TOKEN": "token",
        "AZURE_SKIP_SIGNATURE": "true",
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    assert list(open_fast("az://models/digits", azure.env()).list())


def test_other_settings_of_the_process_change_nothing_in_gcs(gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://127.0.0.1:1")
    storage = open_fast("gs://models/digits", gcs.env())
    blob = first(storage)
    assert len(read(storage, blob)) == blob.size


@pytest.mark.node
def test_a_shared_access_signature_is_told_to_nobody(
    azure: Azurite, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    signature = azure.sas("models").rpartition("sig=")[2].partition("&")[0]
    with FaultProxy(azure.endpoint) as proxy:
        storage = open_fast("az://models/digits", azure.reader_env("models", proxy.url))
        blob = first(storage)
        said = [str(storage), repr(storage), repr(vars(storage))]
        for status in (400, 403, 404, 500):
            proxy.use(on(Answer(status, b"<Error><Code>No</Code><Message>no</Message></Error>")))
            for attempt in (lambda: list(storage.list()), lambda: read(storage, blob)):
                with pytest.raises(StorageUnavailable) as failure:
                    attempt()
                said.append("".join(failure.value.args))
                assert failure.value.__cause__ is None
                assert failure.value.__suppress_context__
    assert proxy.count("GET", "sig=") == len(proxy.requests)
    said += [*caplog.messages, *capfd.readouterr()]
    assert not [text for text in said if signature in text or "sig=" in text]


IMPORTED = """
import sys
from model_cache.storage import StorageOptions, open_storage
environ = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "eu-west-1", "HOME": "/nowhere"}
print(open_storage("s3://b/p", StorageOptions(environ=environ)))
print([name for name in ("boto3", "botocore", "urllib3", "requests", "http.client", "ssl") if name in sys.modules])
"""


def test_nobody_pays_for_the_sdk_if_obstore_reads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED],
        check=False,
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.splitlines() == ["s3://b/p", "[]"], done.stderr
