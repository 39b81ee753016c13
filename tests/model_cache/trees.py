"""Every storage as the contract's tests see it: how to open it, and how others change what is stored."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest

from model_cache.errors import StorageUnavailable
from model_cache.storage import Storage, StorageOptions, open_storage
from tests.fakes import MemoryStorage
from tests.model_cache.conftest import BecomeS3User
from tests.servers.azurite import Azurite
from tests.servers.fake_gcs import FakeGcs
from tests.servers.seaweedfs import Credentials, SeaweedFS

_prefixes = (f"contract-{number}" for number in itertools.count())

CLIENTS = ("sdk", "obstore")


class Tree(Protocol):
    storage: Storage
    name: str
    """What messages must call it."""

    def put(self, blobs: Mapping[str, bytes]) -> None: ...

    def delete(self, key: str) -> None: ...

    def destroy(self) -> None:
        """Let it be as if it had never been there."""
        ...

    def writable(self) -> Storage:
        """Open it anew as who may write."""
        ...


class MemoryTree:
    def __init__(self) -> None:
        memory = MemoryStorage(has_checksums=True)
        self._memory = memory
        self.storage: Storage = memory
        self.name = "memory://bucket"

    def put(self, blobs: Mapping[str, bytes]) -> None:
        self._memory.blobs.update(blobs)

    def delete(self, key: str) -> None:
        del self._memory.blobs[key]

    def destroy(self) -> None:
        def fail() -> None:
            raise StorageUnavailable(f"there is no {self.name}")

        self._memory.before_list = fail
        self._memory.blobs.clear()

    def writable(self) -> Storage:
        return self._memory


class LocalTree:
    def __init__(self, root: Path) -> None:
        root.mkdir()
        self._root = root
        self.storage = open_storage(str(root))
        self.name = str(root)

    def put(self, blobs: Mapping[str, bytes]) -> None:
        for key, data in blobs.items():
            path = self._root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            # A file of its own which takes the place of the old one, as tools that copy do.
            new = self._root.with_name("new")
            new.write_bytes(data)
            new.rename(path)

    def delete(self, key: str) -> None:
        (self._root / key).unlink()

    def destroy(self) -> None:
        shutil.rmtree(self._root)

    def writable(self) -> Storage:
        return self.storage


class Cloud(Protocol):
    """A bucket's server, and a client that reads it with the rights to read one bucket and no others."""

    scheme: str
    endpoint: str
    knows_rights: bool
    """Whether it refuses whoever may not read."""

    def options(self, endpoint: str) -> dict[str, Any]:
        """Become who may read ``models``; return the options by which that server is reached."""
        ...

    def stranger(self, endpoint: str) -> dict[str, Any]:
        """Become somebody who has the right name and the wrong secret."""
        ...

    def writer(self, endpoint: str) -> dict[str, Any]:
        """Become who may write, as whoever publishes models."""
        ...

    def put(self, key: str, data: bytes) -> None: ...

    def delete(self, key: str) -> None: ...


class S3Cloud:
    scheme = "s3"
    knows_rights = True

    def __init__(self, server: SeaweedFS, become: BecomeS3User) -> None:
        self.endpoint = server.endpoint
        self._server = server
        self._become = become

    def options(self, endpoint: str) -> dict[str, Any]:
        return self._as(self._server.reader, endpoint)

    def stranger(self, endpoint: str) -> dict[str, Any]:
        return self._as(Credentials(self._server.reader.access_key, "not the secret", ""), endpoint)

    def writer(self, endpoint: str) -> dict[str, Any]:
        return self._as(self._server.admin, endpoint)

    def put(self, key: str, data: bytes) -> None:
        self._server.client().put_object(Bucket="models", Key=key, Body=data)

    def delete(self, key: str) -> None:
        self._server.client().delete_object(Bucket="models", Key=key)

    def _as(self, credentials: Credentials, endpoint: str) -> dict[str, Any]:
        self._become(credentials)
        environ = {"AWS_ACCESS_KEY_ID": credentials.access_key, "AWS_SECRET_ACCESS_KEY": credentials.secret_key}
        return {"s3_endpoint": endpoint, "environ": environ}


class GcsCloud:
    scheme = "gs"
    knows_rights = False

    def __init__(self, server: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
        self.endpoint = server.endpoint
        self._server = server
        self._monkeypatch = monkeypatch

    def options(self, endpoint: str) -> dict[str, Any]:
        self._monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        return {"environ": {"STORAGE_EMULATOR_HOST": endpoint}}

    def stranger(self, endpoint: str) -> dict[str, Any]:
        raise NotImplementedError("fake-gcs-server lets everybody do everything")

    def writer(self, endpoint: str) -> dict[str, Any]:
        return self.options(endpoint)

    def put(self, key: str, data: bytes) -> None:
        self._server.put("models", key, data)

    def delete(self, key: str) -> None:
        self._server.delete("models", key)


class AzureCloud:
    scheme = "az"
    knows_rights = True

    def __init__(self, server: Azurite) -> None:
        self.endpoint = server.endpoint
        self._server = server

    def options(self, endpoint: str) -> dict[str, Any]:
        return {"environ": self._server.reader_env("models", endpoint)}

    def stranger(self, endpoint: str) -> dict[str, Any]:
        environ = self._server.reader_env("models", endpoint)
        return {"environ": {**environ, "AZURE_STORAGE_SAS_TOKEN": self._server.sas("somebodys")}}

    def writer(self, endpoint: str) -> dict[str, Any]:
        environ = self._server.reader_env("models", endpoint)
        return {"environ": {**environ, "AZURE_STORAGE_SAS_TOKEN": self._server.sas("models", "rlcw")}}

    def put(self, key: str, data: bytes) -> None:
        self._server.put("models", key, data)

    def delete(self, key: str) -> None:
        self._server.delete("models", key)


class CloudTree:
    def __init__(self, cloud: Cloud, client: str) -> None:
        self.cloud = cloud
        self.prefix = next(_prefixes)
        self.name = f"{cloud.scheme}://models/{self.prefix}"
        self._client = client
        self.storage = self.open()

    def open(
        self,
        *,
        bucket: str = "models",
        endpoint: str = "",
        is_stranger: bool = False,
        is_writer: bool = False,
        **changes: Any,
    ) -> Storage:
        """Open it anew: elsewhere, through a proxy, as somebody else who may do less or more, or with other options."""
        others = {is_stranger: self.cloud.stranger, is_writer: self.cloud.writer}
        become = others.get(True, self.cloud.options)
        options = become(endpoint or self.cloud.endpoint) | {"client": self._client} | changes
        return open_storage(f"{self.cloud.scheme}://{bucket}/{self.prefix}", StorageOptions(**options))

    def options(self, endpoint: str) -> StorageOptions:
        """What it is opened with, by default."""
        return StorageOptions(**self.cloud.options(endpoint), client=self._client)

    def put(self, blobs: Mapping[str, bytes]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: self.cloud.put(f"{self.prefix}/{key}", blobs[key]), blobs))

    def delete(self, key: str) -> None:
        self.cloud.delete(f"{self.prefix}/{key}")

    def destroy(self) -> None:
        # A prefix cannot be missing; a bucket can.
        self.name = f"{self.cloud.scheme}://not-there/{self.prefix}"
        self.storage = self.open(bucket="not-there")

    def writable(self) -> Storage:
        # Where obstore writes nothing, that is found out as it is asked to.
        return self.open(is_writer=True, client="auto" if self.cloud.scheme == "gs" else self._client)


Param = Any
CLOUDS: list[Param] = [
    pytest.param((scheme, client), id=f"{scheme}-{client}", marks=[pytest.mark.node] if scheme == "az" else [])
    for scheme in ("s3", "gs", "az")
    for client in CLIENTS
]
TREES: list[Param] = [*(pytest.param((kind, ""), id=kind) for kind in ("memory", "local")), *CLOUDS]


def make_tree(request: pytest.FixtureRequest, kind: str, client: str) -> Tree:
    trees: dict[str, Callable[[], Tree]] = {
        "memory": MemoryTree,
        "local": lambda: LocalTree(request.getfixturevalue("tmp_path") / "tree"),
    }
    return trees[kind]() if kind in trees else make_cloud_tree(request, kind, client)


def make_cloud_tree(request: pytest.FixtureRequest, scheme: str, client: str) -> CloudTree:
    clouds: dict[str, Callable[[], Cloud]] = {
        "s3": lambda: S3Cloud(request.getfixturevalue("s3"), request.getfixturevalue("become")),
        "gs": lambda: GcsCloud(request.getfixturevalue("gcs"), request.getfixturevalue("monkeypatch")),
        "az": lambda: AzureCloud(request.getfixturevalue("azure")),
    }
    return CloudTree(clouds[scheme](), client)
