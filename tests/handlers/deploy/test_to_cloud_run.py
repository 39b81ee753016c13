"""Cloud Run's files from a manifest: what the manifest says is in them, and nothing of the example is left."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from handlers.deploy import to_cloud_run
from handlers.deploy.manifest import Manifest, Model
from handlers.deploy.parse import ManifestError
from handlers.settings import read_settings
from tests.handlers.deploy.policies import cel_admits
from tests.infra import cloud_run_v2
from tests.infra.platforms import decant_of, parse, settings_of, variables_of
from tests.infra.scripts import Command, check_script, find, run_script

MANIFEST = Manifest(
    name="vision",
    image="europe-docker.pkg.dev/acme/ml/decant@sha256:" + "0" * 64,
    models=(
        Model("digits", "gs://acme-models/vision/digits"),
        Model("ocr", "gs://acme-models/ocr", {"nireq": 2}),
        Model("all", "gs://everything"),
    ),
    region="europe-west4",
    memory=4096,
    cpu=2,
    concurrency=8,
    timeout=300,
    min_instances=1,
    max_instances=20,
    settings={"log_level": "DEBUG"},
)


def deployed(manifest: Manifest, directory: Path, project: str = "acme") -> list[Command]:
    """Render, run the script, and return its commands."""
    for name, text in to_cloud_run.render(manifest).items():
        (directory / name).write_text(text)
    check_script(directory / "deploy.sh")
    # There is no such account yet.
    missing = f"vision@{project}.iam.gserviceaccount.com"
    return run_script(directory / "deploy.sh", directory, {"PROJECT_ID": project}, programs=["gcloud"], failing=missing)


@pytest.mark.skipif(not cloud_run_v2.IS_INSTALLED, reason=cloud_run_v2.NEEDS_PROTOS)
def test_the_service_is_the_manifests() -> None:
    message = cloud_run_v2.as_message(parse(to_cloud_run.render(MANIFEST)["service.yaml"]))["template"]
    assert message["scaling"] == {"minInstanceCount": 1, "maxInstanceCount": 20}
    assert (message["timeout"], message["maxInstanceRequestConcurrency"]) == ("300s", 8)
    (container,) = message["containers"]
    assert container["image"] == MANIFEST.image
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "4096Mi"}


def test_decant_reads_what_the_manifest_says(monkeypatch: pytest.MonkeyPatch) -> None:
    service = parse(to_cloud_run.render(MANIFEST)["service.yaml"])
    container = decant_of(service["spec"]["template"]["spec"]["containers"])
    settings = settings_of(container, monkeypatch, {"PORT": "8080", "K_SERVICE": "vision"})
    assert (settings.model_path, settings.log_level, settings.rest_port) == ("", "DEBUG", 8080)
    assert settings.load_timeout < 300
    assert settings.rest_api_timeout_in_ms < 300_000
    models = json.loads(variables_of(container)["DECANT_MODEL_CONFIG"])["model_config_list"]
    assert [each["config"]["base_path"] for each in models] == [model.base_path for model in MANIFEST.models]


def test_rights_are_on_each_prefix_and_a_whole_bucket_has_no_condition(tmp_path: Path) -> None:
    commands = deployed(MANIFEST, tmp_path)
    grants = find(commands, "gcloud storage buckets add-iam-policy-binding")
    conditions = [json.loads(grant.files["condition.json"])["expression"] for grant in grants if grant.files]
    bucket = "projects/_/buckets/acme-models"
    allowed = [
        name
        for name in ("vision/digits/1/model.bin", "ocr/1/model.bin", "secret/model.bin", "ocr2/model.bin")
        if any(cel_admits(condition, f"{bucket}/objects/{name}") for condition in conditions)
    ]
    assert allowed == ["vision/digits/1/model.bin", "ocr/1/model.bin"]
    assert len(grants) == 2
    assert cel_admits(conditions[0], bucket)
    (whole,) = (grant for grant in grants if "gs://everything" in grant.words)
    assert "--condition=None" in whole.words
    assert not find(commands, "gcloud run services add-iam-policy-binding")


def test_many_prefixes_are_as_few_conditions_as_google_takes(tmp_path: Path) -> None:
    models = tuple(Model(f"m{number}", f"gs://acme-models/vision/m{number}") for number in range(25))
    grants = find(deployed(MANIFEST._replace(models=models), tmp_path), "gcloud storage buckets add-iam-policy-binding")
    conditions = [json.loads(grant.files["condition.json"]) for grant in grants]
    assert len(conditions) <= to_cloud_run.MOST_CONDITIONS
    assert len({condition["title"] for condition in conditions}) == len(conditions)
    # Google's limit.
    assert max(condition["expression"].count("||") for condition in conditions) <= 12
    objects = "projects/_/buckets/acme-models/objects/vision"
    for model in models:
        assert any(cel_admits(one["expression"], f"{objects}/{model.name}/1/model.bin") for one in conditions)
    assert not any(cel_admits(one["expression"], f"{objects}/m25/1/model.bin") for one in conditions)


@pytest.mark.parametrize("is_open", [True, False])
def test_who_is_public_no_more_is_closed(tmp_path: Path, is_open: bool) -> None:
    for name, text in to_cloud_run.render(MANIFEST).items():
        (tmp_path / name).write_text(text)
    saying = {"get-iam-policy": "allUsers"} if is_open else {}
    commands = run_script(tmp_path / "deploy.sh", tmp_path, {"PROJECT_ID": "acme"}, programs=["gcloud"], saying=saying)
    removed = find(commands, "gcloud run services remove-iam-policy-binding vision")
    assert [{"--member=allUsers", "--role=roles/run.invoker"} <= set(command.words) for command in removed] == (
        [True] if is_open else []
    )


def test_account_project_and_region_are_filled_in(tmp_path: Path) -> None:
    commands = deployed(MANIFEST, tmp_path)
    (create,) = find(commands, "gcloud iam service-accounts create")
    assert create.words[3] == "vision"
    (replace,) = find(commands, "gcloud run services replace")
    assert "--region=europe-west4" in replace.words
    revision = parse(replace.files["service.yaml"])["spec"]["template"]["spec"]
    assert revision["serviceAccountName"] == "vision@acme.iam.gserviceaccount.com"


def test_what_looks_like_a_placeholder_in_a_model_stays(tmp_path: Path) -> None:
    manifest = MANIFEST._replace(models=(Model("REGION", "gs://acme-models/PROJECT_ID/REGION"),))
    (replace,) = find(deployed(manifest, tmp_path), "gcloud run services replace")
    container = decant_of(parse(replace.files["service.yaml"])["spec"]["template"]["spec"]["containers"])
    assert variables_of(container)["DECANT_MODEL_PATH"] == "gs://acme-models/PROJECT_ID/REGION"


def test_who_is_public_may_be_called_by_all(tmp_path: Path) -> None:
    (grant,) = find(
        deployed(MANIFEST._replace(public=True), tmp_path), "gcloud run services add-iam-policy-binding vision"
    )
    assert "--member=allUsers" in grant.words
    assert "--role=roles/run.invoker" in grant.words


def test_grpc_is_instead_of_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = MANIFEST._replace(grpc=True, models=MANIFEST.models[:1])
    service = parse(to_cloud_run.render(manifest)["service.yaml"])
    container = decant_of(service["spec"]["template"]["spec"]["containers"])
    settings = settings_of(container, monkeypatch, {"PORT": "8080", "K_SERVICE": "vision"})
    assert (settings.port, settings.rest_port) == (8080, 0)
    assert container["ports"] == [{"name": "h2c", "containerPort": 8080}]
    assert service["metadata"]["name"] == "vision"


def test_a_model_in_the_image_needs_no_rights(tmp_path: Path) -> None:
    commands = deployed(MANIFEST._replace(models=(Model("digits", "/models/digits"),)), tmp_path)
    assert find(commands, "gcloud storage") == []


def test_each_service_has_an_account_whose_name_google_takes() -> None:
    names = ["vision", "ocr", "ocr-decant", "a" * 40, "a" * 41, "computer-vision-prod-a-1234567890"]
    services = [parse(to_cloud_run.render(MANIFEST._replace(name=name))["service.yaml"]) for name in names]
    emails = [service["spec"]["template"]["spec"]["serviceAccountName"] for service in services]
    accounts = [email.removesuffix("@PROJECT_ID.iam.gserviceaccount.com") for email in emails]
    assert all(re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", account) for account in accounts)
    assert len(set(accounts)) == len(names)
    assert accounts[0] == "vision"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"architecture": "arm64"}, "architecture is arm64; want amd64"),
        ({"name": "a" * 50}, "name has 50 characters; want 49"),
        ({"cpu": 0.5}, "cpu is 0.5; want 1, 2, 4, 6 or 8"),
        ({"cpu": 1, "memory": 8192}, "memory is 8192 MiB; want 512 to 4096 with cpu 1"),
        ({"cpu": 8, "memory": 2048}, "memory is 2048 MiB; want 4096 to 32768"),
        ({"image": "1.dkr.ecr.eu-west-1.amazonaws.com/decant:1"}, "; want one in Artifact Registry"),
        (
            {"models": tuple(Model(f"m{i}", f"gs://b/{i}") for i in range(221))},
            "gs://b are below 221 prefixes; want 220",
        ),
        (
            {"models": tuple(Model(f"m{i}", f"gs://b/{'x' * 100}{i}") for i in range(220))},
            "in DECANT_MODEL_CONFIG; want",
        ),
        (
            {"settings": {"memory_budget": "3G", "disk_budget": "2G"}},
            "memory_budget 3G and settings.disk_budget 2G are",
        ),
        ({"settings": {"max_in_flight": "7"}}, "settings.max_in_flight is 7; want concurrency, which is 8, at least"),
        ({"settings": {"grpc_tls_key_file": "/k"}}, "settings.grpc_tls_key_file makes the port TLS"),
        (
            {"settings": {"rest_api_timeout_in_ms": "300000"}},
            "rest_api_timeout_in_ms is 300000 ms; want less than 300000",
        ),
        ({"settings": {"rest_api_timeout_in_ms": "0"}}, "rest_api_timeout_in_ms is 0, for no end; want less"),
        ({"timeout": 3601}, "timeout is 3601 s; want 3600"),
        ({"models": (Model("a", "s3://b/c"),)}, "model a is at s3://b/c; want gs://"),
        ({"settings": {"load_timeout": "300"}}, "settings.load_timeout is 300 s; want less than 300"),
        ({"settings": {"shutdown_timeout": "10"}}, "settings.shutdown_timeout is 10 s; want less than 10"),
    ],
)
def test_what_cloud_run_does_not_have_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ManifestError) as error:
        to_cloud_run.render(MANIFEST._replace(**changes))  # type: ignore[arg-type]
    assert complaint in str(error.value)


def test_decant_s_own_default_ends_before_cloud_run_kills() -> None:
    assert read_settings({}).shutdown_timeout < to_cloud_run.WINDOW
