"""Shell scripts below ``infra/``, with other values in them."""

from __future__ import annotations

import re
import shlex


def assign(script: str, **values: str | bool) -> str:
    """Return a script with other values in the lines that set these variables, each of which there must be once."""
    for name, value in values.items():
        text = str(value).lower() if isinstance(value, bool) else value
        script = replace(script, rf"(?m)^{name}=.*$", f"{name}={shlex.quote(text)}")
    return script


def default(script: str, **values: str) -> str:
    """Return a script with other defaults in the lines ``NAME=${NAME:-…}``; an empty value leaves what is there.

    Args:
        values: without anything that a shell would not take for itself.
    """
    for name, value in values.items():
        if value:
            script = replace(script, rf"(?m)^{name}=\$\{{{name}:-.*\}}$", f"{name}=${{{name}:-{value}}}")
    return script


def replace(script: str, pattern: str, text: str) -> str:
    """Return a script in which what matches, which must be there once, is this text."""
    script, count = re.subn(pattern, lambda match: text, script)
    if count != 1:
        raise ValueError(f"{pattern!r} is there {count} times; want once")
    return script
