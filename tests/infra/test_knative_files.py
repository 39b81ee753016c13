"""Knative's files mean what they should, and the parts of them that are Kubernetes' are what Kubernetes takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.infra.platforms import INFRA, decant_of, load, read_probe, settings_of
from tests.infra.scripts import check_script, find, run_script
from tests.servers import ROOT

DIRECTORY = INFRA / "knative"
TOOLS = ROOT / ".tools" / "kubernetes"
PLATFORM = {"PORT": "8080", "K_SERVICE": "decant", "K_REVISION": "decant-1", "K_CONFIGURATION": "decant"}
OF_KNATIVE = ("containerConcurrency", "timeoutSeconds", "responseStartTimeoutSeconds")
"""What of a revision is no pod's."""
OF_REVISIONS = {"containers", "volumes", "serviceAccountName", *OF_KNATIVE}
"""What Knative takes unless a cluster's owner allows more."""
_VALIDATE = """
import json, sys, kubernetes_validate
for document in json.load(sys.stdin):
    kubernetes_validate.validate(document, "1.31", strict=True)
"""


@pytest.fixture(params=["service.yaml", "service-grpc.yaml"])
def service(request: pytest.FixtureRequest) -> Any:
    return load(DIRECTORY / request.param)


def revision_of(service: Any) -> Any:
    return service["spec"]["template"]["spec"]


def pod_of(service: Any) -> Any:
    template = service["spec"]["template"]
    spec = {name: value for name, value in template["spec"].items() if name not in OF_KNATIVE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **template["metadata"]}, "spec": spec}


def validate(*documents: Any) -> None:
    """Raise ValueError if Kubernetes would not take one of these."""
    if not (TOOLS / "kubernetes_validate").is_dir():
        pytest.skip("needs kubernetes-validate in .tools/kubernetes: infra/ci/install.sh")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _VALIDATE],
        input=json.dumps(documents),
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(done.stderr)


def test_pod_and_account_are_what_kubernetes_takes(service: Any) -> None:
    validate(pod_of(service), load(DIRECTORY / "service-account.yaml"))


def test_what_is_misspelt_in_a_pod_is_not(service: Any) -> None:
    decant_of(revision_of(service)["containers"])["readinessProb"] = {}
    with pytest.raises(ValueError, match="readinessProb"):
        validate(pod_of(service))


def test_a_revision_is_what_knative_takes(service: Any) -> None:
    assert (service["apiVersion"], service["kind"]) == ("serving.knative.dev/v1", "Service")
    assert revision_of(service).keys() <= OF_REVISIONS
    (container,) = revision_of(service)["containers"]
    # One port of one container, whose name is its protocol.
    (port,) = container["ports"]
    assert port["name"] in ("http1", "h2c")
    # Hooks and images' policies of pods are Knative's own.
    assert not container.keys() & {"lifecycle", "stdin", "tty", "hostPort"}
    (volume,) = revision_of(service)["volumes"]
    assert volume.keys() == {"name", "emptyDir"}


def test_decant_listens_on_the_one_port_and_is_probed_there(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = revision_of(service)["containers"]
    port = container["ports"][0]
    settings = settings_of(container, monkeypatch, PLATFORM)
    listens = {"h2c": (settings.port, settings.rest_port), "http1": (settings.rest_port, settings.port)}
    assert listens[port["name"]] == (port["containerPort"], 0)
    readiness = read_probe(container["readinessProbe"], port["containerPort"])
    liveness = read_probe(container["livenessProbe"], port["containerPort"])
    assert readiness.port == liveness.port == port["containerPort"]
    assert (readiness.kind, readiness.path) in (("httpGet", "/v2/health/ready"), ("grpc", "/"))
    # gRPC's health is of the model: who is killed for it would never have loaded one that takes long.
    assert (liveness.kind, liveness.path) in (("httpGet", "/v2/health/live"), ("tcpSocket", "/"))


def test_readiness_is_looked_at_by_knative_which_is_quicker(service: Any) -> None:
    (container,) = revision_of(service)["containers"]
    assert "periodSeconds" not in container["readinessProbe"]
    assert "startupProbe" not in container, "which would be Kubernetes', and once a second"


def test_decant_answers_before_knative_cuts_the_request(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = revision_of(service)
    settings = settings_of(revision["containers"][0], monkeypatch, PLATFORM)
    assert settings.load_timeout < revision["timeoutSeconds"] <= 600
    # Knative's own is 300 where a revision says none, and Decant sends its first byte with its last.
    assert revision["responseStartTimeoutSeconds"] == revision["timeoutSeconds"]
    if settings.rest_port:
        assert settings.rest_api_timeout_in_ms < revision["timeoutSeconds"] * 1000
    # Which is the pod's grace, too.
    assert settings.shutdown_timeout < revision["timeoutSeconds"]
    assert settings.max_in_flight >= revision["containerConcurrency"]
    assert not settings.lazy


def test_the_cache_fits_its_volume_and_the_models_their_memory(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = revision_of(service)
    (container,) = revision["containers"]
    settings = settings_of(container, monkeypatch, PLATFORM)
    (mount,) = container["volumeMounts"]
    assert settings.cache_dir.startswith(mount["mountPath"])
    limit = int(revision["volumes"][0]["emptyDir"]["sizeLimit"].removesuffix("Mi")) << 20
    assert 0 < settings.disk_budget < limit
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) << 20
    assert 0 < settings.memory_budget <= 0.7 * memory


def test_it_has_no_rights_that_it_does_not_need(service: Any) -> None:
    (container,) = revision_of(service)["containers"]
    security = container["securityContext"]
    assert security["runAsNonRoot"]
    assert security["runAsUser"] == 10001
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    account = load(DIRECTORY / "service-account.yaml")
    assert account["automountServiceAccountToken"] is False
    assert account["metadata"]["name"] == revision_of(service)["serviceAccountName"]


def test_only_the_cluster_may_call_it(service: Any) -> None:
    assert service["metadata"]["labels"]["networking.knative.dev/visibility"] == "cluster-local"


def test_keys_come_from_a_secret_that_need_not_be_there(service: Any) -> None:
    (container,) = revision_of(service)["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "decant-credentials", "optional": True}}]
    assert not any("SECRET" in entry["name"] or "KEY" in entry["name"] for entry in container["env"])


def test_shellcheck_has_nothing_to_say_of_the_script() -> None:
    check_script(DIRECTORY / "deploy.sh")


@pytest.mark.parametrize("namespace", ["", "models"])
def test_the_script_applies_the_account_before_the_service_and_waits(tmp_path: Path, namespace: str) -> None:
    environ = {"NAMESPACE": namespace} if namespace else {}
    commands = run_script(DIRECTORY / "deploy.sh", tmp_path, environ, programs=["kubectl"])
    prefix = f"kubectl --namespace={namespace}" if namespace else "kubectl"
    applied = [name for command in find(commands, f"{prefix} apply") for name in command.files]
    assert applied == ["service-account.yaml", "service.yaml"]
    (wait,) = find(commands, f"{prefix} wait")
    assert "ksvc/decant" in wait.words
