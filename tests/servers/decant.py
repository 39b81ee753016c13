"""The real ``decant serve``, as a child process that a test talks to over its sockets and signals."""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.servers.processes import Process, clean_environment, free_port

DECANT = (sys.executable, "-m", "handlers.cli")


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: Any
    """Parsed if it is JSON, else bytes."""


@dataclass(frozen=True)
class Decant:
    """A running server. ``rest_port`` or ``grpc_port`` is 0 where that side is switched off."""

    process: Process
    rest_port: int
    grpc_port: int

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def get(self, path: str, headers: Mapping[str, str] | None = None, timeout: float = 30) -> Reply:
        return self.request("GET", path, None, headers, timeout)

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None, timeout: float = 30) -> Reply:
        """Send ``body``: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, content, {"Content-Type": "application/json", **(headers or {})}, timeout)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            return _reply(connection.getresponse())

    def is_ready(self) -> bool:
        """Whether the health endpoint says so; gRPC's, if REST is off."""
        if not self.rest_port:
            return self._grpc_is_serving()
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/v2/health/ready", timeout=5).status == 200
        return False

    def wait_ready(self, timeout: float = 60) -> None:
        """Raise ProcessFailed, with the exit code and the log, if it ends or is not ready in time."""
        self.process.wait_until(self.is_ready, timeout)

    def terminate(self, timeout: float = 30) -> int:
        """Send SIGTERM and return the exit code."""
        return self.process.terminate(timeout)

    def log(self) -> str:
        return self.process.log()

    def _grpc_is_serving(self) -> bool:
        with grpc.insecure_channel(self.grpc_address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@contextlib.contextmanager
def decant_serve(
    directory: Path,
    *flags: str | Path,
    env: Mapping[str, str] | None = None,
    without_rest: bool = False,
    without_grpc: bool = False,
    wait: bool = True,
    timeout: float = 60,
    program: Sequence[str | Path] = DECANT,
    command: Sequence[str] = ("serve",),
) -> Iterator[Decant]:
    """Run ``decant serve`` with these flags, its working directory, cache and log in ``directory``.

    Ports, addresses and ``--cache_dir`` are chosen here; a flag given in ``flags`` comes later and so wins, but for
    the ports. ``env`` is added to an environment without AWS_*, DECANT_* and PORT. With ``wait`` the block begins
    when the server is ready, and ProcessFailed is raised if it never is; without, as soon as the process runs.
    """
    rest_port, grpc_port = 0 if without_rest else free_port(), 0 if without_grpc else free_port()
    argv = [
        *program,
        *command,
        *("--rest_port", str(rest_port), "--rest_bind_address", "127.0.0.1"),
        *("--port", str(grpc_port), "--grpc_bind_address", "127.0.0.1"),
        *("--cache_dir", directory / "cache"),
        *flags,
    ]
    directory.mkdir(parents=True, exist_ok=True)
    with Process(argv, directory / "decant.log", env=clean_environment(env), cwd=directory) as process:
        server = Decant(process, rest_port, grpc_port)
        if wait:
            server.wait_ready(timeout)
        yield server


def _reply(response: http.client.HTTPResponse) -> Reply:
    headers = {name.lower(): value for name, value in response.getheaders()}
    body = response.read()
    is_json = headers.get("content-type", "").startswith("application/json")
    return Reply(response.status, headers, json.loads(body) if is_json else body)
