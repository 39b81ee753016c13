"""Lambda's limit for an answer, which is for the JSON that it is sent in. Imported by the first large answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from handlers.lambda_events import MAX_BALANCERS, Event, Head, write
from runtime.answers import JSON_SIZE_KEY, Answer, error
from runtime.encodings import COMPRESS_FROM
from runtime.urls import is_tfserving

MAX_ANSWER = (6 << 20) + 100
"""Bytes of JSON, as Lambda's own message says: "Response payload size exceeded maximum allowed payload size (6291556
bytes)"."""
_MAX_ESCAPED = 12
"""Bytes of a character in JSON at most, as in ``\\ud83d\\ude00``."""


def within_walls(event: Event, head: Head, answer: Answer, result: dict[str, Any]) -> tuple[Answer, dict[str, Any]]:
    """Return an answer as it can be sent; in place of one that cannot a refusal, which says what to do."""
    most = MAX_BALANCERS if head.shape == "balancer" else MAX_ANSWER
    size = size_of(result, most)
    if size <= most:
        return answer, result
    # Quotation marks and letters that are not ASCII may take more than base64. A REST API decodes that for some types.
    if not result["isBase64Encoded"] and head.shape != "v1":
        packed = {**result, "body": base64.b64encode(answer.body).decode(), "isBase64Encoded": True}
        if size_of(packed, most) <= most:
            return answer, packed
    told = too_large(size, most)
    if result["isBase64Encoded"]:
        # Which makes 4 bytes of 3.
        own = (most - _size_around(result)) // 4 * 3
        told += f": {own} bytes of what is no text and goes as base64, of which it has {len(answer.body)}"
    refusal = _refusal(f"{told}: {_advice(answer, head)}", answer)
    return refusal, write(event, head, refusal)


def size_of(result: Mapping[str, Any], most: int) -> int:
    """Return how many bytes of JSON AWS's client makes of a result, or any number up to ``most`` if it is no more."""
    body = result["body"]
    if len(body) * _MAX_ESCAPED + (64 << 10) <= most:
        return len(body)
    return _size_around(result) + (len(body) if result["isBase64Encoded"] else len(json.dumps(body)) - 2)


def too_large(size: int, most: int) -> str:
    return f"the answer takes {size} bytes as Lambda sends it, and may take {most}"


def _size_around(result: Mapping[str, Any]) -> int:
    return len(json.dumps({**result, "body": ""}))


def _advice(answer: Answer, head: Head) -> str:
    is_binary, of_tfserving = JSON_SIZE_KEY in answer.headers, is_tfserving(head.path)
    advice = (
        "ask for fewer instances at a time, or for a signature with smaller outputs"
        if of_tfserving
        else 'ask for fewer rows at a time, or name the "outputs" that are wanted'
    )
    if not of_tfserving and not is_binary:
        advice += ', or ask for them in binary ("binary_data_output": true)'
    # Of floats' text gzip leaves about half, of which base64 makes two thirds of what it was; of their bytes nearly
    # all.
    if "content-encoding" not in answer.headers and not is_binary and len(answer.body) >= COMPRESS_FROM:
        advice += ", or send Accept-Encoding: gzip"
    if head.shape != "balancer" and of_tfserving:
        advice += '; invoked directly, the function can write its answer to a bucket ("output")'
    return advice


def _refusal(message: str, answer: Answer) -> Answer:
    refusal = error(413, message)
    # What it says of the connection is for who still sends a body.
    headers = {name: value for name, value in refusal.headers.items() if name != "connection"}
    cors = {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}
    return refusal._replace(headers={**headers, **cors})
