"""What the image's build does to installed packages and to the source tree, done to small trees by this Python."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

from infra.image import elf, trees
from tests.infra.inventory import UNCHECKED_HASH, flags_of_code
from tests.servers import ROOT

LIB = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
VENV = Path("opt", "decant")
STATUS = Path("var", "lib", "dpkg", "status.d")


def image(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.image", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def libraries(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return image("libraries", root, "--venv", "/opt/decant", *arguments)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with a venv as pip leaves it, in miniature."""
    venv = tmp_path / "out" / VENV
    for name in (
        "openvino/__init__.py",
        "openvino/tools/ovc/__init__.py",
        "openvino/libs/libopenvino_intel_cpu_plugin.so",
        "openvino/libs/libopenvino_intel_gpu_plugin.so",
        "openvino/libs/libopenvino_onnx_frontend.so.2641",
        "openvino/libs/libopenvino_tensorflow_frontend.so.2641",
        "openvino/libs/libopenvino_tensorflow_lite_frontend.so.2641",
        "openvino/libs/cache.json",
        "openvino/frontend/onnx/__init__.py",
        "openvino_telemetry/__init__.py",
        "openvino_telemetry-1.dist-info/METADATA",
        "numpy/lib/tests/test_io.py",
        "numpy/testing/__init__.py",
        "numpy/__init__.pyi",
        "botocore/data/endpoints.json",
        "botocore/data/ec2/service-2.json.gz",
        "botocore/data/s3/service-2.json.gz",
    ):
        write(venv / LIB / name)
    for name in ("python3", "ovc", "uvicorn"):
        write(venv / "bin" / name)
    write(venv / "pyvenv.cfg", "home = /usr/bin\ncommand = /usr/bin/python -m venv /out/opt/decant\n")
    return tmp_path / "out"


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def files(directory: Path) -> set[str]:
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith(".pyc")}


def test_what_serving_never_reads_is_dropped(root: Path) -> None:
    assert libraries(root).returncode == 0
    assert files(root / VENV / LIB) == {
        "openvino/__init__.py",
        "openvino/frontend/onnx/__init__.py",
        "openvino/libs/libopenvino_intel_cpu_plugin.so",
        "openvino/libs/libopenvino_onnx_frontend.so.2641",
        "openvino/libs/libopenvino_tensorflow_frontend.so.2641",
        "openvino/libs/libopenvino_tensorflow_lite_frontend.so.2641",
        "numpy/testing/__init__.py",
        "botocore/data/endpoints.json",
        "botocore/data/s3/service-2.json.gz",
    }
    assert files(root / VENV / "bin") == {"python3"}
    assert (root / VENV / "pyvenv.cfg").read_text() == "home = /usr/bin\n"


@pytest.mark.parametrize(
    ("frontends", "kept"),
    [
        ("tflite", {"tensorflow_lite"}),
        ("ir", set()),
        ("", set()),
        ("onnx,tensorflow", {"onnx", "tensorflow"}),
        ("tensorflow, onnx ir", {"onnx", "tensorflow"}),
    ],
)
def test_formats_are_kept_by_name(root: Path, frontends: str, kept: set[str]) -> None:
    assert libraries(root, "--frontends", frontends).returncode == 0
    packages = root / VENV / LIB / "openvino"
    found = {path.name for path in (packages / "libs").glob("*_frontend.so*")}
    assert found == {f"libopenvino_{name}_frontend.so.2641" for name in kept}
    assert (packages / "frontend" / "onnx").exists() == ("onnx" in kept)


def test_a_format_that_there_is_not_fails_the_build_and_is_named(root: Path) -> None:
    done = libraries(root, "--frontends", "onnx,caffe")
    assert done.returncode == 1
    assert "no front end caffe; there are ir, onnx, paddle, tensorflow, tflite" in done.stderr


def test_what_is_kept_is_compiled_and_never_checked(root: Path) -> None:
    libraries(root)
    source = root / VENV / LIB / "openvino" / "__init__.py"
    assert flags_of_code(source) == UNCHECKED_HASH


def test_any_user_can_read_what_only_its_owner_could(root: Path) -> None:
    module = root / VENV / LIB / "openvino" / "__init__.py"
    program = root / VENV / "bin" / "python3"
    module.chmod(0o600)
    module.parent.chmod(0o700)
    program.chmod(0o770)
    libraries(root)
    assert [path.stat().st_mode & 0o7777 for path in (module, module.parent, program)] == [0o644, 0o755, 0o755]
    assert {path.lstat().st_mtime for path in root.rglob("*")} == {trees.TIME}


def test_a_module_that_does_not_compile_fails_the_build(root: Path) -> None:
    write(root / VENV / LIB / "broken.py", "def\n")
    done = libraries(root)
    assert done.returncode == 1
    assert "broken.py" in done.stdout + done.stderr


def test_a_record_names_the_files_that_are_left(root: Path) -> None:
    packages = root / VENV / LIB
    info = packages / "numpy-2.dist-info"
    write(info / "RECORD", "numpy/testing/__init__.py,sha256=x,1\nnumpy/__init__.pyi,,\nnumpy-2.dist-info/RECORD,,\n")
    write(packages / "numpy" / "testing" / "__init__.py", "x = 1\n")
    libraries(root)
    with (info / "RECORD").open(newline="") as file:
        module, record = csv.reader(file)
    assert (module[0], module[2], record) == ("numpy/testing/__init__.py", "6", ["numpy-2.dist-info/RECORD", "", ""])
    assert module[1] == "sha256=nia_NpkRxFwkPGhBR7I_yeHc_PJX0pmhxjIBam_NM_Q"


def test_byte_code_is_the_same_each_time(root: Path, tmp_path: Path) -> None:
    packages = root / VENV / LIB
    for name in ("fastapi", "anyio", "requests"):
        source = distribution(name).locate_file(name)
        shutil.copytree(Path(str(source)), packages / name, ignore=shutil.ignore_patterns("__pycache__"))
    other = tmp_path / "other"
    shutil.copytree(root, other)
    for tree in (root, other):
        assert libraries(tree).returncode == 0
    names = [path.relative_to(root) for path in root.rglob("*.pyc")]
    assert len(names) > 100
    assert [name for name in names if (root / name).read_bytes() != (other / name).read_bytes()] == []
    assert [name for name in names if str(tmp_path).encode() in (root / name).read_bytes()] == []


@pytest.mark.parametrize("name", ["uvloop", "pillow", "orjson"])
def test_a_stripped_library_loads_and_is_no_larger(name: str, tmp_path: Path) -> None:
    installed = [Path(str(file.locate())) for file in distribution(name).files or () if file.suffix == ".so"]
    for source in installed:
        # Beside its own, where it finds the libraries of its wheel.
        stripped = source.with_name(f".stripped-{os.getpid()}-{source.name}")
        shutil.copyfile(source, stripped)
        try:
            elf.strip(stripped)
            assert stripped.stat().st_size <= source.stat().st_size
            ctypes.CDLL(str(stripped))
        finally:
            stripped.unlink()


def test_stripping_takes_symbols_out(tmp_path: Path) -> None:
    module = next(Path(str(file.locate())) for file in distribution("uvloop").files or () if file.suffix == ".so")
    stripped = tmp_path / module.name
    shutil.copyfile(module, stripped)
    elf.strip(stripped)
    assert stripped.stat().st_size < 0.5 * module.stat().st_size
    assert elf.is_elf(stripped)


def test_a_copied_link_leads_to_what_it_led_to(tmp_path: Path) -> None:
    system = tmp_path / "system"
    write(system / "usr" / "bin" / "dash", "a shell")
    (system / "usr" / "bin" / "sh").symlink_to("dash")
    (system / "bin").symlink_to("usr/bin")
    copied = tmp_path / "copied"
    trees.copy(system / "bin" / "sh", copied)
    inside = trees.under(copied, system)
    assert (inside / "bin").readlink() == Path("usr/bin")
    assert (inside / "usr" / "bin" / "sh").readlink() == Path("dash")
    assert (inside / "bin" / "sh").read_text() == "a shell"


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """The tree of a system that has one package."""
    system = tmp_path / "system"
    write(system / STATUS / "base-files", "Package: base-files\nVersion: 1\nArchitecture: all\n")
    write(system / STATUS / "base-files.md5sums")
    write(system / "usr" / "share" / "doc" / "base-files" / "copyright", "Format: x\nLicense: GPL-2+\n")
    write(system / "etc" / "os-release", 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian"\n')
    return system


def product(root: Path, system: Path, venv: str = "/opt/decant") -> subprocess.CompletedProcess[str]:
    return image("product", ROOT, root, "--venv", venv, "--below", system)


def test_the_product_is_laid_out_as_it_will_lie(tmp_path: Path, system: Path) -> None:
    root = tmp_path / "out"
    done = product(root, system)
    assert (done.returncode, done.stderr) == (0, "")
    packages = root / VENV / LIB
    assert {path.name.partition("-")[0] for path in packages.iterdir()} == {
        "decant",
        "handlers",
        "infra",
        "model_cache",
        "runtime",
    }
    for source in packages.rglob("*.py"):
        assert flags_of_code(source) == UNCHECKED_HASH
    # Templates that are rendered in a container, and nothing that only builds and tests want.
    assert (packages / "infra" / "serverless.yml").read_text() == (ROOT / "serverless.yml").read_text()
    assert not {"ci", "image"} & {path.name for path in (packages / "infra").iterdir()}
    assert os.access(root / VENV / "bin" / "entrypoint.sh", os.X_OK)


def test_tracebacks_name_the_files_where_they_will_be(tmp_path: Path, system: Path) -> None:
    root = tmp_path / "out"
    product(root, system)
    code = next((root / VENV / LIB / "runtime" / "__pycache__").glob("errors.*.pyc")).read_bytes()
    assert f"/opt/decant/{LIB}/runtime/errors.py".encode() in code
    assert str(tmp_path).encode() not in code


def test_the_bill_lists_what_is_there(tmp_path: Path, system: Path) -> None:
    root = tmp_path / "out"
    product(root, system)
    bill = json.loads((root / "usr" / "share" / "sbom" / "decant.cdx.json").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert bill["metadata"]["component"]["purl"] == f"pkg:pypi/decant@{version}"
    package = next(found for found in bill["components"] if found["name"] == "base-files")
    assert package["purl"] == "pkg:deb/debian/base-files@1?arch=all&distro=debian-12"
    assert package["licenses"] == [{"license": {"name": "GPL-2+"}}]


def test_a_library_that_is_nobodys_fails_the_build(tmp_path: Path, system: Path) -> None:
    # One that is in no package is Python's, where that is no package itself; so it must not lie in the system's tree.
    other = tmp_path / "other"
    other.mkdir()
    shutil.copyfile(Path(sys.executable).resolve(), other / "stray")
    root = tmp_path / "out"
    done = image("product", ROOT, root, "--venv", "/opt/decant", "--below", system, "--below", other)
    assert done.returncode == 1
    assert "these libraries are nobody's: stray" in done.stderr


def test_the_command_and_the_version_are_those_of_the_source_tree(tmp_path: Path, system: Path) -> None:
    # Laid over this very Python's prefix, the command's first line names an interpreter that exists.
    prefix = Path(sys.prefix)
    root = tmp_path / "out"
    product(root, system, str(prefix))
    laid = root / prefix.relative_to("/")
    environ = {"PYTHONPATH": str(laid / LIB), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [laid / "bin" / "decant", "--version"], env=environ, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert done.stdout.splitlines()[0] == f"Decant {project['version']}"
    commands = {path.name for path in (laid / "bin").iterdir()}
    assert commands == project["scripts"].keys() | {"entrypoint.sh", "healthcheck.py"}
    assert (root / "ovms" / "bin" / "ovms").readlink() == prefix / "bin" / "ovms"
