"""Make what pip installed fit for an image that only serves: smaller, byte-compiled, readable by any user.

Run in the image's build with the image's own Python; needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import shutil
import site
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from pathlib import Path

PACKAGES = ("handlers", "runtime", "model_cache")

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
    # For building C and C++ programs.
    "openvino/include",
    "openvino/cmake",
    "openvino/libs/libopenvino_c.so*",
    "openvino/libs/tbb.pc",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/random/lib",
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

# botocore describes every AWS service, in 27 MB. Models come from S3; the others are how the credential chain signs in.
AWS_SERVICES = frozenset({"s3", "sts", "sso", "sso-oidc", "signin"})

UNUSED_STDLIB = ("ensurepip", "idlelib", "lib2to3", "test", "tkinter", "turtledemo")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="slim.py", description=__doc__)
    commands = parser.add_subparsers(required=True)
    base = commands.add_parser("base", help="drop the installers of the running Python and byte-compile its library")
    base.set_defaults(run=lambda _: slim_base())
    installed = commands.add_parser("installed", help="drop what serving never reads from a venv, compile the rest")
    installed.add_argument("venv", type=Path)
    installed.set_defaults(run=lambda args: slim_installed(args.venv))
    product = commands.add_parser("product", help="lay out this source tree as it is to lie over the venv")
    product.add_argument("source", type=Path)
    product.add_argument("venv", type=Path)
    product.add_argument("--root", type=Path, required=True, help="the directory that will become /")
    product.set_defaults(run=lambda args: install_product(args.source, args.venv, args.root))
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


def slim_base() -> None:
    stdlib = Path(sysconfig.get_path("stdlib"))
    remove(stdlib, UNUSED_STDLIB)
    for directory in site.getsitepackages():
        remove(Path(directory), UNUSED)
    remove(Path(sysconfig.get_path("scripts")), ("pip*", "idle*", "2to3*", "wheel"))
    # The official images ship the library without byte code: every start would compile what it imports.
    byte_compile(stdlib)


def slim_installed(venv: Path) -> None:
    packages = site_packages(venv)
    remove(packages, UNUSED)
    keep_aws_services(packages / "botocore" / "data", AWS_SERVICES)
    # The packages' own commands: converters, benchmarks, servers started in other ways.
    for script in (venv / "bin").iterdir():
        if not script.name.startswith("python"):
            script.unlink()
    byte_compile(packages)
    make_readable(venv)


def install_product(source: Path, venv: Path, root: Path) -> None:
    """Copy the product's packages to where they lie in ``venv`` once ``root`` is laid over ``/``.

    An image layer of its own, so that a changed line of ours moves kilobytes and not OpenVINO.
    """
    target = under(root, site_packages(venv))
    for package in PACKAGES:
        shutil.copytree(source / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    write_metadata(source / "pyproject.toml", target)
    byte_compile(target, root)
    write_scripts(source / "pyproject.toml", venv, root)
    make_readable(root)


def remove(directory: Path, patterns: Iterable[str]) -> None:
    # Some name nothing here: the wheels for arm64 hold no GPU plugin, the official base image no lib2to3.
    for path in [match for pattern in patterns for match in directory.glob(pattern)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def keep_aws_services(data: Path, names: frozenset[str]) -> None:
    for path in data.iterdir():
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path)


def byte_compile(directory: Path, root: Path | None = None) -> None:
    """Compile every module, to code that is used without a look at the source's time or content.

    Image builders rewrite file times, and the file system is read-only: code that went stale could not be replaced.
    """
    done = compileall.compile_dir(
        directory,
        force=True,
        quiet=1,
        workers=0,
        stripdir=root,
        prependdir=Path("/") if root else None,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not done:
        sys.exit(f"slim.py: not every module under {directory} compiles")


def write_metadata(pyproject: Path, target: Path) -> None:
    """Name the product to whoever lists the image's packages, and to ``importlib.metadata``."""
    project = tomllib.loads(pyproject.read_text())["project"]
    info = target / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    fields = {"Metadata-Version": "2.1", "Name": project["name"], "Version": project["version"]}
    (info / "METADATA").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    (info / "INSTALLER").write_text("image\n")


def write_scripts(pyproject: Path, venv: Path, root: Path) -> None:
    directory = under(root, venv / "bin")
    directory.mkdir(parents=True, exist_ok=True)
    for name, entry in tomllib.loads(pyproject.read_text())["project"]["scripts"].items():
        module, _, function = entry.partition(":")
        code = f"import sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
        (directory / name).write_text(f"#!{venv}/bin/python\n{code}")
        (directory / name).chmod(0o755)
    # Where OpenVINO Model Server's image has it, and so the commands of people's manifests.
    link = under(root, Path("/ovms/bin/ovms"))
    link.parent.mkdir(parents=True)
    link.symlink_to(venv / "bin" / "ovms")


def make_readable(directory: Path) -> None:
    # Lambda runs the image as a user of its own choosing; a source tree's modes depend on who checked it out.
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o444 | (0o111 if path.is_dir() or mode & 0o100 else 0))


def site_packages(venv: Path) -> Path:
    return venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def under(root: Path, path: Path) -> Path:
    return root / os.path.relpath(path, "/")


if __name__ == "__main__":
    main()
