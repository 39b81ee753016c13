"""The files below ``infra/`` that a rendering starts from, comments and all."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import infra

if TYPE_CHECKING:
    from ruamel.yaml import YAML

ROOT = Path(infra.__file__).parent


def text(name: str) -> str:
    """Return a file's text.

    Args:
        name: relative to ``infra/``.
    """
    return (ROOT / name).read_text()


def load(name: str) -> Any:
    """Return a YAML file's document, to be changed in place; comments stay where they are."""
    return _yaml().load(text(name))


def dump(*documents: Any) -> str:
    """Return documents as YAML."""
    stream = io.StringIO()
    _yaml().dump_all(documents, stream)
    return stream.getvalue()


@cache
def _yaml() -> YAML:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.preserve_quotes = True
    return yaml
