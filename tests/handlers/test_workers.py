"""Several processes on the same ports: real ones, with real signals, one of which is killed now and then."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
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
from tests.servers.fault_proxy import FaultProxy
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
    # Behind the one that stalls, it sees what is passed on.
    with (
        FaultProxy(s3.endpoint) as proxy,
        waiting_for_its_model(SeaweedFS(proxy.url, s3.readable_bucket), tmp_path, *flags) as (server, stall),
        in_flight(server) as reply,
    ):
        until(lambda: all(listens(worker, server.rest_port) for worker in workers(server)))
        assert statuses(server, "/v2/health/ready") == {503}
        server.process.signal(signal.SIGTERM)
        stall.released.set()
        assert reply.result().body["predictions"][0]["digit"] == 7
        assert server.process.wait() == 0
        # The other one has waited for the first, and found the files.
        assert [proxy.count("GET", rf"1/model\.{suffix}") for suffix in ("xml", "bin")] == [1, 1]
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
        # It is live as soon as one of them listens.
        until(lambda: listens(other, server.rest_port))
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


def test_a_worker_that_cannot_be_started_anew_is_tried_again_while_the_others_serve(tmp_path: Path) -> None:
    with serving(tmp_path, without_grpc=True) as server:
        supervisor = psutil.Process(server.process.pid)
        before = supervisor.rlimit(psutil.RLIMIT_NOFILE)
        # Enough to go on with what it has, and to open nothing.
        supervisor.rlimit(psutil.RLIMIT_NOFILE, (WORKERS + 1, before[1]))
        workers(server)[0].kill()
        until(lambda: "cannot be started: [Errno 24] Too many open files; another one starts in 0.3 s" in server.log())
        assert server.post(PREDICT, SEVEN).status == 200
        supervisor.rlimit(psutil.RLIMIT_NOFILE, before)
        until(lambda: len([each for each in workers(server) if listens(each, server.rest_port)]) == WORKERS)
        assert server.terminate() == 0


def test_if_one_cannot_be_started_to_begin_with_the_others_are_stopped(tmp_path: Path) -> None:
    # Standard input and the like, the port, what wakes it, the first worker, and one more while that is started.
    limited = """
import os, resource, runpy, sys
worker = sys.argv.pop(1)
if "_DECANT_WORKER" not in os.environ:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (8, before[1]))
    sys.executable = worker
runpy.run_module("handlers.cli", run_name="__main__")
"""
    # With as many as there were.
    worker = tmp_path / "worker"
    worker.write_text(
        f"#!{sys.executable}\nimport os, resource, sys\nresource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    worker.chmod(0o755)
    program = (sys.executable, "-c", limited, worker)
    with pytest.raises(ProcessFailed) as caught, serving(tmp_path, without_grpc=True, program=program):
        pass
    assert caught.value.exit_code == 3
    assert "worker 1 of 2 is process" in caught.value.log
    assert "cannot start 2 workers: [Errno 24] Too many open files" in caught.value.log
    assert "lifecycle: stopped" in caught.value.log
    assert "the supervisor has gone" not in caught.value.log


@pytest.mark.slow
def test_workers_that_keep_dying_are_given_up(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nif '_DECANT_WORKER' in os.environ:\n    os._exit(7)\n")
    with pytest.raises(ProcessFailed) as caught, serving(tmp_path, env={"PYTHONPATH": str(tmp_path)}):
        pass
    assert caught.value.exit_code == 3
    assert "has died by exit code 7, time 5 in a row; all end" in caught.value.log


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
        assert statuses(server, "/v1/models/digits/metadata") == {404}

        # Whoever comes later has what the others have.
        victim = workers(server)[0]
        victim.kill()
        until(lambda: victim not in workers(server) and len(workers(server)) == WORKERS)
        until(lambda: all(listens(worker, server.rest_port) for worker in workers(server)))
        assert statuses(server, "/v1/models/digits/metadata") == {404}
        assert statuses(server, "/v1/models/seven") == {200}
        assert server.terminate() == 0


def test_a_worker_that_dies_as_it_asks_for_other_models_takes_nobody_along(tmp_path: Path) -> None:
    with serving(tmp_path) as server, grpc.insecure_channel(server.grpc_address) as channel:
        grpc.channel_ready_future(channel).result(10)
        asked, other = sorted(workers(server), key=lambda worker: -connected(worker, server.grpc_port))
        other.suspend()
        request = schema.ReloadConfigRequest()
        request.config.model_config_list.config.add(name="seven", base_path=str(DIGITS))
        call: Any = channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
        reply = call.future(request.SerializeToString(), timeout=30)
        until(lambda: "loaded seven/1" in server.log())
        asked.kill()
        until(lambda: "has died by SIGKILL" in server.log())
        other.resume()
        assert reply.code() is grpc.StatusCode.UNAVAILABLE
        until(lambda: len([each for each in workers(server) if listens(each, server.rest_port)]) == WORKERS)
        assert other in workers(server)
        assert statuses(server, "/v1/models/digits") == {200}
        assert statuses(server, "/v1/models/seven/metadata") == {404}
        assert server.terminate() == 0


def test_a_worker_that_dies_as_it_replaces_the_models_begins_anew_with_those_of_the_others(tmp_path: Path) -> None:
    # It has said that it can, and not yet that it has.
    (tmp_path / "sitecustomize.py").write_text(
        """
import contextlib, logging, os, signal

def record(name, level, path, line, message, *args, **kwargs):
    if message.endswith("models are served now: %s"):
        # Whichever comes first.
        with contextlib.suppress(FileExistsError):
            os.mkdir("died")
            os.kill(os.getpid(), signal.SIGKILL)
    return logging.LogRecord(name, level, path, line, message, *args, **kwargs)

logging.setLogRecordFactory(record)
"""
    )
    with serving(tmp_path, env={"PYTHONPATH": str(tmp_path)}) as server:
        before = set(workers(server))
        # If it was the one who was asked.
        with suppress(grpc.RpcError):
            reload(server, seven=DIGITS)
        until(lambda: "has died by SIGKILL" in server.log())
        until(lambda: len([each for each in workers(server) if listens(each, server.rest_port)]) == WORKERS)
        assert len(before & set(workers(server))) == WORKERS - 1
        assert statuses(server, "/v1/models/seven") == {200}
        assert statuses(server, "/v1/models/digits/metadata") == {404}
        assert server.terminate() == 0


def test_a_worker_that_comes_later_takes_no_more_for_news_than_the_others(tmp_path: Path) -> None:
    file = tmp_path / "models.json"

    def write(name: str) -> None:
        entry = {"config": {"name": name, "base_path": str(DIGITS)}}
        (tmp_path / "new").write_text(json.dumps({"model_config_list": [entry]}))
        (tmp_path / "new").replace(file)

    write("digits")
    flags = ["--model_config_file", str(file), "--model_config_file_poll_wait_seconds", "0.1", "--workers", "2"]
    with decant_serve(tmp_path, *flags) as server:
        reload(server, seven=DIGITS)
        workers(server)[0].kill()
        until(lambda: "has died by SIGKILL" in server.log())
        until(lambda: len([each for each in workers(server) if listens(each, server.rest_port)]) == WORKERS)
        # Some looks at the file.
        time.sleep(0.5)
        assert statuses(server, "/v1/models/seven") == {200}
        assert statuses(server, "/v1/models/digits/metadata") == {404}
        write("eight")
        until(lambda: statuses(server, "/v1/models/eight") == {200})
        assert statuses(server, "/v1/models/seven/metadata") == {404}
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
