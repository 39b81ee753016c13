"""KServe: the runtime, an InferenceService for each model, and the account that its pods are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from handlers.deploy import templates
from handlers.deploy.access import aws_policy, place, places
from handlers.deploy.deadlines import deadlines
from handlers.deploy.environment import flags
from handlers.deploy.front import front
from handlers.deploy.manifest import Manifest, Model
from handlers.deploy.parse import ManifestError
from handlers.settings import PREFIX

LONGEST_REQUEST = 300
"""Seconds: Knative's revision-response-start-timeout-seconds, unless the cluster's owner has changed it: KServe has no
field for it."""
LONGEST_NAME = 63 - len("-predictor")
"""Characters of a model's name, which KServe makes a Service's of."""
DISK_RESERVE = 256
"""MiB of the volume beside the cache."""
SHUTDOWN = 20
"""Seconds of the runtime's shutdown_timeout."""
_FEATURE = "Knative refuses this unless its ConfigMap config-features has kubernetes.podspec-nodeselector: enabled"
_NAME = re.compile(rf"[a-z]([-a-z0-9]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?")


def render(manifest: Manifest) -> Mapping[str, str]:
    """Return the files, of which those with objects are for ``kubectl apply``; the policy is in a directory of its own.

    Raises:
        ManifestError: a model's name is no name for a service, or requests take longer than Knative's do.
    """
    files = {"runtime.yaml": templates.dump(_runtime(manifest)), "service-account.yaml": _account(manifest)}
    for model in manifest.models:
        if not _NAME.fullmatch(model.name):
            wanted = (
                f"at most {LONGEST_NAME} lower-case letters, digits and hyphens, a letter first, "
                "as KServe calls the service by it"
            )
            raise ManifestError(f"models: the name {model.name!r} is no service's; want {wanted}")
        files[f"model-{model.name}.yaml"] = templates.dump(_service(manifest, model))
    if any(one.scheme == "s3" for one in places(manifest)):
        files["aws/policy.json"] = aws_policy(manifest)
    return files


def _runtime(manifest: Manifest) -> Any:
    runtime = templates.load("kserve/runtime-grpc.yaml" if manifest.grpc else "kserve/runtime.yaml")
    runtime["metadata"]["name"] = _runtime_name(manifest)
    (container,) = runtime["spec"]["containers"]
    container["image"] = manifest.image
    for amounts in container["resources"].values():
        amounts["cpu"] = f"{manifest.cpu:g}"
        amounts["memory"] = f"{manifest.memory}Mi"
    index = next(index for index, one in enumerate(container["args"]) if one.startswith("--disk_budget="))
    container["args"][index] = f"--disk_budget={manifest.disk}M"
    runtime["spec"]["volumes"][0]["emptyDir"]["sizeLimit"] = f"{manifest.disk + DISK_RESERVE}Mi"
    return runtime


def _runtime_name(manifest: Manifest) -> str:
    # It is the whole cluster's, so another manifest's must not be called the same.
    return f"decant-{manifest.name}"


def _service(manifest: Manifest, model: Model) -> Any:
    service = templates.load("kserve/inference-service-pull.yaml")
    service["metadata"]["name"] = model.name
    if manifest.public:
        del service["metadata"]["labels"]
    predictor = service["spec"]["predictor"]
    predictor["minReplicas"] = manifest.min_instances
    predictor["maxReplicas"] = manifest.max_instances
    predictor["containerConcurrency"] = manifest.concurrency
    predictor["timeout"] = manifest.timeout
    predictor["serviceAccountName"] = manifest.name
    if manifest.architecture != "amd64":
        predictor["nodeSelector"] = {"kubernetes.io/arch": manifest.architecture}
        predictor.yaml_set_comment_before_after_key("nodeSelector", before=_FEATURE, indent=4)
    if place(model.base_path).scheme == "az":
        predictor["labels"] = {"azure.workload.identity/use": "true"}
    predictor["model"]["runtime"] = _runtime_name(manifest)
    # Of the two that the runtime speaks at its port; clients may use either.
    predictor["model"]["protocolVersion"] = "grpc-v1" if manifest.grpc else "v1"
    predictor["model"]["args"][:] = [f"--{name}={text}" for name, text in _flags(manifest, model).items()]
    if variables := _variables(manifest, model):
        predictor["model"]["env"] = variables
    return service


def _flags(manifest: Manifest, model: Model) -> dict[str, str]:
    # Knative gives a pod as long to end as a request.
    window = manifest.timeout
    found = deadlines(manifest, longest=LONGEST_REQUEST, window=window, platform="Knative") | front(manifest, "Knative")
    limits = {name.removeprefix(PREFIX).lower(): text for name, text in found.items()}
    if window <= SHUTDOWN:
        limits["shutdown_timeout"] = f"{max(window - 1, window / 2):g}"
    if manifest.grpc:
        del limits["rest_api_timeout_in_ms"]
    # What the model says itself goes before what holds for all.
    settings = {name: text for name, text in manifest.settings.items() if name not in model.options}
    said = flags(manifest._replace(models=(model,), settings=settings))
    # The runtime names it as its service is called.
    del said["model_name"]
    return {**said, **{name: text for name, text in limits.items() if name not in said}}


def _variables(manifest: Manifest, model: Model) -> list[dict[str, str]]:
    scheme = place(model.base_path).scheme
    if scheme == "s3" and manifest.region:
        return [{"name": "AWS_REGION", "value": manifest.region}]
    if scheme == "az":
        return [{"name": "AZURE_STORAGE_ACCOUNT", "value": manifest.azure_account}]
    return []


def _account(manifest: Manifest) -> str:
    account = templates.load("kserve/service-account.yaml")
    account["metadata"]["name"] = manifest.name
    return templates.dump(account)
