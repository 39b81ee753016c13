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
