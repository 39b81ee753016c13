"""Container Apps' files from a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from handlers.deploy import templates, to_container_apps
from handlers.deploy.manifest import Manifest, Model
from handlers.deploy.parse import ManifestError
from tests.infra import bicep
from tests.infra.platforms import decant_of, settings_of
from tests.infra.scripts import check_script, find, run_script
from tests.infra.test_container_apps_files import azure_allows, needs_pycep

EXAMPLE = Manifest(
    name="decant",
    image="REGISTRY.azurecr.io/decant:0.1.0",
    models=(Model("digits", "az://models/vision/digits"),),
    grpc=True,
    azure_account="ACCOUNT",
)
MANIFEST = Manifest(
    name="vision",
    image="acme.azurecr.io/ml/decant@sha256:" + "0" * 64,
    models=(
        Model("digits", "az://models/vision/digits"),
        Model("ocr", "az://models/ocr"),
        Model("all", "az://everything"),
    ),
    region="westeurope",
    memory=3000,
    cpu=1,
    concurrency=8,
    timeout=120,
    min_instances=1,
    max_instances=20,
    public=True,
    azure_account="acmemodels",
)


def written(manifest: Manifest, directory: Path) -> bicep.Deployment:
    """Render, and return what the template becomes with the parameters."""
    for name, text in to_container_apps.render(manifest).items():
        (directory / name).write_text(text)
    parameters = json.loads((directory / "main.parameters.json").read_text())["parameters"]
    values = {name: fields["value"] for name, fields in parameters.items()}
    return bicep.Deployment(bicep.read(directory / "main.bicep"), values)


def test_the_parameters_in_the_repository_are_what_is_rendered_of_the_example() -> None:
    rendered = to_container_apps.render(EXAMPLE)
    assert rendered["main.parameters.json"] == templates.text("container_apps/main.parameters.json")
    assert rendered["main.bicep"] == templates.text("container_apps/main.bicep")


@needs_pycep
def test_the_app_is_the_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = written(MANIFEST, tmp_path).resource("app")
    template, configuration = app["properties"]["template"], app["properties"]["configuration"]
    container = decant_of(template["containers"])
    assert (app["name"], container["image"]) == ("vision", MANIFEST.image)
    # The cores that have so much memory.
    assert container["resources"] == {"cpu": 1.5, "memory": "3Gi"}
    assert configuration["registries"] == [{"server": "acme.azurecr.io", "identity": "identity.id"}]
    assert configuration["ingress"]["external"] is True
    assert configuration["ingress"]["additionalPortMappings"] == []
    assert (template["scale"]["minReplicas"], template["scale"]["maxReplicas"]) == (1, 20)
    assert template["scale"]["rules"][0]["http"]["metadata"] == {"concurrentRequests": "8"}
    settings = settings_of(container, monkeypatch, {"CONTAINER_APP_NAME": "vision"})
    assert settings.shutdown_timeout < template["terminationGracePeriodSeconds"]
    assert settings.load_timeout < 120
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    assert {"name": "AZURE_STORAGE_ACCOUNT", "value": "acmemodels"} in container["env"]


@needs_pycep
def test_the_identity_has_one_assignment_for_each_container(tmp_path: Path) -> None:
    readers = written(MANIFEST, tmp_path).resources("readers")
    models, everything = (reader["properties"] for reader in readers)
    assert azure_allows(models["condition"], path="ocr/1/model.bin")
    assert azure_allows(models["condition"], listed="vision/digits/")
    assert not azure_allows(models["condition"], path="secret")
    assert (everything["condition"], everything["conditionVersion"]) == (None, None)
    assert len({reader["name"] for reader in readers}) == 2


@needs_pycep
def test_models_of_the_image_need_no_account(tmp_path: Path) -> None:
    manifest = MANIFEST._replace(models=(Model("digits", "/models/digits"),), azure_account="", image="docker.io/x/y:1")
    deployed = written(manifest, tmp_path)
    assert deployed.resources("readers") == deployed.resources("puller") == []


@pytest.mark.parametrize(
    ("changes", "cores"),
    [
        ({"memory": 512, "cpu": 0.25, "disk": 768}, "0.25"),
        ({"memory": 512, "cpu": 0.25, "disk": 1024}, "0.5"),
        ({"memory": 512, "cpu": 0.3, "disk": 0}, "0.5"),
        ({"memory": 2049, "cpu": 1, "disk": 1024}, "1.25"),
        ({"memory": 512, "cpu": 1, "disk": 5000}, "1.25"),
        ({"memory": 8192, "cpu": 4, "disk": 7936}, "4.0"),
    ],
)
def test_cores_are_the_fewest_that_have_all_that_is_wanted(changes: dict[str, Any], cores: str) -> None:
    document = json.loads(to_container_apps.render(MANIFEST._replace(**changes))["main.parameters.json"])
    assert document["parameters"]["cpu"]["value"] == cores
    assert document["parameters"]["memory"]["value"] == f"{float(cores) * 2:g}Gi"


def test_the_script_deploys_it(tmp_path: Path) -> None:
    for name, text in to_container_apps.render(MANIFEST).items():
        (tmp_path / name).write_text(text)
    check_script(tmp_path / "deploy.sh")
    commands = run_script(tmp_path / "deploy.sh", tmp_path, {}, programs=["az"])
    assert find(commands, "az group create --name vision --location westeurope")
    assert find(commands, "az deployment group create --name vision --resource-group vision")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"architecture": "arm64"}, "architecture is arm64; want amd64"),
        ({"name": "a" * 25}, "want 2 to 24 characters"),
        ({"name": "a--b"}, "no -- in it"),
        ({"timeout": 241}, "timeout is 241 s; want 240"),
        ({"memory": 9000}, "memory 9000 MiB; want 4 and 8192 at most"),
        ({"cpu": 5}, "cpu is 5"),
        ({"disk": 9000}, "disk is 9000 MiB; want 7936"),
        ({"models": (Model("a", "gs://b/c"),)}, "model a is at gs://b/c; want az://"),
        ({"settings": {"shutdown_timeout": "130"}}, "settings.shutdown_timeout is 130 s; want less than 130"),
        ({"models": tuple(Model(f"m{i}", f"az://models/{'x' * 90}/{i}") for i in range(40))}, "condition is longer"),
    ],
)
def test_what_container_apps_does_not_have_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ManifestError) as error:
        to_container_apps.render(MANIFEST._replace(**changes))
    assert complaint in str(error.value)
