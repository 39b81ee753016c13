"""Directories that can be used, and those that cannot: full, another user's, read-only, memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handlers.configuration import ModelConfig
from handlers.doctor.directories import (
    check_cache_directory,
    check_home,
    check_log,
    check_temporary,
)
from handlers.doctor.finding import Finding, Level
from handlers.doctor.room import check_disk, check_fit
from handlers.doctor.stores import Stored
from handlers.limits import filesystem_of
from model_cache.disk import DiskCache
from model_cache.repository import ModelRepository
from model_cache.storage import open_storage
from tests.handlers.doctor.sites import levels, make_root, one, site_of

NEEDS_ROOT = "needs root, who may mount a tmpfs: run it in a container, as CI does"


def cache_finding(directory: Path) -> Finding:
    (found,) = check_cache_directory(site_of(cache_dir=str(directory)))
    return found


@contextmanager
def tmpfs(directory: Path, options: str) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip(NEEDS_ROOT)
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


def test_a_cache_directory_is_made_where_it_can_be(tmp_path: Path) -> None:
    found = cache_finding(tmp_path / "a" / "b")
    assert (found.level, found.detail) == (Level.OK, f"is not there yet and can be made in {tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_ones_own_is_good_and_stays_as_it_was(tmp_path: Path) -> None:
    found = cache_finding(tmp_path)
    assert found.level is Level.OK
    assert "can be written and locked" in found.detail
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_cache_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cache_finding(tmp_path / "file").level is Level.PROBLEM
    assert cache_finding(tmp_path / "file" / "cache").level is Level.PROBLEM


@pytest.mark.container
def test_a_directory_of_another_user_is_none(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip(NEEDS_ROOT)
    os.chown(tmp_path, 12345, 12345)
    found = cache_finding(tmp_path)
    assert found.level is Level.PROBLEM
    assert "belongs to user 12345; want 0" in found.detail


@pytest.mark.container
def test_a_link_that_anybody_may_have_made_is_no_directory(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip(NEEDS_ROOT)
    home, volume = tmp_path / "home", tmp_path / "volume"
    for directory, mode in ((home, 0o700), (volume, 0o1777)):
        directory.mkdir()
        directory.chmod(mode)
    os.chown(home, 65534, 65534)
    (volume / "decant-65534").symlink_to(home)
    for directory in tmp_path.parents:
        directory.chmod(directory.stat().st_mode | 0o055)
    tmp_path.chmod(0o755)
    os.seteuid(65534)
    try:
        found = cache_finding(volume)
    finally:
        os.seteuid(0)
    assert (found.level, found.detail) == (Level.PROBLEM, "is no directory")


@pytest.mark.container
def test_an_images_cache_may_be_read_only_if_it_has_what_is_served(tmp_path: Path) -> None:
    baked = tmp_path / "baked"
    cache = DiskCache(baked, 1 << 30)
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "m.onnx").write_bytes(b"weights")
    storage = open_storage(str(tmp_path / "m"))
    # As if it were of a store.
    storage.in_place = None
    (version,) = ModelRepository("m", storage).versions().values()
    with cache.lease(version):
        pass
    with read_only(baked):
        site = site_of(cache_dir=str(baked))
        found = cache_finding(baked)
        assert (found.level, "what is in it is served" in found.detail) == (Level.WARNING, True)
        stored = Stored(ModelConfig("m", str(tmp_path / "m")), {1: version}, version, in_place=False)
        assert levels(check_fit(site, [stored]))["disk.models"] is Level.OK
        (tmp_path / "m" / "1" / "m.onnx").write_bytes(b"others")
        (other,) = ModelRepository("m", storage).versions().values()
        assert levels(check_fit(site, [stored._replace(newest=other)]))["disk.model"] is Level.PROBLEM


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    if os.geteuid():
        pytest.skip(NEEDS_ROOT)
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.mark.container
def test_a_full_disk_and_one_that_is_read_only_are_told_apart(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "full", "size=1m,mode=0700") as full:
        (full / "model").write_bytes(bytes((1 << 20) - 4096))
        assert cache_finding(full).level is Level.OK
        (full / "more").write_bytes(bytes(4096))
        found = cache_finding(full)
        assert (found.level, found.detail) == (Level.PROBLEM, "is full; want room for models")
        assert sorted(path.name for path in full.iterdir()) == ["model", "more"]
    with tmpfs(tmp_path / "fixed", "ro") as fixed:
        found = cache_finding(fixed)
        assert (found.level, found.detail) == (Level.PROBLEM, "cannot be written: Read-only file system")
        assert cache_finding(fixed / "cache").level is Level.PROBLEM


@pytest.mark.container
def test_a_disk_that_is_memory_is_told_so(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "memory", "size=8m,mode=0700") as memory:
        found = one(check_disk(site_of(cache_dir=str(memory))), "disk.room")
        assert found.level is Level.WARNING
        assert "of memory are free" in found.detail
        subprocess.run(["mount", "-o", "remount,size=64m", memory], check=True)
        # As another check or a server beside us does.
        (memory / "others").write_bytes(bytes(16384))
        found = one(check_disk(site_of(cache_dir=str(memory))), "disk.room")
        assert found.level is Level.OK
        larger = site_of(cache_dir=str(memory), disk_budget=1 << 30)
        assert one(check_disk(larger), "disk.room").level is Level.WARNING


def test_locks_on_a_network_are_doubted(tmp_path: Path) -> None:
    mounts = f"1 0 0:1 / / rw - ext4 /dev/sda rw\n2 1 0:2 / {tmp_path} rw - nfs4 server:/models rw\n"
    root = make_root(tmp_path / "root", {"proc/self/mountinfo": mounts})
    assert filesystem_of(tmp_path, root) == "nfs4"
    assert filesystem_of(Path("/elsewhere"), root) == "ext4"
    (found,) = check_cache_directory(site_of({}, root, cache_dir=str(tmp_path)))
    assert (found.id, found.level) == ("cache.locks", Level.WARNING)


@pytest.mark.parametrize("home", ["", "/nowhere/at/all", "/proc"])
def test_no_home_is_needed(home: str) -> None:
    (found,) = check_home(site_of({"HOME": home}))
    assert found.level is Level.OK


def test_a_home_that_can_be_written_is_told_so(tmp_path: Path) -> None:
    assert one(check_home(site_of({"HOME": str(tmp_path)})), "home").detail == f"{tmp_path} can be written"


def test_a_tmpdir_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(check_temporary(site_of()), "tmp").level is Level.OK
    assert one(check_temporary(site_of({"TMPDIR": str(tmp_path / "gone")})), "tmp").level is Level.WARNING
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, "/proc")
    found = one(check_temporary(site_of({"TMPDIR": "/proc"})), "tmp")
    assert (found.level, "/proc, which cannot be written" in found.detail) == (Level.WARNING, True)


def test_a_log_file_is_to_be_in_a_directory(tmp_path: Path) -> None:
    assert levels(check_log(site_of(log_path=str(tmp_path / "log")))) == {"log": Level.OK}
    assert levels(check_log(site_of(log_path=str(tmp_path / "no" / "log")))) == {"log": Level.PROBLEM}
    assert list(check_log(site_of())) == []
