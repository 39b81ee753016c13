"""Failed requests of a Lambda function: as metrics, as an answer of 500 is a success to Lambda, and as Lambda's errors.

Imported when the first request fails.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from awslambdaric.lambda_runtime_exception import FaultException

from runtime.coldstart import metrics_line
from runtime.errors import quoted, shown
from runtime.server import ModelServer
from runtime.urls import model_of

KINDS: Mapping[int, str] = {
    400: "InvalidRequest",
    404: "ModelNotFound",
    408: "RequestTimeout",
    409: "AlreadyExists",
    412: "PreconditionFailed",
    413: "PayloadTooLarge",
    429: "ResourceExhausted",
    500: "InternalError",
    501: "Unsupported",
    503: "Unavailable",
    504: "DeadlineExceeded",
    507: "InsufficientStorage",
}
"""Types of errors, by the status that HTTP has for them."""
_MAX_MESSAGE = 1 << 10


class InvocationFailed(FaultException):  # type: ignore[misc]  # it is untyped
    """An invocation that ends with an error, which Lambda counts and tells the caller: a type and a message.

    AWS's client adds no stack trace of ours to what is raised as one of its own.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "",
        what: str = "invocation",
        path: bytes = b"",
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """
        Args:
            status: HTTP's for such a failure.
            message: for the caller.
            kind: the error's type, if it is not the status's.
            what: was asked for, for the log.
            path: of the request that has failed, if it was one.
            counts: requests that have failed, by metric, if that is not one.
        """
        message = quoted(message, _MAX_MESSAGE)
        super().__init__(kind or KINDS.get(status, f"Status{status}"), message, [])
        self.args = (message,)
        self.status = status
        self.what = what
        self.path = path
        self.counts = counts

    def __str__(self) -> str:
        return f"{self.exception_type}: {self.msg}"

    @classmethod
    def unknown(cls, event: Any) -> InvocationFailed:
        return cls(
            400,
            f"the event is {excerpt(event)}; want an HTTP request of a function URL, an HTTP API, a REST API or a load "
            'balancer, {"model": "name", "instances": [...]}, {"warmup": true}, a scheduled event, or events of SQS, '
            "SNS or S3; see docs/deploy/lambda-events.md",
            kind="UnknownEvent",
        )


def metric_of(status: int) -> str:
    return "ServerErrors" if status >= 500 else "ClientErrors"


def counts_of(server: ModelServer, failures: Iterable[tuple[int, bytes]]) -> dict[str, int]:
    """Return how many requests have failed, by metric.

    Args:
        failures: the status of each, and its path, if there is one.
    """
    counts: Counter[str] = Counter()
    for status, path in failures:
        counts[metric_of(status)] += 1
        if status >= 500 and _could_not_load(server, path):
            counts["ModelLoadFailures"] += 1
    return dict(counts)


def message_of(body: bytes | str) -> str:
    """Return the error that an answer tells."""
    try:
        return str(orjson.loads(body)["error"])
    # Answers that are no objects, or encoded.
    except (ValueError, KeyError, TypeError):
        return ""


def tell_failure(
    server: ModelServer,
    context: Any,
    status: int,
    what: str,
    message: str,
    path: bytes = b"",
    counts: Mapping[str, int] | None = None,
) -> None:
    """Write a line to the log of which CloudWatch makes metrics.

    Args:
        server: what has failed.
        context: the invocation's.
        status: HTTP's.
        what: was asked for.
        message: why it has failed.
        path: of the request, if it was one.
        counts: requests that have failed, by metric, if that is not one.
    """
    name = getattr(context, "function_name", None) or ""
    known = {"FunctionName": name} if name else {}
    facts = {
        "status": status,
        "request": quoted(what),
        "error": quoted(message),
        "requestId": getattr(context, "aws_request_id", None) or "",
    }
    metrics = [(metric, count, "Count") for metric, count in (counts or counts_of(server, [(status, path)])).items()]
    sys.stdout.write(f"{metrics_line(metrics, known, [list(known)], facts)}\n")
    sys.stdout.flush()


def excerpt(event: Any) -> str:
    """Return what an event is, for who wonders why it is not understood."""
    if not isinstance(event, dict):
        return f"of type {type(event).__name__}"
    source = _source(event)
    names = ", ".join(map(repr, list(event)[:10])) or "nothing in it"
    return quoted(f"an object with {names}") + (f" from {quoted(shown(source), 80)}" if source else "")


def _source(event: Mapping[str, Any]) -> Any:
    records = event.get("Records")
    if isinstance(records, list) and records and isinstance(records[0], dict):
        return records[0].get("eventSource") or records[0].get("EventSource")
    return event.get("source")


def _could_not_load(server: ModelServer, path: bytes) -> bool:
    versions = server.offers().get(model_of(path), {})
    return any(versions.values())
