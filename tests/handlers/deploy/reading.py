"""What rendered files say of Decant, whatever the platform: read back without what wrote them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from tests.handlers.deploy.policies import abac_admits, admits, cel_admits

Files = Mapping[str, str]


class Said(NamedTuple):
    """Of one process."""

    image: str
    variables: Mapping[str, str]
    arguments: Sequence[str] = ()
    """Of the `decant` command."""
    memory: int = 0
    """MiB, without what a disk takes of it."""
    concurrency: int | None = None
    """None where the platform is not told."""
    instances: tuple[int, int | None] | None = None
    """At least and at most; None for what the platform has by default."""
    timeout: int | None = None


def documents(text: str) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(text))


def mib(size: str) -> int:
    found = re.fullmatch(r"([\d.]+)([MG])i?", size)
    assert found, size
    return round(float(found[1]) * {"M": 1, "G": 1024}[found[2]])


def cloud_run(files: Files) -> list[Said]:
    return _knative_service(files, "minScale", "maxScale")


def knative(files: Files) -> list[Said]:
    return _knative_service(files, "min-scale", "max-scale")


def _knative_service(files: Files, *bounds: str) -> list[Said]:
    (service,) = documents(files["service.yaml"])
    template = service["spec"]["template"]
    (container,) = template["spec"]["containers"]
    least, most = (int(template["metadata"]["annotations"][f"autoscaling.knative.dev/{bound}"]) for bound in bounds)
    return [
        Said(
            container["image"],
            of_list(container["env"]),
            container.get("args", []),
            mib(container["resources"]["limits"]["memory"]),
            template["spec"]["containerConcurrency"],
            (least, most),
            template["spec"]["timeoutSeconds"],
        )
    ]


def container_apps(files: Files) -> list[Said]:
    given = {name: one["value"] for name, one in json.loads(files["main.parameters.json"])["parameters"].items()}
    return [
        Said(
            given["image"],
            # The template has the account's name from its own parameter.
            of_list(given["environmentVariables"]) | {"AZURE_STORAGE_ACCOUNT": given["storageAccount"]},
            _bicep_arguments(files["main.bicep"], given["grpc"]),
            mib(given["memory"]),
            given["concurrency"],
            (given["minReplicas"], given["maxReplicas"]),
        )
    ]


def _bicep_arguments(template: str, grpc: bool) -> list[str]:
    found = re.search(r"(?s)\n *args: \[\n(.*?)\n *\]", template)
    assert found
    arguments = []
    for line in found[1].split("\n"):
        choice = re.fullmatch(r" *(?:grpc \? '(\S+)' : )?'(\S+)'", line)
        assert choice, line
        arguments.append(choice[1] if choice[1] and grpc else choice[2])
    return arguments


def sam(files: Files) -> list[Said]:
    """Read what SAM's template says with the defaults of its parameters."""
    template = YAML().load(files["template.yaml"])
    parameters = template["Parameters"]
    function = template["Resources"]["Function"]["Properties"]

    def value(given: Any) -> Any:
        return (
            parameters[given.value]["Default"] if getattr(given, "tag", None) and given.tag.value == "!Ref" else given
        )

    reserved = parameters["ReservedConcurrency"]["Default"]
    return [
        Said(
            value(function["ImageUri"]),
            dict(function["Environment"]["Variables"]),
            memory=value(function["MemorySize"]),
            # Its own way to say none.
            instances=(parameters["ProvisionedConcurrency"]["Default"], None if reserved == -1 else reserved),
            timeout=value(function["Timeout"]),
        )
    ]


def serverless(files: Files) -> list[Said]:
    service = YAML().load(files["serverless.yml"])
    custom, provider = service["custom"], service["provider"]

    def value(text: str) -> str:
        name = re.fullmatch(r"\$\{self:custom\.(\w+)(?:, \w+)?\}", text)
        assert name, text
        default = re.fullmatch(rf"\$\{{param:{name[1]}, (?:'(.*)'|(\w+))\}}", custom[name[1]])
        assert default, custom[name[1]]
        return default[1] or default[2]

    function = service["functions"]["serve"]
    least = int(value(function["provisionedConcurrency"]))
    (reserved,) = re.findall(r"^\$\{param:reservedConcurrency, (-?\d+)\}$", custom["reservedConcurrency"])
    return [
        Said(
            value(provider["ecr"]["images"]["decant"]["uri"]),
            provider["environment"],
            memory=int(value(provider["memorySize"])),
            instances=(least, None if reserved == "-1" else int(reserved)),
            timeout=int(value(provider["timeout"])),
        )
    ]


def terraform(files: Files) -> list[Said]:
    given = json.loads(files["main.tf.json"])["module"]["decant"]
    # Its own way to say none.
    least = max(0, given["provisioned_concurrent_executions"])
    reserved = given["reserved_concurrent_executions"]
    return [
        Said(
            given["image_uri"],
            given["environment_variables"],
            memory=given["memory_size"],
            instances=(least, None if reserved == -1 else reserved),
            timeout=given["timeout"],
        )
    ]


def compose(files: Files) -> list[Said]:
    (document,) = documents(files["compose.yaml"])
    (service,) = document["services"].values()
    variables = {name: value for name, value in service["environment"].items() if value is not None}
    # What is in a tmpfs is memory as well.
    disk = int(variables.get("DECANT_DISK_BUDGET", 0)) >> 20
    memory = mib(service["deploy"]["resources"]["limits"]["memory"]) - disk
    return [Said(service["image"], variables, service.get("command", []), memory)]


def kserve(files: Files) -> list[Said]:
    (runtime,) = documents(files["runtime.yaml"])
    services = [documents(text)[0] for name, text in files.items() if name.startswith("model-")]
    (container,) = runtime["spec"]["containers"]
    said = []
    for service in services:
        predictor = service["spec"]["predictor"]
        model = predictor["model"]
        assert model["runtime"] == runtime["metadata"]["name"]
        # KServe puts the two behind each other, and names in.
        arguments = [text.replace("{{.Name}}", service["metadata"]["name"]) for text in container["args"]]
        said.append(
            Said(
                container["image"],
                of_list(model.get("env", [])),
                [*arguments, *model["args"]],
                mib(container["resources"]["limits"]["memory"]),
                predictor["containerConcurrency"],
                (predictor["minReplicas"], predictor["maxReplicas"]),
                predictor["timeout"],
            )
        )
    return said


def helm(files: Files, chart: Callable[[Any], Mapping[str, str]], directory: Path) -> list[Said]:
    """Read what the chart makes of the values.

    Args:
        chart: returns manifests, by their templates' names.
        directory: for what pods have as a volume.
    """
    (values,) = documents(files["values.yaml"])
    made = chart(values)
    (deployment,) = documents(made["deployment.yaml"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    arguments = container["args"]
    if made["configmap.yaml"].strip():
        (volume,) = documents(made["configmap.yaml"])
        (name, text), *_ = volume["data"].items()
        (directory / name).write_text(text)
        arguments = [argument.replace(f"/config/{name}", str(directory / name)) for argument in arguments]
    least = most = deployment["spec"].get("replicas", 1)
    if made["hpa.yaml"].strip():
        (scaler,) = documents(made["hpa.yaml"])
        least, most = scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]
    return [
        Said(
            container["image"],
            of_list(container.get("env", [])),
            arguments,
            mib(container["resources"]["limits"]["memory"]),
            instances=(least, most),
        )
    ]


def of_list(variables: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return variables of a list as Kubernetes has them."""
    assert len({variable["name"] for variable in variables}) == len(variables)
    return {variable["name"]: variable["value"] for variable in variables if "value" in variable}


READERS: Mapping[str, Callable[[Files], list[Said]]] = {
    "lambda": sam,
    "serverless": serverless,
    "terraform": terraform,
    "cloud-run": cloud_run,
    "container-apps": container_apps,
    "knative": knative,
    "kserve": kserve,
    "compose": compose,
}
"""By target, but for helm, whose reader needs more."""


Judge = Callable[[str, str, str], bool]
"""Whether one may read, write, delete or list, in a bucket, what a key or a prefix names."""


def google_rights(files: Files) -> Judge:
    """What cloud-run's script gives the account: a role on each bucket, under a condition."""
    script = files["deploy.sh"]
    assert re.findall(r"--role=(roles/storage\.\S+)", script) in ([], ["roles/storage.objectViewer"])
    found = re.findall(r"(?ms)^grant (\S+) << 'CONDITION'\n(.*?)^CONDITION$", script)
    conditions = [(bucket, json.loads(text)["expression"] if text else "") for bucket, text in found]

    def may(verb: str, bucket: str, key: str) -> bool:
        resource = f"projects/_/buckets/{bucket}"
        asked = resource if verb == "list" else f"{resource}/objects/{key}"
        return verb in ("read", "list") and any(
            cel_admits(condition, asked) for name, condition in conditions if name == bucket
        )

    return may


def azure_rights(files: Files) -> Judge:
    """What the template gives the identity: a role on each container, under a condition."""
    given = json.loads(files["main.parameters.json"])["parameters"]["containers"]["value"]
    conditions = {container["name"]: container["condition"] for container in given}

    def may(verb: str, bucket: str, key: str) -> bool:
        # The role has one action on blobs.
        return verb in ("read", "list") and bucket in conditions and abac_admits(conditions[bucket], verb, key)

    return may


def sam_rights(files: Files) -> Judge:
    policies = YAML().load(files["template.yaml"])["Resources"]["Role"]["Properties"]["Policies"]
    named = {policy["PolicyName"]: policy for policy in policies if "PolicyName" in policy}
    # The others are lists, of a condition and what holds then: none of this holds by default.
    assert named.keys() <= {"models", "logs"}
    return _aws_rights(named["models"]["PolicyDocument"]["Statement"] if "models" in named else [])


def serverless_rights(files: Files) -> Judge:
    service = YAML().load(files["serverless.yml"])
    return _aws_rights(service["provider"].get("iam", {}).get("role", {}).get("statements", []))


def _aws_rights(statements: Sequence[Any]) -> Judge:
    actions = {"read": "s3:GetObject", "write": "s3:PutObject", "delete": "s3:DeleteObject", "list": "s3:ListBucket"}

    def may(verb: str, bucket: str, key: str) -> bool:
        arn = f"arn:aws:s3:::{bucket}"
        if verb == "list":
            return admits(statements, actions[verb], arn, key)
        return admits(statements, actions[verb], f"{arn}/{key}")

    return may


def policy_rights(files: Files) -> Judge:
    """What the role may that the files' user is to make."""
    texts = [text for name, text in files.items() if name.rpartition("/")[2] == "policy.json"]
    return _aws_rights([statement for text in texts for statement in json.loads(text)["Statement"]])


GRANTS: Mapping[str, Callable[[Files], Judge]] = {
    "helm": policy_rights,
    "kserve": policy_rights,
    "lambda": sam_rights,
    "serverless": serverless_rights,
    "cloud-run": google_rights,
    "container-apps": azure_rights,
}
"""By target: where rights are in the files, as they are; Terraform's module makes them, and has tests of its own."""
