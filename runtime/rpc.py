"""What is around every gRPC method: how many calls and streams there may be, deadlines, and errors as statuses.

A method is a function from bytes to bytes here: messages are read and written in the call and not by gRPC, which logs a
traceback for what is none or is too large.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import EncodeError

from runtime.errors import Overloaded, PayloadTooLarge
from runtime.status import KNOWN, Code, code_of, is_ours, public_message

logger = logging.getLogger(__name__)

MAX_MESSAGE = 2**31 - 1
"""Bytes, both ways; TensorFlow Serving's limit, and gRPC's."""
RESERVE = 8
"""Threads beyond those for calls, or for streams, that may take long."""
STREAM_PATIENCE = 60.0
"""Seconds that a stream waits for its client before another one may have its place."""
_MAX_DETAILS = 1024
_STOPPING = "the server is stopping"
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
_NO_DEADLINE = 1e9
"""Seconds; gRPC says the end of time for a call without a deadline."""

Method = Callable[[bytes, float | None], bytes]
"""From a request, and when nobody wants its answer any more, to the answer."""


def serialize(message: Any, max_size: int = MAX_MESSAGE) -> bytes:
    """Return what a message is on the wire.

    Raises:
        PayloadTooLarge: that has more than so many bytes.
    """
    try:
        content: bytes = message.SerializeToString()
    # A message within it is larger than protobuf's limit.
    except EncodeError as exc:
        raise PayloadTooLarge(f"the answer cannot be written: {exc}; want {MAX_MESSAGE} bytes at most") from exc
    if len(content) > max_size:
        raise PayloadTooLarge(f"the answer has {len(content)} bytes; want {max_size} at most")
    return content


class Outcome(NamedTuple):
    content: bytes
    """The answer; of what has failed what is sent besides its status, if anything."""
    code: Code = Code.OK
    message: str = ""


Attempt = Callable[[bytes, float | None], Outcome]
"""As a method, but raises nothing."""


class Admission:
    """How many calls are being answered, and how many bytes their requests have. Thread-safe."""

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        # Guards the two below: what all calls have that are admitted now.
        self._lock = threading.Lock()
        self._calls = 0
        self._bytes = 0

    @contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """Count a call and the bytes of its request.

        Raises:
            Overloaded: there are too many calls, or bytes.
        """
        with self._lock:
            if self._calls >= self._max_calls:
                raise Overloaded("as many calls are in flight as may be; see --max_in_flight")
            # By itself, however large it is: there will never be more room.
            if self._bytes and self._bytes + size > self._max_bytes:
                raise Overloaded(f"the requests of {self._calls} calls take {self._bytes} bytes already")
            self._calls += 1
            self._bytes += size
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                self._bytes -= size


def attempt(admission: Admission, name: str, method: Method) -> Attempt:
    """Return a method as what tries it if it is admitted.

    Args:
        name: of the method, in the log.
    """

    def attempted(content: bytes, deadline: float | None) -> Outcome:
        try:
            with admission.admitted(len(content)):
                return Outcome(method(content, deadline))
        except Exception as exc:  # noqa: BLE001
            return failure(name, exc)

    return attempted


def failure(name: str, exc: Exception) -> Outcome:
    """Return what a client is told of an error. The edge: what is the server's fault or a bug is logged here."""
    if isinstance(exc, KNOWN):
        if is_ours(exc):
            logger.warning("%s: %s", name, exc)
        return Outcome(b"", code_of(exc), public_message(exc))
    logger.error("%s failed", name, exc_info=exc)
    return Outcome(b"", Code.INTERNAL, "internal error")


def unary(attempt: Attempt) -> grpc.RpcMethodHandler[bytes, bytes]:
    """Return gRPC's handler of a method with one request and one answer."""

    def call(content: bytes, context: grpc.ServicerContext) -> bytes:
        answer, code, message = attempt(content, deadline_of(context))
        if code is not Code.OK:
            context.abort(_STATUS_CODES[code], _cut(message))
        return answer

    return grpc.unary_unary_rpc_method_handler(call)


def deadline_of(context: grpc.ServicerContext) -> float | None:
    """Return when the client's deadline is, in seconds of the monotonic clock.

    It has not passed: gRPC does not begin a call that is over before there is a thread for it.
    """
    left: float = context.time_remaining()
    return time.monotonic() + left if left < _NO_DEADLINE else None


class _State(Enum):
    ANSWERING = "answering"
    SENDING = "sending"
    READING = "reading"


class _Stream:
    def __init__(self, context: grpc.ServicerContext, now: float) -> None:
        self.context = context
        self.state = _State.READING
        self.since = now
        """When it began, or its last answer was there to be sent."""
        self.is_ended = False
        """Whether it has been cancelled by us."""


class Streams:
    """Those that are open. Thread-safe.

    Each holds a thread for as long as its client likes, and so they have threads of their own. One message of a stream
    is read at a time, when its last answer has been sent: a client that does not read has nobody keep anything for it.
    """

    def __init__(
        self, most: int, patience: float = STREAM_PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            most: how many there may be. Then another one takes the place of the one that has waited longest for its
                client, if that is long enough, or is refused.
            patience: seconds that is.
        """
        self.threads = most + RESERVE
        """At most; some are for streams that are refused."""
        self._most = most
        self._patience = patience
        self._clock = clock
        # Makes none before there are streams.
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="grpc-stream")
        # Guards all below, and what streams have.
        self._lock = threading.Lock()
        self._open: set[_Stream] = set()
        self._is_draining = False

    def handler(self, attempt: Attempt) -> grpc.RpcMethodHandler[bytes, list[bytes]]:
        """Return gRPC's handler of a method that answers each message of a stream with one.

        Args:
            attempt: returns the answer also of what has failed.
        """
        # Each answer is in a list from which it is taken, as gRPC holds on to what it was given until there is another.
        behavior = _Behavior(self, attempt, self._pool)
        return grpc.stream_stream_rpc_method_handler(behavior, response_serializer=list.pop)

    def drain(self) -> None:
        """Open no more, and end those that are: now if they wait for their client, or else behind their answer."""
        with self._lock:
            self._is_draining = True
            ended = [stream for stream in self._open if stream.state is _State.READING]
            for stream in ended:
                stream.is_ended = True
        for stream in ended:
            stream.context.cancel()

    def close(self) -> None:
        """Let the threads go. There is nobody any more who could open a stream."""
        self._pool.shutdown(wait=False)

    def answer(
        self, attempt: Attempt, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[list[bytes]]:
        """Answer messages in order, as they come, until the client sends no more; each answer is in a list."""
        stream = self._begin(context)
        try:
            while (content := self._read(stream, requests)) is not None:
                answer = [attempt(content, deadline_of(context)).content]
                # Not kept while the answer is on its way.
                del content
                with self._lock:
                    stream.state, stream.since = _State.SENDING, self._clock()
                yield answer
        finally:
            with self._lock:
                self._open.discard(stream)

    def _begin(self, context: grpc.ServicerContext) -> _Stream:
        now, victim, refusal = self._clock(), None, ""
        stream = _Stream(context, now)
        with self._lock:
            if self._is_draining:
                refusal = _STOPPING
            elif len(self._open) >= self._most:
                waiting = [one for one in self._open if one.state is not _State.ANSWERING]
                victim = min(waiting, key=lambda one: one.since, default=None)
                if victim is None or now - victim.since < self._patience:
                    refusal = (
                        f"there are {self._most} streams, as many as may be, and none waits for its client for long"
                    )
            if not refusal:
                self._open.add(stream)
                if victim is not None:
                    victim.is_ended = True
                    self._open.discard(victim)
        if refusal:
            context.abort(grpc.StatusCode.UNAVAILABLE, refusal)
        if victim is not None:
            victim.context.cancel()
        return stream

    def _read(self, stream: _Stream, requests: Iterator[bytes]) -> bytes | None:
        """Return the next message; None if there is none."""
        with self._lock:
            is_draining = self._is_draining
            stream.state = _State.READING
        if is_draining:
            stream.context.abort(grpc.StatusCode.UNAVAILABLE, _STOPPING)
        # Raises gRPC's own error if the stream has been cancelled, by whomever, which is to be handed back to it.
        content = next(requests, None)
        with self._lock:
            stream.state = _State.ANSWERING
            # It has been cancelled with the message on its way.
            return None if stream.is_ended else content


class _Behavior:
    """What gRPC calls for a stream."""

    def __init__(self, streams: Streams, attempt: Attempt, pool: ThreadPoolExecutor) -> None:
        self._streams = streams
        self._attempt = attempt
        self.experimental_thread_pool = pool
        """gRPC's name for where it is called instead of in the server's threads."""

    def __call__(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[list[bytes]]:
        return self._streams.answer(self._attempt, requests, context)


def _cut(message: str) -> str:
    # In bytes: details travel in a header, and a proxy has a limit for those.
    encoded = message.encode(errors="replace")
    if len(encoded) <= _MAX_DETAILS:
        return encoded.decode()
    return encoded[:_MAX_DETAILS].decode(errors="ignore") + "...TRUNCATED"
