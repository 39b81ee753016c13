"""Which versions there are, when that is asked anew, and what is believed while it cannot be."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from model_cache.errors import ModelNotFound, StorageUnavailable
from model_cache.repository import ModelRepository, ModelVersion, ServableId
from model_cache.storage import Blob
from tests.fakes import PATIENCE, Clock, Gate, MemoryStorage

TTL = 10.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def repository(storage: MemoryStorage, clock: Clock) -> ModelRepository:
    return ModelRepository("m", storage, ttl=TTL, clock=clock)


def versions_of(*keys: str) -> list[int]:
    return list(ModelRepository("m", MemoryStorage(dict.fromkeys(keys, b"x"))).versions())


def unavailable() -> None:
    raise StorageUnavailable("cannot list s3://models/m: AccessDenied")


def test_directories_named_by_numbers_are_versions_in_ascending_order() -> None:
    assert versions_of("10/model.xml", "2/model.xml", "2/model.bin", "1/deep/down/model.xml") == [1, 2, 10]


# TensorFlow Serving takes whatever parses as a signed 64-bit number and is not negative.
@pytest.mark.parametrize(
    ("directory", "version"),
    [("0", 0), ("007", 7), ("1700000000", 1700000000), ("9223372036854775807", 2**63 - 1)],
)
def test_a_version_is_any_number_of_64_bits(directory: str, version: int) -> None:
    assert versions_of(f"{directory}/model.xml") == [version]


@pytest.mark.parametrize(
    "directory",
    ["", "one", "v1", "1a", "-1", "+1", " 1", "1 ", "1.0", "1_0", "0x1", "1e3", "²", "٣", "１", str(2**63), "9" * 5000],
    ids=ascii,
)
def test_other_directories_are_no_versions(directory: str) -> None:
    assert versions_of(f"{directory}/model.xml", "3/model.xml") == [3]


def test_files_beside_the_versions_are_no_versions() -> None:
    assert versions_of("README.md", "7", "3/model.xml") == [3]


def test_a_version_has_all_blobs_of_its_directory_and_no_others() -> None:
    storage = MemoryStorage({"1/a": b"a", "1/b/c": b"bc", "10/d": b"d", "e": b"e"})
    version = ModelRepository("m", storage).find(1)
    assert version.id == ServableId("m", 1)
    assert str(version) == "m/1"
    assert version.prefix == "1/"
    assert {blob.key for blob in version.blobs} == {"1/a", "1/b/c"}
    assert version.size == 3
    assert version.storage is storage


def test_one_number_spelt_twice_is_one_of_the_two_and_never_a_mixture() -> None:
    storage = MemoryStorage({"007/model.xml": b"a", "007/model.bin": b"b", "7/model.xml": b"c"})
    version = ModelRepository("m", storage).find(7)
    assert version.prefix == "007/"
    assert {blob.key for blob in version.blobs} == {"007/model.xml", "007/model.bin"}


def test_no_versions_is_an_answer() -> None:
    assert versions_of() == []


def test_a_version_that_is_not_there_is_not_found_in_the_words_of_tensorflow_serving() -> None:
    models = ModelRepository("m", MemoryStorage({"1/a": b"a"}))
    with pytest.raises(ModelNotFound, match=r"^Servable not found for request: Specific\(m, 2\)$"):
        models.find(2)


BLOBS = (Blob("1/model.xml", 10, "e1"), Blob("1/model.bin", 20, "e2"))
VERSION = ModelVersion(ServableId("m", 1), "1/", BLOBS, MemoryStorage())


@pytest.mark.parametrize(
    "change",
    [
        replace(BLOBS[0], etag="e3"),
        replace(BLOBS[0], size=11),
        replace(BLOBS[0], key="1/other.xml"),
        # The same characters, cut elsewhere.
        Blob("1/model.xm", 10, "le1"),
    ],
    ids=["etag", "size", "key", "boundary"],
)
def test_another_upload_is_another_digest(change: Blob) -> None:
    other = replace(VERSION, blobs=(change, BLOBS[1]))
    assert other.digest != VERSION.digest
    assert other != VERSION


def test_a_blob_more_or_less_is_another_digest() -> None:
    digests = {replace(VERSION, blobs=blobs).digest for blobs in [(), BLOBS[:1], BLOBS[1:], BLOBS]}
    assert len(digests) == 4


def test_the_digest_does_not_depend_on_the_order_of_the_listing() -> None:
    same = replace(VERSION, blobs=BLOBS[::-1])
    assert same.digest == VERSION.digest
    assert same == VERSION
    assert hash(same) == hash(VERSION)
    assert len({same, VERSION}) == 1


def test_the_same_bytes_under_another_number_or_name_are_another_version() -> None:
    others = [replace(VERSION, id=ServableId("m", 2)), replace(VERSION, id=ServableId("n", 1))]
    assert VERSION not in others


def test_a_digest_is_a_plain_name_of_a_directory() -> None:
    hostile = replace(VERSION, blobs=(Blob("1/../../\0\udc80", 1, "/"),))
    assert len(hostile.digest) == 64
    assert set(hostile.digest) <= set("0123456789abcdef")


def test_a_listing_is_believed_for_its_time_and_then_made_anew(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    assert list(models.versions()) == [1]
    storage.blobs["2/a"] = b"a"
    clock.now += TTL - 0.1
    assert list(models.versions()) == [1]
    clock.now += 0.1
    assert list(models.versions()) == [1, 2]
    del storage.blobs["1/a"]
    clock.now += TTL
    assert list(models.versions()) == [2]


def test_unchanged_versions_stay_the_same_objects(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    before = models.versions()
    clock.now += TTL
    storage.blobs["2/a"] = b"changed"
    storage.blobs["3/a"] = b"new"
    after = models.versions()
    assert after[1] is before[1]
    assert after[2] != before[2]
    assert list(after) == [1, 2, 3]


def test_a_mapping_once_returned_does_not_change(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    before = models.versions()
    storage.blobs["2/a"] = b"a"
    clock.now += TTL
    models.versions()
    assert list(before) == [1]


def test_a_storage_that_cannot_be_listed_any_more_takes_no_version_away(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    before = models.versions()
    clock.now += TTL
    storage.before_list = unavailable
    assert models.versions() == before
    assert models.find(1) is before[1]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "keeping the versions known: cannot list s3://models/m: AccessDenied" in record.getMessage()


def test_a_listing_that_failed_is_not_tried_again_with_every_request(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    clock.now += TTL
    storage.before_list = unavailable
    models.versions()
    storage.before_list = lambda: None
    storage.blobs["2/a"] = b"a"
    clock.now += TTL - 0.1
    assert list(models.versions()) == [1]
    clock.now += 0.1
    assert list(models.versions()) == [1, 2]


def test_a_first_listing_that_fails_is_an_error_and_the_next_call_tries_again(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    storage.before_list = unavailable
    with pytest.raises(StorageUnavailable, match="AccessDenied"):
        models.versions()
    with pytest.raises(StorageUnavailable, match="AccessDenied"):
        models.find(1)
    storage.before_list = lambda: None
    assert list(models.versions()) == [1]


def test_a_bug_in_a_backend_is_not_taken_for_a_storage_that_is_away(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    clock.now += TTL

    def bug() -> None:
        raise ZeroDivisionError

    storage.before_list = bug
    with pytest.raises(ZeroDivisionError):
        models.versions()
    # And the lock is free again.
    storage.before_list = lambda: None
    assert list(models.versions()) == [1]


def test_while_one_lists_the_others_use_what_is_known(clock: Clock, pool: ThreadPoolExecutor) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    clock.now += TTL
    storage.blobs["2/a"] = b"a"
    gate = Gate()
    storage.before_list = gate.pass_through
    listing = pool.submit(models.versions)
    gate.wait_until_reached()
    others = [pool.submit(models.versions) for _ in range(3)]
    assert [list(other.result(PATIENCE)) for other in others] == [[1], [1], [1]]
    gate.open()
    assert list(listing.result(PATIENCE)) == [1, 2]
    assert list(models.versions()) == [1, 2]


def test_expiring_lists_at_the_next_call(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    storage.blobs["2/a"] = b"a"
    models.expire()
    assert list(models.versions()) == [1, 2]


def test_a_listing_that_was_under_way_when_it_expired_is_not_believed_for_long(
    clock: Clock, pool: ThreadPoolExecutor
) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    clock.now += TTL
    gate = Gate()
    storage.before_list = gate.pass_through
    listing = pool.submit(models.versions)
    gate.wait_until_reached()
    models.expire()
    assert list(pool.submit(models.versions).result(PATIENCE)) == [1]
    gate.open()
    assert list(listing.result(PATIENCE)) == [1]
    storage.blobs["2/a"] = b"a"
    assert list(models.versions()) == [1, 2]


class Listings:
    """A storage's hook: all listings wait at one gate, and are counted."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        self.gate.pass_through()


class FailingListings(Listings):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def __call__(self) -> None:
        super().__call__()
        raise self._error


def fail_first_listing(
    clock: Clock, pool: ThreadPoolExecutor, error: Exception
) -> tuple[int, set[type[BaseException | None]]]:
    """Let eight callers wait for a first listing that fails; return how many listings there were, and the errors."""
    storage = MemoryStorage()
    models = repository(storage, clock)
    # Not the first of all: an error of long ago is nobody's any more.
    storage.before_list = unavailable
    with pytest.raises(StorageUnavailable):
        models.versions()
    storage.before_list = listings = FailingListings(error)
    first = pool.submit(models.versions)
    listings.gate.wait_until_reached()
    on_their_way = threading.Barrier(8)

    def wait_too() -> Mapping[int, ModelVersion]:
        on_their_way.wait(PATIENCE)
        return models.versions()

    others = [pool.submit(wait_too) for _ in range(7)]
    on_their_way.wait(PATIENCE)
    # No event tells that a thread waits for a lock. Whoever comes too late to wait lists again, rightly.
    time.sleep(0.1)
    listings.gate.open()
    errors = {type(caller.exception(PATIENCE)) for caller in [first, *others]}
    return listings.count, errors


def test_those_who_waited_for_a_first_listing_share_its_failure(clock: Clock, pool: ThreadPoolExecutor) -> None:
    """With the network down a try takes half a minute, and the last of many callers must not wait for all of them."""
    listings, errors = fail_first_listing(clock, pool, StorageUnavailable("no network"))
    assert errors == {StorageUnavailable}
    assert listings < 8


def test_those_who_waited_for_a_bug_are_not_told_of_a_storage_that_is_away(
    clock: Clock, pool: ThreadPoolExecutor
) -> None:
    _, errors = fail_first_listing(clock, pool, ZeroDivisionError())
    assert errors == {ZeroDivisionError}


def test_the_first_listing_is_waited_for_and_made_once(clock: Clock, pool: ThreadPoolExecutor) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    storage.before_list = listings = Listings()
    callers = [pool.submit(models.versions) for _ in range(8)]
    listings.gate.wait_until_reached()
    listings.gate.open()
    assert [list(caller.result(PATIENCE)) for caller in callers] == [[1]] * 8
    assert listings.count == 1
