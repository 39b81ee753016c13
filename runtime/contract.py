"""The REST contract without a transport: method, path, headers and body in, an answer out.

What knows HTTP's wire is elsewhere: a front calls `Contract.answer` if it has the whole request, or else `begin` when
it has the head, and then the `Call` as the body comes. Neither knows of the other fronts, nor of an event loop. What a
head asks for is an `Operation`: `tfserving` has those of ``/v1/``, `open_inference` those of ``/v2``.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from model_cache.timeline import lap, timeline
from runtime import encodings, tfserving, urls
from runtime.answers import JSON, JSON_SIZE, Answer, Operation, Reply, error
from runtime.bodies import Admission, Bodies, too_large
from runtime.errors import DeadlineExceeded, InvalidRequest, MethodNotAllowed
from runtime.servable import Tensors
from runtime.server import ModelServer
from runtime.status import KNOWN, http_status_of, is_ours, public_message

logger = logging.getLogger(__name__)

QUICK_BODY = 16 << 10
"""Bytes of a body that may be read where others wait for it; so few that no codec lets them wait for large ones."""
QUICK_OUTPUTS = 16 << 10
"""Bytes of outputs that may be written where others wait for it; as JSON they are some five times that."""
QUICK_PATIENCE = 0.005
"""Seconds that others wait at most for a model that has been quick so far."""

METRICS = b"/metrics"

# TensorFlow Serving's, and what pages send and read with the Open Inference Protocol's binary tensors.
_CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "POST, GET",
    "access-control-allow-headers": f"Content-Type, {JSON_SIZE}",
    "access-control-expose-headers": JSON_SIZE,
}


class Contract:
    """Thread-safe."""

    def __init__(
        self,
        server: ModelServer,
        *,
        max_body: int,
        max_requests: int = sys.maxsize,
        timeout: float = 30.0,
        has_cors: bool = False,
        reload: Callable[[], bool] | None = None,
    ) -> None:
        """
        Args:
            server: what it serves.
            max_body: bytes of a request's body, as sent and inflated, above which it is answered with 413.
            max_requests: requests read or answered at a time; further ones are answered with 503.
            timeout: seconds that a request has from when its model is there, 504 after that; 0 for no end.
            has_cors: whether pages of other origins may call.
            reload: has the server look anew at what it is to serve, and returns whether anything has changed; raises
                ConfigRejected or ConfigUnreadable. If None, there is nothing to be looked at.
        """
        self.server = server
        self.reload = reload
        self.bodies = Bodies(max_body, max_requests)
        self.timeout = timeout or None
        self.call_type: type[Call] = Call
        self._cors = _CORS if has_cors else {}
        # Of most answers; never changed.
        self._plain = {**JSON, **self._cors}

    def answer(
        self, method: str, path: bytes, headers: Mapping[str, str], body: bytes, until: float | None = None
    ) -> Answer:
        """Answer a whole request of the contract's. Blocks; raises nothing for what a client did.

        Args:
            method: of HTTP.
            path: as it was sent, with its query if it has one.
            headers: by lower-case name, several of one name joined by commas.
            body: as it was sent.
            until: in seconds of the monotonic clock, when an answer is of no use any more: what waits for a model is
                told before that to come again, and what runs that it has taken too long.
        """
        call = self.begin(method, path, headers)
        if isinstance(call, Answer):
            return call
        call.until = until
        try:
            return (call.take(len(body)) or call.answer(body)).joined()
        finally:
            call.close()

    def begin(self, method: str, path: bytes, headers: Mapping[str, str]) -> Call | Answer:
        """Return the call that a head begins, to be closed; or its answer, if the body has nothing to add to that."""
        if method == "OPTIONS":
            return Answer(_preflight(headers), self._cors, b"")
        path = path.partition(b"?")[0]
        try:
            operation = _operation(method, path, headers)
            call = self.call_type(self, method, path, headers, operation, self.bodies.admitted())
        except Exception as exc:  # noqa: BLE001
            return self.failed(method, path, exc)
        refusal = call.check_head()
        if refusal is not None:
            call.close()
            return refusal
        return call

    def scrape(self, method: str, accepted: str) -> Answer:
        """Answer a request for `METRICS`. Blocks, the first time for as long as it takes to import what writes them."""
        metrics = self.server.metrics
        if metrics is None:
            return error(404, "metrics are off; see --metrics_enable")
        if method != "GET":
            answer = error(405, f"Method Not Allowed: {method} {METRICS.decode()}; want GET")
            return answer._replace(headers={**answer.headers, "allow": "GET"})
        try:
            from runtime.metrics_text import CONTENT_TYPE, metrics_text

            snapshot = metrics.snapshot(self.server) if metrics.gather is None else metrics.gather()
            return self.answered(Reply(metrics_text(snapshot), CONTENT_TYPE), accepted)
        except Exception as exc:  # noqa: BLE001
            return self.failed(method, METRICS, exc)

    def answered(self, reply: Reply, accepted: str) -> Answer:
        """Return the answer, encoded as the client prefers it by its Accept-Encoding."""
        content, content_type, status, more, tail = reply
        size = len(content)
        # Numbers as they are in memory hardly get smaller, and that would take longer than most models.
        coding = "" if tail else encodings.choose(accepted, size)
        # Of a small answer there is one form, for nearly everybody.
        if not coding and not content_type and size < encodings.COMPRESS_FROM:
            return Answer(status, {**self._plain, **more} if more else self._plain, content, tail)
        headers = {**self._plain, **more}
        if content_type:
            headers["content-type"] = content_type
        if coding:
            content = encodings.compress(content, coding)
            headers["content-encoding"] = coding
        if not tail and size >= encodings.COMPRESS_FROM:
            headers["vary"] = "Accept-Encoding"
        return Answer(status, headers, content, tail)

    def failed(self, method: str, path: bytes, exc: BaseException) -> Answer:
        """Return the answer to a request that has ended so, and log what concerns whoever runs the server."""
        if isinstance(exc, KNOWN):
            if is_ours(exc):
                logger.warning("%s: %s", urls.line(method, path), exc)
            answer = error(http_status_of(exc), public_message(exc))
            if isinstance(exc, MethodNotAllowed) and exc.allow:
                answer = answer._replace(headers={**answer.headers, "allow": exc.allow})
            return self._dressed(answer)
        # The edge: whatever else comes this far is a bug, is logged here and shown to nobody.
        logger.error("%s failed", urls.line(method, path), exc_info=exc)
        return self._dressed(error(500, "internal error"))

    def _dressed(self, answer: Answer) -> Answer:
        return answer._replace(headers={**answer.headers, **self._cors}) if self._cors else answer


def contract_of(server: ModelServer, **options: Any) -> Contract:
    """Return the contract, with what looks at its requests around it if metrics or DEBUG want that now.

    Args:
        options: as `Contract`.
    """
    if server.metrics is None and not logger.isEnabledFor(logging.DEBUG):
        return Contract(server, **options)
    from runtime.observing import ObservedContract

    return ObservedContract(server, **options)


class Call:
    """A request from its head to its answer, in flight until `close`. Used by one thread at a time."""

    __slots__ = (
        "_accepted",
        "_admission",
        "_coding",
        "_contract",
        "_encode",
        "_headers",
        "_method",
        "_operation",
        "_path",
        "size",
        "until",
    )

    def __init__(
        self,
        contract: Contract,
        method: str,
        path: bytes,
        headers: Mapping[str, str],
        operation: Operation,
        admission: Admission,
    ) -> None:
        self._contract = contract
        self._method = method
        self._path = path
        self._headers = headers
        self._operation = operation
        self._admission = admission
        self._accepted = headers.get("accept-encoding", "")
        self._coding = ""
        # What is left to do of a request that was quick and has a large answer.
        self._encode: Callable[[], Reply] | None = None
        self.until: float | None = None
        """See `Contract.answer`."""
        self.size = 0
        """Bytes of the body that have come."""

    @property
    def wants_body(self) -> bool:
        """Whether `answer` needs what the client sends behind the head."""
        return self._operation.wants_body

    def check_head(self) -> Answer | None:
        """Return the answer if the body need not be read for it."""
        if not self.wants_body:
            return None
        try:
            self._coding = encodings.coding_of(self._headers.get("content-encoding", ""))
            _check_length(self._headers.get("content-length", "0"), self._contract.bodies.max_body)
        except Exception as exc:  # noqa: BLE001
            return self.failed(exc)
        return None

    def take(self, size: int) -> Answer | None:
        """Count so many bytes more of the body; return the answer if they are too many."""
        if not self.wants_body:
            return None
        self.size += size
        try:
            if self.size > self._contract.bodies.max_body:
                raise too_large(self._contract.bodies.max_body)
            self._admission.take(size)
        except KNOWN as exc:
            return self.failed(exc)
        return None

    def answer(self, body: bytes) -> Answer:
        """Answer the request, with its body as it was sent. Blocks."""
        # The edge of the contract: `failed` tells errors from bugs.
        try:
            if timeline.is_fresh and self._operation.is_inference:
                return self._infer_as_one_of_the_first(body)
            return self._answer(body)
        except Exception as exc:  # noqa: BLE001
            return self.failed(exc)

    def answer_if_quick(self, body: bytes) -> Answer | None:
        """Answer a request to a model that is quick, without waiting; None if it, or the rest, is for `answer`."""
        operation, server = self._operation, self._contract.server
        if not operation.may_be_quick or self._coding or len(body) > QUICK_BODY or timeline.is_fresh:
            return None
        try:
            if not server.is_quick(operation.name, operation.version, operation.label):
                return None
            inferred = operation.infer(server, body, deadline=time.monotonic() + QUICK_PATIENCE)
            if not _are_small(inferred.outputs):
                self._encode = inferred.encode
                return None
            reply = inferred.encode()
            if not reply.tail and encodings.choose(self._accepted, len(reply.content)):
                self._encode = lambda: reply
                return None
            return self._contract.answered(reply, self._accepted)
        # It was not, this time.
        except DeadlineExceeded:
            return None
        except Exception as exc:  # noqa: BLE001
            return self.failed(exc)

    def failed(self, exc: BaseException) -> Answer:
        return self._contract.failed(self._method, self._path, exc)

    def close(self) -> None:
        self._admission.close()

    def _answer(self, body: bytes) -> Answer:
        contract, operation = self._contract, self._operation
        if self._encode is not None:
            return contract.answered(self._encode(), self._accepted)
        if self._coding:
            body = encodings.inflate(body, self._coding, contract.bodies.max_body, self._admission.take)
        if operation.is_inference:
            inferred = operation.infer(contract.server, body, timeout=contract.timeout, until=self.until)
            reply = inferred.encode()
            lap("encode")
        else:
            reply = operation.look(contract, body, self.until)
        return contract.answered(reply, self._accepted)

    def _infer_as_one_of_the_first(self, body: bytes) -> Answer:
        from runtime import coldstart

        with timeline.predict() as span:
            answer = self._answer(body)
            span.add(status=answer.status)
            timing = coldstart.server_timing()
        return answer._replace(headers={**answer.headers, "server-timing": timing}) if timing else answer


def health(method: str, path: bytes, is_ready: Callable[[], bool]) -> Answer | None:
    """Answer a question about health, as the Open Inference Protocol has it; return None if it is none.

    Args:
        path: as it was sent, without its query.
        is_ready: whether everything is up that must be before traffic comes.
    """
    if path not in urls.HEALTH or method not in ("GET", "HEAD"):
        return None
    if path in urls.LIVE:
        return Answer(200, JSON, b'{"live":true}')
    return Answer(200, JSON, b'{"ready":true}') if is_ready() else Answer(503, JSON, b'{"ready":false}')


def _operation(method: str, path: bytes, headers: Mapping[str, str]) -> Operation:
    if urls.is_tfserving(path):
        return tfserving.begin(method, path)
    # Imported by the first who speaks it.
    from runtime.open_inference import rest

    return rest.begin(method, path, headers)


def _are_small(outputs: Tensors) -> bool:
    arrays = outputs.values()
    # Strings are as long as they are, beside their array.
    return sum([array.nbytes for array in arrays]) <= QUICK_OUTPUTS and (
        sum([len(text) for array in arrays if array.dtype.hasobject for text in array.ravel()]) <= QUICK_OUTPUTS
    )


def _check_length(declared: str, max_body: int) -> None:
    if not declared.isdecimal():
        raise InvalidRequest(f"Content-Length is {declared[:20]!r}; want a number of bytes")
    # Python takes no number of any length.
    if int(declared.lstrip("0")[:20] or "0") > max_body:
        raise too_large(max_body)


def _preflight(headers: Mapping[str, str]) -> int:
    # Whether pages may call is said by the headers, which are not here.
    origin = headers.get("origin", "")
    return 200 if "http://" in origin or "https://" in origin else 400
