"""Google Cloud Run: a service in YAML, and a script with gcloud's commands for its account and rights."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from handlers.deploy import script, templates
from handlers.deploy.access import Place, gcs_condition, place, places
from handlers.deploy.deadlines import deadlines
from handlers.deploy.environment import environment
from handlers.deploy.front import front
from handlers.deploy.knative_service import fill
from handlers.deploy.manifest import Manifest
from handlers.deploy.parse import ManifestError
from handlers.settings import kinds

LONGEST_REQUEST = 3600
WINDOW = 10
"""Seconds between SIGTERM and SIGKILL. Decant's own default is below."""
MEMORY: Mapping[float, tuple[int, int]] = MappingProxyType(
    {1: (512, 4096), 2: (512, 8192), 4: (2048, 16384), 6: (4096, 24576), 8: (4096, 32768)}
)
"""MiB that instances of so many cores may have, the least and the most; the second generation needs 512."""
LONGEST_NAME = 49
MOST_PREFIXES = 11
"""In one condition, which may have 12 operators."""
MOST_CONDITIONS = 20
"""For one account and role, in the policy of one bucket."""
LONGEST_VARIABLE = 32 << 10
"""Bytes."""
_REGISTRIES = re.compile(r"(?:[\w-]+\.)?gcr\.io|(?:[\w-]+-)?docker\.pkg\.dev|docker\.io")
_BUDGETS = ("memory_budget", "disk_budget")
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
    variables = deadline | front(manifest, "Cloud Run") | environment(manifest)
    if manifest.grpc:
        variables.pop("DECANT_REST_API_TIMEOUT_IN_MS")
    for name, value in variables.items():
        if len(value.encode()) > LONGEST_VARIABLE:
            raise ManifestError(
                f"the {len(manifest.models)} models are {len(value.encode())} bytes in {name}; "
                f"want {LONGEST_VARIABLE} at most on Cloud Run: fewer models, or more services"
            )
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
    _check_budgets(manifest)
    _check_access(manifest)
    _check_image(manifest.image)


def _check_budgets(manifest: Manifest) -> None:
    known = kinds()
    budgets = {name: manifest.settings[name] for name in _BUDGETS if name in manifest.settings}
    if sum(known[name].parse(text) for name, text in budgets.items()) > manifest.memory << 20:
        given = " and ".join(f"settings.{name} {text}" for name, text in budgets.items())
        raise ManifestError(
            f"{given} are more than memory, which is {manifest.memory} MiB; want less: on Cloud Run the disk is memory"
        )


def _check_access(manifest: Manifest) -> None:
    for model in manifest.models:
        if place(model.base_path).scheme not in ("gs", ""):
            raise ManifestError(
                f"model {model.name} is at {model.base_path}; want gs://, or a directory of the image: "
                "Cloud Run's identity is Google's and has no rights in other clouds"
            )
    for bucket, found in _by_bucket(manifest).items():
        if len(found) > MOST_PREFIXES * MOST_CONDITIONS:
            raise ManifestError(
                f"models in gs://{bucket} are below {len(found)} prefixes; want {MOST_PREFIXES * MOST_CONDITIONS} "
                "at most, which are as many as Google's conditions take, or one prefix that all are below"
            )


def _check_image(image: str) -> None:
    registry, slash, _ = image.partition("/")
    # Without a host it is Docker Hub's.
    is_host = slash and ("." in registry or ":" in registry or registry == "localhost")
    if is_host and not _REGISTRIES.fullmatch(registry):
        raise ManifestError(
            f"image is {image}; want one in Artifact Registry (REGION-docker.pkg.dev/…), or on Docker Hub: "
            "Cloud Run takes images from these alone, and from others by a remote repository of Artifact Registry"
        )


def _account(manifest: Manifest) -> str:
    if len(manifest.name) in _ACCOUNT_NAME:
        return manifest.name
    # Not another service's whose name begins alike.
    digest = hashlib.sha256(manifest.name.encode()).hexdigest()[:8]
    return f"{manifest.name[:21].rstrip('-')}-{digest}"


def _script(manifest: Manifest, account: str) -> str:
    text = script.replace(templates.text("cloud_run/deploy.sh"), _GRANTS, "\n".join(_grants(manifest)))
    text = script.default(text, REGION=manifest.region)
    return script.assign(text, SERVICE=manifest.name, ACCOUNT=account, PUBLIC=manifest.public)


def _grants(manifest: Manifest) -> Iterator[str]:
    for bucket, found in _by_bucket(manifest).items():
        for first in range(0, len(found), MOST_PREFIXES):
            together = found[first : first + MOST_PREFIXES]
            condition = gcs_condition(*together)
            more = f" and {len(together) - 1} more" if len(together) > 1 else ""
            # Google's limit is 100 characters.
            title = f"models in {together[0].prefix}"[: 100 - len(more)] + more
            text = [json.dumps({"title": title, "expression": condition})] if condition else []
            yield "\n".join([f"grant {shlex.quote(bucket)} << 'CONDITION'", *text, "CONDITION"])


def _by_bucket(manifest: Manifest) -> Mapping[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for one in places(manifest):
        if one.scheme == "gs":
            found.setdefault(one.bucket, []).append(one)
    return found
