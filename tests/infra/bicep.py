"""Bicep files, parsed by pycep and worked out as far as those here go: what ARM would be sent.

There is no compiler to be had without a download, so this is no check of types: names of properties are compared with
the reference by the tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.servers import ROOT

TOOLS = ROOT / ".tools" / "checkov"
IS_INSTALLED = (TOOLS / "pycep").is_dir()
NEEDS_PYCEP = "needs pycep, which comes with checkov, in .tools/checkov: infra/ci/install.sh"
_PARSE = (
    "import json, sys; from pycep import BicepParser; json.dump(BicepParser().parse(text=sys.stdin.read()), sys.stdout)"
)


def read(path: Path) -> Any:
    """Return a file's syntax.

    Raises:
        ValueError: it is no Bicep.
    """
    return _parse(path.read_text())


@cache
def _parse(text: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PARSE],
        input=text,
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"no Bicep: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


class Deployment:
    """A file with its parameters given.

    A name of a parameter or variable is that one's value, wherever it stands alone: pycep's syntax does not tell
    names from texts. What only Azure knows, such as an identity's ID, stays an expression: ``identity.id``.
    """

    def __init__(self, syntax: Any, parameters: Mapping[str, Any]) -> None:
        self._syntax = syntax
        unknown = parameters.keys() - syntax["parameters"].keys()
        assert not unknown, f"no parameters of the file: {unknown}"
        self._names = {name: fields["default"] for name, fields in syntax["parameters"].items()}
        self._names |= {name: fields["value"] for name, fields in syntax["variables"].items()}
        self._names |= parameters
        for name, fields in syntax["parameters"].items():
            assert self._names[name] is not None or fields["default"] is not None, f"{name} is not given"
            self._check(name, fields["decorators"], self._names[name])

    def resources(self, symbol: str) -> list[Any]:
        """Return what a resource of the file becomes: several of a loop, none where its condition is not met."""
        config = self._syntax["resources"][symbol]["config"]
        if config.get("condition") and not self._value(config["condition"], {}):
            return []
        if "loop_type" in config:
            detail = config["loop_type"]["detail"]
            items = self._value(detail["array_name"], {})
            names = ({detail["item_name"]: item, detail.get("index_name"): i} for i, item in enumerate(items))
            return [self._value(config["config"], each) for each in names]
        return [self._value(config.get("config", config) if "condition" in config else config, {})]

    def resource(self, symbol: str) -> Any:
        (one,) = self.resources(symbol)
        return one

    def _check(self, name: str, decorators: Any, value: Any) -> None:
        for decorator in decorators:
            kind, argument = decorator["type"], decorator["argument"]
            if kind == "allowed":
                assert value in argument, f"{name} is {value}"
            elif kind in ("min_value", "min_length"):
                assert (value if kind == "min_value" else len(value)) >= argument, f"{name} is {value}"
            elif kind in ("max_value", "max_length"):
                assert (value if kind == "max_value" else len(value)) <= argument, f"{name} is {value}"

    def _value(self, node: Any, local: Mapping[str | None, Any]) -> Any:
        names = {**self._names, **local}
        if isinstance(node, list):
            return [self._value(each, local) for each in node]
        if isinstance(node, str):
            if node in names:
                found = names[node]
                return self._value(found, {}) if isinstance(found, dict) and "function" in found else found
            return re.sub(r"\$\{(\w+)\}", lambda match: str(names.get(match[1], match[0])), node)
        if not isinstance(node, dict):
            return node
        if "operator" in node:
            return self._operator(node["operator"]["type"], node["operator"]["operands"], local)
        if "function" in node:
            return self._function(node["function"]["type"], node["function"]["parameters"], local)
        return {name: self._value(each, local) for name, each in node.items()}

    def _operator(self, kind: str, operands: Any, local: Mapping[str | None, Any]) -> Any:
        match kind:
            case "conditional":
                branch = "true_value" if self._value(operands["condition"], local) else "false_value"
                return self._value(operands[branch], local)
            case "not":
                return not self._value(operands["bool_value"], local)
            case "property_accessor" | "index_accessor":
                owner = operands["operand_1"]
                if owner in local and isinstance(local[owner], dict):
                    return local[owner][operands["operand_2"]]
                return _expression({"operator": {"type": kind, "operands": operands}}, local)
        raise NotImplementedError(kind)

    def _function(self, kind: str, parameters: Any, local: Mapping[str | None, Any]) -> Any:
        values = [self._value(each, local) for each in parameters.values() if each is not None]
        match kind:
            case "empty":
                return not values[0]
            case "concat":
                return [item for part in values for item in part]
            case "json":
                return json.loads(values[0])
            case "subscription_resource_id":
                return "/".join(values)
            case "guid":
                return f"guid({', '.join(values)})"
        return kind


def _expression(node: Any, local: Mapping[str | None, Any]) -> str:
    if not isinstance(node, dict):
        return str(local.get(node, node))
    operator = node["operator"]
    first, second = (_expression(operator["operands"][name], local) for name in ("operand_1", "operand_2"))
    return f"{first}[{second}]" if operator["type"] == "index_accessor" else f"{first}.{second}"
