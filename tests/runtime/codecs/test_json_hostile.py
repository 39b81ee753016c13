"""Bodies that mean harm or nothing: whatever comes is read or refused, in time and memory in proportion to its size.

`corpus/json` has one body a file, named by what it is of, and each that once went wrong: all of them always run, and
the fuzz changes them further.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.codecs import json_exact, json_fast
from runtime.codecs.json_answer import encode
from runtime.codecs.json_examples import parse_examples
from runtime.codecs.json_tensor import parse_predict
from runtime.errors import InvalidRequest
from runtime.servable import Tensors
from runtime.signature import Dtype, TensorSpec
from tests.runtime.codecs import costs
from tests.runtime.codecs.specs import BOOL, DTYPES, STRING, assert_all_same, specs

CORPUS = {path.name: path.read_bytes() for path in sorted((Path(__file__).parent / "corpus" / "json").iterdir())}
WANTED = [specs(x=dtype) for dtype in (*DTYPES, STRING)] + [
    specs(x=np.float32, y=STRING),
    specs(x=BOOL, y=np.int64),
    {},
]


def survive(body: bytes, wanted: Mapping[str, TensorSpec]) -> None:
    """Read a body in every way there is; the ways must agree, and whatever is read can be written."""
    try:
        parsed = parse_predict(body)
        tensors = parsed.inputs(wanted)
    except InvalidRequest as exc:
        check_message(exc)
        assert read_fast(body, wanted) is None
    else:
        assert tensors.keys() == wanted.keys()
        assert_all_same(json_exact.read(json_exact.parse(body), wanted), tensors)
        assert encode(tensors, False)


def read_fast(body: bytes, wanted: Mapping[str, TensorSpec]) -> Tensors | None:
    document = json_fast.parse(body)
    return json_fast.read(document, wanted) if document and wanted else None


def survive_as_examples(body: bytes) -> None:
    try:
        examples = parse_examples(body).examples
    except InvalidRequest as exc:
        check_message(exc)
    else:
        assert all(array.size for example in examples for array in example.values())


def check_message(exc: InvalidRequest) -> None:
    # 256 bytes of the body; the rest are our own words, and numbers.
    message = str(exc).encode()
    assert message
    assert len(message) < 256 + 250


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus_is_read_or_refused(name: str) -> None:
    for wanted in WANTED:
        survive(CORPUS[name], wanted)
    survive_as_examples(CORPUS[name])


LONG = "§" * 1000
QUOTING = [
    f'["{LONG}"]',
    f'{{"signature_name":["{LONG}"]}}',
    f'{{"signature_name":"{LONG}","instances":[1]}}',
    f'{{"instances":1,"inputs":"{LONG}"}}',
    f'{{"instances":"{LONG}"}}',
    f'{{"instances":[],"{LONG}":1}}',
    f'{{"instances":[{{"{LONG}":1}}]}}',
    f'{{"instances":[{{"x":1,"{LONG}":1}}]}}',
    f'{{"instances":[{{"x":1}},{{"{LONG}":1}}]}}',
    f'{{"instances":[{{"x":"{LONG}","{LONG}":1}}]}}',
    f'{{"instances":[{{"x":{{"b64":1,"{LONG}":1}}}}]}}',
    f'{{"instances":[{{"x":[1,{{"{LONG}":"{LONG}"}}]}}]}}',
    f'{{"instances":[{{"x":[[1],"{LONG}"]}}]}}',
    f'{{"inputs":["{LONG}"]}}',
    f'{{"inputs":[[1],{{"{LONG}":1}}]}}',
    f'{{"inputs":{{"{LONG}":1}}}}',
    f'{{"examples":"{LONG}"}}',
    f'{{"examples":[],"{LONG}":1}}',
    f'{{"examples":[{{"{LONG}":[1,"{LONG}"]}}]}}',
    f'{{"examples":[{{"{LONG}":null}}]}}',
    f'{{"examples":[{{"{LONG}":18446744073709551615}}]}}',
    f'{{"examples":[{{"{LONG}":["a",{{"b64":"{LONG}"}}]}}]}}',
]


@pytest.mark.parametrize("body", QUOTING, ids=[body.replace(LONG, "*") for body in QUOTING])
def test_an_error_quotes_no_more_than_256_bytes_of_a_body(body: str) -> None:
    for wanted in WANTED:
        assert quoted(lambda wanted: parse_predict(body.encode()).inputs(wanted), wanted) <= 256
    assert quoted(parse_examples, body.encode()) <= 256


@pytest.mark.parametrize("value", [f'["{LONG}"]', f'[1,{{"{LONG}":1}}]', f'{{"b64":1,"{LONG}":1}}', f'[[1],"{LONG}"]'])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BOOL, STRING], ids=str)
def test_an_error_quotes_no_more_of_a_name_and_a_value_together(value: str, dtype: Dtype) -> None:
    body = f'{{"instances":[{{"{LONG}":{value}}}]}}'.encode()
    assert quoted(parse_predict(body).inputs, specs(**{LONG: dtype})) <= 256


def quoted(parse: Callable[[Any], object], given: Any) -> int:
    try:
        parse(given)
    except InvalidRequest as exc:
        return len("§".encode()) * str(exc).count("§")
    return 0


SEEDS = [body for body in CORPUS.values() if len(body) < 500]
PIECES = [bytes([byte]) for byte in b'[]{},:"\\\0 019.-+eEINntfux']
PIECES += [b"[]", b"{}", b"],[", b'"x":', b'"b64":', b"null", b"true", b"Inf", b"NaN", b"-NaN", b"Infinity", b"1e400"]
PIECES += [b"\\ud800", b"\\udc80", b"\\u00", b"\xff", b"\xef\xbb\xbf", "☃".encode(), b"1e100", b"9" * 20, b"9" * 309]
# Where, how many bytes are taken out, and what is put in.
edits = st.lists(
    st.tuples(st.integers(0, 100), st.integers(0, 5), st.lists(st.sampled_from(PIECES), max_size=3).map(b"".join)),
    max_size=5,
)


@settings(deadline=None, derandomize=True, max_examples=2000)
@given(st.sampled_from(SEEDS) | st.binary(max_size=60), edits, st.sampled_from(WANTED), st.integers(1, 3))
@example(b'{"inputs":[1e100]} 1e999 "', [], WANTED[0], 1)
def test_a_changed_body_is_read_or_refused(
    seed: bytes, changes: list[tuple[int, int, bytes]], wanted: Mapping[str, TensorSpec], times: int
) -> None:
    body = seed
    for at, length, piece in changes:
        body = body[:at] + piece * times + body[at + length :]
    survive(body, wanted)
    survive_as_examples(body)


def test_more_changed_bodies_are_read_or_refused() -> None:
    """As above, without the care that hypothesis takes: more of them in less time."""
    dice = random.Random(0)
    for _ in range(4000):
        body = bytearray(dice.choice(SEEDS))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(body) + 1)
            body[at : at + dice.randint(0, 4)] = dice.choice(PIECES)
        survive(bytes(body), dice.choice(WANTED))
        survive_as_examples(bytes(body))


def rows(row: str, count: int, last: str = "") -> str:
    return f'{{"instances":[{",".join([row] * (count // (len(row) + 1)))}{last}]}}'


X, DOUBLE, TEXT = specs(x=np.float32), specs(x=np.float64), specs(x=STRING)
# Each of about as many characters as asked for.
LARGE: dict[str, tuple[Mapping[str, TensorSpec], Callable[[int], str]]] = {
    "numbers": (X, lambda n: rows("0", n)),
    "numbers and one NaN": (DOUBLE, lambda n: rows("1.5", n, ",NaN")),
    "NaN": (X, lambda n: rows("NaN", n)),
    "Inf": (X, lambda n: rows("Inf", n)),
    "large exponents": (DOUBLE, lambda n: rows("1e100", n)),
    "large exponents, the last too large": (X, lambda n: rows("1e100", n, ",1e400")),
    "one number": (X, lambda n: f'{{"inputs":{"1" * n}}}'),
    "long numbers": (DOUBLE, lambda n: rows("1" * 300, n)),
    "booleans": (specs(x=BOOL), lambda n: rows("true", n)),
    "empty lists": (X, lambda n: rows("[]", n)),
    "lists in lists": (X, lambda n: rows("[" * 30 + "]" * 30, n)),
    "empty objects": (X, lambda n: rows("{}", n)),
    "named rows": (X, lambda n: rows('{"x":1}', n)),
    "rows of the shortest name": (specs(**{"": np.float32}), lambda n: rows('{"":0}', n, ',{"":NaN}')),
    "rows, the last bad": (X, lambda n: rows("0", n, ",[]")),
    "named rows, the last bad": (X, lambda n: rows('{"x":0}', n, ",{}")),
    "rows, the middle bad": (X, lambda n: rows("[0]", n // 2, ",[]," + rows("[0]", n // 2)[14:-2])),
    "empty strings": (TEXT, lambda n: rows('""', n)),
    "strings": (TEXT, lambda n: rows('"ab"', n)),
    "wide strings": (TEXT, lambda n: rows('"☃☃"', n)),
    "one wide character and strings": (TEXT, lambda n: rows('"ab"', n, ',"🎉"')),
    "a string of escapes": (TEXT, lambda n: f'{{"inputs":"{chr(92)}n{(chr(92) + "n") * (n // 2)}"}}'),
    "a string of pairs": (TEXT, lambda n: '{"inputs":"' + "\\ud83c\\udf89" * (n // 12) + '"}'),
    "a string of pairs and a half": (TEXT, lambda n: '{"inputs":"' + "\\ud83c\\udf89" * (n // 12) + '\\ud83c"}'),
    "base64": (TEXT, lambda n: '{"inputs":{"b64":"' + "AAAA" * (n // 4) + '"}}'),
    "base64 with blanks": (TEXT, lambda n: '{"inputs":{"b64":"' + "A A " * (n // 4) + '"}}'),
    "base64 objects": (TEXT, lambda n: rows('{"b64":""}', n)),
    "keys": (X, lambda n: "{" + "".join(f'"{i:x}":0,' for i in range(n // 9)) + '"inputs":1}'),
    "keys of inputs": (X, lambda n: '{"inputs":{' + "".join(f'"{i:x}":0,' for i in range(n // 9)) + '"x":1}}'),
    "one key again and again": (X, lambda n: "{" + '"a":0,' * (n // 6) + '"inputs":1}'),
    "brackets": (X, lambda n: "[" * n),
    "lists that do not end": (X, lambda n: rows("[[[]]]", n)[:-2]),
    "a string that does not end": (TEXT, lambda n: '{"inputs":"' + "\\n" * (n // 2)),
    "quotation marks": (TEXT, lambda n: '{"inputs":[' + '"' * n),
    "Inf and a string that does not end": (X, lambda n: '[Inf,"' + '\\"' * (n // 2)),
    "Inf that does not end": (X, lambda n: rows("Inf", n)[:-2]),
}
EXAMPLES: dict[str, Callable[[int], str]] = {
    "examples": lambda n: f'{{"examples":[{",".join(["{}"] * (n // 3))}]}}',
    "examples of one feature": lambda n: '{"examples":[' + ",".join(['{"":0}'] * (n // 7)) + "]}",
    "features": lambda n: '{"examples":[{' + ",".join(f'"{i:x}":0' for i in range(n // 9)) + "}]}",
    "a feature": lambda n: f'{{"examples":[{{"a":[{",".join("0" * (n // 2))}]}}]}}',
    "a context for many": lambda n: (
        '{"context":{' + ",".join(f'"{i:x}":0' for i in range(n // 18)) + '},"examples":[' + "{}," * (n // 6) + "{}]}"
    ),
}

SECONDS_PER_MEGABYTE = 3
"""Five times what the slowest takes on a slow machine; what is quadratic takes hours."""


@pytest.mark.parametrize("name", LARGE)
def test_a_large_body_takes_time_in_proportion(name: str) -> None:
    wanted, make = LARGE[name]
    body = make(1_000_000).encode()
    started = time.process_time()
    try:
        parse_predict(body).inputs(wanted)
    except InvalidRequest as exc:
        check_message(exc)
    assert time.process_time() - started < SECONDS_PER_MEGABYTE


@pytest.mark.parametrize("name", EXAMPLES)
def test_many_examples_take_time_in_proportion(name: str) -> None:
    body = EXAMPLES[name](1_000_000).encode()
    started = time.process_time()
    parse_examples(body)
    assert time.process_time() - started < SECONDS_PER_MEGABYTE


MEMORY_FACTOR = 50
"""Of the body's size. A list of one value takes 88 bytes in Python and two in JSON; usual bodies take a tenth."""
MEMORY = 256 << 20
"""Bytes that are taken besides 20 times the body's size, however large it is."""


def memory_for(body: bytes, wanted: Mapping[str, TensorSpec], directory: Path) -> int:
    path = directory / "body"
    path.write_bytes(body)
    return costs.in_own_process(costs.of_predict, path, wanted).memory


@pytest.mark.parametrize("name", [*LARGE, *EXAMPLES])
def test_a_large_body_takes_memory_in_proportion(name: str, tmp_path: Path) -> None:
    wanted, make = LARGE[name] if name in LARGE else ({}, EXAMPLES[name])
    body = make(1_000_000).encode()
    assert memory_for(body, wanted, tmp_path) < MEMORY_FACTOR * len(body)


# Of nearly as many values or lists as may be, and of many more.
LARGEST: dict[str, tuple[Mapping[str, TensorSpec], Callable[[], str]]] = {
    "wide strings": (TEXT, lambda: rows('"☃"', 4 * 3_900_000)),
    "base64 objects": (TEXT, lambda: rows('{"b64":"AAAA"}', 15 * 990_000)),
    "named rows": (X, lambda: rows('{"x":NaN}', 10 * 990_000)),
    "features": ({}, lambda: '{"examples":[{' + ",".join(f'"{i:x}":0' for i in range(1_990_000)) + "}]}"),
    "too many lists": (X, lambda: rows("[]", 32_000_000)),
    "too many strings": (TEXT, lambda: rows('""', 32_000_000)),
    "too many named rows": (X, lambda: rows('{"x":1}', 16_000_000, ',{"x":NaN}')),
}


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_bodies_take_no_more_than_they_may(name: str, tmp_path: Path) -> None:
    wanted, make = LARGEST[name]
    body = make().encode()
    assert memory_for(body, wanted, tmp_path) < MEMORY + 20 * len(body)


@pytest.mark.parametrize("name", [name for name in LARGEST if name.startswith("too")])
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(name: str) -> None:
    wanted, make = LARGEST[name]
    body = make().encode()
    started = time.process_time()
    with pytest.raises(InvalidRequest, match=r"JSON has up to [0-9]+ values and names, of which [0-9]+ are lists"):
        parse_predict(body).inputs(wanted)
    # A tenth of this; Python's parser takes 7 to 24 s for the same.
    assert time.process_time() - started < 5
