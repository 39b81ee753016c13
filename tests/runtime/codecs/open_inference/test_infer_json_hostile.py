"""Requests that mean harm or nothing: whatever comes is read or refused, in time and memory in proportion to its size.

`corpus/infer_json` has one body a file, of JSON and what is behind its last bracket, named by what it is of, and each
that once went wrong: all of them always run, and the fuzz changes them further.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.codecs.open_inference import infer_json
from runtime.errors import InvalidRequest
from tests.runtime.codecs import costs
from tests.runtime.codecs.specs import assert_all_same

CORPUS = {
    path.name: path.read_bytes() for path in sorted((Path(__file__).parent.parent / "corpus" / "infer_json").iterdir())
}
PIECES = [bytes([byte]) for byte in b'[]{},:"\\\0 019.-+eEINntfux']
PIECES += [b'"data":', b'"shape":', b'"datatype":', b'"name":', b'"parameters":', b'"binary_data_size":', b'"BYTES"']
PIECES += [b'"UINT64"', b'"BOOL"', b"null", b"true", b"NaN", b"Inf", b"1e400", b"9" * 20, b"[]", b"],[", b"\xff"]
PIECES += [b"\1\0\0\0", b"\xff\xff\xff\xff", b"\xff\xd8\xff", b"\\ud800", b"\xef\xbb\xbf"]


def check(body: bytes) -> None:
    """Read a body in every way there is; the two readers must agree."""
    # The fast reader leaves it to the other if there are brackets that it does not know.
    slowly = body.replace(b"{", b'{"~[":[[]],', 1)
    assert_agree(body, None, slowly, None)
    end = body.rfind(b"}") + 1
    assert_agree(body, end, slowly, slowly.rfind(b"}") + 1)


def assert_agree(body: bytes, size: int | None, slowly: bytes, slow_size: int | None) -> None:
    given, exactly = survive(body, size), survive(slowly, slow_size)
    assert (given is None) == (exactly is None)
    if given is not None and exactly is not None:
        assert_all_same(given, exactly)


def survive(body: bytes, size: int | None) -> dict[str, NDArray[np.generic]] | None:
    try:
        request = infer_json.parse(body, size)
        arrays = {one.name: one.read(None) for one in request.inputs}
    except InvalidRequest as exc:
        check_message(str(exc))
        return None
    for one in request.inputs:
        assert (arrays[one.name].dtype, arrays[one.name].shape) == (one.dtype, one.shape)
    assert len(arrays) == len(request.inputs) > 0
    return arrays


def check_message(message: str) -> None:
    # Two shapes and a name twice are the most that is quoted.
    assert 0 < len(message.encode()) < 1000


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus_is_read_or_refused(name: str) -> None:
    check(CORPUS[name])


def test_changed_requests_are_read_or_refused() -> None:
    dice = random.Random(0)
    seeds = list(CORPUS.values())
    for _ in range(2500):
        body = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(body) + 1)
            body[at : at + dice.randint(0, 4)] = dice.choice(PIECES)
        check(bytes(body))


LONG = "§" * 1000
QUOTING = [
    f'"{LONG}"',
    f'{{"{LONG}":1}}',
    f'{{"inputs":"{LONG}"}}',
    f'{{"inputs":["{LONG}"]}}',
    f'{{"inputs":[{{"name":["{LONG}"]}}]}}',
    f'{{"inputs":[{{"name":"{LONG}"}}]}}',
    f'{{"inputs":[{{"name":"{LONG}","datatype":"{LONG}"}}]}}',
    f'{{"inputs":[{{"name":"{LONG}","datatype":"INT8","shape":"{LONG}"}}]}}',
    f'{{"inputs":[{{"name":"{LONG}","datatype":"INT8","shape":["{LONG}","{LONG}"]}}]}}',
    f'{{"inputs":[{{"name":"{LONG}","datatype":"INT8","shape":[1],"data":"{LONG}"}}]}}',
    f'{{"inputs":[{{"name":"{LONG}","datatype":"INT8","shape":[1],"data":["{LONG}"]}}]}}',
    f'{{"inputs":[{{"name":"{LONG}","datatype":"INT8","shape":[1],"data":[1,["{LONG}"]]}}]}}',
    f'{{"inputs":[{{"name":"{LONG}","datatype":"INT8","shape":[2,1],"data":[[1],"{LONG}"]}}]}}',
    f'{{"inputs":[{{"name":"{LONG}","datatype":"INT8","shape":[1],"parameters":"{LONG}"}}]}}',
    f'{{"inputs":[{{"name":"{LONG}","datatype":"INT8","shape":[1],"parameters":{{"{LONG}":["{LONG}"]}}}}]}}',
    f'{{"inputs":[{{"name":"{LONG}","datatype":"INT8","shape":[1],"parameters":{{"binary_data_size":"{LONG}"}}}}]}}',
    f'{{"inputs":[1],"id":["{LONG}"]}}',
    f'{{"inputs":[1],"parameters":{{"{LONG}":["{LONG}"]}}}}',
    f'{{"inputs":[1],"outputs":"{LONG}"}}',
    f'{{"inputs":[1],"outputs":[{{"name":"{LONG}","parameters":{{"classification":"{LONG}"}}}}]}}',
    f'{{"inputs":[1],"outputs":[{{"name":"{LONG}"}},{{"name":"{LONG}"}}]}}',
]


@pytest.mark.parametrize("body", QUOTING, ids=[body.replace(LONG, "*") for body in QUOTING])
def test_an_error_quotes_no_more_than_256_bytes_of_a_body(body: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        [one.read(None) for one in infer_json.parse(body.encode(), None).inputs]
    assert len("§".encode()) * str(refused.value).count("§") <= 256


def request(datatype: str, shape: str, data: str, more: str = "") -> bytes:
    return f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[{shape}],"data":{data}}}]{more}}}'.encode()


def flat(datatype: str, value: str, size: int, last: str = "") -> bytes:
    count = size // (len(value) + 1)
    return request(datatype, str(count + bool(last)), f"[{','.join([value] * count)}{last}]")


def binary(datatype: str, shape: str, data: bytes) -> bytes:
    """A request of binary data, of which the last bracket is JSON's."""
    return f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[{shape}]}}]}}'.encode() + data


# Each of about as many characters as asked for.
LARGE: dict[str, Callable[[int], bytes]] = {
    "numbers": lambda n: flat("FP32", "0", n),
    "numbers and one NaN": lambda n: flat("FP64", "1.5", n, ",NaN"),
    "numbers, the last bad": lambda n: flat("INT8", "0", n, ",200"),
    "too many numbers": lambda n: request("FP32", "1", f"[{','.join('0' * (n // 2))}]"),
    "too few numbers": lambda n: request("FP32", str(2**40), f"[{','.join('0' * (n // 2))}]"),
    "lists of one": lambda n: request("FP32", f"{n // 4},1", f"[{','.join(['[0]'] * (n // 4))}]"),
    "empty lists": lambda n: request("FP32", f"{n // 3},0", f"[{','.join(['[]'] * (n // 3))}]"),
    "lists of one, the last empty": lambda n: request("FP32", f"{n // 4},1", f"[{'[0],' * (n // 4 - 1)}[]]"),
    "lists in lists": lambda n: request("FP32", "1", f"[{','.join(['[' * 30 + ']' * 30] * (n // 61))}]"),
    "booleans": lambda n: flat("BOOL", "true", n),
    "strings": lambda n: flat("BYTES", '"ab"', n),
    "empty strings": lambda n: flat("BYTES", '""', n),
    "brackets": lambda n: b"[" * n,
    "inputs": lambda n: (
        b'{"inputs":['
        + b",".join(b'{"name":"%d","datatype":"INT8","shape":[1],"data":[0]}' % i for i in range(n // 58))
        + b"]}"
    ),
    "numbers for inputs": lambda n: b'{"inputs":[' + b",".join([b"1"] * (n // 2)) + b"]}",
    "outputs": lambda n: request(
        "INT8", "1", "[0]", ',"outputs":[' + ",".join(f'{{"name":"{i}"}}' for i in range(n // 18)) + "]"
    ),
    "parameters": lambda n: request(
        "INT8", "1", "[0]", ',"parameters":{' + ",".join(f'"{i:x}":0' for i in range(n // 9)) + "}"
    ),
    "sizes": lambda n: request("INT8", ",".join("1" * (n // 2)), "[0]"),
    "unknown members": lambda n: request("INT8", "1", "[0]", "".join(f',"{i:x}":[]' for i in range(n // 10))),
    "binary strings": lambda n: binary("BYTES", str(n // 6), struct.pack("<I2s", 2, b"ab") * (n // 6)),
    "empty binary strings": lambda n: binary("BYTES", str(n // 4), bytes(n // 4 * 4)),
    "too many binary strings": lambda n: binary("BYTES", str(2**40), bytes(n)),
    "binary strings, the last too long": lambda n: binary(
        "BYTES", str(n // 4 + 1), bytes(n // 4 * 4) + b"\xff\xff\xff\xff"
    ),
    "strings of sizes": lambda n: (
        b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[%d],"parameters":{"binary_data_size":"%s"}}]}'
        % (n // 2, b",".join([b"0"] * (n // 2)))
    ),
    "a size without end": lambda n: request("FP32", "1", "[0]").replace(b"[1]", b"[" + b"1" * n + b"]"),
}
SECONDS_PER_MEGABYTE = 3
"""Five times what the slowest takes on a slow machine; what is quadratic takes hours."""
MEMORY_FACTOR = 60
"""Of the body's size. A list of one value takes 88 bytes in Python and two in JSON; usual bodies take a fifth."""


@pytest.mark.parametrize("name", LARGE)
def test_a_large_request_takes_memory_and_time_in_proportion(name: str, tmp_path: Path) -> None:
    body = LARGE[name](1_000_000)
    path = tmp_path / "body"
    path.write_bytes(body)
    memory, seconds = costs.in_own_process(costs.of_infer, path)
    assert memory < MEMORY_FACTOR * len(body)
    assert seconds < SECONDS_PER_MEGABYTE
