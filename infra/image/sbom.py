"""The bill of materials: every distribution, package and shared library that is in the image, found in its trees.

Format: CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/. Where a wheel brings a bill of its own (PEP 770), what that
says is linked in is listed too.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
import sysconfig
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

from infra.image import debian, elf
from infra.image.libraries import site_packages
from infra.image.trees import under

Component = dict[str, Any]

# SPDX's identifiers, https://spdx.org/licenses/, by what PyPI's classifiers and old metadata say instead.
_IDENTIFIERS = {name: name for name in ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MPL-2.0")} | {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


def bill_of_materials(trees: Sequence[Path], venv: Path, project: Mapping[str, Any]) -> str:
    """Return the bill as JSON.

    Args:
        trees: the image's layers, lowest first, each with a directory that will become ``/``.
        venv: where the venv will be.
        project: of pyproject.toml.
    """
    libraries = _libraries(trees)
    components = [
        *_system(trees, libraries),
        *_distributions([under(tree, site_packages(venv)) for tree in trees], venv, libraries),
    ]
    if libraries:
        sys.exit(f"infra.image: these libraries are nobody's: {', '.join(sorted(libraries))}")
    product = next(component for component in components if component["name"] == project["name"])
    components.remove(product)
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "component": product | {"type": "application", "description": project["description"]},
        },
        "components": components,
        "dependencies": [{"ref": product["bom-ref"], "dependsOn": sorted(found["bom-ref"] for found in components)}],
    }
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document, sort_keys=True))
    return json.dumps({"serialNumber": f"urn:uuid:{number}"} | document, indent=1) + "\n"


def _libraries(trees: Sequence[Path]) -> dict[str, Component]:
    """Return the programs and shared libraries of all trees, by path without the first slash."""
    found = {}
    for tree in trees:
        for path in sorted(tree.rglob("*")):
            if path.is_file() and not path.is_symlink() and elf.is_elf(path):
                name = str(path.relative_to(tree))
                found[name] = _file(name, path)
    return found


def _file(name: str, path: Path) -> Component:
    base = name.rpartition("/")[2]
    # auditwheel's names: libjpeg-6dc8d115.so.62.4.0.
    bundled = re.fullmatch(r"(lib.+?)(?:-[0-9a-f]{8})+(?:_)?\.so(?:\.([\d.]+))?", base)
    component: Component = {"type": "library" if bundled else "file", "bom-ref": f"file:/{name}"}
    component["name"] = bundled[1] if bundled else f"/{name}"
    if bundled and bundled[2]:
        component["version"] = bundled[2]
    component["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]
    if bundled:
        component["evidence"] = {"occurrences": [{"location": f"/{name}"}]}
    return component


def _system(trees: Sequence[Path], libraries: dict[str, Component]) -> Iterator[Component]:
    root = next(tree for tree in trees if under(tree, debian.STATUS).exists())
    release = dict(
        line.replace('"', "").split("=", 1) for line in (root / "etc" / "os-release").read_text().splitlines() if line
    )
    yield {
        "type": "operating-system",
        "bom-ref": "operating-system",
        "name": release["ID"],
        "version": release["VERSION_ID"],
        "description": release["PRETTY_NAME"],
    }
    for package in debian.packages(root):
        yield _package(package, release, root, libraries)
    # The official images build Python themselves; its files are no package's.
    yield from _python(root, libraries)


def _package(
    package: debian.Package, release: Mapping[str, str], root: Path, libraries: dict[str, Component]
) -> Component:
    distribution = f"{release['ID']}-{release['VERSION_ID']}"
    qualifiers = f"arch={package.architecture}&distro={distribution}"
    purl = f"pkg:deb/{release['ID']}/{quote(package.name)}@{quote(package.version)}?{qualifiers}"
    return _with_parts(
        {
            "type": "library",
            "bom-ref": purl,
            "supplier": {"name": package.maintainer},
            "name": package.name,
            "version": package.version,
            "licenses": [{"license": {"name": name}} for name in debian.licences(package.name, root)],
            "purl": purl,
            "properties": [
                {"name": "decant:licence-text", "value": f"{debian.DOC}/{package.name}/copyright"},
                {"name": "decant:source-package", "value": package.source},
            ],
        },
        [libraries.pop(name) for name in package.files if name in libraries],
    )


def _python(root: Path, libraries: dict[str, Component]) -> Iterator[Component]:
    version = platform.python_version()
    own = [name for name in libraries if (root / name).exists()]
    if own:
        yield _with_parts(
            {
                "type": "platform",
                "bom-ref": f"pkg:generic/python@{version}",
                "supplier": {"name": "Python Software Foundation"},
                "name": "python",
                "version": version,
                "licenses": [{"license": {"id": "PSF-2.0"}}],
                "cpe": f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*",
                "purl": f"pkg:generic/python@{version}",
                "properties": [{"name": "decant:licence-text", "value": f"{sysconfig.get_path('stdlib')}/LICENSE.txt"}],
            },
            [libraries.pop(name) for name in own],
        )


def _distributions(directories: Sequence[Path], venv: Path, libraries: dict[str, Component]) -> Iterator[Component]:
    prefix = str(site_packages(venv)).lstrip("/")
    for distribution in sorted(distributions(path=list(map(str, directories))), key=lambda found: found.name.lower()):
        files = [f"{prefix}/{name}" for name in distribution.files or ()]
        name = re.sub(r"[-_.]+", "-", distribution.name).lower()
        purl = f"pkg:pypi/{name}@{distribution.version}"
        component = {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": distribution.version,
            "licenses": _licences(distribution),
            "purl": purl,
            "properties": [
                {"name": "decant:licence-text", "value": f"/{prefix}/{text}"} for text in _licence_texts(distribution)
            ],
        }
        parts = [libraries.pop(name) for name in files if name in libraries]
        yield _with_parts(component, [*parts, *_linked_in(distribution, purl)])


def _with_parts(component: Component, parts: Sequence[Component]) -> Component:
    return {name: value for name, value in component.items() if value} | ({"components": list(parts)} if parts else {})


def _licences(distribution: Distribution) -> list[Component]:
    metadata = distribution.metadata
    # Some put the whole text into the old field.
    said = metadata["License-Expression"] or (metadata["License"] or "").partition("\n")[0].strip()
    if metadata["License-Expression"] or re.fullmatch(r"[\w.+-]+(?: (?:AND|OR|WITH) [\w.+-]+)+", said):
        return [{"expression": said}]
    if said in _IDENTIFIERS:
        return [{"license": {"id": _IDENTIFIERS[said]}}]
    classified = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if "License" in line]
    return [{"license": _licence(name)} for name in sorted(set(classified) or {said}) if name]


def _licence(name: str) -> Mapping[str, str]:
    return {"id": _IDENTIFIERS[name]} if name in _IDENTIFIERS else {"name": name}


def _licence_texts(distribution: Distribution) -> list[str]:
    """Return the paths of a distribution's licences and notices, as they will be in the image."""
    named = re.compile(r"[^/]+\.dist-info/(?:licenses/.*|[^/]*(?:licen[cs]e|copying|notice)[^/]*)", re.IGNORECASE)
    return sorted(str(path) for path in distribution.files or () if named.fullmatch(str(path)))


def _linked_in(distribution: Distribution, purl: str) -> Iterator[Component]:
    """Yield what the wheel's own bills list, but for what was needed to build it only, and for what was left out."""
    found: dict[str, Component] = {}
    for path in distribution.files or ():
        if path.match("*.dist-info/sboms/*.json"):
            bill = json.loads(Path(str(path.locate())).read_text())
            present = _present(bill, distribution)
            for component in bill.get("components", ()):
                reference = component.get("purl") or f"{component['name']}@{component.get('version', '')}"
                if component.get("scope") != "excluded" and component.get("bom-ref") in present:
                    found.setdefault(reference, component)
    for reference, component in sorted(found.items()):
        kept = ("type", "name", "version", "description", "scope", "hashes", "licenses", "purl")
        yield {"bom-ref": f"{purl}#{reference}"} | {name: component[name] for name in kept if component.get(name)}


def _present(bill: Mapping[str, Any], distribution: Distribution) -> set[str | None]:
    """Return the references of a bill's components that something leads to which is still there."""
    components = bill.get("components", ())
    left_out = {component["bom-ref"] for component in components if _is_left_out(component, distribution)}
    graph = {node["ref"]: node.get("dependsOn", ()) for node in bill.get("dependencies", ())}
    reachable: set[str | None] = {None}
    leads = [node for node in graph if not any(node in targets for targets in graph.values())]
    while leads:
        reference = leads.pop()
        if reference not in left_out and reference not in reachable:
            reachable.add(reference)
            leads += graph.get(reference, ())
    # What the bill has no dependencies of is there.
    mentioned = {reference for targets in graph.values() for reference in targets}
    return reachable | {component.get("bom-ref") for component in components} - mentioned - left_out


def _is_left_out(component: Mapping[str, Any], distribution: Distribution) -> bool:
    """Whether it is one of the wheel's own modules, as Pillow's bill has them, that is in the wheel no more."""
    _, is_module, name = component.get("purl", "").partition("#c-ext/")
    stem = name.replace(".", "/") + "."
    return bool(is_module) and not any(str(path).startswith(stem) for path in distribution.files or ())
