"""What happens in which order before there is an engine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_cache.disk import DiskCache
from model_cache.errors import BlobChanged, StorageUnavailable
from model_cache.repository import ModelRepository, ModelVersion
from runtime.deferred import DeferredLoader
from tests.fakes import MemoryStorage
from tests.runtime.servables import VersionLoader

BLOBS = {"1/model.xml": b"<net/>", "1/model.bin": b"weights"}


@pytest.fixture
def files(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", 1 << 20)


def version(storage: MemoryStorage | None = None) -> ModelVersion:
    return ModelRepository("model", storage or MemoryStorage(BLOBS)).find(1)


def making(made: list[VersionLoader], look: Callable[[], None] = lambda: None) -> Callable[[], VersionLoader]:
    def make() -> VersionLoader:
        look()
        made.append(VersionLoader())
        return made[-1]

    return make


def test_the_files_are_there_before_the_engine_is_asked_for(files: DiskCache) -> None:
    wanted, made = version(), list[VersionLoader]()
    seen: list[bool] = []
    loader = DeferredLoader(files, making(made, lambda: seen.append(files.is_cached(wanted))))
    assert loader.estimate(wanted) > wanted.size
    assert made == []
    phases = loader.load(wanted).phases
    assert seen == [True]
    assert phases.fetched is not None
    assert phases.fetched.size == wanted.size
    # The fake says that it took half a second itself.
    assert phases.total > 0.5


def test_what_cannot_be_fetched_asks_for_no_engine(files: DiskCache) -> None:
    storage, made = MemoryStorage(BLOBS), list[VersionLoader]()
    wanted = version(storage)
    storage.blobs.clear()
    with pytest.raises(BlobChanged):
        DeferredLoader(files, making(made)).load(wanted)
    assert made == []


def test_there_is_one_engine_for_all_loads(files: DiskCache) -> None:
    made: list[VersionLoader] = []
    loader = DeferredLoader(files, making(made))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(loader.load, [version()] * 8))
    assert [len(inner.loads) for inner in made] == [8]
    assert loader.estimate(version()) == made[0].estimate(version())


def test_an_engine_that_cannot_be_had_is_asked_for_again(files: DiskCache) -> None:
    made: list[VersionLoader] = []
    errors = [StorageUnavailable("not now")]

    def fail_once() -> None:
        while errors:
            raise errors.pop()

    loader = DeferredLoader(files, making(made, fail_once))
    with pytest.raises(StorageUnavailable, match="not now"):
        loader.load(version())
    loader.load(version())
    assert len(made) == 1
