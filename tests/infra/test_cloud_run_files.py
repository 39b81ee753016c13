"""Cloud Run's files mean what they should: which port, which probe, which rights, within which limits."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from handlers.deploy.access import Place, gcs_condition
from handlers.deploy.to_cloud_run import WINDOW
from tests.handlers.deploy.policies import cel_admits
from tests.infra import cloud_run_v2
from tests.infra.platforms import INFRA, decant_of, load, parse, read_probe, settings_of
from tests.infra.scripts import Command, check_script, find, run_script

DIRECTORY = INFRA / "cloud_run"
FILES = ("service.yaml", "service-grpc.yaml", "service-sidecar.yaml")
PLATFORM = {"PORT": "8080", "K_SERVICE": "decant", "K_REVISION": "decant-1", "K_CONFIGURATION": "decant"}


@pytest.fixture(params=FILES)
def service(request: pytest.FixtureRequest) -> Any:
    return load(DIRECTORY / request.param)


def revision_of(service: Any) -> Any:
    return service["spec"]["template"]["spec"]


def port_of(container: Any) -> int:
    return int(container["ports"][0]["containerPort"]) if "ports" in container else 0


@pytest.mark.skipif(not cloud_run_v2.IS_INSTALLED, reason=cloud_run_v2.NEEDS_PROTOS)
class TestMessages:
    def test_every_field_has_its_place_in_the_published_messages(self, service: Any) -> None:
        message = cloud_run_v2.as_message(service)["template"]
        assert message["executionEnvironment"] == "EXECUTION_ENVIRONMENT_GEN2"
        assert message["maxInstanceRequestConcurrency"] == 4
        assert all(container["startupProbe"] for container in message["containers"])

    @pytest.mark.parametrize(
        "path",
        [
            ("metadata", "annotations", "run.googleapis.com/ingres"),
            ("spec", "template", "metadata", "annotations", "run.googleapis.com/cpu-throtling"),
            ("spec", "template", "spec", "timeoutSecond"),
            ("spec", "template", "spec", "containers", 0, "imag"),
            ("spec", "template", "spec", "containers", 0, "startupProbe", "failureTreshold"),
        ],
    )
    def test_what_is_misspelt_has_none(self, path: tuple[str | int, ...]) -> None:
        service = copy.deepcopy(load(DIRECTORY / "service.yaml"))
        *parents, name = path
        target = service
        for parent in parents:
            target = target[parent]
        target[name] = {}
        with pytest.raises(ValueError, match=str(name)):
            cloud_run_v2.as_message(service)


def test_one_container_has_a_port_and_decant_listens_on_the_ports_that_are_probed(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    containers = revision_of(service)["containers"]
    (ingress,) = (each for each in containers if "ports" in each)
    decant = decant_of(containers)
    # Only the container that requests come to is told a port.
    platform = PLATFORM if decant is ingress else {name: text for name, text in PLATFORM.items() if name != "PORT"}
    settings = settings_of(decant, monkeypatch, platform)
    listens = {kind: port for kind, port in (("httpGet", settings.rest_port), ("grpc", settings.port)) if port}
    for name in ("startupProbe", "livenessProbe"):
        probe = read_probe(decant[name], port_of(decant))
        assert probe.port == listens[probe.kind]
    if decant is ingress:
        assert list(listens.values()) == [port_of(decant)]
        assert decant["ports"][0]["name"] == ("h2c" if settings.port else "http1")
    # All that requests come through has to be reached from outside the container.
    assert {settings.rest_bind_address, settings.grpc_bind_address} == {"0.0.0.0"}


def test_a_start_is_waited_for_until_the_model_is_loaded_and_no_longer_than_cloud_run_does(service: Any) -> None:
    containers = revision_of(service)["containers"]
    decant = decant_of(containers)
    startup, liveness = (read_probe(decant[name], port_of(decant)) for name in ("startupProbe", "livenessProbe"))
    if startup.kind == "httpGet":
        assert (startup.path, liveness.path) == ("/v2/health/ready", "/v2/health/live")
    # gRPC's health says so, too: NOT_SERVING until then.
    assert startup.service == ""
    assert startup.period <= 1, "each second of it may be one of a cold start"
    assert sum(read_probe(each["startupProbe"], 0).patience for each in containers) <= 240
    assert liveness.kind in ("httpGet", "grpc"), "Cloud Run has no other"
    for probe in (startup, liveness):
        assert probe.timeout <= probe.period


def test_decant_answers_before_cloud_run_cuts_the_request_and_ends_before_it_is_killed(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = revision_of(service)
    settings = settings_of(decant_of(revision["containers"]), monkeypatch, PLATFORM)
    assert settings.load_timeout < revision["timeoutSeconds"] <= 3600
    if settings.rest_port:
        assert settings.rest_api_timeout_in_ms < revision["timeoutSeconds"] * 1000
    assert settings.shutdown_timeout < WINDOW
    assert settings.max_in_flight >= revision["containerConcurrency"]


def test_a_model_is_loaded_before_requests_come_and_not_by_them(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(decant_of(revision_of(service)["containers"]), monkeypatch, PLATFORM)
    assert not settings.lazy


def test_nobody_may_call_and_the_account_is_its_own(service: Any) -> None:
    annotations = service["metadata"]["annotations"]
    assert "run.googleapis.com/invoker-iam-disabled" not in annotations
    # The default account may edit the whole project.
    assert "compute@developer" not in revision_of(service)["serviceAccountName"]
    assert revision_of(service)["serviceAccountName"].startswith("decant@")


def test_the_application_waits_for_decant_and_finds_it_where_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    service = load(DIRECTORY / "service-sidecar.yaml")
    template = service["spec"]["template"]
    order = json.loads(template["metadata"]["annotations"]["run.googleapis.com/container-dependencies"])
    assert order == {"app": ["decant"]}
    app, decant = template["spec"]["containers"]
    settings = settings_of(decant, monkeypatch, {})
    told = {entry["name"]: entry["value"] for entry in app["env"]}
    assert told["MODELS_REST_URL"] == f"http://localhost:{settings.rest_port}"
    assert told["MODELS_GRPC_TARGET"] == f"localhost:{settings.port}"


def test_shellcheck_has_nothing_to_say_of_the_script() -> None:
    check_script(DIRECTORY / "deploy.sh")


@pytest.fixture
def commands(tmp_path: Path) -> list[Command]:
    environ = {"PROJECT_ID": "p-1", "REGION": "europe-west1"}
    return run_script(DIRECTORY / "deploy.sh", tmp_path, environ, programs=["gcloud"])


def test_its_condition_leaves_of_the_bucket_the_names_and_of_the_objects_the_models(commands: list[Command]) -> None:
    (grant,) = find(commands, "gcloud storage buckets add-iam-policy-binding gs://my-models")
    assert "--role=roles/storage.objectViewer" in grant.words
    assert "--member=serviceAccount:decant@p-1.iam.gserviceaccount.com" in grant.words
    expression = json.loads(grant.files["condition.json"])["expression"]
    bucket = "projects/_/buckets/my-models"
    # Listing is asked of the bucket.
    assert cel_admits(expression, bucket)
    assert cel_admits(expression, f"{bucket}/objects/vision/digits/1/model.xml")
    for other in (f"{bucket}/objects/vision/digits-2/1/model.xml", f"{bucket}/objects/other", f"{bucket}-2"):
        assert not cel_admits(expression, other)
    assert expression == gcs_condition(Place("gs", "my-models", "vision/digits"))


def test_the_script_fills_in_project_and_region_and_gives_nobody_the_right_to_call(commands: list[Command]) -> None:
    (replace,) = find(commands, "gcloud run services replace")
    service = parse(replace.files["service.yaml"])
    assert revision_of(service)["serviceAccountName"] == "decant@p-1.iam.gserviceaccount.com"
    assert revision_of(service)["containers"][0]["image"].startswith("europe-west1-docker.pkg.dev/p-1/")
    assert service["metadata"]["labels"]["cloud.googleapis.com/location"] == "europe-west1"
    assert find(commands, "gcloud run services add-iam-policy-binding") == []
    assert find(commands, "gcloud run services remove-iam-policy-binding") == []
    # It is there already.
    assert find(commands, "gcloud iam service-accounts create") == []


def test_the_script_makes_the_account_where_there_is_none(tmp_path: Path) -> None:
    environ = {"PROJECT_ID": "p-1", "REGION": "europe-west1"}
    failing = "decant@p-1.iam.gserviceaccount.com"
    commands = run_script(DIRECTORY / "deploy.sh", tmp_path, environ, programs=["gcloud"], failing=failing)
    (create,) = find(commands, "gcloud iam service-accounts create")
    assert create.words[3] == "decant"
