"""The benchmarks' HTTP client, against a server that sends what a test says, in the pieces that it says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from benchmarks.clients import HttpClient, http_request
from benchmarks.tasks import BenchmarkFailed

PATH, BODY = "/v1/models/m:predict", b'{"instances": [1]}'


@contextlib.contextmanager
def server(answers: Sequence[Sequence[bytes]]) -> Iterator[int]:
    """Answer one request after the other on one connection; then close it."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pieces in answers:
                request = b""
                while len(request) < len(http_request(PATH, BODY)):
                    request += connection.recv(1 << 16)
                assert request == http_request(PATH, BODY)
                for piece in pieces:
                    connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_answers_are_read_to_their_end_however_they_arrive() -> None:
    answers = [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"],
        [b"HTTP/1.1 200 OK\r\ncontent-", b"length: 6\r\n\r", b"\npie", b"ces"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
    ]
    with server(answers) as port, HttpClient(port, PATH, BODY) as client:
        assert [client() for _ in answers] == [b"whole", b"pieces", b""]


def test_a_request_has_the_headers_that_it_is_given() -> None:
    plain = b"POST /p HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    assert http_request("/p", b"{}") == plain
    assert http_request("/p", b"{}", {"A": "b"}) == plain.replace(b"Content-Type: application/json", b"A: b")


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"], "busy"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], "within an answer"),
    ],
)
def test_what_is_no_whole_good_answer_ends_the_benchmark(pieces: Sequence[bytes], said: str) -> None:
    with (
        server([pieces]) as port,
        HttpClient(port, PATH, BODY) as client,
        pytest.raises(BenchmarkFailed, match=said),
    ):
        client()
