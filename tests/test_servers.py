"""The servers that other tests rely on, held to what those tests take for granted."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import http.server
import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import numpy as np
import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient
from google.cloud.exceptions import NotFound
from mangum import Mangum

from tests.servers import fault_proxy
from tests.servers.azurite import Azurite, azurite
from tests.servers.fake_gcs import FakeGcs, fake_gcs
from tests.servers.fault_proxy import (
    Answer,
    Before,
    Cut,
    FaultProxy,
    Pass,
    Request,
    Rule,
    ShortBody,
    Slow,
    Stall,
    WrongLength,
    on,
)
from tests.servers.lambda_emulator import LambdaEmulator, lambda_emulator
from tests.servers.lambda_events import EVENT_BUILDERS, EventBuilder, response_body, response_headers
from tests.servers.ovms_client import OvmsClient, OvmsClientError
from tests.servers.processes import Process, ProcessFailed, accepts_connections, clean_environment, free_port
from tests.servers.seaweedfs import Credentials, SeaweedFS, seaweedfs

BODY = bytes(range(256)) * 1000


def python(script: str, log: Path) -> Process:
    return Process([sys.executable, "-I", "-c", script], log, env=clean_environment())


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_a_process_that_ends_before_it_is_ready_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    message = r"exit code 3 before it was ready(.|\n)*no such bucket"
    with (
        python("print('no such bucket'); raise SystemExit(3)", tmp_path / "log") as process,
        pytest.raises(ProcessFailed, match=message) as failure,
    ):
        process.wait_until(lambda: False, timeout=20)
    assert failure.value.exit_code == 3
    assert failure.value.log == "no such bucket\n"


def test_a_process_that_is_not_ready_in_time_is_reported_and_killed(tmp_path: Path) -> None:
    with python("import time; time.sleep(60)", tmp_path / "log") as process:
        with pytest.raises(ProcessFailed, match=r"not ready after 0\.1 s") as failure:
            process.wait_until(lambda: False, timeout=0.1)
        assert is_running(process.pid)
    assert failure.value.exit_code is None
    assert process.exit_code == -signal.SIGKILL
    assert not is_running(process.pid)


STUBBORN_FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(60)"], process_group=0)
print(child.pid, flush=True)
LAST
"""


@pytest.mark.parametrize("last", ["os._exit(0)", "time.sleep(60)"], ids=["leader gone", "leader deaf"])
def test_children_in_groups_of_their_own_are_killed_too(tmp_path: Path, last: str) -> None:
    with python(STUBBORN_FAMILY.replace("LAST", last), tmp_path / "log") as process:
        process.wait_until(lambda: process.log().endswith("\n"), timeout=20)
        child = int(process.log())
        assert is_running(child)
    assert not is_running(child)


def test_terminate_sends_sigterm_and_returns_the_exit_code(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('up', flush=True)\n"
        "time.sleep(60)"
    )
    with python(script, tmp_path / "log") as process:
        process.wait_until(lambda: "up" in process.log(), timeout=20)
        assert process.terminate() == 7
        assert process.exit_code == 7
    assert process.exit_code == 7


def test_a_process_that_ignores_sigterm_is_reported(tmp_path: Path) -> None:
    script = STUBBORN_FAMILY.replace("LAST", "time.sleep(60)")
    with python(script, tmp_path / "log") as process:
        process.wait_until(lambda: process.log().endswith("\n"), timeout=20)
        with pytest.raises(ProcessFailed, match=r"still running after 0\.1 s"):
            process.terminate(timeout=0.1)


def test_ports_are_never_given_twice() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert not any(accepts_connections(port) for port in ports)


def test_children_see_nothing_of_the_developers_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "DECANT_MODEL_NAME", "PORT", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "personal")
    monkeypatch.setenv("COVERAGE_PROCESS_START", "kept")
    env = clean_environment({"AWS_REGION": "us-east-1"})
    assert "personal" not in env.values()
    assert env["AWS_REGION"] == "us-east-1"
    assert env["COVERAGE_PROCESS_START"] == "kept"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with seaweedfs(tmp_path_factory.mktemp("s3")) as server:
        server.client().put_object(Bucket="models", Key="m/1/model.bin", Body=BODY)
        server.client().put_object(Bucket="models", Key="m/1/model.xml", Body=b"<net/>")
        server.create_bucket("private")
        server.client().put_object(Bucket="private", Key="secret", Body=b"secret")
        yield server


def get(credentials: Credentials, key: str, bucket: str = "models", attempts: int = 1) -> bytes:
    with contextlib.closing(credentials.client(attempts)) as client:
        return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def error_code(failure: pytest.ExceptionInfo[botocore.exceptions.ClientError]) -> str:
    return failure.value.response["Error"]["Code"]


def test_a_tree_put_into_s3_comes_back(s3: SeaweedFS, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.xml").write_bytes(b"<net/>")
    (tmp_path / "1" / "model.bin").write_bytes(BODY)
    assert s3.put_tree("trees", "a/b", tmp_path) == ["a/b/1/model.bin", "a/b/1/model.xml"]
    assert get(s3.admin, "a/b/1/model.bin", "trees") == BODY
    assert s3.put_tree("trees", "", tmp_path) == ["1/model.bin", "1/model.xml"]
    assert get(s3.admin, "1/model.xml", "trees") == b"<net/>"


def test_the_reader_reads_one_bucket_and_may_do_nothing_else(s3: SeaweedFS) -> None:
    with contextlib.closing(s3.reader.client()) as client:
        listed = client.list_objects_v2(Bucket="models", Prefix="m/")["Contents"]
        assert [blob["Key"] for blob in listed] == ["m/1/model.bin", "m/1/model.xml"]
        assert client.get_object(Bucket="models", Key="m/1/model.xml")["Body"].read() == b"<net/>"
        with pytest.raises(botocore.exceptions.ClientError) as failure:
            client.put_object(Bucket="models", Key="m/1/model.xml", Body=b"")
        assert error_code(failure) == "AccessDenied"
        with pytest.raises(botocore.exceptions.ClientError) as failure:
            client.get_object(Bucket="private", Key="secret")
        assert error_code(failure) == "AccessDenied"
        with pytest.raises(botocore.exceptions.ClientError) as failure:
            client.list_objects_v2(Bucket="private")
        assert error_code(failure) == "AccessDenied"


def test_a_wrong_secret_is_refused(s3: SeaweedFS) -> None:
    with pytest.raises(botocore.exceptions.ClientError) as failure:
        get(dataclasses.replace(s3.reader, secret_key="guessed"), "m/1/model.xml")
    assert error_code(failure) == "SignatureDoesNotMatch"


def test_another_process_reads_with_the_credentials_variables_alone(s3: SeaweedFS, tmp_path: Path) -> None:
    script = "import boto3; print(boto3.client('s3').get_object(Bucket='models', Key='m/1/model.xml')['Body'].read())"
    env = clean_environment(s3.reader.env())
    with Process([sys.executable, "-c", script], tmp_path / "log", env=env) as process:
        assert process.wait() == 0, process.log()
    assert process.log() == "b'<net/>'\n"


def test_seaweedfs_leaves_no_process_and_no_socket_behind(tmp_path: Path) -> None:
    with seaweedfs(tmp_path) as server:
        port = int(server.endpoint.rpartition(":")[2])
        assert accepts_connections(port)
        assert list(Path("/tmp").glob(f"seaweedfs-*-{port}.sock"))
    assert not accepts_connections(port)
    assert not list(Path("/tmp").glob(f"seaweedfs-*-{port}.sock"))


def test_a_tree_put_into_gcs_comes_back(gcs: FakeGcs, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.bin").write_bytes(BODY)
    gcs.put_tree("trees", "a/b", tmp_path)
    [blob] = gcs.client.list_blobs("trees")
    assert (blob.name, blob.size) == ("a/b/1/model.bin", len(BODY))
    assert blob.download_as_bytes(start=5, end=9) == BODY[5:10]


def test_gcs_gives_no_generation_but_the_one_asked_for(gcs: FakeGcs) -> None:
    gcs.create_bucket("generations")
    gcs.put("generations", "key", b"first")
    bucket = gcs.client.bucket("generations")
    first = bucket.get_blob("key").generation
    assert bucket.blob("key", generation=first).download_as_bytes() == b"first"
    gcs.put("generations", "key", b"other")
    with pytest.raises(NotFound):
        bucket.blob("key", generation=first).download_as_bytes()
    gcs.delete("generations", "key")
    assert list(gcs.client.list_blobs("generations")) == []


def test_fake_gcs_leaves_no_process_behind(tmp_path: Path) -> None:
    with fake_gcs(tmp_path) as server:
        port = int(server.endpoint.rpartition(":")[2])
        assert accepts_connections(port)
        assert server.env() == {"STORAGE_EMULATOR_HOST": server.endpoint}
    assert not accepts_connections(port)


@pytest.mark.node
def test_a_tree_put_into_azure_comes_back_to_who_may_read(azure: Azurite, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.bin").write_bytes(BODY)
    azure.put_tree("trees", "a/b", tmp_path)
    with ContainerClient(azure.account_url(), "trees", azure.sas("trees"), retry_total=0) as reader:
        assert [(blob.name, blob.size) for blob in reader.list_blobs()] == [("a/b/1/model.bin", len(BODY))]
        assert reader.download_blob("a/b/1/model.bin").readall() == BODY
        with pytest.raises(HttpResponseError) as failure:
            reader.upload_blob("a/b/1/model.bin", b"", overwrite=True)
    assert failure.value.status_code == 403


@pytest.mark.node
def test_a_sas_is_for_one_container_and_a_time(azure: Azurite) -> None:
    azure.create_container("private")
    for sas in (azure.sas("models"), azure.sas("private", hours=-1)):
        with (
            ContainerClient(azure.account_url(), "private", sas, retry_total=0) as reader,
            pytest.raises(HttpResponseError) as failure,
        ):
            list(reader.list_blobs())
        assert failure.value.status_code == 403


@pytest.mark.node
def test_azurite_leaves_no_process_behind(tmp_path: Path, azure: Azurite) -> None:
    with azurite(tmp_path) as server:
        port = int(server.endpoint.rpartition(":")[2])
        assert accepts_connections(port)
    assert not accepts_connections(port)


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers GET with the server's ``content`` and POST with what was sent; /chunked without a length."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(self.server.content)  # type: ignore[attr-defined]

    def do_HEAD(self) -> None:
        self._answer(self.server.content)  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, content: bytes) -> None:
        chunked = self.path == "/chunked"
        self.send_response(200)
        self.send_header("X-Host", self.headers["Host"])
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if chunked else content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class UpstreamServer(http.server.ThreadingHTTPServer):
    daemon_threads = False
    content = BODY

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the proxy drops connections, which is what it is for."""


@pytest.fixture
def upstream() -> Iterator[UpstreamServer]:
    with UpstreamServer(("127.0.0.1", 0), Upstream) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(upstream: UpstreamServer) -> Iterator[FaultProxy]:
    with FaultProxy(upstream.url) as proxy:
        yield proxy
    assert [thread for thread in threading.enumerate() if thread.name.startswith("fault proxy")] == []


@pytest.fixture
def connection(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection(proxy.address, timeout=10)) as connection:
        yield connection


def ask(
    connection: http.client.HTTPConnection, path: str = "/", method: str = "GET", body: bytes | None = None
) -> http.client.HTTPResponse:
    connection.request(method, path, body)
    return connection.getresponse()


def test_the_proxy_passes_requests_of_one_connection_unchanged(
    proxy: FaultProxy, connection: http.client.HTTPConnection
) -> None:
    response = ask(connection, "/a?b=c")
    assert (response.status, response.headers["X-Host"], response.read()) == (200, proxy.address, BODY)
    local_address = connection.sock.getsockname()
    assert ask(connection, "/echo", "POST", b"sent").read() == b"sent"
    head = ask(connection, "/", "HEAD")
    assert (head.headers["Content-Length"], head.read()) == (str(len(BODY)), b"")
    assert ask(connection, "/chunked").read() == BODY
    assert connection.sock.getsockname() == local_address
    asked = [(request.method, request.path) for request in proxy.requests]
    assert asked == [("GET", "/a?b=c"), ("POST", "/echo"), ("HEAD", "/"), ("GET", "/chunked")]
    assert (proxy.count("GET"), proxy.count(path="echo")) == (2, 1)


def test_a_chunked_upload_goes_through(s3: SeaweedFS) -> None:
    with FaultProxy(s3.endpoint) as proxy:
        admin = dataclasses.replace(s3.admin, endpoint=proxy.url)
        with contextlib.closing(admin.client()) as client:
            client.put_object(Bucket="private", Key="streamed", Body=BODY, ChecksumAlgorithm="CRC32")
    assert get(s3.admin, "streamed", "private") == BODY


@pytest.mark.parametrize("after", [0, 1, 100_000, len(BODY) - 1])
def test_a_cut_lets_exactly_so_many_bytes_through(
    proxy: FaultProxy, connection: http.client.HTTPConnection, after: int
) -> None:
    proxy.use(on(Cut(after)))
    response = ask(connection)
    assert response.headers["Content-Length"] == str(len(BODY))
    with pytest.raises(http.client.IncompleteRead) as failure:
        response.read()
    assert failure.value.partial == BODY[:after]


def test_a_cut_can_be_a_reset(proxy: FaultProxy, connection: http.client.HTTPConnection) -> None:
    proxy.use(on(Cut(10, reset=True)))
    response = ask(connection)
    with pytest.raises(ConnectionResetError):
        response.read()


def test_a_fault_that_cannot_happen_fails_the_test(upstream: UpstreamServer) -> None:
    with pytest.raises(ValueError, match=r"^Cut\(after=256000.* cannot happen: GET / has a body of 256000 bytes$"):
        ask_under(on(Cut(len(BODY))), upstream)


def ask_under(rule: Rule, upstream: UpstreamServer) -> None:
    with FaultProxy(upstream.url) as proxy, contextlib.suppress(http.client.RemoteDisconnected):
        proxy.use(rule)
        with contextlib.closing(http.client.HTTPConnection(proxy.address, timeout=10)) as connection:
            ask(connection)


def test_a_rule_takes_the_requests_it_names_and_no_others(
    proxy: FaultProxy, connection: http.client.HTTPConnection
) -> None:
    proxy.use(on(Answer(500), "GET", r"\.bin$", nth=2), on(Answer(503), "GET", r"\.bin$", nth=range(2, 4)))
    paths = ["/m.xml", "/m.bin", "/m.bin", "/m.bin", "/m.bin"]
    assert [status(connection, path) for path in paths] == [200, 200, 500, 503, 200]
    assert status(connection, "/m.bin", "HEAD") == 200


def status(connection: http.client.HTTPConnection, path: str = "/", method: str = "GET") -> int:
    with ask(connection, path, method) as response:
        response.read()
        return response.status


def test_a_rule_may_be_any_function_and_be_changed_at_run_time(
    proxy: FaultProxy, connection: http.client.HTTPConnection
) -> None:
    def by_host(request: Request) -> Answer | Pass:
        return Answer(418) if request.headers["host"] == proxy.address else Pass()

    proxy.use(by_host)
    assert status(connection) == 418
    proxy.use()
    assert status(connection) == 200


def test_an_answer_never_reaches_the_server(proxy: FaultProxy, connection: http.client.HTTPConnection) -> None:
    proxy.use(on(fault_proxy.SLOW_DOWN))
    response = ask(connection, "/", "POST", b"a body the proxy has to read")
    assert (response.status, response.headers["X-Host"]) == (503, None)
    assert b"<Code>SlowDown</Code>" in response.read()
    proxy.use()
    assert status(connection) == 200


def test_a_stall_holds_until_it_is_released(proxy: FaultProxy, connection: http.client.HTTPConnection) -> None:
    stall = Stall(after=1000)
    proxy.use(on(stall))
    response = ask(connection)
    assert response.read(1000) == BODY[:1000]
    assert stall.reached.wait(10)
    connection.sock.settimeout(0.1)
    with pytest.raises(TimeoutError):
        response.read(1)


def test_a_released_stall_goes_on_where_it_stopped(proxy: FaultProxy, connection: http.client.HTTPConnection) -> None:
    stalls = [Stall(after=1000), Stall()]
    for stall in stalls:
        proxy.use(on(stall))
        releaser = threading.Thread(target=lambda stall=stall: stall.reached.wait(10) and stall.released.set())
        releaser.start()
        assert ask(connection).read() == BODY
        releaser.join()
        assert stall.reached.is_set()


def test_closing_the_proxy_ends_a_stall(upstream: UpstreamServer) -> None:
    stall = Stall()
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(upstream.url))
        proxy.use(on(stall))
        connection = http.client.HTTPConnection(proxy.address, timeout=10)
        connection.request("GET", "/")
        assert stall.reached.wait(10)
        stack.close()
        with contextlib.closing(connection), pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            connection.getresponse()


def test_a_client_that_leaves_ends_a_stall(proxy: FaultProxy, connection: http.client.HTTPConnection) -> None:
    stall = Stall()
    proxy.use(on(stall))
    connection.request("GET", "/")
    assert stall.reached.wait(10)
    [thread] = [thread for thread in threading.enumerate() if thread.name == "fault proxy connection"]
    connection.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_slow_answer_starts_late(proxy: FaultProxy, connection: http.client.HTTPConnection) -> None:
    proxy.use(on(Slow(0.3)))
    connection.timeout = 0.1
    with pytest.raises(TimeoutError):
        ask(connection)
    connection.close()
    connection.timeout = 10
    assert ask(connection).read() == BODY


def test_a_length_that_promises_too_much(proxy: FaultProxy, connection: http.client.HTTPConnection) -> None:
    proxy.use(on(WrongLength(+5)))
    with pytest.raises(http.client.IncompleteRead) as failure:
        ask(connection).read()
    assert failure.value.partial == BODY


def test_a_length_that_promises_too_little(proxy: FaultProxy, connection: http.client.HTTPConnection) -> None:
    proxy.use(on(WrongLength(-5)))
    assert ask(connection).read() == BODY[:-5]


def test_a_short_body_looks_complete(proxy: FaultProxy, connection: http.client.HTTPConnection) -> None:
    proxy.use(on(ShortBody(100), nth=1))
    assert ask(connection).read() == BODY[:100]
    assert ask(connection).read() == BODY


def test_a_hook_changes_what_the_server_has(
    proxy: FaultProxy, connection: http.client.HTTPConnection, upstream: UpstreamServer
) -> None:
    proxy.use(on(Before(lambda: setattr(upstream, "content", b"newer")), nth=2))
    assert [ask(connection).read() for _ in range(2)] == [BODY, b"newer"]


def test_a_hook_that_fails_fails_the_test(upstream: UpstreamServer) -> None:
    with pytest.raises(ZeroDivisionError):
        ask_under(on(Before(lambda: 1 // 0)), upstream)


@pytest.fixture
def s3_proxy(s3: SeaweedFS) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint) as proxy:
        yield proxy


def test_signatures_made_for_the_proxy_verify_behind_it(s3: SeaweedFS, s3_proxy: FaultProxy) -> None:
    reader = dataclasses.replace(s3.reader, endpoint=s3_proxy.url)
    assert get(reader, "m/1/model.bin") == BODY
    assert s3_proxy.requests[0].headers["host"] == s3_proxy.address
    with pytest.raises(botocore.exceptions.ClientError) as failure:
        get(dataclasses.replace(reader, secret_key="guessed"), "m/1/model.xml")
    assert error_code(failure) == "SignatureDoesNotMatch"


def test_boto3_sees_the_faults_for_what_they_are(s3: SeaweedFS, s3_proxy: FaultProxy) -> None:
    reader = dataclasses.replace(s3.reader, endpoint=s3_proxy.url)
    s3_proxy.use(on(Cut(1000), "GET", r"model\.bin", nth=1))
    with pytest.raises(botocore.exceptions.ResponseStreamingError):
        get(reader, "m/1/model.bin")
    assert get(reader, "m/1/model.bin") == BODY

    s3_proxy.use(on(fault_proxy.ACCESS_DENIED))
    with pytest.raises(botocore.exceptions.ClientError) as failure:
        get(reader, "m/1/model.bin")
    assert error_code(failure) == "AccessDenied"

    s3_proxy.use(on(fault_proxy.SLOW_DOWN))
    with pytest.raises(botocore.exceptions.ClientError) as failure:
        get(reader, "m/1/model.bin")
    assert error_code(failure) == "SlowDown"

    s3_proxy.use(on(fault_proxy.INTERNAL_ERROR, nth=1))
    before = s3_proxy.count()
    assert get(reader, "m/1/model.bin", attempts=2) == BODY
    assert s3_proxy.count() - before == 2


def test_an_object_that_changes_under_way_fails_a_pinned_read(s3: SeaweedFS, s3_proxy: FaultProxy) -> None:
    def replace() -> None:
        s3.client().put_object(Bucket="models", Key="changing", Body=b"newer")

    s3.client().put_object(Bucket="models", Key="changing", Body=b"older")
    s3_proxy.use(on(Before(replace), "GET", "changing"))
    with contextlib.closing(dataclasses.replace(s3.reader, endpoint=s3_proxy.url).client()) as client:
        etag = client.head_object(Bucket="models", Key="changing")["ETag"]
        with pytest.raises(botocore.exceptions.ClientError) as failure:
            client.get_object(Bucket="models", Key="changing", IfMatch=etag)
    assert error_code(failure) == "PreconditionFailed"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers with what it was asked; with the body alone at /body."""
    message = await receive()
    body = message["body"]
    asked = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
        "body": base64.b64encode(body).decode(),
        "client": scope["client"][0],
    }
    binary = scope["path"] == "/body"
    kind = b"application/octet-stream" if binary else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body if binary else json.dumps(asked).encode()})


def through_mangum(event: dict[str, Any]) -> dict[str, Any]:
    # Only what survives JSON reaches a function.
    result: dict[str, Any] = Mangum(echo, lifespan="off")(json.loads(json.dumps(event)), None)  # type: ignore[arg-type]
    return result


builders = pytest.mark.parametrize("build", EVENT_BUILDERS.values(), ids=list(EVENT_BUILDERS))
PREDICT = "/v1/models/digits/versions/1:predict"
JSON = {"Content-Type": "application/json"}


@builders
def test_method_path_body_and_headers_arrive(build: EventBuilder) -> None:
    sent = '{"instances": [1.5, "é"]}'.encode()
    result = through_mangum(build("POST", PREDICT, {}, JSON | {"X-Own": "1"}, sent))
    asked = json.loads(response_body(result))
    headers = dict(asked["headers"])
    assert result["statusCode"] == 200
    assert response_headers(result)["content-type"] == ["application/json"]
    assert (asked["method"], asked["path"], asked["query"]) == ("POST", PREDICT, "")
    assert base64.b64decode(asked["body"]) == sent
    assert (headers["content-type"], headers["x-own"]) == ("application/json", "1")
    assert headers["x-forwarded-proto"] == "https"
    assert asked["client"] == headers["x-forwarded-for"] == "203.0.113.7"


@builders
@pytest.mark.parametrize(
    "headers",
    [{}, {"Content-Type": "application/octet-stream"}, JSON, JSON | {"Content-Encoding": "gzip"}],
    ids=["no type", "binary", "JSON that is no text", "encoded"],
)
def test_every_byte_of_a_binary_body_arrives_and_returns(build: EventBuilder, headers: dict[str, str]) -> None:
    every_byte = bytes(range(256))
    event = build("POST", "/body", {}, headers, every_byte)
    assert event["isBase64Encoded"] is True
    result = through_mangum(event)
    assert response_headers(result)["content-type"] == ["application/octet-stream"]
    assert response_body(result) == every_byte


@builders
def test_a_request_without_a_body_has_none(build: EventBuilder) -> None:
    event = build("GET", "/v1/models/digits", {}, {}, b"")
    asked = json.loads(response_body(through_mangum(event)))
    assert (event.get("body") or "", event["isBase64Encoded"]) == ("", False)
    assert (asked["method"], asked["body"]) == ("GET", "")


@builders
def test_a_text_body_stays_readable(build: EventBuilder) -> None:
    event = build("POST", PREDICT, {}, JSON, b'{"inputs": 1}')
    assert (event["body"], event["isBase64Encoded"]) == ('{"inputs": 1}', False)


@builders
def test_a_query_arrives_with_its_odd_characters(build: EventBuilder) -> None:
    asked = json.loads(response_body(through_mangum(build("GET", "/", {"a b": "1&2=é", "c": "+"}, {}, b""))))
    assert asked["query"] == "a+b=1%262%3D%C3%A9&c=%2B"


@builders
def test_an_encoded_path_arrives_decoded(build: EventBuilder) -> None:
    asked = json.loads(response_body(through_mangum(build("GET", "/v1/models/a%20model", {}, {}, b""))))
    assert asked["path"] == "/v1/models/a model"


REPEATED = {
    "function URL": ("a=1&a=2", [["x-two", "1,2"]]),
    "HTTP API": ("a=1&a=2", [["x-two", "1,2"]]),
    "REST API": ("a=1&a=2", [["x-two", "1, 2"]]),
    "load balancer": ("a=2", [["x-two", "2"]]),
    "load balancer, multi-value": ("a=1&a=2", [["x-two", "1"], ["x-two", "2"]]),
}


@pytest.mark.parametrize("name", EVENT_BUILDERS)
def test_repeated_fields_arrive_as_each_shape_carries_them(name: str) -> None:
    event = EVENT_BUILDERS[name]("GET", "/", {"a": ["1", "2"]}, {"X-Two": ["1", "2"]}, b"")
    asked = json.loads(response_body(through_mangum(event)))
    assert (asked["query"], [pair for pair in asked["headers"] if pair[0] == "x-two"]) == REPEATED[name]


@pytest.mark.parametrize("name", ["function URL", "HTTP API"])
def test_cookies_stand_apart_in_payload_format_2(name: str) -> None:
    event = EVENT_BUILDERS[name]("GET", "/", {}, {"Cookie": ["a=1", "b=2"]}, b"")
    assert event["cookies"] == ["a=1", "b=2"]
    assert "cookie" not in event["headers"]
    asked = json.loads(response_body(through_mangum(event)))
    assert dict(asked["headers"])["cookie"] == "a=1; b=2"


HANDLER = """
import os
import time

def handler(event, context):
    if "divide" in event:
        return 1 // event["divide"]
    time.sleep(event.get("sleep", 0))
    names = ("MODEL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")
    return {
        "echo": event,
        "env": {name: os.environ.get(name) for name in names},
        "memory": context.memory_limit_in_mb,
        "pid": os.getpid(),
    }
"""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LambdaEmulator]:
    directory = tmp_path_factory.mktemp("lambda")
    (directory / "tiny.py").write_text(HANDLER)
    env = {"MODEL": "digits", "AWS_ACCESS_KEY_ID": "key"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_PROFILE", "personal")
        with lambda_emulator(directory, "tiny.handler", env, function_timeout=1, memory=512) as emulator:
            yield emulator


@builders
def test_the_emulator_hands_events_to_the_handler_unchanged(emulator: LambdaEmulator, build: EventBuilder) -> None:
    event = build("POST", PREDICT, {"a": "é"}, {}, bytes(range(256)))
    assert emulator.invoke(event)["echo"] == event


def test_the_handler_sees_the_environment_it_was_given_and_no_other(emulator: LambdaEmulator) -> None:
    result = emulator.invoke({})
    assert result["env"] == {"MODEL": "digits", "AWS_ACCESS_KEY_ID": "key", "AWS_PROFILE": None}
    assert result["memory"] == "512"


def test_an_error_and_a_time_out_come_back_and_the_next_call_works(emulator: LambdaEmulator) -> None:
    first = emulator.invoke({})
    error = emulator.invoke({"divide": 0})
    assert (error["errorType"], error["errorMessage"]) == (
        "ZeroDivisionError",
        "integer division or modulo by zero",
    )
    assert emulator.invoke({})["pid"] == first["pid"]
    assert "timed out after 1.00 seconds" in emulator.invoke({"sleep": 30})["errorMessage"]
    assert emulator.invoke({})["pid"] != first["pid"]


def test_a_handler_that_cannot_be_imported_is_reported(tmp_path: Path) -> None:
    with lambda_emulator(tmp_path, "absent.handler") as emulator:
        assert emulator.invoke({})["errorType"] == "Runtime.ImportModuleError"
        assert "No module named 'absent'" in emulator.log()


def test_the_emulator_takes_its_runtime_with_it(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(HANDLER)
    with lambda_emulator(tmp_path, "tiny.handler") as emulator:
        pid = emulator.invoke({})["pid"]
        assert is_running(pid)
    assert not is_running(pid)


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_ovmsclient_reports_a_server_that_is_not_there(transport: Any) -> None:
    client = OvmsClient(f"127.0.0.1:{free_port()}", transport, timeout=5)
    with pytest.raises(OvmsClientError, match="Error occurred during handling the request") as failure:
        client.predict("digits", {"image": np.zeros((1, 8, 8), np.float32)})
    assert failure.value.kind == "ConnectionError"


def test_ovmsclient_reports_what_it_cannot_send() -> None:
    with pytest.raises(OvmsClientError) as failure:
        OvmsClient("127.0.0.1:1").status("digits", version=-1)
    assert failure.value.kind == "ValueError"
