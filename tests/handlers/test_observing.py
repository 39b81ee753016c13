"""The line that each request has in the log at DEBUG, and that requests pay nothing where nobody looks."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections import Counter
from types import FrameType
from typing import Any

import grpc
import numpy as np
import pytest

from runtime.contract import Contract, contract_of
from runtime.errors import DeadlineExceeded
from runtime.metrics import Metrics
from runtime.servable import Tensors
from tests.fakes import PATIENCE
from tests.handlers import grpc_front
from tests.handlers.http_front import MODEL, ONE, PREDICT, ask, listening
from tests.handlers.test_metrics import grpc_listening
from tests.runtime.servables import NAME, HalfPlusTwo, finish_start, stage

INFER = f"/v2/models/{NAME}/infer"
X = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}'
TIMES = r"wait (\d+\.\d{3}) decode (\d+\.\d{3}) infer (\d+\.\d{3}) encode (\d+\.\d{3}) total (\d+\.\d{3}) ms"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "runtime.observing"]


def matched(line: str, head: str, tail: str) -> list[float]:
    match = re.fullmatch(f"{re.escape(head)} {TIMES}, {re.escape(tail)}", line)
    assert match, line
    return [float(group) for group in match.groups()]


class Quick(HalfPlusTwo):
    is_quick = True
    is_kept = False


@pytest.mark.parametrize("make", [HalfPlusTwo, Quick])
@pytest.mark.parametrize(("path", "sent"), [(PREDICT, ONE), (INFER, X)])
def test_at_debug_a_request_is_a_line_of_what_took_how_long(
    path: str, sent: bytes, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), stage(1, make=make) as s, listening(s) as server:
        s.server.start(NAME)
        _, _, body = ask(server, "POST", path, sent)
    (line,) = lines(caplog)
    head, tail = f"POST '{path}' 200 {NAME}/1", f"{len(sent)} bytes in, {len(body)} out"
    *parts, total = matched(line, head, tail)
    assert sum(parts) == pytest.approx(total, abs=0.01)


class Slow(HalfPlusTwo):
    def __init__(self, version: int) -> None:
        time.sleep(0.05)
        super().__init__(version)

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        time.sleep(0.02)
        return super().predict(signature_name, inputs, deadline)


def test_a_request_waits_for_its_model_and_then_that_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), stage(1, make=Slow) as s, listening(s) as server:
        assert ask(server, "POST", PREDICT, ONE)[0] == 200
    (line,) = lines(caplog)
    wait, decode, infer, encode, total = map(float, re.findall(r"\d+\.\d{3}", line))
    assert wait >= 50
    assert infer >= 20
    assert decode + encode <= total - 70


def test_a_large_answer_of_a_quick_model_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    rows = json.dumps({"instances": [1.0] * 3000}).encode()
    with caplog.at_level(logging.DEBUG), stage(1, make=Quick) as s, listening(s) as server:
        s.server.start(NAME)
        _, _, body = ask(server, "POST", PREDICT, rows)
    (line,) = lines(caplog)
    matched(line, f"POST '{PREDICT}' 200 {NAME}/1", f"{len(rows)} bytes in, {len(body)} out")


class Hesitant(Quick):
    """Is slower than it has been, once."""

    has_hesitated = False

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        if not self.has_hesitated:
            self.has_hesitated = True
            time.sleep(0.05)
            raise DeadlineExceeded
        return super().predict(signature_name, inputs, deadline)


def test_what_was_tried_in_vain_is_waiting_and_is_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    with caplog.at_level(logging.DEBUG), stage(1, make=Hesitant, metrics=metrics) as s, listening(s) as server:
        s.server.start(NAME)
        assert ask(server, "POST", PREDICT, ONE)[0] == 200
        (hits,) = metrics.snapshot(s.server)["decant_cache_hits_total"].values()
    (line,) = lines(caplog)
    wait, decode, infer, _, total = map(float, re.findall(r"\d+\.\d{3}", line))
    assert wait >= 50
    assert decode + infer <= total - 50
    assert hits == 1


def test_what_a_quick_model_has_taken_is_not_lost_where_another_thread_writes(caplog: pytest.LogCaptureFixture) -> None:
    class Big(Quick):
        def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
            time.sleep(0.02)
            return super().predict(signature_name, inputs, deadline)

    rows = json.dumps({"instances": [1.0] * 3000}).encode()
    with caplog.at_level(logging.DEBUG), stage(1, make=Big) as s, listening(s) as server:
        s.server.start(NAME)
        assert ask(server, "POST", PREDICT, rows)[0] == 200
    (line,) = lines(caplog)
    assert float(re.findall(r"\d+\.\d{3}", line)[2]) >= 20


def test_what_fails_has_its_line_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), stage(1) as s, listening(s, max_body=100) as server:
        for method, target, body in (
            ("POST", PREDICT, b'{"instances": ["a"]}'),
            ("POST", PREDICT, b"{"),
            ("POST", "/v1/models/nobody:predict", ONE),
            ("GET", f"{MODEL}/metadata", None),
            ("GET", "/v1/coldstart", None),
            ("POST", PREDICT, b" " * 101),
            ("GET", "/v1/models/a%0Ab:x", None),
        ):
            ask(server, method, target, body)
    heads = [line.partition(" wait ")[0] for line in lines(caplog)]
    assert heads == [
        f"POST '{PREDICT}' 400 {NAME}/1",
        f"POST '{PREDICT}' 400 {NAME}/1",
        "POST '/v1/models/nobody:predict' 404 nobody",
        f"GET '{MODEL}/metadata' 200 {NAME}/1",
        "GET '/v1/coldstart' 200 -",
        f"POST '{PREDICT}' 413",
        "GET '/v1/models/a%0Ab:x' 400",
    ]


def test_a_call_of_grpc_has_its_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), stage(1) as s, grpc_listening(s) as channel:
        call = grpc_front.stub(channel)
        request = grpc_front.request_of(NAME, np.array([1], np.float32))
        answer = call(request, timeout=PATIENCE)
        unknown = grpc_front.request_of("nobody", grpc_front.X)
        assert grpc_front.outcome(call, unknown, timeout=PATIENCE) is grpc.StatusCode.NOT_FOUND
    first, second = lines(caplog)
    tail = f"{request.ByteSize()} bytes in, {answer.ByteSize()} out"
    matched(first, f"{grpc_front.PREDICT} OK {NAME}/1", tail)
    matched(second, f"{grpc_front.PREDICT} NOT_FOUND nobody", f"{unknown.ByteSize()} bytes in, 0 out")


def test_above_debug_there_is_no_line_and_nothing_around_the_contract(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), stage(1) as s:
        assert type(contract_of(s.server, max_body=100)) is Contract
        with listening(s) as server:
            assert ask(server, "POST", PREDICT, ONE)[0] == 200
    assert lines(caplog) == []


def calls_of(contract: Contract, path: str, body: bytes) -> Counter[str]:
    """The Python functions that a request calls, by the modules they are in."""
    contract.answer("POST", path.encode(), {}, body)
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            found[frame.f_globals["__name__"]] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        assert contract.answer("POST", path.encode(), {}, body).status == 200
    finally:
        sys.setprofile(before)
    return found


@pytest.mark.parametrize(("path", "body"), [(PREDICT, ONE), (INFER, X)])
def test_metrics_that_are_off_are_not_called_and_what_is_on_calls_little(path: str, body: bytes) -> None:
    finish_start()
    ours = {"runtime.metrics", "runtime.observing", "runtime.metric_families"}
    with stage(1) as s:
        off = calls_of(contract_of(s.server, max_body=100), path, body)
    with stage(1, metrics=Metrics()) as s:
        on = calls_of(contract_of(s.server, max_body=100), path, body)
    assert not ours & off.keys()
    added = on - off
    assert ours & added.keys()
    assert sum(added.values()) < 40
    assert not off - on
