"""Container Apps, played with the real server: its own probes and the file's, two ports, SIGTERM and patience."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.infra.platforms import INFRA, SEVEN, HeldRequest, Instance, Probe, decant_of, instance, load, read_probe
from tests.servers.fault_proxy import FaultProxy, Stall, on
from tests.servers.seaweedfs import SeaweedFS

REST, GRPC = 8501, 8500
TEMPLATE = load(INFRA / "container_apps" / "app.yaml")["properties"]["template"]
MADE_BY_CONTAINER_APPS = {"CONTAINER_APP_NAME": "decant", "CONTAINER_APP_REVISION": "decant--1"}
# What it looks at where a file has no probes.
OWN_STARTUP = Probe("tcpSocket", REST, period=1, timeout=3, failures=240)
OWN_READINESS = Probe("tcpSocket", REST, period=5, timeout=5, failures=48)


def probe(kind: str) -> Probe:
    (fields,) = (each for each in container()["probes"] if each["type"] == kind)
    return read_probe(fields, REST)


def container() -> Any:
    return decant_of(TEMPLATE["containers"])


@contextlib.contextmanager
def started(directory: Path, storage: Mapping[str, str]) -> Iterator[Instance]:
    # Azurite has an account of its own; what is played here does not depend on whose storage it is.
    replaced = {"DECANT_MODEL_PATH": "s3://models/digits"}
    environ = {**MADE_BY_CONTAINER_APPS, **storage}
    with instance(container(), directory, ports=[REST, GRPC], environ=environ, replaced=replaced) as one:
        yield one


def test_a_replica_starts_serves_both_ports_finishes_what_is_in_flight_and_ends(s3: SeaweedFS, tmp_path: Path) -> None:
    with started(tmp_path, s3.reader.env()) as one:
        one.wait_until_started(probe("Startup"))
        one.wait_until_started(probe("Readiness")._replace(failures=60))
        assert one.passes(probe("Liveness"))
        server = one.client(rest=REST, grpc=GRPC)
        assert server.post("/v1/models/digits:predict", SEVEN).body["predictions"][0]["digit"] == 7
        # A TCP port like any other, on every address.
        assert one.passes(Probe("grpc", GRPC))
        with contextlib.closing(HeldRequest(server.rest_port)) as held:
            one.process.signal(signal.SIGTERM)
            one.process.wait_until(lambda: not one.passes(probe("Liveness")), 5)
            assert held.finish().status == 200
        assert one.process.wait(TEMPLATE["terminationGracePeriodSeconds"]) == 0


@pytest.mark.parametrize("are_own", [True, False], ids=["its own probes", "the file's probes"])
def test_while_a_model_loads_the_replica_lives_and_requests_wait_or_do_not_come(
    s3: SeaweedFS, tmp_path: Path, are_own: bool
) -> None:
    stall = Stall(after=100)
    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(stall, "GET", r"model(\.|%2E)bin"))
        with started(tmp_path, dataclasses.replace(s3.reader, endpoint=proxy.url).env()) as one:
            one.wait_until_started(OWN_STARTUP if are_own else probe("Startup"))
            assert stall.reached.wait(20)
            assert one.passes(probe("Liveness"))
            # An open port is ready to the platform's own probe, so requests come, and have to wait.
            assert one.passes(OWN_READINESS if are_own else probe("Readiness")) is are_own
            with contextlib.closing(HeldRequest(one.ports[REST])) as held:
                stall.released.set()
                assert held.finish().status == 200
            # The first answer may come before the start knows that all is loaded.
            one.process.wait_until(lambda: one.passes(probe("Readiness")), 5)
