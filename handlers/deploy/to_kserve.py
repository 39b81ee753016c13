"""KServe: the runtime, an InferenceService for each model, and the account that its pods are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from handlers.deploy import templates
from handlers.deploy.access import aws_statements, place, places
from handlers.deploy.deadlines import deadlines
from handlers.deploy.environment import flags
from handlers.deploy.manifest import Manifest, Model
from handlers.deploy.parse import ManifestError
from handlers.settings import PREFIX

LONGEST_REQUEST = 600
"""Seconds: Knative's max-revision-timeout-seconds, unless the cluster's owner has changed it."""
GRACE = 30
"""Seconds from SIGTERM to SIGKILL, as pods have them."""
DISK_RESERVE = 256
"""MiB of the volume beside the cache."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def render(manifest: Manifest) -> Mapping[str, str]:
    """Return the files, of which those with objects are for ``kubectl apply``; the policy is in a directory of its own.

    Raises:
        ManifestError: a model's name is no name for a service, or requests take longer than Knative's do.
    """
    files = {"runtime.yaml": templates.dump(_runtime(manifest)), "service-account.yaml": _account(manifest)}
    for model in manifest.models:
        if not _NAME.fullmatch(model.name):
            wanted = "lower-case letters, digits and hyphens, as KServe calls the service by it"
            raise ManifestError(f"models: the name {model.name!r} is no service's; want {wanted}")
        files[f"model-{model.name}.yaml"] = templates.dump(_service(manifest, model))
    if any(one.scheme == "s3" for one in places(manifest)):
        document = {"Version": "2012-10-17", "Statement": aws_statements(manifest)}
        files["aws/policy.json"] = json.dumps(document, indent=2) + "\n"
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
    if not manifest.public:
        service["metadata"]["labels"] = {"networking.knative.dev/visibility": "cluster-local"}
    predictor = service["spec"]["predictor"]
    predictor["minReplicas"] = manifest.min_instances
    predictor["maxReplicas"] = manifest.max_instances
    predictor["containerConcurrency"] = manifest.concurrency
    predictor["timeout"] = manifest.timeout
    predictor["serviceAccountName"] = manifest.name
    predictor["nodeSelector"] = {"kubernetes.io/arch": manifest.architecture}
    if place(model.base_path).scheme == "az":
        predictor["labels"] = {"azure.workload.identity/use": "true"}
    predictor["model"]["runtime"] = _runtime_name(manifest)
    predictor["model"]["protocolVersion"] = "grpc-v1" if manifest.grpc else "v1"
    predictor["model"]["args"][:] = [f"--{name}={text}" for name, text in _flags(manifest, model).items()]
    if variables := _variables(manifest, model):
        predictor["model"]["env"] = variables
    return service


def _flags(manifest: Manifest, model: Model) -> dict[str, str]:
    found = deadlines(manifest, longest=LONGEST_REQUEST, window=GRACE, platform="Knative")
    limits = {name.removeprefix(PREFIX).lower(): text for name, text in found.items()}
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
