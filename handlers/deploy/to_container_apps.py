"""Azure Container Apps: Bicep as it is in ``infra/container_apps``, its parameters, and a script with az's commands."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from handlers.deploy import script, templates
from handlers.deploy.access import place, places
from handlers.deploy.deadlines import deadlines
from handlers.deploy.environment import environment
from handlers.deploy.front import front
from handlers.deploy.manifest import Manifest
from handlers.deploy.parse import ManifestError

LONGEST_REQUEST = 240
MOST_CORES = 4.0
_STEP = 0.25
MEMORY_OF_CORE = 2048
"""MiB, for each core, neither more nor less."""
DISK: Mapping[float, int] = MappingProxyType({0.25: 1024, 0.5: 2048, 1.0: 4096, MOST_CORES: 8192})
"""MiB of disk that replicas of up to so many cores may have."""
DISK_RESERVE = 256
"""MiB of that beside what is downloaded: for logs and libraries' temporary files."""
LONGEST_NAME = 24
LONGEST_CONDITION = 8192
_REGISTRY = ".azurecr.io/"
_READ = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read"
_PATH = "@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path]"
_LISTED = "@Request[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:prefix]"
_DRAIN = 10
"""Seconds between the end of the longest request that was in flight at SIGTERM, and SIGKILL."""


def render(manifest: Manifest) -> Mapping[str, str]:
    """Return the template, its parameters and the script.

    Raises:
        ManifestError: Container Apps has no such replicas, or cannot read where the models are.
    """
    _check(manifest)
    cores = _cores(manifest)
    document = json.loads(templates.text("container_apps/main.parameters.json"))
    document["parameters"] = {
        name: {"value": value}
        for name, value in {
            "name": manifest.name,
            "image": manifest.image,
            "registry": manifest.image.partition(_REGISTRY)[0] if _REGISTRY in manifest.image else "",
            "storageAccount": manifest.azure_account,
            "containers": [
                {"name": name, "condition": azure_condition(prefixes)} for name, prefixes in _prefixes(manifest).items()
            ],
            "environmentVariables": [
                {"name": name, "value": value} for name, value in _variables(manifest, cores).items()
            ],
            "cpu": str(cores),
            "memory": f"{cores * MEMORY_OF_CORE / 1024:g}Gi",
            "concurrency": manifest.concurrency,
            "minReplicas": manifest.min_instances,
            "maxReplicas": manifest.max_instances,
            "public": manifest.public,
            "grpc": manifest.grpc,
            "terminationGracePeriodSeconds": manifest.timeout + _DRAIN,
        }.items()
    }
    deploy = script.assign(templates.text("container_apps/deploy.sh"), NAME=manifest.name)
    return {
        "main.bicep": templates.text("container_apps/main.bicep"),
        "main.parameters.json": json.dumps(document, indent=2, ensure_ascii=False) + "\n",
        "deploy.sh": script.default(deploy, GROUP=manifest.name, LOCATION=manifest.region),
    }


def azure_condition(prefixes: Sequence[str]) -> str:
    """Return the condition of a role assignment that leaves of a container what is below these prefixes.

    It holds for reading blobs and for listing them, which Azure asks about separately; other actions are the role's to
    allow. Empty, for no condition, if a prefix is. The form is that of Microsoft's examples for Azure ABAC.
    """
    if "" in prefixes:
        return ""
    paths = " OR ".join(f"{_PATH} StringStartsWith '{prefix}/'" for prefix in prefixes)
    listed = " OR ".join(f"{_LISTED} StringStartsWith '{prefix}/'" for prefix in prefixes)
    reads = f"ActionMatches{{'{_READ}'}} AND NOT SubOperationMatches{{'Blob.List'}}"
    lists = f"ActionMatches{{'{_READ}'}} AND SubOperationMatches{{'Blob.List'}}"
    return f"((!({reads})) OR ({paths})) AND ((!({lists})) OR ({listed}))"


def _check(manifest: Manifest) -> None:
    if manifest.architecture != "amd64":
        raise ManifestError(f"architecture is {manifest.architecture}; want amd64, all that Container Apps has")
    if not 2 <= len(manifest.name) <= LONGEST_NAME or "--" in manifest.name:
        raise ManifestError(
            f"name is {manifest.name}; want 2 to {LONGEST_NAME} characters and no -- in it on Container Apps"
        )
    for model in manifest.models:
        if place(model.base_path).scheme not in ("az", ""):
            raise ManifestError(
                f"model {model.name} is at {model.base_path}; want az://, or a directory of the image: "
                "a managed identity has no rights in other clouds"
            )
    for name, prefixes in _prefixes(manifest).items():
        if len(azure_condition(prefixes)) > LONGEST_CONDITION:
            raise ManifestError(
                f"container {name} has models below {len(prefixes)} prefixes, whose condition is longer than "
                f"Azure's {LONGEST_CONDITION} characters; want fewer, or one prefix that all are below"
            )


def _cores(manifest: Manifest) -> float:
    """Return the least number of cores, in steps of a quarter, that has the cores, the memory and the disk asked for.

    The memory of a replica follows from its cores, and its disk, too.
    """
    of_disk = next((cores for cores, disk in DISK.items() if manifest.disk + DISK_RESERVE <= disk), None)
    if of_disk is None:
        raise ManifestError(
            f"disk is {manifest.disk} MiB; want {DISK[MOST_CORES] - DISK_RESERVE} at most on Container Apps"
        )
    # Beyond one core there is one size of disk.
    smallest = of_disk if of_disk < MOST_CORES else 1.0 + _STEP
    wanted = max(manifest.cpu, manifest.memory / MEMORY_OF_CORE, smallest)
    cores = math.ceil(wanted / _STEP) * _STEP
    if cores > MOST_CORES:
        raise ManifestError(
            f"cpu is {manifest.cpu:g} and memory {manifest.memory} MiB; want {MOST_CORES:g} and "
            f"{int(MOST_CORES * MEMORY_OF_CORE)} at most on Container Apps"
        )
    return cores


def _prefixes(manifest: Manifest) -> Mapping[str, list[str]]:
    # By container, as an identity has one assignment of a role in each.
    found: dict[str, list[str]] = {}
    for one in places(manifest):
        if one.scheme == "az":
            found.setdefault(one.bucket, []).append(one.prefix)
    return found


def _variables(manifest: Manifest, cores: float) -> dict[str, str]:
    variables = {
        **deadlines(manifest, longest=LONGEST_REQUEST, window=manifest.timeout + _DRAIN, platform="Container Apps"),
        **front(manifest, "Container Apps"),
        "DECANT_SHUTDOWN_TIMEOUT": str(manifest.timeout),
        "DECANT_DISK_BUDGET": f"{manifest.disk}M",
        **environment(manifest),
    }
    # The template says it.
    variables.pop("AZURE_STORAGE_ACCOUNT", None)
    return variables
