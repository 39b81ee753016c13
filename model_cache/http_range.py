"""The answer to a ranged read over HTTP, as urllib3 gives it, which is what the SDKs are built on: whether it is what
was asked for, and its bytes as they come. The SDKs' own readers keep a whole part in memory, or wait for it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from model_cache.errors import BlobChanged, StorageInterrupted, StorageUnavailable
from model_cache.storage import PIECE, Blob

if TYPE_CHECKING:
    # Not a dependency of the S3 client, and slow to import.
    from requests.exceptions import RequestException

_PARTIAL = 206


def error_of(status: int) -> type[StorageUnavailable]:
    """Return what the refusal of a read pinned to what was listed means."""
    if status in (404, 412, 416):
        return BlobChanged
    if status in (408, 429) or status >= 500:
        return StorageInterrupted
    return StorageUnavailable


def reason(exc: RequestException) -> str:
    """Say why the network failed. The error's own text has the URL as well, and Azure's may hold a secret."""
    # requests wraps urllib3's errors, of which the outermost has the URL, and the true one as its reason.
    cause = exc.args[0] if exc.args else exc
    return " ".join(str(getattr(cause, "reason", None) or cause).split()) or type(exc).__name__


def pieces(answer: BaseHTTPResponse, blob: Blob, start: int, stop: int, failure: str) -> Generator[bytes, None, None]:
    """Yield the bytes that ``answer``, which is no error, brings of ``blob`` from ``start`` up to ``stop``.

    Args:
        failure: how the message of an error begins: ``cannot fetch <url>``.
    """
    try:
        _check(answer, blob, start, stop, failure)
        received = 0
        # Not read(), which waits for all it was asked for, though that may trickle in for days; and the stored bytes,
        # whatever they are said to be encoded by.
        while piece := answer.read1(PIECE, decode_content=False):
            received += len(piece)
            if received > stop - start:
                break
            yield piece
        if received != stop - start:
            raise StorageInterrupted(f"{failure}: got {received} bytes, want {stop - start}")
    except (HTTPError, OSError) as exc:
        raise StorageInterrupted(f"{failure}: {exc}") from exc
    finally:
        # What is left unread would be the beginning of the next answer.
        answer.close()
        answer.release_conn()


def _check(answer: BaseHTTPResponse, blob: Blob, start: int, stop: int, failure: str) -> None:
    is_whole = start == 0 and stop == blob.size
    if answer.status != _PARTIAL and not is_whole:
        raise StorageUnavailable(f"{failure}: want bytes {start}-{stop - 1}, and the server sends them all")
    came = answer.headers.get("Content-Range")
    if answer.status == _PARTIAL and (came is None or not came.startswith(f"bytes {start}-{stop - 1}/")):
        raise StorageInterrupted(f"{failure}: want bytes {start}-{stop - 1}, and the answer has {came!r}")
    length = answer.headers.get("Content-Length")
    if length is not None and length != str(stop - start):
        raise StorageInterrupted(f"{failure}: the answer has {length} bytes, want {stop - start}")
