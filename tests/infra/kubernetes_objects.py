"""What is in manifests, found by its meaning."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

from ruamel.yaml import YAML

Object = dict[str, Any]


def objects_in(text: str) -> list[Object]:
    """Return the documents of a stream."""
    return [document for document in YAML(typ="safe").load_all(text) if document]


def of_kind(objects: list[Object], kind: str) -> Object:
    (found,) = [one for one in objects if one["kind"] == kind]
    return found


def pod_specs(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield the names of workloads with the specs of their pods."""
    for one in objects:
        if one["kind"] == "Pod":
            yield one["metadata"]["name"], one["spec"]
        elif "template" in one.get("spec", {}):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def server(objects: list[Object]) -> Object:
    """Return the container that serves."""
    (found,) = [
        one
        for one in of_kind(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
        if one["name"] == "decant"
    ]
    return cast(Object, found)


def flags(arguments: list[str]) -> dict[str, str]:
    """Return what ``--name=value`` says, by name."""
    return dict(one[2:].split("=", 1) for one in arguments if one.startswith("--"))


def amount(quantity: object) -> float:
    """Return a quantity such as 8Gi or 500m as a number."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity))
    assert found, quantity
    decimal = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9}
    binary = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
    return float(found[1]) * (decimal | binary)[found[2]]


def admits(match_labels: dict[str, str], labels: dict[str, str]) -> bool:
    return match_labels.items() <= labels.items()
