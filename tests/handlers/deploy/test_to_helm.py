"""Values that a manifest becomes, through the chart itself."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from handlers.deploy.parse import ManifestError
from handlers.deploy.render import render as render_targets
from handlers.deploy.render import write
from handlers.deploy.to_helm import render
from tests.handlers.deploy.manifests import IMAGE, manifest
from tests.handlers.deploy.policies import admits
from tests.infra.kubernetes_objects import Object, amount, flags, objects_in, of_kind, server
from tests.servers.helm import CHART, IS_INSTALLED, NEEDS_HELM, Helm, helm

GCS = {"name": "digits", "base_path": "gs://my-models/vision/digits"}
OTHER = {"name": "faces", "base_path": "s3://other-models/faces", "shape": "auto"}


def values_of(*models: dict[str, Any], **others: Any) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(render(manifest(*models, **others))["values.yaml"])
    return found


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    if not IS_INSTALLED:
        pytest.skip(NEEDS_HELM)
    with helm(tmp_path_factory.mktemp("helm") / "helm.log") as process:
        yield process


def objects(chart: Helm, *models: dict[str, Any], **others: Any) -> list[Object]:
    texts = chart.render(values_of(*models, **others))
    return [one for name, text in texts.items() if name != "NOTES.txt" for one in objects_in(text)]


def test_the_chart_serves_what_the_manifest_says(chart: Helm) -> None:
    found = objects(chart, cpu=2, memory="4Gi", disk="2Gi", timeout=90, grpc=True, region="eu-west-1")
    one = server(found)
    said = flags(one["args"])
    assert one["image"] == IMAGE
    assert (said["model_name"], said["model_path"]) == ("digits", "s3://my-models/vision/digits")
    assert amount(one["resources"]["limits"]["memory"]) == amount("4Gi")
    assert amount(one["resources"]["requests"]["cpu"]) == 2
    assert amount("2Gi") <= int(said["disk_budget"]) < 1.01 * amount("2Gi")
    assert float(said["load_timeout"]) < 90
    assert said["port"] == "8080"
    assert {"name": "AWS_REGION", "value": "eu-west-1"} in one["env"]
    # Decant's own, as on other platforms, and none of OVMS's.
    assert not {"plugin_config", "model_version_policy", "file_system_poll_wait_seconds"} & said.keys()


def test_options_and_settings_are_flags(chart: Helm) -> None:
    model = {
        "name": "digits",
        "base_path": "s3://my-models/p",
        "nireq": 3,
        "model_version_policy": {"latest": {"num_versions": 2}},
    }
    settings = {"log_level": "DEBUG", "lazy": True, "shutdown_timeout": 12, "metrics_enable": True, "max_in_flight": 9}
    said = flags(server(objects(chart, model, settings=settings))["args"])
    assert said["nireq"] == "3"
    assert json.loads(said["model_version_policy"]) == {"latest": {"num_versions": 2}}
    assert {name: said[name] for name in settings} == {
        "log_level": "DEBUG",
        "lazy": "true",
        "shutdown_timeout": "12",
        "metrics_enable": "true",
        "max_in_flight": "9",
    }


def test_a_stateful_model_is_one(chart: Helm) -> None:
    options = {"stateful": True, "idle_sequence_cleanup": False, "max_sequence_number": 10}
    said = flags(server(objects(chart, {"name": "digits", "base_path": "s3://my-models/p", **options}))["args"])
    assert (said["stateful"], said["idle_sequence_cleanup"], said["max_sequence_number"]) == ("true", "false", "10")


def test_who_has_no_checkout_has_the_chart(chart: Helm, tmp_path: Path) -> None:
    (rendered,), _ = render_targets(manifest(), ["helm"])
    for _ in write([rendered], tmp_path):
        pass
    directory = tmp_path / "helm"
    command = shlex.split(rendered.next_command(directory))
    assert command[:3] == ["helm", "upgrade", "--install"]
    values = YAML(typ="safe").load(Path(command[command.index("--values") + 1]))
    sent = chart.call("render", command[4], values, name=command[3])
    assert sent == chart.call("render", str(CHART), values, name=command[3])
    assert chart.call("files", command[4]) == chart.call("files", str(CHART))


def test_several_models_are_a_configmap_that_is_looked_at(chart: Helm) -> None:
    digits = {"name": "digits", "base_path": "s3://my-models/p"}
    found = objects(chart, digits, OTHER, settings={"nireq": 2})
    config = json.loads(of_kind(found, "ConfigMap")["data"]["config.json"])
    assert [one["config"]["name"] for one in config["model_config_list"]] == ["digits", "faces"]
    assert config["model_config_list"][1]["config"]["shape"] == "auto"
    said = flags(server(found)["args"])
    assert said["config_path"] == "/config/config.json"
    assert float(said["model_config_file_poll_wait_seconds"]) > 0
    assert said["nireq"] == "2"
    assert "model_name" not in said


@pytest.mark.parametrize("public", [False, True])
def test_only_who_is_in_the_cluster_reaches_it_unless_it_is_public(chart: Helm, public: bool) -> None:
    service = of_kind(objects(chart, public=public), "Service")
    assert service["spec"]["type"] == ("LoadBalancer" if public else "ClusterIP")


def test_the_number_of_pods(chart: Helm) -> None:
    scaler = of_kind(objects(chart, min_instances=2, max_instances=7), "HorizontalPodAutoscaler")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 7)
    fixed = objects(chart, min_instances=3, max_instances=3)
    assert of_kind(fixed, "Deployment")["spec"]["replicas"] == 3
    assert not [one for one in fixed if one["kind"] == "HorizontalPodAutoscaler"]
    # From zero needs what this chart has not, and the file says so.
    assert "start from zero" in render(manifest(min_instances=0))["values.yaml"]


def test_the_policy_is_of_these_models_alone() -> None:
    statements = json.loads(render(manifest(region="us-gov-west-1"))["policy.json"])["Statement"]
    bucket = "arn:aws-us-gov:s3:::my-models"
    assert admits(statements, "s3:GetObject", f"{bucket}/vision/digits/1/model.xml")
    assert admits(statements, "s3:ListBucket", bucket, "vision/digits/")
    assert not admits(statements, "s3:GetObject", f"{bucket}/vision/other/1/model.xml")
    assert not admits(statements, "s3:ListBucket", bucket, "vision/")
    assert not admits(statements, "s3:PutObject", f"{bucket}/vision/digits/1/model.xml")
    assert "aws_role_arn" in values_of()["workload_identity"]
    files = render(manifest(GCS))
    assert "policy.json" not in files
    assert "resource.name.startsWith" in files["values.yaml"]
    assert "gcp_service_account" in YAML(typ="safe").load(files["values.yaml"])["workload_identity"]


def test_azure_has_its_account(chart: Helm) -> None:
    model = {"name": "digits", "base_path": "az://models/vision/digits"}
    found = objects(chart, model, azure_account="mymodels")
    assert {"name": "AZURE_STORAGE_ACCOUNT", "value": "mymodels"} in server(found)["env"]


def test_a_load_may_not_take_longer_than_a_request() -> None:
    with pytest.raises(ManifestError, match="load_timeout"):
        render(manifest(timeout=30, settings={"load_timeout": 60}))
