"""What pip installed, made fit for an image that only serves: smaller, byte-compiled, readable by any user."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import shutil
import sys
from pathlib import Path

from infra.image import elf
from infra.image.bytecode import byte_compile
from infra.image.trees import normalise, remove, under

LICENCES = Path(__file__).with_name("licences")

# Globs under site-packages. Whatever is named here is never read by a server that runs models on the CPU.
UNUSED = (
    # Serving needs no model converter, and importing this one starts telemetry.
    "openvino/tools",
    "openvino_telemetry*",
    # Devices that no serverless platform lends; cache.json tunes the GPU's kernels.
    "openvino/libs/libopenvino_intel_gpu_plugin.so*",
    "openvino/libs/libopenvino_intel_npu_plugin.so*",
    "openvino/libs/cache.json",
    # Formats that are code or need their own framework to read: models in these are converted beforehand.
    "openvino/libs/libopenvino_pytorch_frontend.so*",
    "openvino/libs/libopenvino_jax_frontend.so*",
    "openvino/libs/libopenvino_gguf_frontend.so*",
    "openvino/frontend/pytorch",
    "openvino/frontend/jax",
    "openvino/torch",
    # For building C and C++ programs, and for type checkers.
    "openvino/include",
    "openvino/cmake",
    "openvino/libs/libopenvino_c.so*",
    "openvino/libs/tbb.pc",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/random/lib",
    "numpy/f2py",
    "**/*.h",
    "**/*.c",
    "**/*.cpp",
    "**/*.pxd",
    "**/*.pxi",
    "**/*.pyx",
    "**/*.pyi",
    "**/*.proto",
    # Of Pillow what reads AVIF, draws text, converts colours and shows windows: six formats are read.
    "PIL/_avif.*",
    "PIL/_imagingft.*",
    "PIL/_imagingcms.*",
    "PIL/_imagingtk.*",
    "pillow.libs/libavif*",
    "pillow.libs/libbrotli*",
    "pillow.libs/libfreetype*",
    "pillow.libs/libharfbuzz*",
    "pillow.libs/liblcms2*",
    "pillow.libs/libpng16*",
    # Its second implementation, for Pythons that are not CPython.
    "zstandard/_cffi*",
    "zstandard/backend_cffi.py",
    # Test suites, 17 MB of them.
    "numpy/**/tests",
    # Installers.
    "pip",
    "pip-*",
    "setuptools",
    "setuptools-*",
    "pkg_resources",
    "wheel",
    "wheel-*",
    "_distutils_hack",
    "distutils-precedence.pth",
)

FRONTENDS = {"onnx": "onnx", "paddle": "paddle", "tensorflow": "tensorflow", "tflite": "tensorflow_lite"}
"""What the names of formats are in OpenVINO's file names. IR is not among them: it is always there."""

# botocore describes every AWS service, in 27 MB. Models come from S3; the others are how the credential chain signs in.
AWS_SERVICES = frozenset({"s3", "sts", "sso", "sso-oidc", "signin"})


def prepare(root: Path, venv: Path, frontends: str) -> None:
    """Leave in the venv below ``root`` what a server reads.

    Args:
        root: the directory that will become ``/``.
        venv: where the venv will be then.
        frontends: names of `FRONTENDS` to keep, between commas or spaces.
    """
    packages = site_packages(under(root, venv))
    remove(packages, UNUSED)
    remove_frontends(packages, frontends)
    for sdk in ("botocore", "boto3"):
        keep_aws_services(packages / sdk / "data", AWS_SERVICES)
    drop_commands(under(root, venv))
    for path in packages.rglob("*.so*"):
        if not path.is_symlink() and elf.is_elf(path):
            elf.strip(path)
    add_licences(packages)
    for record in packages.glob("*.dist-info/RECORD"):
        write_record(record)
    byte_compile(packages, root)
    normalise(root)


def site_packages(venv: Path) -> Path:
    return venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def remove_frontends(packages: Path, frontends: str) -> None:
    wanted = set(filter(None, re.split(r"[,\s]+", frontends))) - {"ir"}
    if unknown := sorted(wanted - FRONTENDS.keys()):
        sys.exit(f"infra.image: no front end {', '.join(unknown)}; there are ir, {', '.join(FRONTENDS)}")
    for name in FRONTENDS.keys() - wanted:
        library = FRONTENDS[name]
        remove(packages, (f"openvino/libs/libopenvino_{library}_frontend.so*", f"openvino/frontend/{library}"))


def keep_aws_services(data: Path, names: frozenset[str]) -> None:
    for path in data.glob("*/"):
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path)


def drop_commands(venv: Path) -> None:
    """Drop the packages' own commands: converters, benchmarks, servers started in other ways."""
    for script in (venv / "bin").iterdir():
        if not script.name.startswith("python"):
            script.unlink()
    remove(venv, ("include", ".gitignore"))
    # It says how the venv was made, and where.
    settings = (venv / "pyvenv.cfg").read_text().splitlines(keepends=True)
    (venv / "pyvenv.cfg").write_text("".join(line for line in settings if not line.startswith("command ")))


def add_licences(packages: Path) -> None:
    """Add the texts that wheels should have and have not."""
    for text in LICENCES.iterdir():
        for info in packages.glob(f"{text.stem}-*.dist-info"):
            for empty in (path for path in info.glob("LICENSE*") if not path.stat().st_size):
                empty.unlink()
            (info / "licenses").mkdir(exist_ok=True)
            shutil.copyfile(text, info / "licenses" / "LICENSE")


def write_record(record: Path) -> None:
    """Let a distribution's list of files name those that are left, as they are now.

    Format: https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    packages = record.parent.parent
    with record.open(newline="") as file:
        names = [row[0] for row in csv.reader(file)]
    licences = (str(path.relative_to(packages)) for path in record.parent.glob("licenses/*") if path.is_file())
    with record.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for name in dict.fromkeys([*names, *licences]):
            path = packages / name
            if path == record:
                writer.writerow((name, "", ""))
            elif path.is_file():
                digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=")
                writer.writerow((name, f"sha256={digest.decode()}", path.stat().st_size))
