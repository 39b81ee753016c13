"""Start, drain and exit of a real process, with real signals and a request in flight."""

from __future__ import annotations

import dataclasses
import http.client
import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import DIGITS
from tests.servers.decant import DECANT, Decant, Reply, decant_serve
from tests.servers.fault_proxy import FaultProxy, Stall, on
from tests.servers.ovms_client import OvmsClient
from tests.servers.processes import Process, clean_environment, free_port
from tests.servers.seaweedfs import SeaweedFS

SEVEN = json.loads((DIGITS / "seven.json").read_bytes())
PREDICT = "/v1/models/digits:predict"
MODEL = ["--model_name", "digits", "--model_path"]


@contextmanager
def waiting_for_its_model(s3: SeaweedFS, directory: Path, *flags: str) -> Iterator[tuple[Decant, Stall]]:
    """A server that listens, and whose download stands still until the stall is released."""
    stall = Stall(after=1000)
    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(stall, "GET", r"model\.bin"))
        env = dataclasses.replace(s3.reader, endpoint=proxy.url).env()
        with decant_serve(directory, *MODEL, "s3://models/digits", *flags, env=env, wait=False) as server:
            server.process.wait_until(stall.reached.is_set, 30)
            server.process.wait_until(lambda: _is_live(server), 30)
            yield server, stall


def _is_live(server: Decant) -> bool:
    try:
        return server.get("/v2/health/live").status == 200
    except (OSError, http.client.HTTPException):
        return False


@contextmanager
def in_flight(server: Decant) -> Iterator[Future[Reply]]:
    """A predict that the server has read and not answered; it waits for the model."""
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(server.post, PREDICT, SEVEN)
        # There is no event for "has read it"; a later request on another connection that is answered comes close.
        for _ in range(20):
            assert server.get("/v2/health/live").status == 200
        assert not reply.done()
        yield reply


def test_a_request_that_comes_before_the_model_waits_for_it(s3: SeaweedFS, tmp_path: Path) -> None:
    with waiting_for_its_model(s3, tmp_path) as (server, stall), in_flight(server) as reply:
        assert server.get("/v2/health/ready").status == 503
        (status,) = server.get("/v1/models/digits").body["model_version_status"]
        assert status["state"] == "LOADING"
        stall.released.set()
        assert reply.result().body["predictions"][0]["digit"] == 7
        # Who has loaded it may take a moment longer to say so.
        server.wait_ready(10)
    assert "did not warm up digits/1 with zeros, as requests wait for it" in server.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_request_in_flight_finish_and_exits_0(
    number: signal.Signals, s3: SeaweedFS, tmp_path: Path
) -> None:
    with waiting_for_its_model(s3, tmp_path) as (server, stall), in_flight(server) as reply:
        server.process.signal(number)
        server.process.wait_until(lambda: not _accepts(server), 10)
        stall.released.set()
        assert reply.result().body["predictions"][0]["digit"] == 7
        assert server.process.wait() == 0
    assert server.log().splitlines()[-1].endswith("stopped")


def _accepts(server: Decant) -> bool:
    try:
        server.get("/v2/health/live")
    # Refused; or reset, if it was let in and closed with the listening socket.
    except (OSError, http.client.HTTPException):
        return False
    return True


def test_a_signal_ends_a_start_that_is_still_downloading(s3: SeaweedFS, tmp_path: Path) -> None:
    with waiting_for_its_model(s3, tmp_path) as (server, _):
        before = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - before < 5


def test_the_drain_has_an_end(s3: SeaweedFS, tmp_path: Path) -> None:
    flags = ["--shutdown_timeout", "0.5"]
    with waiting_for_its_model(s3, tmp_path, *flags) as (server, _), in_flight(server) as reply:
        before = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - before < 10
        with pytest.raises((OSError, http.client.HTTPException)):
            reply.result()
    assert "stopped with requests unfinished after 0.5 s" in server.log()


def test_a_second_signal_does_not_wait(s3: SeaweedFS, tmp_path: Path) -> None:
    with waiting_for_its_model(s3, tmp_path, "--shutdown_timeout", "60") as (server, _), in_flight(server) as reply:
        server.process.signal(signal.SIGTERM)
        server.process.wait_until(lambda: not _accepts(server), 10)
        server.process.signal(signal.SIGTERM)
        assert server.process.wait() == 128 + signal.SIGTERM
        with pytest.raises((OSError, http.client.HTTPException)):
            reply.result()


def test_an_idle_server_stops_at_once_over_both_fronts(tmp_path: Path) -> None:
    with decant_serve(tmp_path, *MODEL, str(DIGITS)) as server:
        idle = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=10)
        idle.request("GET", "/v2/health/live")
        idle.getresponse().read()
        assert server.terminate() == 0
        idle.close()
    assert "stopped with requests unfinished" not in server.log()


def test_grpc_alone_serves_and_reports_its_health(tmp_path: Path) -> None:
    with decant_serve(tmp_path, *MODEL, str(DIGITS), without_rest=True) as server:
        assert server.is_ready()
        assert OvmsClient(server.grpc_address).status("digits")[1]["state"] == "AVAILABLE"
        assert server.terminate() == 0


def test_the_platforms_port_is_used_and_no_subcommand_is_needed(tmp_path: Path) -> None:
    port = free_port()
    env = {"PORT": str(port), "DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": str(DIGITS), "DECANT_PORT": "0"}
    with Process(DECANT, tmp_path / "log", env=clean_environment(env), cwd=tmp_path) as process:
        server = Decant(process, port, 0)
        server.wait_ready()
        assert server.post(PREDICT, SEVEN).body["predictions"][0]["digit"] == 7
        assert server.terminate() == 0


def test_more_requests_than_may_be_in_flight_are_refused(s3: SeaweedFS, tmp_path: Path) -> None:
    with waiting_for_its_model(s3, tmp_path, "--max_in_flight", "1") as (server, stall), in_flight(server) as reply:
        refused = server.post(PREDICT, SEVEN)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "1 requests are in flight" in refused.body["error"]
        stall.released.set()
        assert reply.result().status == 200


def test_a_body_larger_than_the_flag_says_is_refused(tmp_path: Path) -> None:
    with decant_serve(tmp_path, *MODEL, str(DIGITS), "--max-body-size", "100", without_grpc=True) as server:
        assert server.post(PREDICT, SEVEN).status == 413
        reply = server.post(PREDICT, b'{"instances": [1]}')
        assert reply.status == 400


def test_without_tls_a_start_does_not_take_the_time_to_import_it(tmp_path: Path) -> None:
    program = (DECANT[0], "-X", "importtime", *DECANT[1:])
    with decant_serve(tmp_path, *MODEL, str(DIGITS), program=program) as server:
        imported = {line.rpartition("|")[2].strip() for line in server.log().splitlines() if "import time:" in line}
    assert "handlers.grpc_sidecar" in imported
    assert "handlers.tls" not in imported


def test_at_warning_level_a_good_run_says_nothing(tmp_path: Path) -> None:
    with decant_serve(tmp_path / "quiet", *MODEL, str(DIGITS), "--log_level", "WARNING") as server:
        assert server.terminate() == 0
    assert server.log() == ""
