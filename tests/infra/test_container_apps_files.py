"""Container Apps' files mean what they should, and the two descriptions of the app are of one app."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from handlers.deploy.to_container_apps import DISK, LONGEST_REQUEST, azure_condition
from tests.infra import bicep
from tests.infra.platforms import INFRA, Probe, decant_of, load, read_probe, settings_of
from tests.infra.scripts import check_script, find, run_script

DIRECTORY = INFRA / "container_apps"
PLATFORM = {"CONTAINER_APP_NAME": "decant", "CONTAINER_APP_REVISION": "decant--1"}
# From Microsoft.App/containerApps@2024-03-01's reference, as far as it is used.
PROBE = {"type", "httpGet", "tcpSocket", "initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold"}
OF_APP = {
    "": {"managedEnvironmentId", "workloadProfileName", "configuration", "template"},
    "configuration": {"activeRevisionsMode", "ingress", "registries"},
    "configuration.ingress": {"external", "targetPort", "transport", "allowInsecure", "additionalPortMappings"},
    "configuration.ingress.additionalPortMappings": {"external", "targetPort", "exposedPort"},
    "configuration.registries": {"server", "identity"},
    "template": {"terminationGracePeriodSeconds", "containers", "volumes", "scale"},
    "template.containers": {"name", "image", "args", "env", "resources", "probes", "volumeMounts"},
    "template.containers.env": {"name", "value"},
    "template.containers.resources": {"cpu", "memory"},
    "template.containers.probes": PROBE,
    "template.containers.probes.httpGet": {"path", "port"},
    "template.containers.probes.tcpSocket": {"port"},
    "template.containers.volumeMounts": {"volumeName", "mountPath"},
    "template.volumes": {"name", "storageType"},
    "template.scale": {"minReplicas", "maxReplicas", "rules"},
    "template.scale.rules": {"name", "http"},
    "template.scale.rules.http": {"metadata"},
    "template.scale.rules.http.metadata": {"concurrentRequests"},
}

needs_pycep = pytest.mark.skipif(not bicep.IS_INSTALLED, reason=bicep.NEEDS_PYCEP)


def parameters() -> dict[str, Any]:
    document = json.loads((DIRECTORY / "main.parameters.json").read_text())
    return {name: fields["value"] for name, fields in document["parameters"].items()}


def deployment(**changes: Any) -> bicep.Deployment:
    return bicep.Deployment(bicep.read(DIRECTORY / "main.bicep"), {**parameters(), **changes})


def app_of(source: str) -> Any:
    """Return the app's properties, as the template or the YAML has them."""
    if source == "app.yaml":
        return load(DIRECTORY / source)["properties"]
    if not bicep.IS_INSTALLED:
        pytest.skip(bicep.NEEDS_PYCEP)
    return deployment().resource("app")["properties"]


@pytest.fixture(params=["main.bicep", "app.yaml"])
def app(request: pytest.FixtureRequest) -> Any:
    return app_of(request.param)


def probes_of(app: Any) -> dict[str, Probe]:
    found = decant_of(app["template"]["containers"])["probes"]
    return {fields["type"]: read_probe(fields, 0) for fields in found}


def test_all_properties_are_the_references(app: Any) -> None:
    def check(where: str, value: Any) -> None:
        if isinstance(value, list):
            for each in value:
                check(where, each)
        elif isinstance(value, dict):
            assert value.keys() <= OF_APP[where], where
            for name, each in value.items():
                check(f"{where}.{name}".lstrip("."), each)

    check("", app)


@needs_pycep
def test_template_and_yaml_are_of_one_app() -> None:
    template, text = app_of("main.bicep"), app_of("app.yaml")
    # Which are Azure's to know in the one, and the user's in the other.
    for app in (template, text):
        del app["managedEnvironmentId"]
        for registry in app["configuration"]["registries"]:
            del registry["identity"]
        variables = decant_of(app["template"]["containers"])["env"]
        assert variables.pop()["name"] == "AZURE_CLIENT_ID"
    assert template == text


@needs_pycep
def test_what_is_no_bicep_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.bicep").write_text(
        (DIRECTORY / "main.bicep").read_text().replace("param image string", "param")
    )
    with pytest.raises(ValueError, match="no Bicep"):
        bicep.read(tmp_path / "broken.bicep")


def test_decant_listens_where_ingress_and_probes_look(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(decant_of(app["template"]["containers"]), monkeypatch, PLATFORM)
    ingress = app["configuration"]["ingress"]
    assert (ingress["targetPort"], ingress["transport"]) == (settings.rest_port, "auto")
    (mapping,) = ingress["additionalPortMappings"]
    assert mapping["targetPort"] == settings.port
    # Open to the world only with a network of one's own.
    assert mapping["external"] is False
    assert {probe.port for probe in probes_of(app).values()} == {settings.rest_port}
    assert {settings.rest_bind_address, settings.grpc_bind_address} == {"0.0.0.0"}


def test_a_model_may_load_for_long_and_only_what_is_dead_is_restarted(app: Any) -> None:
    probes = probes_of(app)
    assert (probes["Readiness"].kind, probes["Readiness"].path) == ("httpGet", "/v2/health/ready")
    assert (probes["Liveness"].kind, probes["Liveness"].path) == ("httpGet", "/v2/health/live")
    # Who fails it is restarted, so it must not be about the model.
    assert probes["Startup"].kind == "tcpSocket"
    for probe in probes.values():
        # The reference's bounds.
        assert probe.failures <= 10
        assert probe.period <= 240
        assert probe.timeout <= probe.period


def test_decant_answers_before_the_request_is_cut_and_drains_before_it_is_killed(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = app["template"]
    settings = settings_of(decant_of(template["containers"]), monkeypatch, PLATFORM)
    assert settings.load_timeout < settings.shutdown_timeout < template["terminationGracePeriodSeconds"] <= 600
    assert settings.load_timeout < LONGEST_REQUEST
    assert settings.rest_api_timeout_in_ms < settings.shutdown_timeout * 1000 <= LONGEST_REQUEST * 1000
    assert not settings.lazy


def test_the_cache_is_in_the_volume_and_fits_the_replicas_disk(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    container = decant_of(app["template"]["containers"])
    settings = settings_of(container, monkeypatch, PLATFORM)
    (mount,) = container["volumeMounts"]
    assert settings.cache_dir.startswith(mount["mountPath"])
    assert app["template"]["volumes"] == [{"name": mount["volumeName"], "storageType": "EmptyDir"}]
    cores = float(container["resources"]["cpu"])
    assert container["resources"]["memory"] == f"{cores * 2:g}Gi"
    room = next(disk for most, disk in DISK.items() if cores <= most)
    assert 0 < settings.disk_budget < room << 20


def test_requests_at_a_time_are_what_it_scales_by(app: Any) -> None:
    (rule,) = app["template"]["scale"]["rules"]
    assert rule["http"]["metadata"] == {"concurrentRequests": "4"}, "a text, as KEDA has it"


def test_nobody_outside_may_call(app: Any) -> None:
    ingress = app["configuration"]["ingress"]
    assert (ingress["external"], ingress["allowInsecure"]) == (False, False)


@needs_pycep
def test_without_grpc_there_is_no_port_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    app = deployment(grpc=False).resource("app")["properties"]
    assert app["configuration"]["ingress"]["additionalPortMappings"] == []
    assert settings_of(decant_of(app["template"]["containers"]), monkeypatch, PLATFORM).port == 0


@needs_pycep
def test_the_identity_may_read_the_models_and_pull_the_image_and_nothing_else() -> None:
    deployed = deployment()
    (reader,) = deployed.resources("readers")
    (puller,) = deployed.resources("puller")
    roles = {
        "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": reader,  # Storage Blob Data Reader
        "7f951dda-4ed3-4680-a7ca-43fe172d538d": puller,  # AcrPull
    }
    for role, assignment in roles.items():
        assert assignment["properties"]["roleDefinitionId"].endswith(role)
        assert assignment["properties"]["principalId"] == "identity.properties.principalId"
        assert assignment["properties"]["principalType"] == "ServicePrincipal"
    # Of one container, not the account.
    assert reader["scope"] == "modelContainers[0]"
    assert deployed.resources("modelContainers") == [{"parent": "blobs", "name": "models"}]
    assert puller["scope"] == "registryResource"
    kinds = [fields["type"] for fields in bicep.read(DIRECTORY / "main.bicep")["resources"].values()]
    assert kinds.count("Microsoft.Authorization/roleAssignments") == 2
    app = deployed.resource("app")
    assert app["identity"]["type"] == "UserAssigned"
    variables = {
        entry["name"]: entry["value"] for entry in decant_of(app["properties"]["template"]["containers"])["env"]
    }
    assert variables["AZURE_CLIENT_ID"] == "identity.properties.clientId"
    assert set(app["dependsOn"]) == {"readers", "puller"}


@needs_pycep
def test_an_image_that_anybody_may_pull_needs_no_right() -> None:
    deployed = deployment(registry="")
    assert deployed.resources("puller") == []
    assert deployed.resource("app")["properties"]["configuration"]["registries"] == []


@needs_pycep
def test_reading_and_listing_are_allowed_below_the_prefix_alone() -> None:
    (reader,) = deployment().resources("readers")
    condition = reader["properties"]["condition"]
    assert reader["properties"]["conditionVersion"] == "2.0"
    assert condition == azure_condition(["vision/digits"])
    assert azure_allows(condition, path="vision/digits/1/model.xml")
    assert not azure_allows(condition, path="vision/digits-2/1/model.xml")
    assert not azure_allows(condition, path="secret")
    assert azure_allows(condition, listed="vision/digits/")
    for prefix in ("", "vision/", "vision/digits", "other/"):
        assert not azure_allows(condition, listed=prefix)


def test_several_prefixes_of_a_container_are_one_condition_and_a_whole_container_none() -> None:
    condition = azure_condition(["a", "b/c"])
    assert azure_allows(condition, path="a/1/x")
    assert azure_allows(condition, path="b/c/1/x")
    assert not azure_allows(condition, path="b/d")
    assert azure_allows(condition, listed="b/c/1/")
    assert not azure_allows(condition, listed="b/")
    assert azure_condition(["a", ""]) == ""


def azure_allows(condition: str, *, path: str = "", listed: str | None = None) -> bool:
    """Work out a condition for one request: reading the blob ``path``, or listing with the prefix ``listed``.

    Azure's language is turned into Python's, of which nothing but its operators is left.
    """
    text = condition.replace(
        "@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path]", repr(path)
    )
    text = text.replace(
        "@Request[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:prefix]", repr(listed or "")
    )
    text = re.sub(r"ActionMatches\{'[^']*/blobs/read'\}", "True", text)
    text = re.sub(r"SubOperationMatches\{'Blob\.List'\}", str(listed is not None), text)
    text = re.sub(r"('[^']*') StringStartsWith ('[^']*')", r"\1.startswith(\2)", text)
    for word, operator in ((" AND ", " and "), (" OR ", " or "), ("NOT ", "not "), ("!", "not ")):
        text = text.replace(word, operator)
    assert re.fullmatch(r"(?:'[\w/.-]*'|\.startswith|True|False|and|or|not|[() ])*", text), text
    return bool(eval(text))


def test_shellcheck_has_nothing_to_say_of_the_script() -> None:
    check_script(DIRECTORY / "deploy.sh")


def test_the_script_deploys_the_template_with_its_parameters(tmp_path: Path) -> None:
    commands = run_script(DIRECTORY / "deploy.sh", tmp_path, {"LOCATION": "westeurope"}, programs=["az"])
    assert find(commands, "az group create --name decant --location westeurope")
    (create,) = find(commands, "az deployment group create")
    assert create.files.keys() == {"main.bicep", "main.parameters.json"}
    assert create.words[create.words.index("--template-file") + 1].endswith("/container_apps/main.bicep")
    assert "location=westeurope" in create.words
