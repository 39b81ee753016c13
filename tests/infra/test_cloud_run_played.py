"""Cloud Run, played with the real server: started, probed, called, frozen and ended as its files say."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from handlers.deploy.to_cloud_run import WINDOW
from runtime.codecs import schema
from tests.conftest import DIGITS
from tests.infra.platforms import (
    EVERY_ADDRESS,
    INFRA,
    SEVEN,
    HeldRequest,
    Instance,
    Probe,
    decant_of,
    instance,
    load,
    read_probe,
    speaks_http2,
)
from tests.servers.decant import Decant
from tests.servers.fake_gcs import FakeGcs
from tests.servers.fault_proxy import FaultProxy, Stall, on
from tests.servers.processes import ProcessFailed

PORT = 8080
MADE_BY_CLOUD_RUN = {"K_SERVICE": "decant", "K_REVISION": "decant-1", "K_CONFIGURATION": "decant"}
WEIGHTS = r"model(\.|%2E)bin"
"""In a request's path; clients of Google's differ in what they escape."""
REST, GRPC, SIDECAR = "service.yaml", "service-grpc.yaml", "service-sidecar.yaml"


def container_of(name: str) -> Any:
    return decant_of(load(INFRA / "cloud_run" / name)["spec"]["template"]["spec"]["containers"])


def startup(name: str) -> Probe:
    return read_probe(container_of(name)["startupProbe"], PORT)


@pytest.fixture(scope="module")
def models(gcs: FakeGcs) -> FakeGcs:
    """A server with the files' model where they say that it is."""
    gcs.put_tree("my-models", "vision/digits", DIGITS)
    return gcs


@pytest.fixture
def proxy(models: FakeGcs) -> Iterator[FaultProxy]:
    with FaultProxy(models.endpoint) as proxy:
        yield proxy


@contextlib.contextmanager
def started(
    name: str, directory: Path, storage: Mapping[str, str], replaced: Mapping[str, str] | None = None
) -> Iterator[Instance]:
    """Start Decant's container of a file; only the one that requests come to is told a port."""
    container = container_of(name)
    ports = [PORT] if "ports" in container else [8500, 8501]
    environ = {**MADE_BY_CLOUD_RUN, **storage, **({"PORT": str(PORT)} if "ports" in container else {})}
    with instance(container, directory, ports=ports, environ=environ, replaced=replaced) as one:
        yield one


def digit(server: Decant) -> int:
    answer = server.post("/v1/models/digits:predict", SEVEN)
    assert answer.status == 200, answer.body
    return int(answer.body["predictions"][0]["digit"])


def digit_over_grpc(channel: grpc.Channel) -> int:
    request = schema.PredictRequest(model_spec={"name": "digits"})
    image = np.array(json.loads(SEVEN)["instances"], np.float32)
    request.inputs["image"].dtype = 1
    for size in image.shape:
        request.inputs["image"].tensor_shape.dim.add(size=size)
    request.inputs["image"].tensor_content = image.tobytes()
    call: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    answer = schema.PredictResponse.FromString(call(request.SerializeToString(), timeout=30))
    # The schema leaves packed varints as they are, and a digit is one byte.
    (packed,) = answer.outputs["digit"].int64_val
    return int(packed[0])


def test_an_instance_starts_answers_finishes_what_is_in_flight_and_ends(models: FakeGcs, tmp_path: Path) -> None:
    with started(REST, tmp_path, models.env()) as one:
        assert one.wait_until_started(startup(REST)) < 30
        server = one.client(rest=PORT)
        # Over every address: Cloud Run's requests do not come from this host.
        with contextlib.closing(http.client.HTTPConnection(EVERY_ADDRESS, server.rest_port, timeout=30)) as outside:
            outside.request("POST", "/v1/models/digits:predict", SEVEN, {"X-Forwarded-Proto": "https"})
            assert json.loads(outside.getresponse().read())["predictions"][0]["digit"] == 7
        assert one.passes(read_probe(container_of(REST)["livenessProbe"], PORT))
        held = HeldRequest(server.rest_port)
        with contextlib.closing(held):
            began = time.monotonic()
            one.process.signal(signal.SIGTERM)
            one.process.wait_until(lambda: not one.passes(startup(REST)), 5)
            assert held.finish().status == 200
        assert one.process.wait(WINDOW) == 0
        assert time.monotonic() - began < WINDOW


def test_a_request_that_never_ends_does_not_cost_the_exit_code(models: FakeGcs, tmp_path: Path) -> None:
    with started(REST, tmp_path, models.env(), {"DECANT_SHUTDOWN_TIMEOUT": "0.5"}) as one:
        one.wait_until_started(startup(REST))
        with contextlib.closing(HeldRequest(one.ports[PORT])):
            assert one.stop(WINDOW) == 0


def test_nothing_is_ready_before_the_model_is_and_requests_that_come_all_the_same_wait(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    stall = Stall(after=100)
    proxy.use(on(stall, "GET", WEIGHTS))
    with started(REST, tmp_path, {"STORAGE_EMULATOR_HOST": proxy.url}) as one:
        liveness = read_probe(container_of(REST)["livenessProbe"], PORT)
        one.process.wait_until(lambda: one.passes(liveness), 30)
        assert stall.reached.wait(20)
        assert not one.passes(startup(REST))
        # As the TCP probe that Cloud Run has where a file says none would let them.
        held = HeldRequest(one.ports[PORT])
        with contextlib.closing(held):
            stall.released.set()
            assert held.finish().status == 200
        # The first answer may come before the start knows that all is loaded.
        one.process.wait_until(lambda: one.passes(startup(REST)), 5)


def test_an_instance_whose_storage_is_silent_is_given_up_and_ends_when_it_is_told_to(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    stall = Stall(after=100)
    proxy.use(on(stall, "GET", WEIGHTS))
    with started(REST, tmp_path, {"STORAGE_EMULATOR_HOST": proxy.url}) as one:
        assert stall.reached.wait(20)
        # Four minutes in one second.
        with pytest.raises(ProcessFailed, match="given up"):
            one.wait_until_started(startup(REST)._replace(period=0.1, failures=10))
        assert one.stop(WINDOW) == 0


def test_a_model_that_is_not_there_is_no_start(models: FakeGcs, tmp_path: Path) -> None:
    with started(REST, tmp_path, models.env(), {"DECANT_MODEL_PATH": "gs://my-models/none"}) as one:
        with pytest.raises(ProcessFailed):
            one.wait_until_started(startup(REST))
        assert one.process.exit_code == 3
        assert "gs://my-models/none" in one.process.log()


def test_a_download_that_is_frozen_goes_on_with_the_next_request(proxy: FaultProxy, tmp_path: Path) -> None:
    stall = Stall(after=1000)
    proxy.use(on(stall, "GET", WEIGHTS, nth=1))
    replaced = {"DECANT_LAZY": "true", "DECANT_LOAD_TIMEOUT": "1"}
    with started(REST, tmp_path, {"STORAGE_EMULATOR_HOST": proxy.url}, replaced) as one:
        one.wait_until_started(startup(REST))
        server = one.client(rest=PORT)
        refused = server.post("/v1/models/digits:predict", SEVEN)
        assert (refused.status, stall.reached.is_set()) == (503, True)
        assert int(refused.headers["retry-after"]) > 0
        one.freeze()
        # Connections do not outlive a freeze for long.
        proxy.break_connections()
        time.sleep(0.3)
        one.thaw()
        one.process.wait_until(lambda: server.post("/v1/models/digits:predict", SEVEN).status == 200, 20)
        assert digit(server) == 7


def test_cpu_during_requests_alone_is_enough_to_serve_and_to_find_a_new_version(
    models: FakeGcs, tmp_path: Path
) -> None:
    models.put_tree("my-models", "frozen", DIGITS)
    replaced = {"DECANT_MODEL_PATH": "gs://my-models/frozen", "DECANT_FILE_SYSTEM_POLL_WAIT_SECONDS": "0.3"}
    with started(REST, tmp_path, models.env(), replaced) as one:
        one.wait_until_started(startup(REST))
        kept = http.client.HTTPConnection("127.0.0.1", one.ports[PORT], timeout=30)
        with contextlib.closing(kept):
            kept.request("GET", "/v1/models/digits")
            kept.getresponse().read()
            one.freeze()
            # Cloud Run's front ends keep theirs through a freeze; a client's cut would be the same to a frozen process.
            kept.sock.shutdown(socket.SHUT_RDWR)
            models.put_tree("my-models", "frozen/2", DIGITS / "1")
        server, deadline = one.client(rest=PORT), time.monotonic() + 25
        versions: list[str] = []
        while versions != ["2", "1"] and time.monotonic() < deadline:
            one.thaw()
            assert digit(server) == 7
            statuses = server.get("/v1/models/digits").body["model_version_status"]
            versions = [each["version"] for each in statuses if each["state"] == "AVAILABLE"]
            one.freeze()
            time.sleep(0.2)
        assert versions == ["2", "1"]


def test_grpc_is_all_there_is_on_the_one_port_and_needs_no_tls(models: FakeGcs, tmp_path: Path) -> None:
    with started(GRPC, tmp_path, models.env()) as one:
        one.wait_until_started(startup(GRPC))
        port = one.ports[PORT]
        assert speaks_http2(port)
        with grpc.insecure_channel(f"{EVERY_ADDRESS}:{port}") as channel:
            assert digit_over_grpc(channel) == 7
        assert one.passes(read_probe(container_of(GRPC)["livenessProbe"], PORT))
        assert one.stop(WINDOW) == 0


def test_rest_is_no_http2(models: FakeGcs, tmp_path: Path) -> None:
    with started(REST, tmp_path, models.env()) as one:
        one.wait_until_started(startup(REST))
        assert not speaks_http2(one.ports[PORT])


def test_a_sidecar_is_there_for_the_application_before_that_starts(models: FakeGcs, tmp_path: Path) -> None:
    app = load(INFRA / "cloud_run" / SIDECAR)["spec"]["template"]["spec"]["containers"][0]
    told = {entry["name"]: entry["value"] for entry in app["env"]}
    with started(SIDECAR, tmp_path, models.env()) as one:
        one.wait_until_started(startup(SIDECAR))
        rest, grpc_port = (int(told[name].rpartition(":")[2]) for name in ("MODELS_REST_URL", "MODELS_GRPC_TARGET"))
        assert digit(one.client(rest=rest)) == 7
        with grpc.insecure_channel(f"127.0.0.1:{one.ports[grpc_port]}") as channel:
            assert digit_over_grpc(channel) == 7
        assert one.stop(WINDOW) == 0
