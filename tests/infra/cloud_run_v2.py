"""Cloud Run's services as its published messages have them, made of the YAML that gcloud takes.

The YAML is that of the Admin API's version 1, whose messages are nowhere published; those of version 2 are, as
`google.cloud.run_v2`. Each field and annotation is named here with where it is in version 2, so one that is not, a
misspelt one for example, is refused here or by the messages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tests.servers import ROOT

TOOLS = ROOT / ".tools" / "cloud_run"
IS_INSTALLED = (TOOLS / "google" / "cloud" / "run_v2").is_dir()
NEEDS_PROTOS = "needs google-cloud-run in .tools/cloud_run: infra/ci/install.sh"
_CHECK = """
import json, sys
from google.cloud import run_v2
from google.protobuf import json_format
message = json_format.ParseDict(json.load(sys.stdin), run_v2.Service.pb(run_v2.Service()))
json.dump(json_format.MessageToDict(message), sys.stdout)
"""

Convert = Callable[[Any], Mapping[str, Any]]


def as_message(service: Any) -> Any:
    """Return a service as version 2 has it, read by its messages and written again.

    Raises:
        ValueError: something in it has no place there.
    """
    environ = {**os.environ, "PYTHONPATH": str(TOOLS)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CHECK],
        input=json.dumps(_service(service)),
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(" ".join(done.stderr.strip().splitlines()[-2:]))
    return json.loads(done.stdout)


def _service(service: Any) -> Mapping[str, Any]:
    _only(service, "apiVersion", "kind", "metadata", "spec")
    assert (service["apiVersion"], service["kind"]) == ("serving.knative.dev/v1", "Service")
    _only(service["metadata"], "name", "labels", "annotations")
    _only(service["metadata"]["labels"], "cloud.googleapis.com/location")
    annotations = service["metadata"]["annotations"]
    _only(annotations, "run.googleapis.com/ingress")
    _only(service["spec"], "template")
    return {
        "ingress": f"INGRESS_TRAFFIC_{annotations['run.googleapis.com/ingress'].upper().replace('-', '_')}",
        "template": _template(service["spec"]["template"]),
    }


def _template(template: Any) -> Mapping[str, Any]:
    _only(template, "metadata", "spec")
    annotations = dict(template["metadata"]["annotations"])
    scaling = {
        "minInstanceCount": int(annotations.pop("autoscaling.knative.dev/minScale")),
        "maxInstanceCount": int(annotations.pop("autoscaling.knative.dev/maxScale")),
    }
    environment = annotations.pop("run.googleapis.com/execution-environment")
    boost = json.loads(annotations.pop("run.googleapis.com/startup-cpu-boost"))
    idle = json.loads(annotations.pop("run.googleapis.com/cpu-throttling"))
    order = json.loads(annotations.pop("run.googleapis.com/container-dependencies", "{}"))
    _only(annotations)
    revision = template["spec"]
    _only(revision, "serviceAccountName", "containerConcurrency", "timeoutSeconds", "containers")
    return {
        "scaling": scaling,
        "executionEnvironment": f"EXECUTION_ENVIRONMENT_{environment.upper()}",
        "serviceAccount": revision["serviceAccountName"],
        "maxInstanceRequestConcurrency": revision["containerConcurrency"],
        "timeout": f"{revision['timeoutSeconds']}s",
        "containers": [
            {
                **_container(container),
                "dependsOn": order.pop(container["name"], []),
                "resources": {**container["resources"], "startupCpuBoost": boost, "cpuIdle": idle},
            }
            for container in revision["containers"]
        ],
        # Whatever is left waits for containers that there are not.
        **({"containerDependencies": order} if order else {}),
    }


def _container(container: Any) -> Mapping[str, Any]:
    _only(container["resources"], "limits")
    probes = ("startupProbe", "livenessProbe")
    _only(container, "name", "image", "args", "ports", "env", "resources", *probes)
    same = ("name", "image", "args", "ports", "env")
    return {
        **{name: container[name] for name in same if name in container},
        # Of one name in both versions, all of them.
        **{name: container[name] for name in probes if name in container},
    }


def _only(fields: Mapping[str, Any], *known: str) -> None:
    for name in fields:
        if name not in known:
            raise ValueError(f"{name} is unknown; want {', '.join(known)}")
