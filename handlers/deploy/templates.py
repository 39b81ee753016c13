"""The files that a rendering starts from, comments and all: those below ``infra/``, and ``serverless.yml``."""

from __future__ import annotations

import io
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import infra

if TYPE_CHECKING:
    from ruamel.yaml import YAML

ROOT = Path(infra.__file__).parent


_AT_THE_ROOT = ("serverless.yml",)
"""Where the Serverless Framework looks for it in a checkout; a wheel has it in ``infra/``."""


_NO_TEXT = re.compile(
    r"(?ai)y|n|yes|no|on|off|true|false|null|~|=|<<"
    r"|[-+]?\.?\d[\da-f_:.,+xotz -]*|[-+]?\.(inf|nan)"
)
"""What, in no quotes, some reader has for a number, a date, a boolean or nothing: gcloud, SAM and podman-compose read
YAML 1.1, where 1:8 is 68 and no is false, and kubectl and Helm read something in between that and 1.2."""


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
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        """A class, as representers are registered with one."""

    def represent(representer: RoundTripRepresenter, value: str) -> Any:
        style = '"' if _NO_TEXT.fullmatch(value) else None
        return representer.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Representer.add_representer(str, represent)
    yaml = YAML()
    yaml.Representer = Representer
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.preserve_quotes = True
    return yaml
