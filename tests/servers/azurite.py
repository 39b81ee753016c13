"""Azurite as Azure Blob Storage: real signatures and shares, conditions, and with ``is_https`` tokens of Entra ID."""

from __future__ import annotations

import base64
import contextlib
import datetime
import shutil
from collections.abc import Iterator
from pathlib import Path

import jwt
from azure.core.exceptions import ResourceExistsError, ServiceResponseError
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas

from tests.servers import ROOT
from tests.servers.certificate import write_certificate
from tests.servers.processes import Process, accepts_connections, clean_environment, free_port

AZURITE = ROOT / ".tools" / "node" / "node_modules" / ".bin" / "azurite-blob"
IS_INSTALLED = shutil.which("node") is not None and AZURITE.exists()
NEEDS_AZURITE = "needs Node 20.19 or newer and Azurite: run infra/ci/install.sh"

_AUDIENCE = "https://storage.azure.com"
_ISSUER = "https://sts.windows.net/00000000-0000-0000-0000-000000000000/"


class Azurite:
    """A running server. Whoever is to come through a proxy is given its URL as ``endpoint``."""

    account = "decanttest"
    key = base64.b64encode(b"the key of the tests' account").decode()

    def __init__(self, endpoint: str, certificate: Path | None = None) -> None:
        self.endpoint = endpoint
        self.certificate = certificate
        """What it shows for itself, if it speaks https."""
        self.client = BlobServiceClient(
            self.account_url(),
            self.key,
            connection_verify=str(certificate) if certificate else True,
            retry_total=0,
        )

    def account_url(self, endpoint: str = "") -> str:
        return f"{endpoint or self.endpoint}/{self.account}"

    def connection_string(self, endpoint: str = "") -> str:
        """With the account's key: may do everything."""
        endpoint = endpoint or self.endpoint
        return (
            f"DefaultEndpointsProtocol={endpoint.partition(':')[0]};AccountName={self.account};AccountKey={self.key};"
            f"BlobEndpoint={self.account_url(endpoint)};"
        )

    def env(self, endpoint: str = "") -> dict[str, str]:
        """The variables that make a client use this account, with its key."""
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection_string(endpoint)}

    def reader_env(self, container: str, endpoint: str = "") -> dict[str, str]:
        """Variables with which ``container`` may be listed and read and nothing else, like a serving role."""
        return {
            "AZURE_STORAGE_ACCOUNT_URL": self.account_url(endpoint),
            "AZURE_STORAGE_SAS_TOKEN": self.sas(container),
        }

    def sas(self, container: str, permissions: str = "rl", hours: float = 1.0) -> str:
        """A shared access signature for ``container``, expired if ``hours`` is negative."""
        now = datetime.datetime.now(datetime.UTC)
        return generate_container_sas(
            self.account,
            container,
            self.key,
            permission=ContainerSasPermissions.from_string(permissions),
            start=now - datetime.timedelta(days=1),
            expiry=now + datetime.timedelta(hours=hours),
        )

    def token(self, audience: str = _AUDIENCE, hours: float = 1.0) -> str:
        """A token of the kind that Entra ID gives to a managed identity. Azurite looks at all but its signature."""
        now = datetime.datetime.now(datetime.UTC)
        until = now + datetime.timedelta(hours=hours)
        claims = {"aud": audience, "iss": _ISSUER, "nbf": now - datetime.timedelta(days=1), "iat": now, "exp": until}
        return jwt.encode(claims, "a secret that Azurite does not know of")

    def create_container(self, container: str) -> None:
        """Create ``container`` unless it is there."""
        with contextlib.suppress(ResourceExistsError):
            self.client.create_container(container)

    def put(self, container: str, key: str, data: bytes) -> None:
        blob = self.client.get_blob_client(container, key)
        # It closes connections that have been idle, also while one is just being used again.
        with contextlib.suppress(ServiceResponseError):
            blob.upload_blob(data, overwrite=True)
            return
        blob.upload_blob(data, overwrite=True)

    def delete(self, container: str, key: str) -> None:
        self.client.get_blob_client(container, key).delete_blob()

    def put_tree(self, container: str, prefix: str, directory: Path) -> None:
        """Upload every file below ``directory`` to ``prefix/<its relative path>``."""
        self.create_container(container)
        for path in directory.rglob("*"):
            if path.is_file():
                self.put(container, f"{prefix}/{path.relative_to(directory).as_posix()}", path.read_bytes())


@contextlib.contextmanager
def azurite(directory: Path, *, is_https: bool = False, timeout: float = 30) -> Iterator[Azurite]:
    """Run a server that keeps its blobs in memory and its log in ``directory``."""
    port = free_port()
    argv: list[str | Path] = [
        AZURITE,
        *("--blobHost", "127.0.0.1", "--blobPort", str(port)),
        *("--silent", "--inMemoryPersistence", "--disableTelemetry"),
        "--skipApiVersionCheck",  # the SDK is always newer
    ]
    certificate = None
    if is_https:
        certificate, key = write_certificate(directory, is_authority=True)
        argv += ["--oauth", "basic", "--cert", certificate, "--key", key]
    env = clean_environment({"AZURITE_ACCOUNTS": f"{Azurite.account}:{Azurite.key}"})
    with Process(argv, directory / "azurite.log", env=env, cwd=directory) as process:
        process.wait_until(lambda: accepts_connections(port), timeout)
        server = Azurite(f"{'https' if is_https else 'http'}://127.0.0.1:{port}", certificate)
        with server.client:
            yield server
