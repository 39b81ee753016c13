"""Policies as the platforms judge them, as far as those of this repository go."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Any


def admits(statements: Iterable[dict[str, Any]], action: str, resource: str, prefix: str | None = None) -> bool:
    """Judge a request to S3 as IAM would.

    Args:
        statements: of a policy; their ARNs have no variables.
        resource: an ARN.
        prefix: that a listing asks for; None if the request says none.
    """
    return any(_admits(statement, action, resource, prefix) for statement in statements)


def _admits(statement: dict[str, Any], action: str, resource: str, prefix: str | None) -> bool:
    assert statement["Effect"] == "Allow"
    assert statement.keys() <= {"Sid", "Effect", "Action", "Resource", "Condition"}
    condition = statement.get("Condition", {})
    assert condition.keys() <= {"StringLike"}
    prefixes = condition.get("StringLike", {})
    assert prefixes.keys() <= {"s3:prefix"}
    # What a request has not is like nothing.
    is_meant = not condition or (prefix is not None and _is_one(prefix, prefixes["s3:prefix"]))
    return is_meant and _is_one(action, statement["Action"]) and _is_one(resource, statement["Resource"])


def _is_one(value: str, patterns: str | list[str]) -> bool:
    # IAM knows * and ?, and no [].
    listed = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(value, pattern.replace("[", "[[]")) for pattern in listed)


def cel_admits(expression: str, resource: str) -> bool:
    """Judge a condition of Google's, made of ``==`` and ``startsWith`` on resource.name and ``||``."""
    if not expression:
        return True
    outcomes = []
    for term in expression.split(" || "):
        found = re.fullmatch(r'resource\.name(?: == "([^"\\]+)"|\.startsWith\("([^"\\]+)"\))', term)
        assert found, term
        outcomes.append(resource == found[1] if found[1] else resource.startswith(found[2]))
    return any(outcomes)


_BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
_ASKED = {f"@Resource[{_BLOBS}:path]": "read", f"@Request[{_BLOBS}:prefix]": "list"}


def abac_admits(condition: str, verb: str, key: str) -> bool:
    """Judge a condition of an Azure role assignment, for reading a blob or listing those below a prefix.

    To Azure listing is reading too, with a suboperation. An attribute that a request has not is no match.
    """
    if not condition:
        return True
    tokens = re.findall(r"[()!]|AND|OR|NOT|\w+\{'[^']*'\}|@\w+\[[^\]]*\] \w+ '[^']*'", condition)
    assert "".join(tokens).replace(" ", "") == condition.replace(" ", ""), condition

    def holds(token: str) -> bool:
        if token == f"ActionMatches{{'{_BLOBS}/read'}}":
            return True
        if token == "SubOperationMatches{'Blob.List'}":
            return verb == "list"
        found = re.fullmatch(r"(@\w+\[[^\]]*\]) StringStartsWith '([^']*)'", token)
        assert found, token
        return _ASKED[found[1]] == verb and key.startswith(found[2])

    def disjunction() -> bool:
        value = conjunction()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            value |= conjunction()
        return value

    def conjunction() -> bool:
        value = factor()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            value &= factor()
        return value

    def factor() -> bool:
        token = tokens.pop(0)
        if token in ("!", "NOT"):
            return not factor()
        if token != "(":
            return holds(token)
        value = disjunction()
        assert tokens.pop(0) == ")"
        return value

    value = disjunction()
    assert not tokens
    return value
