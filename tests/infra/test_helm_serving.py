"""The chart's container, run as the kubelet would run it: the real server with the arguments that Helm renders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.infra.helm_values import OVMS, Values, with_values
from tests.infra.kubernetes_objects import containers, flags, objects_in, of_kind, server
from tests.infra.pods import AtomicVolume, container, probe
from tests.servers import ROOT
from tests.servers.decant import Decant
from tests.servers.helm import IS_INSTALLED, NEEDS_HELM, Helm, helm
from tests.servers.processes import clean_environment, free_port
from tests.servers.seaweedfs import SeaweedFS

pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason=NEEDS_HELM)

DIGITS = ROOT / "examples" / "digits"
SEVEN = json.loads((DIGITS / "seven.json").read_text())


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    with helm(tmp_path_factory.mktemp("helm") / "helm.log") as process:
        yield process


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "models").mkdir()
    shutil.copytree(DIGITS, tmp_path / "models" / "digits")
    return {"/models": tmp_path / "models", "/cache": tmp_path / "cache", "/config": tmp_path / "config"}


class Pod:
    """A release's Deployment, with ports that are free here."""

    def __init__(self, chart: Helm, values: Values) -> None:
        rest_port, grpc_port = free_port(), free_port()
        texts = chart.render(with_values(values, rest_port=rest_port, grpc_port=grpc_port))
        self.objects = objects_in(texts["deployment.yaml"])
        self.test = objects_in(texts["tests/ask.yaml"])
        self.config_map = objects_in(texts["configmap.yaml"])
        self.ports = (rest_port, grpc_port)

    def run(self, directory: Path, places: dict[str, Path], env: dict[str, str] | None = None) -> Any:
        return container(directory, server(self.objects)["args"], places, *self.ports, env)


def wait_for(server: Decant, ready: Callable[[], bool]) -> None:
    server.process.wait_until(ready, 30)


def test_a_values_file_of_ovms_serves(chart: Helm, tmp_path: Path, places: dict[str, Path]) -> None:
    # As theirs, but for the model: NHWC and a shape of images are not for this one.
    values = with_values(OVMS, model_name="digits", model_path="/models/digits", layout="", shape="", batch_size="2")
    pod = Pod(chart, values)
    with pod.run(tmp_path, places) as decant:
        wait_for(decant, lambda: probe(decant, server(pod.objects)["readinessProbe"]["httpGet"]))
        rows = SEVEN["instances"] * 2
        assert len(decant.post("/v1/models/digits:predict", {"instances": rows}).body["predictions"]) == 2
        # What batch_size says counts.
        assert decant.post("/v1/models/digits:predict", {"instances": rows[:1]}).status == 400
        # SIGTERM comes when the preStop hook is over, SIGKILL when the grace period is.
        spec = of_kind(pod.objects, "Deployment")["spec"]["template"]["spec"]
        assert decant.terminate(timeout=spec["terminationGracePeriodSeconds"] - 5) == 0


@pytest.mark.parametrize(
    "policy",
    ['{\\"latest\\": { \\"num_versions\\":1 }}', {"specific": {"versions": [7]}}],
)
def test_the_version_policy_of_ovms_counts(chart: Helm, tmp_path: Path, places: dict[str, Path], policy: Any) -> None:
    shutil.copytree(places["/models"] / "digits" / "1", places["/models"] / "digits" / "7")
    values = {"model_name": "digits", "model_path": "/models/digits", "model_version_policy": policy}
    with Pod(chart, values).run(tmp_path, places) as decant:
        decant.wait_ready()
        statuses = decant.get("/v1/models/digits").body["model_version_status"]
        assert [one["version"] for one in statuses if one["state"] == "AVAILABLE"] == ["7"]


def test_a_pod_is_alive_before_it_is_ready(chart: Helm, tmp_path: Path, places: dict[str, Path]) -> None:
    # No version yet, as while a volume is being filled: the pod waits, and is neither killed nor sent requests.
    config = {"model_config_list": [{"config": {"name": "digits", "base_path": "/models/digits"}}]}
    pod = Pod(chart, {"config": config, "settings": {"model_config_file_poll_wait_seconds": 0.2}})
    volume = AtomicVolume(places["/config"])
    one = server(pod.objects)
    text = pod.config_map[0]["data"]["config.json"].replace("/models", str(places["/models"]))
    volume.write({"config.json": text})
    (places["/models"] / "digits" / "1").rename(places["/models"] / "hidden")
    with pod.run(tmp_path, places) as decant:
        wait_for(decant, lambda: probe(decant, one["livenessProbe"]["httpGet"]))
        assert not probe(decant, one["readinessProbe"]["httpGet"])
        (places["/models"] / "hidden").rename(places["/models"] / "digits" / "1")
        decant.post("/v1/config/reload", b"")
        wait_for(decant, lambda: probe(decant, one["readinessProbe"]["httpGet"]))


def test_a_changed_configmap_is_served_without_a_restart(chart: Helm, tmp_path: Path, places: dict[str, Path]) -> None:
    def config(*names: str) -> dict[str, Any]:
        entries = [{"config": {"name": name, "base_path": str(places["/models"] / "digits")}} for name in names]
        return {"model_config_list": entries}

    volume = AtomicVolume(places["/config"])
    pod = Pod(chart, {"config": config("one")})
    volume.write(pod.config_map[0]["data"])
    # The chart's own default: every second.
    assert flags(server(pod.objects)["args"])["file_system_poll_wait_seconds"] == "1"
    with pod.run(tmp_path, places) as decant:
        decant.wait_ready()
        assert decant.post("/v1/models/two:predict", SEVEN).status == 404
        volume.write(Pod(chart, {"config": config("two")}).config_map[0]["data"])
        wait_for(decant, lambda: decant.post("/v1/models/two:predict", SEVEN).status == 200)
        wait_for(decant, lambda: decant.post("/v1/models/one:predict", SEVEN).status == 404)
        # And the one after it, when the directory that was read first is long gone.
        volume.write(Pod(chart, {"config": config("two", "three")}).config_map[0]["data"])
        wait_for(decant, lambda: decant.post("/v1/models/three:predict", SEVEN).status == 200)


def test_the_server_starts_with_what_was_pulled(
    chart: Helm, s3: SeaweedFS, tmp_path: Path, places: dict[str, Path]
) -> None:
    pod = Pod(chart, {"model_name": "digits", "model_path": "s3://models/digits", "pull": {"enabled": True}})
    pull, _ = containers(of_kind(pod.objects, "Deployment")["spec"]["template"]["spec"])
    environ = s3.reader.env()
    with container(tmp_path / "pull", pull["args"], places, env=environ) as puller:
        assert puller.process.wait() == 0, puller.log()
    with pod.run(tmp_path, places, environ) as decant:
        decant.wait_ready()
        timeline = decant.get("/v1/coldstart").body
        assert "download" not in json.dumps(timeline["phases"]), timeline


def test_helm_test_passes_for_who_serves_and_fails_for_who_does_not(
    chart: Helm, tmp_path: Path, places: dict[str, Path]
) -> None:
    values = {"model_name": "digits", "model_path": "/models/digits", "test": {"request": SEVEN}}
    pod = Pod(chart, values)
    (ask,) = containers(of_kind(pod.test, "Pod")["spec"])
    with pod.run(tmp_path, places) as decant:
        decant.wait_ready()
        variables = {one["name"]: one["value"] for one in ask["env"]} | {"URL": decant.rest_url}
        assert ask["command"] == ["python", "-c"]
        done = run_test(ask["args"], variables)
        assert done.returncode == 0, done.stderr
        assert "predictions" in done.stderr
        # A model that is none, and a body that is wrong.
        assert "404" in run_test(ask["args"], {**variables, "MODEL": "no ne?"}).stderr
        assert "400" in run_test(ask["args"], {**variables, "REQUEST": '{"instances": "x"}'}).stderr
    assert "no answer" in run_test(ask["args"], variables).stderr


def run_test(script: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", *script]
    return subprocess.run(argv, env=clean_environment(variables), capture_output=True, text=True, check=False)
