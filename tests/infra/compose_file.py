"""A compose file as compose reads it: variables, merges, and where a container's paths are on this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.servers import ROOT
from tests.servers.processes import clean_environment

PATH = ROOT / "infra" / "compose" / "compose.yaml"
TOOLS = ROOT / ".tools" / "compose"
NEEDS_TOOLS = "needs podman-compose, compose-spec and compose-lint in .tools/compose: run infra/ci/install.sh"

_VARIABLE = re.compile(r"\$\{(\w+)(?::?([-?])([^}]*))?\}")


def interpolate(text: str, variables: Mapping[str, str] | None = None) -> str:
    """Put variables in, or their defaults: ``${NAME:-default}``; raise KeyError for one that has to be set and is not.

    https://docs.docker.com/reference/compose-file/interpolation/
    """

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if found := (variables or {}).get(name):
            return found
        if kind == "?":
            raise KeyError(f"{name}: {rest}")
        return rest or ""

    return _VARIABLE.sub(value, text)


def parse(text: str, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(interpolate(text, variables))
    return found


def mounts(service: Mapping[str, Any], directory: Path) -> dict[str, Path]:
    """Return where on this machine what is mounted comes from, by its path in the container."""
    pairs = (volume.split(":")[:2] for volume in service.get("volumes", ()))
    return {target: (directory / source).resolve() for source, target in pairs}


def argv(service: Mapping[str, Any]) -> list[str]:
    return [*service.get("entrypoint", ()), *service.get("command", ())]


def run_tool(*command: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python with what checks compose files, which is not for this process: its dependencies are others."""
    env = {**clean_environment(), "PYTHONPATH": str(TOOLS)}
    return subprocess.run(
        [sys.executable, *command], input=text, env=env, capture_output=True, text=True, timeout=50, check=False
    )
