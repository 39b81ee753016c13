"""What every client makes of a server or a network that misbehaves: the right error, and never a wrong byte."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from model_cache.errors import BlobChanged, StorageInterrupted, StorageUnavailable
from model_cache.storage import Blob, Storage
from tests.model_cache.trees import CLOUDS, CloudTree, make_cloud_tree
from tests.servers.fault_proxy import Answer, Cut, Fault, FaultProxy, ShortBody, Stall, WrongLength, on
from tests.servers.processes import free_port

KEY = "1/model.bin"
OBJECT = r"/contract(-|%2D)\d+(/|%2F)1(/|%2F)model(\.|%2E)bin"
"""What the path of a request for it has, however it is quoted, and that of a listing has not."""
START, STOP, SIZE = 1000, 2_000_000, 3_000_000
READ_TIMEOUT = 0.5
GIVEN_UP = 30.0
"""Seconds after which a cold start should know that there is no server."""

pytestmark = [pytest.mark.timeout(2 * GIVEN_UP)]


@pytest.fixture(params=CLOUDS)
def tree(request: pytest.FixtureRequest) -> CloudTree:
    return make_cloud_tree(request, *request.param)


@pytest.fixture
def proxy(tree: CloudTree) -> Iterator[FaultProxy]:
    with FaultProxy(tree.cloud.endpoint) as proxy:
        yield proxy


@pytest.fixture
def storage(tree: CloudTree, proxy: FaultProxy) -> Storage:
    """The tree with one blob, through the proxy."""
    tree.put({KEY: DATA})
    return tree.open(endpoint=proxy.url, read_timeout=READ_TIMEOUT)


@pytest.fixture
def blob(storage: Storage) -> Blob:
    [blob] = storage.list(KEY)
    return blob


DATA = os.urandom(SIZE)
WANTED = DATA[START:STOP]


def read(storage: Storage, blob: Blob, start: int = START, stop: int = STOP) -> tuple[bytes, StorageUnavailable | None]:
    """Return what came, and how it ended."""
    received = b""
    try:
        for piece in storage.fetch(blob, start, stop):
            received += piece
    except StorageUnavailable as exc:
        return received, exc
    return received, None


INTERRUPTIONS: dict[str, Fault] = {
    "cut": Cut(after=100_000),
    "cut before the first byte": Cut(after=0),
    "cut before the last byte": Cut(after=STOP - START - 1),
    "reset": Cut(after=100_000, reset=True),
    "silence": Stall(),
    "silence half-way": Stall(after=100_000),
    "429": Answer(429),
    "500": Answer(500),
    "502": Answer(502),
    "503": Answer(503),
    "504": Answer(504),
    "too long a length": WrongLength(by=10),
    "too short a length": WrongLength(by=-10),
    "a short body": ShortBody(to=100_000),
    "an empty body": ShortBody(to=0),
}


@pytest.mark.parametrize("what", INTERRUPTIONS)
def test_what_may_go_better_next_time_is_an_interruption(
    storage: Storage, blob: Blob, proxy: FaultProxy, tree: CloudTree, what: str
) -> None:
    proxy.use(on(INTERRUPTIONS[what], "GET", OBJECT))
    began = time.monotonic()
    received, error = read(storage, blob)
    assert isinstance(error, StorageInterrupted), error
    assert f"{tree.name}/{KEY}" in str(error)
    assert "\n" not in str(error)
    assert WANTED.startswith(received)
    assert time.monotonic() - began < 10 * READ_TIMEOUT
    assert proxy.count("GET", OBJECT) == 1, "trying again is the caller's business"
    proxy.use()
    assert read(storage, blob) == (WANTED, None)


@pytest.mark.parametrize("end", [Cut(after=900_000), Stall(after=900_000)], ids=["cut", "silence"])
def test_what_came_before_the_end_is_given(storage: Storage, blob: Blob, proxy: FaultProxy, end: Fault) -> None:
    """Less than a piece though it is, so that whoever calls need not begin at the beginning."""
    proxy.use(on(end, "GET", OBJECT))
    received, error = read(storage, blob)
    assert isinstance(error, StorageInterrupted)
    assert len(received) == 900_000


REFUSALS = {"400": 400, "401": 401, "403": 403}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_is_final(storage: Storage, blob: Blob, proxy: FaultProxy, tree: CloudTree, what: str) -> None:
    proxy.use(on(Answer(REFUSALS[what]), "GET", OBJECT))
    received, error = read(storage, blob)
    assert not isinstance(error, BlobChanged | StorageInterrupted), error
    assert f"{tree.name}/{KEY}" in str(error)
    assert received == b""


@pytest.mark.parametrize("status", [404, 412])
def test_what_is_no_longer_there_has_changed(storage: Storage, blob: Blob, proxy: FaultProxy, status: int) -> None:
    proxy.use(on(Answer(status), "GET", OBJECT))
    received, error = read(storage, blob)
    assert isinstance(error, BlobChanged), error
    assert received == b""


def answer(blob: Blob, status: int, body: bytes, **headers: str) -> Answer:
    """An answer as servers give it to a read."""
    common = {"ETag": f'"{blob.etag.strip(chr(34))}"', "Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT"}
    return Answer(status, body, {**common, **{name.replace("_", "-"): value for name, value in headers.items()}})


WRONG_RANGES: dict[str, Any] = {
    "everything": (200, DATA, {}),
    "as much, from the beginning": (206, DATA[: STOP - START], {"Content_Range": f"bytes 0-{STOP - START - 1}/{SIZE}"}),
    "too little": (206, DATA[START:2000], {"Content_Range": f"bytes {START}-1999/{SIZE}"}),
    "too much": (206, DATA[START:], {"Content_Range": f"bytes {START}-{SIZE - 1}/{SIZE}"}),
    "nobody knows what": (206, DATA[: STOP - START], {}),
    "nothing": (204, b"", {}),
}


@pytest.mark.parametrize("what", WRONG_RANGES)
def test_another_range_than_the_one_asked_for_is_not_taken_for_it(
    storage: Storage, blob: Blob, proxy: FaultProxy, what: str
) -> None:
    status, body, headers = WRONG_RANGES[what]
    proxy.use(on(answer(blob, status, body, **headers), "GET", OBJECT))
    received, error = read(storage, blob)
    assert error is not None
    assert WANTED.startswith(received)


def test_a_whole_blob_may_come_as_no_range(storage: Storage, blob: Blob, proxy: FaultProxy) -> None:
    """As from a server that knows none. Not every client takes it; none takes less."""
    proxy.use(on(answer(blob, 200, DATA), "GET", OBJECT))
    received, error = read(storage, blob, 0, SIZE)
    assert received == DATA or isinstance(error, StorageUnavailable)


def test_a_listing_is_asked_for_again_if_the_server_was_busy(storage: Storage, proxy: FaultProxy) -> None:
    proxy.use(on(Answer(503), "GET", nth=1))
    assert [blob.key for blob in storage.list()] == [KEY]


NO_LISTINGS: dict[str, Fault] = {
    "500": Answer(500),
    "403": Answer(403),
    "silence": Stall(),
    "cut": Cut(after=50),
    "a short body": ShortBody(to=50),
    "a portal": Answer(200, b"<html><body>Please log in to this network</body></html>", {"Content-Type": "text/html"}),
    "a portal in XML": Answer(200, b"<html><body>Please log in</body></html>", {"Content-Type": "application/xml"}),
    "a portal in JSON": Answer(200, b"[]", {"Content-Type": "application/json"}),
    "nothing": Answer(200),
}


@pytest.mark.parametrize("what", NO_LISTINGS)
def test_what_is_no_listing_is_an_error(storage: Storage, proxy: FaultProxy, tree: CloudTree, what: str) -> None:
    proxy.use(on(NO_LISTINGS[what], "GET"))
    began = time.monotonic()
    with pytest.raises(StorageUnavailable, match=rf"cannot list {tree.name}") as failure:
        list(storage.list())
    assert "\n" not in str(failure.value)
    assert time.monotonic() - began < GIVEN_UP


def test_no_server_is_an_error(tree: CloudTree) -> None:
    storage = tree.open(endpoint=f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(StorageUnavailable, match=rf"cannot list {tree.name}") as failure:
        list(storage.list())
    assert re.search("refused|connect", str(failure.value))
    assert time.monotonic() - began < GIVEN_UP


def test_a_server_that_has_gone_is_an_interruption(tree: CloudTree) -> None:
    tree.put({KEY: DATA})
    with FaultProxy(tree.cloud.endpoint) as proxy:
        storage = tree.open(endpoint=proxy.url)
        [blob] = storage.list(KEY)
    received, error = read(storage, blob)
    assert isinstance(error, StorageInterrupted), error
    assert received == b""
