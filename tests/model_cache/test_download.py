"""Parts come in parallel, are tried again where that helps, and are never fetched twice without need."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_cache.disk import MAX_STREAMS, DiskCache
from model_cache.download import MAX_PART, MIN_PART, PAUSES, Progress
from model_cache.errors import BlobChanged, LoadFailed, StorageInterrupted, StorageUnavailable
from model_cache.repository import ModelVersion
from model_cache.storage import Blob
from tests.fakes import PATIENCE, Gate, until
from tests.model_cache.stores import (
    BIG,
    SAVED_MODEL,
    AccountedStorage,
    Read,
    files_below,
    leased_files,
    listed,
    names_in,
    store_of,
    stored,
    version_of,
)

MIB = 1 << 20
NOISE = os.urandom(18 * MIB)
WEIGHTS = "1/variables/variables.data-00000-of-00001"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cache directory that is not there yet."""
    return tmp_path / "of" / "mine" / "cache"


def partial_of(root: Path, version: ModelVersion) -> Path:
    return root / f".partial-{version.digest}"


def fail_once(error: BaseException, key: str, position: int) -> Callable[[Blob, int], None]:
    """Return a hook that raises when the blob's piece at this position is to be given for the first time."""
    left = [error]

    def fail(blob: Blob, at: int) -> None:
        if (blob.key, at) == (key, position) and left:
            raise left.pop()

    return fail


def break_off_after_one_byte(storage: AccountedStorage) -> Callable[[Blob, int], None]:
    """For a storage of one blob that gives a byte at a time."""

    def break_off(blob: Blob, at: int) -> None:
        if at > storage.reads[-1].start:
            raise StorageInterrupted("after one byte")

    return break_off


def refuse(blob: Blob) -> None:
    raise StorageUnavailable(f"{blob.key} was asked for")


# --- whole


def test_a_version_comes_whole_with_its_subdirectories_and_its_empty_files(root: Path) -> None:
    storage = stored()
    version = listed(storage)
    with DiskCache(root, BIG).lease(version) as files:
        assert files_below(files.directory) == SAVED_MODEL
        assert files.fetched is not None
        assert files.fetched.size == version.size == sum(map(len, SAVED_MODEL.values()))
    assert names_in(root) == [version.digest]
    # A range without a byte in it is no range that HTTP has.
    assert all(read.start < read.stop for read in storage.reads)
    assert "1/assets/empty.txt" not in {read.key for read in storage.reads}


def test_a_version_of_nothing_but_empty_files_is_whole(root: Path) -> None:
    storage = stored({"saved_model.pb": b"", "assets/a": b""})
    assert leased_files(DiskCache(root, 0), listed(storage)) == {"saved_model.pb": b"", "assets/a": b""}
    assert storage.reads == []


def test_thousands_of_small_files_come_whole(root: Path) -> None:
    files = {"saved_model.pb": b"graph"} | {f"assets/{number % 7}/{number}": b"%d" % number for number in range(1000)}
    storage = stored(files)
    assert leased_files(DiskCache(root, BIG), listed(storage)) == files
    assert len(storage.reads) == len(files)


def test_files_that_the_model_does_not_need_are_not_fetched(root: Path) -> None:
    storage = stored({**SAVED_MODEL, "checkpoint.bin": b"x" * 1000, "notes/README.md": b"read me", "_SUCCESS": b""})
    assert leased_files(DiskCache(root, sum(map(len, SAVED_MODEL.values()))), listed(storage)) == SAVED_MODEL


def test_what_is_no_model_is_told_with_what_there_is(root: Path) -> None:
    storage = stored({"README.md": b"soon"})
    with pytest.raises(LoadFailed, match=r"no model in m/1: .*README\.md"):
        leased_files(DiskCache(root, BIG), listed(storage))
    assert storage.reads == []
    assert not root.exists()


# --- parts


@pytest.mark.parametrize("threads", [1, 8])
def test_parts_cover_every_byte_once_and_are_neither_tiny_nor_huge(root: Path, threads: int) -> None:
    files = {"model.xml": b"<net/>", "model.bin": NOISE * 3 + NOISE[: 12 * MIB + 12_345]}
    storage = stored(files)
    assert leased_files(DiskCache(root, BIG, threads=threads), listed(storage)) == files
    parts = sorted(read for read in storage.reads if read.key == "1/model.bin")
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == len(files["model.bin"])
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= MAX_PART
    assert min(sizes[:-1]) >= MIN_PART
    assert len(parts) >= min(threads, 2)


@pytest.mark.parametrize("threads", [1, 3])
def test_so_many_parts_are_read_at_once_and_no_more(root: Path, threads: int) -> None:
    storage = stored({"saved_model.pb": b"g"} | {f"assets/{number}": b"x" * 1000 for number in range(11)})
    together = threading.Barrier(threads)
    # Each read waits until all others of its row are there, too: with fewer at once none would ever go on.
    storage.before_piece = lambda blob, position: together.wait(PATIENCE)
    leased_files(DiskCache(root, BIG, threads=threads), listed(storage))
    assert storage.most_at_once == threads


def test_all_versions_together_are_read_in_a_bounded_number_of_parts_and_each_in_one_at_least(root: Path) -> None:
    names = ("saved_model.pb", *(f"assets/{number}" for number in range(9)))
    numbers = range(1, 9)
    storage = AccountedStorage({f"{number}/{name}": b"x%d" % number for number in numbers for name in names})
    opened = threading.Event()
    storage.before_piece = lambda blob, position: opened.wait(PATIENCE)
    # One of each version needs no leave, so that none has to wait for a slow server of others.
    most = MAX_STREAMS + len(numbers)
    cache = DiskCache(root, BIG, threads=10)
    with ThreadPoolExecutor(len(numbers)) as pool:
        leases = [pool.submit(leased_files, cache, listed(storage, number)) for number in numbers]
        until(lambda: storage.at_once >= MAX_STREAMS and len({read.key[0] for read in storage.reads}) == len(numbers))
        time.sleep(0.1)
        opened.set()
        assert all(len(each.result(PATIENCE)) == len(names) for each in leases)
    assert MAX_STREAMS <= storage.most_at_once <= most < len(storage.reads)


# --- tried again, or not


def test_a_part_that_breaks_off_goes_on_at_that_byte(root: Path) -> None:
    storage = stored(piece=100)
    storage.before_piece = fail_once(StorageInterrupted("connection reset"), WEIGHTS, 4200)
    assert leased_files(DiskCache(root, BIG), listed(storage)) == SAVED_MODEL
    assert [read for read in storage.reads if read.key == WEIGHTS] == [
        Read(WEIGHTS, 0, 7000),
        Read(WEIGHTS, 4200, 7000),
    ]
    assert storage.given_bytes == sum(map(len, SAVED_MODEL.values()))


def test_a_part_that_brings_nothing_is_tried_a_few_times_with_growing_pauses(root: Path) -> None:
    storage = stored({"model.onnx": b"net"})
    times: list[float] = []

    def interrupt(blob: Blob) -> None:
        times.append(time.monotonic())
        raise StorageInterrupted("503 SlowDown")

    storage.before_fetch = interrupt
    with pytest.raises(StorageInterrupted, match="503 SlowDown"):
        leased_files(DiskCache(root, BIG), listed(storage))
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert len(pauses) == len(PAUSES)
    assert all(pause >= want / 2 for pause, want in zip(pauses, PAUSES, strict=True))


def test_tries_that_bring_something_do_not_use_up_the_count(root: Path) -> None:
    storage = stored({"model.onnx": bytes(range(10))}, piece=1)
    storage.before_piece = break_off_after_one_byte(storage)
    assert len(storage.blobs["1/model.onnx"]) > len(PAUSES) + 1
    assert leased_files(DiskCache(root, BIG), listed(storage)) == {"model.onnx": bytes(range(10))}
    assert storage.given_bytes == 10


@pytest.mark.parametrize("error", [BlobChanged, StorageUnavailable, ZeroDivisionError, KeyboardInterrupt])
def test_what_trying_again_does_not_help_is_not_tried_again(root: Path, error: type[BaseException]) -> None:
    storage = stored({"model.onnx": b"net"})
    version = listed(storage)

    def fail(blob: Blob) -> None:
        raise error("no")

    storage.before_fetch = fail
    with pytest.raises(error, match="no"):
        leased_files(DiskCache(root, BIG), version)
    assert len(storage.reads) == 1
    assert names_in(root) == []
    storage.before_fetch = lambda blob: None
    assert leased_files(DiskCache(root, BIG), version) == {"model.onnx": b"net"}


class CarelessStorage(AccountedStorage):
    """Delivers whatever it has, as a backend with a bug might."""

    def fetch(self, blob: Blob, start: int, stop: int) -> Any:
        self.reads.append(Read(blob.key, start, stop))
        yield self.blobs[blob.key][start:]


def test_too_few_bytes_are_an_error_and_never_leased(root: Path) -> None:
    data = b"weight" * 1000
    storage = CarelessStorage(stored().blobs)
    version = listed(storage)
    storage.blobs[WEIGHTS] = data
    with pytest.raises(StorageUnavailable, match=rf"variables\.data-00000-of-00001: got {len(data)} of 7000 bytes"):
        leased_files(DiskCache(root, BIG), version)
    assert not (root / version.digest).exists()


def test_too_many_bytes_are_an_error_and_never_leased(root: Path) -> None:
    storage = CarelessStorage(stored().blobs)
    version = listed(storage)
    storage.blobs[WEIGHTS] = b"weights" * 1001
    with pytest.raises(StorageUnavailable, match="got more bytes than were asked for"):
        leased_files(DiskCache(root, BIG), version)
    assert not (root / version.digest).exists()


def test_a_server_that_trickles_is_given_up_and_what_it_gave_is_kept(root: Path) -> None:
    storage = stored({"model.onnx": bytes(range(200))}, piece=1)
    version = listed(storage)
    never = threading.Event()
    storage.before_piece = lambda blob, at: never.wait(0.01)
    with pytest.raises(StorageUnavailable, match=r"model\.onnx: \d+ bytes after"):
        leased_files(DiskCache(root, BIG, part_timeout=0.3), version)
    assert 0 < storage.given_bytes < 200
    storage.before_piece = lambda blob, at: None
    assert leased_files(DiskCache(root, BIG), version) == {"model.onnx": bytes(range(200))}
    assert storage.given_bytes == 200


def test_a_server_that_breaks_off_after_every_byte_is_given_up_in_time_too(root: Path) -> None:
    storage = stored({"model.onnx": bytes(range(200))}, piece=1)
    version = listed(storage)
    storage.before_piece = break_off_after_one_byte(storage)
    with pytest.raises(StorageUnavailable, match=r"model\.onnx: \d+ bytes after"):
        leased_files(DiskCache(root, BIG, part_timeout=0.5), version)


# --- one fails, the others stop


def test_one_failed_part_ends_the_download_without_waiting_for_a_stalled_one(root: Path) -> None:
    storage = stored(piece=1000)
    version = listed(storage)
    stalled = Gate()

    def misbehave(blob: Blob, at: int) -> None:
        if (blob.key, at) == (WEIGHTS, 3000):
            stalled.pass_through()
        elif blob.key.endswith("index"):
            stalled.wait_until_reached()
            raise StorageUnavailable("403 Forbidden")

    storage.before_piece = misbehave
    with pytest.raises(StorageUnavailable, match="403 Forbidden"):
        leased_files(DiskCache(root, BIG), version)
    assert not stalled.opened.is_set()
    # Neither is it in the way of the next, nor does what it still brings harm that.
    storage.before_piece = lambda blob, at: None
    cache = DiskCache(root, BIG)
    with cache.lease(version) as files:
        # What the stalled one had brought is not lost.
        assert [read.start for read in storage.reads if read.key == WEIGHTS] == [0, 3000]
        asked = len(storage.reads)
        stalled.open()
        until(lambda: storage.at_once == 0)
        assert files_below(files.directory) == SAVED_MODEL
    # It was given what it waited for, and asked for no more.
    assert storage.given.count(Read(WEIGHTS, 5000, 6000)) == 1
    assert leased_files(cache, version) == SAVED_MODEL
    assert len(storage.reads) == asked


def test_after_a_failure_no_further_part_is_begun(root: Path) -> None:
    storage = stored({"saved_model.pb": b"g"} | {f"assets/{number:02}": b"x" for number in range(50)})
    version = listed(storage)
    storage.before_fetch = refuse
    with pytest.raises(StorageUnavailable, match="was asked for"):
        leased_files(DiskCache(root, BIG, threads=2), version)
    assert len(storage.reads) <= 2


def test_a_pause_between_tries_ends_when_another_part_fails(root: Path) -> None:
    storage = stored()
    version = listed(storage)
    tried = threading.Event()

    def misbehave(blob: Blob) -> None:
        if blob.key == WEIGHTS:
            if storage.reads.count(Read(WEIGHTS, 0, 7000)) == len(PAUSES):
                tried.set()
            raise StorageInterrupted("503 SlowDown")
        if blob.key.endswith("index"):
            assert tried.wait(PATIENCE)
            raise StorageUnavailable("403 Forbidden")

    storage.before_fetch = misbehave
    with pytest.raises(StorageUnavailable, match="403 Forbidden"):
        leased_files(DiskCache(root, BIG), version)
    ended = time.monotonic()
    until(lambda: not any(thread.name.startswith("download") for thread in threading.enumerate()))
    assert time.monotonic() - ended < min(PAUSES[-1] / 2, 0.3)


# --- pinned


@pytest.mark.parametrize("size", [24 * MIB, 24 * MIB + 1, 100], ids=["same size", "longer", "shorter"])
def test_a_blob_replaced_under_way_is_never_mixed_and_leaves_nothing(root: Path, size: int) -> None:
    old, new = b"o" * (24 * MIB), b"n" * size
    storage = stored({"model.onnx": old})
    version = listed(storage)

    def replace(blob: Blob) -> None:
        if len(storage.reads) > 1:
            until(lambda: storage.given_bytes > 0)
            storage.blobs["1/model.onnx"] = new

    storage.before_fetch = replace
    with pytest.raises(BlobChanged):
        leased_files(DiskCache(root, BIG, threads=3), version)
    assert storage.given_bytes > 0
    assert names_in(root) == []
    assert leased_files(DiskCache(root, BIG), listed(storage)) == {"model.onnx": new}


def test_a_blob_replaced_between_two_tries_is_never_mixed(root: Path) -> None:
    storage = stored(piece=1000)
    version = listed(storage)

    def replace(blob: Blob, at: int) -> None:
        if (blob.key, at) == (WEIGHTS, 4000):
            storage.blobs[WEIGHTS] = b"WEIGHTS" * 1000
            raise StorageInterrupted("connection reset")

    storage.before_piece = replace
    with pytest.raises(BlobChanged):
        leased_files(DiskCache(root, BIG), version)
    assert names_in(root) == []


def test_a_blob_replaced_between_two_leases_is_never_mixed(root: Path) -> None:
    storage = stored(piece=1000)
    version = listed(storage)
    storage.before_piece = fail_once(StorageUnavailable("gone for now"), WEIGHTS, 4000)
    with pytest.raises(StorageUnavailable, match="gone for now"):
        leased_files(DiskCache(root, BIG), version)
    assert names_in(root) == [f".partial-{version.digest}"]
    storage.blobs[WEIGHTS] = b"WEIGHTS" * 1000
    with pytest.raises(BlobChanged):
        leased_files(DiskCache(root, BIG), version)
    assert names_in(root) == []
    assert leased_files(DiskCache(root, BIG), listed(storage)) == {
        **SAVED_MODEL,
        "variables/variables.data-00000-of-00001": b"WEIGHTS" * 1000,
    }


# --- verified


class NoisyStorage(AccountedStorage):
    """Offers checksums, of the kind that is asked for; and a byte of what it sends may be another on arrival."""

    kind = "md5"
    noise: dict[str, int]
    """By key, where the byte is that is changed once."""

    def _blob(self, key: str, data: bytes) -> Blob:
        value = hashlib.md5(data).hexdigest()
        if self.kind == "crc32c":
            value = f"{google_crc32c.value(data):08x}"
        return super()._blob(key, data)._replace(checksum=f"{self.kind}:{value}")

    def fetch(self, blob: Blob, start: int, stop: int) -> Generator[bytes | memoryview, None, None]:
        for piece in super().fetch(blob, start, stop):
            position = self.noise.get(blob.key, -1) - start
            if 0 <= position < len(piece):
                del self.noise[blob.key]
                piece = bytes([*piece[:position], piece[position] ^ 1, *piece[position + 1 :]])
            start += len(piece)
            yield piece


def noisy(files: dict[str, bytes], noise: dict[str, int], kind: str = "md5") -> NoisyStorage:
    storage = NoisyStorage({f"1/{name}": data for name, data in files.items()})
    storage.kind, storage.noise = kind, noise
    return storage


@pytest.mark.parametrize("kind", ["md5", "crc32c"])
@pytest.mark.parametrize("position", [0, 9 * MIB + 1, 20 * MIB - 1])
def test_a_byte_that_changed_on_its_way_is_noticed_and_the_file_is_fetched_anew(
    root: Path, kind: str, position: int
) -> None:
    files = {"model.onnx": NOISE[: 18 * MIB] + NOISE[: 2 * MIB], "model.onnx_data": b"data"}
    storage = noisy(files, {"1/model.onnx": position}, kind)
    version = listed(storage)
    with pytest.raises(StorageUnavailable, match=r"1/model\.onnx came with the checksum \w+, was listed with \w+:\w+"):
        leased_files(DiskCache(root, BIG), version)
    assert not (root / version.digest).exists()
    storage.forget()
    assert leased_files(DiskCache(root, BIG), version) == files
    assert sum(read.stop - read.start for read in storage.given if read.key == "1/model.onnx") == 20 * MIB


def test_right_bytes_with_checksums_are_taken(root: Path) -> None:
    for kind in ("md5", "crc32c"):
        storage = noisy(SAVED_MODEL, {}, kind)
        assert leased_files(DiskCache(root / kind, BIG), listed(storage)) == SAVED_MODEL


@pytest.mark.parametrize("name", ["saved_model.pb", "assets/vocabularies/de/words.txt"])
def test_every_file_is_verified_the_small_ones_too(root: Path, name: str) -> None:
    storage = noisy(SAVED_MODEL, {f"1/{name}": 1})
    with pytest.raises(StorageUnavailable, match=f"1/{name} came with the checksum"):
        leased_files(DiskCache(root, BIG), listed(storage))
    assert leased_files(DiskCache(root, BIG), listed(storage)) == SAVED_MODEL


def test_what_arrived_before_a_cut_is_verified_with_the_rest(root: Path) -> None:
    storage = noisy(SAVED_MODEL, {WEIGHTS: 100})
    storage._piece = 1000
    storage.before_piece = fail_once(StorageUnavailable("out of reach"), WEIGHTS, 4000)
    version = listed(storage)
    with pytest.raises(StorageUnavailable, match="out of reach"):
        leased_files(DiskCache(root, BIG), version)
    with pytest.raises(StorageUnavailable, match="came with the checksum"):
        leased_files(DiskCache(root, BIG), version)
    assert leased_files(DiskCache(root, BIG), version) == SAVED_MODEL


def test_a_checksum_of_a_kind_we_do_not_know_is_no_checksum(root: Path) -> None:
    assert leased_files(DiskCache(root, BIG), listed(noisy(SAVED_MODEL, {}, "sha3"))) == SAVED_MODEL


class DoubtfulStorage(NoisyStorage):
    """Lists what may be a checksum or not: an ETag of S3 is one of MD5 only if nobody has encrypted the object."""

    is_one: bool | None = None

    def vouches_for(self, blob: Blob) -> bool:
        if self.is_one is None:
            raise StorageUnavailable("403 Forbidden")
        return self.is_one


@pytest.mark.parametrize("is_one", [True, False, None])
def test_a_checksum_that_does_not_fit_counts_if_the_storage_says_that_it_is_one(
    root: Path, is_one: bool | None
) -> None:
    storage = DoubtfulStorage({f"1/{name}": data for name, data in SAVED_MODEL.items()})
    storage.noise, storage.is_one = {WEIGHTS: 10}, is_one
    version = listed(storage)
    if is_one is False:
        found = leased_files(DiskCache(root, BIG), version)
        assert [name for name in found if found[name] != SAVED_MODEL[name]] == [WEIGHTS.removeprefix("1/")]
        return
    with pytest.raises(StorageUnavailable, match="came with the checksum" if is_one else "403 Forbidden"):
        leased_files(DiskCache(root, BIG), version)
    assert not (root / version.digest).exists()


def test_a_failed_part_is_told_although_the_largest_file_is_still_being_verified(root: Path) -> None:
    storage = noisy(SAVED_MODEL, {})
    stalled = Gate()

    def misbehave(blob: Blob) -> None:
        if blob.key == WEIGHTS:
            stalled.pass_through()
        raise StorageUnavailable("403 Forbidden")

    storage.before_fetch = misbehave
    with pytest.raises(StorageUnavailable, match="403 Forbidden"):
        leased_files(DiskCache(root, BIG), listed(storage))
    stalled.open()


# --- going on


@pytest.fixture
def interrupted(root: Path) -> ModelVersion:
    """A version of which the first file and 4000 bytes of the second have arrived."""
    version = listed(stored({"model.onnx": os.urandom(9000), "model.onnx_data": os.urandom(8000)}, piece=1000))
    store_of(version).before_piece = fail_once(StorageUnavailable("out of reach"), "1/model.onnx_data", 4000)
    with pytest.raises(StorageUnavailable, match="out of reach"):
        leased_files(DiskCache(root, BIG, threads=1), version)
    assert store_of(version).given_bytes == 13_000
    store_of(version).forget()
    return version


def whole(version: ModelVersion) -> dict[str, bytes]:
    return {key.removeprefix("1/"): data for key, data in store_of(version).blobs.items()}


def test_what_has_arrived_is_not_fetched_again(root: Path, interrupted: ModelVersion) -> None:
    assert leased_files(DiskCache(root, BIG), interrupted) == whole(interrupted)
    assert store_of(interrupted).reads == [Read("1/model.onnx_data", 4000, 8000)]
    assert names_in(root) == [interrupted.digest]


def test_a_byte_that_has_changed_on_disk_is_fetched_again(root: Path, interrupted: ModelVersion) -> None:
    with (partial_of(root, interrupted) / "model.onnx").open("r+b") as file:
        file.seek(4567)
        byte = file.read(1)
        file.seek(4567)
        file.write(bytes([byte[0] ^ 1]))
    assert leased_files(DiskCache(root, BIG), interrupted) == whole(interrupted)
    assert sorted(store_of(interrupted).reads) == [
        Read("1/model.onnx", 0, 9000),
        Read("1/model.onnx_data", 4000, 8000),
    ]


@pytest.mark.parametrize("size", [0, 100, 8999, 9001, 20_000])
def test_a_file_that_has_another_size_on_disk_is_made_right(root: Path, interrupted: ModelVersion, size: int) -> None:
    os.truncate(partial_of(root, interrupted) / "model.onnx", size)
    assert leased_files(DiskCache(root, BIG), interrupted) == whole(interrupted)


def test_a_file_that_has_gone_from_disk_is_fetched_again(root: Path, interrupted: ModelVersion) -> None:
    (partial_of(root, interrupted) / "model.onnx").unlink()
    assert leased_files(DiskCache(root, BIG), interrupted) == whole(interrupted)


LIES = [
    b"0 9000 1234567 model.onnx\n",
    b"0 9000 0 model.onnx\n0 8000 0 model.onnx_data\n",
    b"8000 4000 0 model.onnx_data\n",
    b"9 3 0 model.onnx\n3 9 0 model.onnx\n",
    b"5 5 0 model.onnx\n",
    b"0 9001 0 model.onnx\n",
    b"-5 9000 0 model.onnx\n",
    b"99999999999999999999999 5 0 model.onnx\n",
    b"0 " + b"9" * 5000 + b" 0 model.onnx\n",
    b"9" * 5000 + b" 1 0 model.onnx\n",
    b"0 9000 0 ../../escaped\n",
    b"0 9000 0 \n",
    b"0 9000 0 .\n",
    b"0 9000\n",
    b"\n\n\n",
    b"\xff\xfe\x00 \x80\n",
    b"\0" * 4096 + b"\n",
]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("is_before", [True, False], ids=["before the truth", "alone"])
def test_a_journal_that_is_damaged_is_not_believed(
    root: Path, interrupted: ModelVersion, lie: bytes, is_before: bool
) -> None:
    journal = partial_of(root, interrupted) / ".decant-journal"
    journal.write_bytes(lie + journal.read_bytes() if is_before else lie)
    assert leased_files(DiskCache(root, BIG), interrupted) == whole(interrupted)
    assert names_in(root) == [interrupted.digest]
    if is_before:
        assert store_of(interrupted).reads == [Read("1/model.onnx_data", 4000, 8000)]


def test_a_journal_cut_off_anywhere_costs_what_it_no_longer_has(root: Path, interrupted: ModelVersion) -> None:
    journal = partial_of(root, interrupted) / ".decant-journal"
    text = journal.read_bytes()
    for length in range(len(text)):
        journal.write_bytes(text[:length])
        store_of(interrupted).forget()
        store_of(interrupted).before_fetch = refuse
        with pytest.raises(StorageUnavailable, match="was asked for"):
            leased_files(DiskCache(root, BIG), interrupted)
        partial_of(root, interrupted).mkdir(exist_ok=True)
    journal.write_bytes(text[:-5])
    store_of(interrupted).before_fetch = lambda blob: None
    assert leased_files(DiskCache(root, BIG), interrupted) == whole(interrupted)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=60), position=st.integers(0, 80), cut=st.integers(0, 80))
def test_no_noise_in_a_journal_makes_a_wrong_byte(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, position: int, cut: int
) -> None:
    root = tmp_path_factory.mktemp("cache")
    version = listed(stored({"model.onnx": b"abcde" * 1000}, piece=1000))
    store_of(version).before_piece = fail_once(StorageUnavailable("out of reach"), "1/model.onnx", 3000)
    with pytest.raises(StorageUnavailable):
        leased_files(DiskCache(root, BIG), version)
    journal = partial_of(root, version) / ".decant-journal"
    text = journal.read_bytes()
    journal.write_bytes(text[:position] + noise + text[position + cut :])
    assert leased_files(DiskCache(root, BIG), version) == {"model.onnx": b"abcde" * 1000}


def test_what_trickles_in_is_written_down_after_some_time(root: Path) -> None:
    """A process may be given a few seconds only, and the next one is to go on."""
    storage = stored({"model.onnx": b"x" * 5000}, piece=1)
    version = listed(storage)
    is_over = threading.Event()

    def trickle(blob: Blob, position: int) -> None:
        if is_over.wait(0.01):
            raise StorageUnavailable("out of reach")

    storage.before_piece = trickle
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(leased_files, DiskCache(root, BIG), version)
        try:
            until((partial_of(root, version) / ".decant-journal").exists)
        finally:
            is_over.set()
            with pytest.raises(StorageUnavailable, match="out of reach"):
                loading.result(PATIENCE)


# Sizes around those that matter: a piece, a checkpoint, a part.
SIZES = st.sampled_from([0, 1, 1000, MIB - 1, MIB, MIB + 1, 8 * MIB, 8 * MIB + 1, 17 * MIB])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=5).filter(lambda sizes: sum(sizes) < 30 * MIB),
    threads=st.integers(1, 4),
    cuts=st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=6),
)
def test_whatever_breaks_off_wherever_the_bytes_are_right_and_come_once(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], threads: int, cuts: list[tuple[int, bool]]
) -> None:
    """``cuts`` are numbers of pieces after which a read breaks off, and whether the whole lease does."""
    root = tmp_path_factory.mktemp("cache")
    files = {f"assets/{number}": NOISE[number : number + size] for number, size in enumerate(sizes)}
    storage = stored({"saved_model.pb": b"graph", **files})
    version = listed(storage)
    left = [[pieces, is_final] for pieces, is_final in cuts]
    lock = threading.Lock()

    def cut(blob: Blob, at: int) -> None:
        with lock:
            if not left:
                return
            left[0][0] -= 1
            if left[0][0] < 0:
                raise (StorageUnavailable if left.pop(0)[1] else StorageInterrupted)("broke off")

    storage.before_piece = cut
    failures = 0
    while True:
        try:
            found = leased_files(DiskCache(root, BIG, threads=threads), version)
        except StorageUnavailable:
            failures += 1
            assert not (root / version.digest).exists()
        else:
            break
    assert found == {"saved_model.pb": b"graph", **files}
    # Only a part that is under way when another one fails may lose what it has not written down.
    lost = failures * (threads - 1) * (8 * MIB)
    assert version.size <= storage.given_bytes <= version.size + lost
    assert names_in(root) == [version.digest]


# --- told of the progress


class Watched:
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.downloads = 0
        self.is_over = False

    @contextmanager
    def __call__(self, version: ModelVersion) -> Any:
        self.downloads += 1
        yield self.told.append
        self.is_over = True


def test_progress_is_told_in_bytes_and_comes_to_the_size(root: Path) -> None:
    watch, version = Watched(), version_of(20 * MIB)
    cache = DiskCache(root, BIG, watch=watch)
    with cache.lease(version):
        assert watch.is_over
    assert sum(watch.told) == version.size
    assert len(watch.told) > 2
    with cache.lease(version):
        assert watch.downloads == 1


def test_progress_begins_with_what_has_arrived_before(root: Path, interrupted: ModelVersion) -> None:
    watch = Watched()
    leased_files(DiskCache(root, BIG, watch=watch), interrupted)
    assert watch.told[0] == 13_000
    assert sum(watch.told) == 17_000


def at_the_beginning(version: ModelVersion) -> AbstractContextManager[Progress]:
    raise ZeroDivisionError


def at_the_first_word(version: ModelVersion) -> AbstractContextManager[Progress]:
    def fail(size: int) -> None:
        raise ZeroDivisionError

    return nullcontext(fail)


def when_bytes_come(version: ModelVersion) -> AbstractContextManager[Progress]:
    def fail(size: int) -> None:
        if size:
            raise ZeroDivisionError

    return nullcontext(fail)


@contextmanager
def at_the_end(version: ModelVersion) -> Any:
    yield lambda size: None
    raise ZeroDivisionError


@pytest.mark.parametrize("watch", [at_the_beginning, at_the_first_word, when_bytes_come, at_the_end])
def test_a_watcher_that_fails_leaves_nothing_that_is_leased(root: Path, watch: Any) -> None:
    version = listed(stored())
    with pytest.raises(ZeroDivisionError):
        leased_files(DiskCache(root, BIG, watch=watch), version)
    assert not (root / version.digest).exists()
    assert leased_files(DiskCache(root, BIG), version) == SAVED_MODEL
    assert names_in(root) == [version.digest]


# --- nothing is left behind


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_open(root: Path) -> None:
    storage = stored()
    before = open_descriptors()
    for number in range(5):
        storage.blobs["1/saved_model.pb"] = b"%d" % number
        version = listed(storage)
        storage.before_fetch = refuse
        with pytest.raises(StorageUnavailable):
            leased_files(DiskCache(root, BIG), version)
        storage.before_fetch = lambda blob: None
        leased_files(DiskCache(root, BIG), version)
        storage.blobs[WEIGHTS] = b"%d" % number
        with pytest.raises(BlobChanged):
            leased_files(DiskCache(root / "other", BIG), version)
    until(lambda: storage.at_once == 0)
    until(lambda: open_descriptors() == before)


# --- names


@pytest.mark.parametrize(
    "key",
    [
        "1/../../escaped",
        "1/..",
        "1/assets/../../../escaped",
        "1/./saved_model.pb",
        "1//etc/escaped",
        "1/assets//escaped",
        "1/assets/",
        "1/..\\..\\escaped",
        "1/assets/C:\\escaped",
        "1/assets/nul\0byte",
        "1/assets/line\nbreak",
        "1/assets/carriage\rreturn",
        "1/assets/tab\t",
        "1/assets/escape\x1b[2J",
        "1/assets/\x7f",
        "1/assets/right-to-left\u202egpj",
    ],
)
def test_a_name_that_is_no_plain_relative_path_is_refused_before_anything_is_written(
    root: Path, tmp_path: Path, key: str
) -> None:
    storage = stored()
    storage.blobs[key] = b"evil"
    with pytest.raises(LoadFailed, match="is not a plain relative path") as failure:
        leased_files(DiskCache(root, BIG), listed(storage))
    assert repr(key) in str(failure.value)
    assert str(failure.value).isprintable()
    assert storage.reads == []
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    "name",
    [
        *("a...", "a..b", "~", "-rf", "a b", "ä", "e\u0301", "é", "%2e%2e", "*", "$(id)", "日本語", "🦆", "con", "x:y"),
        *("ä" * 127, "a" * 255, "/".join(["deep" * 10] * 20)),
    ],
)
def test_odd_names_that_stay_where_they_belong_are_kept(root: Path, name: str) -> None:
    files = {"saved_model.pb": b"graph", f"assets/{name}": b"x"}
    assert leased_files(DiskCache(root, BIG), listed(stored(files))) == files


@pytest.mark.parametrize(
    "files",
    [
        {"assets/" + "x" * 256: b""},
        {"assets/" + "ä" * 128: b""},
        {"assets/" + "x" * 256 + "/words": b""},
        {"assets/a": b"", "assets/a/b": b""},
        {"assets/a/b/c/d": b"", "assets/a/b": b""},
    ],
    ids=["too long", "too long in bytes", "a directory too long", "a file that is a directory", "further up"],
)
def test_names_that_no_disk_can_take_are_told_before_anything_is_fetched(root: Path, files: dict[str, bytes]) -> None:
    storage = stored({**SAVED_MODEL, **files})
    with pytest.raises(LoadFailed, match=r"blob name '1/assets/\S+'"):
        leased_files(DiskCache(root, BIG), listed(storage))
    assert storage.reads == []
    assert names_in(root) == []


@pytest.mark.parametrize("name", [".decant.json", ".decant-journal", ".decant"])
def test_files_named_as_ours_do_not_take_their_place(root: Path, name: str) -> None:
    storage = stored({**SAVED_MODEL, name: b"{}", f"assets/{name}": b"{}"})
    cache = DiskCache(root, BIG)
    assert leased_files(cache, listed(storage)) == SAVED_MODEL
    storage.before_fetch = refuse
    assert leased_files(cache, listed(storage)) == SAVED_MODEL
