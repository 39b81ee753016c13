"""A manifest as a compose file: what the container gets, may and sees."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handlers.deploy.parse import parse
from handlers.deploy.to_compose import render
from tests.infra import compose_file
from tests.infra.compose_file import NEEDS_TOOLS, TOOLS, run_tool

S3 = {"name": "digits", "base_path": "s3://my-models/vision/digits"}
GS = {"name": "words", "base_path": "gs://my-models/text/words"}
AZURE = {"name": "faces", "base_path": "az://models/vision/faces"}
LOCAL = {"name": "voices", "base_path": "/srv/models/voices"}
KEY_FILE = {"GOOGLE_APPLICATION_CREDENTIALS": "/home/me/key.json"}


def rendered(*models: dict[str, str], **fields: Any) -> dict[str, Any]:
    manifest = {"name": "vision", "image": "registry.example.com/decant:1", "models": models, **fields}
    files = render(parse(json.dumps(manifest)))
    assert list(files) == ["compose.yaml"]
    return compose_file.parse(files["compose.yaml"], KEY_FILE)


def service(*models: dict[str, str], **fields: Any) -> dict[str, Any]:
    [(name, found)] = rendered(*models, **fields)["services"].items()
    assert name == "vision"
    assert isinstance(found, dict)
    return found


@pytest.mark.skipif(not TOOLS.is_dir(), reason=NEEDS_TOOLS)
def test_compose_understands_it() -> None:
    document = rendered(S3, GS, AZURE, LOCAL, azure_account="myaccount", grpc=True)
    script = "import sys, compose_spec; compose_spec.PyCompose.from_json(sys.stdin.read())"
    done = run_tool("-c", script, text=json.dumps(document))
    assert done.returncode == 0, done.stderr


def test_it_is_as_confined_as_the_try_out() -> None:
    found = service(S3)
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert "build" not in found
    assert "networks" not in found
    assert "depends_on" not in found


def test_the_store_and_the_keys_of_the_try_out_are_not_in_it() -> None:
    text = str(rendered(S3))
    for word in ("try-out", "upload", "s3:8333", "seaweedfs", "grafana"):
        assert word not in text


def test_credentials_are_those_of_the_environment_and_only_of_the_stores_there_are() -> None:
    environment = service(S3)["environment"]
    assert environment["AWS_SECRET_ACCESS_KEY"] is None
    assert environment["AWS_REGION"] is None
    assert not [name for name in environment if name.startswith(("AZURE_", "GOOGLE_"))]
    assert service(S3, region="eu-west-1")["environment"]["AWS_REGION"] == "eu-west-1"
    azure = service(AZURE, azure_account="myaccount")["environment"]
    assert azure["AZURE_STORAGE_ACCOUNT"] == "myaccount"
    assert azure["AZURE_STORAGE_SAS_TOKEN"] is None
    assert not [name for name in azure if name.startswith("AWS_")]


def test_googles_key_is_a_file_that_has_to_be_named() -> None:
    document = rendered(GS)
    [found] = document["services"].values()
    assert found["secrets"] == ["google"]
    assert found["environment"]["GOOGLE_APPLICATION_CREDENTIALS"] == "/run/secrets/google"
    assert document["secrets"] == {"google": {"file": "/home/me/key.json"}}
    manifest = parse(json.dumps({"name": "v", "image": "decant:1", "models": [GS]}))
    with pytest.raises(KeyError, match="service account's key file"):
        compose_file.parse(render(manifest)["compose.yaml"])


def test_a_directory_is_mounted_to_be_read_and_never_made() -> None:
    [mount] = service(LOCAL)["volumes"]
    assert (mount["source"], mount["target"]) == ("/srv/models/voices", "/srv/models/voices")
    assert mount["read_only"] is True
    assert mount["bind"]["create_host_path"] is False


def test_limits_are_the_manifests_and_downloads_are_memory() -> None:
    found = service(S3, memory="1Gi", disk="512Mi", cpu=1.5)
    limits = found["deploy"]["resources"]["limits"]
    assert (limits["memory"], limits["cpus"], limits["pids"]) == ("1536M", "1.5", 256)
    assert found["tmpfs"] == ["/tmp:size=576m,mode=1777"]
    assert int(found["environment"]["DECANT_DISK_BUDGET"]) == 512 << 20
    # Decant's own share would be of the limit, whose larger part may be disk.
    assert found["environment"]["DECANT_MEMORY_BUDGET"] == "716M"
    local = service(LOCAL, memory="1Gi", disk="512Mi")
    assert local["deploy"]["resources"]["limits"]["memory"] == "1024M"
    assert local["tmpfs"] == ["/tmp:size=64m,mode=1777"]
    assert local["environment"]["DECANT_MEMORY_BUDGET"] == "716M"
    assert "DECANT_DISK_BUDGET" not in local["environment"]


def test_ports_are_this_machines_own_unless_it_is_to_be_public() -> None:
    assert service(S3)["ports"] == ["127.0.0.1:8501:8501"]
    assert service(S3)["environment"]["DECANT_PORT"] == "0"
    both = service(S3, grpc=True, public=True)
    assert both["ports"] == ["0.0.0.0:8500:8500", "0.0.0.0:8501:8501"]
    assert "DECANT_PORT" not in both["environment"]


def test_settings_win_and_the_stop_waits_for_them() -> None:
    settings = {"shutdown_timeout": 30, "load_timeout": 5, "disk_budget": 1000}
    found = service(S3, settings=settings, timeout=120)
    assert found["stop_grace_period"] == "37s"
    assert found["environment"]["DECANT_LOAD_TIMEOUT"] == "5"
    assert found["environment"]["DECANT_DISK_BUDGET"] == "1000"
    environment = service(S3, timeout=120)["environment"]
    assert 60 <= float(environment["DECANT_LOAD_TIMEOUT"]) < 120
    assert float(environment["DECANT_LOAD_TIMEOUT"]) < float(environment["DECANT_REST_API_TIMEOUT_IN_MS"]) / 1000 <= 120


def test_an_image_for_another_processor_is_asked_for_by_name() -> None:
    assert service(S3, architecture="arm64")["platform"] == "linux/arm64"


def test_the_head_says_what_it_needs() -> None:
    manifest = parse(json.dumps({"name": "v", "image": "decant:1", "models": [S3, LOCAL]}))
    head = [line for line in render(manifest)["compose.yaml"].splitlines() if line.startswith("#")]
    assert head[0].startswith("# 2 models in Decant")
    assert "AWS_*" in head[1]
    assert "directories of this machine" in head[2]
