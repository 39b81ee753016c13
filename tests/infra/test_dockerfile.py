"""The Dockerfile, against the tree it copies from and the requirements it installs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.image.product import BUILD_ONLY, PACKAGES
from tests.servers import ROOT

REQUIREMENTS = (ROOT / "requirements" / "image.txt").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINTERS = ROOT / ".tools" / "lint" / "bin"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each with its text on one line."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, text.strip()) for name, _, text in (line.partition(" ") for line in joined.splitlines() if line)]


def copied() -> Iterator[str]:
    """What is copied from the source tree, not from another stage."""
    for name, text in instructions():
        if name == "COPY" and "--from=" not in text:
            *sources, _ = [word for word in text.split() if not word.startswith("--")]
            yield from sources


def requirements() -> dict[str, str]:
    """Each requirement by its name as PyPI normalises it, hashes included."""
    logical = re.sub(r"\s*#.*", "", REQUIREMENTS).replace("\\\n", " ").splitlines()
    return {normalised(re.split(r"[=\[<>;\s]", line)[0]): line for line in logical if line.strip()}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_everything_copied_exists_and_reaches_the_build() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = set(copied())
    assert [source for source in sources if not (ROOT / source).exists()] == []
    whole = {source for source in sources if not any(parent in sources for parent in parents(source))}
    assert whole | {"Dockerfile"} == allowed


def parents(path: str) -> set[str]:
    return {str(parent) for parent in Path(path).parents}


def test_the_packages_copied_are_those_of_the_wheel() -> None:
    packages = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert set(PACKAGES) == packages
    assert packages <= set(copied())
    left_out = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["exclude"])
    assert left_out <= {f"/{path}" for path in BUILD_ONLY}


def test_the_last_stage_contains_no_base_and_runs_nothing() -> None:
    names = [name for name, _ in instructions()]
    last = len(names) - 1 - names[::-1].index("FROM")
    assert instructions()[last] == ("FROM", "scratch")
    assert "RUN" not in names[last:]
    layers = [text for name, text in instructions()[last:] if name == "COPY"]
    assert layers[-1].startswith("--from=product"), "what changes most comes last"


def test_the_label_tells_the_version() -> None:
    labels = " ".join(text for name, text in instructions() if name == "LABEL")
    assert f'org.opencontainers.image.version="{PROJECT["project"]["version"]}"' in labels


def test_every_requirement_is_pinned_with_a_hash() -> None:
    pinned = r"[A-Za-z0-9._-]+==\S+( ; [^;]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*"
    assert [line for line in requirements().values() if not re.fullmatch(pinned, line)] == []


def test_the_requirements_name_no_index() -> None:
    assert "://" not in REQUIREMENTS
    assert not re.search(r"^\s*(-i|-f|--index-url|--extra-index-url|--find-links)\b", REQUIREMENTS, re.MULTILINE)


def test_the_requirements_are_all_that_the_product_declares() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    declared = [*PROJECT["project"]["dependencies"], *(name for extra in extras.values() for name in extra)]
    wanted = {normalised(re.split(r"[\[<>=]", requirement)[0]) for requirement in declared} - {"decant"}
    assert wanted - set(requirements()) == set()


def test_the_node_programs_of_the_tests_are_locked_without_a_host() -> None:
    assert '"resolved"' not in (ROOT / "infra" / "ci" / "package-lock.json").read_text()


def lint(linter: str, *arguments: str | Path) -> None:
    program = shutil.which(linter, path=f"{LINTERS}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip(f"needs {linter}: run infra/ci/install.sh")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_hadolint_has_nothing_to_say() -> None:
    lint("hadolint", "Dockerfile")


def test_checkov_has_nothing_to_say() -> None:
    checkov = ROOT / ".tools" / "checkov"
    if not checkov.exists():
        pytest.skip("needs checkov: run infra/ci/install.sh")
    command = [sys.executable, "-m", "checkov.main", "--framework=dockerfile", "--file=Dockerfile", "--compact"]
    environ = {**os.environ, "PYTHONPATH": str(checkov), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, "--quiet", "--skip-download", "--output=json"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    found = json.loads(done.stdout)
    assert found["summary"]["passed"] > 20
    assert [check["check_name"] for check in found["results"]["failed_checks"]] == []


def test_shellcheck_has_nothing_to_say() -> None:
    lint("shellcheck", *sorted((ROOT / "infra").rglob("*.sh")))
