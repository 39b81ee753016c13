"""The REST front over real sockets: targets, bodies, limits, drain. HTTP itself is in test_http_protocol."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from typing import Any

import numpy as np
import pytest
import zstandard

from handlers.http_protocol import Timeouts
from handlers.http_server import HttpServer
from tests.fakes import PATIENCE, Gate, until
from tests.handlers.http_front import MODEL, ONE, PREDICT, ask, ask_raw, connect, listening
from tests.runtime.servables import HalfPlusTwo, stage


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with stage(1, 2, name="a/b:c") as s, listening(s) as made:
        yield made


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", "/v1/models/a%2Fb%3ac:predict", 200),
        ("POST", "/V1/Models/a%2fb%3Ac/Versions/1:predict", 200),
        ("POST", "/v1/models/a%2Fb%3Ac:predict?key=value", 200),
        ("GET", "/v1/models/a%2Fb%3Ac", 200),
        ("GET", "/v1/models/a%2Fb%3Ac/metadata?x", 200),
        # In the form that is sent to proxies.
        ("GET", "http://example.com/v1/models/a%2Fb%3Ac", 200),
        ("POST", "/v1/models/a/b:c:predict", 400),
        ("POST", "/v1/models/a%252Fb%253Ac:predict", 404),
        ("POST", "/v1/models/a%2Fb%3Ac:PREDICT", 400),
        ("POST", "/v1/models/a%2Fb%3Ac:predict/", 400),
        ("PUT", "/v1/models/a%2Fb%3Ac", 400),
        ("DELETE", "/v1/models/a%2Fb%3Ac", 400),
        ("TRACE", "/v1/models/a%2Fb%3Ac", 400),
        ("PROPFIND", "/v1/models/a%2Fb%3Ac", 400),
        ("GET", f"/v1/models/a%2Fb%3Ac/versions/{1 << 63}", 400),
        ("GET", "/v1/models", 400),
        ("GET", "/v2", 200),
        ("GET", "/v2/models/a%2Fb%3Ac/ready", 200),
    ],
)
def test_a_target_arrives_as_it_was_sent(server: HttpServer, method: str, target: str, status: int) -> None:
    found, headers, body = ask(server, method, target, ONE if method == "POST" else None)
    assert (found, headers["content-type"]) == (status, "application/json")
    if status >= 400:
        assert json.loads(body).keys() == {"error"}


def test_a_head_is_answered_without_a_body(server: HttpServer) -> None:
    for target, status in (("/v1/models/a%2Fb%3Ac", 400), ("/v1/nothing", 400), ("/v2/health/live", 200), ("/", 404)):
        request = f"HEAD {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        head, _, body = ask_raw(server, request).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d" % status)
        assert body == b""


def test_a_connection_goes_on_after_a_head_and_after_options(server: HttpServer) -> None:
    methods = (b"HEAD", b"OPTIONS", b"GET")
    requests = [b"%s /v1/models HTTP/1.1\r\nHost: x\r\nOrigin: http://a\r\n\r\n" % method for method in methods]
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = ask_raw(server, b"".join(requests) + last)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"400", b"200", b"400", b"200"]
    assert answers.count(b"Missing model name") == 1


@pytest.mark.parametrize("target", [b"/v1/models/\xff\xfe", b"/v1/models/\xc3\xbc"])
def test_bytes_that_no_url_has_do_no_harm(server: HttpServer, target: bytes) -> None:
    answer = ask_raw(server, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer[9:10] == b"4"
    assert ask(server, "GET", "/v2/health/live")[0] == 200


class Wide(HalfPlusTwo):
    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        return {"y": np.arange(inputs["x"][0], dtype=np.float32)}


def test_bodies_and_answers_may_be_compressed() -> None:
    with stage(1, make=Wide) as s, listening(s) as server:
        sent = gzip.compress(b'{"inputs": [100000]}')
        want = {"outputs": list(range(100_000))}
        headers = {"content-encoding": "gzip", "accept-encoding": "gzip"}
        status, answered, body = ask(server, "POST", PREDICT, sent, headers)
        assert (status, answered["content-encoding"], answered["vary"]) == (200, "gzip", "Accept-Encoding")
        assert json.loads(gzip.decompress(body)) == want
        status, answered, body = ask(server, "POST", PREDICT, sent, {**headers, "accept-encoding": "zstd"})
        assert (status, answered["content-encoding"]) == (200, "zstd")
        assert json.loads(zstandard.ZstdDecompressor().decompress(body)) == want
        bomb = gzip.compress(bytes(64 << 20))
        assert ask(server, "POST", PREDICT, bomb, headers)[0] == 413


def test_rows_of_many_clients_are_never_swapped() -> None:
    with stage(1) as s, listening(s) as server:

        def ask_for_mine(client: int) -> None:
            with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection:
                for turn in range(30):
                    rows = [client * 1000 + turn * 10 + row for row in range(1 + client % 7)]
                    content = json.dumps({"signature_name": "only_y", "instances": rows}).encode()
                    is_small = (client + turn) % 2
                    connection.request(
                        "POST",
                        PREDICT,
                        content if is_small else gzip.compress(content),
                        {"accept-encoding": "identity;q=0, gzip"} | ({} if is_small else {"content-encoding": "gzip"}),
                    )
                    answer = gzip.decompress(connection.getresponse().read())
                    assert json.loads(answer) == {"predictions": [row / 2 + 2 for row in rows]}

        with ThreadPoolExecutor(64) as pool:
            for mine in [pool.submit(ask_for_mine, client) for client in range(64)]:
                mine.result(PATIENCE)


class Held(HalfPlusTwo):
    gate: Gate

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        self.gate.pass_through()
        return super().predict(signature_name, inputs, deadline)


def test_no_more_requests_at_a_time_than_may_be_and_health_is_answered_all_the_same() -> None:
    with stage(1, make=Held) as s, listening(s, max_in_flight=1) as server, ThreadPoolExecutor(1) as pool:
        Held.gate = Gate()
        first = pool.submit(ask, server, "POST", PREDICT, ONE)
        Held.gate.wait_until_reached()
        for method, target in (("POST", PREDICT), ("GET", MODEL), ("GET", "/v1/cache")):
            status, headers, body = ask(server, method, target, ONE if method == "POST" else None)
            assert (status, headers["retry-after"]) == (503, "1")
            assert b"--max_in_flight" in body
        assert ask(server, "GET", "/v2/health/live")[0] == 200
        Held.gate.open()
        assert first.result(PATIENCE)[0] == 200
        assert ask(server, "GET", MODEL)[0] == 200


@pytest.mark.parametrize(("workers", "is_answered"), [(1, False), (2, True)])
def test_calls_are_answered_in_so_many_threads_and_health_without_one(workers: int, is_answered: bool) -> None:
    with stage(1, make=Held) as s, listening(s, workers=workers) as server, connect(server) as second:
        Held.gate = Gate()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask, server, "POST", PREDICT, ONE)
            Held.gate.wait_until_reached()
            second.sendall(f"GET {MODEL} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            second.settimeout(PATIENCE if is_answered else 0.3)
            with nullcontext() if is_answered else pytest.raises(TimeoutError):
                assert second.recv(65536).startswith(b"HTTP/1.1 200 OK")
            assert ask(server, "GET", "/v2/health/live")[0] == 200
            Held.gate.open()
            assert first.result(PATIENCE)[0] == 200
        second.settimeout(PATIENCE)
        assert is_answered or second.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_call_whose_client_has_gone_counts_until_it_ends() -> None:
    with stage(1, make=Held) as s, listening(s, max_in_flight=1) as server:
        Held.gate = Gate()
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n\r\n" % PREDICT.encode() + ONE)
            Held.gate.wait_until_reached()
        assert ask(server, "GET", MODEL)[0] == 503
        Held.gate.open()
        until(lambda: ask(server, "GET", MODEL)[0] == 200)


def test_a_drain_waits_for_calls_whose_clients_have_gone_and_tells_if_they_have_not_ended() -> None:
    with stage(1, make=Held) as s:
        server = HttpServer(s.server, "127.0.0.1", 0, max_body=1000, max_in_flight=4, timeout=30)
        server.start()
        Held.gate = Gate()
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n\r\n" % PREDICT.encode() + ONE)
            Held.gate.wait_until_reached()
        assert not server.drain(0.3)
        Held.gate.open()
        assert server.drain(PATIENCE)


def test_a_head_without_end_is_refused() -> None:
    with stage(1) as s, listening(s) as server:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nx: ")
            sent = 0
            answer = b""
            # Until it has heard enough: then it closes, and what is sent after that is for nobody.
            with suppress(ConnectionError):
                while sent < 100 << 20:
                    connection.sendall(b"x" * 65536)
                    sent += 65536
            with suppress(ConnectionError):
                answer = connection.recv(65536)
        assert sent < 8 << 20
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
        # For others all is as before.
        assert ask(server, "POST", PREDICT, ONE)[0] == 200


@pytest.mark.parametrize("size", [66_000, 200_000])
def test_a_large_head_is_told_so(size: int) -> None:
    with stage(1) as s, listening(s) as server, socket.create_connection(("127.0.0.1", server.port), PATIENCE) as c:
        c.sendall(b"GET / HTTP/1.1\r\nx: " + b"x" * size)
        assert c.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_a_head_of_nearly_the_limit_is_taken_and_so_is_the_next() -> None:
    with (
        stage(1) as s,
        listening(s) as server,
        closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection,
    ):
        for _ in range(3):
            connection.request("POST", PREDICT, ONE, {"x": "x" * 60_000})
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (200, True)


def test_a_head_that_does_not_end_is_waited_for_so_long() -> None:
    with stage(1) as s, listening(s, timeouts=Timeouts(head=0.2)) as server:
        for begun in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nx: y\r\n"):
            assert ask_raw(server, begun) == b""


def test_an_answer_may_take_longer_than_a_head() -> None:
    with stage(1) as s, listening(s, timeouts=Timeouts(head=0.1)) as server:
        gate = s.loader.hold(1)
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(ask, server, "POST", PREDICT, ONE)
            gate.wait_until_reached()
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
                # This one is closed, the other is not.
                assert connection.recv(1) == b""
            gate.open()
            assert asked.result()[0] == 200


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_the_rest_of_a_body_that_is_too_large_is_not_read(declared: bool) -> None:
    with stage(1) as s, listening(s, max_body=1000) as server:
        head = f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\n".encode()
        head += b"content-length: 1000000000\r\n\r\n" if declared else b"transfer-encoding: chunked\r\n\r\n3e9\r\n"
        answer = ask_raw(server, head + b"x" * 1001)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"


@pytest.mark.parametrize("pieces", [1, 7, 1000], ids=lambda size: f"{size} at a time")
@pytest.mark.parametrize("upgrade", [H2C, b"connection: upgrade\r\nupgrade: websocket\r\n"], ids=["h2c", "websocket"])
def test_an_offer_to_upgrade_is_ignored(upgrade: bytes, pieces: int) -> None:
    """As Java's HttpClient makes one with its first request, and curl with --http2."""
    request = b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (
        PREDICT.encode(),
        upgrade,
        len(ONE),
        ONE,
    )
    # Another behind it, which is answered too.
    request += b"GET %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % MODEL.encode()
    with (
        stage(1) as s,
        listening(s) as server,
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection,
    ):
        for at in range(0, len(request), pieces):
            connection.sendall(request[at : at + pieces])
        answers = b"".join(iter(lambda: connection.recv(65536), b""))
    first, _, second = answers.partition(b'"predictions"')
    assert first.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 200 OK" in second
    assert b"model_version_status" in second


def test_connect_is_refused(server: HttpServer) -> None:
    assert ask_raw(server, b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_body_that_trickles_is_given_up() -> None:
    with stage(1) as s, listening(s, max_in_flight=1) as server:
        with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
            connection.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" % PREDICT.encode())
            connection.settimeout(5)
            answer = b""
            for _ in range(12):
                connection.sendall(b"[")
                with suppress(TimeoutError):
                    answer = connection.recv(65536)
                    break
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert ask(server, "POST", PREDICT, ONE)[0] == 200
