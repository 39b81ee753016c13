"""The Open Inference Protocol over real sockets: what binary bodies and answers with tails add to HTTP.

What the protocol says is in tests/runtime/open_inference.
"""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from handlers.http_server import HttpServer
from tests.fakes import PATIENCE
from tests.handlers.http_front import ONE, PREDICT, ask, ask_raw, connect, listening, post, rest
from tests.runtime.servables import NAME, HalfPlusTwo, stage

MODEL = f"/v2/models/{NAME}"
INFER = f"{MODEL}/infer"
JSON_SIZE = "inference-header-content-length"
LARGE = 1_500_000
"""Numbers, of which the system does not take all for a client that does not read."""
LAST = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with stage(1) as s, listening(s, max_body=16 << 20) as made:
        yield made


def binary(x: NDArray[Any], **others: Any) -> tuple[bytes, str]:
    """A request with its tensor behind its JSON, whose answer is to be binary as well; and the header's value."""
    head = {"name": "x", "datatype": "FP32", "shape": [len(x)], "parameters": {"binary_data_size": x.nbytes}}
    text = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}, **others}).encode()
    return text + x.tobytes(), str(len(text))


def numbers(count: int, first: int = 0) -> NDArray[Any]:
    return np.arange(first, first + count, dtype=np.float32)


def check(headers: dict[str, str], body: bytes, x: NDArray[Any]) -> dict[str, Any]:
    """Assert that an answer is the one to these numbers; return its JSON."""
    size = int(headers[JSON_SIZE])
    assert headers["content-type"] == "application/octet-stream"
    answer: dict[str, Any] = json.loads(body[:size])
    assert [output["parameters"]["binary_data_size"] for output in answer["outputs"]] == [4 * len(x), 8 * len(x)]
    assert body[size : size + 4 * len(x)] == (x / 2 + 2).tobytes()
    assert body[size + 4 * len(x) :] == np.ones(len(x), np.int64).tobytes()
    return answer


def split(answer: bytes) -> tuple[dict[str, str], bytes]:
    """Headers and body of the first answer in these bytes, and nothing of what follows."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = (line.partition(": ") for line in head.decode().split("\r\n")[1:])
    headers = {name.lower(): value for name, _, value in lines}
    return headers, body[: int(headers["content-length"])]


def test_a_large_answer_goes_out_whole_and_in_order_to_who_reads_slowly() -> None:
    with stage(1) as s, listening(s, max_body=16 << 20) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", server.port))
        x = numbers(LARGE)
        body, size = binary(x)
        connection.sendall(post(body, f"{JSON_SIZE}: {size}", target=INFER) + LAST)
        # A little at a time, so that its pieces are sent in part and more than once.
        pieces = [connection.recv(1000) for _ in range(500)]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        pieces.append(rest(connection))
        answers = b"".join(pieces)
        headers, answered = split(answers)
        check(headers, answered, x)
        assert answers[answers.index(answered) + len(answered) :].startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_connection_goes_on_behind_answers_of_either_protocol_and_form(server: HttpServer) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection:
        for turn, count in enumerate((3, 100_000, 0, 5)):
            x = numbers(count, turn)
            body, size = binary(x, id=str(turn))
            connection.request("POST", INFER, body, {JSON_SIZE: size})
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            assert check(headers, answer.read(), x)["id"] == str(turn)
            connection.request("POST", PREDICT, ONE)
            assert json.loads(connection.getresponse().read())["predictions"][0]["y"] == 2.5
            connection.request("HEAD", MODEL)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"")
            assert int(answer.headers["content-length"]) > 10


def test_a_head_of_what_is_posted_to_is_none(server: HttpServer) -> None:
    answer = ask_raw(server, f"HEAD {INFER} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"\r\nallow: POST\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_binary_body_may_be_compressed_and_so_is_an_answer_of_json_alone(server: HttpServer) -> None:
    x = numbers(100_000)
    body, size = binary(x)
    # How much of it is JSON is said of what was compressed.
    headers = {JSON_SIZE: size, "content-encoding": "gzip", "accept-encoding": "gzip"}
    status, answered, content = ask(server, "POST", INFER, gzip.compress(body, 1), headers)
    assert (status, "content-encoding" in answered) == (200, False)
    check(answered, content, x)
    body, size = binary(x, parameters={})
    status, answered, content = ask(server, "POST", INFER, gzip.compress(body, 1), {**headers, JSON_SIZE: size})
    assert (status, answered["content-encoding"], JSON_SIZE in answered) == (200, "gzip", False)
    assert json.loads(gzip.decompress(content))["outputs"][0]["data"] == (x / 2 + 2).tolist()


def test_who_asks_whether_to_go_on_with_tensors_is_told_so(server: HttpServer) -> None:
    x = numbers(20_000)
    body, size = binary(x)
    request = post(body, f"{JSON_SIZE}: {size}", "Expect: 100-continue", "Connection: close", target=INFER)
    with connect(server) as connection:
        connection.sendall(request[: -len(body)])
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        headers, content = split(rest(connection))
        check(headers, content, x)


@pytest.mark.parametrize("piece", [1, 61, 1 << 20])
def test_requests_of_both_protocols_sent_ahead_are_answered_in_their_order(server: HttpServer, piece: int) -> None:
    requests = b""
    for turn in range(4):
        body, size = binary(numbers(2, turn), id=f"turn {turn}")
        requests += post(body, f"{JSON_SIZE}: {size}", target=INFER)
        requests += post(b'{"instances": [%d]}' % turn)
    with connect(server) as connection:
        requests += LAST
        for at in range(0, len(requests), piece):
            connection.sendall(requests[at : at + piece])
        answers = rest(connection)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"200"] * 9
    marks = re.findall(rb'"id":"turn (\d)"|"y":(\d\.\d)', answers)
    assert marks == [mark for n in range(4) for mark in ((b"%d" % n, b""), (b"", b"%.1f" % (n / 2 + 2)))]


@pytest.mark.parametrize("is_declared", [True, False])
def test_a_body_that_is_too_large_is_not_read_to_its_end(is_declared: bool) -> None:
    body, size = binary(numbers(50_000))
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{JSON_SIZE}: {size}\r\n".encode()
    if is_declared:
        request = head + b"Content-Length: %d\r\n\r\n" % len(body)
    else:
        # It goes on.
        request = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body)
    with stage(1) as s, listening(s, max_body=100_000) as server, connect(server) as connection:
        connection.sendall(request)
        headers, content = split(rest(connection))
        assert headers["connection"] == "close"
        assert "larger than 100000 bytes; see --max_body_size" in json.loads(content)["error"]


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        (["{size}", "{size}"], "'{size},{size}'"),
        (["+{size}"], "'+{size}'"),
        (["-1"], "'-1'"),
        ([""], "''"),
        (["9" * 5000], "9" * 40),
        (["999999999"], "999999999"),
        (["\u00b2"], "\u00b2"),
    ],
)
@pytest.mark.parametrize("count", [2, 50_000])
def test_a_size_that_is_none_of_the_body_is_the_clients_mistake(
    sizes: list[str], told: str, count: int, server: HttpServer
) -> None:
    body, size = binary(numbers(count))
    lines = [f"{JSON_SIZE}: {one.format(size=size)}" for one in sizes]
    request = post(b"", *lines, "Connection: close", target=INFER)
    request = request.decode().replace("Content-Length: 0", f"Content-Length: {len(body)}").encode("latin-1") + body
    headers, content = split(ask_raw(server, request))
    assert headers["content-type"] == "application/json"
    assert told.format(size=size) in json.loads(content)["error"]


class Placed(HalfPlusTwo):
    """Says at which address it has found its numbers."""

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        x = inputs["x"]
        address = np.array([x.__array_interface__["data"][0]], np.int64)
        return {"y": x[-1:], "version": address}


@pytest.mark.parametrize("way", ["declared", "in chunks", "compressed"])
def test_numbers_in_a_large_body_are_where_an_engine_can_read_them(way: str) -> None:
    x = numbers(20_000)
    with stage(1, make=Placed) as s, listening(s) as server, connect(server) as connection:
        for padding in range(17):
            body, size = binary(x, id="x" * padding, outputs=[{"name": name} for name in ("y", "version")])
            lines = [f"{JSON_SIZE}: {size}"]
            if way == "in chunks":
                request = post(b"", *lines, "Transfer-Encoding: chunked", target=INFER)
                request = request.replace(b"Content-Length: 0\r\n", b"") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            elif way == "compressed":
                request = post(gzip.compress(body, 1), *lines, "Content-Encoding: gzip", target=INFER)
            else:
                request = post(body, *lines, target=INFER)
            connection.sendall(request)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            content = answer.read()
            assert answer.status == 200
            y, address = content[-12:-8], int.from_bytes(content[-8:], "little")
            assert np.frombuffer(y, "<f4") == [19_999]
            # Else it is as it comes.
            assert way != "declared" or address % 16 == 0


@pytest.mark.parametrize("piece", [1000, 4096, 1 << 20])
def test_tensors_are_moved_wherever_the_body_is_cut(server: HttpServer, piece: int) -> None:
    x = numbers(20_000)
    for padding in range(0, 17, 5):
        # JSON that ends in the first piece, at its end and behind it.
        for length in (0, piece - 190, piece):
            body, size = binary(x, id="x" * min(padding + length, 10_000))
            with connect(server) as connection:
                request = post(body, f"{JSON_SIZE}: {size}", "Connection: close", target=INFER)
                for at in range(0, len(request), piece):
                    connection.sendall(request[at : at + piece])
                check(*split(rest(connection)), x)


@pytest.mark.parametrize("tail", [10, 70_000])
@pytest.mark.parametrize(
    ("mistake", "offset"), [(b'{"inputs":[1,,2]}', 13), (b'{"id":"a" "b"}', 10), (b"{}}", 2), (b'{"inputs":[1', 12)]
)
def test_an_error_in_json_is_where_the_client_has_it(
    server: HttpServer, mistake: bytes, offset: int, tail: int
) -> None:
    size = len(mistake)
    status, _, content = ask(server, "POST", INFER, mistake + bytes(tail), {JSON_SIZE: str(size)})
    message = json.loads(content)["error"]
    assert status == 400
    assert f"at offset: {offset};" in message
    assert message.endswith(f"says that {size} bytes of {size + tail} are JSON")


@pytest.mark.parametrize("blanks", [10, 70_000])
def test_the_other_protocol_takes_no_note_of_the_header(server: HttpServer, blanks: int) -> None:
    mistake = b'{"instances":[1,,2]}' + b" " * blanks
    _, _, alone = ask(server, "POST", PREDICT, mistake)
    status, _, content = ask(server, "POST", PREDICT, mistake, {JSON_SIZE: "5"})
    assert (status, content) == (400, alone)
    assert b"at offset: 16" in content
