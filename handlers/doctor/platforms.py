"""Which platform this is, by the variables it sets, and what it is known to allow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Platform(NamedTuple):
    name: str
    limits: str
    """What cannot be measured here, in a sentence."""
    drain: float | None = None
    """Seconds from SIGTERM to SIGKILL, where they are the same for all."""
    is_port_given: bool = False
    """Whether it sends requests to ``$PORT``."""
    listens: bool = True
    """Whether there is a port to listen on."""


LAMBDA = Platform(
    "AWS Lambda",
    "requests and answers have 6 MB at most, the init phase 10 s, and one request is served at a time; "
    "only /tmp can be written",
    listens=False,
)
CLOUD_RUN = Platform(
    "Google Cloud Run",
    "what is written to disk takes memory, HTTP/1 requests have 32 MiB at most, and SIGKILL comes 10 s after SIGTERM",
    drain=10.0,
    is_port_given=True,
)
CLOUD_RUN_JOB = Platform("Google Cloud Run (job)", "what is written to disk takes memory", drain=10.0, listens=False)
CONTAINER_APPS = Platform(
    "Azure Container Apps",
    "a request has 240 s, and the disk 1 to 8 GiB, depending on the CPUs",
)
KNATIVE = Platform(
    "Knative",
    "requests come to $PORT, and a revision's timeout is 300 s unless it says something else",
    is_port_given=True,
)
KUBERNETES = Platform("Kubernetes", "SIGKILL comes 30 s after SIGTERM unless the pod says something else")
CONTAINER = Platform("a container", "docker stop sends SIGKILL 10 s after SIGTERM unless told otherwise")
PLAIN = Platform("a machine", "no container or serverless platform is recognised")


def platform_of(environ: Mapping[str, str], root: Path = Path("/")) -> Platform:
    """
    Args:
        root: where files are that container engines leave.
    """
    # A Container Apps replica runs on Kubernetes, and so does Knative, which Cloud Run has the variables of.
    if "AWS_LAMBDA_FUNCTION_NAME" in environ:
        return LAMBDA
    if "CONTAINER_APP_NAME" in environ:
        return CONTAINER_APPS
    is_kubernetes = "KUBERNETES_SERVICE_HOST" in environ
    if "K_SERVICE" in environ:
        return KNATIVE if is_kubernetes else CLOUD_RUN
    if "CLOUD_RUN_JOB" in environ and not is_kubernetes:
        return CLOUD_RUN_JOB
    if is_kubernetes:
        return KUBERNETES
    marks = (root / ".dockerenv", root / "run" / ".containerenv")
    is_container = "container" in environ or any(mark.exists() for mark in marks) or _is_layered(root)
    return CONTAINER if is_container else PLAIN


def _is_layered(root: Path) -> bool:
    """Return whether ``/`` is made of an image's layers: not all engines leave a mark."""
    try:
        lines = (root / "proc" / "self" / "mountinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    # See proc(5): the mount point is the fifth field, and the type comes after the hyphen.
    mounts = (line.partition(" - ") for line in lines)
    return any(fields.split()[4] == "/" and rest.startswith("overlay ") for fields, _, rest in mounts)
