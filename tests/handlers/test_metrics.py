"""What is counted, and what a scrape shows of it: real fronts on real sockets, over servables that behave."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from handlers.build import build_server
from handlers.configuration import MetricsConfig, models_of
from handlers.exits import USAGE
from handlers.http_server import HttpServer
from handlers.ports import hold
from handlers.settings import Settings, SettingsError
from model_cache.disk import DiskCache, Fetched
from model_cache.errors import LoadFailed
from model_cache.local import LocalStorage
from model_cache.repository import ModelRepository, ServableId
from runtime import coldstart
from runtime.batching import BatchingParameters
from runtime.batching_servable import BatchingServable
from runtime.codecs import schema
from runtime.contract import contract_of
from runtime.metric_families import FAMILIES, MICROSECONDS, Snapshot, added_up, counted, still_there
from runtime.metrics import MeteredLoader, Metrics, VersionMetrics
from runtime.pool import Pool
from runtime.rest import create_app
from runtime.servable import LoadPhases, Observed, Observer, Usage
from runtime.signature import DEFAULT_SIGNATURE
from tests.conftest import DIGITS
from tests.fakes import PATIENCE, MemoryStorage, until
from tests.handlers import grpc_front
from tests.handlers.http_front import MODEL, ONE, PREDICT, ask, listening
from tests.handlers.scraping import parsed, scrape
from tests.runtime import models
from tests.runtime.asgi import call
from tests.runtime.servables import NAME, HalfPlusTwo, Stage, finish_start, stage
from tests.servers.processes import clean_environment

DEFAULTS = {
    "ovms_requests_success",
    "ovms_requests_fail",
    "ovms_request_time_us",
    "ovms_inference_time_us",
    "ovms_wait_for_infer_req_time_us",
    "ovms_streams",
    "ovms_current_requests",
}
OPTIONAL = {"ovms_infer_req_queue_size", "ovms_infer_req_active"}


OF_V2 = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}'


class Watched(HalfPlusTwo):
    """Has all that can be known of a servable."""

    observer: Observer | None = None
    usage = Usage(streams=3, active=2, waiting=5, stacking=7)
    sequences = 11
    phases = LoadPhases(Fetched(1000, 0.5), 0.25, 0.8, warm_up=0.05)


@contextmanager
def measured(*versions: int, **options: object) -> Iterator[tuple[Stage, HttpServer]]:
    metrics = Metrics()
    with stage(*versions, metrics=metrics, **options) as s, listening(s) as server:
        yield s, server


def post(server: HttpServer, target: str = PREDICT, body: bytes = ONE) -> int:
    return ask(server, "POST", target, body)[0]


def families_of(names: set[str]) -> set[str]:
    return {next(family for family in sorted(FAMILIES, reverse=True) if name.startswith(family)) for name in names}


def test_names_and_labels_are_openvino_model_servers() -> None:
    with measured(1, make=Watched) as (_, server):
        assert post(server) == 200
        found = scrape(server)
    ours = {name for name in families_of(found.names) if name.startswith("ovms_")}
    assert ours == DEFAULTS
    labels = {name: {key for each, pairs in found for key, _ in pairs if each == name} for name in found.names}
    assert labels["ovms_requests_success"] == {"api", "interface", "method", "name", "version"}
    assert labels["ovms_request_time_us_sum"] == {"interface", "name", "version"}
    assert labels["ovms_inference_time_us_count"] == {"name", "version"}
    assert labels["ovms_current_requests"] == {"name", "version"}
    status = {"api": "TensorFlowServing", "method": "GetModelStatus", "name": NAME}
    assert [set(dict(key[1])) for key in found if status.items() <= key[1]] == [{*status, "interface"}] * 4
    assert found.value("ovms_requests_success", interface="REST", method="Predict", name=NAME, version="1") == 1
    assert found.value("ovms_requests_success", interface="gRPC", method="Predict", name=NAME, version="1") == 0
    methods = {
        "TensorFlowServing": {"Predict", "GetModelMetadata", "GetModelStatus"},
        "KServe": {"ModelInfer", "ModelMetadata", "ModelReady"},
    }
    asked = [dict(pairs) for name, pairs in found if name == "ovms_requests_success"]
    assert {(each["api"], each["method"]) for each in asked} == {(api, m) for api in methods for m in methods[api]}
    ready = {"api": "KServe", "method": "ModelReady", "name": NAME}
    assert [set(dict(key[1])) for key in found if ready.items() <= key[1]] == [{*ready, "interface"}] * 4


def test_types_are_openvino_model_servers_too() -> None:
    with measured(1) as (_, server):
        text = ask(server, "GET", "/metrics")[2].decode()
    types = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
    assert types["ovms_requests_fail"] == "counter"
    assert types["decant_cache_evictions_total"] == "counter"
    assert types["decant_cache_bytes"] == "gauge"


def test_buckets_are_openvino_model_servers() -> None:
    assert MICROSECONDS[:5] == (10, 18, 32, 58, 104)
    assert (len(MICROSECONDS), MICROSECONDS[-1]) == (33, int(10 * 1.8**32))
    with measured(1) as (_, server):
        assert post(server) == 200
        lines = ask(server, "GET", "/metrics")[2].decode().splitlines()
    name, version = f'name="{NAME}"', 'version="1"'
    bounds = [
        line.partition('le="')[2].partition('"')[0]
        for line in lines
        if line.startswith('ovms_request_time_us_bucket{interface="REST"') and name in line and version in line
    ]
    assert bounds == [*map(str, MICROSECONDS), "+Inf"]


def test_what_is_on_a_bound_is_in_its_bucket() -> None:
    metrics = Metrics()
    with stage(1, metrics=metrics) as s:
        s.server.start(NAME)
        (version,) = s.server.snapshot().holdings
        for microseconds in (9, 10, 11, 1e12):
            metrics.of(version.key.id).ran(0.0, microseconds / 1e6)
        *counts, total = metrics.snapshot(s.server)["ovms_inference_time_us"][("name", NAME), ("version", "1")]  # type: ignore[misc]
    assert counts == [2, 1, *[0] * 31, 1]
    assert total == pytest.approx(1e12 + 30)


def test_a_list_replaces_the_defaults() -> None:
    with (
        stage(1, make=Watched, metrics=Metrics(("ovms_infer_req_active", "ovms_streams"))) as s,
        listening(s) as server,
    ):
        s.server.start(NAME)
        assert scrape(server).names == {"ovms_infer_req_active", "ovms_streams"}


def test_the_optional_ones_are_on_only_by_their_names() -> None:
    assert not OPTIONAL & Metrics().families
    assert Metrics().families >= DEFAULTS
    assert Metrics(tuple(OPTIONAL)).families == OPTIONAL


def test_what_old_lists_have_is_taken() -> None:
    assert Metrics(("ovms_graph_error", "ovms_streams")).families >= {"ovms_streams"}


def test_an_unknown_name_is_refused_in_openvino_model_servers_words() -> None:
    with pytest.raises(ValueError, match=r"^Invalid name in metrics_list: 'ovms_stream'; want some of ovms_requests_"):
        Metrics(("ovms_streams", "ovms_stream"))


def test_each_outcome_is_counted_where_it_belongs() -> None:
    with measured(1, 2) as (_, server):
        assert post(server) == 200
        assert post(server, f"{MODEL}/versions/1:predict") == 200
        assert post(server, body=b'{"instances": ["a"]}') == 400
        assert post(server, f"{MODEL}:classify", b'{"examples": [{"x": 1}]}') == 400
        assert ask(server, "GET", f"{MODEL}/metadata")[0] == 200
        assert ask(server, "GET", MODEL)[0] == 200
        assert ask(server, "GET", f"{MODEL}/versions/9")[0] == 404
        found = scrape(server)

    def count(name: str, method: str, **labels: str) -> float:
        return found.value(f"ovms_requests_{name}", interface="REST", method=method, **labels)

    assert (count("success", "Predict", version="2"), count("success", "Predict", version="1")) == (1, 1)
    assert (count("fail", "Predict", version="2"), count("fail", "Predict", version="1")) == (1, 0)
    assert (count("fail", "Classify"), count("success", "GetModelMetadata", version="2")) == (1, 1)
    assert (count("success", "GetModelStatus"), count("fail", "GetModelStatus")) == (1, 1)
    # Of those that succeeded, as in OpenVINO Model Server.
    assert found.value("ovms_request_time_us_count", interface="REST", version="2") == 1
    assert found.value("ovms_current_requests", version="2") == 0


def test_requests_of_the_open_inference_protocol_are_counted_beside_those() -> None:
    model = f"/v2/models/{NAME}"
    with measured(1, 2) as (s, server):
        assert post(server) == 200
        assert post(server, f"{model}/infer", OF_V2) == 200
        assert post(server, f"{model}/versions/1/infer", OF_V2) == 200
        assert post(server, f"{model}/infer", b"{") == 400
        assert post(server, f"{model}/infer", OF_V2.replace(b"FP32", b"INT32")) == 400
        assert post(server, "/v2/models/other/infer", OF_V2) == 404
        assert ask(server, "GET", model)[0] == 200
        assert ask(server, "GET", f"{model}/ready")[0] == 200
        assert ask(server, "GET", f"{model}/versions/9/ready")[0] == 404
        assert ask(server, "GET", "/v2/models/other/ready")[0] == 404
        # Not counted.
        assert ask(server, "GET", "/v2")[0] == 200
        assert ask(server, "GET", f"{model}/stats")[0] == 200
        assert ask(server, "GET", "/v2/nothing")[0] == 404
        found = scrape(server)

    def count(name: str, method: str, **labels: str) -> float:
        return found.value(f"ovms_requests_{name}", interface="REST", api="KServe", method=method, **labels)

    assert (count("success", "ModelInfer", version="2"), count("success", "ModelInfer", version="1")) == (1, 1)
    assert (count("fail", "ModelInfer", version="2"), count("fail", "ModelInfer", version="1")) == (2, 0)
    assert (count("success", "ModelMetadata", version="2"), count("fail", "ModelMetadata", version="2")) == (1, 0)
    assert (count("success", "ModelReady"), count("fail", "ModelReady")) == (1, 1)
    assert found.value("ovms_requests_success", interface="REST", method="Predict", version="2") == 1
    # Of both protocols together, as in OpenVINO Model Server.
    assert found.value("ovms_request_time_us_count", interface="REST", version="2") == 2
    assert found.value("ovms_current_requests", version="2") == 0
    assert found.value("decant_cache_hits_total", version="2") == 2
    assert found.value("decant_requests_refused_total", code="404") == 3
    # What each of several processes has counted is added up.
    metrics = s.server.metrics
    assert metrics is not None
    one = metrics.snapshot(s.server)["ovms_requests_success"]
    both = added_up([{"ovms_requests_success": one}] * 2)["ovms_requests_success"]
    assert both == {labels: 2 * value for labels, value in one.items()}


def test_a_body_that_makes_no_sense_is_its_models_failure_if_that_is_there() -> None:
    with measured(1) as (_, server):
        assert post(server, body=b"{") == 400
        assert scrape(server).values_of("ovms_requests_fail", method="Predict") == []
        assert post(server) == 200
        assert post(server, body=b"{") == 400
        found = scrape(server)
    assert found.value("ovms_requests_fail", method="Predict", interface="REST", version="1") == 1
    assert found.value("decant_requests_refused_total", interface="REST", code="400") == 1


def test_names_that_clients_make_up_make_no_series() -> None:
    with measured(1) as (_, server):
        for n in range(20):
            assert post(server, f"/v1/models/model{n}:predict") == 404
            assert post(server, f"{MODEL}/versions/{n + 5}:predict") == 404
            assert post(server, f"{MODEL}/labels/label{n}:predict") == 400
            assert ask(server, "GET", f"/v1/models/model{n}")[0] == 404
            assert ask(server, "GET", f"/v1/models/model{n}/metadata")[0] == 404
        found = scrape(server)
    assert found.labels("ovms_requests_fail", "name") == {NAME}
    assert {dict(labels).get("name", NAME) for _, labels in found} == {NAME}
    assert found.value("decant_requests_refused_total", code="404") == 80
    assert found.value("decant_requests_refused_total", code="400") == 20
    assert sum(found.values_of("ovms_requests_fail")) == 0


def test_what_is_refused_before_it_is_a_request_is_counted_by_its_status() -> None:
    with stage(1, metrics=Metrics()) as s, listening(s, max_body=10) as server:
        assert post(server, body=b" " * 20) == 413
        assert ask(server, "POST", "/v1/models")[0] == 400
        found = scrape(server)
    assert found.value("decant_requests_refused_total", code="413") == 1
    assert found.value("decant_requests_refused_total", code="400") == 1


def test_grpc_is_counted_beside_rest() -> None:
    with measured(1) as (s, server), grpc_listening(s) as channel:
        call = grpc_front.stub(channel)
        call(grpc_front.request_of(NAME, np.array([1], np.float32)), timeout=PATIENCE)
        for request in (
            grpc_front.request_of(NAME, np.ones((1, 1), np.float32)),
            grpc_front.request_of("x", grpc_front.X),
        ):
            assert grpc_front.outcome(call, request, timeout=PATIENCE) is not grpc.StatusCode.OK
        status = schema.GetModelStatusRequest()
        status.model_spec.name = NAME
        channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")(
            status.SerializeToString(), timeout=PATIENCE
        )
        found = scrape(server)
    of_grpc = {"interface": "gRPC", "name": NAME}
    assert found.value("ovms_requests_success", method="Predict", **of_grpc) == 1
    assert found.value("ovms_requests_fail", method="Predict", **of_grpc) == 1
    assert found.value("ovms_requests_success", method="GetModelStatus", **of_grpc) == 1
    assert found.value("ovms_request_time_us_count", **of_grpc) == 1
    assert found.value("ovms_requests_success", method="Predict", interface="REST") == 0
    assert found.value("decant_requests_refused_total", interface="gRPC", code="NOT_FOUND") == 1


@contextmanager
def grpc_listening(s: Stage) -> Iterator[grpc.Channel]:
    held = hold("127.0.0.1", 0)
    port = held.getsockname()[1]
    held.close()
    with grpc_front.listening(s.server, port), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


def test_a_request_that_is_being_answered_counts_as_current() -> None:
    metrics = Metrics()
    with stage(1, metrics=metrics) as s:
        server = s.server
        server.start(NAME)
        (holding,) = server.snapshot().holdings
        counts = metrics.of(holding.key.id)
        counts.begun()
        now = metrics.snapshot(server)["ovms_current_requests"]
        counts.ended()
        then = metrics.snapshot(server)["ovms_current_requests"]
    labels = (("name", NAME), ("version", "1"))
    assert (now, then) == ({labels: 1}, {labels: 0})


def test_the_cache_is_counted_hit_by_hit() -> None:
    with measured(1, 2, budget=1) as (_, server):
        assert post(server) == 200
        assert post(server) == 200
        assert post(server, f"{MODEL}/versions/0:predict") == 200
        # It does not ask for a model.
        assert post(server, body=b"{") == 400
        assert post(server, f"{MODEL}/versions/1:predict") == 200
        found = scrape(server)
    assert found.value("decant_cache_hits_total", version="2") == 2
    assert found.value("decant_cache_misses_total", version="2") == 1
    assert found.value("decant_cache_misses_total", version="1") == 1
    assert found.value("decant_cache_evictions_total") == 1
    assert (found.value("decant_cache_bytes"), found.value("decant_cache_budget_bytes")) == (1, 1)
    assert found.value("decant_model_bytes", version="1") == 1


def test_loads_are_counted_with_what_they_took_and_so_are_those_that_fail() -> None:
    with measured(1, 2, make=Watched) as (s, server):
        s.loader.broken[2] = LoadFailed("broken")
        s.server.start(NAME)
        found = scrape(server)
    assert found.value("decant_load_failures_total", version="2") == 1
    assert found.value("decant_load_seconds_count", version="1") == 1
    assert found.value("decant_load_seconds_sum", version="1") == 0.8
    assert found.value("decant_load_seconds_bucket", version="1", le="0.5") == 0
    assert found.value("decant_load_seconds_bucket", version="1", le="1") == 1
    assert found.value("decant_compile_seconds_total", version="1") == 0.25
    assert found.value("decant_warmup_seconds_total", version="1") == 0.05
    assert found.value("decant_downloads_total", version="1") == 1
    assert found.value("decant_download_bytes_total", version="1") == 1000
    assert found.value("decant_download_seconds_total", version="1") == 0.5


def test_a_servable_tells_what_it_does() -> None:
    everything = Metrics(tuple(FAMILIES))
    with stage(1, make=Watched, metrics=everything) as s, listening(s) as server:
        s.server.start(NAME)
        observer = s.loader.servables[1].observer
        observer.ran(0.001, 0.002)
        observer.stacked(3)
        found = scrape(server)
    assert found.value("ovms_inference_time_us_sum") == pytest.approx(2000)
    assert found.value("ovms_wait_for_infer_req_time_us_sum") == pytest.approx(1000)
    assert found.value("decant_batch_rows_sum") == 3
    assert found.value("ovms_streams") == 3
    assert (found.value("ovms_infer_req_queue_size"), found.value("ovms_infer_req_active")) == (1, 2)
    assert (found.value("decant_infer_queue_length"), found.value("decant_batch_queue_length")) == (5, 7)
    assert found.value("decant_sequences") == 11


def test_series_of_a_removed_model_leave_when_it_has() -> None:
    with measured(1) as (s, server):
        assert post(server) == 200
        assert ask(server, "GET", MODEL)[0] == 200
        other = ModelRepository("other", MemoryStorage({"1/model.xml": b""}), clock=s.clock)
        with s.server.lease(NAME):
            s.server.configure({"other": other})
            assert scrape(server).labels("ovms_current_requests", "name") == {NAME}
        until(lambda: not s.server.snapshot().holdings)
        found = scrape(server)
        assert {dict(labels).get("name", "other") for _, labels in found} == {"other"}
        # Whoever comes back begins anew.
        s.server.configure({NAME: s.repository})
        assert sum(scrape(server).values_of("ovms_requests_success", name=NAME)) == 0


def test_series_of_a_version_leave_with_it_and_stay_while_it_is_offered() -> None:
    with measured(1, 2, budget=1) as (s, server):
        assert post(server, f"{MODEL}/versions/1:predict") == 200
        assert post(server, f"{MODEL}/versions/2:predict") == 200
        assert scrape(server).labels("ovms_current_requests", "version") == {"1", "2"}
        s.remove(1)
        assert scrape(server).labels("ovms_current_requests", "version") == {"2"}


def test_the_disk_and_the_start_are_told_of(tmp_path: Path) -> None:
    finish_start()
    with stage(1, metrics=Metrics(), disk=DiskCache(tmp_path, 1000)) as s, listening(s) as server:
        found = scrape(server)
    assert (found.value("decant_disk_bytes"), found.value("decant_disk_budget_bytes")) == (0, 1000)
    assert found.value("decant_disk_free_bytes") > 0
    assert found.value("decant_process_resident_bytes") > 1 << 20
    assert found.value("decant_start_seconds") > 0
    # Which they are depends on the test that began this process's start.
    assert found.labels("decant_start_phase_seconds", "phase") == set(coldstart.phase_seconds()[1]) != set()


def test_versions_that_leave_the_disk_are_counted(tmp_path: Path) -> None:
    storage = MemoryStorage({"1/model.xml": b"x" * 5000, "2/model.xml": b"y" * 5000})
    disk = DiskCache(tmp_path, 8000)
    repository = ModelRepository("m", storage)
    for version in (1, 2):
        with disk.lease(repository.find(version)):
            pass
    assert disk.evictions == 1


def test_metrics_are_there_before_any_model_is_and_while_all_threads_wait_for_one() -> None:
    with stage(1, metrics=Metrics()) as s, listening(s, workers=1) as server:
        gate = s.loader.hold(1)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(post, server)
            gate.wait_until_reached()
            assert ask(server, "GET", "/v2/health/ready")[0] == 503
            found = scrape(server)
            gate.open()
            assert waiting.result() == 200
    assert found.value("ovms_requests_success", interface="REST", method="GetModelStatus") == 0
    assert found.values_of("ovms_requests_success", method="Predict", interface="REST") == [0]


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE"])
def test_metrics_are_only_to_be_got(method: str) -> None:
    with measured(1) as (_, server):
        status, headers, body = ask(server, method, "/metrics")
        assert (status, headers["allow"]) == (405, "GET")
        assert not body if method == "HEAD" else b"want GET" in body


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_metrics_there_are_none(method: str) -> None:
    with stage(1) as s, listening(s) as server:
        status, _, body = ask(server, method, "/metrics")
        assert (status, body) == (404, b'{"error":"metrics are off; see --metrics_enable"}')


def test_a_scrape_is_compressed_for_whoever_wants_that() -> None:
    with measured(1) as (_, server):
        assert post(server) == 200
        _, headers, body = ask(server, "GET", "/metrics?name=x", headers={"accept-encoding": "gzip"})
    assert headers["content-encoding"] == "gzip"
    assert (
        parsed(gzip.decompress(body).decode()).value("ovms_requests_success", method="Predict", interface="REST") == 1
    )


def test_a_label_is_escaped() -> None:
    name = 'a "model"\\ with\nlines'
    with stage(1, metrics=Metrics(), name=name) as s, listening(s) as server:
        assert name in scrape(server).labels("ovms_requests_success", "name")


def test_a_real_model_tells_how_long_it_ran_and_waited(tmp_path: Path) -> None:
    models.save(models.doubler(), tmp_path)
    version = ModelRepository("m", LocalStorage(tmp_path)).find(1)
    metrics = Metrics()
    servable = MeteredLoader(models.loader(models.files_at(tmp_path)), metrics).load(version)
    try:
        servable.predict(DEFAULT_SIGNATURE, {"x": np.ones((1, 2), np.float32)})
    finally:
        servable.close()
    samples = {name: value for name, _, value in metrics.of(version.id).samples()}
    ran, waited = samples["ovms_inference_time_us"], samples["ovms_wait_for_infer_req_time_us"]
    assert isinstance(ran, list)
    assert isinstance(waited, list)
    assert (sum(ran[:-1]), sum(waited[:-1])) == (1, 1)
    assert 0 < ran[-1] < 1e6
    assert metrics.of(version.id).streams >= 1


def test_snapshots_are_added_up_and_what_is_shared_counts_once() -> None:
    one = {"ovms_requests_fail": {(("name", "m"),): 1.0}, "decant_disk_bytes": {(): 5.0}}
    other = {"ovms_requests_fail": {(("name", "m"),): 2.0, (("name", "n"),): 4.0}, "decant_disk_bytes": {(): 5.0}}
    histogram = {"decant_batch_rows": {(): [1.0, 2.0, 3.0]}}
    assert added_up([one, other, histogram, histogram]) == {  # type: ignore[list-item]
        "ovms_requests_fail": {(("name", "m"),): 3.0, (("name", "n"),): 4.0},
        "decant_disk_bytes": {(): 5.0},
        "decant_batch_rows": {(): [2.0, 4.0, 6.0]},
    }


def test_of_the_dead_stays_what_they_have_counted_of_models_that_are_there() -> None:
    dead = {
        "ovms_requests_fail": {(("name", "m"),): 1.0, (("name", "n"),): 1.0},
        "decant_cache_evictions_total": {(): 2.0},
        "ovms_streams": {(("name", "m"),): 1.0},
    }
    now = {"ovms_streams": {(("name", "m"),): 1.0}}
    assert still_there(counted(dead), now) == {  # type: ignore[arg-type]
        "ovms_requests_fail": {(("name", "m"),): 1.0},
        "decant_cache_evictions_total": {(): 2.0},
    }


def test_a_batch_is_counted_by_its_rows_and_what_runs_it_is_observed(tmp_path: Path) -> None:
    metrics = VersionMetrics(ServableId("m", 1))
    inner = Watched(1)
    servable = BatchingServable("m", inner, BatchingParameters(batch_timeout_micros=0), frozenset({"only_y"}))
    assert isinstance(servable, Observed)
    servable.observer = metrics
    assert (servable.observer, inner.observer) == (metrics, metrics)
    servable.predict("only_y", {"x": np.ones(3, np.float32)})
    # What is not batched is no batch of one.
    servable.predict(DEFAULT_SIGNATURE, {"x": np.ones(3, np.float32)})
    samples = {name: value for name, _, value in metrics.samples()}
    assert samples["decant_batch_rows"] == [0, 0, 1, *[0] * 9, 3]
    # None waits now; the rest is the inner one's to know.
    assert servable.usage == inner.usage._replace(stacking=0)


def test_a_pool_says_how_many_are_lent_and_wanted() -> None:
    pool = Pool(["a", "b"])
    pool.take()
    assert pool.usage == (1, 0)
    pool.take()
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(pool.take, PATIENCE)
        until(lambda: pool.usage == (2, 1))
        pool.give_back("a")
        assert waiting.result() == "a"
    assert pool.usage == (2, 0)


def test_an_asgi_server_has_them_too() -> None:
    with stage(1, metrics=Metrics()) as s:
        app = create_app(contract_of(s.server, max_body=100), lambda: True)
        assert call(app, "POST", PREDICT, ONE).status == 200
        reply = call(app, "GET", "/metrics")
        assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = parsed(reply.content.decode())
        assert found.value("ovms_requests_success", method="Predict", interface="REST") == 1
        assert call(app, "POST", "/metrics").status == 405
    with stage(1) as s:
        assert call(create_app(contract_of(s.server, max_body=100), lambda: True), "GET", "/metrics").status == 404


def test_a_scrape_that_fails_is_a_bug_and_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def gather() -> Snapshot:
        raise KeyError("the bug's own text")

    metrics = Metrics()
    metrics.gather = gather
    with stage(1, metrics=metrics) as s, listening(s) as server:
        assert ask(server, "GET", "/metrics")[::2] == (500, b'{"error":"internal error"}')
    assert "GET '/metrics' failed" in caplog.text


def test_a_version_that_is_in_memory_twice_is_one_series() -> None:
    metrics = Metrics()
    with stage(1, metrics=metrics) as s, s.server.lease(NAME):
        (holding,) = s.server.snapshot().holdings
        s.cache.retire(holding.key)
        with s.cache.lease(holding.key):
            assert len(s.server.snapshot().holdings) == 2
            found = metrics.snapshot(s.server)
    assert found["decant_model_bytes"] == {(("name", NAME), ("version", "1")): 2}


MODEL_FLAGS = {"model_name": "digits", "model_path": str(DIGITS), "rest_port": 8501}


def built(configuration: MetricsConfig | None = None, **settings: Any) -> Metrics | None:
    """What a server of these settings counts with."""
    made = Settings(**{**MODEL_FLAGS, **settings})
    server = build_server(made, models_of(made)._replace(metrics=configuration))
    server.close()
    return server.metrics


def test_flags_or_the_file_say_what_is_counted_and_flags_come_first() -> None:
    assert built() is None
    assert built(MetricsConfig(False, ("ovms_streams",))) is None
    for made, families in (
        (built(metrics_enable=True), Metrics().families),
        (built(metrics_enable=True, metrics_list=("ovms_streams",)), {"ovms_streams"}),
        (built(MetricsConfig(True, ())), Metrics().families),
        (built(MetricsConfig(True, ("ovms_streams",))), {"ovms_streams"}),
        (built(MetricsConfig(True, ("ovms_streams",)), metrics_enable=True), Metrics().families),
    ):
        assert made is not None
        assert made.families == families


def test_a_wrong_name_ends_the_start_wherever_it_comes_from() -> None:
    for given in ({"metrics_enable": True, "metrics_list": ("x",)}, {"configuration": MetricsConfig(True, ("x",))}):
        with pytest.raises(SettingsError, match=r"^Invalid name in metrics_list: 'x'; want some of ovms_requests_succ"):
            built(**given)


def test_a_file_that_wants_metrics_has_to_have_a_port_for_them(tmp_path: Path) -> None:
    entry = {"config": {"name": "digits", "base_path": str(DIGITS)}}
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_config_list": [entry], "monitoring": {"metrics": {"enable": True}}}))
    argv = [sys.executable, "-m", "handlers.cli", "--config_path", str(file), "--rest_port", "0", "--port", "1"]
    ended = subprocess.run(argv, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == USAGE
    assert "rest_port setting is missing, metrics are enabled on rest port" in ended.stderr
