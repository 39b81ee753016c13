"""What the platforms' pages have users type: the manifests can be rendered, and the files named are there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

import pytest

from handlers.deploy.parse import parse
from handlers.deploy.targets import renderer
from tests.servers import ROOT

PAGES = {"cloud-run": "cloud_run.md", "container-apps": "container_apps.md", "knative": "knative.md"}


def exported(page: str) -> Mapping[str, str]:
    """Return the variables that a page has users set, each with those before it put in."""
    values: dict[str, str] = {}
    for line in re.findall(r"(?m)^\s*export (.*)$", page):
        for name, text in re.findall(r"(\w+)=(\S+)", line):
            values[name] = filled(text, {"RANDOM": "12345", **values})
    return values


def filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], text)


@pytest.mark.parametrize("target", PAGES)
def test_a_pages_manifest_is_one_and_its_files_are_rendered(target: str) -> None:
    page = (ROOT / "docs" / "deploy" / PAGES[target]).read_text()
    (block,) = re.findall(r"(?s)cat > models\.yaml << END\n(.*?)\n\s*END\n", page)
    indent = len(block) - len(block.lstrip())
    text = "\n".join(line[indent:] for line in block.splitlines())
    files = renderer(target)(parse(filled(text, exported(page))))
    named = {PurePosixPath(path).name for path in re.findall(rf"deploy/{target}/([\w.-]+)", page)}
    assert "deploy.sh" in named
    assert named <= files.keys()
    assert f"decant deploy render --target {target} models.yaml -o deploy" in page
