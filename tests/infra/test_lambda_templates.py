"""serverless.yml, the SAM template and the Terraform module: given the same, they make the same."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from handlers.configuration import read
from handlers.settings import PREFIX, Settings, read_settings
from tests.handlers.deploy.policies import admits
from tests.infra.cloudformation import Refused, stack
from tests.infra.functions import (
    CHECKOV,
    GIVEN_OSLS,
    IMAGE,
    LINT,
    MODULE,
    OSLS,
    SAM,
    Made,
    Refusal,
    of_cloudformation,
    of_terraform,
    package,
    read_hcl,
    terraform,
    translated,
)
from tests.servers import ROOT
from tests.servers.fault_proxy import FaultProxy
from tests.servers.seaweedfs import SeaweedFS

NEEDS = "needs osls, SAM, checkov and terraform: run infra/ci/install.sh"
TOOLS = (shutil.which("node"), OSLS.exists(), SAM.exists(), CHECKOV.exists(), LINT.exists(), shutil.which("terraform"))
pytestmark = [pytest.mark.node, pytest.mark.slow, pytest.mark.skipif(not all(TOOLS), reason=NEEDS)]

TEMPLATE = ROOT / "infra" / "lambda" / "template.yaml"
KEY, LOG_KEY = (f"arn:aws:kms:eu-west-1:123456789012:key/{name}" for name in ("models", "logs"))
TOPIC = "arn:aws:sns:eu-west-1:123456789012:ops"
ISSUER = "https://issuer.example"


class Case(NamedTuple):
    """The same wish for each tool, beside the image and the model."""

    osls: dict[str, str]
    sam: dict[str, str]
    terraform: dict[str, Any]


CASES = {
    "as it stands": Case({}, {}, {}),
    "everything": Case(
        {
            "memory": "4096", "ephemeralStorage": "2048", "timeout": "25", "architecture": "arm64", "logLevel": "DEBUG",
            "reservedConcurrency": "10", "provisionedConcurrency": "2", "functionUrlAuth": "NONE", "httpApi": "JWT",
            "jwtIssuer": ISSUER, "jwtAudience": "decant", "logRetention": "7", "logKmsKeyArn": LOG_KEY,
            "modelKmsKeyArn": KEY, "alarmTopicArn": TOPIC, "tracing": "true",
        },
        {
            "MemorySize": "4096", "EphemeralStorage": "2048", "Timeout": "25", "Architecture": "arm64",
            "LogLevel": "DEBUG", "ReservedConcurrency": "10", "ProvisionedConcurrency": "2", "FunctionUrlAuth": "NONE",
            "HttpApi": "JWT", "JwtIssuer": ISSUER, "JwtAudience": "decant", "LogRetention": "7",
            "LogKmsKeyArn": LOG_KEY, "ModelKmsKeyArn": KEY, "AlarmTopicArn": TOPIC, "Tracing": "Active",
        },
        {
            "memory_size": 4096, "ephemeral_storage_size": 2048, "timeout": 25, "architectures": ["arm64"],
            "environment_variables": {"DECANT_LOG_LEVEL": "DEBUG"}, "reserved_concurrent_executions": 10,
            "provisioned_concurrent_executions": 2, "authorization_type": "NONE", "http_api": "JWT",
            "jwt_issuer": ISSUER, "jwt_audience": ["decant"], "cloudwatch_logs_retention_in_days": 7,
            "cloudwatch_logs_kms_key_id": LOG_KEY, "model_kms_key_arn": KEY, "alarm_actions": [TOPIC],
            "tracing_mode": "Active",
        },
    ),
    "an image of the memory, several models": Case(
        {"snapStart": "true", "ephemeralStorage": "512", "httpApi": "AWS_IAM", "modelConfig": "config.json"},
        {"SnapStart": "true", "EphemeralStorage": "512", "HttpApi": "AWS_IAM", "ModelConfig": "config.json",
         "ModelName": ""},
        {"snap_start": True, "ephemeral_storage_size": 512, "http_api": "AWS_IAM",
         "model_config_file": "s3://models/vision/digits/config.json"},
    ),
}  # fmt: skip
GIVEN_SAM = {"ImageUri": IMAGE, "ModelName": "digits", "ModelBucket": "models", "ModelPrefix": "vision/digits"}
GIVEN_TERRAFORM = {
    "function_name": "decant-dev-serve", "image_uri": IMAGE, "models": {"digits": "s3://models/vision/digits"}
}  # fmt: skip


@pytest.fixture(scope="module")
def sam_template() -> dict[str, Any]:
    return translated(TEMPLATE.read_text(), **GIVEN_SAM)


@pytest.fixture(scope="module")
def module() -> dict[str, list[Any]]:
    return read_hcl(MODULE)


Makers = dict[str, Callable[[Case], Made]]


@pytest.fixture(scope="module")
def makers(
    tmp_path_factory: pytest.TempPathFactory,
    sam_template: dict[str, Any],
    osls_template: Path,
    module: dict[str, list[Any]],
) -> Makers:
    def by_osls(case: Case) -> Made:
        directory = tmp_path_factory.mktemp("osls")
        path = package(directory, **{**GIVEN_OSLS, **case.osls}) if case.osls else osls_template
        return of_cloudformation(json.loads(path.read_text()))

    return {
        "osls": by_osls,
        "sam": lambda case: of_cloudformation(sam_template, **{**GIVEN_SAM, **case.sam}),
        "terraform": lambda case: of_terraform(
            tmp_path_factory.mktemp("terraform"), module, **GIVEN_TERRAFORM, **case.terraform
        ),
    }


class Each(dict[tuple[str, str], Made]):
    """By case and tool, each made when it is first asked for: a tool takes seconds."""

    def __init__(self, makers: Makers) -> None:
        super().__init__()
        self._makers = makers

    def __missing__(self, key: tuple[str, str]) -> Made:
        case, tool = key
        self[key] = made = self._makers[tool](CASES[case])
        return made


@pytest.fixture(scope="module")
def made(makers: Makers) -> Each:
    return Each(makers)


PLAIN = [field for field in Made._fields if field not in ("alarms", "statements", "api")]
TOOL = pytest.mark.parametrize("tool", ["osls", "sam", "terraform"])


@pytest.mark.parametrize("case", list(CASES))
def test_the_three_make_the_same(made: Each, case: str) -> None:
    of_osls, of_sam, of_terraform = (made[case, tool] for tool in ("osls", "sam", "terraform"))
    for field in PLAIN:
        assert getattr(of_osls, field) == getattr(of_sam, field) == getattr(of_terraform, field), field
    if of_sam.api is None:
        assert (of_osls.api, of_terraform.api) == (None, None)
    elif of_osls.api is not None:
        # The framework makes an alias only for what needs one.
        has_alias = of_osls.provisioned > 0 or of_osls.is_snap_start
        assert of_osls.api._replace(is_of_alias=True) == of_sam.api == of_terraform.api
        assert of_osls.api.is_of_alias is has_alias
    assert of_osls.alarms.keys() == of_sam.alarms.keys() == of_terraform.alarms.keys()
    for name, alarm in of_sam.alarms.items():
        for other in (of_osls.alarms[name], of_terraform.alarms[name]):
            assert sorted(other.series.values()) == sorted(alarm.series.values()), name
            assert (other.threshold, other.periods, other.datapoints, other.rest) == alarm[2:], name


@TOOL
def test_as_it_stands_it_is_what_the_docs_say(made: Each, tool: str) -> None:
    it = made["as it stands", tool]
    assert (it.memory, it.storage, it.timeout, it.architectures, it.image) == (2048, 1024, 60, ["x86_64"], IMAGE)
    assert (it.reserved, it.provisioned, it.is_snap_start, it.is_traced) == (-1, 0, False, False)
    assert (it.url, it.is_public, it.api, it.retention, it.log_key) == ("AWS_IAM", False, None, 30, "")
    assert it.environment == {
        "DECANT_MODEL_NAME": "digits",
        "DECANT_MODEL_PATH": "s3://models/vision/digits",
        "DECANT_LOG_LEVEL": "INFO",
    }
    assert it.alarms.keys() == {"errors", "server-errors", "load-failures", "throttles", "duration"}
    assert it.alarms["errors"].rest == ("GreaterThanThreshold", "notBreaching")


@TOOL
def test_what_is_asked_for_is_made(made: Each, tool: str) -> None:
    it = made["everything", tool]
    assert (it.memory, it.storage, it.timeout, it.architectures) == (4096, 2048, 25, ["arm64"])
    assert (it.reserved, it.provisioned, it.is_traced, it.url, it.is_public) == (10, 2, True, "NONE", True)
    assert (it.retention, it.log_key) == (7, LOG_KEY)
    assert it.api is not None
    assert (it.api.authorization, it.api.issuer, it.api.audience) == ("JWT", ISSUER, ("decant",))
    assert (it.api.stage, it.api.route, it.api.payload) == ("$default", "$default", "2.0")
    assert {"concurrency", "spillover"} < it.alarms.keys()
    assert it.alarms["errors"].rest == ("GreaterThanThreshold", "notBreaching", TOPIC, TOPIC)
    others = made["an image of the memory, several models", tool]
    assert (others.is_snap_start, others.storage) == (True, 512)
    assert others.api is not None
    assert others.api.authorization == "AWS_IAM"
    assert others.environment["DECANT_MODEL_CONFIG_FILE"] == "s3://models/vision/digits/config.json"
    assert "DECANT_MODEL_NAME" not in others.environment


@TOOL
def test_its_environment_is_settings_that_exist(made: Each, tool: str) -> None:
    known = {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)}
    assert all(made[case, tool].environment.keys() <= known for case in CASES)


READS = [
    ("s3:ListBucket", "arn:aws:s3:::models", "vision/digits/", True),
    ("s3:ListBucket", "arn:aws:s3:::models", "vision/digits/3/", True),
    ("s3:ListBucket", "arn:aws:s3:::models", "vision/digits-of-others/", False),
    ("s3:ListBucket", "arn:aws:s3:::models", "", False),
    ("s3:ListBucket", "arn:aws:s3:::models2", "vision/digits/", False),
    ("s3:GetObject", "arn:aws:s3:::models/vision/digits/1/model.bin", "", True),
    ("s3:GetObject", "arn:aws:s3:::models/vision/digits/config.json", "", True),
    ("s3:GetObject", "arn:aws:s3:::models/vision/digits-of-others/1/model.bin", "", False),
    ("s3:GetObject", "arn:aws:s3:::models/secret", "", False),
    ("s3:PutObject", "arn:aws:s3:::models/vision/digits/1/model.bin", "", False),
    ("s3:DeleteObject", "arn:aws:s3:::models/vision/digits/1/model.bin", "", False),
    ("kms:Decrypt", "arn:aws:kms:eu-west-1:123456789012:key/others", "", False),
    ("kms:Encrypt", KEY, "", False),
    ("logs:PutLogEvents", "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/others:log-stream:1", "", False),
    ("lambda:InvokeFunction", "arn:aws:lambda:eu-west-1:123456789012:function:others", "", False),
]


@TOOL
@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize(("action", "resource", "prefix", "allowed"), READS)
def test_its_role_reads_these_models_and_nothing_else(
    made: Each,
    tool: str,
    case: str,
    action: str,
    resource: str,
    prefix: str,
    allowed: bool,
) -> None:
    assert admits(made[case, tool].statements, action, resource, prefix) is allowed


@pytest.mark.parametrize("key", ["settings/of/config.json", "config.json"])
def test_a_configuration_anywhere_may_be_read_as_it_is_read(
    key: str, s3: SeaweedFS, tmp_path: Path, module: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.create_bucket("configured")
    s3.admin.client().put_object(Bucket="configured", Key=key, Body=b"{}")
    statements = of_terraform(
        tmp_path, module, **GIVEN_TERRAFORM, model_config_file=f"s3://configured/{key}"
    ).statements
    for client in ("obstore", "sdk"):
        with FaultProxy(s3.endpoint) as proxy:
            for name, value in {**s3.admin.env(), "AWS_ENDPOINT_URL_S3": proxy.url}.items():
                monkeypatch.setenv(name, value)
            settings = read_settings({"storage_client": client, "model_config_file": f"s3://configured/{key}"})
            assert read(settings.model_config_file, settings.storage_options()) == b"{}"
            requests = [urlsplit(request.path) for request in proxy.requests]
        asked = []
        for path, query in ((url.path, parse_qs(url.query)) for url in requests):
            arn = f"arn:aws:s3:::{path.strip('/')}"
            action = "s3:ListBucket" if "list-type" in query else "s3:GetObject"
            asked.append(admits(statements, action, arn, query.get("prefix", [None])[0]))
        assert len(asked) >= 2
        assert all(asked)
    assert not admits(statements, "s3:GetObject", "arn:aws:s3:::configured/others.json")


@TOOL
@pytest.mark.parametrize("case", list(CASES))
def test_its_role_may_use_the_key_and_trace_where_that_is_asked_for(made: Each, tool: str, case: str) -> None:
    statements, is_asked = made[case, tool].statements, case == "everything"
    assert admits(statements, "kms:Decrypt", KEY) is is_asked
    assert admits(statements, "xray:PutTraceSegments", "*") is is_asked
    wide = [one for one in statements if "*" in one["Resource"]]
    assert [one["Action"] for one in wide] == is_asked * [["xray:PutTraceSegments", "xray:PutTelemetryRecords"]]


@TOOL
@pytest.mark.parametrize(
    ("values", "raised"),
    [
        ({"Errors": 1, "Invocations": 100}, set()),
        ({"Errors": 2, "Invocations": 100}, {"errors"}),
        ({"ServerErrors": 3, "Invocations": 200}, {"server-errors"}),
        ({"ServerErrors": 0, "Invocations": 0, "Errors": 0}, set()),
        ({"ModelLoadFailures": 1}, {"load-failures"}),
        ({"Throttles": 1}, {"throttles"}),
        ({"Duration": 20_000}, set()),
        ({"Duration": 20_001}, {"duration"}),
        ({"ConcurrentExecutions": 8}, set()),
        ({"ConcurrentExecutions": 9}, {"concurrency"}),
        ({"ProvisionedConcurrencySpilloverInvocations": 1}, {"spillover"}),
        ({}, set()),
    ],
)
def test_alarms_are_raised_by_what_they_are_for(
    made: Each, tool: str, values: dict[str, float], raised: set[str]
) -> None:
    alarms = made["everything", tool].alarms
    assert {name for name, alarm in alarms.items() if alarm.is_raised(**values)} == raised
    # Decant's own lines have the function's name alone as dimension, too.
    assert {one[4] for alarm in alarms.values() for one in alarm.series.values()} == {("FunctionName",)}


def test_snap_start_excludes_what_lambda_does(
    tmp_path: Path, sam_template: dict[str, Any], module: dict[str, list[Any]], osls_template: Path
) -> None:
    with pytest.raises(Refused, match=r"512 MB of /tmp; want an EphemeralStorage of 512"):
        stack(sam_template, {**GIVEN_SAM, "SnapStart": "true"})
    parameters = {"SnapStart": "true", "EphemeralStorage": "512", "ProvisionedConcurrency": "1"}
    with pytest.raises(Refused, match="SnapStart excludes ProvisionedConcurrency"):
        stack(sam_template, {**GIVEN_SAM, **parameters})
    with pytest.raises(Refusal, match=r"want an ephemeral_storage_size of 512"):
        of_terraform(tmp_path, module, **GIVEN_TERRAFORM, snap_start=True)
    # The framework refuses both as well, and sooner.
    template = json.loads(osls_template.read_text())
    with pytest.raises(Refused, match=r"512 MB of /tmp; want an ephemeralStorage of 512"):
        stack(template, {"SnapStartAndStorage": "true 1024"})
    with pytest.raises(Refused, match=r"snapStart excludes provisionedConcurrency; want one of them"):
        stack(template, {"SnapStartAndInstances": "true 1"})
    with pytest.raises(Refused, match=r"httpApi is JWT; want a jwtIssuer and a jwtAudience"):
        stack(template, {"HttpApiAndToken": f"JWT {ISSUER} "})


@pytest.mark.parametrize("prefix", ["vision/digits/", "/vision", "*", "a?b", "a$b", ""])
def test_a_prefix_that_means_more_or_less_to_iam_is_refused_by_osls(prefix: str, osls_template: Path) -> None:
    template = json.loads(osls_template.read_text())
    place = template["Parameters"]["ModelPlace"]["Default"]
    assert place == "models/vision/digits"
    with pytest.raises(Refused, match="want a modelBucket, and a modelPrefix without a slash at either end"):
        stack(template, {"ModelPlace": place.replace("vision/digits", prefix)})


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"ModelName": ""}, "Neither ModelName nor ModelConfig"),
        ({"ModelConfig": "config.json"}, "Both ModelName and ModelConfig"),
        ({"HttpApi": "JWT", "JwtIssuer": ISSUER}, "want a JwtAudience"),
        ({"HttpApi": "JWT", "JwtAudience": "decant"}, "want a JwtIssuer"),
        ({"ImageUri": "decant:latest"}, "want ACCOUNT.dkr.ecr.REGION"),
        ({"ModelPrefix": "vision/*"}, "without a slash at either end"),
        ({"ModelPrefix": "/vision"}, "without a slash at either end"),
        ({"ModelKmsKeyArn": "alias/models"}, "ARN of a key"),
    ],
)
def test_sam_refuses_what_cannot_be(sam_template: dict[str, Any], parameters: dict[str, str], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        stack(sam_template, {**GIVEN_SAM, **parameters})


def test_whatever_is_given_makes_a_new_version_with_sam(sam_template: dict[str, Any]) -> None:
    """SAM's own sign of a change does not see parameters (serverless-application-model#3820)."""

    def versions(**parameters: str) -> str:
        (found,) = [
            one["Properties"]["Description"]
            for one in stack(sam_template, {**GIVEN_SAM, **parameters}).values()
            if one["Type"] == "AWS::Lambda::Version"
        ]
        assert len(found) <= 256
        return str(found)

    before = versions()
    changes = {
        "ModelBucket": "others", "ModelPrefix": "x", "LogLevel": "DEBUG", "Architecture": "arm64", "MemorySize": "512",
        "EphemeralStorage": "513", "Timeout": "9", "Tracing": "Active", "ModelName": "other",
    }  # fmt: skip
    assert all(versions(**{name: value}) != before for name, value in changes.items())
    longest = {"ModelBucket": "b" * 63, "ModelPrefix": "p" * 96, "ModelName": "n" * 40, "MemorySize": "10240",
               "EphemeralStorage": "10240", "Timeout": "900", "LogLevel": "WARNING"}  # fmt: skip
    assert versions(**longest) != before
    function = sam_template["Resources"]["Function"]["Properties"]
    named = {name for name in sam_template["Parameters"] if f'"Ref": "{name}"' in json.dumps(function)}
    assert named - changes.keys() <= {"ReservedConcurrency", "ModelConfig"}, "said of no version, or by another image"


def test_a_gradual_deployment_goes_back_on_alarms() -> None:
    made = translated(TEMPLATE.read_text(), **GIVEN_SAM, GradualDeployment="true")
    (group,) = [one for one in made["Resources"].values() if one["Type"] == "AWS::CodeDeploy::DeploymentGroup"]
    assert group["Properties"]["DeploymentConfigName"]["Fn::Sub"][1] == {"ConfigName": "Canary10Percent5Minutes"}
    alarms = group["Properties"]["AlarmConfiguration"]
    assert (alarms["Enabled"], len(alarms["Alarms"])) == (True, 2)


def run(tool: Path, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(tool), "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "eu-west-1"}
    return subprocess.run([sys.executable, *argv], env=environ, capture_output=True, text=True, check=False)


def test_sam_and_cfn_lint_have_nothing_to_say() -> None:
    done = run(SAM, "-m", "samcli", "validate", "--lint", "-t", TEMPLATE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_samconfig_says_what_sam_deploy_knows() -> None:
    config = tomllib.loads((TEMPLATE.parent / "samconfig.toml").read_text())["default"]["deploy"]["parameters"]
    commands = SAM / "samcli" / "commands"
    options = "".join((commands / name).read_text() for name in ("deploy/command.py", "_utils/options.py"))
    options += (SAM / "samcli" / "cli" / "types.py").read_text()
    # The region is an option of all of its commands.
    assert [name for name in config if f"--{name.replace('_', '-')}" not in options] == ["region"]
    parameters = dict(one.split("=", 1) for one in config["parameter_overrides"])
    assert parameters.keys() == GIVEN_SAM.keys()


def test_checkov_has_nothing_left_to_say(tmp_path: Path, osls_template: Path) -> None:
    """What it finds is put right, or answered in the files; but for the access log of the framework's own bucket."""
    shutil.copy(osls_template, tmp_path / "osls.json")
    shutil.copy(TEMPLATE, tmp_path / "sam.yaml")
    shutil.copytree(MODULE, tmp_path / "terraform")
    done = run(
        CHECKOV, "-m", "checkov.main", "--skip-download", "--compact", "--quiet", "-o", "json", "-d", tmp_path,
        "--framework", "cloudformation", "terraform", "--skip-check", "CKV_AWS_18",
    )  # fmt: skip
    reports = {one["check_type"]: one for one in json.loads(done.stdout)}
    assert reports.keys() == {"cloudformation", "terraform"}, done.stderr
    for report in reports.values():
        failed = [(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]]
        assert (failed, report["summary"]["parsing_errors"]) == ([], 0)
        assert report["summary"]["passed"] > 15
    assert done.returncode == 0


def test_terraform_files_are_formatted_and_their_tests_pass(tmp_path: Path) -> None:
    done = terraform(MODULE, "fmt", "-check", "-recursive", "-diff")
    assert (done.returncode, done.stdout) == (0, "")
    derived = shutil.copytree(MODULE / "derived", tmp_path / "derived")
    assert terraform(derived, "init", "-no-color").returncode == 0
    done = terraform(derived, "test", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout


def test_the_module_is_whole(module: dict[str, list[Any]]) -> None:
    """Without the provider Terraform cannot say so: what is referred to is there, and what is declared is used."""
    text = "".join(path.read_text() for path in sorted(MODULE.glob("*.tf")))
    variables = {name for block in module["variable"] for name in block}
    assert {name for name in variables if f"var.{name}" not in text} == set()
    resources = {f"{kind}.{name}" for block in module["resource"] for kind, named in block.items() for name in named}
    assert referred(text, r"(?<!data\.)\b(aws_\w+\.\w+)(?:\[|\.\w)") <= resources
    assert referred(text, r"\bvar\.(\w+)") <= variables
    assert referred(text, r"\blocal\.(\w+)") <= {name for block in module["locals"] for name in block}
    derived = read_hcl(MODULE / "derived")
    (arguments,) = [block["derived"] for block in module["module"]]
    assert {name for name in arguments if not name.startswith("__")} - {"source"} == {
        name for block in derived["variable"] for name in block
    }
    assert referred(text, r"\bmodule\.derived\.(\w+)") == {name for block in derived["output"] for name in block}


def referred(text: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, text))
