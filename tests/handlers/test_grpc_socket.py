"""The UNIX socket: whose it is, where it is, and that it goes with the server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from handlers.grpc_sidecar import GrpcServer
from tests.fakes import PATIENCE
from tests.handlers.grpc_front import SERVING, Y, listening, outcome, predict, request_of, stub
from tests.runtime import models
from tests.runtime.servables import Stage, stage
from tests.servers.decant import decant_serve
from tests.servers.processes import free_port


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(1, 2) as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "grpc.sock")


def test_a_socket_answers_as_the_port_does(s: Stage, path: str) -> None:
    port = free_port()
    with listening(s.server, port, socket_path=path):
        for target in (f"127.0.0.1:{port}", f"unix:{path}"):
            with grpc.insecure_channel(target) as channel:
                assert predict(channel) == Y


@pytest.mark.parametrize("name", ["a b%20c#d?e.sock", "é.sock", "grpc:1.sock"])
def test_a_socket_is_where_it_is_said_to_be_and_gone_with_the_server(name: str, s: Stage, tmp_path: Path) -> None:
    with listening(s.server, socket_path=str(tmp_path / name)):
        assert [entry.name for entry in tmp_path.iterdir()] == [name]
        # By way of a name that needs no quoting.
        (tmp_path / "link").symlink_to(tmp_path / name)
        with grpc.insecure_channel(f"unix:{tmp_path / 'link'}") as channel:
            assert predict(channel) == Y
    assert [entry.name for entry in tmp_path.iterdir()] == ["link"]


def test_a_socket_may_be_below_the_working_directory(s: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with listening(s.server, socket_path="grpc.sock"), grpc.insecure_channel(f"unix:{tmp_path}/grpc.sock") as channel:
        assert predict(channel) == Y


def test_what_a_dead_process_left_is_replaced(s: Stage, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with listening(s.server, socket_path=path), grpc.insecure_channel(f"unix:{path}") as channel:
        assert predict(channel) == Y


def test_a_socket_that_somebody_listens_on_is_left_alone(s: Stage, path: str) -> None:
    with listening(s.server, socket_path=path), grpc.insecure_channel(f"unix:{path}") as channel:
        with pytest.raises(OSError, match=f"^cannot listen on {path}: another process does$"):
            GrpcServer(s.server, "127.0.0.1", 0, max_in_flight=1, socket_path=path).start()
        assert predict(channel) == Y


def test_of_several_that_start_at_once_one_gets_the_socket(s: Stage, path: str) -> None:
    def start(front: GrpcServer) -> bool:
        barrier.wait(PATIENCE)
        try:
            front.start()
        except OSError:
            return False
        return True

    barrier = threading.Barrier(4)
    for _ in range(10):
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        fronts = [GrpcServer(s.server, "127.0.0.1", 0, max_in_flight=1, socket_path=path) for _ in range(4)]
        with ThreadPoolExecutor(len(fronts)) as pool:
            started = list(pool.map(start, fronts))
        with grpc.insecure_channel(f"unix:{path}") as channel:
            answered = outcome(predict, channel)
        for front in fronts:
            front.drain(PATIENCE)
        assert (started.count(True), answered) == (1, grpc.StatusCode.OK)


def test_a_socket_that_is_busy_counts_as_listened_on(s: Stage, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(path)
        busy.listen(0)
        waiting.connect(path)
        with pytest.raises(OSError, match="another process may"):
            GrpcServer(s.server, "127.0.0.1", 0, max_in_flight=1, socket_path=path).start()
        assert Path(path).is_socket()


def test_what_is_no_socket_is_left_alone(s: Stage, path: str) -> None:
    Path(path).write_text("precious")
    with pytest.raises(OSError, match="there is something else; want a socket, or nothing"):
        GrpcServer(s.server, "127.0.0.1", 0, max_in_flight=1, socket_path=path).start()
    assert Path(path).read_text() == "precious"


def test_a_path_longer_than_sockets_have_is_told_of(s: Stage, tmp_path: Path) -> None:
    longest = str(tmp_path / "é").ljust(107 - 1, "x")
    assert len(os.fsencode(longest)) == 107
    with listening(s.server, socket_path=longest):
        assert Path(longest).is_socket()
    with pytest.raises(OSError, match="it has 108 bytes; want 107 at most"):
        GrpcServer(s.server, "127.0.0.1", 0, max_in_flight=1, socket_path=longest + "x").start()


def test_a_directory_that_is_not_there_is_told_of(s: Stage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        GrpcServer(s.server, "127.0.0.1", 0, max_in_flight=1, socket_path=str(tmp_path / "absent" / "s")).start()


def test_the_real_server_takes_a_socket_over_from_one_that_crashed(tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    models.save(models.doubler(), tmp_path / "model")
    flags = ["--model_name", "doubler", "--model_path", str(tmp_path / "model"), "--grpc_socket_path", str(path)]
    with decant_serve(tmp_path / "first", *flags) as crashing:
        crashing.process.signal(signal.SIGKILL)
        crashing.process.wait()
    assert path.is_socket()
    # A socket is enough.
    with decant_serve(tmp_path / "second", *flags, without_rest=True, without_grpc=True, wait=False) as server:
        server.process.wait_until(lambda: "ready: doubler/1" in server.log(), 30)
        with decant_serve(tmp_path / "third", *flags, wait=False) as refused:
            assert refused.process.wait(30) == 3
        assert f"cannot listen on {path}: another process does" in refused.log()
        with grpc.insecure_channel(f"unix:{path}") as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            assert answer.status == SERVING
            response = stub(channel)(request_of("doubler", np.ones((1, 2), np.float32)), timeout=PATIENCE)
        assert response.model_spec.version.value == 1
        assert server.terminate() == 0
    assert not path.exists()
