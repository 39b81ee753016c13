"""What is around every gRPC method: how many there may be, how long clients are waited for, and errors as statuses.

A method is a function from bytes to bytes here: messages are read and written in the call and not by gRPC, which logs a
traceback for what is none or is too large.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import grpc
from google.protobuf.message import EncodeError

from runtime.bodies import BODY_SILENCE
from runtime.errors import Overloaded, PayloadTooLarge
from runtime.status import KNOWN, Code, code_of, is_ours, public_message

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_MESSAGE = 2**31 - 1
"""Bytes, both ways; TensorFlow Serving's limit, and gRPC's."""
RESERVE = 8
"""Threads beyond those for calls, or for streams, that may take long."""
MESSAGE_PATIENCE = 60.0
"""Seconds that a call with one message waits for it, if such calls have most of the threads."""
SLOWEST_ANSWER = 1 << 20
"""Bytes of an answer that have to be taken in a second, over the whole of it, beyond `BODY_SILENCE`. gRPC shows nothing
of how far it is: more than over HTTP, as the whole time of a client that takes nothing depends on it."""
HELD_FROM = 64 << 10
"""Bytes from which on an answer is counted until it is sent. As many smaller ones as there may be are little."""
_MAX_DETAILS = 1024
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
    release: Callable[[], None] | None = None
    """To be called once the answer is sent, or nobody wants it; None if it is not counted until then."""


Attempt = Callable[[bytes, float | None], Outcome]
"""As a method, but raises nothing."""


class Admission:
    """How many calls are being answered, and how many bytes their requests have, and answers on their way. Thread-safe.

    An answer is no call: threads are free of it, so that clients which do not read keep nobody else from being
    answered while there is memory.
    """

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        # Guards the three below: what all calls have that are admitted now, and all answers that are held.
        self._lock = threading.Lock()
        self._calls = 0
        self._answers = 0
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
                raise Overloaded(
                    f"the requests of {self._calls} calls take {self._bytes} bytes already"
                    if not self._answers
                    else f"the requests of {self._calls} calls and {self._answers} answers that are being sent take "
                    f"{self._bytes} bytes already"
                )
            self._calls += 1
            self._bytes += size
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                self._bytes -= size

    def hold(self, size: int) -> Callable[[], None] | None:
        """Count the bytes of an answer, which is there already and so not refused.

        To be called while its call is admitted, so that nobody has its room in between.

        Returns:
            What counts them no more, to be called once; None for what is too small to be counted.
        """
        if size < HELD_FROM:
            return None
        with self._lock:
            self._answers += 1
            self._bytes += size

        def release() -> None:
            with self._lock:
                self._answers -= 1
                self._bytes -= size

        return release


class Waits:
    """Calls that wait for their clients now; who keeps one waiting for too long has it cancelled. Thread-safe.

    gRPC itself waits for ever, with a thread for a message that does not come, and with an answer that nobody takes.
    One thread looks at all of them now and then.
    """

    def __init__(
        self,
        threads: int,
        *,
        silence: float = BODY_SILENCE,
        patience: float = MESSAGE_PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            threads: in which calls with one message wait for it and are answered.
            silence, patience: seconds; see the constants.
        """
        self._most = threads // 2
        self._silence = silence
        self._patience = patience
        self._clock = clock
        self._closed = threading.Event()
        # Guards the two below.
        self._lock = threading.Lock()
        # Since when each is waiting for its message.
        self._receiving: dict[grpc.ServicerContext, float] = {}
        # When each is given up, as its answer has not been taken.
        self._sending: dict[grpc.ServicerContext, float] = {}

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._run, name="grpc-waits", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def message(self, requests: Iterator[T], context: grpc.ServicerContext) -> T:
        """Return a call's only message when it has come.

        Large ones take long, and a few that wait for theirs do no harm: only if they have more than half of the threads
        are those cancelled that have waited for too long. The handler has to be one of several messages, as gRPC waits
        for the only one itself and tells nobody; on the wire there is no difference.
        """
        with self._receiving_of(context):
            # Raises gRPC's own error if the call has been cancelled, which is to be handed back to it.
            message = next(requests, None)
        if message is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "the call has ended without a message; want one")
        return message

    @contextmanager
    def _receiving_of(self, context: grpc.ServicerContext) -> Iterator[None]:
        with self._lock:
            self._receiving[context] = self._clock()
        try:
            yield
        finally:
            with self._lock:
                del self._receiving[context]

    def send(self, context: grpc.ServicerContext, size: int) -> None:
        """Wait for an answer of so many bytes to be taken, until `sent`."""
        give_up_at = self._clock() + self._silence + size / SLOWEST_ANSWER
        with self._lock:
            self._sending[context] = give_up_at

    def sent(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._sending.pop(context, None)

    def look(self) -> None:
        """Cancel those that have waited for too long."""
        now = self._clock()
        with self._lock:
            unread = [context for context, give_up_at in self._sending.items() if give_up_at <= now]
            silent = [context for context, since in self._receiving.items() if now - since >= self._patience]
            if len(self._receiving) <= self._most:
                silent = []
        if unread or silent:
            logger.warning(
                "gRPC: %d calls are cancelled as nobody takes their answers, %d as their messages do not come",
                len(unread),
                len(silent),
            )
        # Outside of the lock, as gRPC may call back.
        for context in (*unread, *silent):
            context.cancel()

    def _run(self) -> None:
        while not self._closed.wait(min(self._silence, self._patience) / 4):
            self.look()


def attempt(admission: Admission, name: str, method: Method) -> Attempt:
    """Return a method as what tries it if it is admitted.

    Args:
        name: of the method, in the log.
    """

    def attempted(content: bytes, deadline: float | None) -> Outcome:
        try:
            with admission.admitted(len(content)):
                answer = method(content, deadline)
                return Outcome(answer, release=admission.hold(len(answer)))
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


def unary(attempt: Attempt, waits: Waits) -> grpc.RpcMethodHandler[bytes, bytes]:
    """Return gRPC's handler of a method with one request and one answer."""

    def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        content = waits.message(requests, context)
        answer, code, message, release = attempt(content, deadline_of(context))
        if release is not None:
            _hold(context, len(answer), release, waits)
        if code is not Code.OK:
            context.abort(_STATUS_CODES[code], _cut(message))
        return answer

    # Of several messages: see `Waits.message`.
    return grpc.stream_unary_rpc_method_handler(call)


def _hold(context: grpc.ServicerContext, size: int, release: Callable[[], None], waits: Waits) -> None:
    """Count an answer until its call is over."""

    def over() -> None:
        waits.sent(context)
        release()

    waits.send(context, size)
    if not context.add_callback(over):
        over()


def deadline_of(context: grpc.ServicerContext) -> float | None:
    """Return when the client's deadline is, in seconds of the monotonic clock.

    It has not passed: gRPC does not begin a call that is over before there is a thread for it.
    """
    left: float = context.time_remaining()
    return time.monotonic() + left if left < _NO_DEADLINE else None


def _cut(message: str) -> str:
    # In bytes: details travel in a header, and a proxy has a limit for those.
    encoded = message.encode(errors="replace")
    if len(encoded) <= _MAX_DETAILS:
        return encoded.decode()
    return encoded[:_MAX_DETAILS].decode(errors="ignore") + "...TRUNCATED"
