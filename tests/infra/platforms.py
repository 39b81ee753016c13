"""What Cloud Run, Container Apps and Knative do with a container of theirs, done to a real one.

Everything comes from the platform's file: command, variables, ports, probes and their periods. Ports are moved to free
ones of this machine, wherever the file has them.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ruamel.yaml import YAML

from handlers.settings import Settings, kinds, read_flags, read_settings
from tests.servers import ROOT
from tests.servers.decant import Decant
from tests.servers.processes import Process, ProcessFailed, clean_environment, free_port

INFRA = ROOT / "infra"
SEVEN = (ROOT / "examples" / "digits" / "seven.json").read_bytes()
EVERY_ADDRESS = "127.0.0.2"
"""Of this machine, but answered by what listens on 0.0.0.0 alone."""


def load(path: Path) -> Any:
    return parse(path.read_text())


def parse(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def decant_of(containers: Sequence[Any]) -> Any:
    (container,) = (each for each in containers if each["name"] == "decant")
    return container


def variables_of(container: Any) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"]}


def settings_of(container: Any, monkeypatch: pytest.MonkeyPatch, platform: Mapping[str, str]) -> Settings:
    """Return what a container's command and variables, and those that the platform sets, are to Decant.

    Fails if a flag or a variable is none of Decant's, or is set to what cannot be.
    """
    command, *flags = container["args"]
    assert command == "serve"
    variables = variables_of(container)
    for name in variables:
        assert not name.startswith("DECANT_") or name.removeprefix("DECANT_").lower() in kinds(), name
    for name, value in {**variables, **platform}.items():
        monkeypatch.setenv(name, value)
    given = read_flags(flags)
    assert given is not None, flags
    settings = read_settings(given)
    settings.require_models()
    settings.require_ports()
    return settings


class Probe(NamedTuple):
    """As Kubernetes has it, defaults included."""

    kind: str
    """``httpGet``, ``grpc`` or ``tcpSocket``."""
    port: int
    path: str = "/"
    service: str = ""
    delay: float = 0
    period: float = 10
    timeout: float = 1
    failures: int = 3

    @property
    def patience(self) -> float:
        """Seconds from the first look to when the container is given up."""
        return self.delay + self.period * self.failures

    def passes(self, port: int | None = None, headers: Mapping[str, str] | None = None) -> bool:
        """Look once.

        Args:
            port: instead of the file's.
            headers: of a look over HTTP.
        """
        port = self.port if port is None else port
        match self.kind:
            case "httpGet":
                return self._passes_http(port, headers or {})
            case "grpc":
                return self._passes_grpc(port)
            case _:
                with contextlib.suppress(OSError), socket.create_connection((EVERY_ADDRESS, port), self.timeout):
                    return True
                return False

    def _passes_http(self, port: int, headers: Mapping[str, str]) -> bool:
        connection = http.client.HTTPConnection(EVERY_ADDRESS, port, timeout=self.timeout)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", self.path, headers={"User-Agent": "kube-probe/1.31", **headers})
            return 200 <= connection.getresponse().status < 400
        return False

    def _passes_grpc(self, port: int) -> bool:
        with grpc.insecure_channel(f"{EVERY_ADDRESS}:{port}") as channel:
            request = health_pb2.HealthCheckRequest(service=self.service)
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=self.timeout)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def read_probe(fields: Mapping[str, Any], port: int) -> Probe:
    """Return what a file says.

    Args:
        fields: of the probe.
        port: the container's, for a probe that names none.
    """
    (kind,) = fields.keys() & {"httpGet", "grpc", "tcpSocket"}
    target = fields[kind]
    return Probe(
        kind,
        target.get("port", port),
        target.get("path", "/"),
        target.get("service", ""),
        fields.get("initialDelaySeconds", 0),
        fields.get("periodSeconds") or Probe._field_defaults["period"],
        fields.get("timeoutSeconds", 1),
        fields.get("failureThreshold", 3),
    )


@dataclass(frozen=True)
class Instance:
    """A running container."""

    process: Process
    ports: Mapping[int, int] = field(default_factory=dict)
    """This machine's by the file's."""

    def client(self, rest: int = 0, grpc: int = 0) -> Decant:
        """Return a client of it.

        Args:
            rest: the port that REST has in the file; 0 for none.
            grpc: gRPC's.
        """
        return Decant(self.process, self.ports.get(rest, 0), self.ports.get(grpc, 0))

    def passes(self, probe: Probe, headers: Mapping[str, str] | None = None) -> bool:
        return probe.passes(self.ports[probe.port], headers)

    def wait_until_started(self, probe: Probe) -> int:
        """Look as often as the platform does, and return how many looks it took; ProcessFailed if it gives up."""
        time.sleep(probe.delay)
        for look in range(1, probe.failures + 1):
            began = time.monotonic()
            if self.passes(probe):
                return look
            if self.process.exit_code is not None:
                break
            time.sleep(max(0.0, probe.period - (time.monotonic() - began)))
        raise ProcessFailed(f"was given up after {probe.patience:g} s", self.process.exit_code, self.process.log())

    def stop(self, window: float) -> int:
        """Send SIGTERM, and SIGKILL when the platform's patience ends; return the exit code, -9 for the latter."""
        self.process.signal(signal.SIGTERM)
        with contextlib.suppress(ProcessFailed):
            return self.process.wait(window)
        self.process.signal(signal.SIGKILL)
        return self.process.wait()

    def freeze(self) -> None:
        """Take its CPU away, as Cloud Run does between requests."""
        self.process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.signal(signal.SIGCONT)


@contextlib.contextmanager
def instance(
    container: Any,
    directory: Path,
    *,
    ports: Sequence[int],
    environ: Mapping[str, str],
    replaced: Mapping[str, str] | None = None,
    program: Sequence[str | Path] = (sys.executable, "-m", "handlers.cli"),
) -> Iterator[Instance]:
    """Start a container as its file says.

    Args:
        container: the file's.
        directory: for its log and its cache.
        ports: all that the file has.
        environ: what the platform adds; ``PORT`` is one of ``ports``, where there is one.
        replaced: variables of the file that this machine needs otherwise.
        program: what the image's entry point starts.
    """
    moved = {port: free_port() for port in ports}
    arguments = [_move(argument, moved) for argument in container["args"]]
    variables = {**variables_of(container), **(replaced or {}), **environ}
    if "PORT" in environ:
        variables["PORT"] = str(moved[int(environ["PORT"])])
    variables["DECANT_CACHE_DIR"] = str(directory / "cache")
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "decant.log"
    with Process([*program, *arguments], log, env=clean_environment(variables), cwd=directory) as process:
        one = Instance(process, moved)
        try:
            yield one
        finally:
            # What is stopped can be killed, but writes no coverage.
            one.thaw()


def _move(argument: str, moved: Mapping[int, int]) -> str:
    return re.sub(r"(?<==)\d+$", lambda match: str(moved.get(int(match[0]), match[0])), argument)


class HeldRequest:
    """A predict request of which the platform has handed on the half when something happens."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        half = len(SEVEN) // 2
        self._rest = SEVEN[half:]
        head = f"POST /v1/models/digits:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(SEVEN)}\r\n"
        self._socket.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        # Until then the connection may not be accepted yet, and who ends does not accept it any more.
        assert self._socket.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
        self._socket.sendall(SEVEN[:half])

    def finish(self) -> http.client.HTTPResponse:
        self._socket.sendall(self._rest)
        response = http.client.HTTPResponse(self._socket)
        response.begin()
        response.read()
        return response

    def close(self) -> None:
        self._socket.close()


def speaks_http2(port: int) -> bool:
    """Whether what listens there takes HTTP/2 in plain text from its first byte, as h2c on these platforms is.

    The preface and empty SETTINGS go out; SETTINGS are a server's first frame (RFC 9113, 3.4).
    """
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        frame = b""
        while len(frame) < 9 and (piece := connection.recv(9 - len(frame))):
            frame += piece
    return len(frame) == 9 and frame[3] == 4
