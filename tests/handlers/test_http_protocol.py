"""HTTP as it comes over real sockets: order, framing, what is no HTTP, slow peers, the end."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np
import pytest

from handlers.http_bridge import Bridge
from handlers.http_protocol import MAX_HEAD, Timeouts
from handlers.http_server import HttpServer
from model_cache.timeline import timeline
from runtime.errors import DeadlineExceeded
from tests.fakes import PATIENCE, Gate, no_more_threads, until
from tests.handlers.http_front import MODEL, ONE, PREDICT, ask, ask_raw, connect, get, listening, post, rest
from tests.runtime.servables import HalfPlusTwo, stage

LIVE = get("/v2/health/live")
LAST = get("/v2/health/live", "Connection: close")
SOON = 0.3


def rows(value: int) -> bytes:
    return b'{"signature_name": "only_y", "instances": [%d]}' % value


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answers)]


def predictions(answers: bytes) -> list[float]:
    return [json.loads(body)["predictions"][0] for body in re.findall(rb'\{"predictions":.*?\}', answers)]


class Held(HalfPlusTwo):
    gate: Gate

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        self.gate.pass_through()
        return super().predict(signature_name, inputs, deadline)


class Wide(HalfPlusTwo):
    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        return {"y": np.arange(inputs["x"][0], dtype=np.float32)}


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with stage(1, 2) as s, listening(s) as made:
        yield made


@pytest.mark.parametrize("piece", [1, 3, 1000, 1 << 20], ids=lambda size: f"{size} at a time")
def test_requests_sent_ahead_are_answered_in_their_order(server: HttpServer, piece: int) -> None:
    requests = b"".join((post(rows(0)), get("/nothing"), post(rows(2)), get(MODEL), b"\r\n", post(rows(4)), LAST))
    with connect(server) as connection:
        for at in range(0, len(requests), piece):
            connection.sendall(requests[at : at + piece])
        answers = rest(connection)
    assert statuses(answers) == [200, 404, 200, 200, 200, 200]
    assert predictions(answers) == [2, 3, 4]


def test_a_request_sent_ahead_waits_for_the_one_before_it() -> None:
    with stage(1, make=Held) as s, listening(s) as server, connect(server) as connection:
        Held.gate = Gate()
        connection.sendall(post(rows(0)))
        Held.gate.wait_until_reached()
        connection.sendall(LAST)
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(PATIENCE)
        Held.gate.open()
        assert statuses(rest(connection)) == [200, 200]


def test_what_is_sent_ahead_is_not_read_for_ever_and_none_of_it_is_lost() -> None:
    with stage(1, make=Held) as s, listening(s) as server, connect(server) as connection:
        Held.gate = Gate()
        padded = get("/v2/health/live", "X: " + "x" * 30_000)
        connection.sendall(post(rows(0)))
        Held.gate.wait_until_reached()
        connection.settimeout(SOON)
        sent = 0
        with suppress(TimeoutError):
            while sent < 2000:
                connection.sendall(padded)
                sent += 1
        # What the system keeps for both.
        assert sent * len(padded) < 32 << 20
        connection.settimeout(PATIENCE)
        Held.gate.open()
        answers = b""
        while len(statuses(answers)) < sent + 1:
            answers += connection.recv(1 << 20)
        assert statuses(answers) == [200] * (sent + 1)


CHUNKED = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


@pytest.mark.parametrize("piece", [1, 5, 1000], ids=lambda size: f"{size} at a time")
@pytest.mark.parametrize(
    "body",
    [
        b"12\r\n" + ONE + b"\r\n0\r\n\r\n",
        b"".join(b"1\r\n%c\r\n" % byte for byte in ONE) + b"0\r\n\r\n",
        b'0012;ext=1;a="b"\r\n' + ONE + b"\r\n000\r\n\r\n",
        b"12\r\n" + ONE + b"\r\n0\r\nx-trailer: y\r\naccept-encoding: gzip\r\n\r\n",
        b"a\r\n" + ONE[:10] + b"\r\n8\r\n" + ONE[10:] + b"\r\n0\r\n\r\n",
    ],
    ids=["one", "bytes", "extensions", "trailers", "two"],
)
def test_a_body_in_chunks_is_put_together(server: HttpServer, body: bytes, piece: int) -> None:
    request = CHUNKED + body + LAST
    with connect(server) as connection:
        for at in range(0, len(request), piece):
            connection.sendall(request[at : at + piece])
        answers = rest(connection)
    assert statuses(answers) == [200, 200]
    assert b'{"y":2.5,"version":2}' in answers


SMUGGLED = get(MODEL)
LINE = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\n".encode()
MALFORMED = {
    "length and chunks": LINE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": LINE + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": LINE + b"Content-Length: 0\r\nContent-Length: 3\r\n\r\n",
    "the same length twice": LINE + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": LINE + b"Content-Length: 0, 3\r\n\r\n",
    "a negative length": LINE + b"Content-Length: -1\r\n\r\n",
    "a length with a sign": LINE + b"Content-Length: +0\r\n\r\n",
    "a length without end": LINE + b"Content-Length: 18446744073709551617\r\n\r\n",
    "a length in hexadecimal": LINE + b"Content-Length: 0x0\r\n\r\n",
    "an empty length": LINE + b"Content-Length:\r\n\r\n",
    "chunks not at the end": LINE + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunks and then none": LINE + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "nearly chunks": LINE + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks behind a tab": LINE + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-1\r\n",
    "a chunk with 0x": CHUNKED + b"0x0\r\n\r\n",
    "a chunk with a space": CHUNKED + b"0 \r\n\r\n",
    "a chunk without a size": CHUNKED + b"\r\n\r\n",
    "a chunk without end": CHUNKED + b"10000000000000000\r\n",
    "a chunk that is longer": CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
    "a chunk that ends in a line feed": CHUNKED + b"1\r\na\n0\r\n\r\n",
    "a length behind the chunks": CHUNKED + b"0\r\ncontent-length: 3\r\n\r\n",
    "a header on two lines": LINE + b"Content-Length: 0\r\nX: a\r\n Content-Length: 3\r\n\r\n",
    "a header behind a space": LINE + b" Content-Length: 0\r\n\r\n",
    "a space before the colon": LINE + b"Content-Length : 0\r\n\r\n",
    "line feeds": LINE.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n",
    "a carriage return": LINE + b"X: a\rContent-Length: 0\r\n\r\n",
    "a zero byte": LINE + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a space in the target": b"GET /v1/models/a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "a byte that no target has": b"GET /v1/models/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
    "no method": b"/v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    "another protocol": b"GET / FTP/1.0\r\n\r\n",
    "another version": b"GET / HTTP/3.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
}


@pytest.mark.parametrize("pieces", [1, 1 << 20], ids=["by bytes", "at once"])
@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_http_is_400_and_nothing_behind_it_is_a_request(
    server: HttpServer, request_: bytes, pieces: int
) -> None:
    sent = LIVE + request_ + SMUGGLED
    with connect(server) as connection:
        # It may have heard enough before the end.
        with suppress(ConnectionError):
            for at in range(0, len(sent), pieces):
                connection.sendall(sent[at : at + pieces])
        answers = rest(connection)
    assert statuses(answers) == [200, 400]
    head, _, body = answers.rpartition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert body == b"Invalid HTTP request received."
    assert ask(server, "GET", MODEL)[0] == 200


def test_what_is_no_http_is_answered_behind_what_is() -> None:
    with stage(1, make=Held) as s, listening(s) as server, connect(server) as connection:
        Held.gate = Gate()
        connection.sendall(post(rows(0)) + b"\x16\x03\x01" + LIVE)
        Held.gate.wait_until_reached()
        Held.gate.open()
        assert statuses(rest(connection)) == [200, 400]


def test_the_body_of_a_request_that_needs_none_may_be_no_body(server: HttpServer) -> None:
    head = f"GET {MODEL} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with connect(server) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"1\r\nab\r\n" + LIVE)
        assert rest(connection) == b""


@pytest.mark.parametrize("target", [MODEL, "/nothing", "/v2/health/live", "/v2/health/ready/", "/v1/nothing"])
@pytest.mark.parametrize("size", [0, 10, 300_000])
def test_a_body_that_nobody_reads_is_passed_over(server: HttpServer, target: str, size: int) -> None:
    body = b"x" * size
    sent = get(target, f"Content-Length: {size}") + body + post(rows(0)) + get(target) + LAST
    answers = ask_raw(server, sent)
    assert statuses(answers)[1::2] == [200, 200]
    assert predictions(answers) == [2]


def test_who_asks_whether_to_go_on_is_told_so_once(server: HttpServer) -> None:
    head, body = post(ONE, "Expect: 100-Continue")[: -len(ONE)], ONE
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(head)
            assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(body[:5])
            connection.sendall(body[5:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        # Who has not waited needs no answer to that.
        connection.sendall(head + body + LAST)
        assert statuses(rest(connection)) == [200, 200]


@pytest.mark.parametrize(
    ("target", "size", "status"), [(PREDICT, 1 << 30, 413), ("/v1/nothing", 5, 400), ("/nothing", 5, 404)]
)
def test_who_asks_whether_to_go_on_may_be_told_that_there_is_no_need(
    server: HttpServer, target: str, size: int, status: int
) -> None:
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {size}\r\n\r\n".encode()
    with connect(server) as connection:
        connection.sendall(head)
        assert statuses(connection.recv(65536)) == [status]


@pytest.mark.parametrize("connection", ["Connection: keep-alive", "X: y"])
def test_http_1_0_has_one_request_for_a_connection(server: HttpServer, connection: str) -> None:
    request = post(ONE, connection, "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    answers = ask_raw(server, request + LIVE)
    assert statuses(answers) == [200]
    assert b"\r\nconnection: close\r\n" in answers


def test_nothing_is_answered_behind_who_wants_to_close(server: HttpServer) -> None:
    answers = ask_raw(server, post(ONE, "Connection: close") + LIVE + LIVE)
    assert statuses(answers) == [200]
    assert answers.count(b"connection: close") == 1


def test_an_answer_says_when_it_was_made(server: HttpServer) -> None:
    for _ in range(2):
        _, headers, _ = ask(server, "GET", "/v2/health/live")
        assert abs(parsedate_to_datetime(headers["date"]).timestamp() - time.time()) < 5
        assert headers["date"].endswith(" GMT")


def test_the_first_answers_say_how_long_the_start_took(server: HttpServer) -> None:
    timeline.restart()
    answers = [ask(server, "POST", PREDICT, rows(0)) for _ in range(5)]
    assert [status for status, _, _ in answers] == [200] * 5
    assert ["server-timing" in headers for _, headers, _ in answers] == [True, True, True, False, False]


def test_a_connection_without_requests_is_kept_for_a_while() -> None:
    with stage(1) as s, listening(s, timeouts=Timeouts(keep_alive=0.2)) as server, connect(server) as connection:
        for _ in range(3):
            connection.sendall(LIVE)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        assert rest(connection) == b""
        assert time.monotonic() - began > 0.1


def test_a_connection_is_kept_while_its_request_runs() -> None:
    with (
        stage(1, make=Held) as s,
        listening(s, timeouts=Timeouts(0.1, 0.1, 0.1)) as server,
        connect(server) as connection,
    ):
        Held.gate = Gate()
        connection.sendall(post(rows(0), "Connection: close"))
        Held.gate.wait_until_reached()
        with connect(server) as other:
            assert rest(other) == b""
        with connect(server) as other:
            other.sendall(post()[:-1])
            assert statuses(rest(other)) == [408]
        Held.gate.open()
        assert statuses(rest(connection)) == [200]


@pytest.mark.parametrize("head", [post(b"x" * 100)[:-1], CHUNKED + b"5\r\nabc"], ids=["declared", "chunked"])
def test_a_body_that_stops_coming_is_408(head: bytes) -> None:
    with stage(1) as s, listening(s, max_in_flight=1, timeouts=Timeouts(silence=0.2)) as server:
        answers = ask_raw(server, head)
        assert statuses(answers) == [408]
        assert b"connection: close" in answers
        assert ask(server, "GET", MODEL)[0] == 200


def test_a_body_that_nobody_reads_and_that_stops_coming_ends_its_connection() -> None:
    with stage(1) as s, listening(s, timeouts=Timeouts(silence=0.2)) as server:
        assert statuses(ask_raw(server, get(MODEL, "Content-Length: 5") + b"abc")) == [200]


def test_a_client_that_leaves_in_the_middle_of_its_body_takes_no_place() -> None:
    with stage(1) as s, listening(s, max_in_flight=1) as server:
        with connect(server) as connection:
            connection.sendall(post()[:-1])
            until(lambda: ask(server, "GET", MODEL)[0] == 503)
        until(lambda: ask(server, "GET", MODEL)[0] == 200)


@pytest.mark.parametrize("line", [b"1;" + b"x" * (8 << 20), b"12\r\n" + ONE + b"\r\n0\r\nx: " + b"x" * (8 << 20)])
def test_lines_between_chunks_and_trailers_are_bounded(line: bytes) -> None:
    with stage(1) as s, listening(s) as server, connect(server) as connection:
        with suppress(ConnectionError):
            connection.sendall(CHUNKED + line)
        answer = b""
        with suppress(ConnectionError):
            answer = connection.recv(65536)
        assert answer == b"" or statuses(answer) == [431]
        assert ask(server, "GET", MODEL)[0] == 200


@pytest.mark.parametrize("written", ["{:05000}", "{} \t"], ids=["zeros", "blanks"])
def test_a_length_may_be_written_at_length(server: HttpServer, written: str) -> None:
    # More than is parsed at once, so that the rest of the body is to be told from the next request.
    body = ONE + b" " * 5000
    head = f"POST {PREDICT} HTTP/1.1\r\nContent-Length: {written}\r\n\r\n"
    assert statuses(ask_raw(server, head.format(len(body)).encode() + body + LAST)) == [200, 200]
    assert statuses(ask_raw(server, head.format(2 << 20).encode())) == [413]


def test_a_body_in_another_coding_than_chunks_is_501(server: HttpServer) -> None:
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(ONE), ONE)
    again = "gzip\r\nTransfer-Encoding: chunked"
    for coding, wanted in (("Chunked", [200, 200]), ("gzip, chunked", [501]), (again, [501])):
        head = f"POST {PREDICT} HTTP/1.1\r\nTransfer-Encoding: {coding}\r\n\r\n".encode()
        assert statuses(ask_raw(server, head + chunks + LAST)) == wanted


def test_headers_are_kept_only_if_somebody_looks_at_them(server: HttpServer) -> None:
    ask_raw(server, LAST)
    tracemalloc.start()
    try:
        with connect(server) as connection:
            connection.sendall(LIVE + b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 10_000)
            connection.recv(65536)
            assert ask(server, "GET", MODEL)[0] == 200
            assert tracemalloc.get_traced_memory()[0] < 300_000
    finally:
        tracemalloc.stop()


def test_headers_that_somebody_looks_at_are_bounded_by_what_they_take(server: HttpServer) -> None:
    assert statuses(ask_raw(server, b"GET / HTTP/1.1\r\n" + b"origin:b\r\n" * 1000)) == [431]


def test_who_offers_an_upgrade_may_want_to_close_all_the_same(server: HttpServer) -> None:
    head = get("/v2/health/live", "Connection: close, Upgrade", "Upgrade: h2c")
    assert b"connection: close\r\n" in ask_raw(server, head)


def test_a_refused_client_can_read_why_though_it_goes_on_sending() -> None:
    with stage(1) as s, listening(s, max_body=1000) as server:
        for request in (b"GET / HTTP/1.1\r\nx: " + b"x" * (MAX_HEAD + 400_000), post(b"x" * 700_000)):
            with connect(server) as connection:
                connection.sendall(request)
                assert statuses(rest(connection)) in ([431], [413])


def test_who_does_not_read_his_answer_gets_no_other_and_keeps_his_place() -> None:
    with stage(1, make=Wide) as s, listening(s, max_in_flight=1) as server, connect(server) as connection:
        # More than the system takes for both.
        wide = b'{"inputs": [4000000]}'
        connection.sendall(post(wide) + post(wide) + LAST)
        assert connection.recv(9) == b"HTTP/1.1 "
        assert ask(server, "GET", MODEL)[0] == 503
        answers = b"HTTP/1.1 " + rest(connection)
        assert statuses(answers) == [200, 200, 200]
        assert answers.count(b",3999999.0]") == 2
        until(lambda: ask(server, "GET", MODEL)[0] == 200)


def test_who_never_reads_his_answer_loses_it() -> None:
    with (
        stage(1, make=Wide) as s,
        listening(s, max_in_flight=1, timeouts=Timeouts(silence=0.2)) as server,
        connect(server) as connection,
    ):
        connection.sendall(post(b'{"inputs": [4000000]}'))
        assert connection.recv(1) == b"H"
        assert ask(server, "GET", MODEL)[0] == 503
        # The rest of it is not sent any more, and not kept.
        until(lambda: ask(server, "GET", MODEL)[0] == 200)
        assert len(rest(connection)) < 30_000_000


def test_who_says_that_he_sends_no_more_and_does_not_read_loses_his_answer_too() -> None:
    with (
        stage(1, make=Wide) as s,
        listening(s, max_in_flight=1, timeouts=Timeouts(silence=0.2)) as server,
        connect(server) as connection,
    ):
        connection.sendall(post(b'{"inputs": [4000000]}'))
        assert connection.recv(1) == b"H"
        connection.shutdown(socket.SHUT_WR)
        until(lambda: ask(server, "GET", MODEL)[0] == 200)


@pytest.mark.parametrize("behind", [b"", LIVE, LIVE + LAST, LIVE + LAST[:-5]], ids=["one", "two", "all", "part"])
def test_who_says_that_he_sends_no_more_gets_what_he_has_asked_for(behind: bytes) -> None:
    with stage(1, make=Held) as s, listening(s) as server, connect(server) as connection:
        Held.gate = Gate()
        connection.sendall(post(rows(0)) + behind)
        connection.shutdown(socket.SHUT_WR)
        Held.gate.wait_until_reached()
        # By now it has been read.
        assert ask(server, "GET", "/v2/health/live")[0] == 200
        Held.gate.open()
        answers = rest(connection)
        assert statuses(answers) == [200] * (1 + behind.count(b"\r\n\r\n"))
        assert predictions(answers) == [2]


def test_who_reads_slowly_gets_all_of_his_answer() -> None:
    with (
        stage(1, make=Wide) as s,
        listening(s, timeouts=Timeouts(silence=0.3)) as server,
        socket.socket() as connection,
    ):
        # What he reads is less than the system waits for until it takes more from us.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(post(b'{"inputs": [4000000]}', "Connection: close"))
        answer = b""
        for _ in range(20):
            answer += connection.recv(16 << 10)
            time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        assert (answer + rest(connection)).endswith(b",3999999.0]}")


def test_who_leaves_in_the_middle_of_his_answer_takes_no_place() -> None:
    with stage(1, make=Wide) as s, listening(s, max_in_flight=1) as server:
        with connect(server) as connection:
            connection.sendall(post(b'{"inputs": [4000000]}'))
            assert connection.recv(1) == b"H"
        until(lambda: ask(server, "GET", MODEL)[0] == 200)


def test_a_drain_ends_what_is_idle_at_once_and_lets_finish_what_runs() -> None:
    with (
        stage(1, make=Held) as s,
        ThreadPoolExecutor(1) as pool,
        listening(s) as server,
        connect(server) as idle,
        connect(server) as begun,
        connect(server) as silent,
        connect(server) as running,
        connect(server) as coming,
    ):
        Held.gate = Gate()
        address = ("127.0.0.1", server.port)
        for connection, sent in ((idle, LIVE), (begun, LIVE + LIVE[:-5]), (coming, LIVE + post(rows(2))[:-1])):
            connection.sendall(sent)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        running.sendall(post(rows(0)) + LIVE)
        Held.gate.wait_until_reached()
        drained = pool.submit(server.drain, PATIENCE)
        assert [rest(connection) for connection in (idle, begun, silent)] == [b"", b"", b""]
        with pytest.raises(ConnectionError):
            socket.create_connection(address, PATIENCE)
        assert not drained.done()
        coming.sendall(post(rows(2))[-1:])
        Held.gate.open()
        for connection, want in ((running, [2]), (coming, [3])):
            answers = rest(connection)
            assert predictions(answers) == want
            # Said with the last answer that it gets.
            assert answers.count(b"connection: close") == 1
        assert drained.result(PATIENCE)


class Quick(HalfPlusTwo):
    """Says of itself that it is quick, and takes its time if told so."""

    is_quick = True
    threads: list[str]
    gate: Gate | None

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        self.threads.append(threading.current_thread().name)
        if self.gate is not None:
            # As the engine has it.
            assert deadline is not None
            if not self.gate.opened.wait(deadline - time.monotonic()):
                self.gate.reached.set()
                raise DeadlineExceeded("while it ran")
        return super().predict(signature_name, inputs, deadline)


@pytest.fixture
def quick() -> Iterator[HttpServer]:
    Quick.threads, Quick.gate = [], None
    with stage(1, make=Quick) as s, listening(s) as made:
        assert ask(made, "POST", PREDICT, ONE)[0] == 200
        # It was not loaded.
        assert Quick.threads.pop() != "http"
        yield made


@pytest.mark.parametrize("target", [PREDICT, f"{MODEL}/versions/1:predict"])
def test_a_quick_request_is_answered_where_it_is_read(quick: HttpServer, target: str) -> None:
    answers = ask_raw(quick, b"".join(post(rows(value), target=target) for value in range(100)) + LAST)
    assert statuses(answers) == [200] * 101
    assert predictions(answers) == [2 + value / 2 for value in range(100)]
    assert Quick.threads == ["http"] * 100


def test_a_large_or_compressed_body_is_read_elsewhere(quick: HttpServer) -> None:
    assert ask(quick, "POST", PREDICT, ONE + b" " * (16 << 10))[0] == 200
    assert ask(quick, "POST", PREDICT, gzip.compress(ONE), {"Content-Encoding": "gzip"})[0] == 200
    assert "http" not in Quick.threads
    assert len(Quick.threads) == 2


def test_errors_of_quick_requests_are_those_of_others(quick: HttpServer) -> None:
    for body in (b"{", b'{"instances": ["a"]}', b'{"signature_name": "x", "instances": [1]}'):
        assert ask(quick, "POST", PREDICT, body)[0] == 400
    assert ask(quick, "POST", "/v1/models/other:predict", ONE)[0] == 404
    assert ask(quick, "POST", f"{MODEL}/labels/other:predict", ONE)[0] == 400
    assert ask(quick, "POST", f"{MODEL}/versions/7:predict", ONE)[0] == 404


def test_a_model_that_turns_out_slow_holds_up_nobody(quick: HttpServer) -> None:
    Quick.gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, quick, "POST", PREDICT, ONE)
        Quick.gate.wait_until_reached()
        assert ask(quick, "GET", "/v2/health/live")[0] == 200
        Quick.gate.open()
        # Asked again, with all the time that a request has.
        assert slow.result(PATIENCE)[0] == 200
    assert Quick.threads[0] == "http"
    assert Quick.threads[1] != "http"


def test_a_model_that_loads_holds_up_nobody() -> None:
    Quick.threads, Quick.gate = [], None
    with stage(1, 2, make=Quick) as s, listening(s) as server, ThreadPoolExecutor(1) as pool:
        assert ask(server, "POST", PREDICT, ONE)[0] == 200
        gate = s.loader.hold(2)
        s.cache.retire(s.repository.find(2))
        reply = pool.submit(ask, server, "POST", PREDICT, ONE)
        gate.wait_until_reached()
        assert ask(server, "GET", "/v2/health/live")[0] == 200
        assert ask(server, "POST", f"{MODEL}/versions/1:predict", ONE)[0] == 200
        gate.open()
        assert reply.result(PATIENCE)[0] == 200


class Leaving(Quick):
    """Is gone when it is leased, as may be between that and the question."""

    leave: Any = None

    @property
    def is_quick(self) -> bool:  # type: ignore[override]
        self.leave()
        return True


def test_a_model_that_leaves_between_the_question_and_the_lease_holds_up_nobody() -> None:
    Quick.threads, Quick.gate = [], None
    with stage(1, make=Leaving) as s, listening(s) as server, ThreadPoolExecutor(1) as pool:
        assert ask(server, "POST", PREDICT, ONE)[0] == 200
        gate = s.loader.hold(1)
        Leaving.leave = lambda _: s.cache.retire(s.repository.find(1))
        reply = pool.submit(ask, server, "POST", PREDICT, ONE)
        gate.wait_until_reached()
        assert ask(server, "GET", "/v2/health/live")[0] == 200
        gate.open()
        assert reply.result(PATIENCE)[0] == 200
    assert "http" not in Quick.threads


class Chatty(Quick):
    """A quick one; as it is asked first, somebody else asks for it, too."""

    values: list[float]
    other: socket.socket

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        if not self.values:
            self.other.sendall(post(rows(100)))
        self.values.append(float(inputs["x"][0]))
        # So that few are as many as a turn has.
        time.sleep(0.003)
        return super().predict(signature_name, inputs, deadline)


@pytest.mark.parametrize("padding", [0, 2000], ids=["in one stride", "in several"])
def test_who_sends_much_ahead_does_not_keep_others_waiting(padding: int) -> None:
    Quick.threads, Quick.gate = [], None
    with stage(1, make=Chatty) as s, listening(s) as server, connect(server) as other:
        Chatty.values, Chatty.other = [1.0], other
        assert ask(server, "POST", PREDICT, ONE)[0] == 200
        other.sendall(LIVE)
        assert statuses(other.recv(65536)) == [200]
        Chatty.values.clear()
        answers = ask_raw(server, b"".join(post(rows(value) + b" " * padding) for value in range(20)) + LAST)
        assert statuses(answers) == [200] * 21
        assert sorted(Chatty.values) == [*range(20), 100]
        assert Chatty.values.index(100) < 10
        assert statuses(other.recv(65536)) == [200]
    assert Quick.threads[1] == "http"


class Retiring(Quick):
    """Is retired while it answers, so that the request is the last to use it."""

    retire: Any = None
    closed_by: list[str]

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        type(self).retire()
        return super().predict(signature_name, inputs, deadline)

    def close(self) -> None:
        super().close()
        self.closed_by.append(threading.current_thread().name)


def test_a_model_is_not_closed_where_requests_are_read() -> None:
    Quick.threads, Quick.gate = [], None
    with stage(1, make=Retiring) as s, listening(s) as server:
        Retiring.retire, Retiring.closed_by = staticmethod(lambda: None), []
        assert ask(server, "POST", PREDICT, ONE)[0] == 200
        Retiring.retire = staticmethod(lambda: s.cache.retire(s.repository.find(1)))
        assert ask(server, "POST", PREDICT, ONE)[0] == 200
        assert Quick.threads[-1] == "http"
        until(lambda: Retiring.closed_by == ["close"])
        # Unless there is no other thread to be had.
        Retiring.retire = staticmethod(lambda: None)
        assert ask(server, "POST", PREDICT, ONE)[0] == 200
        Retiring.retire = staticmethod(lambda: s.cache.retire(s.repository.find(1)))
        with no_more_threads():
            assert ask(server, "POST", PREDICT, ONE)[0] == 200
        assert Retiring.closed_by == ["close", "http"]


def test_a_process_that_can_have_no_more_threads_says_so(server: HttpServer) -> None:
    with no_more_threads():
        assert ask(server, "POST", PREDICT, ONE)[0] == 503
        assert ask(server, "GET", "/v2/health/live")[0] == 200
    assert ask(server, "POST", PREDICT, ONE)[0] == 200
    # And with one it goes on.
    with no_more_threads():
        assert ask(server, "POST", PREDICT, ONE)[0] == 200


def test_pages_are_to_be_had_once_there_are_threads_again(server: HttpServer) -> None:
    with no_more_threads():
        assert ask(server, "GET", "/docs")[0] == 500
    assert ask(server, "GET", "/docs")[0] == 200


def test_an_application_that_could_not_be_made_is_made_for_who_asks_next() -> None:
    made: list[Any] = [MemoryError("for now")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a page"})

    def make() -> Any:
        if made:
            raise made.pop()
        return app

    async def ask_several() -> list[tuple[int, bytes]]:
        bridge = Bridge(asyncio.get_running_loop(), make)
        first = await asyncio.gather(*(bridge.answer("GET", b"/docs", b"") for _ in range(2)))
        return [(answer.status, answer.body) for answer in (*first, await bridge.answer("GET", b"/docs", b""))]

    failed = (500, b'{"error":"internal error"}')
    assert asyncio.run(ask_several()) == [failed, failed, (200, b"a page")]


def test_the_pages_are_served_beside_the_contract(server: HttpServer) -> None:
    answers = ask_raw(server, get("/openapi.json") + get("/docs?x=y") + post(rows(0)) + LAST)
    assert statuses(answers) == [200, 200, 200, 200]
    assert b"/v1/models/{name}:predict" in answers
    status, headers, body = ask(server, "POST", "/v2/health/live", b"x")
    assert (status, sorted(headers["allow"].split(", "))) == (405, ["GET", "HEAD"])
    assert json.loads(body) == {"error": "Method Not Allowed: POST /v2/health/live"}
    for method, status in (("HEAD", 200), ("POST", 405)):
        assert ask(server, method, "/docs")[0] == status


def test_the_start_is_shown(server: HttpServer) -> None:
    status, headers, body = ask(server, "GET", "/v1/coldstart")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body)
    status, headers, body = ask(server, "GET", "/v1/coldstart.svg")
    assert (status, headers["content-type"]) == (200, "image/svg+xml")
    assert body.startswith(b"<svg")
