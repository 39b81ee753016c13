"""Every config.json that OpenVINO Model Server's documentation shows, with its paths and nothing else replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.golden import standins
from tests.golden.asking import over_grpc, over_rest
from tests.golden.serving import START, started
from tests.golden.standins import COLOURS, colours
from tests.servers.decant import Decant
from tests.servers.processes import accepts_connections

LINE = ["ovms", "--config_path", "config.json", "--port", "{port}", "--rest_port", "{rest_port}"]


def written(directory: Path, config: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))


def model_list(*configs: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"config": config} for config in configs]


def assert_colours(server: Decant, model: str, images: NDArray[np.float32], name: str = "data") -> None:
    for ask in (over_rest, over_grpc):
        (means,) = ask(server, model, {name: images}).values()
        np.testing.assert_allclose(means, [COLOURS] * len(images), atol=2e-2)


def state_of(server: Decant, model: str) -> dict[str, tuple[str, str, str]]:
    """Return the state, the code and the message of each version, as the configuration's status has them."""
    entries = server.get("/v1/config").body[model]["model_version_status"]
    return {
        entry["version"]: (entry["state"], entry["status"]["error_code"], entry["status"]["error_message"])
        for entry in entries
    }


def available(server: Decant, model: str) -> set[str]:
    return {version for version, (state, *_) in state_of(server, model).items() if state == "AVAILABLE"}


def test_several_models(tmp_path: Path) -> None:
    """As in its guide to serving several models."""
    one = standins.resnet(tmp_path / "model", 1, 2, 3)
    two = standins.two_inputs(tmp_path / "two")
    configs = model_list(
        {
            "name": "model_name1",
            "base_path": str(one),
            "batch_size": "16",
            "model_version_policy": {"latest": {"num_versions": 1}},
        },
        {"name": "model_name2", "base_path": str(one), "batch_size": "auto", "model_version_policy": {"all": {}}},
        {
            "name": "model_name3",
            "base_path": str(one),
            "model_version_policy": {"specific": {"versions": [1, 3]}},
            "shape": "auto",
        },
        {
            "name": "model_name4",
            "base_path": str(two),
            "shape": {"input1": "(1,3,200,200)", "input2": "(1,3,50,50)"},
            "plugin_config": {"PERFORMANCE_HINT": "THROUGHPUT"},
        },
        {"name": "model_name5", "base_path": str(one), "shape": "auto", "nireq": 32, "target_device": "CPU"},
    )
    written(tmp_path, {"model_config_list": configs})
    with started(tmp_path, LINE) as server:
        assert_colours(server, "model_name1", colours(16))
        assert_colours(server, "model_name2", colours(3))
        assert_colours(server, "model_name3", colours(2, 100, 80))
        assert_colours(server, "model_name5", colours(1, 64, 64))
        inputs = {"input1": colours(1, 200, 200), "input2": colours(1, 50, 50)}
        np.testing.assert_allclose(
            over_grpc(server, "model_name4", inputs)["prob"], [np.add(COLOURS, COLOURS)], atol=0.05
        )
        assert available(server, "model_name1") == {"3"}
        assert available(server, "model_name2") == {"1", "2", "3"}
        assert available(server, "model_name3") == {"1", "3"}


def test_shapes_layouts_and_properties(tmp_path: Path) -> None:
    """As in its pages on shapes, batch sizes and layouts, on dynamic shapes, on performance and on parameters."""
    base = {"base_path": str(standins.resnet(tmp_path / "model"))}
    configs = model_list(
        {"name": "any_size", **base, "shape": "(-1,3,-1,-1)"},
        {"name": "ranges", **base, "shape": "(1,3,224:448,224:448)"},
        {"name": "any_batch", **base, "batch_size": "-1"},
        {"name": "batches", **base, "batch_size": "1:8"},
        {"name": "by_number", **base, "batch_size": 2},
        {"name": "own_batch", **base, "batch_size": "0"},
        {"name": "photos", **base, "layout": "NHWC:NCHW", "shape": "(1,100,224,3)"},
        {"name": "by_name", **base, "layout": {"data": "NHWC:NCHW", "prob": "NC"}},
        {"name": "layout_only", **base, "layout": "NCHW"},
        {"name": "both", **base, "batch_size": "8", "shape": "(1,3,32,32)"},
        {"name": "streams", **base, "nireq": 4, "plugin_config": {"NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": 2}},
        {"name": "legacy", **base, "plugin_config": {"CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_AUTO"}},
        {"name": "latency", **base, "plugin_config": {"PERFORMANCE_HINT": "LATENCY"}, "allow_cache": True},
        {"name": "hetero", **base, "target_device": "HETERO:CPU"},
    )
    written(tmp_path, {"model_config_list": configs})
    with started(tmp_path, LINE) as server:
        assert_colours(server, "any_size", colours(2, 30, 40))
        assert_colours(server, "ranges", colours(1, 300, 250))
        assert_colours(server, "any_batch", colours(3))
        assert_colours(server, "batches", colours(8))
        assert_colours(server, "by_number", colours(2))
        assert_colours(server, "photos", colours(1, 100, 224, "NHWC"))
        assert_colours(server, "by_name", colours(1, layout="NHWC"))
        assert_colours(server, "both", colours(1, 32, 32))
        for name in ("own_batch", "layout_only", "streams", "legacy", "latency", "hetero"):
            assert_colours(server, name, colours())


@pytest.mark.parametrize(
    ("metrics", "has", "has_not"),
    [
        ({"enable": True}, "ovms_requests_success", "ovms_infer_req_queue_size"),
        ({"enable": True, "metrics_list": ["ovms_infer_req_queue_size"]}, "ovms_infer_req_queue_size", "ovms_streams"),
    ],
)
def test_metrics(tmp_path: Path, metrics: dict[str, Any], has: str, has_not: str) -> None:
    """As in its page on metrics."""
    model = standins.resnet(tmp_path / "model")
    resnet = {"name": "resnet", "base_path": str(model), "layout": "NHWC:NCHW", "shape": "(1,224,224,3)"}
    written(tmp_path, {"model_config_list": model_list(resnet), "monitoring": {"metrics": metrics}})
    with started(tmp_path, LINE) as server:
        assert_colours(server, "resnet", colours(layout="NHWC"))
        reply = server.get("/metrics")
    assert reply.status == 200
    text = reply.body.decode()
    assert f"{has}{{" in text
    assert 'name="resnet"' in text
    assert has_not not in text


def test_a_stateful_model(tmp_path: Path) -> None:
    """As in its page on stateful models."""
    stateful = {
        "name": "stateful_model",
        "base_path": str(standins.summing(tmp_path / "model")),
        "stateful": True,
        "idle_sequence_cleanup": True,
        "low_latency_transformation": True,
        "max_sequence_number": 1000,
        "shape": "(1,1)",
    }
    written(tmp_path, {"model_config_list": model_list(stateful)})
    with started(tmp_path, LINE) as server:
        totals = []
        for number, control in ((1.0, 1), (2.0, 0), (4.0, 2)):
            inputs = {"data": [[number]], "sequence_id": [10], "sequence_control_input": [control]}
            reply = server.post(
                "/v1/models/stateful_model:predict", {"signature_name": "serving_default", "inputs": inputs}
            )
            assert reply.status == 200, reply.body
            totals.append(reply.body["outputs"]["prob"])
            assert reply.body["outputs"]["sequence_id"] == [10]
    assert totals == [[[1.0]], [[3.0]], [[7.0]]]


REJECTED_PARTS: dict[str, dict[str, Any]] = {
    "pipeline": {
        "custom_node_library_config_list": [{"name": "east_ocr", "base_path": "/ovms/lib/libcustom_node_east_ocr.so"}],
        "pipeline_config_list": [
            {
                "name": "detect_text_images",
                "inputs": ["image"],
                "nodes": [
                    {
                        "name": "text-detection_node",
                        "model_name": "resnet",
                        "type": "DL model",
                        "inputs": [{"data": {"node_name": "request", "data_item": "image"}}],
                        "outputs": [{"data_item": "prob", "alias": "scores"}],
                    },
                    {
                        "name": "extract_node",
                        "library_name": "east_ocr",
                        "type": "custom",
                        "demultiply_count": 0,
                        "params": {"original_image_width": "1920", "confidence_threshold": "0.9"},
                        "inputs": [
                            {"image": {"node_name": "request", "data_item": "image"}},
                            {"scores": {"node_name": "text-detection_node", "data_item": "scores"}},
                        ],
                        "outputs": [{"data_item": "text_images", "alias": "text_images"}],
                    },
                ],
                "outputs": [{"text_images": {"node_name": "extract_node", "data_item": "text_images"}}],
            }
        ],
    },
    "custom_loader": {
        "custom_loader_config_list": [
            {"config": {"loader_name": "sampleloader", "library_path": "/sampleloader/bin/libsampleloader.so"}}
        ],
    },
    "mediapipe": {"mediapipe_config_list": [{"name": "holistic", "base_path": "/models/holistic"}]},
}


@pytest.mark.parametrize("part", REJECTED_PARTS)
def test_what_there_is_not_yet_is_not_in_the_way_of_models(tmp_path: Path, part: str) -> None:
    """As in its pages on the DAG scheduler, custom nodes, custom loaders and MediaPipe."""
    resnet = {"name": "resnet", "base_path": str(standins.resnet(tmp_path / "model"))}
    models: list[dict[str, Any]] = [resnet]
    if part == "custom_loader":
        loaded = {
            "name": "encrypted",
            "base_path": resnet["base_path"],
            "custom_loader_options": {"loader_name": "sampleloader"},
        }
        models.append(loaded)
    written(tmp_path, {"model_config_list": model_list(*models), **REJECTED_PARTS[part]})
    with started(tmp_path, LINE, wait=False) as server:
        wait_listening(server)
        assert_colours(server, "resnet", colours())
        name = {"pipeline": "detect_text_images", "custom_loader": "encrypted", "mediapipe": "holistic"}[part]
        assert server.post(f"/v1/models/{name}:predict", {"inputs": [1.0]}).status in (404, 503)
        log = server.log()
    (line,) = [line for line in log.splitlines() if name in line and ("WARNING" in line or "ERROR" in line)][:1]
    assert "not supported" in line or "not served" in line


def wait_listening(server: Decant) -> None:
    """Wait for both ports and not for readiness, which not every model allows."""
    ports = (server.rest_port, server.grpc_port)
    server.process.wait_until(lambda: all(map(accepts_connections, ports)), START)


def test_a_model_that_cannot_be_is_not_in_the_way_of_others(tmp_path: Path) -> None:
    """As in its page on updating a configuration: what is wrong with one model is said of that one."""
    model = str(standins.resnet(tmp_path / "model"))
    configs = model_list(
        {"name": "good", "base_path": model},
        {"name": "no_such_device", "base_path": model, "target_device": "GPU.7"},
        {"name": "bad_shape", "base_path": model, "shape": "(1,3,224"},
        {"name": "other_input", "base_path": model, "shape": {"nothing": "(1,3,224,224)"}},
        {"name": "good", "base_path": "/nowhere"},
    )
    written(tmp_path, {"model_config_list": configs})
    with started(tmp_path, LINE, wait=False) as server:
        wait_listening(server)
        assert_colours(server, "good", colours())
        for name in ("no_such_device", "bad_shape", "other_input"):
            assert server.post(f"/v1/models/{name}:predict", {"inputs": [1.0]}).status in (404, 412, 503), name
        (failed,) = state_of(server, "no_such_device").values()
        assert failed[0] == "END" or failed[0] == "LOADING"
        assert "GPU" in failed[2]
        (failed,) = state_of(server, "other_input").values()
        assert "Shape from config not found in model" in failed[2]


def test_no_models_at_all(tmp_path: Path) -> None:
    """Its empty list, to which models are added while it runs."""
    model = str(standins.resnet(tmp_path / "model"))
    written(tmp_path, {"model_config_list": []})
    with started(tmp_path, LINE) as server:
        assert server.get("/v1/config").body == {}
        written(tmp_path, {"model_config_list": model_list({"name": "resnet", "base_path": model})})
        reply = server.post("/v1/config/reload", b"")
        assert reply.status in (200, 201)  # 200 if the watch on the file was first
        assert reply.body["resnet"]["model_version_status"][0]["state"] == "AVAILABLE"
        assert_colours(server, "resnet", colours())
        (tmp_path / "config.json").write_text('{"model_config_list": [}')
        assert server.post("/v1/config/reload", b"").status == 412
        assert_colours(server, "resnet", colours())


def test_the_ancestor_in_python(tmp_path: Path) -> None:
    """The config.json of the Python server."""
    model = str(standins.resnet(tmp_path / "model", 1, 2))
    configs = model_list(
        {"name": "model_name1", "base_path": model},
        {"name": "model_name2", "base_path": model, "model_version_policy": {"latest": {"num_versions": 2}}},
        {"name": "model_name3", "base_path": model, "batch_size": "auto", "model_version_policy": {"all": {}}},
        {"name": "model_name4", "base_path": model, "shape": '{"data": "(1,3,50,50)"}', "target_device": "CPU"},
        {
            "name": "model_name5",
            "base_path": model,
            "shape": "auto",
            "nireq": 2,
            "plugin_config": {"CPU_THROUGHPUT_STREAMS": 1},
        },
    )
    written(tmp_path, {"model_config_list": configs})
    line = ["ie_serving", "config", "--config_path", "config.json", "--port", "{port}", "--rest_port", "{rest_port}"]
    with started(tmp_path, line) as server:
        for name in ("model_name1", "model_name2"):
            assert_colours(server, name, colours())
        assert_colours(server, "model_name3", colours(2))
        assert_colours(server, "model_name4", colours(1, 50, 50))
        assert_colours(server, "model_name5", colours(2, 20, 30))
