"""Real disks that are full, fill up, or can only be read; and directories that are somebody else's."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model_cache.disk import DiskCache
from model_cache.errors import CacheFull, DiskFull, DiskUnusable, ModelCacheError, StorageUnavailable
from model_cache.manifest import Manifest
from model_cache.repository import ModelVersion
from model_cache.storage import Blob
from tests.fakes import until
from tests.model_cache.stores import (
    BIG,
    AccountedStorage,
    files_below,
    leased_files,
    listed,
    names_in,
    store_of,
    version_of,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and make what is somebody else's")

KIB = 1024
MIB = 1024 * KIB
SIZE = 16 * MIB


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of `SIZE` bytes and 1000 files."""
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", f"size={SIZE},nr_inodes=1000", "tmpfs", path)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def free(disk: Path) -> int:
    stat = os.statvfs(disk)
    return stat.f_bavail * stat.f_frsize


def fill(disk: Path, leave: int = 0) -> None:
    """Have somebody else's file take what is free."""
    with (disk / "somebody-elses").open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, file.tell() + free(disk) - leave)


def lease(cache: DiskCache, *versions: ModelVersion) -> None:
    for version in versions:
        with cache.lease(version):
            pass


def test_a_disk_that_is_too_full_from_the_beginning_is_told_in_numbers_before_a_byte_is_fetched(disk: Path) -> None:
    fill(disk, leave=MIB)
    version = version_of(4 * MIB)
    with pytest.raises(DiskFull, match=rf"m/1 needs {version.size} bytes of disk; \d+ are free") as failure:
        lease(DiskCache(disk / "cache", BIG), version)
    assert int(str(failure.value).split(";")[1].split()[0]) <= MIB
    assert store_of(version).reads == []
    assert names_in(disk / "cache") == []
    assert free(disk) >= MIB - 8 * KIB


def test_idle_versions_make_room_on_a_full_disk_though_the_budget_does_not_ask_for_it(disk: Path) -> None:
    cache = DiskCache(disk / "cache", BIG)
    old, used, new = version_of(4 * MIB, 1), version_of(4 * MIB, 2), version_of(4 * MIB, 3)
    lease(cache, old, used)
    fill(disk, leave=2 * MIB)
    with cache.lease(used) as files:
        lease(cache, new)
        assert files_below(files.directory)["model.onnx"] == bytes([2]) * (4 * MIB)
    assert names_in(disk / "cache") == sorted([used.digest, new.digest])


def test_no_more_is_evicted_from_a_full_disk_than_has_to_be(disk: Path) -> None:
    cache = DiskCache(disk / "cache", BIG)
    old, newer, new = version_of(4 * MIB, 1), version_of(4 * MIB, 2), version_of(4 * MIB, 3)
    lease(cache, old, newer)
    fill(disk, leave=2 * MIB)
    lease(cache, new)
    assert names_in(disk / "cache") == sorted([newer.digest, new.digest])


def test_as_many_idle_versions_go_from_a_full_disk_as_have_to(disk: Path) -> None:
    cache = DiskCache(disk / "cache", BIG)
    idle = [version_of(3 * MIB, number) for number in range(3)]
    lease(cache, *idle)
    fill(disk, leave=MIB)
    lease(cache, new := version_of(9 * MIB, 4))
    assert names_in(disk / "cache") == [new.digest]


@pytest.mark.parametrize(("size", "error"), [(4 * MIB, CacheFull), (8 * MIB, DiskFull)])
def test_leased_versions_stay_on_a_full_disk(disk: Path, size: int, error: type[ModelCacheError]) -> None:
    """Whether waiting may help is told by the error: what is in use now may be idle later."""
    cache = DiskCache(disk / "cache", BIG)
    used, new = version_of(4 * MIB, 1), version_of(size, 2)
    with cache.lease(used) as files:
        fill(disk, leave=2 * MIB)
        with pytest.raises(error, match=rf"m/1 needs {new.size} bytes of disk; .*\b{free(disk)} are free"):
            lease(cache, new)
        assert len(files_below(files.directory)["model.onnx"]) == 4 * MIB
    assert names_in(disk / "cache") == [used.digest]
    assert store_of(new).reads == []


def out_of_reach() -> None:
    raise StorageUnavailable("out of reach")


def in_the_middle(version: ModelVersion, hook: Callable[[], object], at: int = 2 * MIB) -> None:
    left = [hook]

    def run_once(blob: Blob, position: int) -> None:
        if position >= at and left:
            left.pop()()

    store_of(version).before_piece = run_once


def test_a_disk_that_fills_up_under_way_does_not_matter_as_the_room_is_set_aside(disk: Path) -> None:
    cache = DiskCache(disk / "cache", BIG)
    version = version_of(4 * MIB)
    in_the_middle(version, lambda: fill(disk, leave=64 * KIB))
    assert len(leased_files(cache, version)["model.onnx"]) == 4 * MIB


def test_a_disk_that_fills_up_to_the_last_byte_under_way_takes_idle_versions_and_goes_on(disk: Path) -> None:
    """The files have their room; what we keep account in has not."""
    cache = DiskCache(disk / "cache", BIG)
    old, new = version_of(4 * MIB, 1), version_of(4 * MIB, 2)
    lease(cache, old)
    in_the_middle(new, lambda: fill(disk))
    assert len(leased_files(cache, new)["model.onnx"]) == 4 * MIB
    assert names_in(disk / "cache") == [new.digest]


def test_a_disk_that_fills_up_to_the_last_byte_under_way_and_has_nothing_idle_is_told(disk: Path) -> None:
    cache = DiskCache(disk / "cache", BIG)
    used, new = version_of(4 * MIB, 1), version_of(4 * MIB, 2)
    with cache.lease(used) as files:
        in_the_middle(new, lambda: fill(disk))
        with pytest.raises(CacheFull, match=rf"m/1 needs {new.size} bytes of disk; .*\b\d+ are free"):
            lease(cache, new)
        assert len(files_below(files.directory)["model.onnx"]) == 4 * MIB
    assert names_in(disk / "cache") == [used.digest]
    # The room is given back, as soon as the last thread has noticed.
    until(lambda: free(disk) >= 4 * MIB)
    (disk / "somebody-elses").unlink()
    assert len(leased_files(cache, new)["model.onnx"]) == 4 * MIB


def test_a_disk_that_fills_up_to_the_last_byte_under_way_and_has_nothing_else_is_told(disk: Path) -> None:
    cache, version = DiskCache(disk / "cache", BIG), version_of(4 * MIB)
    in_the_middle(version, lambda: fill(disk))
    with pytest.raises(DiskFull, match=rf"m/1 needs {version.size} bytes of disk; \d+ are free"):
        lease(cache, version)
    assert names_in(disk / "cache") == []


def many_small_files(count: int, number: int = 1) -> AccountedStorage:
    return AccountedStorage(
        {f"{number}/saved_model.pb": b"graph"} | {f"{number}/assets/{name}": b"%d" % name for name in range(count)}
    )


def test_small_files_take_more_room_than_their_bytes(disk: Path) -> None:
    """Each takes a page: 400 of them 1.6 MiB, and not 2 kB."""
    cache = DiskCache(disk / "cache", BIG)
    old, new = version_of(4 * MIB, 1), listed(many_small_files(400))
    lease(cache, old)
    fill(disk, leave=MIB)
    assert len(leased_files(cache, new)) == 401
    assert names_in(disk / "cache") == [new.digest]


def test_a_disk_that_can_have_no_more_files_takes_idle_versions(disk: Path) -> None:
    cache = DiskCache(disk / "cache", BIG)
    old, new = listed(many_small_files(600), name="old"), listed(many_small_files(700, number=2), 2)
    lease(cache, old)
    assert len(leased_files(cache, new)) == 701
    assert names_in(disk / "cache") == [new.digest]


def test_a_disk_that_cannot_have_so_many_files_is_told_and_nothing_stays(disk: Path) -> None:
    with pytest.raises(DiskFull, match=r"m/1 needs \d+ bytes of disk; \d+ are free"):
        lease(DiskCache(disk / "cache", BIG), listed(many_small_files(1200)))
    assert names_in(disk / "cache") == []
    lease(DiskCache(disk / "cache", BIG), listed(many_small_files(900)))


def test_what_has_arrived_counts_as_room_when_a_download_goes_on(disk: Path) -> None:
    cache = DiskCache(disk / "cache", BIG)
    version = version_of(12 * MIB)
    in_the_middle(version, out_of_reach, at=6 * MIB)
    with pytest.raises(StorageUnavailable, match="out of reach"):
        lease(cache, version)
    assert free(disk) < 5 * MIB
    assert len(leased_files(DiskCache(disk / "cache", BIG), version)["model.onnx"]) == 12 * MIB


# --- read-only


def remount(disk: Path, how: str) -> None:
    # The last thread of a download may still have a file open for writing.
    until(lambda: not any(thread.name.startswith("download") for thread in threading.enumerate()))
    mount("-o", f"remount,{how}", disk)


def test_what_is_there_is_still_leased_when_the_disk_can_no_longer_be_written_to(disk: Path) -> None:
    cache = DiskCache(disk / "cache", BIG)
    there, missing = version_of(MIB, 1), version_of(MIB, 2)
    lease(cache, there)
    remount(disk, "ro")
    for reader in (cache, DiskCache(disk / "cache", BIG)):
        with reader.lease(there) as files:
            assert files.fetched is None
            assert files_below(files.directory)["model.onnx"] == bytes([1]) * MIB
        with pytest.raises(DiskUnusable, match=r"cannot keep m/1 \(\d+ bytes\) in the cache directory: Read-only"):
            lease(reader, missing)
    assert store_of(missing).reads == []
    remount(disk, "rw")
    lease(cache, missing)


def test_a_download_cannot_go_on_where_the_disk_can_no_longer_be_written_to_and_does_later(disk: Path) -> None:
    cache = DiskCache(disk / "cache", BIG)
    there, version = version_of(MIB, 1), version_of(4 * MIB, 2)
    lease(cache, there)

    in_the_middle(version, out_of_reach)
    with pytest.raises(StorageUnavailable, match="out of reach"):
        lease(cache, version)
    remount(disk, "ro")
    with pytest.raises(DiskUnusable, match="Read-only file system"):
        lease(cache, version)
    lease(DiskCache(disk / "cache", BIG), there)
    remount(disk, "rw")
    store_of(version).forget()
    assert len(leased_files(cache, version)["model.onnx"]) == 4 * MIB
    assert store_of(version).given_bytes < 4 * MIB


def test_remains_in_a_cache_that_can_only_be_read_are_in_nobodys_way(disk: Path) -> None:
    there, partial = version_of(MIB, 1), version_of(MIB, 2)
    lease(DiskCache(disk / "cache", BIG), there)
    for name in (f".partial-{partial.digest}", f".grave-{partial.digest}-1-1"):
        (disk / "cache" / name).mkdir()
        os.utime(disk / "cache" / name, (0, 0))
    remount(disk, "ro")
    with DiskCache(disk / "cache", BIG).lease(there) as files:
        assert files.fetched is None
    remount(disk, "rw")


def test_a_damaged_version_in_a_cache_that_can_only_be_read_is_told(disk: Path) -> None:
    version = version_of(MIB)
    cache = DiskCache(disk / "cache", BIG)
    lease(cache, version)
    os.truncate(disk / "cache" / version.digest / "model.onnx", 100)
    remount(disk, "ro")
    with pytest.raises(DiskUnusable, match="Read-only file system"):
        lease(cache, version)
    remount(disk, "rw")


def test_a_budget_that_is_full_is_not_taken_for_a_full_disk(disk: Path) -> None:
    cache = DiskCache(disk / "cache", 5 * MIB)
    with cache.lease(version_of(4 * MIB, 1)), pytest.raises(CacheFull):
        lease(cache, version_of(4 * MIB, 2))


# --- somebody else's


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can look into; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


SOMEBODY = 10001
SOMEBODY_ELSE = 10002


def as_user(user: int, work: Callable[[], object]) -> str:
    """Do the work in a process of this user; return what it returns, or how it failed, as text."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            text = str(work())
        except BaseException as exc:  # noqa: BLE001
            text = "".join(traceback.format_exception_only(exc))
        os.write(sender, text.encode())
        # Not by way of pytest.
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def leased_as(user: int, root: Path, version: ModelVersion) -> str:
    """Return the files' directory and whether they were downloaded."""

    def work() -> str:
        with DiskCache(root, BIG).lease(version) as files:
            assert files_below(files.directory) == {
                key.removeprefix("1/"): data for key, data in store_of(version).blobs.items()
            }
            return f"{files.directory.relative_to(root)} {files.fetched is not None}"

    return as_user(user, work)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775, 0o2777])
def test_a_volume_that_is_roots_and_open_to_all_is_used_by_way_of_a_directory_of_ones_own(
    public: Path, mode: int
) -> None:
    """As Kubernetes makes its emptyDir: 0777, and the container runs as some number."""
    version = version_of(1000)
    public.chmod(mode)
    if mode == 0o775:
        os.chown(public, 0, SOMEBODY)
    own = f"decant-{SOMEBODY}"
    for is_fetched in (True, False):
        assert leased_as(SOMEBODY, public, version) == f"{own}/{version.digest} {is_fetched}"
    assert names_in(public) == [own]
    assert (public / own).stat().st_mode & 0o777 == 0o700
    assert leased_as(SOMEBODY_ELSE, public, version) == f"decant-{SOMEBODY_ELSE}/{version.digest} True" or mode == 0o775
    assert public.stat().st_mode & 0o7777 == mode


def test_what_is_in_a_directory_of_ones_own_is_found_there(public: Path) -> None:
    version = version_of(1000)
    public.chmod(0o777)
    leased_as(SOMEBODY, public, version)

    def work() -> object:
        cache = DiskCache(public, BIG)
        (entry,) = cache.entries()
        found = cache.is_cached(version), cache.usage().used, cache.damaged(entry), cache.remove(entry)
        return found, cache.is_cached(version)

    assert as_user(SOMEBODY, work) == f"((True, {version.size}, [], True), False)"


def test_a_directory_of_ones_own_that_somebody_else_has_made_first_is_refused(public: Path) -> None:
    version = version_of(1000)
    public.chmod(0o777)
    as_user(SOMEBODY_ELSE, (public / f"decant-{SOMEBODY}").mkdir)
    assert "the directory belongs to another user" in leased_as(SOMEBODY, public, version)
    assert store_of(version).reads == []


def test_a_link_that_somebody_else_has_put_in_the_place_of_ones_own_directory_is_refused(public: Path) -> None:
    """It may lead to where one's own files are."""
    version = version_of(1000)
    (public / "shared").mkdir()
    (public / "shared").chmod(0o777)
    as_user(SOMEBODY_ELSE, lambda: (public / "shared" / f"decant-{SOMEBODY}").symlink_to(public / "precious"))
    (public / "precious").mkdir()
    os.chown(public / "precious", SOMEBODY, SOMEBODY)
    assert "DiskUnusable" in leased_as(SOMEBODY, public / "shared", version)
    assert names_in(public / "precious") == []


@pytest.mark.parametrize("user", [0, SOMEBODY])
def test_a_directory_of_another_user_is_refused_and_left_alone(public: Path, user: int) -> None:
    version = version_of(1000)
    root = public / "cache"
    as_user(SOMEBODY_ELSE, lambda: None)
    root.mkdir()
    os.chown(root, SOMEBODY_ELSE, SOMEBODY_ELSE)
    root.chmod(0o777)
    assert "DiskUnusable: cannot keep m/1" in (answer := leased_as(user, root, version))
    assert "the directory belongs to another user" in answer
    assert names_in(root) == []
    assert root.stat().st_mode & 0o777 == 0o777


def plant(root: Path, version: ModelVersion, owner: int) -> None:
    """Put there what looks like the version, and is not."""
    directory = root / version.digest
    directory.mkdir()
    for blob in version.files:
        (directory / blob.key.removeprefix("1/")).write_bytes(b"x" * blob.size)
    Manifest.of(version, {}, is_synced=True).write(directory)
    for path in (directory, *directory.iterdir()):
        os.chown(path, owner, owner)


@pytest.mark.parametrize("user", [0, SOMEBODY])
def test_what_somebody_else_has_put_into_a_directory_while_it_was_open_to_all_is_not_believed(
    public: Path, user: int
) -> None:
    version = version_of(1000)
    root = public / "cache"
    root.mkdir()
    os.chown(root, user, user)
    root.chmod(0o777)
    plant(root, version, SOMEBODY_ELSE)
    answer = leased_as(user, root, version)
    assert answer == f"{version.digest} True" or "DiskUnusable" in answer
    assert root.stat().st_mode & 0o022 == 0


def test_what_somebody_else_keeps_from_us_does_not_keep_others_from_making_room(public: Path) -> None:
    root = public / "cache"
    root.mkdir()
    os.chown(root, SOMEBODY, SOMEBODY)
    (root / ("a" * 64)).mkdir(mode=0o700)
    (root / ("a" * 64) / "weights").write_bytes(b"x" * 500)

    def work() -> object:
        cache = DiskCache(root, 1700)
        lease(cache, version_of(1000, 1), version_of(1000, 2))
        return len(cache.entries())

    assert as_user(SOMEBODY, work) in ("1", "2")


def baked(root: Path, version: ModelVersion) -> None:
    """As an image is built: by root, for whoever runs it."""
    lease(DiskCache(root, BIG, is_durable=True), version)


def test_what_root_has_baked_into_an_image_serves_any_user(public: Path) -> None:
    version = version_of(1000)
    baked(public / "cache", version)
    store_of(version).forget()
    assert leased_as(SOMEBODY, public / "cache", version) == f"{version.digest} False"
    assert leased_as(SOMEBODY_ELSE, public / "cache", version) == f"{version.digest} False"
    assert names_in(public / "cache") == [version.digest]


def test_what_is_baked_in_does_not_depend_on_the_umask_of_who_built_it(public: Path) -> None:
    version = listed(AccountedStorage({"1/saved_model.pb": b"graph", "1/assets/deep/words": b"words"}))
    before = os.umask(0o077)
    try:
        baked(public / "cache", version)
    finally:
        os.umask(before)
    assert leased_as(SOMEBODY, public / "cache", version) == f"{version.digest} False"


def test_old_remains_in_what_is_baked_in_are_in_nobodys_way(public: Path) -> None:
    version = version_of(1000)
    baked(public / "cache", version)
    for name in (f".partial-{version.digest}", f".grave-{version.digest}-1-1"):
        (public / "cache" / name).mkdir(mode=0o700)
        os.utime(public / "cache" / name, (0, 0))
    assert leased_as(SOMEBODY, public / "cache", version) == f"{version.digest} False"


def test_what_is_not_baked_in_cannot_be_fetched_by_who_may_not_write_there(public: Path) -> None:
    version, other = version_of(1000), version_of(2000)
    baked(public / "cache", version)
    assert "DiskUnusable: cannot keep m/1 (2001 bytes) in the cache directory: Permission denied" in leased_as(
        SOMEBODY, public / "cache", other
    )
    assert store_of(other).reads == []


def test_a_cache_that_only_root_may_look_into_is_told(public: Path) -> None:
    version = version_of(1000)
    lease(DiskCache(public / "cache", BIG), version)
    assert "DiskUnusable: cannot keep m/1 (1001 bytes) in the cache directory: Permission denied" in leased_as(
        SOMEBODY, public / "cache", version
    )
