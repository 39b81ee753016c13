"""Loading, unloading and statistics for all workers: real processes, one of which hangs and dies."""

from __future__ import annotations

import http.client
import json
import signal
from pathlib import Path
from typing import Any

from tests.conftest import DIGITS
from tests.fakes import until
from tests.handlers.test_lifecycle import SEVEN
from tests.handlers.test_worker_metrics import ask, is_to
from tests.handlers.test_workers import MANY, WORKERS, connections, listens, serving, statuses, workers
from tests.servers.decant import Decant, decant_serve

INFER = "/v2/models/digits/infer"
STATISTICS = "/v2/models/digits/versions/1/stats"
REPOSITORY = "/v2/repository/models"


def infer_all(server: Decant) -> None:
    image = {"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "data": SEVEN["instances"]}
    body = json.dumps({"inputs": [image]}).encode()
    with connections(server) as all_of_them:
        for connection in all_of_them:
            assert ask(connection, "POST", INFER, body)[0] == 200


def inferences(connection: http.client.HTTPConnection) -> int:
    status, text = ask(connection, "GET", STATISTICS)
    assert status == 200
    (row,) = json.loads(text)["model_stats"]
    assert row["inference_stats"]["success"]["count"] == row["inference_count"]
    found: int = row["inference_count"]
    return found


def in_memory(server: Decant) -> set[bool]:
    """Whether the model is, as all workers say."""
    found = set()
    with connections(server) as all_of_them:
        for connection in all_of_them:
            _, text = ask(connection, "GET", "/v1/cache")
            found.add(json.loads(text)["models"]["digits"]["versions"][0]["where"]["memory"])
    return found


def tell(server: Decant, verb: str, model: str = "digits") -> tuple[int, Any]:
    with connections(server) as all_of_them:
        status, text = ask(all_of_them[0], "POST", f"{REPOSITORY}/{model}/{verb}")
        return status, json.loads(text)


def test_one_worker_loads_unloads_and_counts_for_all(tmp_path: Path) -> None:
    with serving(tmp_path, without_grpc=True) as server:
        infer_all(server)
        with connections(server) as all_of_them:
            assert {inferences(connection) for connection in all_of_them[:4]} == {MANY}
        assert in_memory(server) == {True}
        assert tell(server, "unload") == (200, {"name": "digits", "unload": True})
        assert in_memory(server) == {False}
        # What has left is ready all the same, and has been counted.
        assert statuses(server, "/v2/models/digits/ready") == {200}
        assert tell(server, "load") == (200, {"name": "digits", "load": True})
        assert in_memory(server) == {True}
        for verb in ("load", "unload"):
            status, content = tell(server, verb, "other")
            assert (status, "Latest(other)" in content["error"]) == (404, True)
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert not [name for name in ("openvino", "numpy", "grpc", "uvloop") if name in mapped]


def test_one_that_hangs_or_dies_is_waited_for_by_nobody_and_has_counted(tmp_path: Path) -> None:
    with serving(tmp_path, without_grpc=True) as server:
        infer_all(server)
        kept, lost = workers(server)
        with connections(server) as all_of_them:
            # Each is connected by its first request.
            assert {inferences(connection) for connection in all_of_them} == {MANY}
            mine = next(connection for connection in all_of_them if is_to(kept, connection))
            lost.send_signal(signal.SIGSTOP)
            try:
                for _ in range(2):
                    status, text = ask(mine, "POST", f"{REPOSITORY}/digits/unload")
                    unsaid = "1 of 2 workers have not unloaded the model in time"
                    assert (status, json.loads(text)) == (503, {"error": unsaid})
                assert not json.loads(ask(mine, "GET", "/v1/cache")[1])["memory"]["used"]
                assert inferences(mine) == MANY
            finally:
                lost.kill()
        until(lambda: "has died by SIGKILL" in server.log())
        until(lambda: len([each for each in workers(server) if listens(each, server.rest_port)]) == WORKERS)
        until(lambda: statuses(server, "/v2/health/ready") == {200})
        with connections(server) as all_of_them:
            assert inferences(all_of_them[0]) == MANY
        infer_all(server)
        with connections(server) as all_of_them:
            assert inferences(all_of_them[0]) == 2 * MANY
        assert tell(server, "unload")[0] == 200
        assert in_memory(server) == {False}
        assert "is killed" not in server.log()


def test_why_a_worker_cannot_load_is_told(tmp_path: Path) -> None:
    for number in ("1", "2"):
        (tmp_path / "models" / number).mkdir(parents=True)
        for file in (DIGITS / "1").iterdir():
            (tmp_path / "models" / number / file.name).write_bytes(file.read_bytes())
    (tmp_path / "models" / "2" / "model.xml").write_text("<net")
    flags = ("--model_name", "digits", "--model_path", str(tmp_path / "models"), "--workers", str(WORKERS))
    with decant_serve(tmp_path, *flags, without_grpc=True) as server:
        status, content = tell(server, "load")
        assert (status, "digits/2" in content["error"]) == (503, True)
        infer_all(server)
