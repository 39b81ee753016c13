"""HTTP requests as AWS hands them to a Lambda function, and the answers as it wants them: pure, event by event.

There are three shapes: payload format 2.0 (function URLs and HTTP APIs), format 1.0 (REST APIs, and HTTP APIs that are
told to), and that of load balancers. What is made of each is what Mangum makes of it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from runtime.answers import JSON_SIZE_KEY, Answer
from runtime.contract import METRICS
from runtime.errors import InvalidRequest
from runtime.urls import HEALTH, is_contract

Event = Mapping[str, Any]
Shape = Literal["v1", "v2", "balancer"]

MAX_BALANCERS = 1 << 20
"""Bytes of JSON of an answer to a load balancer.
https://docs.aws.amazon.com/elasticloadbalancing/latest/application/lambda-functions.html"""
_USUAL = (b"/v1/models/", b"/v2/models/")
_PAGES = (*HEALTH, METRICS, b"/docs", b"/openapi.json")
_MAX_BASE = 8
"""Parts of a path that may be a gateway's and not ours."""


class Head(NamedTuple):
    shape: Shape
    method: str
    path: bytes
    """As it was sent, but by HTTP APIs, which decode it themselves. Without a query, and without what only says which
    stage, mapping or rule has led here."""


def read_head(event: Any, base_path: bytes = b"") -> Head | None:
    """Return what an event asks for; None if it is of no shape that has a head.

    Args:
        base_path: what paths begin with before ours, where no event tells that.
    """
    context = event.get("requestContext") if isinstance(event, dict) else None
    if not isinstance(context, dict):
        return None
    shape = _shape(event, context)
    http = context.get("http")
    method = (http.get("method") if isinstance(http, dict) else None) if shape == "v2" else event.get("httpMethod")
    path = path_of(event)
    if shape is None or not isinstance(method, str) or not isinstance(path, str):
        return None
    # JSON may have surrogates, which no path has.
    raw = path.encode(errors="replace")
    if base_path or not raw.startswith(_USUAL):
        raw = _own(raw, [base_path, *_bases(event, context)])
    return Head(shape, method, raw)


def is_of_edge(event: Any) -> bool:
    """Whether an event is one of Lambda@Edge, which have no head but are requests to Mangum."""
    records = event.get("Records") if isinstance(event, dict) else None
    return isinstance(records, list) and bool(records) and isinstance(records[0], dict) and "cf" in records[0]


def path_of(event: Event) -> Any:
    """Return the path as it was sent, where the event tells that."""
    return event.get("rawPath") or event.get("path") or "/"


def read_headers(event: Event, shape: Shape) -> dict[str, str]:
    """Return the headers by lower-case name, several of one name joined by commas.

    Raises:
        InvalidRequest: they are not what AWS sends, as in an event that somebody has written himself.
    """
    try:
        single = {name.lower(): ",".join([value]) for name, value in (event.get("headers") or {}).items()}
        multiple = event.get("multiValueHeaders") or {} if shape != "v2" else {}
        return single | {name.lower(): ",".join(values) for name, values in multiple.items()}
    except (AttributeError, TypeError) as exc:
        raise InvalidRequest("the event's headers are not an object of texts, or of lists of them") from exc


def read_body(event: Event) -> bytes:
    """Return the body.

    Raises:
        InvalidRequest: it is not what the event says.
    """
    body = event.get("body") or ""
    if not isinstance(body, str):
        raise InvalidRequest(f"the event's body is a {type(body).__name__}; want text")
    if not event.get("isBase64Encoded"):
        # Surrogates are no characters, and nothing that JSON may have.
        return body.encode(errors="replace")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequest(f"the event's body is said to be base64 and is not: {exc}") from exc


def check_binary(event: Event, headers: Mapping[str, str], body: bytes) -> None:
    """Refuse tensors that have come as if they were text, in which bytes are lost.

    Args:
        headers: as `read_headers` returns them.
        body: as `read_body` does.

    Raises:
        InvalidRequest: there are such behind the JSON of the Open Inference Protocol.
    """
    declared = headers.get(JSON_SIZE_KEY)
    if declared is None or event.get("isBase64Encoded"):
        return
    # What is no number is for the contract to say; and a body of JSON alone is text.
    if declared.isdecimal() and len(declared) <= len(str(len(body))) and int(declared) < len(body):
        raise InvalidRequest(
            "the body has tensors in binary and has come as text, in which they are damaged: AWS hands over as text "
            "what a Content-Type such as application/json says is text; want application/octet-stream, and of a REST "
            "API that this, or */*, is among its binaryMediaTypes"
        )


def write(event: Event, head: Head, answer: Answer) -> dict[str, Any]:
    """Return an answer in the shape of the event that asked for it."""
    headers = dict(answer.headers)
    # Also of an answer to HEAD, which is sent without its body.
    headers["content-length"] = str(len(answer.body))
    body, is_base64 = ("", False) if head.method == "HEAD" else _as_text(answer.body, headers.get("content-type", ""))
    result: dict[str, Any] = {"statusCode": answer.status, "body": body, "isBase64Encoded": is_base64}
    if head.shape == "v2":
        headers.setdefault("content-type", "application/json")
        result["headers"] = headers
    elif head.shape == "v1":
        result |= {"headers": headers, "multiValueHeaders": {}}
    elif "multiValueHeaders" in event:
        result["multiValueHeaders"] = {name: [value] for name, value in headers.items()}
    else:
        result["headers"] = headers
    return result


def _own(path: bytes, bases: list[bytes]) -> bytes:
    """Return a path without what it begins with of the bases, unless it makes sense with it alone.

    A stage may be named v1, and a path through a custom domain has no stage.
    """
    for base in bases:
        rest = path[len(base) :] or b"/"
        is_below = base and path.startswith(base) and rest[:1] == b"/"
        if is_below and (_is_ours(rest) or not _is_ours(path)):
            # A stage stands before what is known by DECANT_LAMBDA_BASE_PATH, and then it is neither alone.
            return rest if _is_ours(rest) else _own(rest, [other for other in bases if other != base])
    return path


def _is_ours(path: bytes) -> bool:
    return is_contract(path) or path in _PAGES


def _bases(event: Event, context: Event) -> Iterator[bytes]:
    """Yield what of a path may be the gateway's: the stage of an HTTP API, or a custom domain's mapping."""
    stage = context.get("stage")
    # REST APIs leave theirs out.
    if "version" in event and isinstance(stage, str) and stage != "$default":
        yield f"/{stage}".encode(errors="replace")
    route, parameters = event.get("routeKey", event.get("resource")), event.get("pathParameters")
    path = path_of(event)
    if not isinstance(route, str) or not isinstance(parameters, dict):
        return
    # "ANY /{proxy+}" or "/{proxy+}": the path ends with what it stands for, which may have been decoded.
    wanted = re.sub(r"\{(\w+)\+?\}", lambda name: str(parameters.get(name[1], "")), route.rpartition(" ")[2])
    at = 0
    for _ in range(_MAX_BASE):
        at = path.find("/", at + 1)
        if at < 0:
            return
        if unquote(path[at:]) == unquote(wanted):
            yield path[:at].encode(errors="replace")


def _shape(event: Event, context: Event) -> Shape | None:
    if "elb" in context:
        return "balancer"
    if "version" in event:
        return "v2" if event["version"] == "2.0" else "v1"
    return "v1" if "resource" in event else None


def _as_text(body: bytes, content_type: str) -> tuple[str, bool]:
    """Return a body as text or base64, and whether it is base64."""
    if not body:
        return "", False
    # Pictures may be text, too, but are not among the types that Mangum takes for it.
    if content_type.startswith(("application/json", "text/")):
        try:
            return body.decode(), False
        # It is encoded.
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), True
