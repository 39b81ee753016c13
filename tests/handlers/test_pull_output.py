"""``decant pull --output``: models as directories, to be baked into an image and served with no store."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from handlers.cli import main
from tests.conftest import DIGITS
from tests.servers.fault_proxy import Answer, FaultProxy, on
from tests.servers.seaweedfs import SeaweedFS

FILES = {path.name: path.read_bytes() for path in (DIGITS / "1").iterdir()}
BLOB = "compiled/2026-x86_64-abc.blob"


@pytest.fixture(autouse=True)
def reader(s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (s3.reader.env() | {"DECANT_CACHE_DIR": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def bucket(s3: SeaweedFS) -> str:
    """With the versions 1, 2 and 10 of a model, and what is none of it beside them."""
    for version in ("1", "2", "10"):
        s3.put_tree("models", f"baked/m/{version}", DIGITS / "1")
    for key in ("10/README.md", "10/notebooks/train.ipynb", f"10/{BLOB}"):
        s3.client().put_object(Bucket="models", Key=f"baked/m/{key}", Body=b"something")
    return "s3://models/baked"


def pull(*arguments: str | Path) -> int:
    return main(["pull", *map(str, arguments)])


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_what_a_server_needs_is_laid_out_for_all_to_read(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "models"
    before = os.umask(0o077)
    try:
        assert pull(f"{bucket}/m", "--output", out) == 0
    finally:
        os.umask(before)
    assert tree(out) == {f"m/10/{name}": data for name, data in FILES.items()} | {f"m/10/{BLOB}": b"something"}
    assert {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_dir()} == {0o755}
    assert {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()} == {0o644}
    size = sum(map(len, FILES.values()))
    assert capsys.readouterr().out.startswith(f"m/10: {size} bytes in {out}/m/10, fetched in ")
    # The cache has nothing to do with it.
    assert not (tmp_path / "cache").exists()
    assert pull(f"{bucket}/m", "--output", out) == 0
    assert capsys.readouterr().out == f"m/10: {size} bytes in {out}/m/10, there already\n"


@pytest.mark.parametrize(
    ("flags", "there"),
    [
        (["--version", "2"], ["2"]),
        (["--model_version_policy", '{"all": {}}'], ["1", "10", "2"]),
        (["--model_version_policy", '{"latest": {"num_versions": 2}}'], ["10", "2"]),
        (["--model_version_policy", '{"specific": {"versions": [1, 2]}}'], ["1", "2"]),
    ],
)
def test_versions_are_those_that_the_policy_offers(
    flags: list[str], there: list[str], bucket: str, tmp_path: Path
) -> None:
    assert pull(f"{bucket}/m", "--output", tmp_path / "out", "--model_name", "other", *flags) == 0
    assert sorted(path.name for path in (tmp_path / "out" / "other").iterdir()) == there


def test_models_of_a_file_have_its_names_and_those_of_paths_their_last_part(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text(
        "model_config_list {"
        f"  config {{ name: 'one' base_path: '{bucket}/m' version_labels {{ key: 'stable' value: 1 }} }}"
        f"  config {{ name: 'two' base_path: '{DIGITS}' }}"
        "}"
    )
    out = tmp_path / "out"
    flags: list[str | Path] = ["--model_config_file", tmp_path / "models.config", "-o", out]
    assert pull(f"{bucket}/m/", DIGITS, *flags) == 0
    found = {f"{path.parent.name}/{path.name}" for path in out.glob("*/*")}
    assert found == {"m/10", "digits/1", "one/1", "one/10", "two/1"}
    assert tree(out / "two" / "1") == FILES


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{b}/m", "{b}/m/", "-o", "{o}"], 64, "'m' is the name of two models"),
        (["{b}/m", "{d}", "-o", "{o}", "--model_name", "x"], 64, "model_name is given with several models"),
        (["{b}/m", "-o", "{o}", "--model_name", "../x"], 64, "'../x' is no name for a directory"),
        (["{b}/m", "-o", "{o}", "--cache_dir", "/c"], 64, "cache_dir is given with output"),
        (["{b}/m", "-o", ""], 64, "output is empty"),
        (["{b}/m", "-o", "{o}", "--version", "3"], 1, "3"),
        (["{d}", "{b}/none", "-o", "{o}"], 1, "no directory named by a number"),
        (["{d}", "{b}/m", "-o", "{o}", "--model_version_policy", '{"specific": {"versions": [1, 7]}}'], 1, "7"),
        (["{b}/m", "-o", "/proc/models"], 1, "cannot write m/10"),
        (["{b}/m", "-o", "{o}", "--model_name", "x" * 256], 64, "is no name for a directory"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    arguments: list[str], code: int, says: str, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    values = {"{b}": bucket, "{d}": str(DIGITS), "{o}": str(out)}
    for name, value in values.items():
        arguments = [argument.replace(name, value) for argument in arguments]
    assert pull(*arguments) == code
    told = capsys.readouterr()
    assert says in told.err
    assert (told.out, "Traceback" in told.err, out.exists()) == ("", False, False)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.bin", b"another", "model.bin has 7 bytes, want"),
        ("model.bin", bytes(len(FILES["model.bin"])), "model.bin has other bytes"),
        ("other.onnx", b"x", "other.onnx is none of its files"),
        ("model.bin", None, "model.bin is missing"),
    ],
)
@pytest.mark.parametrize("source", ["bucket", "directory"])
def test_what_is_there_and_differs_stays_as_it_is(
    source: str,
    name: str,
    content: bytes | None,
    says: str,
    bucket: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = Path(shutil.copytree(DIGITS / "1", tmp_path / "out" / "m" / "1"))
    if content is None:
        (target / name).unlink()
    else:
        (target / name).write_bytes(content)
    before = tree(tmp_path / "out")
    model = f"{bucket}/m" if source == "bucket" else DIGITS
    assert pull(model, "--model_name", "m", "--version", "1", "-o", tmp_path / "out") == 1
    assert says in capsys.readouterr().err
    assert tree(tmp_path / "out") == before


def test_a_download_that_breaks_off_leaves_nothing_and_what_was_left_is_removed(
    bucket: str, s3: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    left = out / "m" / ".partial-0123"
    left.mkdir(parents=True)
    (left / "model.bin").write_bytes(b"of a process that was killed")
    with FaultProxy(s3.endpoint) as proxy:
        for name, value in replace(s3.reader, endpoint=proxy.url).env().items():
            monkeypatch.setenv(name, value)
        proxy.use(on(Answer(403), "GET", r"model\.bin"))
        assert pull(f"{bucket}/m", "-o", out) == 1
    assert list((out / "m").iterdir()) == []
