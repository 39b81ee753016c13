"""CloudFormation's functions and conditions, as far as the templates of this repository use them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from handlers.deploy import templates

PSEUDO: Mapping[str, str] = {
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::AccountId": "123456789012",
    "AWS::StackName": "decant-dev-serve",
    "AWS::URLSuffix": "amazonaws.com",
}
_ABSENT = object()


class Refused(Exception):
    """A parameter is not what it may be, or a rule does not hold; with what the template says of it."""


def stack(template: Mapping[str, Any], parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the resources that a stack with these parameters has, every function but GetAtt of resources worked out.

    Raises:
        Refused: CloudFormation would not begin.
    """
    return _Stack(template, parameters).resources()


class _Stack:
    def __init__(self, template: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
        self._template = template
        declared = template.get("Parameters", {})
        assert parameters.keys() <= declared.keys(), parameters.keys() - declared.keys()
        self._values = {name: str(parameters.get(name, one.get("Default"))) for name, one in declared.items()}
        for name, one in declared.items():
            _check(name, one, self._values[name])
        for rule in template.get("Rules", {}).values():
            if self.holds(rule.get("RuleCondition", {"Fn::Equals": [1, 1]})):
                for assertion in rule["Assertions"]:
                    if not self.holds(assertion["Assert"]):
                        raise Refused(assertion["AssertDescription"])

    def resources(self) -> dict[str, Any]:
        return {
            name: self.value({"Type": one["Type"], "Properties": one.get("Properties", {})})
            for name, one in self._template["Resources"].items()
            if "Condition" not in one or self.holds({"Condition": one["Condition"]})
        }

    def holds(self, test: Any) -> bool:
        ((function, given),) = test.items()
        if function == "Condition":
            return self.holds(self._template["Conditions"][given])
        if function == "Fn::Not":
            return not self.holds(given[0])
        if function == "Fn::Or":
            return any(self.holds(one) for one in given)
        assert function == "Fn::Equals", function
        one, other = (str(self.value(side)) for side in given)
        return one == other

    def value(self, given: Any) -> Any:
        if isinstance(given, list):
            return [value for one in given if (value := self.value(one)) is not _ABSENT]
        if not isinstance(given, dict):
            return given
        if len(given) == 1:
            ((function, argument),) = given.items()
            if function == "Ref" or function.startswith("Fn::"):
                return self._call(function, argument)
        return {name: value for name, one in given.items() if (value := self.value(one)) is not _ABSENT}

    def _call(self, function: str, given: Any) -> Any:
        if function == "Ref":
            return self._ref(given)
        if function == "Fn::If":
            return self.value(given[1 if self.holds({"Condition": given[0]}) else 2])
        if function == "Fn::Sub":
            text, more = given if isinstance(given, list) else (given, {})
            return re.sub(r"\$\{([^}!]+)\}", lambda name: str(more.get(name[1], self._ref(name[1]))), text)
        if function == "Fn::Join":
            return given[0].join(str(self.value(one)) for one in given[1])
        assert function == "Fn::GetAtt", function
        return ".".join(given) if isinstance(given, list) else given

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _ABSENT
        return {**PSEUDO, **self._values}.get(name, name)


def _check(name: str, declared: Mapping[str, Any], value: str) -> None:
    pattern, allowed = declared.get("AllowedPattern"), declared.get("AllowedValues")
    fits = (
        (pattern is None or re.fullmatch(pattern.removeprefix("^").removesuffix("$"), value) is not None)
        and (allowed is None or value in map(str, allowed))
        and len(value) <= declared.get("MaxLength", 4096)
        and (declared["Type"] != "Number" or _is_within(declared, float(value)))
    )
    if not fits:
        raise Refused(f"{name}: {declared.get('ConstraintDescription', 'not allowed')}")


def _is_within(declared: Mapping[str, Any], value: float) -> bool:
    return bool(declared.get("MinValue", value) <= value <= declared.get("MaxValue", value))


def parse(text: str) -> Any:
    """Return a template's YAML with the short forms of functions written out."""
    return _plain(templates.parse(text))


def _plain(node: Any) -> Any:
    tag = getattr(getattr(node, "tag", None), "value", None)
    plain: Any = getattr(node, "value", node)
    if isinstance(node, Mapping):
        plain = {str(name): _plain(one) for name, one in node.items()}
    elif isinstance(node, list):
        plain = [_plain(one) for one in node]
    elif isinstance(plain, str):
        plain = str(plain)
    if tag is None or not tag.startswith("!"):
        return plain
    name = tag[1:]
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": plain}
