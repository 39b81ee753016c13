"""Compile ``config.schema.json`` into Python, as doing that at a start would take a tenth of it.

Run as ``python -m handlers.config_compile`` when the schema has changed, or fastjsonschema.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fastjsonschema

SCHEMA = Path(__file__).with_name("config.schema.json")
TARGET = Path(__file__).with_name("config_validator.py")

_HEADER = '''"""Whether JSON fits ``config.schema.json``. Written by ``python -m handlers.config_compile``."""

# fmt: off
# mypy: ignore-errors
# ruff: noqa
'''
# All that it imports of the library, which takes longer to import than this saves.
_ERRORS = "from fastjsonschema import JsonSchemaValueException, JsonSchemaValuesException\n"
_OWN_ERRORS = """

class JsonSchemaValueException(ValueError):
    pass


class JsonSchemaValuesException(ValueError):
    pass
"""


def compile_schema() -> str:
    """Return a module with ``validate(data)``, which raises a JsonSchemaValueException of its own."""
    code = fastjsonschema.compile_to_code(json.loads(SCHEMA.read_bytes()), use_default=False, detailed_exceptions=False)
    before, imports, after = code.partition(_ERRORS)
    if not imports:
        raise SystemExit(f"fastjsonschema {fastjsonschema.VERSION} does not import its errors as before")
    return f"{_HEADER}{before}{_OWN_ERRORS}{after.rstrip()}\n"


if __name__ == "__main__":
    TARGET.write_text(compile_schema())
    sys.stdout.write(f"wrote {TARGET.name}, {TARGET.stat().st_size} bytes\n")
