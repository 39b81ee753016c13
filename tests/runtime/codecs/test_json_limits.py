"""What bodies may cost: how many values, how many bodies at a time, until when; and that all else still passes."""

from __future__ import annotations

import gc
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from runtime.codecs.json_examples import parse_examples
from runtime.codecs.json_limits import MAX_CONTAINERS, MAX_VALUES, alone
from runtime.codecs.json_tensor import parse_predict
from runtime.codecs.open_inference import infer_json
from runtime.contract import QUICK_BODY
from runtime.errors import DeadlineExceeded, InvalidRequest
from runtime.servable import Tensors
from runtime.signature import TensorSpec
from tests.runtime.codecs.specs import BOOL, STRING, specs

X, DOUBLE, TEXT = specs(x=np.float32), specs(x=np.float64), specs(x=STRING)


def read(body: str | bytes, wanted: Mapping[str, TensorSpec], deadline: float | None = None) -> Tensors:
    return parse_predict(body.encode() if isinstance(body, str) else body).inputs(wanted, deadline)


def rows(row: str, count: int, last: str) -> str:
    return f'{{"instances":[{f"{row}," * count}{last}]}}'


def refused(values: int, containers: int) -> str:
    return (
        f"^JSON has up to {values} values and names, of which {containers} are lists or objects; want at most "
        f"{MAX_VALUES} and {MAX_CONTAINERS} where they are other than finite numbers in lists of equal size$"
    )


@pytest.mark.parametrize(
    ("body", "wanted", "shape"),
    [
        (f'{{"instances":[[{"true," * 150_527}true]]}}', specs(x=BOOL), (1, 150_528)),
        (json.dumps({"instances": ["some, or: [many]"] * 100_000}), TEXT, (100_000,)),
        (rows("7", 1_000_000, "NaN"), DOUBLE, (1_000_001,)),
        (f'{{"inputs":[{"[[1,2,3],[4,5,6]]," * 100_000}[[1,2,3],[4,5,NaN]]]}}', X, (100_001, 2, 3)),
        (rows('{"x":"a, b"}', 100_000, '{"x":""}'), TEXT, (100_001,)),
        # Of numbers as many as come.
        (rows("7", MAX_VALUES, "7"), X, (MAX_VALUES + 1,)),
        (rows("[7]", MAX_CONTAINERS, "[7]"), X, (MAX_CONTAINERS + 1, 1)),
    ],
    ids=["booleans", "strings", "a NaN", "pixels and a NaN", "rows of strings", "numbers", "lists of numbers"],
)
def test_what_is_honest_passes(body: str, wanted: Mapping[str, TensorSpec], shape: tuple[int, ...]) -> None:
    assert read(body, wanted)["x"].shape == shape


def test_as_many_values_are_read_as_may_be() -> None:
    # Besides those of the list: the root, its name, and the list.
    most = MAX_VALUES - 3
    assert read(f'{{"inputs":[{"7," * (most - 1)}NaN]}}', X)["x"].shape == (most,)
    with pytest.raises(InvalidRequest, match=refused(MAX_VALUES + 1, 2)):
        read(f'{{"inputs":[{"7," * most}NaN]}}', X)


def test_as_many_lists_are_read_as_may_be() -> None:
    most = MAX_CONTAINERS - 2
    assert read(f'{{"inputs":[{"[]," * (most - 1)}[]]}}', X)["x"].shape == (most, 0)
    with pytest.raises(InvalidRequest, match=refused(2 * MAX_CONTAINERS + 1, MAX_CONTAINERS + 1)):
        read(f'{{"inputs":[{"[]," * most}[]]}}', X)
    with pytest.raises(InvalidRequest, match=refused(2 * MAX_CONTAINERS + 1, MAX_CONTAINERS + 1)):
        parse_examples(f'{{"examples":[{"{}," * most}{{}}]}}'.encode())


def hard_text(seed: int) -> str:
    """What looks like structure, with backslashes and quotation marks at the ends of all blocks that it is read in."""
    dice = random.Random(seed)
    pieces = ['"', "\\", "[", "{", ",", ":", "é", "\n", "word ", '\\"', "," * 100]
    runs = ["\\" * (70_000 + i) + '"[' for i in range(3)]
    return "".join(part for run in runs for part in [*dice.choices(pieces, k=100_000), run])


@pytest.mark.parametrize("seed", range(3))
def test_brackets_and_commas_in_strings_are_no_values(seed: int) -> None:
    text = hard_text(seed)
    strings = [text, *("," * i for i in range(3)), "," * MAX_VALUES]
    body = json.dumps({"inputs": strings}, separators=(",", ":"))
    assert read(body, TEXT)["x"].tolist() == [string.encode() for string in strings]
    # Whatever lies between them is counted, to the last one.
    body = f"{body[:-2]},{'[],' * MAX_CONTAINERS}{json.dumps(text)}]}}"
    containers = MAX_CONTAINERS + 2
    with pytest.raises(InvalidRequest, match=refused(containers + MAX_CONTAINERS + len(strings) + 2, containers)):
        read(body, TEXT)


LARGE: dict[str, tuple[str, Mapping[str, TensorSpec]]] = {
    "numbers": (rows("[1]", 100_000, "[2]"), X),
    "named rows": (rows('{"x":[1]}', 100_000, '{"x":[2]}'), X),
    "named numbers": (rows('{"x":1}', 100_000, '{"x":2}'), X),
    "a NaN": (rows("1", 100_000, "NaN"), X),
    "strings": (rows('"a"', 100_000, '"b"'), TEXT),
    "the last bad": (rows("1", 100_000, '"b"'), X),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_deadline_is_looked_at_between_parsing_and_reading(name: str) -> None:
    body, wanted = LARGE[name]
    parsed = parse_predict(body.encode())
    with pytest.raises(DeadlineExceeded, match="the request's time was over while its JSON was read"):
        parsed.inputs(wanted, time.monotonic())
    assert gc.isenabled()


@pytest.mark.parametrize("body", ['{"instances":["a"]}', '{"instances":[NaN]}', '{"inputs":[]}'])
def test_a_deadline_is_kept_of_small_bodies_too(body: str) -> None:
    with pytest.raises(DeadlineExceeded):
        read(body, X, time.monotonic())


@pytest.mark.parametrize("row", ["[1]", '{"x":1}', '{"x":[[1]]}', "[[1],[2],[3]]"])
def test_a_deadline_is_looked_at_while_rows_are_read(row: str) -> None:
    parsed = parse_predict(rows(row, 500_000, row).encode())
    started = time.process_time()
    with pytest.raises(DeadlineExceeded):
        parsed.inputs(X, time.monotonic() + 0.02)
    assert time.process_time() - started < 0.1


@contextmanager
def collections_counted() -> Iterator[list[Any]]:
    started: list[Any] = []

    def count(phase: str, _info: Mapping[str, int]) -> None:
        if phase == "start":
            started.append(phase)

    gc.callbacks.append(count)
    try:
        yield started
    finally:
        gc.callbacks.remove(count)


@pytest.mark.parametrize("parse", [lambda body: read(body, X), parse_examples], ids=["predict", "examples"])
def test_cycles_are_not_looked_for_while_lists_are_made(parse: Callable[[bytes], object]) -> None:
    body = f'{{"inputs":[{"[NaN]," * 200_000}[1]],"examples":[{"{}," * 200_000}{{}}]}}'.encode()
    with collections_counted() as collections:
        parse(body)
    # 570 of them otherwise.
    assert len(collections) < 20
    assert gc.isenabled()


def test_the_collector_stays_off_for_who_has_turned_it_off() -> None:
    gc.disable()
    try:
        read(*LARGE["strings"])
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_large_bodies_at_once_are_each_read_and_leave_the_collector_on() -> None:
    def attempt(name: str) -> bool:
        try:
            return bool(read(*LARGE[name]))
        except InvalidRequest:
            return False

    names = [*LARGE] * 4
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(attempt, names)) == [name != "the last bad" for name in names]
    assert gc.isenabled()


@contextmanager
def another_is_read() -> Iterator[None]:
    begun, done = threading.Event(), threading.Event()

    def hold() -> None:
        with alone(LARGE["strings"][0].encode()) as is_large:
            assert is_large
            begun.set()
            done.wait(30)

    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(hold)
        try:
            assert begun.wait(30)
            yield
        finally:
            done.set()
            held.result()


def test_a_large_body_waits_for_another_until_its_deadline() -> None:
    parsed = parse_predict(LARGE["strings"][0].encode())
    with another_is_read(), pytest.raises(DeadlineExceeded):
        parsed.inputs(TEXT, time.monotonic() + 0.05)
    assert parsed.inputs(TEXT, time.monotonic() + 30)["x"].shape == (100_001,)


@pytest.mark.parametrize("char", "[,:")
def test_a_body_that_is_read_where_others_wait_does_not_wait_for_large_bodies(char: str) -> None:
    body = char.encode() * QUICK_BODY
    with another_is_read():
        with alone(body, time.monotonic() + 5) as is_large:
            assert not is_large
        for parse in (parse_predict, lambda body: infer_json.parse(body, None)):
            with pytest.raises(InvalidRequest, match="JSON Parse error"):
                parse(body)


def test_small_bodies_and_numbers_do_not_wait_for_large_bodies() -> None:
    with another_is_read():
        assert read('{"instances":["a"]}', TEXT, time.monotonic() + 30)["x"].tolist() == [b"a"]
        assert read(*LARGE["numbers"], time.monotonic() + 30)["x"].shape == (100_001, 1)
