"""docker compose: one service, its models from their own buckets or mounted from this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from handlers.deploy import templates
from handlers.deploy.access import Place, places
from handlers.deploy.deadlines import deadlines
from handlers.deploy.environment import environment
from handlers.deploy.manifest import Manifest
from handlers.limits import MEMORY_SHARE
from handlers.settings import PREFIX, Settings

SCRATCH = 64
"""MiB of a tmpfs beside what is downloaded: bodies of requests, sockets."""
LONGEST = 3600
"""Seconds: nothing here cuts a request or a stop, so that is a manifest's own limit."""
GRACE = 7
"""Seconds of a stop beyond those that requests in flight have."""

# As its SDK reads them, from the environment of whoever says `docker compose up`; those that are not set stay so.
_CREDENTIALS = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    "az": ("AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"),
}
_GOOGLE = "google"
"""The secret that is Google's: a file, where the others are variables."""

_HEAD = """\
# {what} in Decant. On a machine with docker: docker compose up --detach --wait
{notes}"""
_NOTES = {
    "s3": "It reads S3 with the AWS_* variables of your environment; AWS_REGION is the bucket's.",
    "gs": "It reads Google Cloud Storage with the key file that GOOGLE_APPLICATION_CREDENTIALS names.",
    "az": "It reads Azure with AZURE_STORAGE_SAS_TOKEN, or the AZURE_* variables of a key or a service principal.",
    "": "It reads directories of this machine, which the daemon must see at these paths.",
}


def render(manifest: Manifest) -> dict[str, str]:
    found = places(manifest)
    google = any(place.scheme == "gs" for place in found)
    document: dict[str, Any] = {"name": manifest.name, "services": {manifest.name: _service(manifest, found)}}
    if google:
        unset = "GOOGLE_APPLICATION_CREDENTIALS:?set it to a service account's key file"
        document["secrets"] = {_GOOGLE: {"file": f"${{{unset}}}"}}
    return {"compose.yaml": _head(manifest, found) + templates.dump(document)}


def _service(manifest: Manifest, found: Iterable[Place]) -> dict[str, Any]:
    """The try-out's service with this manifest's values, without the store and the networks of the try-out."""
    template = templates.load("compose/compose.yaml")["services"]["decant"]
    variables = _environment(manifest, found)
    service: dict[str, Any] = {
        "image": manifest.image,
        "platform": f"linux/{manifest.architecture}",
        **{name: template[name] for name in ("read_only", "cap_drop", "security_opt")},
        "environment": variables,
    }
    schemes = {place.scheme for place in found}
    if "gs" in schemes:
        service["secrets"] = [_GOOGLE]
    if volumes := [_mount(place.prefix) for place in found if not place.scheme]:
        service["volumes"] = volumes
    service["tmpfs"] = [f"/tmp:size={_disk(manifest, found) + SCRATCH}m,mode=1777"]
    service["ports"] = _ports(manifest)
    service["healthcheck"] = template["healthcheck"]
    service["deploy"] = template["deploy"]
    service["deploy"]["resources"]["limits"] |= {
        "cpus": f"{manifest.cpu:g}",
        # A tmpfs counts as memory.
        "memory": f"{manifest.memory + _disk(manifest, found)}M",
    }
    service["restart"] = template["restart"]
    shutdown = float(variables.get(f"{PREFIX}SHUTDOWN_TIMEOUT") or Settings().shutdown_timeout)
    service["stop_grace_period"] = f"{shutdown + GRACE:g}s"
    return service


def _environment(manifest: Manifest, found: Iterable[Place]) -> dict[str, str | None]:
    times = deadlines(manifest, longest=LONGEST, window=LONGEST, platform="docker compose")
    variables: dict[str, str | None] = {**times, **environment(manifest)}
    if not manifest.grpc:
        variables[f"{PREFIX}PORT"] = "0"
    if disk := _disk(manifest, found):
        variables.setdefault(f"{PREFIX}DISK_BUDGET", str(disk << 20))
    # The cache is on a tmpfs, so Decant would take 40 percent of the limit, in which the tmpfs is.
    variables.setdefault(f"{PREFIX}MEMORY_BUDGET", f"{int(manifest.memory * MEMORY_SHARE)}M")
    schemes = {place.scheme for place in found}
    for scheme, names in _CREDENTIALS.items():
        if scheme in schemes:
            variables |= dict.fromkeys(names)
    if "s3" in schemes:
        variables["AWS_REGION"] = manifest.region or None
    if "gs" in schemes:
        variables["GOOGLE_APPLICATION_CREDENTIALS"] = f"/run/secrets/{_GOOGLE}"
    return variables


def _disk(manifest: Manifest, found: Iterable[Place]) -> int:
    """MiB for what is downloaded: nothing, if all models are read in place."""
    return manifest.disk if any(place.scheme for place in found) else 0


def _mount(path: str) -> Mapping[str, Any]:
    # In the short form a directory that is not there would be made, for root, and be empty.
    return {"type": "bind", "source": path, "target": path, "read_only": True, "bind": {"create_host_path": False}}


def _ports(manifest: Manifest) -> list[str]:
    address = "0.0.0.0" if manifest.public else "127.0.0.1"
    return [f"{address}:{port}:{port}" for port in ([8500, 8501] if manifest.grpc else [8501])]


def _head(manifest: Manifest, found: Iterable[Place]) -> str:
    what = "One model" if len(manifest.models) == 1 else f"{len(manifest.models)} models"
    schemes = dict.fromkeys(place.scheme for place in found)
    return _HEAD.format(what=what, notes="".join(f"# {_NOTES[scheme]}\n" for scheme in schemes))
