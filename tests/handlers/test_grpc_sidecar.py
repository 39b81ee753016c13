"""What only the real gRPC front shows: message sizes, deadlines, health, and its drain."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from handlers.grpc_sidecar import GrpcServer
from handlers.ports import hold
from model_cache.cache import ModelCache
from model_cache.local import LocalStorage
from model_cache.repository import ModelRepository, ModelVersion
from runtime.codecs import schema
from runtime.servable import Servable
from runtime.server import ModelServer
from tests.fakes import PATIENCE, until
from tests.handlers.grpc_front import PREDICT, SERVING, UNLIMITED, X, Y, listening, outcome, predict, request_of, stub
from tests.runtime import models
from tests.runtime.servables import NAME, Stage, stage
from tests.servers.decant import Decant, decant_serve
from tests.servers.fault_proxy import FaultProxy, Stall, on
from tests.servers.processes import free_port
from tests.servers.seaweedfs import SeaweedFS


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(1, 2) as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "grpc.sock")


def test_messages_far_above_grpcs_own_limit_go_both_ways(doubler: Decant) -> None:
    array = np.arange(16 << 20, dtype=np.float32).reshape(-1, 2)
    with grpc.insecure_channel(doubler.grpc_address, options=UNLIMITED) as channel:
        answer = doubled(channel, array)
        # In bfloat16, perhaps: powers of two pass through it unharmed.
        powers = 2 ** np.arange(24)
        assert answer[powers].tolist() == (2 * powers).tolist()
        assert answer.shape == (16 << 20,)

        garbage: Any = channel.unary_unary(PREDICT)
        assert outcome(garbage, b"\xff not a message", timeout=60) is grpc.StatusCode.INVALID_ARGUMENT
        assert doubled(channel, array[:1]).tolist() == [0, 2]


@pytest.mark.slow
def test_messages_of_300_megabytes_go_both_ways(doubler: Decant) -> None:
    array = np.ones((75 << 19, 2), np.float32)
    assert array.nbytes == 300 << 20
    with grpc.insecure_channel(doubler.grpc_address, options=UNLIMITED) as channel:
        answer = doubled(channel, array)
    assert answer.shape == (75 << 20,)
    assert np.all(answer == 2)


@pytest.fixture(scope="module")
def doubler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    directory = tmp_path_factory.mktemp("doubler")
    models.save(models.doubler(), directory / "model")
    flags = ["--model_name", "doubler", "--model_path", str(directory / "model")]
    with decant_serve(directory, *flags, without_rest=True) as server:
        yield server


def doubled(channel: grpc.Channel, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    response = stub(channel)(request_of("doubler", array), timeout=60)
    return np.frombuffer(b"".join(response.outputs["y"].float_val), "<f4")


def test_a_caller_whose_model_does_not_come_in_time_makes_room_for_the_next(s3: SeaweedFS, tmp_path: Path) -> None:
    stall = Stall(after=1000)
    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(stall, path=r"model\.bin"))
        env = dataclasses.replace(s3.reader, endpoint=proxy.url).env()
        flags = ["--model_name", "digits", "--model_path", "s3://models/digits", "--max_in_flight", "1"]
        with (
            decant_serve(tmp_path, *flags, env=env, wait=False) as server,
            grpc.insecure_channel(server.grpc_address) as channel,
        ):
            server.process.wait_until(stall.reached.is_set, 30)
            request = schema.PredictRequest(model_spec={"name": "digits"})
            request.inputs["image"].dtype = 1
            for size in (1, 8, 8):
                request.inputs["image"].tensor_shape.dim.add(size=size)

            def call(timeout: float) -> grpc.StatusCode:
                return outcome(stub(channel), request, timeout=timeout)

            # Once it listens.
            check = health_pb2_grpc.HealthStub(channel).Check
            check(health_pb2.HealthCheckRequest(), timeout=PATIENCE, wait_for_ready=True)
            assert call(0.5) is grpc.StatusCode.DEADLINE_EXCEEDED
            # The client says so by itself. Only a server that has given up too has room for another call; one that
            # still waits refuses it.
            until(lambda: call(0.5) is grpc.StatusCode.DEADLINE_EXCEEDED)
            assert not stall.released.is_set()
            stall.released.set()
            until(lambda: call(PATIENCE) is grpc.StatusCode.OK)


def test_a_caller_whose_turn_does_not_come_in_time_makes_room_for_the_next(tmp_path: Path) -> None:
    models.save(models.slow(), tmp_path / "model")
    files = models.files_at(tmp_path)
    cache = ModelCache[ModelVersion, Servable](models.loader(files), 1 << 30)
    server = ModelServer(
        {"slow": ModelRepository("slow", LocalStorage(tmp_path / "model"))}, cache, files, load_timeout=60
    )
    port = free_port()
    with contextlib.closing(server), server.lease("slow") as lease:
        concurrency = lease.servable.concurrency
        with (
            listening(server, port, max_in_flight=concurrency + 1),
            grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel,
        ):
            short = request_of("slow", np.ones((1, 512), np.float32))
            long = request_that_takes(2.5, channel)
            running = [stub(channel).future(long, timeout=60) for _ in range(concurrency)]

            def call() -> grpc.StatusCode:
                return outcome(stub(channel), short, timeout=0.1)

            for _ in range(3):
                # As above: refused is who comes while the one before is still waiting.
                until(lambda: call() is grpc.StatusCode.DEADLINE_EXCEEDED)
            assert not any(future.done() for future in running)
            assert {outcome(future.result) for future in running} == {grpc.StatusCode.OK}
            assert outcome(stub(channel), short, timeout=PATIENCE) is grpc.StatusCode.OK


def request_that_takes(seconds: float, channel: grpc.Channel) -> Any:
    """A request for the slow model, made for this machine."""
    rows = 500
    for _ in range(2):
        # The second is without what the first has to set up.
        began = time.monotonic()
        stub(channel)(request_of("slow", np.ones((rows, 512), np.float32)), timeout=60)
    rows = int(rows * seconds / (time.monotonic() - began))
    return request_of("slow", np.ones((rows, 512), np.float32))


def test_health_is_told_over_a_socket_alone(s: Stage, path: str) -> None:
    with listening(s.server, socket_path=path) as front, grpc.insecure_channel(f"unix:{path}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        services = ["", "tensorflow.serving.PredictionService", "ModelService"]
        requests = [health_pb2.HealthCheckRequest(service=service) for service in services]
        assert all(check(request, timeout=PATIENCE).status != SERVING for request in requests)
        front.set_ready()
        assert all(check(request, timeout=PATIENCE).status == SERVING for request in requests)
        unknown = health_pb2.HealthCheckRequest(service="other")
        assert outcome(check, unknown, timeout=PATIENCE) is grpc.StatusCode.NOT_FOUND


def test_a_drain_lets_calls_finish_and_takes_no_new_ones(s: Stage, path: str) -> None:
    gate = s.loader.hold(2)
    front = GrpcServer(s.server, "127.0.0.1", 0, max_in_flight=4, socket_path=path)
    front.start()
    front.set_ready()
    with grpc.insecure_channel(f"unix:{path}") as channel, ThreadPoolExecutor(1) as pool:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert next(watch).status == SERVING
        in_flight = stub(channel).future(request_of(NAME, X), timeout=PATIENCE)
        gate.wait_until_reached()
        drain = pool.submit(front.drain, PATIENCE)
        assert next(watch).status != SERVING
        # Nobody else gets in.
        until(lambda: not Path(path).exists())
        with grpc.insecure_channel(f"unix:{path}") as late:
            # The second if it has come while the door was closing.
            assert outcome(predict, late) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert not in_flight.done()
        gate.open()
        assert in_flight.result().model_spec.version.value == 2
        watch.cancel()
        assert drain.result() is True


def test_a_drain_has_an_end(s: Stage, path: str) -> None:
    gate = s.loader.hold(2)
    front = GrpcServer(s.server, "127.0.0.1", 0, max_in_flight=4, socket_path=path)
    front.start()
    with grpc.insecure_channel(f"unix:{path}") as channel:
        in_flight = stub(channel).future(request_of(NAME, X), timeout=PATIENCE)
        gate.wait_until_reached()
        front.drain(0.05)
        assert outcome(in_flight.result) is not grpc.StatusCode.OK
    gate.open()
    assert not Path(path).exists()


def test_several_servers_share_a_port_that_nobody_else_gets(s: Stage) -> None:
    port = free_port()
    with listening(s.server, port, workers=3) as front, contextlib.ExitStack() as channels:
        front.set_ready()
        sockets = [end for end in psutil.Process().net_connections("tcp") if end.laddr.port == port]
        assert [end.status for end in sockets].count("LISTEN") == 3
        for _ in range(12):
            # A connection of its own, which may be any server's.
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = channels.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options=options))
            assert predict(channel) == Y
            assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == SERVING
        for workers in (1, 2):
            other = GrpcServer(s.server, "127.0.0.1", port, max_in_flight=4, workers=workers)
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
                other.start()
            other.drain(PATIENCE)
    with contextlib.closing(hold("127.0.0.1", port)):
        pass


def test_a_socket_is_one_servers_of_several(s: Stage, path: str) -> None:
    with listening(s.server, socket_path=path, workers=2), grpc.insecure_channel(f"unix:{path}") as channel:
        assert predict(channel) == Y


@pytest.mark.parametrize(("threads", "is_answered"), [(1, False), (2, True)])
def test_calls_are_answered_in_so_many_threads(s: Stage, path: str, threads: int, is_answered: bool) -> None:
    gate = s.loader.hold(2)
    with (
        listening(s.server, socket_path=path, max_threads=threads),
        grpc.insecure_channel(f"unix:{path}") as channel,
    ):
        waiting = stub(channel).future(request_of(NAME, X), timeout=PATIENCE)
        gate.wait_until_reached()
        check, request = health_pb2_grpc.HealthStub(channel).Check, health_pb2.HealthCheckRequest()
        code = outcome(check, request, timeout=PATIENCE if is_answered else 0.3)
        assert code is (grpc.StatusCode.OK if is_answered else grpc.StatusCode.DEADLINE_EXCEEDED)
        gate.open()
        assert waiting.result().model_spec.version.value == 2
        assert outcome(check, request, timeout=PATIENCE) is grpc.StatusCode.OK


def test_channel_arguments_come_before_ours(s: Stage, path: str) -> None:
    arguments = {"grpc.max_receive_message_length": 100}
    with (
        listening(s.server, socket_path=path, channel_arguments=arguments),
        grpc.insecure_channel(f"unix:{path}") as channel,
    ):
        assert predict(channel) == Y
        large = request_of(NAME, np.zeros(100, np.float32))
        assert outcome(stub(channel), large, timeout=PATIENCE) is grpc.StatusCode.RESOURCE_EXHAUSTED
