"""The JSON of TensorFlow Serving: what rapidjson takes, what it refuses, and with which words at which offset.

Texts and offsets: rapidjson 1.1.0, ``reader.h`` (``IterativeParse``, ``ParseNumber``, ``ParseStringToStream``) and
``error/en.h``.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.codecs.json_dialect import load
from runtime.codecs.json_values import excerpt
from runtime.errors import InvalidRequest, quoted

INF = float("inf")

TAKEN: list[tuple[bytes, Any]] = [
    (b"[]", []),
    (b' \t\r\n{ "a" : [ 1 , 2.5 , true , false , null , "b" , { } ] } ', {"a": [1, 2.5, True, False, None, "b", {}]}),
    (b"-0", 0),
    (b"[0, -1, 1E2, 1e-2, 0.5e+1, 12345678901234567890123]", [0, -1, 100.0, 0.01, 5.0, 12345678901234567890123]),
    (b"[1e100, 1e308, 1e-400, 1.5e300]", [1e100, 1e308, 0.0, 1.5e300]),
    (b"1" * 309, int("1" * 309)),
    # kParseNanAndInfFlag.
    (b"[Infinity, -Infinity, Inf, -Inf]", [INF, -INF, INF, -INF]),
    (b'[Inf, "Inf, -NaN, Inf", Inf]', [INF, "Inf, -NaN, Inf", INF]),
    (b'["\\"Inf", Inf]', ['"Inf', INF]),
    # kParseStopWhenDoneFlag, and a NUL is where a stream ends.
    (b"[1] [", [1]),
    (b"{}}", {}),
    (b'{"a":1}\0\xff"', {"a": 1}),
    (b"1 2", 1),
    (b'"a"b', "a"),
    (b"[Inf] Inf 1e999", [INF]),
    (b"[1e100] 1e999", [1e100]),
    (b'["\\ud83c\\udf89"] "\\ud800"', ["\U0001f389"]),
    # A byte order mark; bytes that are no UTF-8, as kParseValidateEncodingFlag is not set.
    (b"\xef\xbb\xbf[1]", [1]),
    (b'["\xff", "\xed\xa0\x80", "\xc3\xa9"]', ["\udcff", "\udced\udca0\udc80", "\u00e9"]),
    (b'["\\u00e9\\ud83c\\udf89\\/\\b\\f\\n\\r\\t\\\\\\"\\u0000"]', ['\u00e9\U0001f389/\b\f\n\r\t\\"\0']),
    (b'["\\\\ud800"]', ["\\ud800"]),
    # FindMember.
    (b'{"a":1,"b":2,"a":3}', {"a": 1, "b": 2}),
    (b'{"a":{"b":1,"b":2}}', {"a": {"b": 1}}),
]


@pytest.mark.parametrize(("body", "value"), TAKEN)
def test_what_rapidjson_takes_is_taken(body: bytes, value: Any) -> None:
    assert load(body) == value
    assert repr(load(body)) == repr(value)


def test_nan_is_taken_with_and_without_a_minus() -> None:
    assert repr(load(b'[NaN, -NaN, {"a": -NaN}]')) == "[nan, nan, {'a': nan}]"


VALUE = "Invalid value."
NAME = "Missing a name for object member."
COLON = "Missing a colon after a name of object member."
MEMBER = "Missing a comma or } after an object member."
ELEMENT = "Missing a comma or ] after an array element."
QUOTE = "Missing a closing quotation mark in string."
ESCAPE = "Invalid escape character in string."
HEX = "Incorrect hex digit after \\u escape in string."
SURROGATE = "The surrogate pair in string is invalid."
BIG = "Number too big to be stored in double."
FRACTION = "Miss fraction part in number."
EXPONENT = "Miss exponent in number."
EMPTY = "The document is empty."

REFUSED: list[tuple[bytes, str, int]] = [
    # The states of IterativeParse, at the end of the text and at what does not belong there.
    (b" \n", EMPTY, 2),
    (b"\xef\xbb\xbf", EMPTY, 3),
    (b"\0[1]", EMPTY, 0),
    (b"]", EMPTY, 0),
    (b" ,", EMPTY, 1),
    (b"{", NAME, 1),
    (b"{1:2}", NAME, 1),
    (b"{,}", NAME, 1),
    (b"{a:1}", NAME, 1),
    (b"{'a':1}", NAME, 1),
    (b'{"a":1,', NAME, 7),
    (b'{"a":1, }', NAME, 8),
    (b'{"a":1,,}', NAME, 7),
    (b'{"a":1,[', NAME, 7),
    (b'{"a"', COLON, 4),
    (b'{"a" 1}', COLON, 5),
    (b'{"a"}', COLON, 4),
    (b'{"a":', VALUE, 5),
    (b'{"a": }', VALUE, 6),
    (b'{"a"::1}', VALUE, 5),
    (b'{"a":1', MEMBER, 6),
    (b'{"a":1 "b"', MEMBER, 7),
    (b'{"a":1]', MEMBER, 6),
    (b'{"a":[1,{"b":[]}] x', MEMBER, 18),
    (b'{"a":{} {', MEMBER, 8),
    (b"[", VALUE, 1),
    (b"[,1]", VALUE, 1),
    (b"[}", VALUE, 1),
    (b"[1,]", VALUE, 3),
    (b"[1, ", VALUE, 4),
    (b"[1,,2]", VALUE, 3),
    (b"[1", ELEMENT, 2),
    (b"[1 2]", ELEMENT, 3),
    (b"[1}", ELEMENT, 2),
    (b"[1:2]", ELEMENT, 2),
    (b"[1\0]", ELEMENT, 2),
    (b'[{"a":[1]} x', ELEMENT, 11),
    (b'["]", "[", "{" x', ELEMENT, 15),
    (b'["\\"]\\\\", [2] x', ELEMENT, 14),
    (b"[/* one */ 1]", VALUE, 1),
    (b"[1 // one\n]", ELEMENT, 3),
    # Offsets are in bytes.
    ('{"é☃🎉": x}'.encode(), VALUE, 14),
    (b'{"\xff\xff": x}', VALUE, 7),
    (b"\xef\xbb\xbf[x]", VALUE, 4),
    (b"\xff", VALUE, 0),
    (b"[\xff]", VALUE, 1),
    # Words.
    (b"tru", VALUE, 3),
    (b"[trux]", VALUE, 4),
    (b"[truex]", ELEMENT, 5),
    (b"[nul]", VALUE, 4),
    (b"[falsy]", VALUE, 5),
    (b"[nan]", VALUE, 2),
    (b"[True]", VALUE, 1),
    (b"[Nan]", VALUE, 3),
    (b"[infinity]", VALUE, 1),
    (b"[Infi]", VALUE, 5),
    (b"[Infinit]", VALUE, 8),
    (b"[Infx]", ELEMENT, 4),
    (b"[-x]", VALUE, 2),
    (b"[-true]", VALUE, 2),
    (b"[--1]", VALUE, 2),
    (b"[-]", VALUE, 2),
    (b"[Inf, Inf, x]", VALUE, 11),
    (b'["Inf", Inf, Inf, {"a": -NaN] x', MEMBER, 28),
    # ParseNumber.
    (b"[01]", ELEMENT, 2),
    (b"[+1]", VALUE, 1),
    (b"[.5]", VALUE, 1),
    (b"[0x10]", ELEMENT, 2),
    (b"[1.]", FRACTION, 3),
    (b"[1.e5]", FRACTION, 3),
    (b"[-1.x]", FRACTION, 4),
    (b"[1.5.5]", ELEMENT, 4),
    (b"[1e]", EXPONENT, 3),
    (b"[1e+]", EXPONENT, 4),
    (b"[1.5E-x]", EXPONENT, 6),
    (b"[1e5e]", ELEMENT, 4),
    (b"[1, 1e400]", BIG, 4),
    (b"[-1e400]", BIG, 1),
    (b"[1e100, 1.8e308]", BIG, 8),
    (b"[-" + b"9" * 309 + b"]", BIG, 1),
    (b"\xef\xbb\xbf[-1" + b"0" * 5000 + b"]", BIG, 4),
    (b"[1e400, x", BIG, 1),
    (b"[x, 1e400", VALUE, 1),
    (b"[1e100, " + b"1" * 5000, BIG, 8),
    (b'{"e123": "1e400", "a": 1e400}', BIG, 23),
    # ParseStringToStream.
    (b'["abc', QUOTE, 5),
    (b'["abc\0"]', QUOTE, 5),
    (b'["abc\\"]', QUOTE, 8),
    (b'{"abc', QUOTE, 5),
    (b'["a\x01"]', ESCAPE, 3),
    (b'["a\nb"]', ESCAPE, 3),
    (b'["a\\x"]', ESCAPE, 3),
    (b'["a\\', ESCAPE, 3),
    (b'{"a\\\'": 1}', ESCAPE, 3),
    (b'["a\\u12g4"]', HEX, 3),
    (b'["a\\u12"]', HEX, 3),
    (b'["a\\ud800"]', SURROGATE, 3),
    (b'["\\ud800\\u0041"]', SURROGATE, 2),
    (b'["\\ud800\\ud800\\udc00"]', SURROGATE, 2),
    (b'["\\ud83c\\udf89\\ud83c"]', SURROGATE, 14),
    (b'["\\\\ud83c\\udf89"]', SURROGATE, 9),
    (b'["\\ud83c", x', SURROGATE, 2),
    (b'{"\\uD83C": 1}', SURROGATE, 2),
    # rapidjson takes this one, and makes of it bytes that are no UTF-8.
    (b'["\\udf89"]', SURROGATE, 2),
]


@pytest.mark.parametrize(("body", "text", "offset"), REFUSED)
def test_what_rapidjson_refuses_is_refused_in_its_words(body: bytes, text: str, offset: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load(body)
    assert str(caught.value) == f"JSON Parse error: {text} at offset: {offset}"


@pytest.mark.parametrize(("body", "text", "offset"), [case for case in REFUSED if case[0][:1] in (b"[", b"{")])
def test_an_error_is_the_same_behind_much_that_is_sound(body: bytes, text: str, offset: int) -> None:
    before = b'[{"a]": [1, {"}": "\\"]\\\\"}], "\xc3\xa9\\"": {}}, [[[0], []], "{[,"], '
    with pytest.raises(InvalidRequest) as caught:
        load(before + body)
    # What ends at the root goes on inside of this list, where it can only be wrong later.
    assert f"{text} at offset: {len(before) + offset}" in str(caught.value)


def test_no_body_is_an_empty_document() -> None:
    with pytest.raises(InvalidRequest, match=r"^JSON Parse error: The document is empty$"):
        load(b"")


@pytest.mark.parametrize("depth", [5_000, 1_000_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_depth_beyond_the_stack_is_refused_at_once(opening: bytes, depth: int) -> None:
    with pytest.raises(InvalidRequest, match="nested too deep"):
        load(opening * depth)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=3), children, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(values, st.booleans(), st.sampled_from([None, 2]), st.sampled_from([b"", b" \n", b"\0", b"]", b' "', b"\xff"]))
def test_what_python_writes_reads_back(value: Any, is_ascii: bool, indent: int | None, behind: bytes) -> None:
    body = json.dumps([value], ensure_ascii=is_ascii, indent=indent).encode() + behind
    assert repr(load(body)) == repr([value])


@settings(deadline=None, derandomize=True, max_examples=400)
@given(values, st.data())
@example([1e100, "\U0001f389", 1.5], None)
def test_a_text_that_is_cut_is_refused_at_its_end(value: Any, data: Any) -> None:
    body = json.dumps({"a": [value]}).encode()
    at = len(body) // 2 if data is None else data.draw(st.integers(1, len(body) - 1))
    with pytest.raises(InvalidRequest) as caught:
        load(body[:at])
    offset = int(str(caught.value).rpartition(" ")[2])
    # Of a string or a number, where it begins or the escape in it does.
    assert at - 12 <= offset <= at or body[offset:at].lstrip(b"-").isdigit()


def test_text_of_a_request_is_cut_by_bytes_to_what_is_valid() -> None:
    assert quoted("short") == "short"
    assert quoted("☃" * 200) == "☃" * 85 + "..."
    assert quoted("\udcff" + "a" * 300) == "?" + "a" * 255 + "..."
    assert quoted("a" * 256) == "a" * 256


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "[]"),
        ({}, "{}"),
        ([[], {}, [{}]], "[[],{},[{}]]"),
        ({"a": [1, 2.5, None, True, False], 'b"': "é\n"}, '{"a":[1,2.5,null,true,false],"b\\"":"é\\n"}'),
        ([INF, -INF, float("nan")], "[Infinity,-Infinity,NaN]"),
        ("x" * 300, '"' + "x" * 255 + "..."),
        (list(range(1000)), json.dumps(list(range(1000)), separators=(",", ":"))[:256] + "..."),
    ],
)
def test_a_value_is_quoted_as_single_line_json(value: Any, text: str) -> None:
    assert excerpt(value) == text


def test_a_quote_of_a_large_and_deep_value_costs_no_more_than_its_length() -> None:
    value: Any = list(range(1_000_000))
    for _ in range(900):
        value = [value]
    started = time.process_time()
    assert excerpt(value) == "[" * 256 + "..."
    assert time.process_time() - started < 0.1
