"""serverless.yml, through the maintained fork of the framework that reads it and Amazon's linter for what it makes."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handlers.settings import PREFIX, Settings
from tests.servers import ROOT
from tests.servers.processes import clean_environment

OSLS = ROOT / ".tools" / "node" / "node_modules" / ".bin" / "osls"
LINT = ROOT / ".tools" / "lint"

NEEDS_NODE = "needs Node 20.19 or newer and osls: run infra/ci/install.sh"
pytestmark = [
    pytest.mark.node,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None or not OSLS.exists(), reason=NEEDS_NODE),
]

IMAGE = f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/decant@sha256:{'ab' * 32}"
GIVEN = {"image": IMAGE, "modelName": "digits", "modelBucket": "models", "modelPrefix": "vision/digits"}


def osls(directory: Path, command: str, *arguments: str, **params: str) -> subprocess.CompletedProcess[str]:
    """Run the framework as its user would, but with no AWS account and no telemetry."""
    shutil.copy(ROOT / "serverless.yml", directory)
    environ = {"HOME": str(directory), "SLS_TELEMETRY_DISABLED": "1", "SLS_NOTIFICATIONS_MODE": "off"}
    argv = [str(OSLS), command, *arguments, *(f"--param={name}={value}" for name, value in params.items())]
    return subprocess.run(
        argv, env=clean_environment(environ), cwd=directory, capture_output=True, text=True, check=False
    )


def package(directory: Path, **params: str) -> Path:
    """Return the CloudFormation template that a deployment would send."""
    done = osls(directory, "package", **params)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / ".serverless" / "cloudformation-template-update-stack.json"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory.mktemp("serverless"), **GIVEN)


@pytest.fixture(scope="module")
def resources(template: Path) -> dict[str, Any]:
    return resources_of(template)


def resources_of(template: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(template.read_text())["Resources"]
    return found


def properties(resources: dict[str, Any], kind: str) -> Any:
    (found,) = [resource["Properties"] for resource in resources.values() if resource["Type"] == kind]
    return found


def test_the_file_can_be_printed_without_an_account(tmp_path: Path) -> None:
    done = osls(tmp_path, "print", "--format=json", **GIVEN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["provider"]["ecr"]["images"]["decant"]["uri"] == IMAGE


def test_what_is_given_replaces_the_defaults(tmp_path: Path) -> None:
    sizes = {"architecture": "arm64", "memory": "4096", "ephemeralStorage": "512", "timeout": "900"}
    function = properties(resources_of(package(tmp_path, **GIVEN, **sizes)), "AWS::Lambda::Function")
    assert (function["MemorySize"], function["EphemeralStorage"], function["Timeout"]) == (4096, {"Size": 512}, 900)
    assert function["Architectures"] == ["arm64"]


@pytest.mark.parametrize("missing", list(GIVEN))
def test_what_must_be_given_is_asked_for_by_name(tmp_path: Path, missing: str) -> None:
    done = osls(tmp_path, "package", **{name: value for name, value in GIVEN.items() if name != missing})
    assert done.returncode != 0
    assert f'"custom.{missing}": Value not found' in done.stdout + done.stderr


def test_the_function_is_the_image_as_it_was_given(resources: dict[str, Any]) -> None:
    function = properties(resources, "AWS::Lambda::Function")
    assert function["PackageType"] == "Image"
    assert function["Code"] == {"ImageUri": IMAGE}
    # The image's own entry point decides; overriding it here would bypass that.
    assert "ImageConfig" not in function


def test_its_size_is_what_the_file_says(resources: dict[str, Any]) -> None:
    function = properties(resources, "AWS::Lambda::Function")
    assert (function["MemorySize"], function["EphemeralStorage"], function["Timeout"]) == (2048, {"Size": 1024}, 60)
    assert function["Architectures"] == ["x86_64"]


def test_its_environment_is_settings_that_exist(resources: dict[str, Any]) -> None:
    variables = properties(resources, "AWS::Lambda::Function")["Environment"]["Variables"]
    known = {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)}
    assert set(variables) <= known
    assert variables["DECANT_MODEL_PATH"] == "s3://models/vision/digits"


def test_only_signed_requests_reach_its_url(resources: dict[str, Any]) -> None:
    assert properties(resources, "AWS::Lambda::Url")["AuthType"] == "AWS_IAM"
    assert [kind["Type"] for kind in resources.values() if kind["Type"] == "AWS::Lambda::Permission"] == []


@pytest.mark.parametrize(
    ("action", "resource", "prefix", "allowed"),
    [
        ("s3:ListBucket", "models", "vision/digits/", True),
        ("s3:ListBucket", "models", "vision/digits/3/", True),
        ("s3:ListBucket", "models", "vision/digits-of-others/", False),
        ("s3:ListBucket", "models", "", False),
        ("s3:ListBucket", "models2", "vision/digits/", False),
        ("s3:GetObject", "models/vision/digits/1/model.bin", "", True),
        ("s3:GetObject", "models/vision/digits-of-others/1/model.bin", "", False),
        ("s3:GetObject", "models/secret", "", False),
        ("s3:PutObject", "models/vision/digits/1/model.bin", "", False),
        ("s3:DeleteObject", "models/vision/digits/1/model.bin", "", False),
    ],
)
def test_its_role_reads_this_model_and_nothing_else(
    resources: dict[str, Any], action: str, resource: str, prefix: str, allowed: bool
) -> None:
    (policy,) = properties(resources, "AWS::IAM::Role")["Policies"]
    statements = policy["PolicyDocument"]["Statement"]
    assert any(admits(statement, action, resource, prefix) for statement in statements) is allowed


def admits(statement: dict[str, Any], action: str, resource: str, prefix: str) -> bool:
    """Judge a request to S3 as IAM would, as far as these statements go."""
    arn = f"arn:${{AWS::Partition}}:s3:::{resource}"
    condition = statement.get("Condition", {})
    assert statement["Effect"] == "Allow"
    assert condition.keys() <= {"StringLike"}
    return (
        any(fnmatch.fnmatchcase(action, pattern) for pattern in statement["Action"])
        and any(fnmatch.fnmatchcase(arn, substituted(pattern)) for pattern in listed(statement["Resource"]))
        and fnmatch.fnmatchcase(prefix, condition.get("StringLike", {}).get("s3:prefix", "*"))
    )


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def substituted(arn: dict[str, str]) -> str:
    # Variables stay as they are, on both sides of the comparison; fnmatch knows * ? [ and no braces.
    return arn["Fn::Sub"]


@pytest.mark.skipif(not LINT.exists(), reason="needs cfn-lint: run infra/ci/install.sh")
def test_cfn_lint_has_nothing_to_say(template: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(LINT)}
    done = subprocess.run(
        [sys.executable, LINT / "bin" / "cfn-lint", template], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
