"""A request of REST's contract as an object: ``{"model": "digits", "instances": [...]}``, and its answer as another.

What names the model is what REST has in the path; all else is the body that REST has.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson

from handlers.lambda_failures import InvocationFailed, message_of
from handlers.lambda_walls import MAX_ANSWER, too_large
from runtime.answers import Answer
from runtime.errors import quoted, shown

_METHODS = {
    "predict": ("POST", ":predict"),
    "classify": ("POST", ":classify"),
    "regress": ("POST", ":regress"),
    "metadata": ("GET", "/metadata"),
    "status": ("GET", ""),
}
_OWN = ("model", "version", "label", "method", "output")
_MAX_GROWTH = 3
"""Bytes that a byte of an answer becomes at most."""
_MARKS = ("model", "instances", "inputs", "examples")


class Call(NamedTuple):
    method: str
    path: bytes
    body: bytes
    output: str | None
    """Where the answer is to be written; None to return it."""


def is_call(event: Mapping[str, Any]) -> bool:
    return any(name in event for name in _MARKS)


def call_of(event: Mapping[str, Any], names: Collection[str]) -> Call:
    """
    Args:
        event: the object.
        names: of the models there are.

    Raises:
        InvocationFailed: it names none of them, or says what cannot be.
    """
    method = event.get("method", "predict")
    if not isinstance(method, str) or method not in _METHODS:
        raise _wrong("method", method, f"one of {', '.join(_METHODS)}")
    verb, suffix = _METHODS[method]
    output = event.get("output")
    if output is not None and not isinstance(output, str):
        raise _wrong("output", output, "a URL")
    path = f"/v1/models/{_quoted(_name(event, names))}{_version(event)}{suffix}".encode()
    body = _dumps({name: value for name, value in event.items() if name not in _OWN}) if verb == "POST" else b""
    return Call(verb, path, body, output)


def answer_of(call: Call, answer: Answer, *, is_sent: bool = True) -> Any:
    """Return the object that an answer is.

    Args:
        call: what was asked for.
        answer: REST's.
        is_sent: whether that goes to the caller, and has to pass where it does.

    Raises:
        InvocationFailed: it is an error, or larger than what Lambda sends.
    """
    what = f"{call.method} {call.path.decode()}"
    if answer.status != 200:
        raise InvocationFailed(answer.status, message_of(answer.body), what=what, path=call.path)
    if not is_sent:
        return None
    found = loads(answer.body)
    # What makes JSON of it for Lambda puts a space behind each comma, and escapes what is not ASCII.
    size = len(json.dumps(found)) if len(answer.body) > MAX_ANSWER // _MAX_GROWTH else 0
    if size > MAX_ANSWER:
        advice = 'ask for fewer instances at a time, or have it written to a bucket: {"output": "s3://bucket/key"}'
        raise InvocationFailed(413, f"{too_large(size, MAX_ANSWER)}: {advice}", what=what, path=call.path)
    return found


def loads(text: bytes | str) -> Any:
    """
    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            # With NaN and Infinity, as TensorFlow Serving writes them.
            return json.loads(text)
        except RecursionError as exc:
            raise ValueError("it is too deep") from exc


def _dumps(value: Any) -> bytes:
    try:
        text = orjson.dumps(value)
    # Numbers of more than 64 bits, and characters that are none.
    except TypeError:
        return json.dumps(value).encode()
    # It writes so what is no number as well.
    return json.dumps(value).encode() if b"null" in text else text


def _name(event: Mapping[str, Any], names: Collection[str]) -> str:
    name = event.get("model")
    if isinstance(name, str) and name:
        return name
    if name is not None:
        raise _wrong("model", name, "a name")
    if len(names) != 1:
        raise InvocationFailed(400, f'{len(names)} models are served; want {{"model": "name"}} to say which')
    return next(iter(names))


def _version(event: Mapping[str, Any]) -> str:
    version, label = event.get("version"), event.get("label")
    if version is not None and label is not None:
        raise InvocationFailed(400, "version and label are both given; want one of them")
    if label is not None:
        if not isinstance(label, str) or not label:
            raise _wrong("label", label, "a name")
        return f"/labels/{_quoted(label)}"
    if version is None:
        return ""
    # True is an int to Python.
    is_number = (type(version) is int and version >= 0) or (isinstance(version, str) and version.isdecimal())
    if not is_number or not str(version).isascii():
        raise _wrong("version", version, "a number")
    return f"/versions/{version}"


def _quoted(name: str) -> str:
    return quote(name.encode(errors="replace"), safe="")


def _wrong(name: str, value: Any, wanted: str) -> InvocationFailed:
    return InvocationFailed(400, f"{name} is {quoted(shown(value))}; want {wanted}")
