"""The container's health check, against servers that answer, refuse, or do not exist."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers import ovms
from infra.healthcheck import complaint, default_ports, setting
from tests.servers import ROOT
from tests.servers.processes import free_port

HEALTHCHECK = ROOT / "infra" / "healthcheck.py"


class Live(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/v2/health/live" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Dying(Live):
    status = 503


def serve(handler: type[Live]) -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def live() -> Iterator[int]:
    yield from serve(Live)


@pytest.fixture
def dying() -> Iterator[int]:
    yield from serve(Dying)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], ""),
        (["--rest_port", "80"], "80"),
        (["--rest-port", "80"], "80"),
        (["--rest_port=80"], "80"),
        (["--rest_port=80", "--rest-port", "81"], "81"),
        (["--port", "80"], ""),
        (["rest_port", "80"], ""),
        (["--rest_port"], ""),
    ],
)
def test_flags_are_read_as_the_server_reads_them(arguments: list[str], found: str) -> None:
    assert setting("rest_port", ["/opt/decant/bin/python", "decant", *arguments, ""], {}) == found


@pytest.mark.parametrize(
    ("arguments", "ports"),
    [
        (["/opt/decant/bin/python", "/opt/decant/bin/decant", "serve"], (8501, 8500)),
        (["/opt/decant/bin/python", "/opt/decant/bin/decant", "ovms", "--model_name", "m"], (0, ovms.DEFAULTS["port"])),
        (["/opt/decant/bin/python", "/ovms/bin/ovms", "--model_name", "m"], (0, ovms.DEFAULTS["port"])),
        (["/opt/decant/bin/python", "/opt/decant/bin/ie_serving", "model"], (0, 9000)),
        (["/opt/decant/bin/python", "/opt/decant/bin/decant", "--model_name", "ovms"], (8501, 8500)),
        ([], (8501, 8500)),
    ],
)
def test_each_command_has_its_own_ports(arguments: list[str], ports: tuple[int, int]) -> None:
    assert default_ports(arguments) == ports


def test_a_flag_wins_over_the_environment() -> None:
    environ = {"DECANT_REST_PORT": "80"}
    assert setting("rest_port", [], environ) == "80"
    assert setting("rest_port", ["--rest_port=81"], environ) == "81"


@pytest.mark.parametrize("variable", ["DECANT_REST_PORT", "PORT"])
def test_a_live_server_is_healthy(live: int, variable: str) -> None:
    assert complaint([], {variable: str(live)}) is None


def test_other_servers_commands_mind_the_platforms_port_on_cloud_run_alone(live: int) -> None:
    command = ["python", "/opt/decant/bin/ovms"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert complaint([*command, "--port", port], {"PORT": "1"}) is None
    assert complaint(command, {"PORT": str(live), "K_SERVICE": "s"}) is None


def test_what_kubernetes_says_of_a_service_is_no_port(live: int) -> None:
    assert complaint([], {"DECANT_REST_PORT": "tcp://10.0.0.1:8501", "PORT": str(live)}) is None


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "localhost"])
def test_it_asks_at_the_address_the_server_is_bound_to(live: int, address: str) -> None:
    assert complaint(["--rest_port", str(live), "--rest_bind_address", address], {}) is None


def test_a_server_that_answers_anything_but_200_is_not_healthy(dying: int) -> None:
    assert complaint(["--rest_port", str(dying)], {}) == "status 503"


def test_without_http_it_is_healthy_if_grpc_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert complaint(["--rest_port", "0", "--port", str(port)], {}) is None
    with pytest.raises(ConnectionRefusedError):
        complaint(["--rest_port", "0", "--port", str(port)], {})


def test_without_ports_it_is_healthy_if_the_socket_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    flags = ["--rest_port", "0", "--port=0", "--grpc_socket_path", path]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert complaint(flags, {}) is None
        # A port is looked at first: it is what most clients use.
        with pytest.raises(ConnectionRefusedError):
            complaint([*flags, "--port", str(free_port())], {})
    with pytest.raises(ConnectionRefusedError):
        complaint(flags, {})


def check(**environ: str) -> subprocess.CompletedProcess[str]:
    # As the Dockerfile has it; process 1 of this machine has no flags of Decant's.
    command = [sys.executable, "-IS", str(HEALTHCHECK)]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)


def test_the_exit_code_says_it(live: int) -> None:
    done = check(DECANT_REST_PORT=str(live))
    assert (done.returncode, done.stderr) == (0, "")


def test_no_server_is_one_line_and_exit_code_1() -> None:
    done = check(DECANT_REST_PORT=str(free_port()))
    assert done.returncode == 1
    assert done.stderr.startswith("no answer: ")
    assert len(done.stderr.splitlines()) == 1
