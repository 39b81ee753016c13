"""Whole downloads from real servers, over a network that misbehaves on the way."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_cache.disk import DiskCache
from model_cache.errors import BlobChanged, StorageUnavailable
from tests.model_cache.stores import BIG, leased_files, listed, names_in
from tests.model_cache.trees import CLOUDS, CloudTree, make_cloud_tree
from tests.servers.fault_proxy import Answer, Before, Cut, FaultProxy, Stall, on

MIB = 1 << 20
SIZE = 17 * MIB
DATA = os.urandom(SIZE)
FILES = {"model.xml": b"<net/>", "model.bin": DATA}
WEIGHTS = r"1(/|%2F)model(\.|%2E)bin"
"""What the path of a request for them has, however it is quoted."""


@pytest.fixture(params=CLOUDS)
def tree(request: pytest.FixtureRequest) -> CloudTree:
    tree = make_cloud_tree(request, *request.param)
    tree.put({f"1/{name}": data for name, data in FILES.items()})
    return tree


@pytest.fixture
def proxy(tree: CloudTree) -> Iterator[FaultProxy]:
    with FaultProxy(tree.cloud.endpoint) as proxy:
        yield proxy


def ranges_asked(proxy: FaultProxy) -> list[tuple[int, int]]:
    """Return the parts of the weights that were asked for, in order."""
    asked = []
    for request in proxy.requests:
        if request.method == "GET" and re.search(WEIGHTS, request.path):
            header = request.headers.get("range") or request.headers.get("x-ms-range", "")
            if found := re.fullmatch(r"bytes=(\d+)-(\d+)", header):
                asked.append((int(found[1]), int(found[2]) + 1))
    return asked


def test_a_download_that_is_cut_and_refused_on_the_way_is_whole_and_goes_on_where_it_was(
    tree: CloudTree, proxy: FaultProxy, tmp_path: Path
) -> None:
    version = listed(tree.open(endpoint=proxy.url))
    proxy.use(on(Cut(after=3 * MIB), "GET", WEIGHTS, nth=1), on(Answer(503), "GET", WEIGHTS, nth=3))
    cache = DiskCache(tmp_path / "cache", BIG, threads=2)
    assert leased_files(cache, version) == FILES
    asked = sorted(ranges_asked(proxy))
    # Two parts, and of one of them the rest once more; who was refused asks for the same again.
    assert len(asked) == 4
    starts = {start for start, _ in asked}
    assert len(starts) == 3
    assert any(start % (SIZE // 2) > 2 * MIB for start in starts)
    assert leased_files(cache, version) == FILES
    assert len(ranges_asked(proxy)) == 4


def test_what_arrived_before_the_network_went_is_not_fetched_again_when_it_is_back(
    tree: CloudTree, proxy: FaultProxy, tmp_path: Path
) -> None:
    version = listed(tree.open(endpoint=proxy.url))
    proxy.use(on(Cut(after=3 * MIB), "GET", WEIGHTS, nth=1), on(Answer(403), "GET", WEIGHTS, nth=2))
    with pytest.raises(StorageUnavailable):
        leased_files(DiskCache(tmp_path / "cache", BIG, threads=1), version)
    assert names_in(tmp_path / "cache") == [f".partial-{version.digest}"]
    before = len(ranges_asked(proxy))
    proxy.use()
    assert leased_files(DiskCache(tmp_path / "cache", BIG, threads=1), version) == FILES
    [(start, stop)] = ranges_asked(proxy)[before:]
    # A client may lose what it was holding when the connection broke.
    assert 2 * MIB <= start <= 3 * MIB
    assert stop == SIZE


def test_weights_replaced_between_two_parts_are_never_mixed(tree: CloudTree, proxy: FaultProxy, tmp_path: Path) -> None:
    version = listed(tree.open(endpoint=proxy.url))
    new = bytes(SIZE)
    first = Stall(after=MIB)

    def replace() -> None:
        assert first.reached.wait(10)
        tree.put({"1/model.bin": new})
        first.released.set()

    proxy.use(on(first, "GET", WEIGHTS, nth=1), on(Before(replace), "GET", WEIGHTS, nth=2))
    with pytest.raises(BlobChanged):
        leased_files(DiskCache(tmp_path / "cache", BIG, threads=2), version)
    assert names_in(tmp_path / "cache") == []
    proxy.use()
    assert leased_files(DiskCache(tmp_path / "cache", BIG), listed(tree.open())) == {**FILES, "model.bin": new}
