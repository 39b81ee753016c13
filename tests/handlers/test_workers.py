"""Several processes on the same ports: real ones, with real signals, one of which is killed now and then."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from runtime.codecs import schema
from tests.conftest import DIGITS
from tests.fakes import until
from tests.handlers.test_lifecycle import MODEL, PREDICT, SEVEN, in_flight, waiting_for_its_model
from tests.servers.decant import Decant, decant_serve
from tests.servers.processes import ProcessFailed
from tests.servers.seaweedfs import SeaweedFS

WORKERS = 2
MANY = 24
"""Connections, so that it is next to impossible that none comes to one of the workers."""


@contextmanager
def serving(directory: Path, *flags: str | Path, **options: Any) -> Iterator[Decant]:
    flags = (*MODEL, str(DIGITS), "--workers", str(WORKERS), *flags)
    with decant_serve(directory, *flags, **options) as server:
        yield server


def workers(server: Decant) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def connected(worker: psutil.Process, port: int) -> int:
    return sum(each.laddr.port == port and each.status == "ESTABLISHED" for each in worker.net_connections("tcp"))


def listens(worker: psutil.Process, port: int) -> bool:
    try:
        return any(each.laddr.port == port and each.status == "LISTEN" for each in worker.net_connections("tcp"))
    except psutil.NoSuchProcess:
        return False


@contextmanager
def connections(server: Decant) -> Iterator[list[http.client.HTTPConnection]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)))
            for _ in range(MANY)
        ]


def statuses(server: Decant, path: str) -> set[int]:
    """Of the answers of all workers."""
    found: set[int] = set()
    with connections(server) as all_of_them:
        for connection in all_of_them:
            connection.request("GET", path)
            found.add(connection.getresponse().status)
    return found


def reload(server: Decant, **models: Path) -> tuple[int, str]:
    request = schema.ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    for name, path in models.items():
        request.config.model_config_list.config.add(name=name, base_path=str(path))
    with grpc.insecure_channel(server.grpc_address) as channel:
        call: Any = channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
        response = schema.ReloadConfigResponse.FromString(call(request.SerializeToString(), timeout=30))
        return response.status.error_code, response.status.error_message


def test_all_workers_answer_on_the_same_ports(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        with connections(server) as all_of_them, ExitStack() as stack:
            for connection in all_of_them:
                connection.request("POST", PREDICT, b'{"instances": %b}' % str(SEVEN["instances"]).encode())
                assert b'"digit":7' in connection.getresponse().read()
            for _ in range(MANY):
                options = [("grpc.use_local_subchannel_pool", 1)]
                channel = stack.enter_context(grpc.insecure_channel(server.grpc_address, options))
                grpc.channel_ready_future(channel).result(10)
            for port in (server.rest_port, server.grpc_port):
                counts = [connected(worker, port) for worker in workers(server)]
                assert (sum(counts), len(counts), all(counts)) == (MANY, WORKERS, True)
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert not [name for name in ("openvino", "numpy", "grpc", "uvloop") if name in mapped]
        assert server.terminate() == 0
    assert f"all {WORKERS} workers are ready" in server.log()


def test_a_signal_drains_all_and_their_model_is_downloaded_once(s3: SeaweedFS, tmp_path: Path) -> None:
    flags = ["--workers", str(WORKERS)]
    with waiting_for_its_model(s3, tmp_path, *flags) as (server, stall), in_flight(server) as reply:
        until(lambda: all(listens(worker, server.rest_port) for worker in workers(server)))
        assert statuses(server, "/v2/health/ready") == {503}
        server.process.signal(signal.SIGTERM)
        stall.released.set()
        assert reply.result().body["predictions"][0]["digit"] == 7
        assert server.process.wait() == 0
    # The other one has waited for the first, and found the files.
    assert server.log().count("lifecycle: stopped") == WORKERS


def test_who_asks_twice_does_not_wait_for_requests(s3: SeaweedFS, tmp_path: Path) -> None:
    with waiting_for_its_model(s3, tmp_path, "--workers", str(WORKERS)) as (server, _), in_flight(server) as reply:
        children = workers(server)
        server.process.signal(signal.SIGTERM)
        server.process.wait_until(lambda: not _is_live(server), 10)
        server.process.signal(signal.SIGINT)
        assert server.process.wait() == 128 + signal.SIGINT
        assert psutil.wait_procs(children, 10)[1] == []
        assert isinstance(reply.exception(), (OSError, http.client.HTTPException))


def _is_live(server: Decant) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.rest_port)) == 0


def test_a_worker_that_is_killed_is_replaced_while_the_others_serve(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        victim, other = workers(server)
        victim.kill()
        until(lambda: victim not in workers(server))
        assert server.post(PREDICT, SEVEN).status == 200
        until(lambda: len(workers(server)) == WORKERS and all(listens(w, server.grpc_port) for w in workers(server)))
        assert other in workers(server)
        assert statuses(server, "/v1/models/digits") == {200}
        assert "has died by SIGKILL" in server.log()
        assert server.terminate() == 0


def test_no_worker_outlives_its_supervisor(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        children = workers(server)
        os.kill(server.process.pid, signal.SIGKILL)
        assert psutil.wait_procs(children, 10)[1] == []
    assert server.log().count("the supervisor has gone") == WORKERS


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--model_path", "/nowhere"], 3, "cannot start digits from /nowhere"),
        (["--plugin_config", '{"NO_SUCH": 1}'], 64, "Unsupported property NO_SUCH by CPU plugin"),
        (["--grpc_socket_path", "socket"], 64, "grpc_socket_path is given with workers 2; want workers 1"),
        (["--rest_bind_address", "192.0.2.1"], 3, "cannot start 2 workers: cannot listen on 192.0.2.1"),
    ],
    ids=["model", "property", "socket", "address"],
)
def test_workers_that_cannot_start_end_with_their_exit_code(
    flags: list[str], code: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ProcessFailed) as caught, serving(tmp_path, *flags):
        pass
    assert caught.value.exit_code == code
    assert said in caught.value.log
    assert "Traceback" not in caught.value.log


def test_a_port_that_somebody_listens_on_is_not_shared(tmp_path: Path) -> None:
    with serving(tmp_path / "first") as first, socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="Address already in use"):
            stranger.bind(("127.0.0.1", first.grpc_port))
        flags = ["--workers", "2", "--rest_port", str(first.rest_port)]
        with pytest.raises(ProcessFailed) as caught, decant_serve(tmp_path, *MODEL, str(DIGITS), *flags):
            pass
    assert caught.value.exit_code == 3
    assert f"cannot listen on 127.0.0.1:{first.rest_port}: Address already in use" in caught.value.log


@pytest.mark.slow
def test_workers_that_keep_dying_are_given_up(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nif '_DECANT_WORKER' in os.environ:\n    os._exit(7)\n")
    with pytest.raises(ProcessFailed) as caught, serving(tmp_path, env={"PYTHONPATH": str(tmp_path)}):
        pass
    assert caught.value.exit_code == 3
    assert "times in a row, now by exit code 7; all end" in caught.value.log


def test_models_are_replaced_in_all_workers_or_in_none(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        broken = tmp_path / "broken"
        (broken / "1").mkdir(parents=True)
        (broken / "1" / "model.xml").write_text("no model")
        with pytest.raises(grpc.RpcError) as caught:
            reload(server, digits=DIGITS, broken=broken)
        assert "broken" in str(caught.value)
        assert statuses(server, "/v1/models/broken") == {404}

        assert reload(server, seven=DIGITS) == (0, "")
        assert statuses(server, "/v1/models/seven") == {200}
        assert statuses(server, "/v1/models/digits") == {404}

        # Whoever comes later has what the others have.
        victim = workers(server)[0]
        victim.kill()
        until(lambda: victim not in workers(server) and len(workers(server)) == WORKERS)
        until(lambda: all(listens(worker, server.rest_port) for worker in workers(server)))
        assert statuses(server, "/v1/models/digits") == {404}
        assert statuses(server, "/v1/models/seven") == {200}
        assert server.terminate() == 0


def test_memory_is_divided_among_workers(tmp_path: Path) -> None:
    with serving(tmp_path, "--memory_budget", "100M", without_grpc=True) as server:
        assert server.get("/v1/cache").body["memory"]["budget"] == (100 << 20) // WORKERS


def test_with_0_there_is_one_worker_for_each_cpu(tmp_path: Path) -> None:
    program = (
        sys.executable,
        "-c",
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.execv(sys.argv[1], sys.argv[1:])",
        sys.executable,
        "-m",
        "handlers.cli",
    )
    with serving(tmp_path, "--workers", "0", without_grpc=True, program=program) as server:
        assert len(workers(server)) == 1
        assert "worker 1 of 1" in server.log()
