"""What a manifest becomes for KServe, merged as KServe does it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ruamel.yaml import YAML

from handlers.deploy.access import aws_statements
from handlers.deploy.parse import ManifestError
from handlers.deploy.to_kserve import render
from tests.handlers.deploy.manifests import IMAGE, manifest
from tests.infra.kubernetes_objects import Object, amount, flags
from tests.infra.test_kserve import kserve_container

FACES = {"name": "faces", "base_path": "gs://other-models/faces", "shape": "auto", "nireq": 2}


def files(*models: dict[str, Any], **others: Any) -> dict[str, Object]:
    texts = render(manifest(*models, **others))
    return {name: YAML(typ="safe").load(text) for name, text in texts.items() if name.endswith(".yaml")}


def test_a_model_is_fetched_by_its_own_service() -> None:
    found = files(cpu=2, memory="3Gi", disk="2Gi", concurrency=8, timeout=120, max_instances=5, region="eu-west-1")
    service = found["model-digits.yaml"]
    predictor = service["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (0, 5)
    assert (predictor["containerConcurrency"], predictor["timeout"]) == (8, 120)
    one = kserve_container(found["runtime.yaml"], service)
    said = flags(one["args"])
    assert (said["model_name"], said["model_path"]) == ("digits", "s3://my-models/vision/digits")
    assert one["image"] == IMAGE
    assert amount(one["resources"]["limits"]["memory"]) == amount("3Gi")
    assert float(said["load_timeout"]) < 120
    (volume,) = found["runtime.yaml"]["spec"]["volumes"]
    assert amount(said["disk_budget"]) + amount("128M") < amount(volume["emptyDir"]["sizeLimit"])
    assert predictor["model"]["env"] == [{"name": "AWS_REGION", "value": "eu-west-1"}]
    assert predictor["model"]["runtime"] == found["runtime.yaml"]["metadata"]["name"]
    assert predictor["serviceAccountName"] == found["service-account.yaml"]["metadata"]["name"]


def test_each_model_has_its_own_options_and_all_have_the_settings() -> None:
    digits = {"name": "digits", "base_path": "s3://my-models/p"}
    found = files(digits, FACES, settings={"nireq": 4, "log_level": "DEBUG"})
    one, other = (
        flags(kserve_container(found["runtime.yaml"], found[f"model-{name}.yaml"])["args"])
        for name in ("digits", "faces")
    )
    assert (one["nireq"], one["log_level"]) == ("4", "DEBUG")
    assert (other["nireq"], other["log_level"], other["shape"]) == ("2", "DEBUG", "auto")
    assert "shape" not in one
    assert "model_config" not in one.keys() | other.keys()


@pytest.mark.parametrize("grpc", [False, True])
def test_it_speaks_what_is_wanted(grpc: bool) -> None:
    found = files(grpc=grpc)
    speech = found["model-digits.yaml"]["spec"]["predictor"]["model"]["protocolVersion"]
    assert speech == ("grpc-v1" if grpc else "v1")
    assert found["runtime.yaml"]["spec"]["protocolVersions"] == (["grpc-v1", "grpc-v2"] if grpc else ["v1", "v2"])
    said = flags(kserve_container(found["runtime.yaml"], found["model-digits.yaml"])["args"])
    assert said["rest_port"] == ("0" if grpc else "8080")


@pytest.mark.parametrize("public", [False, True])
def test_it_is_the_clusters_alone_unless_it_is_public(public: bool) -> None:
    labels = files(public=public)["model-digits.yaml"]["metadata"].get("labels", {})
    assert ("networking.knative.dev/visibility" in labels) is not public


def test_azure_pods_are_who_the_account_is() -> None:
    model = {"name": "digits", "base_path": "az://models/vision/digits"}
    predictor = files(model, azure_account="mymodels")["model-digits.yaml"]["spec"]["predictor"]
    assert predictor["labels"] == {"azure.workload.identity/use": "true"}
    assert predictor["model"]["env"] == [{"name": "AZURE_STORAGE_ACCOUNT", "value": "mymodels"}]


def test_the_policy_is_no_file_that_kubectl_would_apply() -> None:
    one = manifest()
    texts = render(one)
    assert json.loads(texts["aws/policy.json"])["Statement"] == aws_statements(one)
    assert not [name for name in texts if "/" not in name and not name.endswith(".yaml")]


@pytest.mark.parametrize("name", ["Digits_1", "3d", "a" * 54])
def test_a_name_that_is_no_services_is_refused(name: str) -> None:
    with pytest.raises(ManifestError, match=f"'{name}'.* at most 53 lower-case"):
        render(manifest({"name": name, "base_path": "s3://my-models/p"}))


@pytest.mark.parametrize("timeout", [1, 5, 20, 21, 60])
def test_a_pod_has_drained_before_knative_kills_it(timeout: int) -> None:
    found = files(timeout=timeout)
    said = flags(kserve_container(found["runtime.yaml"], found["model-digits.yaml"])["args"])
    assert 0 < float(said["shutdown_timeout"]) < timeout
    with pytest.raises(ManifestError, match="shutdown_timeout"):
        files(timeout=timeout, settings={"shutdown_timeout": timeout})


def test_the_policy_is_of_the_regions_part_of_aws() -> None:
    policy = json.loads(render(manifest(region="cn-north-1"))["aws/policy.json"])
    assert {arn for one in policy["Statement"] for arn in one["Resource"]} == {
        "arn:aws-cn:s3:::my-models",
        "arn:aws-cn:s3:::my-models/vision/digits/*",
    }


def test_a_request_that_knative_would_cut_is_refused() -> None:
    # KServe has no field for the time until an answer begins, and Decant's begins when it is there.
    with pytest.raises(ManifestError, match="300"):
        render(manifest(timeout=301))


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_what_knative_refuses_is_said_only_where_it_must_be(architecture: str) -> None:
    text = render(manifest(architecture=architecture))["model-digits.yaml"]
    predictor = YAML(typ="safe").load(text)["spec"]["predictor"]
    wanted = {"nodeSelector": {"kubernetes.io/arch": "arm64"}} if architecture == "arm64" else {}
    assert {name: predictor[name] for name in predictor if name == "nodeSelector"} == wanted
    assert ("kubernetes.podspec-nodeselector: enabled" in text) is bool(wanted)
