"""What is kept on disk, for how long, and for whom: budgets, leases, damage, sweeping. One process, many threads."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from model_cache.disk import DiskCache
from model_cache.errors import CacheFull, DiskUnusable, LoadFailed, ModelTooLarge, StorageUnavailable
from model_cache.manifest import boot_id, read_manifest
from model_cache.repository import ModelVersion
from model_cache.storage import Blob, open_storage
from tests.conftest import DIGITS
from tests.fakes import PATIENCE, Gate, until
from tests.model_cache.stores import (
    BIG,
    SAVED_MODEL,
    AccountedStorage,
    files_below,
    leased_files,
    listed,
    names_in,
    store_of,
    stored,
    version_of,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cache directory that is not there yet."""
    return tmp_path / "of" / "mine" / "cache"


def lease(cache: DiskCache, *versions: ModelVersion) -> None:
    for version in versions:
        with cache.lease(version):
            pass


def refuse(blob: Blob) -> None:
    raise StorageUnavailable(f"{blob.key} was asked for")


def digests(*versions: ModelVersion) -> list[str]:
    return sorted(version.digest for version in versions)


def bytes_in(root: Path) -> int:
    """What all versions take, whole or not, by the sizes of their files."""
    total = 0
    for directory in root.iterdir() if root.exists() else ():
        if not directory.name.startswith(".grave"):
            for parent, _, names in os.walk(directory):
                for name in names:
                    if not name.startswith(".decant"):
                        try:
                            total += Path(parent, name).stat().st_size
                        except FileNotFoundError:
                            continue
    return total


@contextmanager
def at_rest(root: Path) -> Iterator[None]:
    """Let nobody decide what comes and goes: a sum taken while one goes and another comes may have both in it."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# --- kept


def test_what_is_there_is_leased_without_a_request(root: Path) -> None:
    storage = stored()
    version = listed(storage)
    cache = DiskCache(root, BIG)
    with cache.lease(version) as first:
        assert first.fetched is not None
    storage.before_fetch = refuse
    for again in (cache, DiskCache(root, BIG)):
        with again.lease(version) as files:
            assert files.fetched is None
            assert files.directory == first.directory == root / version.digest
            assert files_below(files.directory) == SAVED_MODEL


def test_versions_and_models_of_the_same_bytes_share_their_files(root: Path) -> None:
    storage = AccountedStorage({**stored().blobs, **stored(number=2).blobs})
    cache = DiskCache(root, BIG)
    with cache.lease(listed(storage, 1)) as one, cache.lease(listed(storage, 2, "other")) as two:
        assert one.directory == two.directory
    assert len(storage.reads) == len(SAVED_MODEL) - 1


def test_another_upload_is_another_directory(root: Path) -> None:
    storage = stored()
    cache = DiskCache(root, BIG)
    with cache.lease(listed(storage)) as old:
        storage.blobs["1/saved_model.pb"] = b"GRAPH"
        with cache.lease(listed(storage)) as new:
            assert (old.directory / "saved_model.pb").read_bytes() == b"graph"
            assert (new.directory / "saved_model.pb").read_bytes() == b"GRAPH"


def test_models_that_are_local_are_read_where_they_are(root: Path) -> None:
    before = files_below(DIGITS)
    version = listed(open_storage(str(DIGITS)), name="digits")
    cache = DiskCache(root, 0)
    assert cache.is_cached(version)
    with cache.lease(version) as files:
        assert files.directory == DIGITS / "1"
        assert files.fetched is None
    assert files_below(DIGITS) == before
    assert not root.exists()


@pytest.mark.parametrize("what", ["below a file", "a loop", "not to be looked at"])
def test_models_that_are_local_need_no_cache_directory(what: str, tmp_path: Path) -> None:
    root = tmp_path / "cache" / "below"
    if what == "below a file":
        root.parent.write_bytes(b"")
    elif what == "a loop":
        root.parent.symlink_to("cache")
    else:
        # As the rights of others are to this user, but also to root.
        root = tmp_path / ("x" * 300)
    version = listed(open_storage(str(DIGITS)), name="digits")
    cache = DiskCache(root, BIG)
    with cache.lease(version) as files:
        assert (files.directory, files.compiled) == (DIGITS / "1", None)
    with pytest.raises(DiskUnusable, match="cannot keep what was compiled of digits/1"):
        cache.keep_compiled(version, "a.blob", b"blob")


def test_nothing_that_looks_like_a_version_is_there_while_it_is_fetched(root: Path) -> None:
    storage = stored()
    version = listed(storage)
    cache, gate = DiskCache(root, BIG), Gate()
    storage.before_fetch = lambda blob: gate.pass_through()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(leased_files, cache, version)
        gate.wait_until_reached()
        assert not cache.is_cached(version)
        assert [entry.is_complete for entry in cache.entries()] == [False]
        gate.open()
        assert loading.result(PATIENCE) == SAVED_MODEL
    assert cache.is_cached(version)


# --- seen


def test_entries_tell_what_is_there_in_the_order_in_which_it_would_go(root: Path) -> None:
    cache = DiskCache(root, BIG)
    one, two, three = (version_of(1000 * number, number) for number in (1, 2, 3))
    for moment, version in enumerate((one, two, three, one)):
        lease(cache, version)
        backdate(root, version, 100 - moment)
    cut_short(cache, four := version_of(4000, 4))
    entries = {entry.digest: entry for entry in cache.entries()}
    assert [entry.digest for entry in cache.entries()] == [version.digest for version in (two, three, one, four)]
    assert [entries[version.digest].size for version in (one, two, three, four)] == [1001, 2001, 3001, 4001]
    assert [entries[version.digest].is_complete for version in (one, two, three, four)] == [True, True, True, False]
    manifest = entries[one.digest].manifest
    assert manifest is not None
    assert (manifest.model, manifest.version, manifest.source) == ("m", 1, "memory://bucket")
    assert abs(manifest.fetched - time.time()) < 60
    assert sorted(manifest.files) == ["model.onnx", "model.onnx_data"]
    assert entries[four.digest].manifest is None
    usage = cache.usage()
    assert (usage.budget, usage.used) == (BIG, 10_004)
    assert 0 < usage.free <= shutil.disk_usage(root).total


def test_a_cache_that_nobody_has_used_is_empty(root: Path) -> None:
    cache = DiskCache(root, 100)
    assert cache.entries() == []
    assert cache.usage()[:2] == (100, 0)
    assert cache.usage().free > 0
    assert not cache.is_cached(version_of(1))
    assert not root.exists()


def test_what_is_removed_is_gone_and_is_fetched_again(root: Path) -> None:
    cache, version = DiskCache(root, BIG), version_of(1000)
    lease(cache, version)
    (entry,) = cache.entries()
    assert cache.remove(entry)
    assert names_in(root) == []
    assert cache.remove(entry)
    assert not cache.is_cached(version)
    with cache.lease(version) as files:
        assert files.fetched is not None


def test_half_a_version_is_removed_too(root: Path) -> None:
    cache = DiskCache(root, BIG)
    cut_short(cache, version_of(1000))
    (entry,) = cache.entries()
    assert cache.remove(entry)
    assert names_in(root) == []


def test_what_is_leased_is_not_removed(root: Path) -> None:
    cache, version = DiskCache(root, BIG), version_of(1000)
    with cache.lease(version) as files:
        (entry,) = cache.entries()
        assert not DiskCache(root, BIG).remove(entry)
        assert not cache.remove(entry)
        assert len(files_below(files.directory)) == 2
    assert cache.remove(entry)


def test_what_is_being_fetched_is_not_removed(root: Path) -> None:
    cache, version = DiskCache(root, BIG), version_of(1000)
    gate = Gate()
    store_of(version).before_fetch = lambda blob: gate.pass_through()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(leased_files, cache, version)
        gate.wait_until_reached()
        (entry,) = cache.entries()
        assert not cache.remove(entry)
        gate.open()
        assert len(loading.result(PATIENCE)) == 2


# --- the budget


def backdate(root: Path, version: ModelVersion, seconds: float) -> None:
    """Let the version's last use be so many seconds ago."""
    then = time.time() - seconds
    os.utime(root / version.digest / ".decant.json", (then, then))


def cut_short(cache: DiskCache, version: ModelVersion) -> None:
    """Download the first of its files."""
    store = store_of(version)
    store.before_fetch = lambda blob: refuse(blob) if blob.key.endswith("_data") else None
    with pytest.raises(StorageUnavailable, match="was asked for"):
        lease(DiskCache(cache._root, cache._budget, threads=1), version)
    store.before_fetch = lambda blob: None


def test_a_version_larger_than_the_whole_budget_is_told_and_evicts_nothing(root: Path) -> None:
    cache = DiskCache(root, 1000)
    small, large = version_of(500, 1), version_of(1000, 2)
    lease(cache, small)
    with pytest.raises(ModelTooLarge, match="m/1 needs 1001 bytes of disk; the whole budget is 1000"):
        lease(cache, large)
    assert store_of(large).reads == []
    assert names_in(root) == [small.digest]


def test_a_version_of_just_the_budget_fits(root: Path) -> None:
    cache = DiskCache(root, 1000)
    lease(cache, version_of(500, 1), exact := version_of(999, 2))
    assert names_in(root) == [exact.digest]


def test_the_least_recently_used_goes_first_and_no_more_than_has_to(root: Path) -> None:
    cache = DiskCache(root, 3100)
    one, two, three, four = (version_of(1000, number) for number in range(4))
    for moment, version in enumerate((one, two, three, one)):
        lease(cache, version)
        backdate(root, version, 100 - moment)
    lease(cache, four)
    assert names_in(root) == digests(one, three, four)


def test_a_lease_of_what_is_there_counts_as_use(root: Path) -> None:
    one, two, three = (version_of(1000, number) for number in range(3))
    lease(DiskCache(root, BIG), one, two)
    backdate(root, one, 100)
    backdate(root, two, 50)
    lease(DiskCache(root, BIG), one)
    lease(DiskCache(root, 2100), three)
    assert names_in(root) == digests(one, three)


def test_what_earlier_processes_left_counts_and_goes_by_its_last_use(root: Path) -> None:
    one, two, three = (version_of(1000, number) for number in range(3))
    lease(DiskCache(root, BIG), one, two)
    backdate(root, one, 50)
    backdate(root, two, 100)
    lease(DiskCache(root, 2100), three)
    assert names_in(root) == digests(one, three)


def test_half_a_version_of_an_earlier_process_counts_and_goes(root: Path) -> None:
    cut_short(DiskCache(root, BIG), half := version_of(1000, 1))
    assert names_in(root) == [f".partial-{half.digest}"]
    lease(DiskCache(root, 1500), whole := version_of(1000, 2))
    assert names_in(root) == [whole.digest]


def test_what_is_leased_stays_and_what_does_not_fit_beside_it_is_not_begun(root: Path) -> None:
    cache = DiskCache(root, 2100)
    used, new = version_of(1500, 1), version_of(1000, 2)
    with cache.lease(used) as files:
        with pytest.raises(CacheFull, match=r"m/1 needs 1001 bytes of disk; 1501 of 2100 are"):
            lease(cache, new)
        assert len(files_below(files.directory)["model.onnx"]) == 1500
    assert store_of(new).reads == []
    assert names_in(root) == [used.digest]
    lease(cache, new)
    assert names_in(root) == [new.digest]


def test_two_leases_of_one_version_both_have_to_end(root: Path) -> None:
    cache = DiskCache(root, 1500)
    used, new = version_of(1000, 1), version_of(1000, 2)
    with cache.lease(used):
        lease(cache, used)
        with pytest.raises(CacheFull):
            lease(cache, new)
    lease(cache, new)


def test_a_version_being_fetched_is_not_evicted_and_counts_in_full_from_the_beginning(root: Path) -> None:
    cache = DiskCache(root, 2100)
    slow, quick = version_of(1500, 1), version_of(1000, 2)
    gate = Gate()
    store_of(slow).before_fetch = lambda blob: gate.pass_through()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(leased_files, cache, slow)
        gate.wait_until_reached()
        assert bytes_in(root) == 1501
        with pytest.raises(CacheFull, match="1501 of 2100"):
            lease(cache, quick)
        assert store_of(quick).reads == []
        gate.open()
        assert len(loading.result(PATIENCE)["model.onnx"]) == 1500


def test_nothing_is_evicted_in_vain(root: Path) -> None:
    cache = DiskCache(root, 100)
    used, idle, new = version_of(59, 1), version_of(29, 2), version_of(49, 3)
    with cache.lease(used):
        lease(cache, idle)
        with pytest.raises(CacheFull):
            lease(cache, new)
    assert names_in(root) == digests(used, idle)


def test_a_lease_that_ends_in_an_error_ends(root: Path) -> None:
    cache = DiskCache(root, 1500)
    with pytest.raises(ZeroDivisionError), cache.lease(version_of(1000, 1)):
        raise ZeroDivisionError
    lease(cache, new := version_of(1000, 2))
    assert names_in(root) == [new.digest]


def test_a_failed_download_takes_no_room_from_others(root: Path) -> None:
    cache = DiskCache(root, 1500)
    for number in range(5):
        cut_short(cache, version_of(1000, number))
    assert len(names_in(root)) == 1
    assert bytes_in(root) <= 1500


def test_budget_and_leases_hold_for_many_threads(root: Path) -> None:
    """Each thread leases what it likes from its own cache on the same directory; some downloads fail."""
    budget = 10_000
    versions = [version_of(1000 + 300 * number, number) for number in range(10)]
    flaky = random.Random(3)

    def misbehave(blob: Blob, position: int) -> None:
        if flaky.random() < 0.1:
            raise StorageUnavailable("out of reach")

    for version in versions:
        store_of(version).before_piece = misbehave
    violations: list[str] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.001):
            with at_rest(root):
                if (size := bytes_in(root)) > budget:
                    violations.append(f"{size} bytes")

    def work(number: int) -> int:
        chance = random.Random(number)
        cache = DiskCache(root, budget, threads=2)
        leases = 0
        while leases < 40:
            version = chance.choice(versions)
            try:
                with cache.lease(version) as files:
                    leases += 1
                    for _ in range(2):
                        found = files_below(files.directory)
                        if found != {key.removeprefix("1/"): data for key, data in store_of(version).blobs.items()}:
                            violations.append(f"{version.digest} has {[*map(len, found.values())]}")
                        time.sleep(chance.random() / 500)
            except (CacheFull, StorageUnavailable):
                continue
        return leases

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(work, range(8))) == 320
    finally:
        is_over.set()
        watcher.join()
    assert violations == []
    assert bytes_in(root) <= budget
    assert not [name for name in names_in(root) if name.startswith(".grave")]


# --- one download


def test_of_many_who_want_the_same_one_downloads(root: Path) -> None:
    """Often, as those who wait look again when the directory gets its name."""
    for number in range(40):
        version = version_of(1000, number)
        caches = [DiskCache(root, BIG) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(leased_files, caches, [version] * 8))
        assert all(len(files["model.onnx"]) == 1000 for files in found)
        assert len(store_of(version).reads) == 2


def test_when_the_one_who_downloads_fails_the_next_goes_on(root: Path) -> None:
    version = version_of(1000)
    gate = Gate()

    def fail(blob: Blob, position: int) -> None:
        if blob.key.endswith("_data"):
            gate.pass_through()
            store_of(version).before_piece = lambda blob, position: None
            raise StorageUnavailable("out of reach")

    store_of(version).before_piece = fail
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(leased_files, DiskCache(root, BIG, threads=1), version)
        gate.wait_until_reached()
        second = pool.submit(leased_files, DiskCache(root, BIG), version)
        gate.open()
        with pytest.raises(StorageUnavailable, match="out of reach"):
            first.result(PATIENCE)
        assert len(second.result(PATIENCE)["model.onnx"]) == 1000
    assert store_of(version).given_bytes == 1001


def test_versions_do_not_wait_for_each_other(root: Path) -> None:
    cache = DiskCache(root, BIG)
    slow, quick = version_of(1000, 1), version_of(1000, 2)
    gate = Gate()
    store_of(slow).before_fetch = lambda blob: gate.pass_through()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(leased_files, cache, slow)
        gate.wait_until_reached()
        lease(cache, quick)
        lease(cache, quick)
        assert not loading.done()
        gate.open()
        loading.result(PATIENCE)


def test_a_changed_blob_found_by_several_is_told_to_each_as_what_it_is(root: Path) -> None:
    """The directory goes and comes under those who wait for it."""
    for number in range(40):
        version = version_of(1000, number)
        store_of(version).blobs["1/model.onnx"] = b"other" * 200
        caches = [DiskCache(root, BIG) for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            tries = [pool.submit(leased_files, cache, version) for cache in caches]
        assert {type(error).__name__ for error in (each.exception() for each in tries)} == {"BlobChanged"}
    assert names_in(root) == []


def test_who_has_downloaded_a_version_has_it_before_anybody_can_evict_it(root: Path) -> None:
    versions = [listed(stored({"model.onnx": bytes([number]) * 1000})) for number in range(3)]

    def work(number: int) -> int:
        chance, cache, fetched = random.Random(number), DiskCache(root, 1500), 0
        for _ in range(150):
            try:
                with cache.lease(chance.choice(versions)) as files:
                    fetched += files.fetched is not None
            except CacheFull:
                continue
        return fetched

    with ThreadPoolExecutor(4) as pool:
        fetched = sum(pool.map(work, range(4)))
    assert sum(len(store_of(version).reads) for version in versions) == fetched > 10


def test_who_waited_for_files_that_were_replaced_meanwhile_has_those_that_are_there_now(
    root: Path, tmp_path: Path
) -> None:
    version, cache = listed(stored()), DiskCache(root, BIG)
    lease(cache, version)
    directory = root / version.digest
    shutil.copytree(directory, root / "copy")
    # Another process removes them, whereupon a third brings them again.
    remover = os.open(directory, os.O_RDONLY)
    fcntl.flock(remover, fcntl.LOCK_EX)
    is_over = threading.Event()

    def hold() -> bool:
        with cache.lease(version):
            assert is_over.wait(PATIENCE)
        return True

    with ThreadPoolExecutor(1) as pool:
        leasing = pool.submit(hold)
        until(lambda: descriptors_of(directory) == 2)
        directory.rename(tmp_path / "removed")
        (root / "copy").rename(directory)
        os.close(remover)
        until(lambda: descriptors_of(tmp_path / "removed") == 0 and descriptors_of(directory) == 1)
        assert not cache.remove(cache.entries()[0])
        is_over.set()
        assert leasing.result(PATIENCE)


def descriptors_of(directory: Path) -> int:
    """How many descriptors of this process are the directory's."""
    count = 0
    for path in Path("/proc/self/fd").iterdir():
        # Among them is that of this very listing.
        with suppress(FileNotFoundError):
            count += path.readlink() == directory
    return count


# --- damage


def lose_a_file(directory: Path) -> None:
    (directory / "saved_model.pb").unlink()


def lose_an_empty_file(directory: Path) -> None:
    (directory / "assets" / "empty.txt").unlink()


def cut_a_file(directory: Path) -> None:
    os.truncate(directory / "saved_model.pb", 2)


def lengthen_a_file(directory: Path) -> None:
    os.truncate(directory / "saved_model.pb", 100)


def lose_a_directory(directory: Path) -> None:
    shutil.rmtree(directory / "assets")


def put_a_file_for_a_directory(directory: Path) -> None:
    shutil.rmtree(directory / "assets")
    (directory / "assets").write_bytes(b"")


def lose_the_manifest(directory: Path) -> None:
    (directory / ".decant.json").unlink()


def lose_the_manifests_bytes(directory: Path) -> None:
    os.truncate(directory / ".decant.json", 0)


def lose_everything(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        *(lose_a_file, lose_an_empty_file, cut_a_file, lengthen_a_file, lose_a_directory, put_a_file_for_a_directory),
        *(lose_the_manifest, lose_the_manifests_bytes, lose_everything),
    ],
)
def test_what_has_been_damaged_on_disk_is_fetched_again(root: Path, damage: Callable[[Path], None]) -> None:
    """Temporary directories are tidied up file by file, and a machine may lose its power."""
    version, cache = listed(stored()), DiskCache(root, BIG)
    lease(cache, version)
    damage(root / version.digest)
    with cache.lease(version) as files:
        assert files.fetched is not None
        assert files_below(files.directory) == SAVED_MODEL
    assert names_in(root) == [version.digest]


def test_somebody_who_uses_what_turns_out_to_be_damaged_keeps_what_is_open(root: Path) -> None:
    version, cache = listed(stored()), DiskCache(root, BIG)
    with cache.lease(version) as old, (old.directory / "saved_model.pb").open("rb") as file:
        (old.directory / "variables" / "variables.index").unlink()
        assert leased_files(cache, version) == SAVED_MODEL
        assert file.read() == b"graph"
    assert leased_files(cache, version) == SAVED_MODEL
    assert names_in(root) == [version.digest]


def reboot(root: Path, version: ModelVersion) -> None:
    """Have the version be of an earlier run of the machine."""
    path = root / version.digest / ".decant.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "00000000-0000-0000-0000-000000000000"}))


def flip_a_bit(path: Path, position: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def test_after_a_reboot_what_is_whole_is_read_once_and_kept(root: Path) -> None:
    storage = stored()
    version = listed(storage)
    lease(DiskCache(root, BIG), version)
    reboot(root, version)
    storage.before_fetch = refuse
    with DiskCache(root, BIG).lease(version) as files:
        assert files.fetched is None
        manifest = read_manifest(files.directory)
    assert manifest is not None
    assert manifest.boot == boot_id()
    # Now it is believed by its sizes.
    flip_a_bit(root / version.digest / "saved_model.pb")
    assert leased_files(DiskCache(root, BIG), version)["saved_model.pb"] == b"fraph"
    assert sorted(path.name for path in (root / version.digest).iterdir() if path.name.startswith(".decant")) == [
        ".decant.json"
    ]


@pytest.mark.parametrize("position", [0, 3333, 6999])
def test_after_a_reboot_what_has_the_right_size_and_wrong_bytes_is_fetched_again(root: Path, position: int) -> None:
    version = listed(stored())
    lease(DiskCache(root, BIG), version)
    reboot(root, version)
    flip_a_bit(root / version.digest / "variables" / "variables.data-00000-of-00001", position)
    with DiskCache(root, BIG).lease(version) as files:
        assert files.fetched is not None
        assert files_below(files.directory) == SAVED_MODEL


def test_what_has_reached_the_disk_for_certain_is_not_read_after_a_reboot(root: Path) -> None:
    version = listed(stored())
    lease(DiskCache(root, BIG, is_durable=True), version)
    flip_a_bit(root / version.digest / "saved_model.pb")
    manifest = read_manifest(root / version.digest)
    assert manifest is not None
    assert not manifest.has_lost_power
    assert leased_files(DiskCache(root, BIG), version)["saved_model.pb"] == b"fraph"


def test_what_was_fetched_in_two_goes_is_known_by_all_its_bytes_after_a_reboot(root: Path) -> None:
    version = version_of(1000)
    cut_short(DiskCache(root, BIG), version)
    lease(DiskCache(root, BIG), version)
    for name in ("model.onnx", "model.onnx_data"):
        reboot(root, version)
        flip_a_bit(root / version.digest / name)
        with DiskCache(root, BIG).lease(version) as files:
            assert files.fetched is not None


def test_after_a_reboot_many_at_once_find_what_is_whole_to_be_whole(root: Path) -> None:
    storage = stored({"model.onnx": os.urandom(1 << 20)})
    version = listed(storage)
    lease(DiskCache(root, BIG), version)
    storage.before_fetch = refuse
    for _ in range(60):
        reboot(root, version)
        with ThreadPoolExecutor(8) as pool:
            tries = [pool.submit(leased_files, DiskCache(root, BIG), version) for _ in range(8)]
        assert [each.exception() for each in tries] == [None] * 8


def test_who_takes_long_to_find_the_damage_does_not_remove_what_another_has_mended(root: Path) -> None:
    storage = stored({"model.onnx": b"net" * 1000})
    version = listed(storage)
    lease(DiskCache(root, BIG), version)
    storage.forget()
    # Something to read for a while, which has no bytes on the disk: the first reader is done before the second.
    directory = root / version.digest
    with (directory / "long").open("wb") as file:
        file.truncate(400 << 20)
    manifest = json.loads((directory / ".decant.json").read_text())
    manifest["boot"] = "earlier"
    manifest["files"] = {"long": [[0, 400 << 20, 0]], **manifest["files"]}
    (directory / ".decant.json").write_text(json.dumps(manifest))
    is_leased, is_over = threading.Event(), threading.Event()

    def first() -> bool:
        with DiskCache(root, BIG).lease(version) as files:
            is_leased.set()
            assert is_over.wait(PATIENCE)
            return files_below(files.directory) == {"model.onnx": b"net" * 1000}

    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(first)
        time.sleep(0.1)
        late = pool.submit(leased_files, DiskCache(root, BIG), version)
        assert is_leased.wait(PATIENCE)
        assert late.result(PATIENCE) == {"model.onnx": b"net" * 1000}
        is_over.set()
        assert held.result(PATIENCE)
    assert len(storage.reads) == 1


def test_damaged_names_the_files_that_are_not_what_was_fetched(root: Path) -> None:
    version, cache = listed(stored()), DiskCache(root, BIG)
    lease(cache, version)
    (entry,) = cache.entries()
    assert cache.damaged(entry) == []
    flip_a_bit(root / version.digest / "saved_model.pb")
    (root / version.digest / "assets" / "empty.txt").unlink()
    os.truncate(root / version.digest / "variables" / "variables.index", 10)
    assert sorted(cache.damaged(entry)) == ["assets/empty.txt", "saved_model.pb", "variables/variables.index"]


@pytest.mark.parametrize("name", ["saved_model.pb", "assets/empty.txt"])
def test_a_file_that_has_grown_is_damaged(root: Path, name: str) -> None:
    version, cache = listed(stored()), DiskCache(root, BIG)
    lease(cache, version)
    with (root / version.digest / name).open("ab") as file:
        file.write(b"x")
    (entry,) = cache.entries()
    assert cache.damaged(entry) == [name]


def test_a_version_that_lost_its_manifest_is_damaged(root: Path) -> None:
    version, cache = listed(stored()), DiskCache(root, BIG)
    lease(cache, version)
    lose_the_manifest(root / version.digest)
    (entry,) = cache.entries()
    assert cache.damaged(entry) != []


# --- swept


def test_old_remains_go_at_the_start_and_fresh_ones_stay(root: Path) -> None:
    old, fresh, held, kept = (version_of(1000, number) for number in range(4))
    for version in (old, fresh, held):
        cut_short(DiskCache(root, BIG), version)
    lease(DiskCache(root, BIG), kept)
    grave = root / f".grave-{kept.digest}-1-1"
    shutil.copytree(root / kept.digest, grave)
    for version, age in ((old, 25), (held, 25), (fresh, 23)):
        then = time.time() - age * 3600
        for path in (root / f".partial-{version.digest}", *(root / f".partial-{version.digest}").iterdir()):
            os.utime(path, (then, then))
    descriptor = os.open(root / f".partial-{held.digest}", os.O_RDONLY)
    # As another process that downloads it.
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    lease(DiskCache(root, BIG), kept)
    os.close(descriptor)
    assert names_in(root) == sorted([f".partial-{fresh.digest}", f".partial-{held.digest}", kept.digest])


def test_what_is_no_version_is_left_alone(root: Path) -> None:
    root.mkdir(parents=True)
    strangers = ["notes.txt", ".hidden", "lost+found", "f" * 63, "F" * 64, "f" * 65]
    for name in strangers:
        (root / name).mkdir()
        (root / name / "file").write_bytes(b"x" * 5000)
        os.utime(root / name, (0, 0))
    cache = DiskCache(root, 1500)
    lease(cache, version_of(1000, 1), last := version_of(1000, 2))
    assert names_in(root) == sorted([*strangers, last.digest])
    assert all((root / name / "file").stat().st_size == 5000 for name in strangers)
    assert cache.usage().used == 1001
    assert [entry.digest for entry in cache.entries()] == [last.digest]


def test_a_file_named_as_a_version_is_told_or_replaced_and_never_leased(root: Path) -> None:
    version = version_of(1000)
    root.mkdir(parents=True)
    (root / version.digest).write_bytes(b"no directory")
    try:
        assert len(leased_files(DiskCache(root, BIG), version)) == 2
    except DiskUnusable as exc:
        assert "cannot keep m/1" in str(exc)  # noqa: PT017


def test_a_file_named_as_a_version_is_in_nobodys_way(root: Path) -> None:
    root.mkdir(parents=True)
    for name in ("a" * 64, f".partial-{'b' * 64}"):
        (root / name).write_bytes(b"x" * 5000)
        os.utime(root / name, (0, 0))
    (root / ("c" * 64)).symlink_to(root / "nowhere")
    cache = DiskCache(root, 1500)
    lease(cache, version_of(1000, 1), last := version_of(1000, 2))
    assert last.digest in names_in(root)
    assert cache.usage().used in (1001, 6001, 11_001)
    assert all(entry.size >= 0 for entry in cache.entries())


# --- the directory


@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_cache_is_private_whatever_the_umask(root: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with DiskCache(root, BIG).lease(listed(stored())) as files:
            assert files.directory.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
    assert root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_directory_of_ones_own_that_others_may_write_to_is_made_private(root: Path, mode: int) -> None:
    root.mkdir(parents=True)
    root.chmod(mode)
    assert leased_files(DiskCache(root, BIG), listed(stored())) == SAVED_MODEL
    assert root.stat().st_mode & 0o022 == 0


def test_a_directory_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    root.parent.mkdir(parents=True)
    root.symlink_to(tmp_path / "elsewhere")
    version = listed(stored())
    for is_fetched in (True, False):
        with DiskCache(root, BIG).lease(version) as files:
            assert (files.fetched is not None) is is_fetched
            assert files_below(files.directory) == SAVED_MODEL
    assert names_in(tmp_path / "elsewhere") == [version.digest]


def test_a_directory_relative_to_where_the_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = DiskCache(Path("cache"), BIG)
    assert cache.usage().free > 0
    assert leased_files(cache, listed(stored())) == SAVED_MODEL


@pytest.mark.parametrize("what", ["a file", "below a file", "a link to nowhere", "a loop"])
def test_a_directory_that_cannot_be_made_is_told_without_saying_where(tmp_path: Path, what: str) -> None:
    root = tmp_path / "cache"
    if what == "a file":
        root.write_bytes(b"")
    elif what == "below a file":
        root.write_bytes(b"")
        root = root / "below"
    else:
        root.symlink_to("cache" if what == "a loop" else "nowhere")
    version = version_of(1000)
    with pytest.raises(DiskUnusable, match=r"cannot keep m/1 \(1001 bytes\) in the cache directory: \w") as failure:
        lease(DiskCache(root, BIG), version)
    assert str(tmp_path) not in str(failure.value)
    assert store_of(version).reads == []


def test_a_directory_that_disappears_comes_again(root: Path) -> None:
    cache, version = DiskCache(root, BIG), listed(stored())
    lease(cache, version)
    shutil.rmtree(root)
    assert leased_files(cache, version) == SAVED_MODEL
    with cache.lease(version):
        shutil.rmtree(root)
    assert leased_files(cache, version) == SAVED_MODEL


def test_a_directory_that_disappears_under_way_is_told_and_the_next_download_is_whole(root: Path) -> None:
    version = version_of(1000)
    # At once: one file after the other would meet those that are just being made.
    left = [lambda: root.rename(root.with_name("gone"))]
    store_of(version).before_piece = lambda blob, position: left and left.pop()()
    with pytest.raises(DiskUnusable):
        lease(DiskCache(root, BIG), version)
    assert not (root / version.digest).exists()
    assert len(leased_files(DiskCache(root, BIG), version)) == 2


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_open_by_leases_evictions_and_refusals(root: Path) -> None:
    before = open_descriptors()
    cache = DiskCache(root, 2500)
    for number in range(6):
        version = version_of(1000, number)
        with cache.lease(version), pytest.raises(CacheFull):
            lease(cache, version_of(2000, number + 100))
        with pytest.raises(ModelTooLarge):
            lease(cache, version_of(3000))
        (root / version.digest / "model.onnx").unlink()
        lease(cache, version)
    with pytest.raises(LoadFailed):
        lease(cache, listed(stored({"README.md": b""})))
    until(lambda: open_descriptors() == before)
