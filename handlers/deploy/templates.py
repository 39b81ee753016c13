"""The files that a rendering starts from, comments and all: those below ``infra/``, and ``serverless.yml``."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import infra

if TYPE_CHECKING:
    from ruamel.yaml import YAML

ROOT = Path(infra.__file__).parent


_AT_THE_ROOT = ("serverless.yml",)
"""Where the Serverless Framework looks for it in a checkout; a wheel has it in ``infra/``."""


def text(name: str) -> str:
    """Return a file's text.

    Args:
        name: relative to ``infra/``.
    """
    path = ROOT / name
    if name in _AT_THE_ROOT and not path.exists():
        path = ROOT.parent / name
    return path.read_text(encoding="utf-8")


def load(name: str) -> Any:
    """Return a YAML file's document, to be changed in place; comments stay where they are."""
    return parse(text(name))


def parse(document: str) -> Any:
    """Return the document of a YAML file's text, as `load` does."""
    return _yaml().load(document)


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
