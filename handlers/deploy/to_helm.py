"""The chart's values, for any Kubernetes, and the policy that its pods' role needs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from handlers.deploy import templates
from handlers.deploy.access import Place, aws_statements, gcs_condition, places
from handlers.deploy.deadlines import deadlines
from handlers.deploy.environment import config, flags
from handlers.deploy.manifest import Manifest
from handlers.settings import PREFIX, kinds

CACHE_SHARE = 0.9
"""Of the cache's volume, what the chart has Decant use."""
POLL = 10
"""Seconds between two looks at the ConfigMap with several models."""
_HOUR = 3600

_OF_MODELS = frozenset(
    [
        "target_device",
        "nireq",
        "batch_size",
        "layout",
        "shape",
        "model_version_policy",
        "plugin_config",
        "stateful",
        "idle_sequence_cleanup",
        "low_latency_transformation",
        "max_sequence_number",
    ]
)
_TYPED = frozenset(
    [
        "shutdown_timeout",
        "file_system_poll_wait_seconds",
        "metrics_enable",
        "idle_sequence_cleanup",
        "low_latency_transformation",
        "max_sequence_number",
    ]
)
"""Values of the chart that are no text."""
_TEXTS = frozenset({"log_level", "metrics_list"})
_IDENTITIES = {"s3": "aws_role_arn", "gs": "gcp_service_account", "az": "azure_client_id"}


def render(manifest: Manifest) -> Mapping[str, str]:
    """Return the values, and the policy of the role in ``workload_identity`` if models are on S3.

    Raises:
        ManifestError: a setting does not fit the time that a request may take.
    """
    found = places(manifest)
    said = _deadlines(manifest) | flags(manifest)
    values: dict[str, Any] = {"image_name": manifest.image}
    values |= _models(manifest, said)
    values |= _flags(said, "config" in values)
    values |= _sizes(manifest)
    values |= _access(manifest, found)
    files = {"values.yaml": _head(manifest, found) + templates.dump(values)}
    if any(place.scheme == "s3" for place in found):
        files["policy.json"] = policy(manifest)
    return files


def policy(manifest: Manifest) -> str:
    """Return the policy that lets a role read the models on S3, and nothing else."""
    return json.dumps({"Version": "2012-10-17", "Statement": aws_statements(manifest)}, indent=2) + "\n"


def _deadlines(manifest: Manifest) -> dict[str, str]:
    # Nothing here ends a request or a pod by a clock of its own.
    found = deadlines(manifest, longest=_HOUR, window=_HOUR, platform="the chart")
    return {name.removeprefix(PREFIX).lower(): text for name, text in found.items()}


def _models(manifest: Manifest, said: dict[str, str]) -> dict[str, Any]:
    """Return what is served, taken out of the flags that say it too."""
    if said.pop("model_config", None):
        return {"config": config(manifest)}
    # null takes OVMS's defaults out, so that a model is served as on other platforms.
    return {
        "model_name": said.pop("model_name"),
        "model_path": said.pop("model_path"),
        "model_version_policy": None,
        "plugin_config": None,
    }


def _flags(said: Mapping[str, str], is_config: bool) -> dict[str, Any]:
    """Return values and settings for flags; with a file of models the chart leaves out its values of one model."""
    values: dict[str, Any] = {"file_system_poll_wait_seconds": None}
    settings: dict[str, str] = {"model_config_file_poll_wait_seconds": str(POLL)} if is_config else {}
    arguments = []
    types = kinds()
    for name, text in said.items():
        if name in _OF_MODELS and is_config:
            arguments.append(f"--{name}={text}")
        elif name in _TYPED:
            values[name] = types[name].parse(text)
        elif name in _TEXTS | _OF_MODELS:
            values[name] = text
        else:
            settings[name] = text
    return values | {"settings": settings} | ({"extra_args": arguments} if arguments else {})


def _sizes(manifest: Manifest) -> dict[str, Any]:
    amounts = {"cpu": f"{manifest.cpu:g}", "memory": f"{manifest.memory}Mi"}
    least = max(1, manifest.min_instances)
    values: dict[str, Any] = {
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "cache": {"size": f"{math.ceil(manifest.disk / CACHE_SHARE)}Mi"},
        "node_selector": {"kubernetes.io/arch": manifest.architecture},
        "replicas": least,
    }
    if manifest.max_instances > least:
        values["hpa"] = {"enabled": True, "min_replicas": least, "max_replicas": manifest.max_instances}
        values["keda"] = {
            "min_replicas": least,
            "max_replicas": manifest.max_instances,
            "prometheus": {"threshold": manifest.concurrency},
        }
    return values


def _access(manifest: Manifest, found: Iterable[Place]) -> dict[str, Any]:
    schemes = {place.scheme for place in found}
    values: dict[str, Any] = {
        "service_type": "LoadBalancer" if manifest.public else "ClusterIP",
    }
    if not manifest.grpc:
        values["grpc_port"] = 0
    if manifest.region and "s3" in schemes:
        values["aws_region"] = manifest.region
    if manifest.azure_account and "az" in schemes:
        values["azure_storage_account"] = manifest.azure_account
    if schemes & _IDENTITIES.keys():
        # To be filled in: whose name it is, nothing here can know.
        values["workload_identity"] = {name: "" for scheme, name in _IDENTITIES.items() if scheme in schemes}
    return values


def _head(manifest: Manifest, found: Iterable[Place]) -> str:
    lines = [f"Values of Decant's chart: helm upgrade --install {manifest.name} infra/helm --values values.yaml"]
    if manifest.min_instances == 0:
        lines.append("A Deployment does not start from zero by a request, so one pod stays; Knative and KServe can.")
    schemes = {place.scheme for place in found}
    if "s3" in schemes:
        lines.append("S3: give a role the rights in policy.json, and put its ARN in workload_identity.aws_role_arn.")
    if "az" in schemes:
        lines.append("Azure: give an identity Storage Blob Data Reader on each container; its id goes below.")
    for place in found:
        if place.scheme == "gs":
            lines.append("Google Cloud: give an account this right, and put its name in workload_identity:")
            lines.append(f"  gcloud storage buckets add-iam-policy-binding gs://{place.bucket} --member=… \\")
            condition = gcs_condition(place)
            lines.append(f"    --role=roles/storage.objectViewer --condition={_gcloud_condition(condition)}")
    if "" in schemes:
        lines.append(
            "Models in directories: models_volume_claim, models_host_path or models_image put some at /models."
        )
    return "".join(f"# {line}\n" for line in lines)


def _gcloud_condition(condition: str) -> str:
    return f"'expression={condition},title=models'" if condition else "None"
