"""What every storage promises, asked of each: the fake in memory, a directory, and three clouds with two clients.

What a server cannot be asked: fake-gcs-server lets everybody read, so of refused reads the faults' tests tell for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import google_crc32c
import psutil
import pytest

from model_cache.errors import BlobChanged, StorageInterrupted, StorageUnavailable
from model_cache.storage import PIECE, Blob, Reconnects, Storage
from tests.fakes import until
from tests.model_cache.trees import CLOUDS, TREES, CloudTree, Tree, make_cloud_tree, make_tree
from tests.servers.fault_proxy import FaultProxy

MIB = 1 << 20


@pytest.fixture(params=TREES)
def tree(request: pytest.FixtureRequest) -> Tree:
    return make_tree(request, *request.param)


@pytest.fixture(params=CLOUDS)
def cloud_tree(request: pytest.FixtureRequest) -> CloudTree:
    return make_cloud_tree(request, *request.param)


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return sorted(blob.key for blob in storage.list(prefix))


def blob_of(storage: Storage, key: str) -> Blob:
    [blob] = (blob for blob in storage.list(key) if blob.key == key)
    return blob


def read(storage: Storage, blob: Blob, start: int = 0, stop: int | None = None) -> bytes:
    """Read as downloads do, which try again: fake-gcs-server closes connections that a client is about to use."""
    for _ in range(2):
        with contextlib.suppress(StorageInterrupted):
            return b"".join(storage.fetch(blob, start, blob.size if stop is None else stop))
    return b"".join(storage.fetch(blob, start, blob.size if stop is None else stop))


BLOBS = {
    "README.md": b"read me",
    "1/model.xml": b"<net/>",
    "1/model.bin": b"weights",
    "1/assets/deep/labels.txt": b"cat",
    "10/model.xml": b"",
}


def test_the_client_that_was_asked_for_is_used(cloud_tree: CloudTree, request: pytest.FixtureRequest) -> None:
    is_obstore = type(cloud_tree.storage).__module__ == "model_cache.fast"
    assert is_obstore == ("obstore" in request.node.callspec.id)


def test_a_storage_that_reconnects_has_no_connection_left_and_others_for_who_asks_next(cloud_tree: CloudTree) -> None:
    def connections() -> set[int]:
        port = urlsplit(proxy.url).port
        ours = psutil.Process().net_connections("tcp")
        return {mine.laddr.port for mine in ours if mine.status == "ESTABLISHED" and mine.raddr.port == port}

    cloud_tree.put(BLOBS)
    with FaultProxy(cloud_tree.cloud.endpoint) as proxy:
        storage = cloud_tree.open(endpoint=proxy.url)
        assert isinstance(storage, Reconnects)
        assert keys(storage) == sorted(BLOBS)
        before = connections()
        assert before
        storage.reconnect(cloud_tree.options(proxy.url))
        until(lambda: not connections() & before)
        assert keys(storage) == sorted(BLOBS)
        assert read(storage, blob_of(storage, "1/model.bin")) == BLOBS["1/model.bin"]
        storage.reconnect(cloud_tree.options(proxy.url))


def test_all_blobs_are_listed_by_keys_relative_to_the_root_and_with_their_sizes(tree: Tree) -> None:
    tree.put(BLOBS)
    assert {blob.key: blob.size for blob in tree.storage.list()} == {key: len(data) for key, data in BLOBS.items()}


BELOW = {
    "1/": ["1/assets/deep/labels.txt", "1/model.bin", "1/model.xml"],
    "1": ["1/assets/deep/labels.txt", "1/model.bin", "1/model.xml", "10/model.xml"],
    "1/model.": ["1/model.bin", "1/model.xml"],
    "1/assets/d": ["1/assets/deep/labels.txt"],
    "README.md": ["README.md"],
    "README.md/": [],
    "2/": [],
    "odel": [],
}


def test_a_prefix_is_of_the_key_and_no_directory(tree: Tree) -> None:
    tree.put(BLOBS)
    assert {prefix: keys(tree.storage, prefix) for prefix in BELOW} == BELOW


def test_nothing_stored_is_nothing_listed(tree: Tree) -> None:
    assert keys(tree.storage) == []


def test_a_sibling_whose_name_begins_the_same_is_not_listed(cloud_tree: CloudTree) -> None:
    cloud_tree.put({"1/model.xml": b"<net/>"})
    cloud_tree.cloud.put(f"{cloud_tree.prefix}-2/1/other.xml", b"<net/>")
    assert keys(cloud_tree.storage) == ["1/model.xml"]


def test_an_empty_object_that_stands_for_a_folder_is_none(cloud_tree: CloudTree) -> None:
    cloud_tree.put({"1/model.xml": b"<net/>", "1/assets/": b"", "1/assets/labels.txt": b"cat"})
    assert keys(cloud_tree.storage) == ["1/assets/labels.txt", "1/model.xml"]


def test_its_name_is_its_url(tree: Tree) -> None:
    assert str(tree.storage) == tree.name


ODD_NAMES = ["a b", "ä€😀", "a+b&c=d;e?f#g", "100%25", "%2F", "'\"<>", "..bin", "~$,:@!()"]
ODD_KEYS = [f"1/{name}" for name in ODD_NAMES]


def test_odd_names_are_names_too(tree: Tree) -> None:
    tree.put({key: key.encode() for key in ODD_KEYS})
    assert keys(tree.storage) == sorted(ODD_KEYS)
    assert {blob.key: read(tree.storage, blob).decode() for blob in tree.storage.list()} == dict(
        zip(ODD_KEYS, ODD_KEYS, strict=True)
    )


def test_a_listing_longer_than_a_page_is_whole(tree: Tree) -> None:
    many = {f"1/{number:04}": b"x" for number in range(1050)}
    tree.put(many)
    assert keys(tree.storage) == sorted(many)


def test_an_unchanged_blob_is_listed_the_same(tree: Tree) -> None:
    tree.put(BLOBS)
    assert set(tree.storage.list()) == set(tree.storage.list())
    assert len(set(tree.storage.list())) == len(BLOBS)


def test_the_etag_changes_with_the_content(tree: Tree) -> None:
    etags = set()
    for data in (b"weights", b"WEIGHTS", b"more weights", b""):
        tree.put({"1/model.bin": data})
        etags.add(blob_of(tree.storage, "1/model.bin").etag)
    assert len(etags) == 4


CHECKSUMS = {
    "md5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    "crc32c": lambda data: f"{google_crc32c.value(data):08x}",
}


def test_a_checksum_is_that_of_the_bytes(tree: Tree) -> None:
    # One whose checksum begins with a zero.
    tree.put(BLOBS | {"1/zero": b"52"})
    for blob in tree.storage.list():
        kind, _, value = blob.checksum.partition(":")
        assert not kind or CHECKSUMS[kind](({**BLOBS, "1/zero": b"52"})[blob.key]) == value


def test_the_time_of_the_last_change_is_told_or_unknown(tree: Tree) -> None:
    before = time.time()
    tree.put(BLOBS)
    for blob in tree.storage.list():
        # Some tell whole seconds.
        assert not blob.modified or before - 2 < blob.modified < time.time() + 1


SIZES = (1, PIECE - 1, PIECE, 3 * PIECE + 17)


def test_fetch_gives_the_bytes_however_many(tree: Tree) -> None:
    blobs = {f"1/{size}": os.urandom(size) for size in SIZES}
    tree.put(blobs)
    assert {blob.key: read(tree.storage, blob) for blob in tree.storage.list()} == blobs


def test_fetch_gives_any_part(tree: Tree) -> None:
    size = 4 * MIB + 1
    data = os.urandom(size)
    tree.put({"1/model.bin": data})
    blob = blob_of(tree.storage, "1/model.bin")
    for start, stop in [(0, 1), (size - 1, size), (0, size - 1), (1, size), (MIB, 2 * MIB), (MIB - 1, 3 * MIB + 1)]:
        assert read(tree.storage, blob, start, stop) == data[start:stop]


def test_pieces_are_small_and_the_callers_own(tree: Tree) -> None:
    data = os.urandom(8 * MIB)
    tree.put({"1/model.bin": data})
    pieces = list(tree.storage.fetch(blob_of(tree.storage, "1/model.bin"), 0, len(data)))
    assert all(0 < len(piece) <= PIECE for piece in pieces)
    # Looked at after the last has come, so none lies in a buffer that was used again.
    assert b"".join(pieces) == data


def test_several_threads_may_list_and_fetch_at_once(tree: Tree) -> None:
    data = os.urandom(4 * MIB)
    tree.put({**BLOBS, "1/model.bin": data})
    blob = blob_of(tree.storage, "1/model.bin")
    together = threading.Barrier(16)

    def work(number: int) -> bool:
        together.wait(10)
        start = number * len(data) // 16
        part = read(tree.storage, blob, start, start + 200_000)
        return part == data[start : start + 200_000] and len(keys(tree.storage)) == len(BLOBS)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def test_closing_the_iterator_ends_the_read(tree: Tree) -> None:
    data = os.urandom(16 * MIB)
    tree.put({"1/model.bin": data})
    blob = blob_of(tree.storage, "1/model.bin")
    assert read(tree.storage, blob, 0, 10) == data[:10]
    process = psutil.Process()
    before = process.num_fds()
    for _ in range(20):
        pieces = tree.storage.fetch(blob, 0, blob.size)
        assert data.startswith(bytes(next(pieces)))
        pieces.close()
    until(lambda: process.num_fds() <= before + 3)
    assert read(tree.storage, blob) == data


def test_a_blob_that_has_changed_since_it_was_listed_is_an_error(tree: Tree) -> None:
    for data in [b"WEIGHTS", b"weights and more", b"", b"weigh"]:
        tree.put({"1/model.bin": b"weights"})
        blob = blob_of(tree.storage, "1/model.bin")
        tree.put({"1/model.bin": data})
        with pytest.raises(BlobChanged, match=rf"{tree.name}/1/model\.bin"):
            read(tree.storage, blob)
        with pytest.raises(BlobChanged, match=rf"{tree.name}/1/model\.bin"):
            read(tree.storage, blob, 2, 4)


def test_a_blob_that_is_gone_is_an_error(tree: Tree) -> None:
    tree.put(BLOBS)
    blob = blob_of(tree.storage, "1/model.bin")
    tree.delete("1/model.bin")
    with pytest.raises(BlobChanged, match=rf"{tree.name}/1/model\.bin"):
        read(tree.storage, blob)


def test_what_is_put_is_listed_and_fetched_as_a_whole_and_takes_the_place_of_what_was_there(tree: Tree) -> None:
    tree.put(BLOBS)
    storage = tree.writable()
    for data in (b"blob", os.urandom(3 * MIB + 1), b"another"):
        storage.put("1/compiled/a b.blob", data)
        blob = blob_of(storage, "1/compiled/a b.blob")
        assert read(storage, blob) == data
    assert keys(storage) == sorted([*BLOBS, "1/compiled/a b.blob"])


def test_what_is_put_where_nothing_can_be_is_an_error(cloud_tree: CloudTree) -> None:
    # SeaweedFS makes a bucket for who may.
    if cloud_tree.cloud.scheme == "s3":
        return
    storage = cloud_tree.open(is_writer=True, bucket="not-there")
    with pytest.raises(StorageUnavailable, match=rf"cannot write {cloud_tree.cloud.scheme}://not-there/.*/1/x\.blob: "):
        storage.put("1/x.blob", b"data")


def test_who_may_only_read_is_told_so_when_he_puts(cloud_tree: CloudTree) -> None:
    if not cloud_tree.cloud.knows_rights:
        return
    cloud_tree.put(BLOBS)
    with pytest.raises(StorageUnavailable, match=rf"cannot write {cloud_tree.name}/1/model\.bin: ") as failure:
        cloud_tree.storage.put("1/model.bin", b"mine")
    assert not isinstance(failure.value, BlobChanged | StorageInterrupted)
    assert "\n" not in str(failure.value)
    assert read(cloud_tree.storage, blob_of(cloud_tree.storage, "1/model.bin")) == BLOBS["1/model.bin"]


def test_a_place_that_is_not_there_cannot_be_listed(tree: Tree) -> None:
    tree.put(BLOBS)
    tree.destroy()
    with pytest.raises(StorageUnavailable, match=tree.name):
        list(tree.storage.list())


def test_a_place_that_is_not_there_has_no_blobs(tree: Tree) -> None:
    tree.put(BLOBS)
    blob = blob_of(tree.storage, "1/model.bin")
    tree.destroy()
    with pytest.raises(StorageUnavailable, match=rf"{tree.name}/1/model\.bin"):
        read(tree.storage, blob)


def test_who_may_not_read_is_told_so(cloud_tree: CloudTree) -> None:
    if not cloud_tree.cloud.knows_rights:
        return
    cloud_tree.put(BLOBS)
    blob = blob_of(cloud_tree.storage, "1/model.bin")
    storage = cloud_tree.open(is_stranger=True)
    with pytest.raises(StorageUnavailable, match=rf"{cloud_tree.name}"):
        list(storage.list())
    with pytest.raises(StorageUnavailable, match=rf"{cloud_tree.name}/1/model\.bin") as failure:
        read(storage, blob)
    assert not isinstance(failure.value, BlobChanged | StorageInterrupted)
