"""Helm's own library, in a child process: renders, lints and installs the chart as the command would."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers import ROOT
from tests.servers.processes import clean_environment

LIBRARY = ROOT / ".tools" / "kubernetes"
IS_INSTALLED = (LIBRARY / "helm_python").exists()
NEEDS_HELM = "needs Helm's library and Kubernetes' schemas: run infra/ci/install.sh"
CHART = ROOT / "infra" / "helm"


class HelmRefusedError(Exception):
    """What Helm would print and end with."""


class Helm:
    def __init__(self, child: subprocess.Popen[str], log: Path) -> None:
        self._child = child
        self._log = log

    def call(self, command: str, /, *arguments: Any, **options: Any) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps([command, arguments, options]) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        assert line, f"Helm's process has ended: {self._log.read_text()}"
        answer = json.loads(line)
        if "error" in answer:
            raise HelmRefusedError(answer["error"])
        return answer["result"]

    def wrong_with(self, documents: list[dict[str, Any]], version: str) -> list[str]:
        """Return what a version of Kubernetes has against these; of kinds that are not its own, their names."""
        found: list[str] = self.call("validate", documents, version)
        return found

    def render(self, values: dict[str, Any], name: str = "prod", namespace: str = "models") -> dict[str, str]:
        """Return the texts of manifests, by the name of their template."""
        rendered = self.call("render", str(CHART), values, name=name, namespace=namespace)
        return {name.partition("/templates/")[2]: text for name, text in rendered.items()}


@contextlib.contextmanager
def helm(log: Path) -> Iterator[Helm]:
    environ = clean_environment({"PYTHONPATH": str(LIBRARY), "HOME": str(log.parent)})
    script = Path(__file__).with_name("helm_script.py")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environ,
            text=True,
        ) as child,
    ):
        try:
            yield Helm(child, log)
        finally:
            child.kill()
