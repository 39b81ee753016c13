"""One scrape, and one word to look at the configuration anew, for all workers: real processes, one of which hangs."""

from __future__ import annotations

import http.client
import json
import signal
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import DIGITS
from tests.fakes import until
from tests.handlers.scraping import Scrape, parsed
from tests.handlers.test_lifecycle import MODEL, PREDICT, SEVEN
from tests.handlers.test_workers import MANY, WORKERS, connections, listens, reload, statuses, workers
from tests.servers.decant import Decant, decant_serve

FLAGS = ("--workers", str(WORKERS), "--metrics_enable", "true")
SUCCESS = "ovms_requests_success"


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def scrape(connection: http.client.HTTPConnection) -> Scrape:
    status, text = ask(connection, "GET", "/metrics")
    assert status == 200
    return parsed(text)


def predicts(found: Scrape) -> float:
    return found.value(SUCCESS, method="Predict", interface="REST")


def is_to(worker: psutil.Process, connection: Any) -> bool:
    port = connection.sock.getsockname()[1]
    return any(bool(each.raddr) and each.raddr.port == port for each in worker.net_connections("tcp"))


def serve_all(server: Decant, body: bytes) -> None:
    with connections(server) as all_of_them:
        for connection in all_of_them:
            assert ask(connection, "POST", PREDICT, body)[0] == 200


def test_one_scrape_has_what_all_workers_have_counted_also_of_one_that_hangs_or_dies(tmp_path: Path) -> None:
    body = json.dumps({"instances": SEVEN["instances"]}).encode()
    with decant_serve(tmp_path, *MODEL, str(DIGITS), *FLAGS, without_grpc=True) as server:
        serve_all(server, body)
        kept, lost = workers(server)
        with connections(server) as all_of_them:
            found = [scrape(connection) for connection in all_of_them]
            assert {predicts(each) for each in found} == {MANY}
            assert found[0].value("decant_workers", state="answered") == WORKERS
            assert found[0].value("ovms_streams") == sum(found[0].values_of("ovms_streams"))
            mine = next(connection for connection in all_of_them if is_to(kept, connection))
            lost.send_signal(signal.SIGSTOP)
            try:
                # More often than what is sent to it has room in its socket.
                for _ in range(3):
                    found_without = scrape(mine)
                    assert predicts(found_without) == MANY
                    assert found_without.value("decant_workers", state="silent") == 1
            finally:
                lost.kill()
        until(lambda: "has died by SIGKILL" in server.log())
        until(lambda: len([each for each in workers(server) if listens(each, server.rest_port)]) == WORKERS)
        until(lambda: statuses(server, "/v2/health/ready") == {200})
        serve_all(server, body)
        with connections(server) as all_of_them:
            assert predicts(scrape(all_of_them[0])) == 2 * MANY
        assert "is killed" not in server.log()
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert not [name for name in ("openvino", "numpy", "grpc", "uvloop") if name in mapped]


def test_one_reload_is_all_workers(tmp_path: Path) -> None:
    file = tmp_path / "config.json"

    def write(*names: str) -> None:
        entries = [{"config": {"name": name, "base_path": str(DIGITS)}} for name in names]
        file.write_text(json.dumps({"model_config_list": entries}))

    write("digits")
    flags = ("--config_path", str(file), "--file_system_poll_wait_seconds", "0", *FLAGS)
    with decant_serve(tmp_path, *flags, without_grpc=True) as server:
        write("digits", "seven")
        assert statuses(server, "/v1/models/seven") == {404}
        with connections(server) as all_of_them:
            status, text = ask(all_of_them[0], "POST", "/v1/config/reload", b"whatever")
            assert (status, set(json.loads(text))) == (201, {"digits", "seven"})
            assert ask(all_of_them[1], "POST", "/v1/config/reload")[0] == 200
        assert statuses(server, "/v1/models/seven") == {200}
        file.write_text("{")
        with connections(server) as all_of_them:
            status, text = ask(all_of_them[0], "POST", "/v1/config/reload")
            assert status == 412
            assert text.startswith('{"error":"Reloading config file failed. Check server logs for more info. ')
        file.unlink()
        with connections(server) as all_of_them:
            status, text = ask(all_of_them[0], "POST", "/v1/config/reload")
            assert status == 500
            assert text.startswith('{"error":"Config file not found or cannot open. ')
        assert statuses(server, "/v1/models/seven") == {200}


def test_a_worker_that_comes_after_a_reload_serves_what_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    entry = {"config": {"name": "digits", "base_path": str(DIGITS)}}
    file.write_text(json.dumps({"model_config_list": [entry]}))
    flags = ("--config_path", str(file), "--file_system_poll_wait_seconds", "0", *FLAGS)
    with decant_serve(tmp_path, *flags) as server:
        reload(server, seven=DIGITS)
        assert statuses(server, "/v1/models/digits/metadata") == {404}
        with connections(server) as all_of_them:
            assert ask(all_of_them[0], "POST", "/v1/config/reload")[0] == 201
        workers(server)[0].kill()
        until(lambda: "has died by SIGKILL" in server.log())
        until(lambda: len([each for each in workers(server) if listens(each, server.rest_port)]) == WORKERS)
        assert statuses(server, "/v1/models/digits/metadata") == {200}
        assert statuses(server, "/v1/models/seven/metadata") == {404}


def test_a_worker_that_comes_after_a_clients_reload_counts_as_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    entry = {"config": {"name": "digits", "base_path": str(DIGITS)}}
    file.write_text(json.dumps({"model_config_list": [entry], "monitoring": {"metrics": {"enable": True}}}))
    flags = ("--config_path", str(file), "--file_system_poll_wait_seconds", "0", *FLAGS)
    with decant_serve(tmp_path, *flags) as server:
        reload(server, seven=DIGITS)
        workers(server)[0].kill()
        until(lambda: "has died by SIGKILL" in server.log())
        until(lambda: len([each for each in workers(server) if listens(each, server.rest_port)]) == WORKERS)
        assert statuses(server, "/v1/models/seven/metadata") == {200}
        assert statuses(server, "/metrics") == {200}
