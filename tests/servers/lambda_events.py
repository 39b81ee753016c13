"""The events that AWS hands to a Lambda function for an HTTP request, in each shape that Decant answers.

``path`` is what stands in the request line, percent-encoded where it must be. Fields are the application's own; the
headers that AWS adds are added. A field with several values is given as a list of them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlencode

Fields = Mapping[str, str | Sequence[str]]
Event = dict[str, Any]
EventBuilder = Callable[[str, str, Fields, Fields, bytes], Event]
"""(method, path, query, headers, body)"""

_ACCOUNT = "123456789012"
_CLIENT = "203.0.113.7"
_AGENT = "decant-tests/1"
_TRACE = "Root=1-62ecd163-5f302e550dcde3b12402207d"
_TIME = "21/Nov/2026:10:30:05 +0000"
_EPOCH = 1795257005000
_REQUEST = "84545120-9bda-41af-9b45-6bd9fb4503a6"

# Sent as text; every other body comes as base64. So says the load balancer's documentation, and function URLs and
# HTTP APIs do the same.
_TEXT_TYPES = ("text/", "application/json", "application/javascript", "application/xml")


def function_url(method: str, path: str, query: Fields, headers: Fields, body: bytes) -> Event:
    """A function URL: payload format 2.0, the path as it was sent."""
    host = "abcdefghijklmnopqrstuvwxyz012345.lambda-url.us-east-1.on.aws"
    return _payload_v2(method, path, query, headers, body, host, account="anonymous")


def http_api(method: str, path: str, query: Fields, headers: Fields, body: bytes) -> Event:
    """An HTTP API with a $default route and stage: payload format 2.0, the path already decoded."""
    host = "a1b2c3d4e5.execute-api.us-east-1.amazonaws.com"
    return _payload_v2(method, unquote(path), query, headers, body, host, account=_ACCOUNT)


def rest_api(method: str, path: str, query: Fields, headers: Fields, body: bytes) -> Event:
    """A REST API with a greedy proxy resource, a stage "prod" and ``*/*`` among its binary media types."""
    host = "a1b2c3d4e5.execute-api.us-east-1.amazonaws.com"
    all_headers = _with_forwarding(headers, body, host, capitalized=True)
    text, is_base64 = _as_text(all_headers, body)
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": _last_values(all_headers),
        "multiValueHeaders": all_headers,
        "queryStringParameters": _last_values(_lists(query)) or None,
        "multiValueQueryStringParameters": _lists(query) or None,
        "pathParameters": {"proxy": path.lstrip("/")},
        "stageVariables": None,
        "requestContext": _rest_context(method, path, host),
        "body": text or None,
        "isBase64Encoded": is_base64,
    }


def load_balancer(method: str, path: str, query: Fields, headers: Fields, body: bytes) -> Event:
    """An Application Load Balancer as it is by default: of a repeated field, the last value."""
    all_headers = _balancer_headers(headers, body)
    fields = {
        "queryStringParameters": _last_values(_encoded(query)),
        "headers": _last_values(all_headers),
    }
    return _balancer_event(method, path, fields, all_headers, body)


def load_balancer_multi_value(method: str, path: str, query: Fields, headers: Fields, body: bytes) -> Event:
    """An Application Load Balancer whose target group has multi-value headers switched on."""
    all_headers = _balancer_headers(headers, body)
    fields = {"multiValueQueryStringParameters": _encoded(query), "multiValueHeaders": all_headers}
    return _balancer_event(method, path, fields, all_headers, body)


EVENT_BUILDERS: Mapping[str, EventBuilder] = {
    "function URL": function_url,
    "HTTP API": http_api,
    "REST API": rest_api,
    "load balancer": load_balancer,
    "load balancer, multi-value": load_balancer_multi_value,
}


def response_body(result: Mapping[str, Any]) -> bytes:
    """The body that AWS would send to the client for this result of the function."""
    body = result.get("body") or ""
    return base64.b64decode(body, validate=True) if result.get("isBase64Encoded") else body.encode()


def response_headers(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """The headers AWS would send, by lower-case name, from whichever fields the shape uses."""
    found: dict[str, list[str]] = {}
    for name, value in (result.get("headers") or {}).items():
        found.setdefault(name.lower(), []).append(value)
    for name, values in (result.get("multiValueHeaders") or {}).items():
        found[name.lower()] = list(values)
    if result.get("cookies"):
        found["set-cookie"] = list(result["cookies"])
    return found


def _payload_v2(method: str, path: str, query: Fields, headers: Fields, body: bytes, host: str, account: str) -> Event:
    all_headers = {name.lower(): values for name, values in _with_forwarding(headers, body, host).items()}
    cookies = all_headers.pop("cookie", [])
    text, is_base64 = _as_text(all_headers, body)
    event: Event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": urlencode(_lists(query), doseq=True),
        "headers": _joined(all_headers),
        "requestContext": _v2_context(method, path, host, account),
        "isBase64Encoded": is_base64,
    }
    # Absent, not empty, when there is nothing to say.
    optional = {"cookies": cookies, "queryStringParameters": _joined(_lists(query)), "body": text}
    return event | {name: value for name, value in optional.items() if value}


def _v2_context(method: str, path: str, host: str, account: str) -> Event:
    prefix = host.partition(".")[0]
    return {
        "accountId": account,
        "apiId": prefix,
        "domainName": host,
        "domainPrefix": prefix,
        "http": {
            "method": method,
            "path": path,
            "protocol": "HTTP/1.1",
            "sourceIp": _CLIENT,
            "userAgent": _AGENT,
        },
        "requestId": _REQUEST,
        "routeKey": "$default",
        "stage": "$default",
        "time": _TIME,
        "timeEpoch": _EPOCH,
    }


def _rest_context(method: str, path: str, host: str) -> Event:
    return {
        "accountId": _ACCOUNT,
        "apiId": host.partition(".")[0],
        "domainName": host,
        "domainPrefix": host.partition(".")[0],
        "extendedRequestId": "UnFvZzFHoAMFX3g=",
        "httpMethod": method,
        "identity": {
            "accessKey": None,
            "accountId": None,
            "caller": None,
            "cognitoAuthenticationProvider": None,
            "cognitoAuthenticationType": None,
            "cognitoIdentityId": None,
            "cognitoIdentityPoolId": None,
            "principalOrgId": None,
            "sourceIp": _CLIENT,
            "user": None,
            "userAgent": _AGENT,
            "userArn": None,
        },
        "path": f"/prod{path}",
        "protocol": "HTTP/1.1",
        "requestId": _REQUEST,
        "requestTime": _TIME,
        "requestTimeEpoch": _EPOCH,
        "resourceId": "xyz123",
        "resourcePath": "/{proxy+}",
        "stage": "prod",
    }


def _balancer_event(method: str, path: str, fields: Event, headers: Mapping[str, list[str]], body: bytes) -> Event:
    group = f"arn:aws:elasticloadbalancing:us-east-1:{_ACCOUNT}:targetgroup/decant/6d0ecf831eec9f09"
    text, is_base64 = _as_text(headers, body)
    return {
        "requestContext": {"elb": {"targetGroupArn": group}},
        "httpMethod": method,
        "path": path,
        **fields,
        "body": text,
        "isBase64Encoded": is_base64,
    }


def _balancer_headers(headers: Fields, body: bytes) -> dict[str, list[str]]:
    host = "decant-1584240650.us-east-1.elb.amazonaws.com"
    return {name.lower(): values for name, values in _with_forwarding(headers, body, host).items()}


def _with_forwarding(headers: Fields, body: bytes, host: str, capitalized: bool = False) -> dict[str, list[str]]:
    added = {
        "Host": host,
        "User-Agent": _AGENT,
        "X-Amzn-Trace-Id": _TRACE,
        "X-Forwarded-For": _CLIENT,
        "X-Forwarded-Port": "443",
        "X-Forwarded-Proto": "https",
    }
    # REST APIs leave the length out; the others pass it on.
    if body and not capitalized:
        added["Content-Length"] = str(len(body))
    return _lists(added) | _lists(headers)


def _as_text(headers: Mapping[str, list[str]], body: bytes) -> tuple[str, bool]:
    """Return the event's body and whether it is base64."""
    by_name = {name.lower(): values[-1] for name, values in headers.items()}
    is_text = by_name.get("content-type", "").startswith(_TEXT_TYPES) and "content-encoding" not in by_name
    if not body:
        return "", False
    try:
        return (body.decode(), False) if is_text else (base64.b64encode(body).decode(), True)
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True


def _lists(fields: Fields) -> dict[str, list[str]]:
    return {name: [value] if isinstance(value, str) else list(value) for name, value in fields.items()}


def _encoded(query: Fields) -> dict[str, list[str]]:
    # Unlike the gateways, the load balancer hands over names and values as they were in the URL.
    return {quote(name): [quote(value) for value in values] for name, values in _lists(query).items()}


def _last_values(fields: Mapping[str, list[str]]) -> dict[str, str]:
    return {name: values[-1] for name, values in fields.items()}


def _joined(fields: Mapping[str, list[str]]) -> dict[str, str]:
    return {name: ",".join(values) for name, values in fields.items()}
