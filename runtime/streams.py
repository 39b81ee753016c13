"""gRPC's streams of messages, each of which has an answer: how many there may be, and when they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum

import grpc

from runtime.rpc import RESERVE, Attempt, Waits, deadline_of

STREAM_PATIENCE = 60.0
"""Seconds that a stream waits for its client before another one may have its place."""
_STOPPING = "the server is stopping"
_REPLACED = "another stream has the place of this one, which has waited for its client"


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
        self.why_ended = ""
        """Why it has been cancelled by us, if it has."""


class Streams:
    """Those that are open. Thread-safe.

    Each holds a thread for as long as its client likes, and so they have threads of their own. One message of a stream
    is read at a time, when its last answer has been sent: for a client that does not read nothing is kept but that.
    """

    def __init__(
        self, most: int, waits: Waits, patience: float = STREAM_PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            most: how many there may be. Then another one takes the place of the one that has waited longest for its
                client, if that is long enough, or is refused.
            waits: ends those whose answers nobody takes.
            patience: seconds that is.
        """
        self.threads = most + RESERVE
        """At most; some are for streams that are refused."""
        self._most = most
        self._waits = waits
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
                stream.why_ended = _STOPPING
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
                outcome = attempt(content, deadline_of(context))
                answer, release, size = [outcome.content], outcome.release, len(outcome.content)
                # Not kept while the answer is on its way.
                del content, outcome
                with self._lock:
                    stream.state, stream.since = _State.SENDING, self._clock()
                self._waits.send(context, size)
                try:
                    yield answer
                finally:
                    self._waits.sent(context)
                    if release is not None:
                        release()
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
                    victim.why_ended = _REPLACED
                    self._open.discard(victim)
        if refusal:
            context.abort(grpc.StatusCode.UNAVAILABLE, refusal)
        if victim is not None:
            victim.context.cancel()
        return stream

    def _read(self, stream: _Stream, requests: Iterator[bytes]) -> bytes | None:
        """Return the next message; None if the client has ended the stream."""
        with self._lock:
            why = _STOPPING if self._is_draining else stream.why_ended
            stream.state = _State.READING
        if why:
            stream.context.abort(grpc.StatusCode.UNAVAILABLE, why)
        # Raises gRPC's own error if the stream has been cancelled, by whomever, which is to be handed back to it.
        content = next(requests, None)
        with self._lock:
            stream.state = _State.ANSWERING
            why = stream.why_ended
        if why and content is not None:
            # It is being cancelled with the message on its way, which nobody will answer.
            stream.context.abort(grpc.StatusCode.UNAVAILABLE, why)
        return content


class _Behavior:
    """What gRPC calls for a stream."""

    def __init__(self, streams: Streams, attempt: Attempt, pool: ThreadPoolExecutor) -> None:
        self._streams = streams
        self._attempt = attempt
        self.experimental_thread_pool = pool
        """gRPC's name for where it is called instead of in the server's threads."""

    def __call__(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[list[bytes]]:
        return self._streams.answer(self._attempt, requests, context)
