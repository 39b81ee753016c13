"""Which versions there are, when that is asked anew, and what is believed while it cannot be."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from model_cache.errors import LoadPending, ModelNotFound, StorageUnavailable
from model_cache.policy import Latest, Specific, VersionPolicy
from model_cache.repository import (
    MAX_RETIRED,
    REFRESH_TIMEOUT,
    SETTLE,
    ModelRepository,
    ModelVersion,
    ServableId,
)
from model_cache.storage import Blob
from tests.fakes import PATIENCE, Clock, Gate, MemoryStorage, no_more_threads

TTL = 10.0


class DatedStorage(MemoryStorage):
    """Blobs with dates. What a listing finds is found before the second hook runs, and told after it."""

    def __init__(self, blobs: Mapping[str, bytes] | None = None) -> None:
        super().__init__(blobs)
        self.modified: dict[str, float] = {}
        self.after_list: Callable[[], object] = lambda: None

    def list(self, prefix: str = "") -> Iterator[Blob]:
        found = [blob._replace(modified=self.modified.get(blob.key, 0.0)) for blob in super().list(prefix)]
        self.after_list()
        yield from found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def repository(storage: MemoryStorage, clock: Clock) -> ModelRepository:
    return ModelRepository("m", storage, ttl=TTL, clock=clock)


def refreshes() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "list m"]


def look_again(models: ModelRepository, clock: Clock, seconds: float = TTL) -> list[int]:
    """Let time pass, have the versions listed in the background, and return what is offered then."""
    clock.now += seconds
    models.versions()
    for thread in refreshes():
        thread.join(PATIENCE)
    return list(models.versions())


def versions_of(*keys: str) -> list[int]:
    return list(ModelRepository("m", MemoryStorage(dict.fromkeys(keys, b"x"))).versions())


def unavailable() -> None:
    raise StorageUnavailable("cannot list s3://models/m: AccessDenied")


def test_directories_named_by_numbers_are_versions_in_ascending_order() -> None:
    assert versions_of("10/model.xml", "2/model.xml", "2/model.bin", "1/deep/down/model.xml") == [1, 2, 10]


# TensorFlow Serving takes whatever parses as a signed 64-bit number and is not negative.
@pytest.mark.parametrize(
    ("directory", "version"),
    [("0", 0), ("007", 7), ("0" * 5000 + "7", 7), ("1700000000", 1700000000), ("9223372036854775807", 2**63 - 1)],
    ids=["zero", "zeros", "many zeros", "a date", "the largest"],
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
    assert version.storage is storage


def test_the_files_of_a_version_are_the_blobs_that_its_model_needs() -> None:
    storage = MemoryStorage(
        {"1/model.xml": b"xml", "1/model.bin": b"weights", "1/README.md": b"#", "1/data/x.pt": b"y"}
    )
    version = ModelRepository("m", storage).find(1)
    assert [blob.key for blob in version.files] == ["1/model.bin", "1/model.xml"]
    assert len(version.blobs) == 4
    assert version.size == 10


def test_without_a_model_a_version_has_no_files() -> None:
    version = ModelRepository("m", MemoryStorage({"1/notes.txt": b"soon"})).find(1)
    assert (version.files, version.size) == ((), 0)


def test_a_key_that_leads_out_of_the_directory_stays_among_the_files_so_that_it_is_refused() -> None:
    storage = MemoryStorage({"1/model.onnx": b"", "1/../../etc/cron.d/job": b""})
    assert len(ModelRepository("m", storage).find(1).files) == 2


def test_one_number_spelt_twice_is_one_of_the_two_and_never_a_mixture() -> None:
    storage = MemoryStorage({"007/model.xml": b"a", "007/model.bin": b"b", "7/model.xml": b"c"})
    version = ModelRepository("m", storage).find(7)
    assert version.prefix == "007/"
    assert {blob.key for blob in version.blobs} == {"007/model.xml", "007/model.bin"}


def test_no_versions_is_an_answer() -> None:
    assert versions_of() == []


def test_a_version_that_is_not_there_is_not_found_in_the_words_of_both_servers() -> None:
    models = ModelRepository("m", MemoryStorage({"1/a": b"a"}))
    with pytest.raises(ModelNotFound, match=r"^Servable not found for request: Specific\(m, 2\) "):
        models.find(2)
    with pytest.raises(ModelNotFound, match=r"\(Model with requested version is not found\)$"):
        models.find(2)


BLOBS = (Blob("1/model.xml", 10, "e1"), Blob("1/model.bin", 20, "e2"))
VERSION = ModelVersion(ServableId("m", 1), "1/", BLOBS, MemoryStorage())


@pytest.mark.parametrize(
    "change",
    [
        BLOBS[0]._replace(etag="e3"),
        BLOBS[0]._replace(size=11),
        BLOBS[0]._replace(key="1/other.xml"),
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


def test_what_the_model_does_not_need_makes_no_other_version() -> None:
    same = replace(VERSION, blobs=(*BLOBS, Blob("1/README.md", 1, "e")))
    assert same.digest == VERSION.digest
    assert same == VERSION


def test_the_date_of_a_blob_makes_no_other_version() -> None:
    assert replace(VERSION, blobs=(BLOBS[0]._replace(modified=7.0, checksum="md5:00"), BLOBS[1])) == VERSION


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
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    assert list(models.versions()) == [1, 2]
    del storage.blobs["1/a"]
    assert look_again(models, clock, TTL - 0.1) == [1, 2]
    assert look_again(models, clock, 0.1) == [2]


def test_no_request_waits_while_the_listing_is_made_anew(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    del storage.blobs["1/a"]
    storage.before_list = listings = Listings()
    clock.now += TTL
    for _ in range(3):
        assert list(models.versions()) == [1, 2]
    listings.gate.wait_until_reached()
    assert list(models.versions()) == [1, 2]
    [refresh] = refreshes()
    assert refresh.daemon
    listings.gate.open()
    refresh.join(PATIENCE)
    assert list(models.versions()) == [2]
    assert listings.count == 1


def test_a_clock_that_was_set_back_does_not_prolong_a_listing(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    del storage.blobs["1/a"]
    assert look_again(models, clock, -1) == [2]
    del storage.blobs["2/a"]
    assert look_again(models, clock, TTL) == []


def test_a_refresh_that_stands_still_is_not_waited_for_and_undoes_nothing_when_it_goes_on(clock: Clock) -> None:
    """A frozen process has its threads stand still, for hours."""
    storage = DatedStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    gate = Gate()
    storage.after_list = gate.pass_through
    clock.now += TTL
    models.versions()
    gate.wait_until_reached()
    storage.after_list = lambda: None
    del storage.blobs["1/a"]
    clock.now += REFRESH_TIMEOUT - 0.1
    models.versions()
    [stuck] = refreshes()
    clock.now += 0.1
    models.versions()
    for thread in refreshes():
        if thread is not stuck:
            thread.join(PATIENCE)
    assert list(models.versions()) == [2]
    gate.open()
    stuck.join(PATIENCE)
    # As old as it is, the first question would have it listed anew.
    assert list(models.unsettled()) == []
    assert list(models.versions()) == [2]


def test_a_refresh_that_stood_still_does_not_count_as_the_end_of_the_one_after_it(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    gates: list[Gate] = []
    for seconds in [TTL, REFRESH_TIMEOUT]:
        gates.append(Gate())
        storage.before_list = gates[-1].pass_through
        clock.now += seconds
        models.versions()
        gates[-1].wait_until_reached()
    [first, second] = refreshes()
    gates[0].open()
    first.join(PATIENCE)
    clock.now += TTL
    models.versions()
    assert refreshes() == [second]
    gates[1].open()
    second.join(PATIENCE)


def test_what_was_listed_a_moment_ago_is_not_listed_by_those_who_saw_it_old() -> None:
    storage = MemoryStorage({"1/a": b"a"})
    now = Clock()
    overtake: list[Callable[[], object]] = []

    def clock() -> float:
        seen = now()
        if overtake:
            overtake.pop()()
        return seen

    models = ModelRepository("m", storage, ttl=TTL, clock=clock)
    models.versions()
    storage.before_list = listings = Listings()
    listings.gate.open()
    now.now += TTL
    overtake.append(lambda: look_again(models, now, 0))
    models.versions()
    for thread in refreshes():
        thread.join(PATIENCE)
    assert listings.count == 1


def test_what_a_listing_found_is_as_old_as_its_beginning(clock: Clock) -> None:
    storage = DatedStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)

    def freeze() -> None:
        clock.now += 3600

    storage.after_list = freeze
    assert list(models.versions()) == [1, 2]
    storage.after_list = lambda: None
    del storage.blobs["1/a"]
    assert look_again(models, clock, 0) == [2]


def test_unchanged_versions_stay_the_same_objects(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    before = models.versions()
    storage.blobs["2/a"] = b"changed"
    look_again(models, clock)
    look_again(models, clock)
    after = models.versions()
    assert after[1] is before[1]
    assert after[2] != before[2]
    look_again(models, clock)
    assert models.versions()[2] is after[2]


def test_a_version_whose_directory_is_spelt_otherwise_now_is_not_looked_for_where_it_was(clock: Clock) -> None:
    storage = MemoryStorage({"007/a": b"a"})
    models = repository(storage, clock)
    assert models.find(7).prefix == "007/"
    storage.blobs = {"7/a": b"a"}
    look_again(models, clock)
    look_again(models, clock)
    assert models.find(7).prefix == "7/"


def test_a_mapping_once_returned_does_not_change(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    before = models.versions()
    del storage.blobs["2/a"]
    look_again(models, clock)
    assert list(before) == [1, 2]


def test_a_storage_that_cannot_be_listed_any_more_takes_no_version_away(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    before = models.versions()
    storage.before_list = unavailable
    assert look_again(models, clock) == [1]
    assert models.find(1) is before[1]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert "keeping the versions known: cannot list s3://models/m: AccessDenied" in record.getMessage()


def test_a_listing_that_failed_is_not_tried_again_with_every_request(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    storage.before_list = unavailable
    look_again(models, clock)
    storage.before_list = lambda: None
    del storage.blobs["1/a"]
    assert look_again(models, clock, TTL - 0.1) == [1, 2]
    assert look_again(models, clock, 0.1) == [2]


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


def bug() -> None:
    raise ZeroDivisionError


def test_a_bug_in_a_backend_is_not_taken_for_a_storage_that_is_away(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    storage.before_list = bug
    with pytest.raises(ZeroDivisionError):
        models.versions()
    # And the lock is free again.
    storage.before_list = lambda: None
    assert list(models.versions()) == [1]


def test_a_bug_that_nobody_waits_for_is_logged_and_takes_no_version_away(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    storage.before_list = bug
    assert look_again(models, clock) == [1, 2]
    assert look_again(models, clock, 0) == [1, 2]
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError
    # And the next look is made as ever.
    storage.before_list = lambda: None
    del storage.blobs["1/a"]
    assert look_again(models, clock) == [2]


def test_expiring_lists_at_the_next_call_which_waits_for_it(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    del storage.blobs["1/a"]
    models.expire()
    assert list(models.versions()) == [2]
    assert refreshes() == []


def test_an_expired_listing_is_used_by_all_but_the_one_who_lists(clock: Clock, pool: ThreadPoolExecutor) -> None:
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    del storage.blobs["1/a"]
    models.expire()
    storage.before_list = listings = Listings()
    listing = pool.submit(models.versions)
    listings.gate.wait_until_reached()
    others = [pool.submit(models.versions) for _ in range(3)]
    assert [list(other.result(PATIENCE)) for other in others] == [[1, 2]] * 3
    listings.gate.open()
    assert list(listing.result(PATIENCE)) == [2]
    assert listings.count == 1


def test_an_expired_listing_is_kept_if_there_is_no_other_and_is_not_waited_for_again(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    storage.before_list = failing = FailingListings(StorageUnavailable("no network"))
    failing.gate.open()
    models.expire()
    for _ in range(3):
        assert list(models.versions()) == [1]
    assert failing.count == len(caplog.records) == 1


def test_a_listing_that_was_under_way_when_it_expired_is_not_believed(clock: Clock, pool: ThreadPoolExecutor) -> None:
    storage = DatedStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    gate = Gate()
    storage.after_list = gate.pass_through
    listing = pool.submit(models.versions)
    gate.wait_until_reached()
    del storage.blobs["1/a"]
    models.expire()
    gate.open()
    assert list(listing.result(PATIENCE)) == [1, 2]
    assert list(models.versions()) == [2]


def test_an_outdated_listing_is_made_anew_behind_the_next_call_whatever_the_clock_says() -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = ModelRepository("m", storage, ttl=math.inf)
    models.outdate()
    assert list(models.versions()) == [1]
    storage.before_list = listings = Listings()
    for _ in range(2):
        models.versions()
    assert listings.count == 0
    models.outdate()
    assert list(models.versions()) == [1]
    listings.gate.open()
    for thread in refreshes():
        thread.join(PATIENCE)
    assert listings.count == 1


def test_what_came_while_nobody_could_look_is_judged_by_its_age(clock: Clock) -> None:
    storage = DatedStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    del storage.blobs["1/a"]
    storage.blobs |= {"2/a": b"b", "3/a": b"a", "4/a": b"a"}
    storage.modified = {"2/a": clock.now - SETTLE, "3/a": clock.now - 3600, "4/a": clock.now - 1}
    before = models.find(2)
    models.outdate()
    assert look_again(models, clock, 0) == [2, 3]
    assert models.find(2) != before
    assert models.unsettled() == (4,)
    # Once: who looks all the time waits until it has seen that nothing changes.
    storage.blobs["5/a"] = b"a"
    assert look_again(models, clock) == [2, 3, 4]


@pytest.mark.parametrize("then", ["with_terms", "expire"])
def test_an_outdated_listing_that_changes_otherwise_is_outdated_still(clock: Clock, then: str) -> None:
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    gone = models.find(1)
    models.outdate()
    if then == "with_terms":
        models = models.with_terms(Latest(1))
    else:
        models.expire(gone)
    storage.blobs["3/a"] = b"a"
    assert 3 in look_again(models, clock, 0)


def test_a_listing_that_hangs_is_not_begun_again_by_who_wants_it_made_now(clock: Clock) -> None:
    storage, gate = MemoryStorage({"7/model.xml": b"x"}), Gate()
    storage.before_list = gate.pass_through
    models = repository(storage, clock)
    for _ in range(3):
        with pytest.raises(LoadPending, match="the versions of m are still being listed"):
            models.relist(time.monotonic() + 0.01)
    assert len(refreshes()) == 1
    gate.open()
    models.relist(time.monotonic() + PATIENCE)
    assert list(models.versions()) == [7]


def test_what_another_repository_knows_is_offered_until_the_first_listing_has_succeeded(clock: Clock) -> None:
    before, storage = repository(MemoryStorage({"5/model.xml": b"x", "7/model.xml": b"x"}), clock), DatedStorage()
    storage.blobs["7/model.xml"] = b"x"
    assert list(before.versions()) == [5, 7]
    models = repository(storage, clock)
    storage.before_list = unavailable
    models.succeed(before)
    assert look_again(models, clock, 0) == [5, 7]
    assert isinstance(models.failure, StorageUnavailable)
    storage.before_list = lambda: None
    assert look_again(models, clock) == [7]
    assert models.failure is None
    assert models.versions()[7].storage is storage
    assert models.retired == (5,)
    # Who has listed something goes by that.
    models.succeed(before)
    assert list(models.versions()) == [7]


def test_an_outdated_listing_that_cannot_be_made_anew_is_believed_for_another_while(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    models.outdate()
    storage.before_list = unavailable
    look_again(models, clock, 0)
    storage.before_list = lambda: None
    del storage.blobs["1/a"]
    assert look_again(models, clock, TTL - 0.1) == [1, 2]
    assert look_again(models, clock, 0.1) == [2]


def test_a_look_from_before_undoes_nothing_of_the_one_after_it(clock: Clock) -> None:
    storage = DatedStorage({"1/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    gate = Gate()
    storage.after_list = gate.pass_through
    clock.now += TTL
    models.versions()
    gate.wait_until_reached()
    (old,) = refreshes()
    storage.after_list = lambda: None
    storage.blobs["2/a"] = b"a"
    models.outdate()
    models.versions()
    for thread in {*refreshes()} - {old}:
        thread.join(PATIENCE)
    assert list(models.versions()) == [1, 2]
    gate.open()
    old.join(PATIENCE)
    assert list(models.versions()) == [1, 2]


def test_a_refresh_that_was_under_way_when_the_listing_expired_undoes_nothing(clock: Clock) -> None:
    storage = DatedStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    gate = Gate()
    storage.after_list = gate.pass_through
    clock.now += TTL
    models.versions()
    gate.wait_until_reached()
    storage.after_list = lambda: None
    del storage.blobs["1/a"]
    models.expire()
    assert list(models.versions()) == [2]
    gate.open()
    for thread in refreshes():
        thread.join(PATIENCE)
    storage.before_list = unavailable
    assert list(models.unsettled()) == []
    assert list(models.versions()) == [2]


def test_a_refresh_that_fails_after_the_listing_expired_undoes_nothing(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    storage.before_list = failing = FailingListings(StorageUnavailable("cut"))
    clock.now += TTL
    models.versions()
    failing.gate.wait_until_reached()
    storage.before_list = listings = Listings()
    listings.gate.open()
    models.expire()
    models.versions()
    failing.gate.open()
    for thread in refreshes():
        thread.join(PATIENCE)
    models.versions()
    assert listings.count == 1


def test_a_first_listing_is_waited_for_no_longer_than_patience_and_then_serves_the_next(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    storage.before_list = listings = Listings()
    asks: list[Callable[[float], object]] = [
        models.versions,
        models.candidates,
        models.unsettled,
        lambda patience: models.find(1, patience),
    ]
    for ask in asks:
        with pytest.raises(LoadPending, match=r"^the versions of m are still being listed; try again later$"):
            ask(0.01)
    assert models.known is None
    [refresh] = refreshes()
    assert refresh.daemon
    listings.gate.open()
    assert list(models.versions(PATIENCE)) == [1]
    assert listings.count == 1


def test_who_has_patience_waits_for_the_first_listing_that_another_has_given_up(
    clock: Clock, pool: ThreadPoolExecutor
) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    storage.before_list = listings = Listings()
    patient = pool.submit(models.versions)
    listings.gate.wait_until_reached()
    with pytest.raises(LoadPending):
        models.versions(0)
    listings.gate.open()
    assert list(patient.result(PATIENCE)) == [1]
    assert listings.count == 1


@pytest.mark.parametrize("error", [StorageUnavailable("no network"), ZeroDivisionError()], ids=repr)
def test_a_first_listing_that_fails_when_nobody_waits_any_more_is_logged(
    error: Exception, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    storage.before_list = failing = FailingListings(error)
    with pytest.raises(LoadPending):
        models.versions(0)
    [refresh] = refreshes()
    failing.gate.open()
    refresh.join(PATIENCE)
    [record] = caplog.records
    assert record.getMessage().startswith("m: its versions are not known")
    assert (record.levelno == logging.ERROR) == (record.exc_info is not None) == isinstance(error, ZeroDivisionError)
    # And those who wait for one hear of it themselves.
    with pytest.raises(type(error)):
        models.versions(PATIENCE)
    storage.before_list = lambda: None
    assert list(models.versions(PATIENCE)) == [1]
    assert len(caplog.records) == 1


def test_a_first_listing_that_stands_still_is_not_what_later_calls_wait_for(clock: Clock) -> None:
    storage = DatedStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    gate = Gate()
    storage.after_list = gate.pass_through
    with pytest.raises(LoadPending):
        models.versions(0)
    gate.wait_until_reached()
    [stuck] = refreshes()
    storage.after_list = lambda: None
    del storage.blobs["1/a"]
    clock.now += REFRESH_TIMEOUT
    assert list(models.versions(PATIENCE)) == [2]
    gate.open()
    stuck.join(PATIENCE)
    assert list(models.versions()) == [2]


def test_who_has_an_expired_listing_anew_waits_no_longer_than_patience(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a", "2/a": b"a"})
    models = repository(storage, clock)
    models.versions()
    del storage.blobs["1/a"]
    models.expire()
    storage.before_list = listings = Listings()
    assert list(models.versions(0.01)) == [1, 2]
    [refresh] = refreshes()
    listings.gate.open()
    refresh.join(PATIENCE)
    assert list(models.versions()) == [2]
    assert listings.count == 1


def test_what_is_known_is_had_without_a_look(clock: Clock) -> None:
    storage = MemoryStorage({"1/a": b"a"})
    models = repository(storage, clock)
    assert models.known is None
    known = models.versions()
    clock.now += TTL
    models.expire()
    assert models.known is known
    assert refreshes() == []


def test_where_no_thread_can_be_started_what_is_known_is_kept_and_a_first_listing_fails(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    models, others = (repository(MemoryStorage({"1/a": b"a"}), clock) for _ in range(2))
    models.versions()
    models.expire()
    with no_more_threads():
        assert list(models.versions(PATIENCE)) == [1]
        with pytest.raises(StorageUnavailable, match="is not listed: can't start new thread"):
            others.versions(PATIENCE)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert list(others.versions(PATIENCE)) == [1]


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


def only_pending(models: ModelRepository) -> list[int]:
    """Return the versions to come; each is told so to who asks for it."""
    for number in models.unsettled():
        with pytest.raises(
            LoadPending, match=rf"^m/{number} has only just appeared .* may still be uploaded; try again"
        ):
            models.find(number)
    return list(models.unsettled())


def test_a_version_that_appears_is_offered_when_a_later_look_finds_it_unchanged(clock: Clock) -> None:
    storage = MemoryStorage({"1/model.xml": b""})
    models = repository(storage, clock)
    assert list(models.versions()) == [1]
    storage.blobs["2/model.xml"] = b""
    assert look_again(models, clock) == [1]
    assert only_pending(models) == [2]
    assert [str(version) for version in models.candidates()] == ["m/1"]
    # Its weights come only now.
    storage.blobs["2/model.bin"] = b"weights"
    assert look_again(models, clock) == [1]
    assert only_pending(models) == [2]
    assert look_again(models, clock) == [1, 2]
    assert models.find(2).size == 7
    assert only_pending(models) == []


def test_a_first_version_has_to_settle_too(clock: Clock) -> None:
    storage = MemoryStorage()
    models = repository(storage, clock)
    assert list(models.versions()) == []
    storage.blobs["1/model.xml"] = b""
    assert look_again(models, clock) == []
    assert list(models.candidates()) == []
    assert only_pending(models) == [1]
    assert look_again(models, clock) == [1]


def test_a_version_that_changes_stays_what_it_was_until_the_new_one_has_settled(clock: Clock) -> None:
    storage = MemoryStorage({"1/model.xml": b"old"})
    models = repository(storage, clock)
    old = models.find(1)
    storage.blobs["1/model.xml"] = b"newer"
    look_again(models, clock)
    assert models.find(1) is old
    storage.blobs["1/model.xml"] = b"newest!"
    look_again(models, clock)
    assert models.find(1) is old
    assert only_pending(models) == []
    look_again(models, clock)
    assert models.find(1).size == len(b"newest!")


def test_a_change_that_is_taken_back_is_none(clock: Clock) -> None:
    storage = MemoryStorage({"1/model.xml": b"old"})
    models = repository(storage, clock)
    old = models.find(1)
    storage.blobs["1/model.xml"] = b"new"
    look_again(models, clock)
    storage.blobs["1/model.xml"] = b"old"
    look_again(models, clock)
    storage.blobs["1/model.xml"] = b"new"
    look_again(models, clock)
    # Seen twice, and not twice in a row.
    assert models.find(1) is old


def test_a_version_that_goes_and_comes_again_has_to_settle_again(clock: Clock) -> None:
    storage = MemoryStorage({"1/model.xml": b"", "2/model.xml": b""})
    models = repository(storage, clock)
    models.versions()
    weights = storage.blobs.pop("2/model.xml")
    assert look_again(models, clock) == [1]
    storage.blobs["2/model.xml"] = weights
    assert look_again(models, clock) == [1]
    assert look_again(models, clock) == [1, 2]


def test_looks_within_a_moment_do_not_make_a_version_settled(clock: Clock) -> None:
    storage = MemoryStorage({"1/model.xml": b""})
    models = repository(storage, clock)
    models.versions()
    storage.blobs["2/model.xml"] = b""
    for _ in range(4):
        models.expire()
        assert list(models.versions()) == [1]
        clock.now += SETTLE / 4
    models.expire()
    assert list(models.versions()) == [1, 2]


def test_a_look_that_takes_long_is_not_two(clock: Clock) -> None:
    storage = DatedStorage({"1/model.xml": b""})
    models = repository(storage, clock)
    models.versions()
    storage.blobs["2/model.xml"] = b""

    def take_long() -> None:
        clock.now += TTL - 1

    storage.after_list = take_long
    assert look_again(models, clock) == [1]
    storage.after_list = lambda: None
    # Ten seconds from beginning to beginning, and one between them.
    assert look_again(models, clock, 1) == [1]
    assert look_again(models, clock) == [1, 2]


def test_a_look_that_fails_is_none(clock: Clock) -> None:
    storage = MemoryStorage({"1/model.xml": b""})
    models = repository(storage, clock)
    models.versions()
    storage.blobs["2/model.xml"] = b""
    assert look_again(models, clock) == [1]
    storage.before_list = unavailable
    assert look_again(models, clock) == [1]
    assert only_pending(models) == [2]
    storage.before_list = lambda: None
    assert look_again(models, clock) == [1, 2]


def test_a_clock_that_was_set_back_does_not_keep_a_version_from_settling(clock: Clock) -> None:
    storage = MemoryStorage({"1/model.xml": b""})
    models = repository(storage, clock)
    models.versions()
    storage.blobs["2/model.xml"] = b""
    look_again(models, clock)
    assert look_again(models, clock, -3600) == [1]
    assert look_again(models, clock) == [1, 2]


def test_with_listings_that_are_never_believed_two_looks_are_enough(clock: Clock) -> None:
    storage = MemoryStorage({"1/model.xml": b""})
    models = ModelRepository("m", storage, ttl=0, clock=clock)
    models.versions()
    storage.blobs["2/model.xml"] = b""
    look_again(models, clock, 0)
    assert look_again(models, clock, 0) == [1, 2]


@pytest.mark.parametrize("age", [0, SETTLE - 0.1, -SETTLE + 0.1], ids=["now", "just now", "a clock ahead of ours"])
def test_at_first_a_version_written_just_now_steps_behind_those_that_are_settled(clock: Clock, age: float) -> None:
    storage = DatedStorage({"1/model.xml": b"", "2/model.xml": b"", "2/model.bin": b""})
    storage.modified = {"1/model.xml": clock.now - 3600, "2/model.bin": clock.now - 60, "2/model.xml": clock.now - age}
    models = repository(storage, clock)
    assert list(models.versions()) == [1]
    assert only_pending(models) == [2]
    assert look_again(models, clock) == [1, 2]


@pytest.mark.parametrize("age", [SETTLE, 3600, -SETTLE], ids=["settled", "old", "a date far ahead"])
def test_at_first_versions_that_have_settled_are_all_offered(clock: Clock, age: float) -> None:
    storage = DatedStorage({"1/model.xml": b"", "2/model.xml": b""})
    storage.modified = {"2/model.xml": clock.now - age}
    assert list(repository(storage, clock).versions()) == [1, 2]


def test_at_first_what_was_written_just_now_is_better_than_nothing(clock: Clock) -> None:
    storage = DatedStorage({"1/model.xml": b"", "2/model.xml": b""})
    storage.modified = dict.fromkeys(storage.blobs, clock.now)
    models = repository(storage, clock)
    assert list(models.versions()) == [1, 2]
    assert only_pending(models) == []


def test_at_first_a_settled_version_that_the_policy_leaves_out_takes_nobodys_place(clock: Clock) -> None:
    storage = DatedStorage({"1/model.xml": b"", "2/model.xml": b""})
    storage.modified = {"2/model.xml": clock.now}
    models = ModelRepository("m", storage, policy=Specific(frozenset({2})), clock=clock)
    assert list(models.versions()) == [2]


def numbers(versions: Iterable[ModelVersion]) -> list[int]:
    return [version.id.version for version in versions]


@pytest.mark.parametrize(
    ("policy", "offered", "candidates"),
    [
        (None, [1, 2, 3], [3, 2, 1]),
        (Latest(1), [3], [3, 2, 1]),
        (Latest(2), [2, 3], [3, 2, 1]),
        (Specific(frozenset({1, 2, 9})), [1, 2], [2, 1]),
    ],
    ids=str,
)
def test_the_policy_says_what_may_be_asked_for_and_what_answers(
    policy: VersionPolicy | None, offered: list[int], candidates: list[int]
) -> None:
    models = ModelRepository("m", MemoryStorage(dict.fromkeys(["1/a", "2/a", "3/a"], b"")), policy=policy)
    assert list(models.versions()) == offered
    assert numbers(models.candidates()) == candidates
    for number in range(1, 4):
        if number in offered:
            assert models.find(number).id.version == number
        else:
            with pytest.raises(ModelNotFound, match=rf"^Servable not found for request: Specific\(m, {number}\) "):
                models.find(number)


def test_the_latest_version_is_the_latest_that_has_settled(clock: Clock) -> None:
    storage = MemoryStorage({"2/model.xml": b""})
    models = ModelRepository("m", storage, policy=Latest(1), ttl=TTL, clock=clock)
    assert list(models.versions()) == [2]
    # The older one will never be among the latest, so nobody waits for it.
    storage.blobs |= {"1/model.xml": b"", "3/model.xml": b""}
    assert look_again(models, clock) == [2]
    assert only_pending(models) == [3]
    with pytest.raises(ModelNotFound):
        models.find(1)
    assert look_again(models, clock) == [3]
    assert numbers(models.candidates()) == [3, 2, 1]


def marked(storage: MemoryStorage, clock: Clock) -> ModelRepository:
    return ModelRepository("m", storage, ready_marker="_SUCCESS", ttl=TTL, clock=clock)


def test_with_a_ready_marker_only_versions_that_have_it_count(clock: Clock) -> None:
    blobs = [
        "1/model.xml",
        "1/_SUCCESS",
        "2/model.xml",
        "3/model.xml",
        "3/sub/_SUCCESS",
        "4/model.xml",
        "4/_SUCCESS.tmp",
    ]
    models = marked(MemoryStorage(dict.fromkeys(blobs, b"")), clock)
    assert list(models.versions()) == [1]
    assert only_pending(models) == []
    with pytest.raises(ModelNotFound):
        models.find(2)


def test_with_a_ready_marker_nothing_has_to_settle(clock: Clock) -> None:
    storage = DatedStorage({"1/model.xml": b"", "1/_SUCCESS": b"", "2/model.xml": b"", "2/_SUCCESS": b""})
    storage.modified = dict.fromkeys(["2/model.xml", "2/_SUCCESS"], clock.now)
    models = marked(storage, clock)
    assert list(models.versions()) == [1, 2]
    before = models.versions()
    storage.blobs |= {"3/model.xml": b"", "3/_SUCCESS": b"", "2/model.xml": b"changed"}
    assert look_again(models, clock) == [1, 2, 3]
    assert models.find(1) is before[1]
    assert models.find(2) != before[2]


def test_the_ready_marker_is_no_file_of_the_model(clock: Clock) -> None:
    storage = MemoryStorage({"1/model.onnx": b"", "1/DONE": b"2026-11-21"})
    version = ModelRepository("m", storage, ready_marker="DONE", clock=clock).find(1)
    assert [blob.key for blob in version.blobs] == ["1/model.onnx"]
    storage.blobs["1/DONE"] = b"2026-11-22"
    assert ModelRepository("m", storage, ready_marker="DONE", clock=clock).find(1) == version


def test_of_two_spellings_of_a_number_the_one_that_is_ready_counts(clock: Clock) -> None:
    storage = MemoryStorage({"007/model.xml": b"", "7/model.xml": b"", "7/_SUCCESS": b""})
    assert marked(storage, clock).find(7).prefix == "7/"


NUMBERS = st.integers(1, 3)
SECONDS = st.sampled_from([-TTL, 0, 1, SETTLE - 1, SETTLE, TTL, REFRESH_TIMEOUT])
Look = tuple[float, dict[int, int]]
"""When it was made, and which upload of each version it found."""


class RepositoryMachine(RuleBasedStateMachine):
    """Uploads, removals, looks and failures in any order; what is offered is judged by the looks that were made."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.storage = MemoryStorage()
        self.storage.before_list = self._note_look
        self.models = repository(self.storage, self.clock)
        self.is_away = False
        # Versions by number; every upload has a size of its own, larger than all before.
        self.stored: dict[int, int] = {}
        self.uploads = 0
        self.looks: list[Look] = []
        self.offered: dict[int, int] = {}

    @rule(number=NUMBERS)
    def upload(self, number: int) -> None:
        self.uploads += 1
        self.stored[number] = self.uploads
        self.storage.blobs[f"{number}/model.onnx"] = b"x" * self.uploads

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        self.stored.pop(number, None)
        self.storage.blobs.pop(f"{number}/model.onnx", None)

    @rule(is_away=st.booleans())
    def fail(self, is_away: bool) -> None:
        self.is_away = is_away

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def expire(self) -> None:
        self.models.expire()

    @rule(seconds=SECONDS)
    def ask(self, seconds: float) -> None:
        try:
            look_again(self.models, self.clock, seconds)
        except StorageUnavailable:
            assert self.is_away
            assert not self.looks
            return
        looks = len(self.looks)
        offered = {number: version.size for number, version in self.models.versions().items()}
        self._judge(offered, set(self.models.unsettled()))
        assert len(self.looks) == looks, "what has just been listed is listed again"
        self.offered = offered

    def _judge(self, offered: dict[int, int], unsettled: set[int]) -> None:
        _, last = self.looks[-1]
        # All that the last look has found and nothing else.
        assert offered.keys() | unsettled == last.keys()
        assert offered.keys().isdisjoint(unsettled)
        for number, upload in offered.items():
            before = self.offered.get(number, 0)
            assert upload == before or (upload == last[number] and self._is_settled(number, upload))
            assert upload >= before, "a version went back to what was there before"

    def _is_settled(self, number: int, upload: int) -> bool:
        """Tell whether the first look, or two in a row that are far enough apart, found this upload."""
        if self.looks[0][1].get(number) == upload:
            return True
        times = [at for at, found in self.looks if found.get(number) == upload]
        return any(later - earlier >= SETTLE for i, earlier in enumerate(times) for later in times[i:])

    def _note_look(self) -> None:
        if self.is_away:
            unavailable()
        self.looks.append((self.clock.now, dict(self.stored)))


RepositoryMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, database=None)
TestRepository = RepositoryMachine.TestCase


def test_what_was_offered_and_is_no_more_is_retired_until_it_is_offered_again(clock: Clock) -> None:
    storage = MemoryStorage({"1/m": b"", "2/m": b"", "3/m": b""})
    models = ModelRepository("m", storage, policy=Latest(2), ttl=TTL, clock=clock)
    assert not models.retired
    models.versions()
    # Version 1 never was.
    assert not models.retired
    storage.blobs["4/m"] = b""
    look_again(models, clock)
    look_again(models, clock)
    assert (list(models.versions()), [*models.retired]) == ([3, 4], [2])
    # By other terms, too.
    terms = models.with_terms(Latest(1))
    assert (list(terms.versions()), [*terms.retired]) == ([4], [2, 3])
    assert not models.with_terms(Latest(3)).retired
    models.expire(models.find(4))
    assert [*models.retired] == [4]
    look_again(models, clock)
    look_again(models, clock)
    assert (list(models.versions()), [*models.retired]) == ([3, 4], [2])


def test_so_many_retired_versions_are_remembered(clock: Clock) -> None:
    storage = MemoryStorage({f"{number}/m": b"" for number in range(MAX_RETIRED + 7)})
    models = repository(storage, clock)
    models.versions()
    storage.blobs.clear()
    look_again(models, clock)
    assert models.retired == tuple(range(7, MAX_RETIRED + 7))


@pytest.mark.parametrize(
    ("policy", "failed", "stand_ins"),
    [
        (None, {3}, []),
        (Latest(1), set(), []),
        (Latest(1), {3}, [2]),
        (Latest(1), {2, 3}, [1]),
        (Latest(2), {2, 3}, [1]),
        (Latest(2), {1}, []),
        (Specific(frozenset({1, 3})), {3}, []),
    ],
)
def test_the_policy_says_what_stands_in_for_what_has_failed(
    policy: VersionPolicy | None, failed: set[int], stand_ins: list[int]
) -> None:
    models = ModelRepository("m", MemoryStorage({"1/m": b"", "2/m": b"", "3/m": b""}), policy=policy)
    assert models.stand_ins(lambda version: True) == {}
    models.versions()
    found = models.stand_ins(lambda version: version.id.version in failed)
    assert list(found) == stand_ins
    assert all(str(version) == f"m/{number}" for number, version in found.items())


def soon() -> float:
    return time.monotonic() + PATIENCE


def test_relisting_finds_what_is_there_at_once_by_its_age(clock: Clock) -> None:
    storage = DatedStorage({"1/m": b""})
    models = ModelRepository("m", storage, ttl=math.inf, clock=clock)
    models.versions()
    storage.blobs["2/m"] = b""
    del storage.blobs["1/m"]
    models.relist(soon())
    assert (list(models.versions()), models.retired) == ([2], (1,))


def test_relisting_waits_until_what_has_just_appeared_has_settled_if_it_does() -> None:
    storage = DatedStorage({"1/m": b""})
    models = ModelRepository("m", storage, ttl=0.02)
    models.versions()
    storage.blobs["2/m"] = b""
    storage.modified["2/m"] = time.time()
    models.relist(soon())
    assert list(models.versions()) == [1, 2]
    storage.blobs["3/m"] = b""
    storage.modified["3/m"] = time.time()

    def grow() -> None:
        storage.blobs["3/m"] += b"more"

    storage.before_list = grow
    models.relist(soon())
    assert (list(models.versions()), models.unsettled()) == ([1, 2], (3,))


def test_relisting_does_not_wait_beyond_its_deadline_for_what_has_to_settle(clock: Clock) -> None:
    storage = DatedStorage({"1/m": b""})
    models = repository(storage, clock)
    models.versions()
    storage.blobs["2/m"] = b""
    storage.modified["2/m"] = clock.now
    models.relist(time.monotonic() + SETTLE / 2)
    assert (list(models.versions()), models.unsettled()) == ([1], (2,))


def test_relisting_a_storage_that_is_away_keeps_what_is_known_and_fails_if_nothing_is(clock: Clock) -> None:
    storage = MemoryStorage({"1/m": b""})
    models = repository(storage, clock)
    assert models.relist(soon()) is None
    storage.before_list = unavailable
    for _ in range(2):
        assert isinstance(models.relist(soon()), StorageUnavailable)
        assert (list(models.versions()), models.failure) == ([1], None)
    with pytest.raises(StorageUnavailable):
        repository(storage, clock).relist(soon())
    storage.before_list = lambda: None
    assert models.relist(soon()) is None


def test_relisting_says_so_if_it_is_not_over_in_time(clock: Clock) -> None:
    storage, gate = MemoryStorage({"1/m": b""}), Gate()
    models = repository(storage, clock)
    models.versions()
    storage.before_list = gate.pass_through
    assert isinstance(models.relist(time.monotonic() + 0.01), LoadPending)
    gate.open()
    assert models.relist(soon()) is None
