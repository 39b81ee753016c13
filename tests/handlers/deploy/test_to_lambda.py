"""A manifest as a function on AWS Lambda, by each of the three tools."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from handlers.deploy import to_lambda, to_serverless, to_terraform
from handlers.deploy.environment import environment
from handlers.deploy.lambda_function import MAX_ENVIRONMENT
from handlers.deploy.parse import ManifestError
from handlers.deploy.targets import Render
from tests.handlers.deploy.manifests import DIGITS, IMAGE, manifest
from tests.handlers.deploy.policies import admits
from tests.infra.cloudformation import parse
from tests.infra.functions import (
    CHECKOV,
    MODULE,
    OSLS,
    SAM,
    Made,
    of_cloudformation,
    of_terraform,
    package,
    read_hcl,
    translated,
)

RENDERERS: Mapping[str, Render] = {
    "lambda": to_lambda.render,
    "serverless": to_serverless.render,
    "terraform": to_terraform.render,
}
EVERY = pytest.mark.parametrize("target", list(RENDERERS))
TOOLS = (shutil.which("node"), OSLS.exists(), SAM.exists(), CHECKOV.exists(), shutil.which("terraform"))
NEEDS_TOOLS = pytest.mark.skipif(
    not all(TOOLS), reason="needs osls, SAM, checkov and terraform: run infra/ci/install.sh"
)
OCR = {"name": "ocr", "base_path": "s3://others/ocr/det", "shape": "auto"}
TWO = manifest(
    DIGITS, OCR, memory="4Gi", disk="2Gi", timeout=30, min_instances=1, max_instances=5, architecture="arm64",
    public=True, settings={"log_level": "DEBUG"},
)  # fmt: skip


@EVERY
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"grpc": True}, "grpc is true; want false"),
        ({"memory": "16Gi"}, "memory is 16384 MiB; want 128 to 10240 on Lambda"),
        ({"disk": "256Mi"}, "disk is 256 MiB; want 512 to 10240 on Lambda"),
        ({"timeout": 901}, "timeout is 901 s; want 1 to 900 on Lambda"),
        ({"image": "docker.io/me/decant:1"}, "takes images from ECR alone"),
        ({"region": "us-east-1"}, "region is us-east-1 and the image's is eu-west-1"),
        ({"models": [{"name": "m", "base_path": "gs://bucket/m"}]}, "model m is at gs://bucket/m; want s3://"),
    ],
)
def test_what_lambda_has_not_is_refused(target: str, fields: dict[str, Any], reason: str) -> None:
    models, others = fields.get("models", [DIGITS]), {name: one for name, one in fields.items() if name != "models"}
    with pytest.raises(ManifestError) as refused:
        RENDERERS[target](manifest(*models, **others))
    assert reason in str(refused.value)


def test_a_name_of_which_the_framework_makes_no_role_is_refused() -> None:
    longest = "n" * 39
    assert len(f"{longest}-dev-eu-west-1-lambdaRole") == 64
    assert to_serverless.render(manifest(name=longest))
    with pytest.raises(ManifestError, match="name has 40 characters; want 39 at most with the Serverless Framework"):
        to_serverless.render(manifest(name=f"{longest}n"))
    assert to_lambda.render(manifest(name="n" * 63))


def so_many(count: int) -> Any:
    return manifest(*({"name": f"m{i:02}", "base_path": f"s3://my-models/vision/m{i:02}"} for i in range(count)))


def test_more_models_than_the_environment_takes_go_into_the_bucket() -> None:
    def size(count: int) -> int:
        return sum(len(name + text) for name, text in environment(so_many(count)).items())

    one = size(11) - size(10)
    most = 10 + (MAX_ENVIRONMENT - size(10)) // one
    assert size(most) <= MAX_ENVIRONMENT < size(most + 1)
    fits, not_quite = so_many(most), so_many(most + 1)
    for render in RENDERERS.values():
        assert render(fits)
        with pytest.raises(
            ManifestError, match=rf"are {size(most + 1)} bytes of .* Put the models into a config\.json"
        ):
            render(not_quite)


@EVERY
def test_an_image_without_a_digest_is_asked_for(target: str) -> None:
    files = RENDERERS[target](manifest(image=IMAGE.partition("@")[0] + ":v2"))
    text = "".join(files.values())
    assert "aws ecr describe-images --region eu-west-1 --repository-name decant --image-ids imageTag=v2" in text
    assert ":v2" not in text
    with_one = "".join(RENDERERS[target](manifest()).values())
    assert IMAGE in with_one
    assert "describe-images" not in with_one


def test_sam_is_told_the_rest() -> None:
    files = to_lambda.render(TWO)
    assert files.keys() == {"template.yaml", "samconfig.toml"}
    config = tomllib.loads(files["samconfig.toml"])["default"]["deploy"]["parameters"]
    assert (config["stack_name"], config["region"]) == ("digits", "eu-west-1")
    assert "parameter_overrides" not in config
    assert config["image_repository"] == IMAGE.partition("@")[0]
    # What a parameter says is a default, so nothing has to be given.
    assert [n for n, one in parse(files["template.yaml"])["Parameters"].items() if "Default" not in one] == []


def test_models_of_the_image_need_no_rights_on_buckets() -> None:
    baked = manifest({"name": "digits", "base_path": "/opt/models/digits"})
    assert "s3:" not in to_lambda.render(baked)["template.yaml"]
    assert "s3:" not in to_serverless.render(baked)["serverless.yml"]
    main = json.loads(to_terraform.render(baked)["main.tf.json"])
    assert main["module"]["decant"]["models"] == {"digits": "/opt/models/digits"}


def test_the_module_comes_along() -> None:
    files = to_terraform.render(TWO)
    module = {f"decant/{path.relative_to(MODULE)}": path.read_text() for path in MODULE.rglob("*.tf")}
    assert {name: text for name, text in files.items() if name != "main.tf.json"} == module
    declared = "".join(text for name, text in files.items() if name.startswith("decant/") and "derived" not in name)
    arguments = json.loads(files["main.tf.json"])["module"]["decant"].keys() - {"source"}
    assert {name for name in arguments if f'variable "{name}"' not in declared} == set()


@pytest.mark.node
@pytest.mark.slow
@NEEDS_TOOLS
@EVERY
def test_each_tool_makes_of_it_what_the_manifest_says(target: str, tmp_path: Path) -> None:
    made = deployed(target, tmp_path)
    assert (made.memory, made.storage, made.timeout, made.architectures) == (4096, 2048, 30, ["arm64"])
    assert (made.reserved, made.provisioned, made.url, made.is_public, made.image) == (5, 1, "NONE", True, IMAGE)
    assert made.environment == environment(TWO)
    for resource, allowed in (
        ("my-models/vision/digits/1/model.xml", True),
        ("others/ocr/det/1/model.xml", True),
        ("others/vision/digits/1/model.xml", False),
        ("my-models/ocr/det/1/model.xml", False),
    ):
        assert admits(made.statements, "s3:GetObject", f"arn:aws:s3:::{resource}") is allowed
    assert admits(made.statements, "s3:ListBucket", "arn:aws:s3:::others", "ocr/det/")
    assert not admits(made.statements, "s3:ListBucket", "arn:aws:s3:::others", "vision/digits/")
    assert {"concurrency", "spillover"} <= made.alarms.keys()


def deployed(target: str, directory: Path) -> Made:
    files = RENDERERS[target](TWO)
    if target == "lambda":
        return of_cloudformation(translated(files["template.yaml"]))
    if target == "terraform":
        arguments = json.loads(files["main.tf.json"])["module"]["decant"]
        return of_terraform(directory, read_hcl(MODULE), **{k: v for k, v in arguments.items() if k != "source"})
    # A parameter still goes before what was rendered.
    others = to_serverless.render(TWO._replace(memory=1024, max_instances=2))["serverless.yml"]
    (directory / "serverless.yml").write_text(others)
    return of_cloudformation(json.loads(package(directory, memory="4096", reservedConcurrency="5").read_text()))
