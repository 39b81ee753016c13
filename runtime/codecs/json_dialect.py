"""JSON as TensorFlow Serving reads it: rapidjson 1.1.0, iterative, with NaN and infinities, done after the root.

Besides JSON that is ``NaN``, ``Inf`` and ``Infinity`` with or without a minus, a byte order mark, and anything at all
behind the root. Bytes that are no UTF-8 are taken where they are in strings: they become lone surrogates here, and
bytes again in `json_values`. Only depth has a limit that rapidjson has not: Python's recursion limit.

Python's parser, in C, reads all bodies. The rest of this module is for what it refuses: to name the error and its
offset as rapidjson does, in a time that is no more than that of reading the body.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import numpy as np

from runtime.errors import InvalidRequest

Json = Any

_BOM = b"\xef\xbb\xbf"
_BLANKS = re.compile(r"[ \t\n\r]*+")
# To the end if nothing ends it: given up, it would be begun again at each quotation mark in it.
_STRING = r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
_EXTRA = re.compile(_STRING + r"|-NaN|Inf(?!i)", re.DOTALL)


def load(body: bytes, is_strict: bool = False, is_whole: bool = False) -> Json:
    """Parse a body; of a key given twice the first value counts.

    Args:
        is_strict: simdjson has parsed it, which takes no number and no surrogate that rapidjson refuses.
        is_whole: nothing may be behind the root but blanks.

    Raises:
        InvalidRequest: not JSON in this dialect.
    """
    if not body:
        raise InvalidRequest("JSON Parse error: The document is empty")
    start = len(_BOM) if body.startswith(_BOM) else 0
    text = body[start:].decode(errors="surrogateescape")
    try:
        value, end = _load_text(text)
    except json.JSONDecodeError as exc:
        # Outside of here, as the error to come would keep this one, and that one the text.
        refused_at = exc.pos
    except RecursionError:
        raise InvalidRequest("JSON Parse error: lists or objects are nested too deep") from None
    except ValueError:
        # An integer of more digits than Python converts, which is more than a double holds.
        _check_tokens(body)
        raise
    else:
        if not is_strict and _is_suspect(text, body):
            _check_tokens(body[: start + _size(text[:end])])
        if is_whole and (behind := _BLANKS.match(text, end).end()) < len(text):  # type: ignore[union-attr]
            _fail("The document root must not be followed by other values.", start + _size(text[:behind]))
        return value
    stop = start + _size(text[:refused_at])
    _check_tokens(body[:stop])
    _explain(body, start, stop)


def _size(text: str) -> int:
    return len(text.encode(errors="surrogateescape"))


def _load_text(text: str) -> tuple[Json, int]:
    """Parse, and return also where the root ends."""
    start = _BLANKS.match(text).end()  # type: ignore[union-attr]
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as exc:
        # As it costs time, only if the first thing to be refused is one of rapidjson's extras.
        if not text.startswith(("Inf", "-Inf", "-NaN"), exc.pos):
            raise
    try:
        value, end = _DECODER.raw_decode(_EXTRA.sub(_as_python_has_it, text), start)
    except json.JSONDecodeError as exc:
        raise json.JSONDecodeError(exc.msg, text, _position_before(exc.pos, text)) from None
    return value, _position_before(end, text)


def _first_wins(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        members = {}
        for name, value in pairs:
            members.setdefault(name, value)
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins)


def _as_python_has_it(match: re.Match[str]) -> str:
    return {"Inf": "Infinity", "-NaN": " NaN"}.get(match[0], match[0])


def _position_before(position: int, text: str) -> int:
    """Return where in ``text`` is what is at ``position`` after `_as_python_has_it`."""
    for match in _EXTRA.finditer(text):
        if match.start() >= position:
            break
        if match[0] == "Inf":
            position -= len("Infinity") - len("Inf")
    return position


# What Python takes and rapidjson does not, or not always: exponents and digits that a double may not hold, and halves
# of surrogate pairs.
_LARGE_EXPONENT = re.compile(r"[eE]\+?[0-9]{3}")
_HALF_PAIR = re.compile(r"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])|\\\\u[dD]")
_DIGITS_AS_ZERO = bytes(ord("0") if chr(byte).isdecimal() else ord(" ") for byte in range(128)) + b" " * 128
_ENDLESS = b"0" * 200
_UNSUSPECTED = re.compile(
    rb'(?:[^"0-9]++'
    rb'|"(?:[^"\\]++|\\[^u])*+"'
    rb"|[0-9]{1,199}+(?:\.[0-9]++)?+(?:[eE](?:-[0-9]++|\+?[0-9]{1,2}+))?+(?![0-9]))*+"
)
_STRING_SO_FAR = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*+)(\.[0-9]++)?([eE][-+]?[0-9]++)?")


def _is_suspect(text: str, body: bytes) -> bool:
    if _LARGE_EXPONENT.search(text) or ("\\u" in text and _HALF_PAIR.search(text)):
        return True
    # A search for a run of digits takes time by the digit; this takes time by the block.
    return _ENDLESS in body.translate(_DIGITS_AS_ZERO)


def _check_tokens(sound: bytes) -> None:
    """Refuse numbers and surrogates as rapidjson does, in what is otherwise sound as far as it goes."""
    at = 0
    while at < len(sound):
        at = _UNSUSPECTED.match(sound, at).end()  # type: ignore[union-attr]
        if at == len(sound):
            return
        if sound[at : at + 1] == b'"':
            string = _STRING_SO_FAR.match(sound, at)
            at = min(string.end() + 1, len(sound)) if string else len(sound)
            if string and b"\\u" in string[0]:
                _check_surrogates(sound, *string.span())
        else:
            number = _NUMBER.match(sound, at)
            # rapidjson lets a few through as infinities, up to ten times the largest double.
            if number is None or math.isinf(float(number[0])):
                _fail("Number too big to be stored in double.", at - (sound[at - 1 : at] == b"-"))
            at = number.end()


def _check_surrogates(body: bytes, start: int, end: int) -> None:
    # rapidjson takes a lower half without its upper half and makes of it what is no UTF-8.
    upper: int | None = None
    for escape in _ESCAPE.finditer(body, start, end):
        half = int(escape[1], 16) >> 10 if escape[1] else 0
        if (half == 0xDC00 >> 10) != (upper is not None and escape.start() == upper + 6):
            _fail("The surrogate pair in string is invalid.", escape.start() if upper is None else upper)
        upper = escape.start() if half == 0xD800 >> 10 else None
    if upper is not None:
        _fail("The surrogate pair in string is invalid.", upper)


def _fail(text: str, at: int) -> NoReturn:
    raise InvalidRequest(f"JSON Parse error: {text} at offset: {at}")


_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1
_IS_STRUCTURE = _STEPS != 0
_IS_STRUCTURE[ord(",")] = True


def _explain(body: bytes, start: int, stop: int) -> NoReturn:
    """Raise rapidjson's error for a body that is sound from ``start`` up to ``stop`` or a little further.

    The states of its ``IterativeParse`` follow from the last bracket or comma and from what is open there.
    """
    inside, last, at = _last_structure(body[:stop])
    if not inside:
        at = _skip(body, start)
        if _byte(body, at) in b"]},:":
            _fail("The document is empty.", at)
        at = _check_scalar(body, at)
    elif last in b"[{,":
        if inside == b"{":
            at = _check_name(body, at)
        at = _check_scalar(body, at)
    _fail(
        "Missing a comma or } after an object member."
        if inside == b"{"
        else "Missing a comma or ] after an array element.",
        _skip(body, at),
    )


def _last_structure(sound: bytes) -> tuple[bytes, bytes, int]:
    """Return the bracket that is open at the end, or none; the last bracket or comma; and where that one ends."""
    # In blocks, as going through megabytes of brackets one by one takes minutes. Escapes first: of the quotation marks
    # that are left every other one ends a string.
    codes = np.frombuffer(sound.replace(rb"\\", b"  ").replace(rb"\"", b"  "), np.uint8)
    in_string = np.logical_xor.accumulate(codes == ord('"'))
    at = np.flatnonzero(_IS_STRUCTURE[codes] & ~in_string)
    steps = _STEPS[codes[at]]
    depths = np.cumsum(steps, dtype=np.int32)
    if not at.size or not depths[-1]:
        return b"", b"", 0
    opened = at[np.flatnonzero((depths == depths[-1]) & (steps > 0))[-1]]
    return bytes(codes[opened : opened + 1]), bytes(codes[at[-1] : at[-1] + 1]), int(at[-1]) + 1


def _skip(body: bytes, at: int) -> int:
    while body[at : at + 1] in (b" ", b"\t", b"\n", b"\r"):
        at += 1
    return at


def _byte(body: bytes, at: int) -> bytes:
    # To rapidjson a NUL is the end.
    return body[at : at + 1].rstrip(b"\0")


def _check_name(body: bytes, at: int) -> int:
    at = _skip(body, at)
    if _byte(body, at) != b'"':
        _fail("Missing a name for object member.", at)
    at = _skip(body, _check_string(body, at))
    if _byte(body, at) != b":":
        _fail("Missing a colon after a name of object member.", at)
    return at + 1


def _check_scalar(body: bytes, at: int) -> int:
    at = _skip(body, at)
    if _byte(body, at) == b'"':
        return _check_string(body, at)
    number = _NUMBER.match(body, at)
    return _check_number(body, number) if number else _check_word(body, at)


def _check_string(body: bytes, at: int) -> int:
    end = _STRING_SO_FAR.match(body, at).end()  # type: ignore[union-attr]
    behind = _byte(body, end)
    if behind == b'"':
        return end + 1
    if not behind:
        _fail("Missing a closing quotation mark in string.", end)
    if body[end : end + 2] == b"\\u":
        _fail("Incorrect hex digit after \\u escape in string.", end)
    _fail("Invalid escape character in string.", end)


def _check_number(body: bytes, number: re.Match[bytes]) -> int:
    fraction, exponent = number.groups()
    end = number.end()
    behind = _byte(body, end)
    if behind == b"." and fraction is None and exponent is None:
        _fail("Miss fraction part in number.", end + 1)
    if behind in (b"e", b"E") and exponent is None:
        _fail("Miss exponent in number.", end + 1 + (_byte(body, end + 1) in (b"+", b"-")))
    return end


def _check_word(body: bytes, at: int) -> int:
    minus = int(_byte(body, at) == b"-")
    rest = body[at + minus : at + minus + len("Infinity")]
    words = (b"NaN", b"Infinity") if minus else (b"true", b"false", b"null", b"NaN", b"Infinity")
    for word in words:
        if rest.startswith(word):
            return at + minus + len(word)
    if rest.startswith(b"Inf") and not rest.startswith(b"Infi"):
        return at + minus + len(b"Inf")
    _fail(
        "Invalid value.", at + minus + max(n for word in words for n in range(len(word)) if rest.startswith(word[:n]))
    )
