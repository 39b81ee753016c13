"""SeaweedFS as the S3 server: real signatures, real permissions, an identity that may read one bucket only."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import botocore.exceptions
import botocore.session
from botocore.config import Config

from tests.servers import tool
from tests.servers.processes import Process, clean_environment, free_port

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_PORTS = ("master", "volume", "filer", "s3", "admin")
_GRPC_OFFSET = 10_000  # each of these ports has a gRPC twin this far above it


@dataclass(frozen=True)
class Credentials:
    """Who asks, and where. ``dataclasses.replace(credentials, endpoint=proxy.url)`` goes through a proxy."""

    access_key: str
    secret_key: str
    endpoint: str
    region: str = "us-east-1"

    def env(self) -> dict[str, str]:
        """The variables that make an SDK use these and nothing of the developer's own."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, attempts: int = 1) -> S3Client:
        """A client of their own, which the caller closes. It tries ``attempts`` times in all."""
        core = botocore.session.Session()
        for setting in ("config_file", "credentials_file"):
            core.set_config_variable(setting, os.devnull)
        core.set_config_variable("profile", None)
        return boto3.Session(botocore_session=core).client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": attempts},
                connect_timeout=2,
                read_timeout=20,
            ),
        )


class SeaweedFS:
    """A running server."""

    def __init__(self, endpoint: str, readable_bucket: str) -> None:
        self.endpoint = endpoint
        self.readable_bucket = readable_bucket
        self.admin = Credentials("AKIAADMIN", "adminsecret", endpoint)
        """May do everything."""
        self.reader = Credentials("AKIAREADER", "readersecret", endpoint)
        """May list and read ``readable_bucket`` and nothing else, like a serving role."""
        self._clients = contextlib.ExitStack()
        self._admin_client: S3Client | None = None

    def client(self) -> S3Client:
        """The administrator's client, kept open as long as the server."""
        if self._admin_client is None:
            self._admin_client = self._clients.enter_context(contextlib.closing(self.admin.client()))
        return self._admin_client

    def create_bucket(self, bucket: str) -> None:
        """Create ``bucket`` unless it is there."""
        client = self.client()
        existing = (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists)
        with contextlib.suppress(*existing):
            client.create_bucket(Bucket=bucket)

    def put_tree(self, bucket: str, prefix: str, directory: Path) -> list[str]:
        """Upload every file below ``directory`` to ``prefix/<its relative path>`` and return the keys, sorted."""
        self.create_bucket(bucket)
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        keys = {f"{prefix.strip('/')}/{path.relative_to(directory).as_posix()}".lstrip("/"): path for path in files}
        for key, path in keys.items():
            self.client().put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
        return sorted(keys)

    def close(self) -> None:
        self._clients.close()


@contextlib.contextmanager
def seaweedfs(directory: Path, readable_bucket: str = "models", timeout: float = 30) -> Iterator[SeaweedFS]:
    """Run a server that keeps its data, its log and its settings in ``directory``; ``readable_bucket`` exists."""
    ports = {name: free_port(also=_GRPC_OFFSET) for name in _PORTS}
    server = SeaweedFS(f"http://127.0.0.1:{ports['s3']}", readable_bucket)
    argv = _command(directory, ports, _write_identities(directory, server))
    # Killed, not asked to stop: after some load it takes half a minute over SIGTERM.
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_sockets, ports)
        process = stack.enter_context(Process(argv, directory / "weed.log", env=clean_environment(), cwd=directory))
        stack.callback(server.close)
        process.wait_until(lambda: _takes_objects(server), timeout)
        yield server


def _command(directory: Path, ports: dict[str, int], identities: Path) -> list[str | Path]:
    data = directory / "data"
    data.mkdir()
    return [
        tool("servers/bin/weed"),
        "-logtostderr=true",
        "mini",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={data}",
        *(f"-{name}.port={port}" for name, port in ports.items()),
        f"-s3.config={identities}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",  # "mini" reports home unless told not to
    ]


def _write_identities(directory: Path, server: SeaweedFS) -> Path:
    bucket = server.readable_bucket
    identities = [
        _identity("admin", server.admin, ["Admin", "Read", "List", "Tagging", "Write"]),
        _identity("reader", server.reader, [f"Read:{bucket}", f"List:{bucket}"]),
    ]
    path = directory / "identities.json"
    path.write_text(json.dumps({"identities": identities}))
    return path


def _identity(name: str, credentials: Credentials, actions: list[str]) -> dict[str, object]:
    keys = {"accessKey": credentials.access_key, "secretKey": credentials.secret_key}
    return {"name": name, "credentials": [keys], "actions": actions}


def _takes_objects(server: SeaweedFS) -> bool:
    """Whether an object can be stored. The port opens earlier, and buckets can be made earlier, too."""
    bucket, key = server.readable_bucket, "is-it-ready"
    try:
        server.create_bucket(bucket)
        server.client().put_object(Bucket=bucket, Key=key, Body=b"yes")
        server.client().delete_object(Bucket=bucket, Key=key)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
        return False
    return True


def _remove_sockets(ports: dict[str, int]) -> None:
    # It leaves unix sockets named after its ports here, whatever TMPDIR says.
    for port in ports.values():
        for number in (port, port + _GRPC_OFFSET):
            for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                path.unlink(missing_ok=True)
