"""One environment of a Lambda function: events in, answers out. There is one request at a time, so it is answered on
the spot, without a thread; and without FastAPI and Mangum, which are imported for what is neither of the two protocols'
nor health. What is no HTTP request, has failed or is large is other modules', imported when there is such.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from handlers.lambda_events import (
    MAX_BALANCERS,
    Head,
    check_binary,
    is_of_edge,
    read_body,
    read_head,
    read_headers,
    write,
)
from runtime.answers import Answer
from runtime.contract import Contract, health
from runtime.errors import InvalidRequest
from runtime.urls import is_contract

if TYPE_CHECKING:
    from handlers.lambda_invocations import Invocations
    from handlers.lambda_pages import Pages

_INFERENCES = (b":predict", b"/infer", b"/infer/")
_BALANCER_TIMEOUT = 60.0
_HTTP_API_TIMEOUT = 30.0
_REST_API_TIMEOUT = 29.0
_END_OF_TIME = 1e15
_LARGE = MAX_BALANCERS // 6 - (4 << 10)
"""Bytes of an answer from which on it may be larger than a load balancer takes, with its headers, were each of its
characters escaped."""


class Terms(NamedTuple):
    """What holds for all requests of a function."""

    margin: float = 1.0
    """Seconds that are left of an invocation when it is answered at the latest."""
    gateway_timeout: float | None = None
    """Seconds that whoever calls the function for a client waits; None for what is usual, 0 for no end."""
    base_path: bytes = b""
    error_statuses: tuple[range, ...] = ()
    """Answers that are errors of the function."""


class Function:
    def __init__(
        self, contract: Contract, terms: Terms | None = None, others: Callable[[], Invocations] | None = None
    ) -> None:
        """
        Args:
            contract: what answers.
            terms: what holds for all requests.
            others: makes what answers events that are no HTTP requests, when the first of them comes; None for nothing.
        """
        self._contract = contract
        self._terms = terms or Terms()
        self._others = others
        self._is_told = False

    def __call__(self, event: Any, context: Any) -> Any:
        """Answer an event.

        Raises:
            InvocationFailed: it is no HTTP request and has failed, or is none that is known; or such answers are to be
                errors.
        """
        head = read_head(event, self._terms.base_path)
        if head is None:
            return self._invoke(event, context)
        if is_contract(head.path):
            answer = self._answer(event, head, context)
        # Ready without a model, as every request brings what it needs.
        elif state := health(head.method, head.path, lambda: True):
            answer = state
        else:
            answer = self._pages.answer(event, head, context)
        result = write(event, head, answer)
        if len(answer.body) > _LARGE:
            from handlers.lambda_walls import within_walls

            answer, result = within_walls(event, head, answer, result)
        return self._seen(result, answer.status, answer.body, head, context)

    def infer(self, method: str, path: bytes, body: bytes, until: float | None, context: Any) -> Answer:
        """Answer a request that has no headers, and does not come by HTTP."""
        answer = self._contract.answer(method, path, {}, body, until)
        self._tell_first(method, path, answer, context)
        return answer

    def _answer(self, event: Any, head: Head, context: Any) -> Answer:
        try:
            headers, body = read_headers(event, head.shape), read_body(event)
            check_binary(event, headers, body)
        except InvalidRequest as exc:
            return self._contract.failed(head.method, head.path, exc)
        until = answer_by(_seconds_left(context), self._seconds_left_for(event, head), self._terms.margin)
        answer = self._contract.answer(head.method, head.path, headers, body, until)
        self._tell_first(head.method, head.path, answer, context)
        return answer

    def _seconds_left_for(self, event: Any, head: Head) -> float | None:
        """Return how long whoever calls for a client still waits; None if there is nobody, or it is not known."""
        seconds = _gateway_timeout(event, head) if self._terms.gateway_timeout is None else self._terms.gateway_timeout
        if not seconds:
            return None
        request = event["requestContext"]
        came_at = request.get("timeEpoch", request.get("requestTimeEpoch"))
        # JSON has numbers that are no time.
        is_time = isinstance(came_at, (int, float)) and 0 <= came_at < _END_OF_TIME
        # It has been waiting while the environment was started. Events that are older were recorded.
        waited = time.time() - came_at / 1e3 if is_time else 0.0
        return seconds - waited if 0.0 <= waited < seconds else seconds

    def _tell_first(self, method: str, path: bytes, answer: Answer, context: Any) -> None:
        # A model may be called infer, but nobody posts to its metadata.
        if not self._is_told and answer.status == 200 and method == "POST" and path.endswith(_INFERENCES):
            self._is_told = True
            _tell(context)

    def _seen(self, result: Any, status: int, body: bytes, head: Head, context: Any) -> Any:
        if status < 400:
            return result
        from handlers.lambda_failures import InvocationFailed, message_of, tell_failure
        from runtime.urls import line

        message = message_of(body)
        tell_failure(self._contract.server, context, status, line(head.method, head.path), message, head.path)
        if any(status in statuses for statuses in self._terms.error_statuses):
            raise InvocationFailed(status, message)
        return result

    def _invoke(self, event: Any, context: Any) -> Any:
        from handlers.lambda_failures import InvocationFailed, tell_failure

        try:
            if is_of_edge(event):
                return self._pages.answer_edge(event, context)
            if self._invocations is None:
                raise InvocationFailed.unknown(event)
            until = answer_by(_seconds_left(context), None, self._terms.margin)
            return self._invocations(event, context, until)
        except InvocationFailed as exc:
            tell_failure(self._contract.server, context, exc.status, exc.what, exc.msg, exc.path, exc.counts)
            raise

    @cached_property
    def _invocations(self) -> Invocations | None:
        return None if self._others is None else self._others()

    @cached_property
    def _pages(self) -> Pages:
        from handlers.lambda_pages import Pages

        return Pages(self._contract)


def answer_by(left: float | None, waited_for: float | None, margin: float) -> float | None:
    """Return the moment of the monotonic clock by which there has to be an answer; None for no end.

    Args:
        left: seconds of the invocation.
        waited_for: seconds that somebody still waits for it.
        margin: seconds that are to be left then. Of a short time no more than a quarter.
    """
    if left is None:
        left = waited_for
    elif waited_for is not None:
        left = min(left, waited_for)
    return None if left is None else time.monotonic() + left - min(margin, max(left, 0.0) / 4)


def _seconds_left(context: Any) -> float | None:
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return None if remaining is None else remaining() / 1e3


def _gateway_timeout(event: Mapping[str, Any], head: Head) -> float | None:
    if head.shape == "balancer":
        return _BALANCER_TIMEOUT
    if "version" not in event:
        return _REST_API_TIMEOUT
    # A function's URL waits for as long as the function has.
    return None if ".lambda-url." in str(event["requestContext"].get("domainName")) else _HTTP_API_TIMEOUT


def _tell(context: Any) -> None:
    """Write what the cold start took to the log, from which CloudWatch makes metrics."""
    from runtime.coldstart import emf

    name, version = (getattr(context, attribute, None) or "" for attribute in ("function_name", "function_version"))
    line = emf({"FunctionName": name, "FunctionVersion": version})
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
