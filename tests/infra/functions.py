"""What a tool makes of its description of Decant on Lambda, in the same words whichever tool it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.infra.cloudformation import stack
from tests.servers import ROOT
from tests.servers.processes import clean_environment

OSLS = ROOT / ".tools" / "node" / "node_modules" / ".bin" / "osls"
SAM = ROOT / ".tools" / "sam"
CHECKOV = ROOT / ".tools" / "checkov"
LINT = ROOT / ".tools" / "lint"
MODULE = ROOT / "infra" / "lambda" / "terraform"
IMAGE = f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/decant@sha256:{'ab' * 32}"
GIVEN_OSLS = {"image": IMAGE, "modelName": "digits", "modelBucket": "models", "modelPrefix": "vision/digits"}
_LOGS = "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/decant-dev-serve"


class Alarm(NamedTuple):
    expression: str
    series: Mapping[str, tuple[str, str, str, int, tuple[str, ...]]]
    """Namespace, name, statistic, period and dimensions' names, by what the expression calls it."""
    threshold: float
    periods: int
    datapoints: int
    rest: tuple[str, ...]
    """Comparison, what missing data is, and who is told."""

    def is_raised(self, **values: float) -> bool:
        """Whether it would be, if its metrics were such in all periods; those not said are missing."""
        known = {letter: values.get(name) for letter, (_, name, *_) in self.series.items()}
        if None in known.values():
            return False
        text = re.sub(r"IF\((\w+ > 0), (.+), 0\)", r"(\2) if \1 else 0", self.expression)
        return bool(eval(text, {"__builtins__": {}}, known) > self.threshold)


class Api(NamedTuple):
    authorization: str
    issuer: str
    audience: tuple[str, ...]
    stage: str
    route: str
    payload: str
    milliseconds: int
    is_of_alias: bool


class Made(NamedTuple):
    memory: int
    storage: int
    timeout: int
    architectures: list[str]
    image: str
    environment: Mapping[str, str]
    reserved: int
    """-1 for none."""
    provisioned: int
    is_snap_start: bool
    is_traced: bool
    url: str
    is_public: bool
    """Whether anybody has both rights that a call of the URL needs."""
    retention: int
    log_key: str
    api: Api | None
    alarms: Mapping[str, Alarm]
    statements: list[dict[str, Any]]


def osls(directory: Path, command: str, *arguments: str, **params: str) -> subprocess.CompletedProcess[str]:
    """Run the framework as its user would, but with no AWS account and no telemetry, in a directory with its file."""
    if not (directory / "serverless.yml").exists():
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


def translated(template: str, **parameters: str) -> dict[str, Any]:
    """Return what SAM's transform makes of a template; parameters matter where it looks at them itself."""
    environ = clean_environment({"PYTHONPATH": str(SAM), "AWS_DEFAULT_REGION": "eu-west-1"})
    given = json.dumps({"template": template, "parameters": parameters})
    script = ROOT / "tests" / "infra" / "translate_sam.py"
    done = subprocess.run(
        [sys.executable, script], input=given, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def of_cloudformation(template: Mapping[str, Any], **parameters: str) -> Made:
    resources = stack(template, parameters)

    def every(kind: str) -> list[dict[str, Any]]:
        return [one["Properties"] for one in resources.values() if one["Type"] == kind]

    (function,), (log_group, *_) = every("AWS::Lambda::Function"), _function_logs(every("AWS::Logs::LogGroup"))
    (url,) = every("AWS::Lambda::Url")
    aliases = every("AWS::Lambda::Alias")
    policies = [policy for role in every("AWS::IAM::Role") for policy in role.get("Policies", [])]
    policies += every("AWS::IAM::RolePolicy")
    return Made(
        memory=int(function["MemorySize"]),
        storage=int(function["EphemeralStorage"]["Size"]),
        timeout=int(function["Timeout"]),
        architectures=function["Architectures"],
        image=function["Code"]["ImageUri"],
        environment=function["Environment"]["Variables"],
        reserved=int(function.get("ReservedConcurrentExecutions", -1)),
        provisioned=sum(
            int(alias.get("ProvisionedConcurrencyConfig", {}).get("ProvisionedConcurrentExecutions", 0))
            for alias in aliases
        ),
        is_snap_start=function.get("SnapStart", {"ApplyOn": "None"})["ApplyOn"] == "PublishedVersions",
        is_traced=function.get("TracingConfig", {}).get("Mode") == "Active",
        url=url["AuthType"],
        is_public={"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
        == {one["Action"] for one in every("AWS::Lambda::Permission") if _is_for_anybody(one)},
        retention=int(log_group["RetentionInDays"]),
        log_key=log_group.get("KmsKeyId", ""),
        api=_api(every),
        alarms={
            one["AlarmName"].removeprefix("decant-dev-serve-"): _alarm(one) for one in every("AWS::CloudWatch::Alarm")
        },
        statements=[one for policy in policies for one in policy["PolicyDocument"]["Statement"]],
    )


def _function_logs(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [group for group in groups if group["LogGroupName"].startswith("/aws/lambda/")]


def _is_for_anybody(permission: Mapping[str, Any]) -> bool:
    is_bound = permission.get("FunctionUrlAuthType") == "NONE" or permission.get("InvokedViaFunctionUrl") is True
    return permission["Principal"] == "*" and is_bound


def _api(every: Any) -> Api | None:
    if not every("AWS::ApiGatewayV2::Api"):
        return None
    (stage,), (route,) = every("AWS::ApiGatewayV2::Stage"), every("AWS::ApiGatewayV2::Route")
    (integration,) = every("AWS::ApiGatewayV2::Integration")
    (permission,) = [one for one in every("AWS::Lambda::Permission") if one["Principal"] != "*"]
    assert permission["Principal"] == "apigateway.amazonaws.com"
    assert permission["SourceArn"].startswith("arn:aws:execute-api:eu-west-1:123456789012:")
    assert permission["FunctionName"] == integration["IntegrationUri"]
    token: dict[str, Any] = next((one["JwtConfiguration"] for one in every("AWS::ApiGatewayV2::Authorizer")), {})
    return Api(
        authorization=route["AuthorizationType"],
        issuer=token.get("Issuer", ""),
        audience=tuple(token.get("Audience", ())),
        stage=stage["StageName"],
        route=route["RouteKey"],
        payload=integration["PayloadFormatVersion"],
        milliseconds=int(integration["TimeoutInMillis"]),
        is_of_alias=re.search(r"[Aa]lias|:(snapstart|provisioned)$", integration["IntegrationUri"]) is not None,
    )


def _alarm(given: Mapping[str, Any]) -> Alarm:
    told = (given.get("AlarmActions", []), given.get("OKActions", []))
    rest = (given["ComparisonOperator"], given["TreatMissingData"], *(one for side in told for one in side))
    sizes = (float(given["Threshold"]), int(given["EvaluationPeriods"]), int(given["DatapointsToAlarm"]))
    if "MetricName" in given:
        return Alarm("metric", {"metric": _series(given, given["Statistic"], given["Period"])}, *sizes, rest)
    (expression,) = [one["Expression"] for one in given["Metrics"] if "Expression" in one]
    series = {
        one["Id"]: _series(one["MetricStat"]["Metric"], one["MetricStat"]["Stat"], one["MetricStat"]["Period"])
        for one in given["Metrics"]
        if "MetricStat" in one and one["ReturnData"] is False
    }
    return Alarm(expression, series, *sizes, rest)


def _series(metric: Mapping[str, Any], statistic: str, period: int) -> tuple[str, str, str, int, tuple[str, ...]]:
    names = tuple(one["Name"] for one in metric["Dimensions"])
    return metric["Namespace"], metric["MetricName"], statistic, int(period), names


def terraform(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = clean_environment({"TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"})
    argv = ["terraform", *arguments]
    return subprocess.run(argv, cwd=directory, env=environ, capture_output=True, text=True, check=False)


def read_hcl(directory: Path) -> dict[str, list[Any]]:
    script = ROOT / "tests" / "infra" / "read_hcl.py"
    environ = clean_environment({"PYTHONPATH": str(CHECKOV)})
    done = subprocess.run([sys.executable, script, directory], env=environ, capture_output=True, text=True, check=True)
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


class Refusal(Exception):
    """Terraform says no."""


def of_terraform(directory: Path, module: Mapping[str, list[Any]], **variables: Any) -> Made:
    """Return what the module makes, without a provider: its expressions, worked out by Terraform itself.

    Args:
        directory: an empty one.
        module: as `read_hcl` has it.
    """
    shutil.copy(MODULE / "variables.tf", directory)
    shutil.copytree(MODULE / "derived", directory / "derived", ignore=shutil.ignore_patterns("*.tftest.hcl"))
    (given,) = [block["derived"] for block in module["module"]]
    arguments = {name: _first(value) for name, value in given.items() if not name.startswith("__")}
    arguments |= {"partition": "aws", "log_group_arn": _LOGS}
    values = {**_EXPRESSIONS, **{name: _lookup(module, *path) for name, path in _ATTRIBUTES.items()}}
    root = {
        "module": {"derived": arguments},
        "locals": {
            name: _first(value) for block in module["locals"] for name, value in block.items() if name[0] != "_"
        },
        "output": {name: {"value": value} for name, value in values.items()},
    }
    (directory / "root.tf.json").write_text(json.dumps(root))
    (directory / "given.auto.tfvars.json").write_text(json.dumps(variables))
    for step in (("init", "-no-color"), ("apply", "-no-color", "-auto-approve", "-compact-warnings")):
        done = terraform(directory, *step)
        if done.returncode:
            raise Refusal(" ".join(re.sub(r"[│╵╷]", " ", done.stdout + done.stderr).split()))
    outputs = json.loads(terraform(directory, "output", "-json").stdout)
    return _made({name: one["value"] for name, one in outputs.items()}, module)


_EXPRESSIONS: Mapping[str, str] = {"alarms": "${module.derived.alarms}", "told": "${var.alarm_actions}"}
_FUNCTION = ("aws_lambda_function", "this")
_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "memory": (*_FUNCTION, "memory_size"),
    "storage": (*_FUNCTION, "ephemeral_storage", "size"),
    "timeout": (*_FUNCTION, "timeout"),
    "architectures": (*_FUNCTION, "architectures"),
    "image": (*_FUNCTION, "image_uri"),
    "environment": (*_FUNCTION, "environment", "variables"),
    "reserved": (*_FUNCTION, "reserved_concurrent_executions"),
    "snap_start": (*_FUNCTION, "dynamic", "snap_start", "for_each"),
    "tracing": (*_FUNCTION, "tracing_config", "mode"),
    "has_provisioned": ("aws_lambda_provisioned_concurrency_config", "this", "count"),
    "provisioned": ("aws_lambda_provisioned_concurrency_config", "this", "provisioned_concurrent_executions"),
    "has_url": ("aws_lambda_function_url", "this", "count"),
    "url": ("aws_lambda_function_url", "this", "authorization_type"),
    "public_url": ("aws_lambda_permission", "public_url", "count"),
    "public_invoke": ("aws_lambda_permission", "public_invoke", "count"),
    "retention": ("aws_cloudwatch_log_group", "this", "retention_in_days"),
    "log_key": ("aws_cloudwatch_log_group", "this", "kms_key_id"),
    "has_api": ("aws_apigatewayv2_api", "this", "count"),
    "has_token": ("aws_apigatewayv2_authorizer", "jwt", "count"),
    "issuer": ("aws_apigatewayv2_authorizer", "jwt", "jwt_configuration", "issuer"),
    "audience": ("aws_apigatewayv2_authorizer", "jwt", "jwt_configuration", "audience"),
    "authorization": ("aws_apigatewayv2_route", "this", "authorization_type"),
    "route": ("aws_apigatewayv2_route", "this", "route_key"),
    "stage": ("aws_apigatewayv2_stage", "this", "name"),
    "payload": ("aws_apigatewayv2_integration", "this", "payload_format_version"),
    "milliseconds": ("aws_apigatewayv2_integration", "this", "timeout_milliseconds"),
    "policy": ("aws_iam_role_policy", "this", "policy"),
}


def _made(values: Mapping[str, Any], module: Mapping[str, list[Any]]) -> Made:
    assert values["has_url"] == 1
    return Made(
        **{name: values[name] for name in ("memory", "storage", "timeout", "architectures", "image", "environment")},
        reserved=values["reserved"],
        provisioned=values["provisioned"] if values["has_provisioned"] else 0,
        is_snap_start=bool(values["snap_start"]),
        is_traced=values["tracing"] == "Active",
        url=values["url"],
        is_public=_is_public(values, module),
        retention=values["retention"],
        log_key=values.get("log_key") or "",
        api=_terraform_api(values, module),
        alarms={name: _terraform_alarm(one, values["told"], module) for name, one in values["alarms"].items()},
        statements=json.loads(values["policy"])["Statement"],
    )


def _is_public(values: Mapping[str, Any], module: Mapping[str, list[Any]]) -> bool:
    by_url = _lookup(module, "aws_lambda_permission", "public_url")
    by_invoke = _lookup(module, "aws_lambda_permission", "public_invoke")
    assert (_first(by_url["action"]), _first(by_url["function_url_auth_type"])) == ("lambda:InvokeFunctionUrl", "NONE")
    assert (_first(by_invoke["action"]), _first(by_invoke["invoked_via_function_url"])) == (
        "lambda:InvokeFunction",
        True,
    )
    return bool(values["public_url"] and values["public_invoke"])


def _terraform_api(values: Mapping[str, Any], module: Mapping[str, list[Any]]) -> Api | None:
    if not values["has_api"]:
        return None
    uri = _lookup(module, "aws_apigatewayv2_integration", "this", "integration_uri")
    has_token = bool(values["has_token"])
    return Api(
        authorization=values["authorization"],
        issuer=values["issuer"] if has_token else "",
        audience=tuple(values["audience"]) if has_token else (),
        stage=values["stage"],
        route=values["route"],
        payload=values["payload"],
        milliseconds=values["milliseconds"],
        is_of_alias=uri == "${aws_lambda_alias.live.invoke_arn}",
    )


def _terraform_alarm(given: Mapping[str, Any], told: list[str], module: Mapping[str, list[Any]]) -> Alarm:
    alarm = _lookup(module, "aws_cloudwatch_metric_alarm", "this")
    (query,) = [block["metric_query"] for block in alarm["dynamic"]]
    (metric,) = query["content"][0]["metric"]
    period, dimensions = _first(metric["period"]), tuple(_first(metric["dimensions"]))
    series = {
        letter: (one["namespace"], one["name"], one["stat"], period, dimensions)
        for letter, one in given["metrics"].items()
    }
    rest = (_first(alarm["comparison_operator"]), _first(alarm["treat_missing_data"]), *told, *told)
    return Alarm(given["expression"], series, given["threshold"], given["periods"], given["datapoints"], rest)


def _lookup(module: Mapping[str, list[Any]], kind: str, name: str, *path: str) -> Any:
    (found,) = [block[kind][name] for block in module["resource"] if name in block.get(kind, {})]
    for step in path:
        found = _first(found[step])
    return found.replace("'", '"') if isinstance(found, str) else found


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value
