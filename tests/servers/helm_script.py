"""Helm's own library at work, in a process of its own: its ``.so`` is 100 MB of Go with signal handlers of Go's.

Reads commands as JSON, one a line: a name and its arguments. Answers each with a line: ``{"result": …}``, or
``{"error": its text}``. Needs .tools/kubernetes on PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import helm_python
import kubernetes_validate

_configs: dict[str, helm_python.Config] = {}


def lint(path: str, values: dict[str, Any] | None = None, **options: Any) -> Any:
    return helm_python.lint(path, values, **options)


def render(path: str, values: dict[str, Any] | None = None, **options: Any) -> Any:
    with helm_python.Chart.load(path) as chart:
        chart.validate_schema(values)
        return chart.render(values, **options)


def package(path: str, destination: str) -> Any:
    return helm_python.package(path, destination=destination)


def files(path: str) -> Any:
    with helm_python.Chart.load(path) as chart:
        return chart.files


def act(kubeconfig: str, namespace: str, action: str, /, *arguments: Any, **options: Any) -> Any:
    """Do what a method of the library's does to a cluster."""
    key = f"{kubeconfig} {namespace}"
    if key not in _configs:
        _configs[key] = helm_python.Config(kubeconfig_path=kubeconfig, namespace=namespace)
    return getattr(_configs[key], action)(*arguments, **options)


def validate(documents: list[dict[str, Any]], version: str) -> list[str]:
    """Return what is wrong with manifests in a version of Kubernetes; of kinds that it does not have, their names."""
    wrong = []
    for document in documents:
        where = f"{document['apiVersion']} {document['kind']}"
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            wrong.append(where)
        except kubernetes_validate.ValidationError as exc:
            wrong.append(f"{where}: {list(exc.path)}: {exc.message}")
    return wrong


COMMANDS: dict[str, Callable[..., Any]] = {
    "validate": validate,
    "lint": lint,
    "render": render,
    "package": package,
    "files": files,
    "act": act,
}


def main() -> None:
    for line in sys.stdin:
        name, arguments, options = json.loads(line)
        try:
            answer = {"result": COMMANDS[name](*arguments, **options)}
        except helm_python.HelmError as exc:
            answer = {"error": str(exc)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
