"""Several models in one process, from a file, with labels, and replaced while it runs; over both fronts."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from handlers.configuration import Configuration
from handlers.lifecycle import poll_seconds
from handlers.settings import Settings
from model_cache.repository import LISTING_TTL
from runtime.codecs import schema
from tests.conftest import DIGITS
from tests.servers.decant import Decant, decant_serve
from tests.servers.processes import ProcessFailed
from tests.servers.seaweedfs import SeaweedFS

SEVEN = json.loads((DIGITS / "seven.json").read_bytes())


def digits(base: Path, *versions: int) -> Path:
    """The digits model under these numbers, as if it had long been there."""
    for version in versions:
        shutil.copytree(DIGITS / "1", base / str(version))
        for path in (base / str(version)).iterdir():
            os.utime(path, (0, 0))
    return base


def broken(base: Path) -> Path:
    digits(base, 1)
    (base / "1" / "model.bin").write_bytes(b"short")
    os.utime(base / "1" / "model.bin", (0, 0))
    return base


def entry(name: str, base_path: Path, labels: Mapping[str, int] | None = None) -> str:
    labelled = "".join(
        f" version_labels {{ key: '{label}' value: {version} }}" for label, version in (labels or {}).items()
    )
    return f"config {{ name: '{name}' base_path: '{base_path}'{labelled} }}"


def write(path: Path, *entries: str) -> Path:
    new = path.with_suffix(".new")
    new.write_text(f"model_config_list {{\n{chr(10).join(entries)}\n}}\n")
    new.replace(path)
    return path


def json_file(path: Path, *models: Mapping[str, Any], **others: Any) -> Path:
    """OpenVINO Model Server's file."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"model_config_list": [{"config": model} for model in models], **others}))
    new.replace(path)
    return path


def in_memory(server: Decant) -> dict[str, list[int]]:
    """By model, the versions that are loaded."""
    models = server.get("/v1/cache").body["models"]
    return {
        name: sorted(int(found["version"]) for found in model["versions"] if found["where"]["memory"])
        for name, model in models.items()
    }


def states(server: Decant) -> dict[str, list[tuple[str, str]]]:
    """What /v1/config says: by model, each version and its state."""
    return {
        name: [(each["version"], each["state"]) for each in model["model_version_status"]]
        for name, model in server.get("/v1/config").body.items()
    }


def digit(server: Decant, model: str) -> tuple[int, Any]:
    reply = server.post(f"/v1/models/{model}:predict", SEVEN)
    return reply.status, reply.body["predictions"][0]["digit"] if reply.status == 200 else reply.body["error"]


def version(server: Decant, model: str) -> int:
    return int(server.get(f"/v1/models/{model}/metadata").body["model_spec"]["version"])


def call(server: Decant, service: str, method: str, request: Any, answer: Any) -> Any:
    with grpc.insecure_channel(server.grpc_address) as channel:
        path = f"/tensorflow.serving.{service}/{method}"
        return channel.unary_unary(path, type(request).SerializeToString, answer.FromString)(request, timeout=60)


def version_over_grpc(server: Decant, model: str, label: str) -> int:
    request = schema.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name, request.model_spec.version_label = model, label
    answer = call(server, "PredictionService", "GetModelMetadata", request, schema.GetModelMetadataResponse)
    return int(answer.model_spec.version.value)


def reload(server: Decant, models: Mapping[str, Path], labels: Mapping[str, int]) -> Any:
    request = schema.ReloadConfigRequest()
    for name, base_path in models.items():
        added = request.config.model_config_list.config.add(name=name, base_path=str(base_path))
        added.version_labels.update(labels)
    return call(server, "ModelService", "HandleReloadConfigRequest", request, schema.ReloadConfigResponse)


def test_a_canary_becomes_stable_while_the_server_runs(tmp_path: Path) -> None:
    base = digits(tmp_path / "digits", 1, 2, 3)
    file = write(tmp_path / "models.config", entry("digits", base, {"stable": 1, "canary": 2}))
    with decant_serve(tmp_path, "--model_config_file", file) as server:
        assert [version(server, f"digits/labels/{label}") for label in ("stable", "canary")] == [1, 2]
        assert [version_over_grpc(server, "digits", label) for label in ("stable", "canary")] == [1, 2]
        assert version(server, "digits") == 3
        assert digit(server, "digits/labels/stable") == (200, 7)

        assert reload(server, {"digits": base}, {"stable": 2, "canary": 3}).status.error_code == 0
        assert [version(server, f"digits/labels/{label}") for label in ("stable", "canary")] == [2, 3]
        assert [version_over_grpc(server, "digits", label) for label in ("stable", "canary")] == [2, 3]

        with pytest.raises(grpc.RpcError) as caught:
            reload(server, {"digits": base}, {"stable": 9})
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        said = "Request to assign label to version 9 of model digits, which is not currently available for inference"
        assert str(caught.value.details()).startswith(said)
        assert version(server, "digits/labels/stable") == 2

        status, message = digit(server, "digits/labels/gamma")
        assert (status, message.partition(";")[0]) == (400, "Unrecognized servable version label: gamma")
        with pytest.raises(grpc.RpcError) as caught:
            version_over_grpc(server, "digits", "gamma")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_models_come_and_go_with_the_file_and_no_request_to_the_others_fails(tmp_path: Path) -> None:
    base = digits(tmp_path / "digits", 1)
    file = write(tmp_path / "models.config", entry("stays", base))
    flags = ["--model_config_file", str(file), "--model_config_file_poll_wait_seconds", "0.05"]
    with decant_serve(tmp_path, *flags) as server, ThreadPoolExecutor(2) as pool:
        done = threading.Event()

        def ask() -> set[tuple[int, Any]]:
            answers = set()
            while not done.is_set():
                answers.add(digit(server, "stays"))
            return answers

        askers = [pool.submit(ask) for _ in range(2)]
        for new, before in (("new", "none"), ("newer", "new"), ("newest", "newer")):
            write(file, entry("stays", base), entry(new, base))
            server.process.wait_until(partial(lambda name: digit(server, name) == (200, 7), new), 30)
            assert digit(server, before)[0] == 404
        reload(server, {"stays": base, "other": base}, {})
        assert digit(server, "other") == (200, 7)
        done.set()
        assert [asker.result() for asker in askers] == [{(200, 7)}] * 2


def test_one_bad_model_of_a_file_stops_no_other(tmp_path: Path) -> None:
    good = digits(tmp_path / "good", 1)
    models = {"good": good, "broken": broken(tmp_path / "broken"), "nowhere": tmp_path / "nowhere"}
    file = write(tmp_path / "models.config", *(entry(name, path) for name, path in models.items()))
    flags = ["--config_path", str(file), "--model_config_file_poll_wait_seconds", "0.05"]
    with decant_serve(tmp_path, *flags, wait=False) as server:
        server.process.wait_until(lambda: server.log().count("not ready, trying again every 30 s") == 2, 30)
        assert digit(server, "good") == (200, 7)
        assert digit(server, "broken")[0] == 503
        assert server.get("/v2/health/ready").status == 503
        assert f"{tmp_path}/nowhere: No such file or directory" in server.log()
        # Mended, or taken back: then all of them are there.
        write(file, entry("good", good), entry("broken", digits(tmp_path / "mended", 1)))
        server.wait_ready(20)
        assert digit(server, "broken") == (200, 7)
        assert server.terminate() == 0
    (ready,) = [line for line in server.log().splitlines() if "ready: " in line]
    assert "ready: good/1, broken/1 on REST" in ready
    # Of the one that was taken away nothing more is said.
    assert server.log().count("not ready") == 2


def test_a_server_may_begin_without_models_and_be_given_some(tmp_path: Path) -> None:
    file = write(tmp_path / "models.config")
    with decant_serve(tmp_path, "--model_config_file", file) as server:
        assert digit(server, "digits")[0] == 404
        reload(server, {"digits": DIGITS}, {})
        assert digit(server, "digits") == (200, 7)


def test_any_name_can_be_written_in_a_url(tmp_path: Path) -> None:
    with decant_serve(tmp_path, "--model_name", "a/b:c", "--model_path", DIGITS) as server:
        assert digit(server, "a%2Fb%3Ac") == (200, 7)


def test_ovmss_file_of_several_models_serves_them(tmp_path: Path) -> None:
    models = [{"config": {"name": name, "base_path": str(DIGITS), "target_device": "CPU"}} for name in ("a", "b")]
    (tmp_path / "config.json").write_text(json.dumps({"model_config_list": models}))
    with decant_serve(tmp_path, "--config_path", tmp_path / "config.json", without_grpc=True) as server:
        assert [digit(server, name) for name in ("a", "b")] == [(200, 7)] * 2


def test_labels_of_one_model_are_a_flag(tmp_path: Path) -> None:
    flags = ["--model_base_path", str(digits(tmp_path / "digits", 1, 2)), "--version_labels", '{"stable": 1}']
    with decant_serve(tmp_path, *flags, without_grpc=True) as server:
        assert version(server, "default/labels/stable") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read models.config: No such file or directory"),
        ("", "models.config: is empty; want model_config_list"),
        ("model_config_list { config { name: 'm' base_path: 'm' } }", "model 'm': base_path is 'm'; want an absolute"),
        ("model_config_list { config { name: 'm' base_path: 's3://' } }", "m: model_path: 's3://' names no bucket"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line_and_exit_code_64(
    content: str | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "models.config").write_text(content)
    with (
        pytest.raises(ProcessFailed) as caught,
        decant_serve(tmp_path, "--model_config_file", "models.config") as server,
    ):
        server.wait_ready()
    assert "64" in str(caught.value)
    assert message in str(caught.value)


def test_a_file_in_a_bucket_that_cannot_be_read_is_exit_code_3(s3: SeaweedFS, tmp_path: Path) -> None:
    file = "s3://not-there/models.config"
    with (
        pytest.raises(ProcessFailed, match=r"exit code 3 (?s:.*)cannot start s3://not-there/models.config: "),
        decant_serve(tmp_path, "--model_config_file", file, env=s3.reader.env()),
    ):
        pass


def test_openvino_model_servers_file_is_watched_by_itself(tmp_path: Path) -> None:
    one = {"name": "one", "base_path": str(digits(tmp_path / "one", 1))}
    file = json_file(tmp_path / "config.json", one)
    flags = ["--config_path", str(file), "--file_system_poll_wait_seconds", "0.05"]
    with decant_serve(tmp_path, *flags, without_grpc=True) as server:
        json_file(file, one, {**one, "name": "two"})
        server.process.wait_until(lambda: digit(server, "two") == (200, 7), 30)
        json_file(file, {**one, "name": "two"})
        server.process.wait_until(lambda: digit(server, "one")[0] == 404, 30)
        server.process.wait_until(lambda: states(server) == {"two": [("1", "AVAILABLE")], "one": [("1", "END")]}, 30)


@pytest.mark.parametrize(
    ("settings", "is_json", "seconds"),
    [
        ({}, False, 0),
        ({}, True, LISTING_TTL),
        ({"file_system_poll_wait_seconds": 0.0}, True, 0),
        ({"file_system_poll_wait_seconds": 3.0}, False, 0),
        ({"model_config_file_poll_wait_seconds": 7.0}, False, 7),
        ({"model_config_file_poll_wait_seconds": 7.0, "file_system_poll_wait_seconds": 0.0}, True, 7),
        ({"model_config_file_poll_wait_seconds": 0.0}, True, 0),
    ],
)
def test_how_often_a_file_is_looked_at_is_as_its_server_has_it_unless_it_is_said(
    settings: dict[str, Any], is_json: bool, seconds: float
) -> None:
    assert poll_seconds(Settings(**settings), Configuration([], is_json=is_json)) == seconds


def test_a_client_has_the_file_and_the_versions_looked_at(tmp_path: Path) -> None:
    """OpenVINO Model Server's config API."""
    one = {"name": "one", "base_path": str(digits(tmp_path / "one", 1))}
    file = json_file(tmp_path / "config.json", one)
    flags = ["--config_path", str(file), "--file_system_poll_wait_seconds", "0"]
    with decant_serve(tmp_path, *flags, without_grpc=True) as server:

        def reload() -> tuple[int, Any]:
            reply = server.post("/v1/config/reload", b"")
            return reply.status, reply.body

        assert reload()[0] == 200
        digits(tmp_path / "one", 2)
        broken(tmp_path / "bad")
        json_file(
            file,
            one,
            {"name": "bad", "base_path": str(tmp_path / "bad")},
            {"name": "odd", "base_path": str(DIGITS), "shape": "(1,"},
            {"name": "two", "base_path": str(DIGITS)},
        )
        status, body = reload()
        assert status == 201
        # What is new has been loaded, and what cannot be says why.
        assert in_memory(server)["two"] == [1]
        newest = body["one"]["model_version_status"][0]
        assert (newest["version"], newest["state"]) == ("2", "AVAILABLE")
        assert 2 in in_memory(server)["one"]
        (failed,) = body["bad"]["model_version_status"]
        assert (failed["state"], failed["status"]["error_code"]) == ("END", "FAILED_PRECONDITION")
        assert len(failed["status"]["error_message"]) > 20
        (rejected,) = body["odd"]["model_version_status"]
        assert (rejected["version"], rejected["state"]) == ("0", "END")
        assert "shape is" in rejected["status"]["error_message"]
        assert digit(server, "odd")[0] == 404
        assert reload()[0] == 200

        file.write_text("{")
        assert reload()[0] == 412
        file.unlink()
        assert reload()[0] == 500
        assert [digit(server, name) for name in ("one", "two")] == [(200, 7)] * 2


def test_of_one_models_flags_a_client_has_the_versions_looked_at(tmp_path: Path) -> None:
    base = digits(tmp_path / "digits", 1)
    flags = ["--model_name", "digits", "--model_path", str(base), "--file_system_poll_wait_seconds", "0"]
    with decant_serve(tmp_path, *flags, without_grpc=True) as server:
        digits(base, 2)
        assert server.post("/v1/config/reload", b"").status == 201
        assert in_memory(server) == {"digits": [1, 2]}
        (base / "1").rename(tmp_path / "elsewhere")
        assert server.post("/v1/config/reload", b"").status == 201
        assert states(server) == {"digits": [("2", "AVAILABLE"), ("1", "END")]}
        said = "Servable not found for request: Specific(digits, 1) (Model with requested version is retired)"
        assert digit(server, "digits/versions/1") == (404, said)


def test_options_and_versions_change_under_load_and_no_request_fails(tmp_path: Path) -> None:
    stays = {"name": "stays", "base_path": str(digits(tmp_path / "stays", 1, 2))}
    file = json_file(tmp_path / "config.json", stays)
    with (
        decant_serve(tmp_path, "--config_path", file, "--file_system_poll_wait_seconds", "0") as server,
        ThreadPoolExecutor(3) as pool,
    ):
        done = threading.Event()

        def ask(model: str) -> set[tuple[int, Any]]:
            answers = set()
            while not done.is_set():
                answers.add(digit(server, model))
            return answers

        askers = [pool.submit(ask, model) for model in ("stays", "stays/versions/1", "stays/versions/2")]
        for number in range(1, 5):
            others = [{"name": "other", "base_path": str(DIGITS)}] if number % 2 else []
            json_file(file, {**stays, "nireq": number}, *others)
            assert server.post("/v1/config/reload", b"").status == 201
        digits(tmp_path / "stays", 3)
        assert server.post("/v1/config/reload", b"").status == 201
        done.set()
        assert [asker.result() for asker in askers] == [{(200, 7)}] * 3
        assert version(server, "stays") == 3


def test_every_version_of_a_policy_is_loaded_at_the_start_and_the_one_that_serves_without(tmp_path: Path) -> None:
    base = str(digits(tmp_path / "digits", 1, 2, 3))
    file = json_file(
        tmp_path / "config.json",
        {"name": "some", "base_path": base, "model_version_policy": {"specific": {"versions": [1, 3]}}},
        {"name": "one", "base_path": base},
    )
    with decant_serve(tmp_path, "--config_path", file, without_grpc=True) as server:
        assert in_memory(server) == {"some": [1, 3], "one": [3]}


def test_lazy_models_are_loaded_by_who_asks_for_them_and_others_at_the_start(tmp_path: Path) -> None:
    model = {"base_path": str(DIGITS)}
    file = json_file(
        tmp_path / "config.json",
        *({**model, "name": name} for name in ("lazy", "preloaded")),
        {**model, "name": "eager", "lazy": False},
    )
    flags = ["--config_path", str(file), "--lazy", "--preload", "preloaded"]
    with decant_serve(tmp_path, *flags, without_grpc=True) as server:
        assert in_memory(server) == {"lazy": [], "preloaded": [1], "eager": [1]}
        assert states(server)["lazy"] == [("1", "AVAILABLE")]
        assert digit(server, "lazy") == (200, 7)
        assert in_memory(server)["lazy"] == [1]


def test_one_lazy_model_is_not_looked_for_at_the_start(tmp_path: Path) -> None:
    flags = ["--model_name", "digits", "--model_path", str(tmp_path / "digits"), "--lazy"]
    with decant_serve(tmp_path, *flags, without_grpc=True) as server:
        assert digit(server, "digits")[0] == 503
        digits(tmp_path / "digits", 1)
        assert digit(server, "digits") == (200, 7)


def test_what_is_wrong_with_some_models_of_a_file_keeps_no_other_from_being_ready(tmp_path: Path) -> None:
    file = json_file(
        tmp_path / "config.json",
        {"name": "good", "base_path": str(DIGITS)},
        {"name": "nowhere", "base_path": "s3://"},
        {"name": "odd", "base_path": str(DIGITS), "layout": "7"},
        pipeline_config_list=[{"name": "p", "inputs": ["x"], "nodes": [], "outputs": []}],
    )
    with decant_serve(tmp_path, "--config_path", file, without_grpc=True) as server:
        assert digit(server, "good") == (200, 7)
        assert states(server) == {
            "good": [("1", "AVAILABLE")],
            **{name: [("0", "END")] for name in ("nowhere", "odd", "p")},
        }
        warnings = [line for line in server.log().splitlines() if "WARNING" in line]
        assert len(warnings) == 3
        assert all(any(name in line for line in warnings) for name in ("nowhere: model_path", "odd", "pipeline"))


def test_a_model_to_preload_that_is_none_is_exit_code_64(tmp_path: Path) -> None:
    flags = ["--model_name", "digits", "--model_path", str(DIGITS), "--preload", "digit"]
    with (
        pytest.raises(ProcessFailed, match=r"64(?s:.*)preload names 'digit', which is no model; want some of digits"),
        decant_serve(tmp_path, *flags) as server,
    ):
        server.wait_ready()
