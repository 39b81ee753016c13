"""Knative, played with the real server: what its queue proxy and the kubelet do to a container."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.infra.platforms import INFRA, SEVEN, HeldRequest, Instance, Probe, decant_of, instance, load, read_probe
from tests.servers.fault_proxy import FaultProxy, Stall, on
from tests.servers.seaweedfs import SeaweedFS

PORT = 8080
MADE_BY_KNATIVE = {
    "PORT": str(PORT),
    "K_SERVICE": "decant",
    "K_REVISION": "decant-1",
    "K_CONFIGURATION": "decant",
    # What Kubernetes sets where there is a Service called decant, which Knative makes.
    "DECANT_PORT": "tcp://10.0.0.1:80",
    "DECANT_SERVICE_HOST": "10.0.0.1",
    "KUBERNETES_SERVICE_HOST": "10.0.0.2",
}
BY_QUEUE_PROXY = {"K-Kubelet-Probe": "queue"}
"""Readiness is looked at by the queue proxy, with this; K-Network-Probe it answers itself."""


@contextlib.contextmanager
def started(name: str, directory: Path, secret: Mapping[str, str]) -> Iterator[Instance]:
    """Start a file's container.

    Args:
        name: the file's.
        directory: for its files.
        secret: what the secret of ``envFrom`` has.
    """
    environ = {**MADE_BY_KNATIVE, **secret}
    replaced = {"DECANT_MODEL_PATH": "s3://models/digits"}
    with instance(container_of(name), directory, ports=[PORT], environ=environ, replaced=replaced) as one:
        yield one


def container_of(name: str) -> Any:
    return decant_of(load(INFRA / "knative" / name)["spec"]["template"]["spec"]["containers"])


def readiness(name: str) -> Probe:
    return read_probe(container_of(name)["readinessProbe"], PORT)


def wait_until_ready(one: Instance, probe: Probe) -> None:
    """Look as the queue proxy does: again and again, without a pause to speak of."""
    deadline = time.monotonic() + 30
    while not one.passes(probe, BY_QUEUE_PROXY):
        assert time.monotonic() < deadline, one.process.log()
        time.sleep(0.025)


def through(s3: SeaweedFS, proxy: FaultProxy) -> dict[str, str]:
    return dataclasses.replace(s3.reader, endpoint=proxy.url).env()


def predict(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        headers = {"K-Proxy-Request": "activator", "Forwarded": "for=10.1.2.3"}
        connection.request("POST", "/v1/models/digits:predict", SEVEN, headers)
        return connection.getresponse().status


def test_a_revision_starts_answers_as_many_as_it_is_sent_and_ends(s3: SeaweedFS, tmp_path: Path) -> None:
    container = container_of("service.yaml")
    concurrency = load(INFRA / "knative" / "service.yaml")["spec"]["template"]["spec"]["containerConcurrency"]
    with started("service.yaml", tmp_path, s3.reader.env()) as one:
        wait_until_ready(one, readiness("service.yaml"))
        assert one.passes(read_probe(container["livenessProbe"], PORT))
        # The queue proxy lets no more through.
        with ThreadPoolExecutor(concurrency) as queue_proxy:
            assert set(queue_proxy.map(predict, [one.ports[PORT]] * 20)) == {200}
        budgets = one.client(rest=PORT).get("/v1/cache").body
        assert budgets["disk"]["budget"] == 1024 << 20
        assert budgets["memory"]["budget"] == 1433 << 20
        held = HeldRequest(one.ports[PORT])
        with contextlib.closing(held):
            one.process.signal(signal.SIGTERM)
            one.process.wait_until(lambda: not one.passes(readiness("service.yaml"), BY_QUEUE_PROXY), 5)
            assert held.finish().status == 200
        assert one.process.wait(10) == 0


def test_a_pod_is_not_ready_before_its_model_is(s3: SeaweedFS, tmp_path: Path) -> None:
    stall = Stall(after=100)
    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(stall, "GET", r"model(\.|%2E)bin"))
        with started("service.yaml", tmp_path, through(s3, proxy)) as one:
            assert stall.reached.wait(20)
            liveness = read_probe(container_of("service.yaml")["livenessProbe"], PORT)
            # The port is open, so what looks whether it is would send requests.
            one.process.wait_until(lambda: one.passes(liveness), 10)
            assert not one.passes(readiness("service.yaml"), BY_QUEUE_PROXY)
            stall.released.set()
            wait_until_ready(one, readiness("service.yaml"))


def test_a_look_whether_it_is_http2_is_no_upgrade_and_no_harm(s3: SeaweedFS, tmp_path: Path) -> None:
    """With its feature autodetect-http2 Knative asks so before its first look over HTTP."""
    upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"}
    with started("service.yaml", tmp_path, s3.reader.env()) as one:
        wait_until_ready(one, readiness("service.yaml"))
        connection = http.client.HTTPConnection("127.0.0.1", one.ports[PORT], timeout=10)
        with contextlib.closing(connection):
            connection.request("OPTIONS", "/", headers=upgrade)
            assert connection.getresponse().status not in (101, 500)
        assert predict(one.ports[PORT]) == 200


@pytest.mark.parametrize("is_loading", [True, False])
def test_grpc_is_alive_while_it_loads_and_ready_when_it_has(s3: SeaweedFS, tmp_path: Path, is_loading: bool) -> None:
    stall = Stall(after=100)
    container = container_of("service-grpc.yaml")
    liveness = read_probe(container["livenessProbe"], PORT)
    with FaultProxy(s3.endpoint) as proxy:
        if is_loading:
            proxy.use(on(stall, "GET", r"model(\.|%2E)bin"))
        with started("service-grpc.yaml", tmp_path, through(s3, proxy)) as one:
            one.process.wait_until(lambda: one.passes(liveness), 20)
            if is_loading:
                assert stall.reached.wait(20)
                assert not one.passes(readiness("service-grpc.yaml"))
                stall.released.set()
            wait_until_ready(one, readiness("service-grpc.yaml"))
            with grpc.insecure_channel(f"127.0.0.1:{one.ports[PORT]}") as channel:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            assert one.stop(10) == 0
