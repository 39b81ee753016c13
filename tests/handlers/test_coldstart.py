"""The recorder in the real server: what it says of a start that a client has waited for."""

from __future__ import annotations

import json
import re
import shutil
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_cache.timeline import FIRST_PREDICTS
from tests.conftest import DIGITS
from tests.fakes import until
from tests.servers.decant import Decant, Reply, decant_serve
from tests.servers.ovms_client import OvmsClient
from tests.servers.seaweedfs import SeaweedFS

SEVEN = json.loads((DIGITS / "seven.json").read_bytes())
PREDICT = "/v1/models/digits:predict"
MODEL = ("--model_name", "digits", "--model_path")
PHASES = {"python", "configure", "imports", "list", "load", "listen", "ready", "first_predict", "infer", "warm_up"}
COMPILED = {"compile", "import"}
OF_REQUESTS = {"first_predict", "decode", "wait", "infer", "encode"}


def cold_start(server: Decant) -> Any:
    reply = server.get("/v1/coldstart")
    assert reply.status == 200
    return reply.body


def check(whole: Any, elapsed: float) -> None:
    """Check what is true of any start, which a client saw take so many seconds."""
    assert whole["is_over"]
    assert whole["dropped"] == 0
    # The kernel says when the process began in ticks of 10 ms, rounded down.
    assert 0 < whole["ready"] <= elapsed + 0.02
    assert 0 < whole["seconds"] <= elapsed + 0.02
    path = whole["critical_path"]
    # Times are rounded to microseconds.
    assert sum(step["end"] - step["start"] for step in path) == pytest.approx(whole["seconds"], abs=1e-4)
    assert all(before["end"] <= after["start"] + 1e-6 for before, after in pairwise(path))
    for span in whole["spans"]:
        assert 0 <= span["start"] <= span["end"] <= elapsed + 0.02
    for thread in {span["thread"] for span in whole["spans"]}:
        check_nested([span for span in whole["spans"] if span["thread"] == thread])
    for phase, total in whole["phases"].items():
        if phase in OF_REQUESTS:
            continue
        spans = [span for span in whole["spans"] if span["name"].partition(".")[0] == phase]
        lengths = [span["end"] - span["start"] for span in spans]
        assert total["count"] == len(spans)
        assert max(lengths) - 1e-5 <= total["seconds"] <= sum(lengths) + 1e-5


def check_nested(spans: Sequence[Any]) -> None:
    """Check that of two spans of a thread one is within the other, or after it."""
    for number, outer in enumerate(spans):
        for inner in spans[number + 1 :]:
            # They come in the order of their beginnings.
            assert inner["end"] <= outer["end"] or inner["start"] >= outer["end"] - 1e-6, (outer, inner)


def predict_at_once(server: Decant) -> Reply:
    """Predict as soon as the server listens, which is before its model is there."""
    server.process.wait_until(lambda: is_listening(server), 60)
    return server.post(PREDICT, SEVEN)


def is_listening(server: Decant) -> bool:
    try:
        return server.get("/v2/health/live", timeout=5).status == 200
    except OSError:
        return False


def test_a_start_from_a_directory_is_recorded_to_its_first_answer(tmp_path: Path) -> None:
    began = time.time()
    with decant_serve(tmp_path, *MODEL, str(DIGITS), without_grpc=True) as server:
        for _ in range(FIRST_PREDICTS):
            assert server.post("/v1/models/nope:predict", SEVEN).status == 404
        assert not cold_start(server)["is_over"]
        replies = [server.post(PREDICT, SEVEN) for _ in range(FIRST_PREDICTS + 1)]
        elapsed = time.time() - began
        whole = cold_start(server)
        picture = server.get("/v1/coldstart.svg")
    assert [reply.status for reply in replies] == [200] * len(replies)
    check(whole, elapsed)
    assert set(whole["phases"]) >= PHASES
    assert set(whole["phases"]) & COMPILED
    assert "download" not in whole["phases"]
    assert whole["critical_path"][0]["name"] == "python"
    assert whole["critical_path"][-1]["name"] in ("encode", "first_predict")

    timings = [reply.headers.get("server-timing") for reply in replies]
    first, *others = timings[:FIRST_PREDICTS]
    assert first
    assert "imports;dur=" in first
    assert "first_predict;dur=" in first
    assert "total;dur=" in first
    assert all(timing and "predict;dur=" in timing and "first" not in timing for timing in others)
    assert timings[FIRST_PREDICTS] is None

    assert picture.headers["content-type"] == "image/svg+xml"
    assert "first_predict" in "".join(ET.fromstring(picture.body).itertext())

    (line,) = [line for line in server.log().splitlines() if "cold start" in line]
    assert re.search(r"cold start \d\.\d{3} s: python \d\.\d{3}, .*imports \d\.\d{3}, .*(compile|import) \d", line)


def test_a_start_from_a_bucket_says_what_was_downloaded_and_how_fast(s3: SeaweedFS, tmp_path: Path) -> None:
    began = time.time()
    flags = (*MODEL, "s3://models/digits")
    with decant_serve(tmp_path, *flags, without_grpc=True, wait=False, env=s3.reader.env()) as server:
        assert predict_at_once(server).status == 200
        elapsed = time.time() - began
        until(lambda: cold_start(server)["ready"] is not None)
        whole = cold_start(server)
    check(whole, max(elapsed, whole["ready"]))
    assert set(whole["phases"]) >= PHASES | {"download"}
    (download,) = [span for span in whole["spans"] if span["name"] == "download"]
    files = [DIGITS / "1" / name for name in ("model.xml", "model.bin")]
    assert download["facts"]["bytes"] == sum(path.stat().st_size for path in files)
    assert download["facts"]["model"] == "digits/1"
    assert download["facts"]["mb_per_s"] > 0
    assert "KiB at " in next(line for line in server.log().splitlines() if "cold start" in line)


def test_a_first_predict_over_grpc_is_recorded_too(tmp_path: Path) -> None:
    with decant_serve(tmp_path, *MODEL, str(DIGITS)) as server:
        image = np.array(SEVEN["instances"], np.float32)
        OvmsClient(server.grpc_address).predict("digits", {"image": image})
        # The span ends behind the answer.
        until(lambda: cold_start(server)["is_over"])
        whole = cold_start(server)
    assert set(whole["phases"]) >= {"imports", "first_predict", "wait", "decode", "infer", "encode"}
    assert whole["phases"]["listen"]["count"] == 2


def test_it_shows_no_path_no_host_and_no_secret(s3: SeaweedFS, tmp_path: Path) -> None:
    env = s3.reader.env()
    with decant_serve(tmp_path, *MODEL, "s3://models/digits", without_grpc=True, env=env) as server:
        assert server.post(PREDICT, SEVEN).status == 200
        shown = json.dumps(cold_start(server)) + server.get("/v1/coldstart.svg").body.decode()
    shown = shown.replace("http://www.w3.org/2000/svg", "")
    hidden = [*env.values(), "://", "s3", "127.0.0.1", str(tmp_path), str(DIGITS), str(Path.home()), ".xml"]
    assert [secret for secret in hidden if secret != "true" and secret in shown] == []


def test_a_version_that_comes_later_is_a_load_of_its_own(tmp_path: Path) -> None:
    shutil.copytree(DIGITS, tmp_path / "digits")
    flags = (*MODEL, str(tmp_path / "digits"), "--file_system_poll_wait_seconds", "0.2")
    with decant_serve(tmp_path, *flags, without_grpc=True) as server:
        for _ in range(FIRST_PREDICTS):
            assert server.post(PREDICT, SEVEN).status == 200
        start = cold_start(server)
        assert start["loads"] == []
        shutil.copytree(DIGITS / "1", tmp_path / "incoming")
        (tmp_path / "incoming").rename(tmp_path / "digits" / "2")
        until(lambda: server.post("/v1/models/digits/versions/2:predict", SEVEN).status == 200)
        whole = cold_start(server)
    assert whole["spans"] == start["spans"]
    (load,) = whole["loads"]
    assert load["model"] == "digits/2"
    assert {span["name"] for span in load["spans"]} & COMPILED
    assert load["seconds"] > 0
