"""YAML as text, for what is to go with the comments that are about it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from handlers.deploy.script import replace


def without(text: str, indent: int, names: Iterable[str]) -> str:
    """Return a document's text without some keys at this indent, each of which there must be once, nor what they have,
    nor the comments right above them."""
    for name in names:
        comments = rf"(?:^ {{{indent}}}#.*\n)*"
        deeper = rf"(?:^ {{{indent + 1},}}\S.*\n)*"
        text = replace(text, rf"(?m){comments}^ {{{indent}}}{name}:.*\n{deeper}", "")
    return text


def headed(text: str, lines: Iterable[str]) -> str:
    """Return a document's text with these comments at its beginning, in the place of what comments it has there."""
    heading = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return heading + re.sub(r"\A(?:#.*\n)*", "", text)
