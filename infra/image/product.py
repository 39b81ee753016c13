"""The product itself, as it is to lie over the libraries, and the list of all that is in the image.

An image layer of its own, so that a changed line of ours moves kilobytes and not OpenVINO.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.image import sbom
from infra.image.bytecode import byte_compile
from infra.image.libraries import site_packages, write_record
from infra.image.trees import normalise, under

PACKAGES = ("handlers", "runtime", "model_cache", "infra")

# For builds and tests; of no use to who runs ``decant deploy render`` in a container.
BUILD_ONLY = ("infra/ci", "infra/image")

BILL = Path("/usr/share/sbom/decant.cdx.json")


def lay_out(source: Path, root: Path, venv: Path, below: Sequence[Path]) -> None:
    """Copy the product's packages to where they lie in ``venv`` once ``root`` is laid over ``/``.

    Args:
        source: the source tree.
        root: the directory that will become ``/``.
        venv: where the venv will be then.
        below: the trees of the layers below, whose content is listed with this one's.
    """
    target = site_packages(under(root, venv))
    for package in PACKAGES:
        shutil.copytree(source / package, target / package, ignore=_left_out(source))
    # Where a wheel has it too, for `decant deploy render`.
    shutil.copyfile(source / "serverless.yml", target / "infra" / "serverless.yml")
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    write_metadata(project, source / "LICENSE", target)
    write_scripts(project, venv, root)
    for name in ("entrypoint.sh", "healthcheck.py"):
        shutil.copyfile(source / "infra" / name, under(root, venv) / "bin" / name)
        (under(root, venv) / "bin" / name).chmod(0o755)
    byte_compile(target, root)
    bill = under(root, BILL)
    bill.parent.mkdir(parents=True)
    bill.write_text(sbom.bill_of_materials([*below, root], venv, project))
    normalise(root)


def write_metadata(project: dict[str, Any], licence: Path, target: Path) -> None:
    """Name the product to whoever lists the image's packages, and to ``importlib.metadata``."""
    info = target / f"{project['name']}-{project['version']}.dist-info"
    (info / "licenses").mkdir(parents=True)
    fields = {
        "Metadata-Version": "2.4",
        "Name": project["name"],
        "Version": project["version"],
        "License-Expression": project["license"],
        "License-File": "LICENSE",
    }
    (info / "METADATA").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    (info / "INSTALLER").write_text("image\n")
    shutil.copyfile(licence, info / "licenses" / "LICENSE")
    files = [path.relative_to(target) for path in sorted(target.rglob("*")) if path.is_file()]
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in (*files, info.relative_to(target) / "RECORD")))
    write_record(info / "RECORD")


def write_scripts(project: dict[str, Any], venv: Path, root: Path) -> None:
    directory = under(root, venv / "bin")
    directory.mkdir(parents=True, exist_ok=True)
    for name, entry in project["scripts"].items():
        module, _, function = entry.partition(":")
        code = f"import sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
        (directory / name).write_text(f"#!{venv}/bin/python\n{code}")
        (directory / name).chmod(0o755)
    # Where OpenVINO Model Server's image has it, and so the commands of people's manifests.
    link = under(root, Path("/ovms/bin/ovms"))
    link.parent.mkdir(parents=True)
    link.symlink_to(venv / "bin" / "ovms")


def _left_out(source: Path) -> Any:
    build_only = {source / path for path in BUILD_ONLY}

    def ignore(directory: str, names: list[str]) -> set[str]:
        return {name for name in names if name == "__pycache__" or Path(directory, name) in build_only}

    return ignore
