"""AWS Lambda by AWS SAM: the template with a manifest's values, and what ``sam deploy`` is told beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from handlers.deploy import templates
from handlers.deploy.lambda_function import Function, function
from handlers.deploy.manifest import Manifest
from handlers.deploy.script import replace
from handlers.deploy.yaml_text import headed, without

_OF_ONE_MODEL = ("ModelName", "ModelBucket", "ModelPrefix", "ModelConfig", "LogLevel")
_CHECKS_OF_ONE_MODEL = ("OneOfModelNameAndModelConfig", "HasConfig")


def render(manifest: Manifest) -> Mapping[str, str]:
    """Return the template and its configuration.

    Raises:
        ManifestError: Lambda has no such functions.
    """
    made = function(manifest)
    return {"template.yaml": _template(made), "samconfig.toml": _config(made)}


def _template(made: Function) -> str:
    text = without(templates.text("lambda/template.yaml"), 2, (*_OF_ONE_MODEL, *_CHECKS_OF_ONE_MODEL))
    template = templates.parse(text)
    for group in template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]:
        for name in _OF_ONE_MODEL:
            if name in group["Parameters"]:
                group["Parameters"].remove(name)
    for name, value in _defaults(made).items():
        template["Parameters"][name]["Default"] = value
    properties = template["Resources"]["Function"]["Properties"]
    properties["Environment"]["Variables"] = dict(made.environment)
    properties[
        "VersionDescription"
    ].value = "${Architecture} ${MemorySize} ${EphemeralStorage} ${Timeout} ${SnapStart} ${Tracing}"
    policies = template["Resources"]["Role"]["Properties"]["Policies"]
    # Others are lists: conditions, with what holds if they do and if not.
    (models,) = [policy for policy in policies if "PolicyName" in policy and policy["PolicyName"] == "models"]
    if made.statements:
        models["PolicyDocument"]["Statement"] = list(made.statements)
    else:
        policies.remove(models)
    return headed(templates.dump(template), _heading(made))


def _heading(made: Function) -> list[str]:
    lines = [
        "Decant on AWS Lambda, for AWS SAM. In this directory:",
        "",
        f"    sam deploy{'' if made.image else f' --parameter-overrides ImageUri={made.repository}@$digest'}",
        "",
        *made.about_the_digest(),
    ]
    if made.reserved:
        lines += [
            "New accounts have too few instances to reserve any; add ReservedConcurrency=-1 to --parameter-overrides",
            "there.",
        ]
    return lines


def _defaults(made: Function) -> dict[str, str | int]:
    image = {"ImageUri": made.image} if made.image else {}
    return {
        **image,
        "Architecture": made.architecture,
        "MemorySize": made.memory,
        "EphemeralStorage": made.storage,
        "Timeout": made.timeout,
        "ReservedConcurrency": made.reserved or -1,
        "ProvisionedConcurrency": made.provisioned,
        "FunctionUrlAuth": made.url_auth,
    }


def _config(made: Function) -> str:
    text = templates.text("lambda/samconfig.toml")
    for name, value in {"stack_name": made.name, "region": made.region, "image_repository": made.repository}.items():
        text = replace(text, rf"(?m)^{name} = .*$", f"{name} = {json.dumps(value)}")
    # What these would say is the default of the template's parameters.
    return replace(text, r"parameter_overrides = \[\n(?:.*\n)*\]\n", "")
