"""What every storage promises, asked of each: the fake in memory, a directory, and a real S3 server."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest

from model_cache.errors import BlobChanged, StorageUnavailable
from model_cache.storage import Blob, Storage, open_storage
from tests.fakes import MemoryStorage
from tests.model_cache.conftest import BecomeS3User
from tests.servers.seaweedfs import SeaweedFS

_prefixes = (f"contract-{number}" for number in itertools.count())


class Tree(Protocol):
    """A storage, and the ways of others to change what is stored."""

    storage: Storage
    name: str
    """What messages must call it."""

    def put(self, blobs: Mapping[str, bytes]) -> None: ...

    def delete(self, key: str) -> None: ...

    def destroy(self) -> None:
        """Let it be as if it had never been there."""
        ...


class MemoryTree:
    def __init__(self) -> None:
        memory = MemoryStorage()
        self._memory = memory
        self.storage: Storage = memory
        self.name = "memory://bucket"

    def put(self, blobs: Mapping[str, bytes]) -> None:
        self._memory.blobs.update(blobs)

    def delete(self, key: str) -> None:
        del self._memory.blobs[key]

    def destroy(self) -> None:
        def fail() -> None:
            raise StorageUnavailable(f"there is no {self.name}")

        self._memory.before_list = fail
        self._memory.blobs.clear()


class LocalTree:
    def __init__(self, root: Path) -> None:
        root.mkdir()
        self._root = root
        self.storage = open_storage(str(root))
        self.name = str(root)

    def put(self, blobs: Mapping[str, bytes]) -> None:
        for key, data in blobs.items():
            path = self._root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            # A file of its own which takes the place of the old one, as tools that copy do.
            new = self._root.with_name("new")
            new.write_bytes(data)
            new.rename(path)

    def delete(self, key: str) -> None:
        (self._root / key).unlink()

    def destroy(self) -> None:
        shutil.rmtree(self._root)


class S3Tree:
    def __init__(self, server: SeaweedFS, bucket: str, prefix: str) -> None:
        self._server = server
        self._bucket = bucket
        self._prefix = prefix
        self.name = f"s3://{bucket}/{prefix}"
        self.storage = open_storage(self.name, endpoint=server.endpoint)

    def put(self, blobs: Mapping[str, bytes]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._put, blobs.items()))

    def delete(self, key: str) -> None:
        self._server.client().delete_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}")

    def destroy(self) -> None:
        # A prefix cannot be missing; a bucket can.
        self.name = f"s3://not-there/{self._prefix}"
        self.storage = open_storage(self.name, endpoint=self._server.endpoint)

    def _put(self, blob: tuple[str, bytes]) -> None:
        key, data = blob
        self._server.client().put_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}", Body=data)


@pytest.fixture
def s3_tree(s3: SeaweedFS, become: BecomeS3User) -> S3Tree:
    become(s3.reader)
    return S3Tree(s3, "models", next(_prefixes))


@pytest.fixture(params=["memory", "local", "s3"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    trees: dict[str, Callable[[], Tree]] = {
        "memory": MemoryTree,
        "local": lambda: LocalTree(tmp_path / "tree"),
        "s3": lambda: request.getfixturevalue("s3_tree"),
    }
    return trees[request.param]()


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return sorted(blob.key for blob in storage.list(prefix))


def blob_of(tree: Tree, key: str) -> Blob:
    [blob] = (blob for blob in tree.storage.list() if blob.key == key)
    return blob


BLOBS = {
    "README.md": b"read me",
    "1/model.xml": b"<net/>",
    "1/model.bin": b"weights",
    "1/assets/deep/labels.txt": b"cat",
    "10/model.xml": b"",
}


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


def test_its_name_is_its_url(tree: Tree) -> None:
    assert str(tree.storage) == tree.name


ODD_NAMES = ["a b", "ä€😀", "a+b&c=d;e?f#g", "100%25", "'\"<>", "..bin", "~$,:@!()"]
ODD_KEYS = [f"1/{name}" for name in ODD_NAMES]


def test_odd_names_are_names_too(tree: Tree, tmp_path: Path) -> None:
    tree.put({key: key.encode() for key in ODD_KEYS})
    assert keys(tree.storage) == sorted(ODD_KEYS)
    for number, blob in enumerate(tree.storage.list()):
        tree.storage.fetch(blob, tmp_path / str(number))
        assert (tmp_path / str(number)).read_bytes() == blob.key.encode()


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
        etags.add(blob_of(tree, "1/model.bin").etag)
    assert len(etags) == 4


def test_fetch_gives_the_bytes_however_many(tree: Tree, tmp_path: Path) -> None:
    blobs = {str(size): os.urandom(size) for size in (0, 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 17)}
    tree.put(blobs)
    for blob in tree.storage.list():
        tree.storage.fetch(blob, tmp_path / blob.key)
        assert (tmp_path / blob.key).read_bytes() == blobs[blob.key]


def test_several_threads_may_fetch_at_once(tree: Tree, tmp_path: Path) -> None:
    blobs = {f"1/{number}": bytes([number]) * 100_000 for number in range(16)}
    tree.put(blobs)
    listed = list(tree.storage.list())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda blob: tree.storage.fetch(blob, tmp_path / blob.key[2:]), listed))
    assert {f"1/{key}": (tmp_path / key).read_bytes() for key in map(str, range(16))} == blobs


def test_a_blob_that_has_changed_since_it_was_listed_is_an_error(tree: Tree, tmp_path: Path) -> None:
    for number, data in enumerate([b"WEIGHTS", b"weights and more", b"", b"weigh"]):
        tree.put({"1/model.bin": b"weights"})
        blob = blob_of(tree, "1/model.bin")
        tree.put({"1/model.bin": data})
        with pytest.raises(BlobChanged, match=rf"{tree.name}/1/model\.bin"):
            tree.storage.fetch(blob, tmp_path / str(number))


def test_a_blob_that_is_gone_is_an_error(tree: Tree, tmp_path: Path) -> None:
    tree.put(BLOBS)
    blob = blob_of(tree, "1/model.bin")
    tree.delete("1/model.bin")
    with pytest.raises(BlobChanged, match=rf"{tree.name}/1/model\.bin"):
        tree.storage.fetch(blob, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_place_that_is_not_there_cannot_be_listed(tree: Tree) -> None:
    tree.put(BLOBS)
    tree.destroy()
    with pytest.raises(StorageUnavailable, match=tree.name):
        list(tree.storage.list())


def test_a_place_that_is_not_there_has_no_blobs(tree: Tree, tmp_path: Path) -> None:
    tree.put(BLOBS)
    blob = blob_of(tree, "1/model.bin")
    tree.destroy()
    with pytest.raises(StorageUnavailable, match=rf"{tree.name}/1/model\.bin"):
        tree.storage.fetch(blob, tmp_path / "here")
    assert not (tmp_path / "here").exists()
