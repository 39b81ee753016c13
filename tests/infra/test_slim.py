"""What the image's build does to installed packages, done to small trees by this Python."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.infra.inventory import UNCHECKED_HASH, flags_of_code
from tests.servers import ROOT

SLIM = ROOT / "infra" / "slim.py"
LIB = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")


def slim(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SLIM, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A venv as pip leaves it, in miniature."""
    venv = tmp_path / "venv"
    for name in (
        "openvino/__init__.py",
        "openvino/tools/ovc/__init__.py",
        "openvino/libs/libopenvino_intel_cpu_plugin.so",
        "openvino/libs/libopenvino_intel_gpu_plugin.so",
        "openvino/libs/cache.json",
        "openvino_telemetry/__init__.py",
        "openvino_telemetry-1.dist-info/METADATA",
        "numpy/lib/tests/test_io.py",
        "numpy/testing/__init__.py",
        "botocore/data/endpoints.json",
        "botocore/data/ec2/service-2.json.gz",
        "botocore/data/s3/service-2.json.gz",
    ):
        write(venv / LIB / name)
    for name in ("python3", "ovc", "uvicorn"):
        write(venv / "bin" / name)
    return venv


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def files(directory: Path) -> set[str]:
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith(".pyc")}


def test_what_serving_never_reads_is_dropped(venv: Path) -> None:
    assert slim("installed", venv).returncode == 0
    assert files(venv / LIB) == {
        "openvino/__init__.py",
        "openvino/libs/libopenvino_intel_cpu_plugin.so",
        "numpy/testing/__init__.py",
        "botocore/data/endpoints.json",
        "botocore/data/s3/service-2.json.gz",
    }
    assert files(venv / "bin") == {"python3"}


def test_what_is_kept_is_compiled_and_never_checked(venv: Path) -> None:
    slim("installed", venv)
    source = venv / LIB / "openvino" / "__init__.py"
    assert flags_of_code(source) == UNCHECKED_HASH


def test_any_user_can_read_what_only_its_owner_could(venv: Path) -> None:
    module = venv / LIB / "openvino" / "__init__.py"
    module.chmod(0o600)
    module.parent.chmod(0o700)
    (venv / "bin" / "python3").chmod(0o700)
    slim("installed", venv)
    assert module.stat().st_mode & 0o777 == 0o644
    assert module.parent.stat().st_mode & 0o777 == 0o755
    assert (venv / "bin" / "python3").stat().st_mode & 0o777 == 0o755


def test_a_module_that_does_not_compile_fails_the_build(venv: Path) -> None:
    write(venv / LIB / "broken.py", "def\n")
    done = slim("installed", venv)
    assert done.returncode == 1
    assert "broken.py" in done.stdout + done.stderr


def test_the_product_is_laid_out_as_it_will_lie(tmp_path: Path) -> None:
    root = tmp_path / "out"
    assert slim("product", ROOT, "/opt/decant", "--root", root).returncode == 0
    packages = root / "opt" / "decant" / LIB
    assert {path.name.partition("-")[0] for path in packages.iterdir()} == {
        "decant",
        "handlers",
        "model_cache",
        "runtime",
    }
    for source in packages.rglob("*.py"):
        assert flags_of_code(source) == UNCHECKED_HASH


def test_tracebacks_name_the_files_where_they_will_be(tmp_path: Path) -> None:
    slim("product", ROOT, "/opt/decant", "--root", tmp_path)
    packages = tmp_path / "opt" / "decant" / LIB
    code = next((packages / "runtime" / "__pycache__").glob("errors.*.pyc")).read_bytes()
    assert f"/opt/decant/{LIB}/runtime/errors.py".encode() in code
    assert str(tmp_path).encode() not in code


def test_the_command_and_the_version_are_those_of_the_source_tree(tmp_path: Path) -> None:
    # Laid over this very Python's prefix, the command's first line names an interpreter that exists.
    prefix = Path(sys.prefix)
    slim("product", ROOT, prefix, "--root", tmp_path)
    laid = tmp_path / prefix.relative_to("/")
    environ = {"PYTHONPATH": str(laid / LIB), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [laid / "bin" / "decant", "--version"], env=environ, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert done.stdout.splitlines()[0] == f"Decant {project['version']}"
    assert {path.name for path in (laid / "bin").iterdir()} == project["scripts"].keys()
    assert (tmp_path / "ovms" / "bin" / "ovms").readlink() == prefix / "bin" / "ovms"
