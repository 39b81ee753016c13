"""Terraform's files as JSON: reads a directory's name from its arguments, writes what python-hcl2 finds to stdout.

A program of its own, as that package is no dependency of the tests: PYTHONPATH is ``.tools/checkov``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import hcl2

found: dict[str, list[object]] = {}
for path in sorted(Path(sys.argv[1]).glob("*.tf")):
    with path.open() as file:
        for kind, blocks in hcl2.load(file).items():
            found.setdefault(kind, []).extend(blocks)
json.dump(found, sys.stdout)
