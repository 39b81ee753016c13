"""serverless.yml, through the maintained fork of the framework that reads it and Amazon's linter for what it makes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handlers.settings import PREFIX, Settings
from tests.handlers.deploy.policies import admits
from tests.infra.cloudformation import PSEUDO, stack
from tests.infra.functions import GIVEN_OSLS, IMAGE, LINT, OSLS, osls

NEEDS_NODE = "needs Node 20.19 or newer and osls: run infra/ci/install.sh"
pytestmark = [
    pytest.mark.node,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None or not OSLS.exists(), reason=NEEDS_NODE),
]


@pytest.fixture(scope="module")
def resources(osls_template: Path) -> dict[str, Any]:
    return stack(json.loads(osls_template.read_text()), {})


def properties(resources: dict[str, Any], kind: str) -> Any:
    (found,) = [resource["Properties"] for resource in resources.values() if resource["Type"] == kind]
    return found


def test_the_file_can_be_printed_without_an_account(tmp_path: Path) -> None:
    done = osls(tmp_path, "print", "--format=json", **GIVEN_OSLS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["provider"]["ecr"]["images"]["decant"]["uri"] == IMAGE


def test_what_must_be_given_is_asked_for_by_name(tmp_path: Path) -> None:
    done = osls(tmp_path, "package")
    assert done.returncode != 0
    assert [name for name in GIVEN_OSLS if f'"custom.{name}": Value not found' not in done.stdout + done.stderr] == []


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
    ("action", "group", "allowed"),
    [
        ("logs:PutLogEvents", "decant-dev-serve:log-stream:1", True),
        ("logs:CreateLogStream", "decant-dev-serve:log-stream:1", True),
        ("logs:PutLogEvents", "others:log-stream:1", False),
        ("logs:GetLogEvents", "decant-dev-serve:log-stream:1", False),
        ("logs:DeleteLogGroup", "decant-dev-serve:*", False),
    ],
)
def test_its_role_writes_its_own_logs(resources: dict[str, Any], action: str, group: str, allowed: bool) -> None:
    (policy,) = properties(resources, "AWS::IAM::Role")["Policies"]
    arn = f"arn:aws:logs:{PSEUDO['AWS::Region']}:{PSEUDO['AWS::AccountId']}:log-group:/aws/lambda/{group}"
    assert admits(policy["PolicyDocument"]["Statement"], action, arn) is allowed


@pytest.mark.skipif(not LINT.exists(), reason="needs cfn-lint: run infra/ci/install.sh")
def test_cfn_lint_has_nothing_to_say(osls_template: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(LINT)}
    done = subprocess.run(
        [sys.executable, LINT / "bin" / "cfn-lint", osls_template],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
