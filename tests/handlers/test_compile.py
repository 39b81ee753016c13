"""``decant compile``, from the command line to servers that import what it has published."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from handlers.cli import main
from handlers.compile import publish
from runtime.compiled import DEFAULTS, read
from tests.conftest import DIGITS
from tests.runtime import models
from tests.servers.decant import DECANT, decant_serve
from tests.servers.processes import clean_environment
from tests.servers.seaweedfs import Credentials, SeaweedFS

IMAGE = {"instances": [[[0.0] * 8] * 8]}
IMPORTED = "MiB, compiled before"


def blobs(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.blob"))


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DIGITS, tmp_path / "digits"))


def become(who: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in who.env().items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("client", ["sdk", "obstore"])
def test_what_is_published_in_a_bucket_is_imported_by_servers_at_their_first_start(
    client: str, s3: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = f"compile-{client}/digits"
    s3.put_tree("models", prefix, DIGITS)
    become(s3.admin, monkeypatch)
    flags = ["--storage_client", client, "--s3_endpoint", s3.endpoint]
    # The machine may be busy, so that one is as slow as the other.
    argv = ["compile", f"s3://models/{prefix}", "--force", "--cache_dir", str(tmp_path / "mine"), *flags]
    assert main(argv) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("digits/1: compiling takes ")
    assert f"bytes published at s3://models/{prefix}/1/compiled/" in said[1]
    reader = {name: value for name, value in s3.reader.env().items() if not name.startswith("AWS_ENDPOINT")}
    model = ["--model_name", "digits", "--model_path", f"s3://models/{prefix}", *flags]
    with decant_serve(tmp_path, *model, env=reader, without_grpc=True) as server:
        assert server.post("/v1/models/digits:predict", IMAGE).status == 200
        server.process.wait_until(lambda: IMPORTED in server.log(), 10)


def test_pull_fetches_what_is_compiled_for_any_servers(
    s3: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_tree("models", "compile-pull/digits", DIGITS)
    s3.client().put_object(Bucket="models", Key="compile-pull/digits/1/compiled/another-1.blob", Body=b"anything")
    become(s3.reader, monkeypatch)
    argv = ["pull", "s3://models/compile-pull/digits", "--s3_endpoint", s3.endpoint]
    assert main([*argv, "--cache_dir", str(tmp_path / "cache")]) == 0
    assert [path.read_bytes() for path in blobs(tmp_path / "cache")] == [b"anything"]


def test_who_may_only_read_is_told_so_and_may_write_it_elsewhere(
    s3: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    become(s3.reader, monkeypatch)
    argv = ["compile", "s3://models/digits", "--force", "--cache_dir", str(tmp_path / "cache")]
    assert main([*argv, "--s3_endpoint", s3.endpoint]) == 1
    error = capsys.readouterr().err
    assert error.startswith("decant: cannot write s3://models/digits/1/compiled/")
    assert "AccessDenied" in error
    assert error.endswith("--output DIRECTORY writes it elsewhere\n")
    assert error.count("\n") == 1
    assert main([*argv, "--s3_endpoint", s3.endpoint, "--output", str(tmp_path / "out")]) == 0
    (written,) = blobs(tmp_path / "out")
    assert f"bytes written to {written}" in capsys.readouterr().out
    assert read(written).header.origin.weights.startswith("crc32c:")


def test_what_is_published_in_a_directory_is_imported_there(digits: Path, tmp_path: Path) -> None:
    assert main(["compile", str(digits), "--force", "--cache_dir", str(tmp_path / "cache")]) == 0
    (published,) = blobs(digits)
    assert published.parent == digits / "1" / "compiled"
    header = read(published).header
    assert (header.import_seconds or 0) > 0
    assert header.compile_seconds > 0
    with decant_serve(tmp_path, "--model_path", digits, without_grpc=True) as server:
        assert server.post("/v1/models/default:predict", IMAGE).status == 200
        server.process.wait_until(lambda: IMPORTED in server.log(), 10)


def test_a_server_imports_at_its_second_start_what_it_compiled_at_its_first(tmp_path: Path) -> None:
    flags: list[str | Path] = ["--model_path", DIGITS, "--log_level", "DEBUG", "--cache_dir", tmp_path / "cache"]
    # Answers to warm it up count as well.
    with decant_serve(tmp_path, *flags, without_grpc=True) as first:
        first.process.wait_until(lambda: "kept " in first.log(), 20)
        answer = first.post("/v1/models/default:predict", IMAGE)
        assert IMPORTED not in first.log()
    assert not (DIGITS / "1" / "compiled").exists()
    with decant_serve(tmp_path / "second", *flags, without_grpc=True) as second:
        assert second.post("/v1/models/default:predict", IMAGE).body == answer.body
        assert IMPORTED in second.log()


def test_what_is_compiled_on_one_cpu_is_imported_by_servers_with_such_properties_on_all_cpus(
    digits: Path, tmp_path: Path
) -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    properties = ["--plugin_config", '{"INFERENCE_PRECISION_HINT": "f32"}']
    argv = ["compile", str(digits), "--force", "--cache_dir", str(tmp_path / "ahead"), *properties]
    subprocess.run(["taskset", "-c", cpu, *DECANT, *argv], env=clean_environment(), check=True, timeout=60)
    (written,) = blobs(digits)
    assert dict(read(written).header.properties) == {**DEFAULTS, "INFERENCE_PRECISION_HINT": "f32"}
    answers = []
    for switch in ("true", "false"):
        flags: list[str | Path] = ["--model_path", digits, *properties, "--compiled_cache", switch]
        with decant_serve(tmp_path / switch, *flags, without_grpc=True) as server:
            answers.append(server.post("/v1/models/default:predict", IMAGE))
            assert (IMPORTED in server.log()) == (switch == "true")
    assert answers[0].status == 200
    assert answers[0].body == answers[1].body


def test_modules_of_the_directory_that_one_is_in_are_not_taken_for_decants(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert main(["compile", str(digits), "--force", "--cache_dir", str(tmp_path / "cache")]) == 0


def test_what_is_no_quicker_is_not_published_unless_one_insists(digits: Path, tmp_path: Path) -> None:
    argv = [
        "compile",
        str(digits),
        "--force",
        "--cache_dir",
        str(tmp_path / "cache"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(argv) == 0
    (written,) = blobs(tmp_path / "out")
    slow = read(written).with_seconds(0.5, 0.5)
    found = models.version_at(digits)
    takes = "model/1: compiling takes 0.500 s and importing 0.500 s, the least of 3 each"
    refused = "model/1: not published, as importing is no quicker; --force publishes it all the same"
    assert [*publish(found, slow, "", is_forced=False)] == [(True, takes), (False, refused)]
    assert blobs(digits) == []
    assert all(is_good for is_good, _ in publish(found, slow, "", is_forced=True))
    assert [read(path) for path in blobs(digits)] == [slow]


def test_a_model_without_weights_beside_it_cannot_be_compiled_ahead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models.save(models.doubler(), tmp_path / "model") / "model.bin").unlink()
    assert main(["compile", str(tmp_path / "model"), "--cache_dir", str(tmp_path / "cache")]) == 1
    wanted = "model/1 cannot be compiled ahead: want an .xml with its .bin, have model.xml"
    assert capsys.readouterr().err == f"decant: {wanted}\n"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--output", "s3://models/out"], "--output is 's3://models/out'; want a directory"),
        (
            ["--plugin_config", '{"CACHE_DIR": "a"}'],
            "plugin_config has CACHE_DIR, with which nothing is compiled ahead",
        ),
        ([], "cpu_extension is given, with which nothing is compiled ahead"),
    ],
    ids=["output", "plugin_config", "cpu_extension"],
)
def test_what_makes_no_sense_is_told_before_anything_is_compiled(
    flags: list[str],
    reason: str,
    digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not flags:
        # Flags of this command have none.
        monkeypatch.setenv("DECANT_CPU_EXTENSION", str(digits / "1" / "model.bin"))
    assert main(["compile", str(digits), "--cache_dir", str(tmp_path / "cache"), *flags]) == 64
    assert capsys.readouterr() == ("", f"decant: {reason}; see decant compile --help\n")
    assert not (tmp_path / "cache").exists()


def test_processes_that_cannot_be_started_are_told(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    assert main(["compile", str(digits), "--cache_dir", str(tmp_path / "cache")]) == 1
    wanted = "no process can be started to load model.xml in: No such file or directory"
    assert capsys.readouterr().err == f"decant: {wanted}\n"


def test_a_model_that_is_broken_cannot_be_compiled_ahead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = models.save(models.weighty(), tmp_path / "model")
    (directory / "model.xml").write_text("<net/>")
    assert main(["compile", str(tmp_path / "model"), "--cache_dir", str(tmp_path / "cache")]) == 1
    assert capsys.readouterr().err.startswith("decant: cannot compile model/1 from model.xml: ")


def test_a_version_that_is_not_there_cannot_be_compiled_ahead(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(digits), "--version", "7", "--cache_dir", str(tmp_path / "cache")]) == 1
    assert "Servable not found for request: Specific(digits, 7)" in capsys.readouterr().err
