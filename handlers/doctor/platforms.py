"""Which platform this is, by the variables it sets, and what it is known to allow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from handlers.limits import filesystem_of


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
    # Not all engines leave a mark. A "/" that is made of layers is an image's.
    is_layered = filesystem_of(Path("/"), root) == "overlay"
    is_container = "container" in environ or any(mark.exists() for mark in marks) or is_layered
    return CONTAINER if is_container else PLAIN
