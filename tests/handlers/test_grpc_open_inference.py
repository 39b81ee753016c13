"""What only the real gRPC front shows of GRPCInferenceService: statuses, streams, health, reflection and its drain."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from handlers.grpc_sidecar import GrpcServer
from runtime.metrics import Metrics
from runtime.rpc import MESSAGE_PATIENCE, Outcome, Waits
from runtime.servicers import OPEN_INFERENCE, service_handlers
from runtime.streams import STREAM_PATIENCE, Streams
from tests.fakes import PATIENCE, Clock, Gate, until
from tests.handlers.grpc_front import PREDICT, UNLIMITED, X, Y, listening, outcome, predict, request_of
from tests.runtime.open_inference import oracle
from tests.runtime.servables import NAME, HalfPlusTwo, Stage, stage

PREFIX = f"/{OPEN_INFERENCE}/"
LARGE = np.zeros(1 << 20, np.float32)
"""Answered with 12 MiB, far more than gRPC has on its way."""
Answer = Any


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(1, 2) as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "grpc.sock")


@contextlib.contextmanager
def front(s: Stage, path: str, **options: Any) -> Iterator[tuple[GrpcServer, grpc.Channel]]:
    with (
        listening(s.server, socket_path=path, **options) as listens,
        grpc.insecure_channel(f"unix:{path}", options=UNLIMITED) as channel,
    ):
        yield listens, channel


def wanted(**changes: Any) -> Any:
    return oracle.request(**{"name": NAME, "x": X, **changes})


def unary(channel: grpc.Channel, method: str, answer: str = "Empty") -> Any:
    """What takes a message and a timeout."""
    return channel.unary_unary(
        PREFIX + method,
        request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
        response_deserializer=oracle.message(answer).FromString,
    )


def infer(channel: grpc.Channel, request: Any = None, timeout: float = PATIENCE) -> list[float]:
    answer = unary(channel, "ModelInfer", "ModelInferResponse")(request or wanted(), timeout=timeout)
    y: list[float] = oracle.arrays(answer)["y"].tolist()
    return y


class Stream:
    """A client's, of messages that are sent when the test says so."""

    def __init__(self, channel: grpc.Channel, timeout: float | None = PATIENCE) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        send: Any = channel.stream_stream(f"{PREFIX}ModelStreamInfer")
        self.call: Any = send(iter(self._requests.get, None), timeout=timeout)

    def send(self, *requests: Any) -> None:
        for request in requests:
            self._requests.put(request if isinstance(request, bytes) else request.SerializeToString())

    def end(self) -> None:
        self._requests.put(None)

    def receive(self) -> Answer:
        return oracle.ModelStreamInferResponse.FromString(next(self.call))

    def ask(self, request: Any) -> Answer:
        self.send(request)
        return self.receive()

    def code_or_answer(self) -> grpc.StatusCode | list[float]:
        """The next answer, or how it ends without one."""
        try:
            return y_of(self.receive())
        except grpc.RpcError as exc:
            code: grpc.StatusCode = exc.code()
            return code

    def code(self) -> grpc.StatusCode:
        """How it ends."""
        for _ in range(1000):
            try:
                next(self.call)
            except StopIteration:
                return grpc.StatusCode.OK
            except grpc.RpcError as exc:
                code: grpc.StatusCode = exc.code()
                return code
        raise AssertionError("it does not end")


@contextlib.contextmanager
def streamed(channel: grpc.Channel, timeout: float | None = PATIENCE) -> Iterator[Stream]:
    stream = Stream(channel, timeout)
    try:
        yield stream
    finally:
        stream.end()
        stream.call.cancel()


def y_of(answer: Answer) -> list[float]:
    assert not answer.error_message
    y: list[float] = oracle.arrays(answer.infer_response)["y"].tolist()
    return y


def test_both_protocols_are_answered_on_one_port(s: Stage, path: str) -> None:
    with front(s, path) as (_, channel):
        assert infer(channel) == predict(channel) == Y


@pytest.mark.parametrize(
    ("method", "request_", "code", "details"),
    [
        ("ModelInfer", wanted(name="other"), "NOT_FOUND", "Servable not found for request: Latest(other)"),
        ("ModelInfer", wanted(version="x"), "INVALID_ARGUMENT", "invalid model version format in request"),
        ("ModelInfer", b"\xff not a message", "INVALID_ARGUMENT", "the message is no ModelInferRequest"),
        ("ModelReady", oracle.message("NameAndVersion")(name="other"), "NOT_FOUND", ""),
        # What Triton has besides.
        ("SystemSharedMemoryStatus", b"", "UNIMPLEMENTED", "Method not found!"),
        ("CudaSharedMemoryRegister", b"", "UNIMPLEMENTED", "Method not found!"),
        ("TraceSetting", b"", "UNIMPLEMENTED", "Method not found!"),
        ("LogSettings", b"", "UNIMPLEMENTED", "Method not found!"),
    ],
)
def test_what_cannot_be_answered_has_a_status(
    s: Stage, path: str, method: str, request_: Any, code: str, details: str
) -> None:
    with front(s, path) as (_, channel):
        with pytest.raises(grpc.RpcError) as caught:
            unary(channel, method)(request_, timeout=PATIENCE)
        error: Any = caught.value
        assert (error.code().name, details in error.details()) == (code, True)


def test_it_is_ready_when_the_health_service_says_so(s: Stage, path: str) -> None:
    with front(s, path) as (listens, channel):
        health = health_pb2_grpc.HealthStub(channel)

        def told() -> tuple[bool, set[bool]]:
            ready = unary(channel, "ServerReady", "Ready")(b"", timeout=PATIENCE).ready
            names = ("", OPEN_INFERENCE, "GRPCInferenceService")
            answers = [health.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE) for name in names]
            return ready, {answer.status == health_pb2.HealthCheckResponse.SERVING for answer in answers}

        assert told() == (False, {False})
        listens.set_ready()
        assert told() == (True, {True})
        assert unary(channel, "ServerLive", "Live")(b"", timeout=PATIENCE).live


def test_who_watches_the_health_service_is_told_when_it_changes(s: Stage, path: str) -> None:
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    with front(s, path, max_threads=1) as (listens, channel):
        watching: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert next(watching).status == not_serving
        listens.set_ready()
        assert next(watching).status == serving
        # It takes no thread meanwhile.
        assert infer(channel) == Y
        thread, _ = drain_behind(listens)
        assert next(watching).status == not_serving
        watching.cancel()
        thread.join(PATIENCE)


def test_tools_build_messages_from_what_reflection_tells_them(s: Stage, path: str) -> None:
    with front(s, path, has_reflection=True) as (_, channel):
        database = ProtoReflectionDescriptorDatabase(channel)
        assert OPEN_INFERENCE in database.get_services()
        pool: Any = DescriptorPool(database)
        methods = pool.FindServiceByName(OPEN_INFERENCE).methods_by_name
        assert methods["ModelStreamInfer"].client_streaming
        assert methods["ModelStreamInfer"].server_streaming
        request: Any = GetMessageClass(methods["ModelInfer"].input_type)(model_name=NAME)
        one = request.inputs.add(name="x", datatype="FP32", shape=[3])
        one.contents.fp32_contents.extend(X.tolist())
        assert infer(channel, request) == Y


def test_messages_of_a_stream_are_answered_in_order(s: Stage, path: str) -> None:
    with front(s, path) as (_, channel), streamed(channel) as stream:
        stream.send(*(wanted(id=str(i), x=X + i) for i in range(50)))
        for i in range(50):
            answer = stream.receive()
            assert answer.infer_response.id == str(i)
            assert y_of(answer) == ((X + i) / 2 + 2).tolist()
        stream.end()
        assert stream.code() is grpc.StatusCode.OK


def test_a_stream_goes_on_after_an_error(s: Stage, path: str) -> None:
    with front(s, path) as (_, channel), streamed(channel) as stream:
        refused = [wanted(id="1", name="other"), wanted(id="2", z=X), b"\xff not a message"]
        for i, request in enumerate(refused):
            answer = stream.ask(request)
            assert answer.error_message
            assert answer.infer_response.id == (str(i + 1) if i < 2 else "")
            assert y_of(stream.ask(wanted())) == Y
        stream.end()
        assert stream.code() is grpc.StatusCode.OK


def test_a_stream_without_a_message_is_ended(s: Stage, path: str) -> None:
    with front(s, path) as (_, channel), streamed(channel) as stream:
        stream.end()
        assert stream.code() is grpc.StatusCode.OK


class Waiting(HalfPlusTwo):
    """Takes until it is told to go on, the first time."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.gate = Gate()
        self.deadlines: list[float | None] = []

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        self.deadlines.append(deadline)
        self.gate.pass_through()
        return super().predict(signature_name, inputs, deadline)


@contextlib.contextmanager
def waiting(path: str, **options: Any) -> Iterator[tuple[GrpcServer, grpc.Channel, Waiting]]:
    with stage(1, make=Waiting) as s, s.server.lease(NAME), front(s, path, **options) as (listens, channel):
        servable = s.loader.servables[1]
        try:
            yield listens, channel, servable
        finally:
            servable.gate.open()


# Calls of both protocols and messages of streams are counted together.
@pytest.mark.parametrize("is_in_stream", [True, False])
def test_a_message_of_a_stream_counts_as_a_call(path: str, is_in_stream: bool) -> None:
    with waiting(path, max_in_flight=1) as (_, channel, servable), streamed(channel) as stream:
        if is_in_stream:
            stream.send(wanted(id="1"))
            servable.gate.wait_until_reached()
            assert outcome(infer, channel) is grpc.StatusCode.UNAVAILABLE
            assert outcome(predict, channel) is grpc.StatusCode.UNAVAILABLE
            servable.gate.open()
            assert y_of(stream.receive()) == Y
        else:
            call = unary(channel, "ModelInfer", "ModelInferResponse").future(wanted(), timeout=PATIENCE)
            servable.gate.wait_until_reached()
            answer = stream.ask(wanted(id="1"))
            assert "--max_in_flight" in answer.error_message
            assert answer.infer_response.id == "1"
            servable.gate.open()
            assert call.result(PATIENCE).outputs
        assert y_of(stream.ask(wanted())) == Y


def test_a_stream_that_waits_for_its_client_takes_no_thread_of_calls(s: Stage, path: str) -> None:
    # One thread for all calls.
    with front(s, path, max_in_flight=4, max_threads=1) as (_, channel), streamed(channel) as stream:
        assert y_of(stream.ask(wanted())) == Y
        assert infer(channel) == Y
        with streamed(channel) as another:
            # There are no more streams than threads.
            another.send(wanted())
            assert another.code() is grpc.StatusCode.UNAVAILABLE
        assert y_of(stream.ask(wanted())) == Y
        stream.end()
        assert stream.code() is grpc.StatusCode.OK
    with front(s, path, max_in_flight=4, max_threads=1) as (_, channel), streamed(channel) as stream:
        assert y_of(stream.ask(wanted())) == Y


def test_the_deadline_of_a_stream_is_that_of_its_messages(path: str) -> None:
    with waiting(path) as (_, channel, servable):
        servable.gate.open()
        with streamed(channel, timeout=None) as stream:
            assert y_of(stream.ask(wanted())) == Y
        began = time.monotonic()
        with streamed(channel, timeout=0.5) as stream:
            assert y_of(stream.ask(wanted())) == Y
            assert stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        first, second = servable.deadlines
        assert first is None
        assert second is not None
        assert began < second < began + PATIENCE / 2


def test_messages_of_streams_are_counted_as_calls(path: str) -> None:
    metrics = Metrics()
    with stage(1, metrics=metrics) as s:
        with front(s, path) as (_, channel), streamed(channel) as stream:
            infer(channel)
            for request in (wanted(), wanted(z=X), wanted()):
                stream.ask(request)
            # It is counted when its answer is made, and not before it is on its way.
            stream.end()
            assert stream.code() is grpc.StatusCode.OK
        snapshot = metrics.snapshot(s.server)
    counts = {
        (name, method): snapshot[f"ovms_requests_{name}"][
            ("api", "KServe"), ("interface", "gRPC"), ("method", method), ("name", NAME), ("version", "1")
        ]
        for name, method in (("success", "ModelInfer"), ("success", "ModelStreamInfer"), ("fail", "ModelStreamInfer"))
    }
    assert list(counts.values()) == [1, 2, 1]


def test_a_stream_that_waits_for_its_client_keeps_no_answer(s: Stage, path: str) -> None:
    x = np.zeros(1 << 20, np.float32)
    with front(s, path) as (_, channel), streamed(channel, timeout=None) as stream:
        assert y_of(stream.ask(wanted())) == Y
        tracemalloc.start()
        try:
            # Of 4 MiB, which the client holds on to, and its answer of 12, which it does until something else comes.
            assert not stream.ask(wanted(x=x)).error_message
            assert unary(channel, "ServerLive", "Live").future(b"", timeout=PATIENCE).result().live
            until(lambda: tracemalloc.get_traced_memory()[0] < 8 << 20)
            assert tracemalloc.get_traced_memory()[1] > 16 << 20
        finally:
            tracemalloc.stop()


@contextlib.contextmanager
def with_services(s: Stage, path: str, **options: Any) -> Iterator[grpc.Channel]:
    """A server with nothing but the services."""
    with ThreadPoolExecutor(4, thread_name_prefix="calls") as pool:
        server = grpc.server(pool, options=UNLIMITED)
        server.add_generic_rpc_handlers(tuple(service_handlers(s.server, **options)))
        server.add_insecure_port(f"unix:{path}")
        server.start()
        try:
            with grpc.insecure_channel(f"unix:{path}", options=UNLIMITED) as channel:
                yield channel
        finally:
            server.stop(None).wait(PATIENCE)


@contextlib.contextmanager
def with_streams(s: Stage, streams: Streams, path: str) -> Iterator[grpc.Channel]:
    with with_services(s, path, streams=streams) as channel:
        try:
            yield channel
        finally:
            streams.drain()
            streams.close()


def test_a_stream_whose_client_is_silent_makes_room_for_another(s: Stage, path: str) -> None:
    clock = Clock()
    with (
        with_streams(s, Streams(2, Waits(2), clock=clock), path) as channel,
        streamed(channel) as first,
        streamed(channel) as second,
    ):
        assert y_of(first.ask(wanted())) == Y
        clock.now += 1
        assert y_of(second.ask(wanted())) == Y
        clock.now += STREAM_PATIENCE - 2
        with streamed(channel) as third:
            assert third.code() is grpc.StatusCode.UNAVAILABLE
        clock.now += 1
        with streamed(channel) as fourth:
            # That of the first came a second before the other's.
            assert y_of(fourth.ask(wanted())) == Y
            assert first.code() is grpc.StatusCode.CANCELLED
            assert y_of(second.ask(wanted())) == Y


def test_a_stream_whose_message_is_being_answered_keeps_its_place(path: str) -> None:
    clock = Clock()
    with (
        stage(1, make=Waiting) as s,
        s.server.lease(NAME),
        with_streams(s, Streams(1, Waits(1), clock=clock), path) as channel,
        streamed(channel) as first,
    ):
        first.send(wanted())
        gate = s.loader.servables[1].gate
        gate.wait_until_reached()
        clock.now += 10 * STREAM_PATIENCE
        with streamed(channel) as second:
            second.send(wanted())
            assert second.code() is grpc.StatusCode.UNAVAILABLE
        gate.open()
        assert y_of(first.receive()) == Y


class Counting(HalfPlusTwo):
    calls = 0

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        self.calls += 1
        return super().predict(signature_name, inputs, deadline)


def test_for_a_client_that_does_not_read_nothing_is_kept_but_one_answer(path: str) -> None:
    clock = Clock()
    with (
        stage(1, make=Counting) as s,
        s.server.lease(NAME),
        with_streams(s, Streams(1, Waits(1), clock=clock), path) as channel,
        streamed(channel) as first,
    ):
        first.send(*[wanted(x=LARGE)] * 20)
        until(lambda: s.loader.servables[1].calls > 0)

        # Its place is another's, as soon as it waits for its client.
        def is_answered() -> bool:
            clock.now += 2 * STREAM_PATIENCE
            with streamed(channel) as second:
                second.send(wanted())
                return second.code_or_answer() == Y

        until(is_answered)
        assert s.loader.servables[1].calls < 10


INFER = f"{PREFIX}ModelInfer"
STREAM = f"{PREFIX}ModelStreamInfer"
# All are answered with 12 MiB.
REQUESTS = {PREDICT: request_of(NAME, np.tile(LARGE, 3)), INFER: wanted(x=LARGE), STREAM: wanted(x=LARGE)}


def unread(channel: grpc.Channel, method: str) -> Any:
    """A call with one message of which the client takes nothing until it is asked for the answer."""
    begin: Any = channel.stream_stream(method)
    never = threading.Event()

    def requests() -> Iterator[bytes]:
        yield REQUESTS[method].SerializeToString()
        never.wait(PATIENCE)

    call = begin(requests(), timeout=4 * PATIENCE)
    call.add_callback(never.set)
    return call


def refused(channel: grpc.Channel) -> str:
    """Why a call is, if it is."""
    try:
        infer(channel)
    except grpc.RpcError as exc:
        error: Any = exc
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        return str(error.details())
    return ""


def are_held(channel: grpc.Channel, count: int) -> Callable[[], bool]:
    """Whether so many answers, and nothing else, are what others are refused for."""
    return lambda: refused(channel).startswith(f"the requests of 0 calls and {count} answers that are being sent take ")


@contextlib.contextmanager
def holding(path: str, method: str, waits: Waits) -> Iterator[tuple[grpc.Channel, Any]]:
    """A server that has an answer which its client does not take, and room for nothing else."""
    with (
        stage(1, make=Counting) as s,
        s.server.lease(NAME),
        front(s, path, max_requests=1, waits=waits) as (_, channel),
    ):
        call = unread(channel, method)
        # It would be refused itself if it came together with another one.
        until(lambda: s.loader.servables[1].calls > 0)
        until(are_held(channel, 1))
        yield channel, call
        call.cancel()


@pytest.mark.parametrize("method", [PREDICT, INFER, STREAM])
def test_an_answer_counts_until_its_client_has_taken_it(
    path: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    waits = Waits(4, clock=clock)
    with holding(path, method, waits) as (channel, call):
        assert len(next(call)) > 12 << 20
        until(lambda: refused(channel) == "")
        # Nor is it waited for any more.
        clock.now += 1000
        waits.look()
        assert not [record for record in caplog.records if "are cancelled" in record.message]


@pytest.mark.parametrize("method", [PREDICT, INFER, STREAM])
def test_a_call_whose_answer_nobody_takes_is_given_up(path: str, method: str) -> None:
    clock = Clock()
    with holding(path, method, Waits(4, silence=0.04, clock=clock)) as (channel, call):

        def is_given_up() -> bool:
            clock.now += 60
            return refused(channel) == ""

        until(is_given_up)
        assert outcome(next, call) is grpc.StatusCode.CANCELLED


def test_clients_that_do_not_read_have_no_more_than_requests_may(s: Stage, path: str) -> None:
    with front(s, path, max_in_flight=12, max_requests=21 << 20) as (_, channel):
        # Of 4 MiB each, and 12 MiB.
        calls = [unread(channel, STREAM) for _ in range(2)]
        until(are_held(channel, 2))
        others = [unread(channel, STREAM) for _ in range(8)]
        for call in others:
            assert "2 answers" in oracle.ModelStreamInferResponse.FromString(next(call)).error_message
        for call in calls:
            # One stream goes on, whatever the others do.
            assert y_of(oracle.ModelStreamInferResponse.FromString(next(call)))[0] == 2
        until(lambda: refused(channel) == "")
        for call in (*calls, *others):
            call.cancel()


def silent(channel: grpc.Channel, method: str) -> tuple[Any, queue.SimpleQueue[bytes | None]]:
    """A call whose client says what it wants of it, and sends its message when that is put into the queue."""
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    begin: Any = channel.stream_unary(method)
    call = begin.future(iter(requests.get, None), timeout=4 * PATIENCE)
    call.add_done_callback(lambda _: requests.put(None))
    return call, requests


HEALTH = "/grpc.health.v1.Health/"


@pytest.mark.parametrize("method", [PREDICT, INFER, f"{HEALTH}Check", f"{HEALTH}List", f"{HEALTH}Watch"])
def test_calls_without_their_message_do_not_keep_the_threads(s: Stage, path: str, method: str) -> None:
    clock = Clock()
    with front(s, path, max_threads=4, waits=Waits(4, silence=0.04, clock=clock)) as (_, channel):
        calls = [silent(channel, method)[0] for _ in range(6)]

        def are_done() -> bool:
            clock.now += MESSAGE_PATIENCE
            # As many as half of the threads may be waited for.
            return [call.done() for call in calls].count(True) >= 4

        until(are_done)
        assert infer(channel) == Y
        assert {call.code() for call in calls if call.done()} == {grpc.StatusCode.CANCELLED}
        for call in calls:
            call.cancel()


def test_a_message_that_takes_long_is_waited_for_while_there_are_threads(s: Stage, path: str) -> None:
    clock = Clock()
    waits = Waits(4, clock=clock)
    with with_services(s, path, waits=waits) as channel:
        began = [silent(channel, method) for method in (PREDICT, INFER)]
        # Both have a thread, and whoever is answered behind them another.
        until(lambda: sum(thread.name.startswith("calls") for thread in threading.enumerate()) >= 2)
        assert infer(channel) == Y
        clock.now += 100 * MESSAGE_PATIENCE
        waits.look()
        messages = [request_of(NAME, X), wanted()]
        for (call, requests), message in zip(began, messages, strict=True):
            requests.put(message.SerializeToString())
            assert call.result(PATIENCE)


@pytest.mark.parametrize("count", [0, 2])
def test_of_several_messages_the_first_is_answered_and_of_none_nothing(s: Stage, path: str, count: int) -> None:
    with front(s, path) as (_, channel):
        call, requests = silent(channel, INFER)
        for message in [wanted(id="1"), wanted(id="2")][:count]:
            requests.put(message.SerializeToString())
        requests.put(None)
        if count:
            assert oracle.message("ModelInferResponse").FromString(call.result(PATIENCE)).id == "1"
        else:
            error = call.exception(PATIENCE)
            assert (error.code(), error.details()) == (
                grpc.StatusCode.UNIMPLEMENTED,
                "the call has ended without a message; want one",
            )


def test_one_thread_looks_at_calls_for_as_long_as_there_is_a_server(s: Stage, path: str) -> None:
    def looking() -> int:
        return sum(thread.name == "grpc-waits" for thread in threading.enumerate())

    until(lambda: looking() == 0)
    with front(s, path) as (_, channel):
        assert infer(channel) == Y
        assert looking() == 1
    until(lambda: looking() == 0)


class Aborted(Exception):
    pass


class Context:
    """A stream's whose client hears of its cancelling later than of its status."""

    def __init__(self) -> None:
        self.status: tuple[grpc.StatusCode, str] | None = None
        self.is_cancelled = False

    def time_remaining(self) -> float:
        return 1e10

    def cancel(self) -> None:
        self.is_cancelled = True

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.status = (code, details)
        raise Aborted


@pytest.mark.parametrize(
    ("is_drained", "why"),
    [(True, "the server is stopping"), (False, "another stream has the place of this one, which has waited")],
)
def test_a_message_that_comes_as_its_stream_is_ended_is_refused(is_drained: bool, why: str) -> None:
    streams = Streams(1, Waits(1), patience=0)
    context: Any = Context()
    another: Any = Context()
    answered: list[bytes] = []

    def attempt(content: bytes, deadline: float | None) -> Outcome:
        answered.append(content)
        return Outcome(content)

    def requests() -> Iterator[bytes]:
        yield b"1"
        if is_drained:
            streams.drain()
        else:
            assert list(streams.answer(attempt, iter(()), another)) == []
        yield b"2"

    answers = streams.answer(attempt, requests(), context)
    assert next(answers) == [b"1"]
    with pytest.raises(Aborted):
        next(answers)
    assert context.is_cancelled
    code, details = context.status
    assert (code, details[: len(why)], answered) == (grpc.StatusCode.UNAVAILABLE, why, [b"1"])


def drain_behind(listens: GrpcServer) -> tuple[threading.Thread, list[bool]]:
    drained: list[bool] = []
    thread = threading.Thread(target=lambda: drained.append(listens.drain(3 * PATIENCE)))
    thread.start()
    return thread, drained


@pytest.mark.parametrize("count", [0, 1])
def test_a_stream_that_waits_for_its_client_keeps_no_server_from_stopping(s: Stage, path: str, count: int) -> None:
    with front(s, path) as (listens, channel), streamed(channel) as stream:
        for _ in range(count):
            assert y_of(stream.ask(wanted())) == Y
        until(lambda: any(thread.name.startswith("grpc-stream") for thread in threading.enumerate()))
        began = time.monotonic()
        assert listens.drain(3 * PATIENCE)
        assert time.monotonic() - began < PATIENCE
        # The latter if the server was told before the stream had come to its first message.
        assert stream.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_a_message_that_is_being_answered_is_answered_before_a_stream_ends(path: str) -> None:
    with waiting(path) as (listens, channel, servable), streamed(channel) as stream:
        stream.send(wanted(id="1"))
        servable.gate.wait_until_reached()
        thread, drained = drain_behind(listens)
        # Nobody else is let in meanwhile.
        until(lambda: outcome(unary(channel, "ServerLive"), b"", timeout=PATIENCE) is not grpc.StatusCode.OK)
        servable.gate.open()
        answer = stream.receive()
        assert (answer.infer_response.id, y_of(answer)) == ("1", Y)
        with pytest.raises(grpc.RpcError) as caught:
            stream.receive()
        error: Any = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        thread.join(PATIENCE)
        assert drained == [True]


def test_a_client_that_goes_away_leaves_no_stream(s: Stage, path: str) -> None:
    with with_streams(s, Streams(1, Waits(1)), path) as channel:

        def is_answered() -> bool:
            with streamed(channel) as stream:
                stream.send(wanted())
                # Of one that is refused there is no answer.
                return stream.code_or_answer() == Y

        for _ in range(3):
            with streamed(channel) as gone:
                gone.send(wanted())
                gone.call.cancel()
            until(is_answered)
