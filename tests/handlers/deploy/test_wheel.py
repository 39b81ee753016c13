"""The package: an installed `decant deploy render` has all that it renders from, and no checkout."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from handlers.deploy.targets import TARGETS
from tests.handlers.deploy.manifests import fields, text
from tests.servers import ROOT
from tests.servers.processes import clean_environment

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="needs hatchling: uv sync, or pip install hatchling"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the wheel has."""
    directory = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site-packages")
    return directory / "site-packages"


def deploy(packages: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    env = clean_environment({"PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"})
    argv = [sys.executable, "-m", "handlers.cli", "deploy", *arguments]
    # From elsewhere, as this directory is looked in first.
    return subprocess.run(
        argv, cwd=packages, env=env, input=stdin, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_wheel_renders_what_a_checkout_does(installed: Path, tmp_path: Path) -> None:
    # In the container, where every platform can read it.
    given = fields({"name": "digits", "base_path": "/models/digits"})
    # Google does not take Amazon's images, nor Amazon others.
    on_google = {**given, "image": "europe-docker.pkg.dev/acme/ml/decant:1"}
    others = [f"--target={target}" for target in TARGETS if target != "cloud-run"]
    for packages, name in ((installed, "wheel"), (ROOT, "checkout")):
        for targets, document in ((others, given), (["--target=cloud-run"], on_google)):
            done = deploy(packages, "render", *targets, f"--output={tmp_path / name}", "-", stdin=text(document))
            assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path / "wheel") == contents(tmp_path / "checkout")
    assert {path.name for path in (tmp_path / "wheel").iterdir()} == set(TARGETS)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_wheel_has_no_tests_and_nothing_of_ci(installed: Path) -> None:
    assert not (installed / "tests").exists()
    assert not (installed / "infra" / "ci").exists()
    assert (installed / "infra" / "models.yaml").is_file()
    assert (installed / "infra" / "serverless.yml").read_bytes() == (ROOT / "serverless.yml").read_bytes()
