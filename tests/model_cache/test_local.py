"""A directory as a storage, where it is unlike a bucket: links, devices, and files that are written in place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model_cache.errors import BlobChanged, StorageUnavailable
from model_cache.repository import ModelRepository
from model_cache.storage import PIECE, open_storage


def keys(root: Path) -> list[str]:
    return [blob.key for blob in open_storage(str(root)).list()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "base" / "1").mkdir(parents=True)
    (tmp_path / "base" / "1" / "model.xml").write_bytes(b"<net/>")
    return tmp_path / "base"


def test_a_directory_is_the_storage_it_is_read_from(root: Path) -> None:
    assert open_storage(str(root)).in_place == root


def test_a_relative_path_stays_what_it_was_when_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    storage = open_storage("base")
    monkeypatch.chdir("/")
    assert storage.in_place == root
    assert [blob.key for blob in storage.list()] == ["1/model.xml"]


def test_a_base_that_is_a_link_is_followed(root: Path) -> None:
    link = root.with_name("link")
    link.symlink_to(root)
    assert keys(link) == ["1/model.xml"]


def test_a_link_to_a_file_is_that_file(root: Path, tmp_path: Path) -> None:
    """Weights are often kept once, beside the versions."""
    (tmp_path / "weights").write_bytes(b"weights")
    (root / "1" / "model.bin").symlink_to(tmp_path / "weights")
    [weights] = open_storage(str(root)).list("1/model.bin")
    assert weights.size == 7
    (tmp_path / "weights").write_bytes(b"more weights")
    [changed] = open_storage(str(root)).list("1/model.bin")
    assert changed != weights


def test_a_version_may_be_a_link_to_a_directory(root: Path, tmp_path: Path) -> None:
    """git-sync and Kubernetes replace a version by turning a link."""
    for release in ("first", "second"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "model.xml").write_bytes(b"<net/>")
    (root / "2").symlink_to("../first")
    repository = ModelRepository("m", open_storage(str(root)))
    assert list(repository.versions()) == [1, 2]
    (root / "2").unlink()
    (root / "2").symlink_to("../second")
    assert ModelRepository("m", open_storage(str(root))).find(2) != repository.find(2)


def test_no_other_link_to_a_directory_is_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.bin").write_bytes(b"")
    (root / "latest").symlink_to("../elsewhere")
    (root / "1" / "2").symlink_to("../../elsewhere")
    assert keys(root) == ["1/model.xml"]


def test_a_version_that_is_a_link_upwards_has_an_end(root: Path) -> None:
    (root / "2").symlink_to(".")
    (root / "3").symlink_to("3")
    (root / "4").symlink_to("nowhere")
    assert keys(root) == ["1/model.xml", "2/1/model.xml"]


def test_what_is_no_file_is_no_blob(root: Path) -> None:
    (root / "1" / "dangling").symlink_to("nowhere")
    (root / "1" / "itself").symlink_to("itself")
    (root / "1" / "upwards").symlink_to("..")
    (root / "1" / "empty").mkdir()
    os.mkfifo(root / "1" / "pipe")
    assert keys(root) == ["1/model.xml"]


def test_a_file_written_anew_in_place_is_another_blob(root: Path) -> None:
    path = root / "1" / "model.xml"
    os.utime(path, (1, 1))
    before = ModelRepository("m", open_storage(str(root))).find(1)
    path.write_bytes(b"<NET/>")
    assert ModelRepository("m", open_storage(str(root))).find(1) != before


def test_a_file_that_is_written_to_while_it_is_read_is_an_error(root: Path) -> None:
    """Every piece that was given is of the file as it was listed."""
    path = root / "1" / "model.bin"
    path.write_bytes(b"a" * 3 * PIECE)
    os.utime(path, (1, 1))
    storage = open_storage(str(root))
    [blob] = storage.list("1/model.bin")
    pieces = storage.fetch(blob, 0, blob.size)
    assert bytes(next(pieces)) == b"a" * PIECE
    with path.open("r+b") as file:
        file.seek(PIECE)
        file.write(b"b" * PIECE)
    with pytest.raises(BlobChanged, match=f"^{path} is no longer what was listed$"):
        next(pieces)


def test_a_file_that_is_cut_short_while_it_is_read_is_an_error(root: Path) -> None:
    path = root / "1" / "model.bin"
    path.write_bytes(b"a" * 3 * PIECE)
    storage = open_storage(str(root))
    [blob] = storage.list("1/model.bin")
    pieces = storage.fetch(blob, 0, blob.size)
    next(pieces)
    os.truncate(path, PIECE)
    with pytest.raises(BlobChanged, match="no longer what was listed"):
        next(pieces)


def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(root: Path) -> None:
    path = root / "1" / "model.bin"
    path.write_bytes(b"a" * 3 * PIECE)
    storage = open_storage(str(root))
    [blob] = storage.list("1/model.bin")
    pieces = storage.fetch(blob, 0, blob.size)
    first = bytes(next(pieces))
    path.with_name("new").write_bytes(b"b" * 3 * PIECE)
    path.with_name("new").rename(path)
    assert first + b"".join(pieces) == b"a" * 3 * PIECE


def test_the_time_of_the_last_change_is_the_files(root: Path) -> None:
    os.utime(root / "1" / "model.xml", (1.5, 2.5))
    [blob] = open_storage(str(root)).list()
    assert blob.modified == 2.5


def test_a_directory_in_the_place_of_a_file_cannot_be_read(root: Path) -> None:
    path = root / "1" / "model.xml"
    storage = open_storage(str(root))
    [blob] = storage.list()
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageUnavailable, match=f"^cannot read {path}: Is a directory$"):
        list(storage.fetch(blob, 0, 1))


def test_a_file_in_the_place_of_a_directory_is_told(root: Path) -> None:
    path = root / "1" / "model.xml"
    with pytest.raises(StorageUnavailable, match=f"^cannot read {path}: Not a directory$"):
        keys(path)


def test_a_directory_that_is_not_there_is_told(root: Path) -> None:
    with pytest.raises(StorageUnavailable, match=f"^cannot read {root}/no: No such file or directory$"):
        keys(root / "no")
