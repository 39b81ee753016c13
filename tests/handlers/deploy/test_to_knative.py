"""Knative's files from a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handlers.deploy import to_knative
from handlers.deploy.manifest import Manifest, Model
from handlers.deploy.parse import ManifestError
from tests.infra.platforms import decant_of, parse, settings_of
from tests.infra.scripts import check_script, find, run_script
from tests.infra.test_knative_files import pod_of, validate

MANIFEST = Manifest(
    name="vision",
    image="registry.example.com/decant:1",
    models=(Model("digits", "az://models/vision/digits"),),
    memory=3000,
    cpu=1.5,
    disk=2048,
    concurrency=8,
    timeout=120,
    min_instances=1,
    max_instances=5,
    azure_account="acme",
)
PLATFORM = {"PORT": "8080", "K_SERVICE": "vision"}


def service_of(manifest: Manifest) -> Any:
    return parse(to_knative.render(manifest)["service.yaml"])


def test_all_of_it_is_the_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_of(MANIFEST)
    template = service["spec"]["template"]
    container = decant_of(template["spec"]["containers"])
    annotations = template["metadata"]["annotations"]
    assert annotations["autoscaling.knative.dev/min-scale"] == "1"
    assert annotations["autoscaling.knative.dev/max-scale"] == "5"
    assert (template["spec"]["timeoutSeconds"], template["spec"]["containerConcurrency"]) == (120, 8)
    assert template["spec"]["responseStartTimeoutSeconds"] == 120
    assert container["image"] == MANIFEST.image
    assert container["resources"]["limits"] == container["resources"]["requests"] == {"cpu": "1.5", "memory": "3000Mi"}
    settings = settings_of(container, monkeypatch, PLATFORM)
    assert settings.model_path == "az://models/vision/digits"
    assert settings.disk_budget == 2048 << 20
    assert settings.memory_budget == 2100 << 20
    assert template["spec"]["volumes"][0]["emptyDir"]["sizeLimit"] == "2304Mi"
    assert {"name": "AZURE_STORAGE_ACCOUNT", "value": "acme"} in container["env"]


@pytest.mark.parametrize("timeout", [1, 5, 8, 9, 60])
def test_decant_ends_before_the_pod_is_killed(timeout: int, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = service_of(MANIFEST._replace(timeout=timeout))["spec"]["template"]["spec"]
    settings = settings_of(decant_of(revision["containers"]), monkeypatch, PLATFORM)
    # Which is the pod's grace.
    assert 0 < settings.shutdown_timeout < revision["timeoutSeconds"]


def test_names_are_the_services_everywhere() -> None:
    files = to_knative.render(MANIFEST)
    account = parse(files["service-account.yaml"])["metadata"]["name"]
    revision = service_of(MANIFEST)["spec"]["template"]["spec"]
    assert revision["serviceAccountName"] == account == "vision"
    assert revision["containers"][0]["envFrom"] == [{"secretRef": {"name": "vision-credentials", "optional": True}}]
    assert "decant-credentials" not in files["service-account.yaml"]


@pytest.mark.parametrize("is_grpc", [True, False])
def test_kubernetes_takes_it(is_grpc: bool) -> None:
    manifest = MANIFEST._replace(grpc=is_grpc)
    validate(pod_of(service_of(manifest)), parse(to_knative.render(manifest)["service-account.yaml"]))


def test_grpc_is_instead_of_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    container = decant_of(service_of(MANIFEST._replace(grpc=True))["spec"]["template"]["spec"]["containers"])
    settings = settings_of(container, monkeypatch, PLATFORM)
    assert (settings.port, settings.rest_port, container["ports"][0]["name"]) == (8080, 0, "h2c")


@pytest.mark.parametrize("is_public", [True, False])
def test_who_is_not_public_is_the_clusters(is_public: bool) -> None:
    labels = service_of(MANIFEST._replace(public=is_public))["metadata"].get("labels", {})
    assert (labels.get("networking.knative.dev/visibility") == "cluster-local") is not is_public


def test_the_script_deploys_it(tmp_path: Path) -> None:
    for name, text in to_knative.render(MANIFEST).items():
        (tmp_path / name).write_text(text)
    check_script(tmp_path / "deploy.sh")
    commands = run_script(tmp_path / "deploy.sh", tmp_path, {}, programs=["kubectl"])
    assert [name for command in find(commands, "kubectl apply") for name in command.files] == [
        "service-account.yaml",
        "service.yaml",
    ]
    assert "ksvc/vision" in find(commands, "kubectl wait")[0].words


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"timeout": 601}, "timeout is 601 s; want 600"),
        ({"settings": {"shutdown_timeout": "120"}}, "settings.shutdown_timeout is 120 s; want less than 120"),
    ],
)
def test_what_knative_does_not_have_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ManifestError, match=complaint):
        to_knative.render(MANIFEST._replace(**changes))  # type: ignore[arg-type]
