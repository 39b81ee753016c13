"""What begins with an underscore is its module's own."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.servers import ROOT

PACKAGES = ("handlers", "runtime", "model_cache", "infra")


def borrowed(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
            yield from (f"{node.module}.{name.name}" for name in node.names if name.name.startswith("_"))


def test_no_module_imports_what_is_another_ones_own() -> None:
    assert list(borrowed("from handlers.limits import _groups as groups\nfrom handlers.limits import cpu_room")) == [
        "handlers.limits._groups"
    ]
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(sources) > 100
    found = {str(path.relative_to(ROOT)): list(borrowed(path.read_text())) for path in sources}
    assert {path: names for path, names in found.items() if names} == {}
