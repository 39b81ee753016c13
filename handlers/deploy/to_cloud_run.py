"""Google Cloud Run: a service in YAML, and a script with gcloud's commands for its account and rights."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from handlers.deploy import script, templates
from handlers.deploy.access import gcs_condition, place, places
from handlers.deploy.deadlines import deadlines
from handlers.deploy.environment import environment
from handlers.deploy.knative_service import fill
from handlers.deploy.manifest import Manifest
from handlers.deploy.parse import ManifestError

LONGEST_REQUEST = 3600
WINDOW = 10
"""Seconds between SIGTERM and SIGKILL. Decant's own default is below."""
MEMORY: Mapping[float, tuple[int, int]] = MappingProxyType(
    {1: (512, 4096), 2: (512, 8192), 4: (2048, 16384), 6: (4096, 24576), 8: (4096, 32768)}
)
"""MiB that instances of so many cores may have, the least and the most; the second generation needs 512."""
MOST_CONCURRENT = 1000
LONGEST_NAME = 49
_ACCOUNT_NAME = range(6, 31)
"""Characters of a service account's name."""
_GRANTS = r"(?m)^grant .*\n(?:.*\n)*?CONDITION$"


def render(manifest: Manifest) -> Mapping[str, str]:
    """Return the service, of gRPC if that is wanted, as there is one port, and its script.

    Raises:
        ManifestError: Cloud Run has no such instances, or cannot read where the models are.
    """
    _check(manifest)
    service = templates.load("cloud_run/service-grpc.yaml" if manifest.grpc else "cloud_run/service.yaml")
    deadline = deadlines(manifest, longest=LONGEST_REQUEST, window=WINDOW, platform="Cloud Run")
    variables = deadline | environment(manifest)
    if manifest.grpc:
        variables.pop("DECANT_REST_API_TIMEOUT_IN_MS")
    fill(service, manifest, variables)
    if manifest.region:
        service["metadata"]["labels"]["cloud.googleapis.com/location"] = manifest.region
    annotations = service["spec"]["template"]["metadata"]["annotations"]
    annotations["autoscaling.knative.dev/minScale"] = str(manifest.min_instances)
    annotations["autoscaling.knative.dev/maxScale"] = str(manifest.max_instances)
    account = _account(manifest)
    service["spec"]["template"]["spec"]["serviceAccountName"] = f"{account}@PROJECT_ID.iam.gserviceaccount.com"
    return {"service.yaml": templates.dump(service), "deploy.sh": _script(manifest, account)}


def _check(manifest: Manifest) -> None:
    if manifest.architecture != "amd64":
        raise ManifestError(f"architecture is {manifest.architecture}; want amd64, which is all that Cloud Run has")
    if len(manifest.name) > LONGEST_NAME:
        raise ManifestError(f"name has {len(manifest.name)} characters; want {LONGEST_NAME} at most on Cloud Run")
    if manifest.cpu not in MEMORY:
        raise ManifestError(f"cpu is {manifest.cpu:g}; want 1, 2, 4, 6 or 8, which are Cloud Run's in generation 2")
    least, most = MEMORY[manifest.cpu]
    if not least <= manifest.memory <= most:
        raise ManifestError(
            f"memory is {manifest.memory} MiB; want {least} to {most} with cpu {manifest.cpu:g} on Cloud Run"
        )
    if manifest.concurrency > MOST_CONCURRENT:
        raise ManifestError(f"concurrency is {manifest.concurrency}; want {MOST_CONCURRENT} at most on Cloud Run")
    for model in manifest.models:
        if place(model.base_path).scheme not in ("gs", ""):
            raise ManifestError(
                f"model {model.name} is at {model.base_path}; want gs://, or a directory of the image: "
                "Cloud Run's identity is Google's and has no rights in other clouds"
            )


def _account(manifest: Manifest) -> str:
    if len(manifest.name) in _ACCOUNT_NAME:
        return manifest.name
    return f"{manifest.name[:23].rstrip('-')}-decant"


def _script(manifest: Manifest, account: str) -> str:
    text = script.replace(templates.text("cloud_run/deploy.sh"), _GRANTS, "\n".join(_grants(manifest)))
    text = script.default(text, REGION=manifest.region)
    return script.assign(text, SERVICE=manifest.name, ACCOUNT=account, PUBLIC=manifest.public)


def _grants(manifest: Manifest) -> Iterator[str]:
    for one in places(manifest):
        if one.scheme != "gs":
            continue
        condition = gcs_condition(one)
        # Google's limit is 100 characters.
        title = f"models in {one.prefix}"[:100]
        text = [json.dumps({"title": title, "expression": condition})] if condition else []
        yield "\n".join([f"grant {shlex.quote(one.bucket)} << 'CONDITION'", *text, "CONDITION"])
