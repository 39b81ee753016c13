"""What TensorFlow Serving makes of single JSON values: kinds, base64 objects, bytes; and how its errors quote them."""

from __future__ import annotations

import json
from binascii import a2b_base64
from collections.abc import Iterator
from json.encoder import encode_basestring

from runtime.codecs.json_dialect import Json
from runtime.errors import NAME, QUOTED, InvalidRequest, quoted

BESIDE_NAME = QUOTED - NAME
"""Bytes of a value that an error quotes that may name its input, or its feature, too."""


def kind(value: Json) -> str:
    """Name a value's type as rapidjson does."""
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    for cls, name in ((dict, "Object"), (list, "Array"), (str, "String")):
        if isinstance(value, cls):
            return name
    return "Number"


def is_base64(value: Json) -> bool:
    """Whether this is an object that stands for a string of bytes: ``{"b64": "<base64>"}`` and nothing else in it."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def to_bytes(value: str | dict[str, Json]) -> bytes:
    """Return the bytes of a string or of a base64 object.

    Raises:
        InvalidRequest: an object that is not of base64, or is of what is not base64.
    """
    if isinstance(value, str):
        return value.encode(errors="surrogateescape")
    if not is_base64(value):
        raise InvalidRequest(f"JSON Value: {excerpt(value, BESIDE_NAME)} not formatted correctly for base64 data")
    text = value["b64"]
    try:
        return a2b_base64(text, strict_mode=True)
    except ValueError:
        return _from_loose_base64(text)


def _from_loose_base64(text: str) -> bytes:
    """Decode what else absl::Base64Unescape takes: blanks anywhere, padding left out, padding with full stops."""
    data = text.encode(errors="surrogateescape").translate(None, b" \t\n\v\f\r")
    bare = data.rstrip(b"=.")
    missing = -len(bare) % 4
    if len(data) - len(bare) in (0, missing):
        try:
            return a2b_base64(bare + b"=" * missing, strict_mode=True)
        except ValueError:
            pass
    raise InvalidRequest("Unable to base64 decode")


def excerpt(value: Json, limit: int = QUOTED) -> str:
    """Quote a value, cut to a length in bytes that an error message and a log line can bear."""
    text = ""
    # Piece by piece: the value may be all of a large body.
    for piece in _pieces(value):
        text += piece
        if len(text) > limit:
            break
    return quoted(text, limit)


def _pieces(value: Json) -> Iterator[str]:
    # No recursion: a value nests as deep as Python's parser goes, which is deeper than there is stack here.
    open_: list[tuple[Iterator[tuple[str, Json]], str]] = [(iter([("", value)]), "")]
    while open_:
        members, end = open_[-1]
        for before, member in members:
            yield before
            if isinstance(member, list):
                yield "["
                open_.append((_elements(member), "]"))
                break
            if isinstance(member, dict):
                yield "{"
                open_.append((_members(member), "}"))
                break
            yield _scalar(member)
        else:
            yield end
            open_.pop()


def _elements(values: list[Json]) -> Iterator[tuple[str, Json]]:
    return (("," if i else "", value) for i, value in enumerate(values))


def _members(values: dict[str, Json]) -> Iterator[tuple[str, Json]]:
    return ((f"{',' if i else ''}{_scalar(name)}:", values[name]) for i, name in enumerate(values))


def _scalar(value: Json) -> str:
    if isinstance(value, str):
        return str(encode_basestring(value[: QUOTED + 1]))
    # Python's JSON has the same three tokens for what is not finite.
    return json.dumps(value)
