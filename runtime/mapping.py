"""mapping_config.json: the names that clients use for a model's tensors, as OpenVINO Model Server has it.

::

    {"inputs": {"tensor": "public name"}, "outputs": {...}}

Either part may be absent, and tensors that are not in it keep their names.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from runtime.ports import NO_NAMES, Names

logger = logging.getLogger(__name__)

MAX_SIZE = 1 << 20


def read_names(model: str, path: Path) -> Names:
    """Return what the file says; nothing, with a warning, if it makes no sense, as in OpenVINO Model Server.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        # To open a pipe would be to wait for who writes to it.
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
        return _parse(data)
    except FileNotFoundError:
        return NO_NAMES
    except (ValueError, RecursionError) as exc:
        logger.warning("%s: ignoring its %s: %s", model, path.name, exc)
        return NO_NAMES


def _parse(data: bytes) -> Names:
    if len(data) > MAX_SIZE:
        raise ValueError(f"it has more than {MAX_SIZE} bytes")
    content = json.loads(data)
    if not isinstance(content, dict):
        raise ValueError(f"it is a {type(content).__name__}; want an object")
    if unknown := content.keys() - {"inputs", "outputs"}:
        raise ValueError(f"it has {sorted(unknown)[:10]}; want inputs and outputs")
    return Names(*(_names(kind, content.get(kind, {})) for kind in Names._fields))


def _names(kind: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(_is_name(name) for name in value.values()):
        raise ValueError(f"its {kind} are {ascii(value)[:100]}; want an object of names")
    return value


def _is_name(name: object) -> bool:
    # What cannot be printed may be half a character, which no answer could have in it.
    return isinstance(name, str) and bool(name) and name.isprintable()
