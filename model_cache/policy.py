"""Which of a model's versions are served: the policies of TensorFlow Serving and OpenVINO Model Server, and their text.

A policy speaks of version numbers alone. Which versions are there, and whole, is the repository's to know.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

logger = logging.getLogger(__name__)

MAX_VERSION = 2**63 - 1

_MAX_TEXT = 10_000
_WANTED = "want latest { num_versions: N }, all {} or specific { versions: [N, ...] }, or one of them as JSON"
_FIELDS = {"latest": "num_versions", "all": None, "specific": "versions"}

# Compiled when there is something to read: few have a policy.
_COMMENT = r"#[^\n]*"
_TOKEN = r"(?a)-?\w+|\S"
_NAME = r"(?a)[A-Za-z_]\w*"
# Protobuf would read a leading zero as octal, and JSON has none.
_INTEGER = r"(?a)-?(0|[1-9]\d{0,18})"


class VersionPolicy(Protocol):
    def offers(self, numbers: Collection[int]) -> list[int]:
        """Return which of the versions there are may be asked for by number, in ascending order."""
        ...

    def candidates(self, numbers: Collection[int]) -> list[int]:
        """Return which of them may answer a request for none in particular, best first."""
        ...


@dataclass(frozen=True)
class Latest:
    """The newest versions; if all of them are broken an older one answers, as in OpenVINO Model Server."""

    num_versions: int = 1

    def __post_init__(self) -> None:
        if self.num_versions < 1:
            raise ValueError(f"num_versions is {self.num_versions}; want 1 or more")

    def offers(self, numbers: Collection[int]) -> list[int]:
        return sorted(numbers)[-self.num_versions :]

    def candidates(self, numbers: Collection[int]) -> list[int]:
        return sorted(numbers, reverse=True)


@dataclass(frozen=True)
class All:
    def offers(self, numbers: Collection[int]) -> list[int]:
        return sorted(numbers)

    def candidates(self, numbers: Collection[int]) -> list[int]:
        return sorted(numbers, reverse=True)


@dataclass(frozen=True)
class Specific:
    versions: frozenset[int]

    def __post_init__(self) -> None:
        if not self.versions:
            raise ValueError("versions is empty; want one or more")
        for version in self.versions:
            if not 1 <= version <= MAX_VERSION:
                raise ValueError(f"{version} is no version; want 1 to {MAX_VERSION}")

    def offers(self, numbers: Collection[int]) -> list[int]:
        return sorted(self.versions.intersection(numbers))

    def candidates(self, numbers: Collection[int]) -> list[int]:
        return sorted(self.versions.intersection(numbers), reverse=True)


def parse_policy(text: str) -> VersionPolicy:
    """Read a policy as OpenVINO Model Server has it, in JSON, or TensorFlow Serving, in protobuf's text format.

    ``model_version_policy { }`` may be around it. ``latest {}`` is the latest one, as in TensorFlow Serving.

    Raises:
        ValueError: it is neither, or names no versions.
    """
    try:
        if len(text) > _MAX_TEXT:
            raise ValueError(f"it has {len(text)} characters; want {_MAX_TEXT} at most")
        is_json = text.lstrip().startswith("{")
        return _policy(_read_json(text) if is_json else _read_text(text), is_lenient=is_json)
    except RecursionError as exc:
        raise ValueError(f"cannot read the version policy {_short(text)}: too deeply nested; {_WANTED}") from exc
    except ValueError as exc:
        raise ValueError(f"cannot read the version policy {_short(text)}: {exc}; {_WANTED}") from exc


def _policy(fields: dict[str, object], *, is_lenient: bool) -> VersionPolicy:
    if list(fields) == ["model_version_policy"]:
        fields = _message("model_version_policy", fields["model_version_policy"])
    if len(fields) != 1:
        raise ValueError(f"it has {len(fields)} policies")
    [(policy, body)] = fields.items()
    if policy not in _FIELDS:
        raise ValueError(f"{_short(policy)} is no policy")
    body = _message(policy, body)
    for name in body:
        if name != _FIELDS[policy]:
            raise ValueError(f"{policy} has no field {_short(name)}")
    if policy == "latest":
        return Latest(_integer(body.get("num_versions", 1)))
    if policy == "specific":
        return Specific(frozenset(_served(_integers(body.get("versions", [])), is_lenient)))
    return All()


def _served(versions: list[int], is_lenient: bool) -> list[int]:
    """Return the versions without those that cannot be, if these are only warned of, as OpenVINO Model Server does."""
    if is_lenient and (odd := sorted({version for version in versions if version < 1})):
        logger.warning("the version policy names %s, which are passed over; want 1 or more", _short(odd))
        return [version for version in versions if version >= 1]
    return versions


def _message(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {_short(value)}, which has no fields")
    return value


def _integers(value: object) -> list[int]:
    if not isinstance(value, list):
        raise ValueError(f"versions is {_short(value)}, which is no list")
    return [_integer(item) for item in value]


def _integer(value: object) -> int:
    # True is an int to Python.
    if type(value) is not int:
        raise ValueError(f"{_short(value)} is no integer")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _read_json(text: str) -> dict[str, object]:
    value: object = json.loads(
        text,
        object_pairs_hook=_unique,
        parse_int=_read_integer,
        parse_float=_read_integer,
        parse_constant=_read_integer,
    )
    return _message("it", value)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"{_short(name)} is given twice")
        fields[name] = value
    return fields


def _read_integer(text: str) -> int:
    if not re.fullmatch(_INTEGER, text):
        raise ValueError(f"{_short(text)} is no integer of 64 bits")
    return int(text)


def _read_text(text: str) -> dict[str, object]:
    # The next token is the last of the list; below them all is the end.
    tokens = ["", *reversed(re.findall(_TOKEN, re.sub(_COMMENT, " ", text)))]
    fields = _read_fields(tokens)
    _expect(tokens, "")
    return fields


def _read_fields(tokens: list[str]) -> dict[str, object]:
    """Take fields off the tokens for as long as they begin with a name."""
    fields: dict[str, object] = {}
    while re.fullmatch(_NAME, tokens[-1]):
        name = tokens.pop()
        has_colon = _take(tokens, ":")
        value: object
        if _take(tokens, "{"):
            value = _read_fields(tokens)
            _expect(tokens, "}")
        elif not has_colon:
            raise ValueError(f"{_shown(tokens[-1])} follows {_short(name)}")
        elif _take(tokens, "["):
            value = _read_integers(tokens)
        else:
            value = _read_integer(tokens.pop())
        _ = _take(tokens, ",") or _take(tokens, ";")
        if name == "versions":
            # A repeated field: each time it is given adds to it.
            value = [*_integers(fields.pop(name, [])), *(value if isinstance(value, list) else [value])]
        if name in fields:
            raise ValueError(f"{_short(name)} is given twice")
        fields[name] = value
    return fields


def _read_integers(tokens: list[str]) -> list[int]:
    values: list[int] = []
    while not _take(tokens, "]"):
        if values:
            _expect(tokens, ",")
        values.append(_read_integer(tokens.pop()))
    return values


def _take(tokens: list[str], token: str) -> bool:
    if tokens[-1] != token:
        return False
    tokens.pop()
    return True


def _expect(tokens: list[str], token: str) -> None:
    found = tokens.pop()
    if found != token:
        raise ValueError(f"{_shown(found)} is where {_shown(token)} should be")


def _shown(token: str) -> str:
    return _short(token) if token else "the end"
