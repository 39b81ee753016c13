"""What services of Knative's kind have in common, which are Cloud Run's as well as Knative's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.deploy.manifest import Manifest


def container(service: Any) -> Any:
    """Return Decant's container, to be changed in place."""
    (one,) = (each for each in service["spec"]["template"]["spec"]["containers"] if each["name"] == "decant")
    return one


def fill(service: Any, manifest: Manifest, variables: Mapping[str, str]) -> None:
    """Put in what is said the same way on both platforms.

    Args:
        service: the document, changed in place.
        variables: all of Decant's.
    """
    service["metadata"]["name"] = manifest.name
    revision = service["spec"]["template"]["spec"]
    revision["containerConcurrency"] = manifest.concurrency
    revision["timeoutSeconds"] = manifest.timeout
    decant = container(service)
    decant["image"] = manifest.image
    set_variables(decant["env"], variables)
    for limits in decant["resources"].values():
        limits["cpu"] = f"{manifest.cpu:g}"
        limits["memory"] = f"{manifest.memory}Mi"


def set_variables(entries: Any, variables: Mapping[str, str]) -> None:
    """Make a container's variables these; entries that stay keep their comments."""
    for index in reversed(range(len(entries))):
        if entries[index]["name"] not in variables:
            del entries[index]
    there = {entry["name"]: entry for entry in entries}
    for name, value in variables.items():
        if name in there:
            there[name]["value"] = value
        else:
            entries.append({"name": name, "value": value})
