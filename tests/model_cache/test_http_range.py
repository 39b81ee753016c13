"""What answers the servers of the other tests do not give: without a length, or with the wrong range."""

from __future__ import annotations

import io

import pytest
from urllib3 import HTTPResponse

from model_cache.errors import BlobChanged, StorageInterrupted, StorageUnavailable
from model_cache.http_range import error_of, pieces
from model_cache.storage import Blob

BLOB = Blob("key", 10, "etag")
START, STOP = 2, 7
RANGE = "bytes 2-6/10"


def answer(body: bytes, status: int = 206, **headers: str) -> HTTPResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HTTPResponse(io.BytesIO(body), named, status, preload_content=False)


def read(response: HTTPResponse) -> bytes:
    return b"".join(pieces(response, BLOB, START, STOP, "cannot fetch az://c/key"))


def test_an_answer_needs_no_length() -> None:
    assert read(answer(b"cdefg", Content_Range=RANGE)) == b"cdefg"


@pytest.mark.parametrize("total", ["*", "10", "11"])
def test_how_much_there_is_besides_does_not_matter(total: str) -> None:
    """What is read is pinned by other means."""
    assert read(answer(b"cdefg", Content_Range=f"bytes 2-6/{total}")) == b"cdefg"


@pytest.mark.parametrize("body", [b"", b"cdef", b"cdefgh"])
def test_too_little_or_too_much_is_an_interruption(body: bytes) -> None:
    message = f"^cannot fetch az://c/key: got {len(body)} bytes, want 5$"
    with pytest.raises(StorageInterrupted, match=message):
        read(answer(body, Content_Range=RANGE))


def test_more_than_was_asked_for_is_not_given() -> None:
    read = pieces(answer(b"cdefgh", Content_Range=RANGE), BLOB, START, STOP, "cannot fetch")
    with pytest.raises(StorageInterrupted):
        next(read)


@pytest.mark.parametrize("came", ["bytes 0-4/10", "bytes 2-5/10", "bytes 2-60/10", "bytes */10", "2-6/10", ""])
def test_another_range_is_an_interruption(came: str) -> None:
    with pytest.raises(StorageInterrupted, match=r"want bytes 2-6, and the answer has "):
        read(answer(b"cdefg", Content_Range=came))


def test_a_server_that_knows_no_ranges_is_no_use_for_parts() -> None:
    with pytest.raises(StorageUnavailable, match=r"want bytes 2-6, and the server sends them all$") as failure:
        read(answer(b"abcdefghij", 200))
    assert not isinstance(failure.value, StorageInterrupted)


def test_but_for_wholes_it_is() -> None:
    response = answer(b"abcdefghij", 200, Content_Length="10")
    assert b"".join(pieces(response, BLOB, 0, 10, "cannot fetch")) == b"abcdefghij"


def test_closing_the_iterator_closes_the_connection() -> None:
    response = answer(b"cdefg", Content_Range=RANGE)
    read = pieces(response, BLOB, START, STOP, "cannot fetch")
    next(read)
    assert not response.closed
    read.close()
    assert response.closed


MEANINGS = {
    BlobChanged: (404, 412, 416),
    StorageInterrupted: (408, 429, 500, 502, 503, 504, 529),
    StorageUnavailable: (301, 400, 401, 403, 405, 407, 451),
}


@pytest.mark.parametrize("kind", MEANINGS)
def test_what_a_refusal_means(kind: type[StorageUnavailable]) -> None:
    assert {error_of(status) for status in MEANINGS[kind]} == {kind}
