"""KServe's runtimes and services: merged and run as KServe would, in front of the real server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ruamel.yaml import YAML

from handlers.limits import MEMORY_SHARE, memory_room
from tests.infra.kubernetes_objects import Object, amount, flags
from tests.infra.pods import container, probe
from tests.servers import ROOT
from tests.servers.helm import IS_INSTALLED, NEEDS_HELM, helm
from tests.servers.processes import free_port
from tests.servers.seaweedfs import SeaweedFS

KSERVE = ROOT / "infra" / "kserve"
DIGITS = ROOT / "examples" / "digits"
SEVEN = json.loads((DIGITS / "seven.json").read_text())
SEVEN_V2 = {"inputs": [{"name": "image", "shape": [1, 8, 8], "datatype": "FP32", "data": SEVEN["instances"]}]}
RUNTIMES = ["runtime.yaml", "runtime-grpc.yaml"]
SERVICES = ["inference-service.yaml", "inference-service-v2.yaml", "inference-service-pull.yaml"]


def load(name: str) -> Object:
    found: Object = YAML(typ="safe").load(KSERVE / name)
    return found


def kserve_container(runtime: Object, service: Object) -> Object:
    """Merge as KServe does (pkg/controller/v1beta1/inferenceservice/utils): arguments are joined, the rest replaced."""
    (one,) = runtime["spec"]["containers"]
    model = service["spec"]["predictor"]["model"]
    text = json.dumps(one).replace("{{.Name}}", service["metadata"]["name"])
    merged: Object = json.loads(text)
    merged["args"] += model.get("args", [])
    return merged


def at_ports(one: Object, **ports: int) -> list[str]:
    return [*one["args"], *(f"--{name}={port}" for name, port in ports.items())]


def places(tmp_path: Path, models: Path) -> Mapping[str, Path]:
    return {"/mnt/models": models, "/tmp": tmp_path / "tmp"}


def test_a_request_is_held_until_the_model_is_there(tmp_path: Path) -> None:
    one = kserve_container(load("runtime.yaml"), load("inference-service.yaml"))
    models = tmp_path / "models"
    shutil.copytree(DIGITS, models)
    port = free_port()
    knative = {"K_SERVICE": "digits", "PORT": str(port), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    with container(tmp_path, at_ports(one, rest_port=port), places(tmp_path, models), port, env=knative) as decant:
        # Knative asks for readiness from the first moment on, and lets requests through when it has it.
        decant.process.wait_until(lambda: probe(decant, one["readinessProbe"]["httpGet"]), 30)
        answer = decant.post("/v1/models/digits:predict", SEVEN)
        assert answer.status == 200
        assert len(answer.body["predictions"]) == 1
        assert probe(decant, one["livenessProbe"]["httpGet"])
        # Of the memory as much as in any other pod: what is on disk takes none.
        said = decant.get("/metrics").body.decode()
        (budget,) = re.findall(r"(?m)^decant_cache_budget_bytes (\S+)$", said)
        assert float(budget) == pytest.approx(MEMORY_SHARE * memory_room(), rel=0.01)
        assert decant.get("/v1/models/digits").body["model_version_status"][0]["state"] == "AVAILABLE"
        # KServe's own protocol, at the same port.
        assert decant.get("/v2/models/digits/ready").status == 200
        answer = decant.post("/v2/models/digits/infer", SEVEN_V2)
        assert answer.status == 200
        (digit,) = (output for output in answer.body["outputs"] if output["name"] == "digit")
        assert digit["data"] == [7]
        assert decant.terminate() == 0


def test_the_same_over_grpc(tmp_path: Path) -> None:
    service = load("inference-service.yaml")
    one = kserve_container(load("runtime-grpc.yaml"), service)
    port = free_port()
    with (
        container(tmp_path, at_ports(one, port=port), places(tmp_path, DIGITS), 0, port) as decant,
        grpc.insecure_channel(decant.grpc_address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=one["readinessProbe"]["grpc"].get("service", ""))
        stub.Check(request, timeout=30, wait_for_ready=True)
        decant.process.wait_until(
            lambda: stub.Check(request, timeout=5).status == health_pb2.HealthCheckResponse.SERVING, 30
        )
        # SERVING comes with the model, not with the port.
        assert decant.log().index("loaded digits/1") >= 0
        # KServe's own protocol, at the same port: ready, of the model by its name.
        ready: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
        assert ready(b"\n\x06digits", timeout=30) == b"\x08\x01"


def test_a_model_is_fetched_where_the_service_says_so(s3: SeaweedFS, tmp_path: Path) -> None:
    service = load("inference-service-pull.yaml")
    arguments = service["spec"]["predictor"]["model"]["args"]
    assert arguments == ["--model_path=s3://my-models/vision/digits"]
    arguments[0] = "--model_path=s3://models/digits"
    one = kserve_container(load("runtime.yaml"), service)
    port = free_port()
    nothing = tmp_path / "nothing"
    with container(
        tmp_path, at_ports(one, rest_port=port), places(tmp_path, nothing), port, env=s3.reader.env()
    ) as decant:
        decant.wait_ready()
        assert decant.post("/v1/models/digits:predict", SEVEN).status == 200


def test_files_without_a_version_are_not_served_and_the_log_says_why(tmp_path: Path) -> None:
    one = kserve_container(load("runtime.yaml"), load("inference-service.yaml"))
    port = free_port()
    with container(tmp_path, at_ports(one, rest_port=port), places(tmp_path, DIGITS / "1"), port) as decant:
        assert decant.process.wait() == 3
        assert "version" in decant.log().lower()


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_runtime_says_what_it_speaks_and_listens_to_that_alone(name: str) -> None:
    runtime = load(name)
    (one,) = runtime["spec"]["containers"]
    said = flags(one["args"])
    (port,) = one["ports"]
    open_ports = {("v1", "v2"): said["rest_port"], ("grpc-v1", "grpc-v2"): said["port"]}
    (spoken,) = (speeches for speeches, number in open_ports.items() if number != "0")
    assert tuple(runtime["spec"]["protocolVersions"]) == spoken
    assert str(port["containerPort"]) in open_ports.values()
    assert one["name"] == "kserve-container"
    # Knative takes HTTP/2 without TLS by the port's name.
    assert (port.get("name") == "h2c") is spoken[0].startswith("grpc")


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_takes_nobody_elses_models(name: str) -> None:
    formats = load(name)["spec"]["supportedModelFormats"]
    assert {one["name"] for one in formats} == {"openvino", "onnx", "tensorflow", "tflite", "paddle"}
    # Of several that select themselves KServe takes the one with a priority.
    assert all(one["autoSelect"] and "priority" not in one for one in formats)


def test_the_runtimes_differ_in_what_they_speak_alone() -> None:
    one, other = (load(name)["spec"] for name in RUNTIMES)
    assert one["supportedModelFormats"] == other["supportedModelFormats"]
    assert one["volumes"] == other["volumes"]
    ((one,), (other,)) = one["containers"], other["containers"]
    assert {key: one[key] for key in ("image", "resources", "volumeMounts", "securityContext")} == {
        key: other[key] for key in ("image", "resources", "volumeMounts", "securityContext")
    }


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_cache_fits_its_volume(name: str) -> None:
    spec = load(name)["spec"]
    (one,) = spec["containers"]
    (volume,) = spec["volumes"]
    said = flags(one["args"])
    (mount,) = one["volumeMounts"]
    assert said["cache_dir"].startswith(f"{mount['mountPath']}/")
    assert amount(said["disk_budget"]) < 0.95 * amount(volume["emptyDir"]["sizeLimit"])


@pytest.mark.skipif(not IS_INSTALLED, reason=NEEDS_HELM)
@pytest.mark.parametrize("name", RUNTIMES)
def test_its_pod_is_one_that_kubernetes_takes(name: str, tmp_path: Path) -> None:
    spec = load(name)["spec"]
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "digits"},
        "spec": {"containers": spec["containers"], "volumes": spec["volumes"]},
    }
    with helm(tmp_path / "helm.log") as process:
        assert process.wrong_with([pod], "1.37") == []


@pytest.mark.parametrize("name", RUNTIMES)
def test_readiness_is_asked_by_knative_itself(name: str) -> None:
    (one,) = load(name)["spec"]["containers"]
    # It looks many times a second where there is no period, and refuses the others without one.
    assert not {"periodSeconds", "timeoutSeconds", "failureThreshold"} & one["readinessProbe"].keys()


@pytest.mark.parametrize("name", SERVICES)
def test_only_the_cluster_can_call_it(name: str) -> None:
    assert load(name)["metadata"]["labels"] == {"networking.knative.dev/visibility": "cluster-local"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_scales_from_zero_with_a_runtime_that_there_is(name: str) -> None:
    service = load(name)
    predictor = service["spec"]["predictor"]
    assert predictor["minReplicas"] == 0 < predictor["maxReplicas"]
    runtime = load("runtime.yaml")
    assert predictor["model"]["runtime"] == runtime["metadata"]["name"]
    assert predictor["model"]["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert predictor["model"]["modelFormat"]["name"] in {
        one["name"] for one in runtime["spec"]["supportedModelFormats"]
    }
    assert ("storageUri" in predictor["model"]) is not ("args" in predictor["model"])
