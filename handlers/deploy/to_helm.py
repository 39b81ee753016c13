"""The chart and its values, for any Kubernetes, and the policy that its pods' role needs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from handlers.deploy import templates
from handlers.deploy.access import Place, aws_policy, gcs_condition, places
from handlers.deploy.deadlines import deadlines
from handlers.deploy.environment import config, flags
from handlers.deploy.manifest import Manifest
from handlers.settings import OF_MODEL, PREFIX, kinds

CACHE_SHARE = 0.9
"""Of the cache's volume, what the chart has Decant use."""
POLL = 10
"""Seconds between two looks at the ConfigMap with several models."""
CHART = "helm"
_OF_THE_CHART = frozenset({".helmignore", ".json", ".py", ".tpl", ".txt", ".yaml"})
"""How the names of its files end, which are all that is sent to others."""
_HOUR = 3600

_OF_ONE_MODEL = {*OF_MODEL, "model_version_policy", "plugin_config", "nireq"}
"""What the chart leaves out where there is a file of models."""
_IDENTITIES = {"s3": "aws_role_arn", "gs": "gcp_service_account", "az": "azure_client_id"}


def render(manifest: Manifest) -> Mapping[str, str]:
    """Return the values, the chart below ``chart/``, and, if models are on S3, the policy that their reader needs.

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
        files["policy.json"] = aws_policy(manifest)
    return {**files, **chart()}


def chart() -> dict[str, str]:
    """Return the chart's files, as whoever has no checkout has no chart."""
    root = templates.ROOT / CHART
    found = sorted(path for path in root.rglob("*") if (path.suffix or path.name) in _OF_THE_CHART)
    names = [path.relative_to(root).as_posix() for path in found]
    return {f"chart/{name}": templates.text(f"{CHART}/{name}") for name in names}


def _deadlines(manifest: Manifest) -> dict[str, str]:
    # Nothing here ends a request or a pod by a clock of its own.
    found = deadlines(manifest, longest=_HOUR, window=_HOUR, platform="the chart")
    return {name.removeprefix(PREFIX).lower(): text for name, text in found.items()}


def _models(manifest: Manifest, said: dict[str, str]) -> dict[str, Any]:
    """Return what is served, taken out of the flags that say it too."""
    if said.pop("model_config", None):
        return {"config": config(manifest)}
    # Nothing in the place of OVMS's defaults, so that a model is served as on other platforms.
    return {
        "model_name": said.pop("model_name"),
        "model_path": said.pop("model_path"),
        "model_version_policy": "",
        "plugin_config": "",
    }


def _flags(said: Mapping[str, str], is_config: bool) -> dict[str, Any]:
    """Return values and settings for flags; with a file of models the chart leaves out its values of one model."""
    values: dict[str, Any] = {"file_system_poll_wait_seconds": None}
    settings: dict[str, str] = {"model_config_file_poll_wait_seconds": str(POLL)} if is_config else {}
    arguments = []
    types, schemas = kinds(), json.loads(templates.text(f"{CHART}/values.schema.json"))["properties"]
    for name, text in said.items():
        if name not in schemas:
            settings[name] = text
        elif is_config and name in _OF_ONE_MODEL:
            arguments.append(f"--{name}={text}")
        else:
            values[name] = text if _is_text(schemas[name]) else types[name].parse(text)
    return values | {"settings": settings} | ({"extra_args": arguments} if arguments else {})


def _is_text(schema: Mapping[str, Any]) -> bool:
    """Return whether a value may be text, as its schema in the chart says."""
    return "enum" in schema or "string" in str(schema.get("type", schema.get("anyOf")))


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
    lines = [f"Values of Decant's chart: helm upgrade --install {manifest.name} chart --values values.yaml"]
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
