"""Knative: a service, the account that it runs as, and a script that applies both."""

from __future__ import annotations

from collections.abc import Mapping

from handlers.deploy import script, templates
from handlers.deploy.deadlines import deadlines
from handlers.deploy.environment import environment
from handlers.deploy.front import front
from handlers.deploy.knative_service import container, fill
from handlers.deploy.manifest import Manifest
from handlers.limits import MEMORY_SHARE

LONGEST_REQUEST = 600
"""Seconds: max-revision-timeout-seconds in config-defaults, unless the cluster's owner has changed it."""
DISK_RESERVE = 256
"""MiB of the volume beside the cache: for what is being unpacked, and libraries' temporary files."""
_VISIBILITY = "networking.knative.dev/visibility"


def render(manifest: Manifest) -> Mapping[str, str]:
    """Return the service, of gRPC if that is wanted, as there is one port, its account and the script.

    Raises:
        ManifestError: requests may take longer than Knative's do.
    """
    service = templates.load("knative/service-grpc.yaml" if manifest.grpc else "knative/service.yaml")
    fill(service, manifest, _variables(manifest))
    if manifest.public:
        del service["metadata"]["labels"]
    annotations = service["spec"]["template"]["metadata"]["annotations"]
    annotations["autoscaling.knative.dev/min-scale"] = str(manifest.min_instances)
    annotations["autoscaling.knative.dev/max-scale"] = str(manifest.max_instances)
    revision = service["spec"]["template"]["spec"]
    revision["responseStartTimeoutSeconds"] = manifest.timeout
    revision["serviceAccountName"] = manifest.name
    revision["volumes"][0]["emptyDir"]["sizeLimit"] = f"{manifest.disk + DISK_RESERVE}Mi"
    container(service)["envFrom"][0]["secretRef"]["name"] = f"{manifest.name}-credentials"
    account = templates.load("knative/service-account.yaml")
    account["metadata"]["name"] = manifest.name
    return {
        "service.yaml": templates.dump(service),
        "service-account.yaml": templates.dump(account).replace("decant-credentials", f"{manifest.name}-credentials"),
        "deploy.sh": script.assign(templates.text("knative/deploy.sh"), SERVICE=manifest.name),
    }


def _variables(manifest: Manifest) -> dict[str, str]:
    variables = {
        **deadlines(manifest, longest=LONGEST_REQUEST, window=manifest.timeout, platform="Knative"),
        **front(manifest, "Knative"),
        "DECANT_DISK_BUDGET": f"{manifest.disk}M",
        "DECANT_MEMORY_BUDGET": f"{int(manifest.memory * MEMORY_SHARE)}M",
        **environment(manifest),
    }
    if manifest.grpc:
        variables.pop("DECANT_REST_API_TIMEOUT_IN_MS")
    return variables
