"""A version is on disk whole or not at all: whatever fails, whoever else is there, whenever the process ends."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_cache.cache import ModelCache
from model_cache.download import Downloader, LocalModel
from model_cache.errors import DiskUnusable, LoadFailed, StorageUnavailable
from model_cache.repository import Contents, ModelRepository
from model_cache.storage import Blob, open_storage
from tests.conftest import DIGITS, ROOT
from tests.fakes import PATIENCE, Gate, MemoryStorage, until
from tests.servers.processes import Process, clean_environment

FILES = {"model.xml": b"<net/>", "model.bin": b"weights" * 1000, "assets/labels.txt": b"cat\ndog\n", "a/b/c": b""}
SOMEBODY_ELSE = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cache directory that is not there yet."""
    return tmp_path / "of" / "mine" / "cache"


def stored(version: int = 1, files: dict[str, bytes] | None = None) -> MemoryStorage:
    return MemoryStorage({f"{version}/{name}": data for name, data in (files or FILES).items()})


def contents_of(storage: MemoryStorage, number: int = 1, name: str = "m") -> Contents:
    return ModelRepository(name, storage).find(number).contents


def files_below(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def refuse_to_fetch(blob: Blob) -> None:
    raise StorageUnavailable(f"{blob.key} was asked for")


def test_a_version_is_brought_whole_with_its_subdirectories(root: Path) -> None:
    contents = contents_of(stored())
    model = Downloader(root).load(contents)
    assert files_below(model.directory) == FILES
    assert model.directory == root / contents.digest
    assert list(root.iterdir()) == [model.directory]


def test_it_is_estimated_and_counted_by_its_bytes(root: Path) -> None:
    contents = contents_of(stored())
    size = sum(map(len, FILES.values()))
    assert Downloader(root).estimate(contents) == size
    assert Downloader(root).load(contents).size == size


def test_close_removes_it_and_all_its_traces(root: Path) -> None:
    model = Downloader(root).load(contents_of(stored()))
    model.close()
    assert list(root.iterdir()) == []


def test_close_removes_empty_files_too(root: Path) -> None:
    model = Downloader(root).load(contents_of(stored(files={"empty": b""})))
    model.close()
    assert list(root.iterdir()) == []


def test_closing_what_somebody_has_removed_already_is_no_error(root: Path) -> None:
    """Temporary directories are tidied up by others, too; it would be the newcomer's load that fails of it."""
    model = Downloader(root).load(contents_of(stored()))
    for name in sorted(files_below(model.directory), reverse=True):
        (model.directory / name).unlink()
    for directory in ("a/b", "a", "assets", "."):
        (model.directory / directory).rmdir()
    model.close()
    assert list(root.iterdir()) == []


def test_models_that_are_local_are_read_where_they_are(root: Path) -> None:
    before = files_below(DIGITS)
    contents = ModelRepository("digits", open_storage(str(DIGITS))).find(1).contents
    downloader = Downloader(root)
    assert downloader.estimate(contents) == 0
    model = downloader.load(contents)
    assert model.directory == DIGITS / "1"
    assert model.size == 0
    model.close()
    assert files_below(DIGITS) == before
    assert not root.exists()


def test_what_an_earlier_process_left_complete_is_used_as_it_is(root: Path) -> None:
    storage = stored()
    contents = contents_of(storage)
    earlier = Downloader(root).load(contents)
    storage.before_fetch = refuse_to_fetch
    model = Downloader(root).load(contents)
    assert model.directory == earlier.directory
    assert model.size == contents.version.size


def test_another_upload_is_another_directory(root: Path) -> None:
    storage = stored()
    old = Downloader(root).load(contents_of(storage))
    storage.blobs["1/model.xml"] = b"<net>new</net>"
    new = Downloader(root).load(contents_of(storage))
    assert (new.directory / "model.xml").read_bytes() == b"<net>new</net>"
    assert (old.directory / "model.xml").read_bytes() == FILES["model.xml"]


@pytest.mark.parametrize("missing", sorted(FILES))
def test_if_one_blob_cannot_be_had_nothing_stays(root: Path, missing: str) -> None:
    storage = stored()
    contents = contents_of(storage)

    def fail(blob: Blob) -> None:
        if blob.key == f"1/{missing}":
            raise StorageUnavailable(f"connection reset while reading {blob.key}")

    storage.before_fetch = fail
    with pytest.raises(StorageUnavailable, match=f"connection reset while reading 1/{missing}"):
        Downloader(root).load(contents)
    assert list(root.iterdir()) == []
    storage.before_fetch = lambda blob: None
    assert files_below(Downloader(root).load(contents).directory) == FILES


def test_if_a_blob_has_changed_since_the_listing_nothing_stays(root: Path) -> None:
    storage = stored()
    contents = contents_of(storage)
    storage.blobs["1/model.bin"] = b"WEIGHTS" * 1000
    with pytest.raises(StorageUnavailable, match=r"1/model\.bin"):
        Downloader(root).load(contents)
    assert list(root.iterdir()) == []


class CarelessStorage(MemoryStorage):
    """Delivers whatever it has, as a backend with a bug might."""

    def fetch(self, blob: Blob, path: Path) -> None:
        path.write_bytes(self.blobs[blob.key])


@pytest.mark.parametrize("data", [b"weight" * 1000, b"weights" * 1001, b""], ids=["shorter", "longer", "empty"])
def test_bytes_too_few_or_too_many_are_an_error_and_nothing_stays(root: Path, data: bytes) -> None:
    storage = CarelessStorage(stored().blobs)
    contents = contents_of(storage)
    storage.blobs["1/model.bin"] = data
    message = rf"1/model\.bin came as {len(data)} bytes, was listed with 7000"
    with pytest.raises(StorageUnavailable, match=message):
        Downloader(root).load(contents)
    assert list(root.iterdir()) == []


def test_nothing_that_looks_like_a_version_is_there_while_it_is_fetched(root: Path) -> None:
    storage = stored()
    contents = contents_of(storage)
    gate = Gate()
    storage.before_fetch = lambda blob: gate.pass_through()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(Downloader(root).load, contents)
        gate.wait_until_reached()
        assert not (root / contents.digest).exists()
        gate.open()
        loading.result(PATIENCE)
    assert (root / contents.digest).exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_download_leaves_nothing(root: Path, error: type[BaseException]) -> None:
    storage = stored()
    contents = contents_of(storage)

    def interrupt(blob: Blob) -> None:
        raise error

    storage.before_fetch = interrupt
    with pytest.raises(error):
        Downloader(root).load(contents)
    assert list(root.iterdir()) == []


def test_of_two_processes_that_download_the_same_the_slower_takes_the_others_copy(root: Path) -> None:
    storage = stored()
    contents = contents_of(storage)
    other = Downloader(root).load

    def overtake(blob: Blob) -> None:
        storage.before_fetch = lambda blob: None
        other(contents)

    storage.before_fetch = overtake
    model = Downloader(root).load(contents)
    assert files_below(model.directory) == FILES
    assert list(root.iterdir()) == [model.directory]


KILLED = """
import sys
from pathlib import Path
from model_cache.download import Downloader
from tests.fakes import Gate
from tests.model_cache.test_download import stored, contents_of

storage = stored()
def stall(blob):
    if blob.key == "1/model.xml":
        print("fetching", flush=True)
        Gate().pass_through()
storage.before_fetch = stall
Downloader(Path(sys.argv[1])).load(contents_of(storage))
"""


def test_what_a_process_killed_in_the_middle_leaves_does_not_look_complete_and_is_removed_by_the_next(
    root: Path, tmp_path: Path
) -> None:
    argv: list[str | Path] = [sys.executable, "-c", KILLED, root]
    with Process(argv, tmp_path / "log", env=clean_environment(), cwd=ROOT) as process:
        process.wait_until(lambda: "fetching" in process.log(), timeout=30)
        process.signal(signal.SIGKILL)
        process.wait()
    assert files_below(root) != {}
    contents = contents_of(stored())
    assert not (root / contents.digest).exists()
    model = Downloader(root).load(contents)
    assert files_below(model.directory) == FILES
    assert list(root.iterdir()) == [model.directory]


def test_a_download_under_way_is_not_removed_by_another_process(root: Path) -> None:
    storage = stored()
    slow, quick = contents_of(storage), contents_of(stored(files={"other": b"other"}))
    gate = Gate()
    storage.before_fetch = lambda blob: gate.pass_through()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(Downloader(root).load, slow)
        gate.wait_until_reached()
        assert files_below(Downloader(root).load(quick).directory) == {"other": b"other"}
        gate.open()
        assert files_below(loading.result(PATIENCE).directory) == FILES


def start_and_load(root: Path, number: int) -> list[dict[str, bytes]]:
    """As a process does that starts: sweep, then download. Many times, as it is a matter of microseconds."""
    loaded = []
    for round_ in range(20):
        model = Downloader(root).load(contents_of(stored(files={"model.bin": b"%d %d" % (number, round_)})))
        loaded.append(files_below(model.directory))
        model.close()
    return loaded


def test_processes_that_start_at_the_same_time_do_not_sweep_away_what_the_others_begin(root: Path) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            processes = [pool.submit(start_and_load, root, number) for number in range(8)]
        for number, process in enumerate(processes):
            assert process.result() == [{"model.bin": b"%d %d" % (number, round_)} for round_ in range(20)]
    finally:
        sys.setswitchinterval(before)
    assert list(root.iterdir()) == []


def someone_waits_for_a_lock() -> bool:
    # proc_locks(5): "1: -> FLOCK ADVISORY READ 123 ..." is one that process 123 waits for.
    lines = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(line[1:3] == ["->", "FLOCK"] and line[5] == str(os.getpid()) for line in lines)


def test_files_replaced_while_one_waits_for_them_are_not_taken_for_locked(root: Path, tmp_path: Path) -> None:
    contents = contents_of(stored())
    directory = root / contents.digest
    for path, data in FILES.items():
        for copy in (directory, root / "new"):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).write_bytes(data)
    # Another process that removes them, whereupon a third one brings them again.
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(Downloader(root).load, contents)
        until(someone_waits_for_a_lock)
        directory.rename(tmp_path / "old")
        (root / "new").rename(directory)
        os.close(descriptor)
        model = loading.result(PATIENCE)
    Downloader(root).load(contents).close()
    assert files_below(model.directory) == FILES


def remove_a_file(directory: Path) -> None:
    (directory / "model.bin").unlink()


def cut_a_file(directory: Path) -> None:
    os.truncate(directory / "model.bin", 100)


def remove_a_subdirectory(directory: Path) -> None:
    (directory / "assets" / "labels.txt").unlink()
    (directory / "assets").rmdir()


@pytest.mark.parametrize("damage", [remove_a_file, cut_a_file, remove_a_subdirectory])
def test_what_has_been_damaged_on_disk_is_fetched_again(root: Path, damage: Callable[[Path], None]) -> None:
    """Temporary directories are tidied up file by file, and a machine may lose its power."""
    contents = contents_of(stored())
    damage(Downloader(root).load(contents).directory)
    model = Downloader(root).load(contents)
    assert files_below(model.directory) == FILES
    assert list(root.iterdir()) == [model.directory]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_open(root: Path) -> None:
    storage = stored()
    contents = contents_of(storage)
    before = open_descriptors()
    for _ in range(5):
        Downloader(root).load(contents).close()
        storage.before_fetch = refuse_to_fetch
        with pytest.raises(StorageUnavailable):
            Downloader(root).load(contents)
        storage.before_fetch = lambda blob: None
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "key",
    [
        "1/../../escaped",
        "1/..",
        "1/sub/../../../escaped",
        "1/./model.xml",
        "1//etc/escaped",
        "1/sub//escaped",
        "1/sub/",
        "1/",
        "1/..\\..\\escaped",
        "1/C:\\escaped",
        "1/nul\0byte",
    ],
)
def test_a_name_that_is_no_plain_relative_path_is_refused_before_anything_is_written(
    root: Path, tmp_path: Path, key: str
) -> None:
    storage = stored()
    storage.blobs[key] = b"evil"
    with pytest.raises(LoadFailed, match="is not a plain relative path") as failure:
        Downloader(root).load(contents_of(storage))
    assert repr(key) in str(failure.value)
    assert files_below(tmp_path) == {}
    assert not root.exists() or list(root.iterdir()) == []


@pytest.mark.parametrize("name", ["..model.xml", "...", "model..bin", "~", "-rf", "a b", "ä", ".hidden", "%2e%2e", "*"])
def test_odd_names_that_stay_where_they_belong_are_kept(root: Path, name: str) -> None:
    model = Downloader(root).load(contents_of(stored(files={name: b"x"})))
    assert files_below(model.directory) == {name: b"x"}


@pytest.mark.parametrize(
    "files", [{"x" * 300: b""}, {"a": b"", "a/b": b""}], ids=["a name too long", "a file that is a directory"]
)
def test_names_that_the_disk_cannot_take_are_told_and_nothing_stays(root: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(LoadFailed, match=r"blob name '1/\w+'"):
        Downloader(root).load(contents_of(stored(files=files)))
    assert list(root.iterdir()) == []


def test_a_cache_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskUnusable, match=r"cannot keep m/1 \(.* bytes\) in the cache directory: Not a directory"):
        Downloader(tmp_path / "file" / "cache").load(contents_of(stored()))


def test_the_cache_is_private_whatever_the_umask(root: Path) -> None:
    before = os.umask(0)
    try:
        model = Downloader(root).load(contents_of(stored()))
    finally:
        os.umask(before)
    assert root.stat().st_mode & 0o777 == 0o700
    assert model.directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_may_write_to_is_made_private_or_refused(root: Path) -> None:
    root.mkdir(parents=True)
    root.chmod(0o777)
    try:
        Downloader(root).load(contents_of(stored()))
    except LoadFailed:
        assert list(root.iterdir()) == []
    else:
        assert root.stat().st_mode & 0o022 == 0


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory that is somebody else's")


@needs_root
def test_a_directory_of_another_user_is_refused_and_left_alone(root: Path) -> None:
    root.mkdir(parents=True)
    os.chown(root, SOMEBODY_ELSE, SOMEBODY_ELSE)
    with pytest.raises(DiskUnusable, match=r"cannot keep m/1 .* the directory belongs to another user"):
        Downloader(root).load(contents_of(stored()))
    assert list(root.iterdir()) == []


@needs_root
def test_a_version_that_another_user_has_put_there_is_not_believed(root: Path) -> None:
    contents = contents_of(stored())
    planted = root / contents.digest
    planted.mkdir(parents=True)
    (planted / "model.xml").write_bytes(b"<evil/>")
    os.chown(root, SOMEBODY_ELSE, SOMEBODY_ELSE)
    with pytest.raises(DiskUnusable, match="the directory belongs to another user"):
        Downloader(root).load(contents)


Files = ModelCache[Contents, LocalModel]


@pytest.fixture
def files(root: Path) -> Files:
    return Files(Downloader(root), 1 << 20)


def twice_in_a_storage() -> tuple[Contents, Contents]:
    storage = MemoryStorage({**stored(1).blobs, **stored(2).blobs})
    return contents_of(storage, 1), contents_of(storage, 2)


def under_two_names() -> tuple[Contents, Contents]:
    return contents_of(stored(), name="m"), contents_of(stored(), name="n")


@pytest.mark.parametrize("versions", [twice_in_a_storage, under_two_names])
def test_versions_of_the_same_bytes_do_not_take_each_others_files_away(
    files: Files, versions: Callable[[], tuple[Contents, Contents]]
) -> None:
    """Somebody who promotes a model by copying it to the next number gets exactly this."""
    one, two = versions()
    with files.lease(two) as kept:
        with files.lease(one):
            pass
        files.retire(one)
        assert files_below(kept.directory) == FILES
    files.close()


def test_a_version_loaded_anew_keeps_its_files_when_the_retired_one_goes(files: Files, root: Path) -> None:
    contents = contents_of(stored())
    with files.lease(contents):
        files.retire(contents)
        with files.lease(contents) as new:
            pass
    with files.lease(contents) as same:
        assert same is new
        assert files_below(same.directory) == FILES
    files.close()
    assert list(root.iterdir()) == []


def test_a_version_retired_and_still_in_use_keeps_its_files_when_the_new_one_goes(files: Files, root: Path) -> None:
    contents = contents_of(stored())
    with files.lease(contents) as old:
        files.retire(contents)
        with files.lease(contents):
            pass
        files.retire(contents)
        assert files_below(old.directory) == FILES
    assert list(root.iterdir()) == []


def test_what_another_process_uses_is_not_removed(root: Path) -> None:
    """The cache directory's default is one for all processes of a user. Each has a downloader of its own."""
    contents = contents_of(stored())
    one, other = Downloader(root).load(contents), Downloader(root).load(contents)
    one.close()
    assert files_below(other.directory) == FILES
    other.close()
    assert list(root.iterdir()) == []


def test_a_version_that_has_moved_is_read_where_it_is_now(root: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "1").mkdir(parents=True)
    (base / "1" / "model.xml").write_bytes(b"<net/>")
    storage = open_storage(str(base))
    files = Files(Downloader(root), 1 << 20)
    with files.lease(ModelRepository("m", storage).find(1).contents):
        pass
    (base / "1").rename(base / "2")
    with files.lease(ModelRepository("m", storage).find(2).contents) as model:
        assert files_below(model.directory) == {"model.xml": b"<net/>"}


def test_evicting_makes_room_on_the_disk(root: Path) -> None:
    storage = MemoryStorage({"1/a": b"x" * 600, "2/b": b"y" * 600})
    files = Files(Downloader(root), 1000)
    with files.lease(contents_of(storage, 1)):
        pass
    with files.lease(contents_of(storage, 2)) as model:
        assert list(root.iterdir()) == [model.directory]
        assert files_below(root) == {f"{model.directory.name}/b": b"y" * 600}
