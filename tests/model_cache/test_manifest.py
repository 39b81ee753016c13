"""What is written beside a version says what it is, or is found to say nothing."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path, PurePosixPath
from typing import Any

import google_crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_cache.download import Span
from model_cache.manifest import NAME, Manifest, boot_id, read_manifest, sync
from tests.model_cache.stores import SAVED_MODEL, listed, stored

FILES = {"model.xml": b"<net/>", "deep/er/model.bin": b"weights" * 100, "empty": b""}


def spans_of(data: bytes, *cuts: int) -> list[Span]:
    edges = [0, *cuts, len(data)]
    return [
        Span(start, stop, google_crc32c.value(data[start:stop])) for start, stop in itertools.pairwise(edges) if data
    ]


def manifest_of(files: dict[str, bytes] = FILES, *, is_synced: bool = False) -> Manifest:
    spans = {PurePosixPath(path): spans_of(data) for path, data in files.items()}
    return Manifest.of(listed(stored(), name="mnist"), spans, is_synced=is_synced)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_what_is_written_is_read(directory: Path) -> None:
    manifest = manifest_of()
    manifest.write(directory)
    assert read_manifest(directory) == manifest
    assert (manifest.model, manifest.version, manifest.source) == ("mnist", 1, "memory://bucket")
    manifest.with_boot("another").write(directory)
    again = read_manifest(directory)
    assert again is not None
    assert again.has_lost_power
    assert again.with_boot(manifest.boot) == manifest
    assert sorted(path.name for path in directory.iterdir()) == sorted([NAME, "deep", "empty", "model.xml"])


def test_power_is_lost_when_another_boot_has_written_and_nobody_waited_for_the_disk() -> None:
    assert not manifest_of().has_lost_power
    assert manifest_of().with_boot("00000000-0000-0000-0000-000000000000").has_lost_power
    assert not manifest_of(is_synced=True).has_lost_power
    assert boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip() != ""


def test_a_directory_without_one_says_nothing(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "nowhere") is None


def test_one_that_is_cut_off_anywhere_says_nothing(directory: Path) -> None:
    manifest_of().write(directory)
    text = (directory / NAME).read_bytes()
    for length in range(len(text)):
        (directory / NAME).write_bytes(text[:length])
        assert read_manifest(directory) is None


@pytest.mark.parametrize(
    "text",
    [
        *(b"\0" * 500, b"\xff\xfe", b"null", b"[]", b"{}", b"1", b'"text"', b"[" * 100_000, b"{" * 100_000),
        *(b'{"format": 1}', b'{"format": 1, "files": []}', b'{"format": 1, "files": {"a": 1}}'),
    ],
)
def test_one_that_is_somebody_elses_says_nothing(directory: Path, text: bytes) -> None:
    (directory / NAME).write_bytes(text)
    assert read_manifest(directory) is None


def with_fields(**fields: Any) -> bytes:
    manifest = manifest_of()
    content = {
        "format": 1,
        "model": manifest.model,
        "version": manifest.version,
        "source": manifest.source,
        "fetched": manifest.fetched,
        "boot": manifest.boot,
        "files": {path: [list(span) for span in spans] for path, spans in manifest.files.items()},
    }
    return json.dumps({**content, **fields}).encode()


def test_the_test_knows_the_form(directory: Path) -> None:
    (directory / NAME).write_bytes(with_fields())
    assert read_manifest(directory) is not None


@pytest.mark.parametrize(
    "fields",
    [
        *({"format": 2}, {"format": "1"}, {"format": None}, {"more": 1}),
        *({"files": {"a": [[0, 1]]}}, {"files": {"a": [[0, 1, 2, 3]]}}, {"files": {"a": [["x", 1, 2]]}}),
        *({"files": {"a": [[0, float("inf"), 1]]}}, {"files": {"a": [[0, float("nan"), 1]]}}, {"files": {"a": [None]}}),
    ],
)
def test_one_of_another_form_says_nothing(directory: Path, fields: dict[str, Any]) -> None:
    (directory / NAME).write_bytes(with_fields(**fields))
    assert read_manifest(directory) is None


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["files", "format", "boot", "model"]), value=JSON)
def test_whatever_it_says_it_is_read_or_not_and_never_fails(directory: Path, name: str, value: Any) -> None:
    (directory / NAME).write_bytes(with_fields(**{name: value}))
    manifest = read_manifest(directory)
    if manifest is not None:
        manifest.damaged(directory)


def test_whole_files_are_not_damaged_however_they_came(directory: Path) -> None:
    assert manifest_of().damaged(directory) == []
    weights = FILES["deep/er/model.bin"]
    spans = [*spans_of(weights, 100, 300), Span(50, 200, google_crc32c.value(weights[50:200]))]
    manifest = Manifest.of(listed(stored()), {PurePosixPath("deep/er/model.bin"): spans}, is_synced=False)
    assert manifest.damaged(directory) == []


@pytest.mark.parametrize("name", ["model.xml", "deep/er/model.bin", "empty"])
@pytest.mark.parametrize("damage", ["gone", "a directory", "shorter", "longer", "first byte", "last byte"])
def test_a_damaged_file_is_found_and_no_other(directory: Path, name: str, damage: str) -> None:
    path, data = directory / name, FILES[name]
    if not data and damage in ("shorter", "first byte", "last byte"):
        return
    path.unlink()
    if damage == "a directory":
        path.mkdir()
    elif damage != "gone":
        changed = {"shorter": data[:-1], "longer": data + b"\0", "first byte": b"!" + data[1:]}
        path.write_bytes(changed.get(damage, data[:-1] + b"!"))
    assert manifest_of().damaged(directory) == [name]


def test_files_whose_directory_has_become_a_file_are_damaged(directory: Path) -> None:
    (directory / "deep" / "er" / "model.bin").unlink()
    (directory / "deep" / "er").rmdir()
    (directory / "deep" / "er").write_bytes(b"")
    assert manifest_of().damaged(directory) == ["deep/er/model.bin"]


@pytest.mark.parametrize("spans", [[], [(0, 300)], [(0, 300), (301, 700)], [(0, 701)], [(0, 699)], [(-1, 700)]])
def test_what_is_not_all_of_a_file_says_nothing_for_it(directory: Path, spans: list[tuple[int, int]]) -> None:
    weights = FILES["deep/er/model.bin"]
    known = [Span(start, stop, google_crc32c.value(weights[max(start, 0) : stop])) for start, stop in spans]
    manifest = Manifest.of(listed(stored()), {PurePosixPath("deep/er/model.bin"): known}, is_synced=False)
    assert manifest.damaged(directory) == ["deep/er/model.bin"]


def test_writers_at_once_never_show_a_reader_half_of_it(directory: Path) -> None:
    manifest_of().write(directory)
    is_over = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            while not is_over.is_set():
                manifest_of().write(directory)
        except BaseException as exc:  # noqa: BLE001
            failures.append(exc)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    found = [read_manifest(directory) for _ in range(1000)]
    is_over.set()
    for writer in writers:
        writer.join()
    assert failures == []
    assert None not in found
    assert sorted(path.name for path in directory.iterdir() if path.is_file()) == [NAME, "empty", "model.xml"]


def test_what_cannot_be_written_leaves_nothing(directory: Path) -> None:
    (directory / NAME).mkdir()
    with pytest.raises(OSError, match="directory"):
        manifest_of().write(directory)
    assert not [path for path in directory.iterdir() if path.name.startswith(f"{NAME}.")]


def test_sync_knows_every_file_and_directory_and_tells_of_what_is_missing(directory: Path) -> None:
    sync(directory, {PurePosixPath(name): None for name in FILES})
    with pytest.raises(FileNotFoundError):
        sync(directory, {PurePosixPath(name): None for name in SAVED_MODEL})
