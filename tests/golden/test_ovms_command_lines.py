"""Command lines of OpenVINO Model Server's documentation, with paths and ports and nothing else replaced."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.golden import standins
from tests.golden.asking import over_grpc, over_rest
from tests.golden.serving import started
from tests.golden.standins import COLOURS, colours
from tests.servers.decant import Decant
from tests.servers.processes import clean_environment

PORTS = "--port {port} --rest_port {rest_port}"
RESNET = "ovms --model_name resnet --model_path model"

# What it is -> the line, and the images that the model takes: batch, height, width, layout.
LINES: dict[str, tuple[str, tuple[int, int, int, str]]] = {
    "quick start": (f"{RESNET} {PORTS}", (1, 224, 224, "NCHW")),
    "in the image, and with equals signs": (
        "decant ovms --model_name=resnet --model_path=model --port={port} --rest_port={rest_port} --shape=auto",
        (2, 60, 50, "NCHW"),
    ),
    "images and their layout": (f"{RESNET} --layout NHWC:NCHW --shape auto {PORTS}", (1, 100, 80, "NHWC")),
    "shape": (f'{RESNET} --shape "(1,3,200,100)" {PORTS}', (1, 200, 100, "NCHW")),
    "shape and layout by name": (
        f"""{RESNET} --shape '{{"data":"(2,40,50,3)"}}' --layout '{{"data":"NHWC:NCHW"}}' {PORTS}""",
        (2, 40, 50, "NHWC"),
    ),
    "batch size": (
        f"""{RESNET} --batch_size=4 --nireq 2 --target_device CPU \
--plugin_config '{{"CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_AUTO"}}' {PORTS}""",
        (4, 224, 224, "NCHW"),
    ),
    "batch auto": (
        f"""{RESNET} --batch_size auto --model_version_policy '{{"latest":{{"num_versions":2}}}}' {PORTS}""",
        (5, 224, 224, "NCHW"),
    ),
    "a server to be tuned": (
        f"""{RESNET} --plugin_config '{{"PERFORMANCE_HINT":"LATENCY","INFERENCE_NUM_THREADS":"1"}}' --grpc_workers 2 \
--rest_workers 8 --grpc_channel_arguments grpc.max_connection_age_ms=20000,grpc.max_concurrent_streams=10 \
--grpc_bind_address 127.0.0.1 --rest_bind_address 127.0.0.1 --log_level DEBUG --log_path server_too.log \
--file_system_poll_wait_seconds 0 --sequence_cleaner_poll_wait_minutes 0 \
--custom_node_resources_cleaner_interval_seconds 1 --cache_dir cache {PORTS}""",
        (1, 224, 224, "NCHW"),
    ),
    "the ancestor in Python": (
        f"""ie_serving model --model_name resnet --model_path model --shape auto --grpc_workers 4 --rest_workers 4 \
--nireq 4 --target_device CPU --model_version_policy '{{"specific":{{"versions":[1]}}}}' \
--plugin_config '{{"CPU_THREADS_NUM": "2"}}' {PORTS}""",
        (2, 30, 20, "NCHW"),
    ),
}


@pytest.mark.parametrize("what", LINES)
def test_a_documented_command_line_serves(tmp_path: Path, what: str) -> None:
    line, (batch, height, width, layout) = LINES[what]
    standins.resnet(tmp_path / "model", 1, 2)
    images = {"data": colours(batch, height, width, layout)}
    with started(tmp_path, shlex.split(line)) as server:
        for ask in (over_rest, over_grpc):
            (means,) = ask(server, "resnet", images).values()
            np.testing.assert_allclose(means, [COLOURS] * batch, atol=2e-2)


def test_a_server_of_grpc_alone(tmp_path: Path) -> None:
    standins.resnet(tmp_path / "model")
    with started(tmp_path, shlex.split(f"{RESNET} --port {{port}}")) as server:
        assert server.rest_port == 0
        np.testing.assert_allclose(over_grpc(server, "resnet", {"data": colours()})["prob"], [COLOURS], atol=2e-2)


def test_metrics_of_flags(tmp_path: Path) -> None:
    standins.resnet(tmp_path / "model")
    families = "ovms_requests_success,ovms_infer_req_queue_size"
    line = f"{RESNET} {PORTS} --metrics_enable --metrics_list {families}"
    with started(tmp_path, shlex.split(line)) as server:
        over_grpc(server, "resnet", {"data": colours()})
        text = server.get("/metrics").body.decode()
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith("ovms_requests_success{") and "Predict" in line and "gRPC" in line
    ]
    assert 'api="TensorFlowServing"' in line
    assert line.endswith(" 1.0") or line.endswith(" 1")
    assert "ovms_infer_req_queue_size" in text
    assert "ovms_streams" not in text


def test_a_stateful_model_of_flags(tmp_path: Path) -> None:
    standins.summing(tmp_path / "model")
    line = f"ovms --model_name sum --model_path model --stateful --idle_sequence_cleanup=false \
--low_latency_transformation --max_sequence_number 1 --sequence_cleaner_poll_wait_minutes 10 {PORTS}"
    with started(tmp_path, shlex.split(line)) as server:
        one = {"data": np.ones((1, 1), np.float32)}
        (number,) = over_grpc(server, "sum", {**one, "sequence_control_input": np.array([1], np.uint32)})["sequence_id"]
        again = over_grpc(server, "sum", {**one, "sequence_id": np.array([number], np.uint64)})
        assert again["prob"].tolist() == [[2.0]]
        refused = server.post("/v1/models/sum:predict", {"inputs": {"data": [[1.0]], "sequence_control_input": [1]}})
        assert refused.status == 503


def test_a_version_that_appears_is_served_by_and_by(tmp_path: Path) -> None:
    standins.resnet(tmp_path / "model", 1)
    policy = """--model_version_policy '{"latest":{"num_versions":1}}'"""
    with started(tmp_path, shlex.split(f"{RESNET} {PORTS} {policy} --file_system_poll_wait_seconds 1")) as server:
        assert available(server) == {"1"}
        standins.resnet(tmp_path / "model", 2)
        # Requests bring it about, and none of them fails or waits.
        server.process.wait_until(lambda: answers(server) and available(server) == {"2"}, 20)


def answers(server: Decant) -> bool:
    (means,) = over_rest(server, "resnet", {"data": colours()})[""].tolist()
    return bool(means == COLOURS)


def available(server: Decant) -> set[str]:
    entries = server.get("/v1/models/resnet").body["model_version_status"]
    return {entry["version"] for entry in entries if entry["state"] == "AVAILABLE"}


REFUSED = {
    "two ways at once": (f"{RESNET} --config_path config.json", "Use either config_path or model_path with model_name"),
    "a flag beside a file": (
        "ovms --config_path config.json --batch_size 2",
        "Model parameters in CLI are exclusive with the config file",
    ),
    "one port twice": (f"{RESNET} --port 9000 --rest_port 9000", "port and rest_port cannot have the same values"),
    "stateful's flags alone": (
        f"{RESNET} --max_sequence_number 3",
        "require setting stateful flag for the model",
    ),
    "metrics without REST": (
        f"{RESNET} --port 9000 --metrics_enable",
        "rest_port setting is missing, metrics are enabled on rest port",
    ),
    "an unknown family": (
        f"{RESNET} --rest_port 9001 --metrics_enable --metrics_list ovms_everything",
        "Invalid name in metrics_list",
    ),
    "workers without end": (f"{RESNET} --grpc_workers 5000", "grpc_workers count should be from 1 to CPU core count"),
    "an extension that there is not": (f"{RESNET} --cpu_extension /nowhere.so", "/nowhere.so"),
    "a flag that there is not": (f"{RESNET} --nonsense", "error parsing options"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_command_line_that_cannot_be_is_refused_in_ovms_words(tmp_path: Path, what: str) -> None:
    line, text = REFUSED[what]
    standins.resnet(tmp_path / "model")
    (tmp_path / "config.json").write_text('{"model_config_list": []}')
    ended = finished(tmp_path, line)
    assert ended.returncode == 64, ended.stderr
    assert text in ended.stderr


@pytest.mark.parametrize("line", ["ovms", "ovms --help", "ovms --version", "ie_serving --help"])
def test_who_asks_for_help_gets_it(tmp_path: Path, line: str) -> None:
    ended = finished(tmp_path, line)
    assert ended.returncode == 0
    assert ("--model_path" if line == "ovms --help" or line == "ovms" else "") in ended.stdout
    assert ended.stdout


def finished(directory: Path, line: str) -> subprocess.CompletedProcess[str]:
    program, *words = shlex.split(line)
    argv = [sys.executable, "-m", f"handlers.{program}", *words]
    return subprocess.run(
        argv, env=clean_environment(), cwd=directory, capture_output=True, text=True, timeout=20, check=False
    )
