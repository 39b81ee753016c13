"""Python and what is installed in it: versions, and the extras that these settings need."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from handlers.doctor.finding import Finding, Findings, Site, ok, problem, warning
from handlers.doctor.platforms import LAMBDA

_SHOWN = ("decant", "openvino", "numpy", "obstore", "boto3", "google-cloud-storage", "azure-storage-blob", "grpcio")
_OF_SCHEMES = {
    "s3": (("obstore", "fast"), ("boto3", "s3")),
    "gs": (("obstore", "fast"), ("google.cloud.storage", "gcs")),
    "az": (("obstore", "fast"), ("azure.storage.blob", "azure")),
    "azure": (("obstore", "fast"), ("azure.storage.blob", "azure")),
}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)")


def check_packages(site: Site) -> Findings:
    found = {name: given for name in _SHOWN if (given := _version(name))}
    python = ".".join(map(str, sys.version_info[:3]))
    yield ok("packages", "packages", ", ".join([f"Python {python}", *(f"{n} {v}" for n, v in found.items())]))
    yield from _old()
    if site.settings.port and site.platform is not LAMBDA and not _is_there("grpc"):
        detail = f"gRPC is to be served on port {site.settings.port}, and grpcio is not installed"
        yield problem("packages.grpc", "package grpcio", detail, "pip install 'decant[grpc]', or set DECANT_PORT=0")
    if site.platform is LAMBDA and not _is_there("awslambdaric"):
        detail = "this is a Lambda function, and awslambdaric is not installed"
        yield problem("packages.lambda", "package awslambdaric", detail, "pip install 'decant[lambda]'")


def clients(site: Site, scheme: str) -> Finding | None:
    """Return what is missing for URLs of a scheme; None if nothing is."""
    wanted = _OF_SCHEMES.get(scheme, ())
    chosen = [pair for pair in wanted if site.settings.storage_client in ("auto", _client(pair[0]))]
    if not wanted or any(_is_there(module) for module, _ in chosen):
        return None
    names = " or ".join(module for module, _ in chosen)
    extra = chosen[-1][1]
    detail = f"{scheme}:// is to be read, and {names} is not installed"
    return problem("packages.storage", f"client of {scheme}://", detail, f"pip install 'decant[{extra}]'")


def _client(module: str) -> str:
    return "obstore" if module == "obstore" else "sdk"


def _old() -> Iterator[Finding]:
    try:
        wanted = requires("decant") or []
    # As in an image that has the modules only.
    except PackageNotFoundError:
        return
    for requirement in wanted:
        match = _REQUIREMENT.match(requirement)
        given = match and _version(match[1])
        # What is not installed is of an extra, or missed by who imports it.
        if match and given and _numbers(given) < _numbers(match[2]):
            detail = f"{match[1]} {given} is installed; want {match[2]} or later"
            yield warning("packages.old", f"package {match[1]}", detail, f"pip install '{match[1]}>={match[2]}'")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _numbers(text: str) -> tuple[int, ...]:
    # 2 and 2.0 are the same.
    numbers = [int(number) for number in re.findall(r"\d+", text.partition("+")[0])][:4]
    return tuple([*numbers, 0, 0, 0, 0][:4])


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    # Of a package that is not there, or half.
    except (ImportError, ValueError):
        return False
