"""What is compiled of a version and stored beside it: fetched along, kept within bounds, and never in anybody's way."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from model_cache.compiled import MAX_COUNT, MAX_SIZE, CompiledDownload, wanted
from model_cache.disk import DiskCache
from model_cache.errors import BlobChanged, CacheFull, DiskUnusable, StorageInterrupted
from model_cache.local import LocalStorage
from model_cache.locks import locked
from model_cache.manifest import NAME as MANIFEST
from model_cache.repository import ModelRepository, ModelVersion
from model_cache.storage import Blob
from tests.fakes import Clock, Gate, MemoryStorage, no_more_threads
from tests.model_cache.stores import BIG, AccountedStorage, listed, stored
from tests.model_cache.test_disk_faults import disk, fill, mount

__all__ = ["disk"]

IR = {"model.xml": b"<net/>", "model.bin": b"weights" * 100}
BLOBS = {"compiled/a-1.blob": b"one", "compiled/a-2.blob": b"two", "compiled/b-1.blob": b"three"}
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def version(storage: AccountedStorage | None = None) -> ModelVersion:
    return listed(storage or stored({**IR, **BLOBS}))


def kept(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.glob("*/compiled/*")}


def lease(cache: DiskCache, version: ModelVersion) -> dict[str, bytes]:
    """Return what there is compiled of it once it is leased."""
    with cache.lease(version) as files:
        assert (files.directory / "model.bin").read_bytes() == IR["model.bin"]
        return kept(files.directory.parent)


def failing(error: Exception) -> AccountedStorage:
    storage = stored({**IR, **BLOBS})

    def fail(blob: Blob) -> None:
        if blob.key.endswith(".blob"):
            raise error

    storage.before_fetch = fail
    return storage


def test_a_version_is_the_same_with_and_without_what_is_compiled_of_it() -> None:
    bare = listed(stored(IR))
    with_compiled = version()
    assert with_compiled == bare
    assert with_compiled.size == bare.size
    assert with_compiled.files == bare.files
    assert {blob.key for blob in with_compiled.compiled} == {f"1/{name}" for name in BLOBS}
    assert bare.compiled == ()


def test_publishing_does_not_make_a_new_version_for_those_who_serve_it() -> None:
    storage, clock = stored(IR), Clock()
    repository = ModelRepository("m", storage, ttl=1, clock=clock)
    before = repository.find(1)
    storage.put("1/compiled/a-1.blob", b"one")
    repository.expire()
    clock.now += 10
    assert repository.find(1) is before
    assert not repository.unsettled()


class DatedStorage(MemoryStorage):
    """Where all is old but what was compiled."""

    def list(self, prefix: str = "") -> Iterator[Blob]:
        for blob in super().list(prefix):
            yield blob._replace(modified=1_000_000.0 if blob.key.endswith(".blob") else 1.0)


def test_a_version_is_not_young_because_something_was_compiled_of_it() -> None:
    blobs = {f"{number}/{name}": data for number in (1, 2) for name, data in IR.items()}
    storage = DatedStorage({**blobs, "2/compiled/a-1.blob": b"one"})
    repository = ModelRepository("m", storage, clock=Clock(1_000_000.0))
    assert [*repository.versions()] == [1, 2]


def test_what_begins_as_asked_is_fetched_along_with_a_version(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, BIG, compiled=lambda _: "a-")
    assert lease(cache, version()) == {"a-1.blob": b"one", "a-2.blob": b"two"}
    size = version().size + 6
    assert cache.usage().used == size
    (entry,) = cache.entries()
    assert (entry.size, cache.damaged(entry)) == (size, [])


def test_all_is_fetched_if_nothing_is_said_of_its_beginning(tmp_path: Path) -> None:
    assert len(lease(DiskCache(tmp_path, BIG, compiled=lambda _: ""), version())) == 3


def test_nothing_is_fetched_unless_asked_for(tmp_path: Path) -> None:
    storage = stored({**IR, **BLOBS})
    assert lease(DiskCache(tmp_path, BIG), version(storage)) == {}
    assert {read.key for read in storage.reads} == {"1/model.xml", "1/model.bin"}


def test_of_many_the_newest_are_fetched_and_of_large_ones_none() -> None:
    names = [f"1/compiled/a-{number}.blob" for number in range(10)]
    blobs = [Blob(name, 1, "etag", modified=number) for number, name in enumerate(names)]
    blobs[9] = blobs[9]._replace(size=MAX_SIZE + 1)
    blobs[8] = blobs[8]._replace(size=0)
    found = replace(version(), blobs=(*version().files, *blobs))
    assert [blob.key for blob in wanted(found, "a-")] == names[8 - MAX_COUNT : 8][::-1]


@pytest.mark.parametrize(
    "error", [BlobChanged("gone"), StorageInterrupted("broke off")], ids=lambda error: type(error).__name__
)
def test_what_cannot_be_fetched_is_done_without(error: Exception, tmp_path: Path) -> None:
    assert lease(DiskCache(tmp_path, BIG, compiled=lambda _: ""), version(failing(error))) == {}


def test_what_comes_too_late_is_not_waited_for(tmp_path: Path) -> None:
    storage, gate = stored({**IR, **BLOBS}), Gate()

    def wait(blob: Blob) -> None:
        if blob.key.endswith(".blob"):
            gate.pass_through()

    storage.before_fetch = wait
    began = time.monotonic()
    assert lease(DiskCache(tmp_path, BIG, compiled=lambda _: ""), version(storage)) == {}
    assert time.monotonic() - began < 5
    gate.open()


def test_what_is_still_coming_when_the_version_fails_is_given_up() -> None:
    storage, gate = stored({**IR, **BLOBS}, piece=1), Gate()
    storage.before_piece = lambda blob, position: gate.pass_through()
    download = CompiledDownload(storage, version(storage).compiled)
    gate.wait_until_reached()
    assert download.end(0) == {}
    gate.open()


def test_without_a_thread_it_is_done_without(tmp_path: Path) -> None:
    with no_more_threads():
        assert lease(DiskCache(tmp_path, BIG, compiled=lambda _: ""), version()) == {}


def test_what_has_no_room_in_the_budget_is_done_without(tmp_path: Path) -> None:
    assert lease(DiskCache(tmp_path, version().size, compiled=lambda _: ""), version()) == {}
    cache = DiskCache(tmp_path, version().size + 4)
    with cache.lease(version()):
        cache.keep_compiled(version(), "a.blob", b"four")
        with pytest.raises(CacheFull, match=rf"needs 1 bytes of disk; {version().size + 4} of {version().size + 4}"):
            cache.keep_compiled(version(), "b.blob", b"1")
    assert kept(tmp_path) == {"a.blob": b"four"}


def test_a_cache_that_is_made_ahead_has_it_and_lets_all_read_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        lease(DiskCache(tmp_path / "cache", BIG, is_durable=True, compiled=lambda _: ""), version())
    finally:
        os.umask(before)
    paths = [*(tmp_path / "cache").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o755}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o644}
    assert len(kept(tmp_path / "cache")) == 3


def test_what_is_kept_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, BIG, compiled=lambda _: "")
    with cache.lease(version()) as files:
        cache.keep_compiled(version(), "a-1.blob", b"better")
        assert files.compiled
        assert (files.compiled / "a-1.blob").read_bytes() == b"better"
    # Nor is it fetched again.
    assert lease(cache, version())["a-1.blob"] == b"better"


def test_of_a_version_that_was_removed_nothing_is_kept(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, BIG)
    lease(cache, version())
    (entry,) = cache.entries()
    cache.remove(entry)
    with pytest.raises(DiskUnusable, match="what was compiled of m/1: the version has been removed"):
        cache.keep_compiled(version(), "a.blob", b"data")
    assert kept(tmp_path) == {}


def test_a_process_that_decides_for_long_is_not_waited_for(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, BIG)
    with cache.lease(version()):
        has_ended = threading.Event()

        def hold() -> None:
            with locked(tmp_path):
                has_locked.set()
                assert has_ended.wait(30)

        has_locked = threading.Event()
        holder = threading.Thread(target=hold)
        holder.start()
        assert has_locked.wait(10)
        try:
            with pytest.raises(DiskUnusable, match="another process does not let go of it"):
                cache.keep_compiled(version(), "a.blob", b"data")
        finally:
            has_ended.set()
            holder.join()


def in_place(base: Path, data: bytes = b"weights") -> ModelVersion:
    (base / "1").mkdir(parents=True, exist_ok=True)
    (base / "1" / "model.xml").write_bytes(b"<net/>")
    new = base / "1" / "new"
    new.write_bytes(data)
    new.replace(base / "1" / "model.bin")
    return ModelRepository("m", LocalStorage(base)).find(1)


def test_what_is_compiled_of_a_model_read_in_place_is_kept_in_the_cache_until_the_model_changes(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", BIG)
    other = in_place(tmp_path / "other")
    cache.keep_compiled(other, "a.blob", b"other's")
    found = in_place(tmp_path / "model")
    cache.keep_compiled(found, "a.blob", b"first")
    cache.keep_compiled(found, "b.blob", b"second")
    with cache.lease(found) as files:
        assert files.directory == tmp_path / "model" / "1"
        assert files.compiled
        assert (files.compiled / "b.blob").read_bytes() == b"second"
    changed = in_place(tmp_path / "model", b"WEIGHTS")
    cache.keep_compiled(changed, "a.blob", b"third")
    assert sorted(path.read_bytes() for path in (tmp_path / "cache").glob("*/compiled/*")) == [b"other's", b"third"]
    assert {(entry.manifest.model, entry.manifest.source) for entry in cache.entries() if entry.manifest} == {
        ("m", str(tmp_path / "other")),
        ("m", str(tmp_path / "model")),
    }


def test_what_is_compiled_of_a_model_read_in_place_makes_room_for_versions(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 1000)
    cache.keep_compiled(in_place(tmp_path / "model"), "a.blob", b"x" * 900)
    lease(cache, version())
    assert kept(tmp_path / "cache") == {}
    assert len(cache.entries()) == 1


def names_of(cache: DiskCache) -> set[str]:
    """Return the directories of the models that something is kept of."""
    return {Path(entry.manifest.source).name for entry in cache.entries() if entry.manifest}


def age(cache: Path, version: ModelVersion, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(cache / version.digest / MANIFEST, (then, then))


def three_in_place(tmp_path: Path, cache: DiskCache) -> list[ModelVersion]:
    """Keep 100 bytes each of three models, of which the second was used least recently, then the first."""
    versions = [in_place(tmp_path / name) for name in ("a", "b", "c")]
    for version, hours in zip(versions, (2, 3, 1), strict=True):
        cache.keep_compiled(version, "x.blob", b"x" * 100)
        age(tmp_path / "cache", version, hours * 3600)
    return versions


def test_what_has_no_room_leaves_no_trace_of_a_model_read_in_place(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 300)
    three_in_place(tmp_path, cache)
    with pytest.raises(CacheFull, match="needs 301 bytes of disk; 300 of 300 are used"):
        cache.keep_compiled(in_place(tmp_path / "large"), "x.blob", b"x" * 301)
    # Nor is anything removed in vain.
    assert names_of(cache) == {"a", "b", "c"}
    assert len([*(tmp_path / "cache").iterdir()]) == 3


@pytest.mark.parametrize(("size", "left"), [(1, {"a", "c"}), (100, {"a", "c"}), (101, {"c"}), (300, set())])
def test_models_read_in_place_make_room_for_each_other_the_least_recently_used_first(
    size: int, left: set[str], tmp_path: Path
) -> None:
    cache = DiskCache(tmp_path / "cache", 300)
    three_in_place(tmp_path, cache)
    cache.keep_compiled(in_place(tmp_path / "new"), "x.blob", b"x" * size)
    assert names_of(cache) == left | {"new"}
    assert len([*(tmp_path / "cache").iterdir()]) == len(left) + 1


def test_what_was_compiled_of_a_version_that_was_fetched_finds_room_as_well_and_takes_none_of_versions(
    tmp_path: Path,
) -> None:
    cache = DiskCache(tmp_path / "cache", version().size + 100)
    cache.keep_compiled(in_place(tmp_path / "model"), "x.blob", b"x" * 100)
    with cache.lease(version()):
        cache.keep_compiled(version(), "x.blob", b"y" * 100)
    assert kept(tmp_path / "cache") == {"x.blob": b"y" * 100}
    with pytest.raises(CacheFull):
        cache.keep_compiled(in_place(tmp_path / "model"), "x.blob", b"x")
    assert len(cache.entries()) == 1


def test_what_is_kept_of_a_model_in_use_goes_for_versions_only(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 1000)
    found = in_place(tmp_path / "model")
    cache.keep_compiled(found, "x.blob", b"x" * 900)
    new = in_place(tmp_path / "new")
    with cache.lease(found):
        age(tmp_path / "cache", found, 8 * 24 * 3600)
        with pytest.raises(CacheFull):
            cache.keep_compiled(new, "x.blob", b"x" * 200)
        assert names_of(cache) == {"model"}
        lease(cache, version())
        assert kept(tmp_path / "cache") == {}


def test_what_nobody_has_used_for_a_week_goes_when_something_new_is_kept(tmp_path: Path) -> None:
    root, day = tmp_path / "cache", 24 * 3600
    cache = DiskCache(root, BIG)
    old, recent, leased = three_in_place(tmp_path, cache)
    new = in_place(tmp_path / "new")
    lease(cache, version())
    age(root, version(), 8 * day)
    for found, days in ((old, 7.1), (recent, 6.9), (leased, 8)):
        age(root, found, days * day)
    # Which is touched as it begins: the process may be killed before it ends.
    with cache.lease(leased):
        cache.keep_compiled(new, "x.blob", b"x")
    assert {path.name for path in root.iterdir()} == {found.digest for found in (recent, leased, new, version())}
    age(root, leased, 8 * day)
    # Not removed by who keeps more of the same.
    cache.keep_compiled(leased, "y.blob", b"y")
    assert sorted(path.name for path in (root / leased.digest / "compiled").iterdir()) == ["x.blob", "y.blob"]


def test_the_place_of_what_could_not_be_written_goes_too(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", BIG)
    found = in_place(tmp_path / "model")
    with pytest.raises(DiskUnusable, match="File name too long"):
        cache.keep_compiled(found, "x" * 300, b"x")
    age(tmp_path / "cache", found, 8 * 24 * 3600)
    cache.keep_compiled(in_place(tmp_path / "new"), "x.blob", b"x")
    assert names_of(cache) == {"new"}


def test_no_descriptor_is_left_open_by_what_is_kept_leased_evicted_and_refused(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 300)
    before = len([*Path("/proc/self/fd").iterdir()])
    first, *_ = three_in_place(tmp_path, cache)
    with cache.lease(first):
        cache.keep_compiled(in_place(tmp_path / "new"), "x.blob", b"x" * 100)
        with pytest.raises(CacheFull):
            cache.keep_compiled(in_place(tmp_path / "large"), "x.blob", b"x" * 300)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_a_lease_of_a_model_read_in_place_counts_as_use_from_its_beginning(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", BIG)
    found = in_place(tmp_path / "model")
    cache.keep_compiled(found, "x.blob", b"x")

    def last_used() -> float:
        (entry,) = cache.entries()
        return time.time() - entry.last_used

    age(tmp_path / "cache", found, 3600)
    with cache.lease(found):
        assert last_used() < 600
        age(tmp_path / "cache", found, 3600)
    assert last_used() < 600


@NEEDS_ROOT
def test_a_full_disk_keeps_nothing_and_no_part_of_it(disk: Path) -> None:
    cache = DiskCache(disk / "cache", BIG)
    with cache.lease(version()) as files:
        fill(disk)
        with pytest.raises(DiskUnusable, match="cannot keep what was compiled of m/1: No space left on device"):
            cache.keep_compiled(version(), "a.blob", b"x" * 100_000)
        assert files.compiled
        assert not files.compiled.exists() or [*files.compiled.iterdir()] == []


@NEEDS_ROOT
def test_a_disk_that_fills_up_while_a_version_comes_costs_it_only_what_was_compiled(disk: Path) -> None:
    storage = stored({**IR, "compiled/a-1.blob": b"x" * 100_000})
    cache = DiskCache(disk / "cache", BIG, compiled=lambda _: "")
    with cache.lease(version(stored({**IR, "other.txt": b""}))):
        pass
    storage.before_piece = lambda blob, position: fill(disk, leave=64 << 10) if blob.key.endswith(".bin") else None
    (entry,) = cache.entries()
    cache.remove(entry)
    assert lease(cache, version(storage)) == {}


@NEEDS_ROOT
def test_a_disk_that_can_only_be_read_keeps_nothing(disk: Path) -> None:
    cache = DiskCache(disk / "cache", BIG)
    lease(cache, version())
    found = in_place(disk / "model")
    mount("-o", "remount,ro", disk)
    with cache.lease(version()):
        for one in (version(), found):
            with pytest.raises(DiskUnusable, match="Read-only file system"):
                cache.keep_compiled(one, "a.blob", b"data")


def test_what_a_process_left_that_was_killed_as_it_wrote_goes(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, BIG)
    with cache.lease(version()) as files:
        assert files.compiled
        files.compiled.mkdir()
        (files.compiled / ".decant-1-2").write_bytes(b"half")
        cache.keep_compiled(version(), "a.blob", b"data")
    assert kept(tmp_path) == {"a.blob": b"data"}


def test_of_a_directory_that_others_can_write_to_nothing_is_read(tmp_path: Path) -> None:
    found = in_place(tmp_path / "model")
    root = tmp_path / "cache"
    cache = DiskCache(root, BIG)

    def place() -> Path | None:
        with cache.lease(found) as files:
            return files.compiled

    assert place() is None
    cache.keep_compiled(found, "a.blob", b"data")
    assert place() == root / found.digest / "compiled"
    for mode, is_good in [(0o777, False), (0o720, False), (0o700, True)]:
        root.chmod(mode)
        assert (place() is not None) == is_good


@NEEDS_ROOT
def test_of_a_directory_of_somebody_else_nothing_is_read(tmp_path: Path) -> None:
    found = in_place(tmp_path / "model")
    root = tmp_path / "cache"
    DiskCache(root, BIG).keep_compiled(found, "a.blob", b"data")
    os.chown(root, 1234, -1)
    with DiskCache(root, BIG).lease(found) as files:
        assert files.compiled is None
