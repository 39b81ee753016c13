"""S3 through a proxy that misbehaves: whatever happens on the way, the bytes are right or there is an error."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest

from model_cache.download import Downloader
from model_cache.errors import BlobChanged, StorageUnavailable
from model_cache.repository import ModelRepository
from model_cache.s3 import S3Storage
from model_cache.storage import Blob, Storage, open_storage
from tests.fakes import Clock
from tests.model_cache.conftest import BecomeS3User
from tests.servers.fault_proxy import (
    INTERNAL_ERROR,
    SLOW_DOWN,
    Answer,
    Before,
    Cut,
    Fault,
    FaultProxy,
    ShortBody,
    Stall,
    WrongLength,
    on,
)
from tests.servers.processes import free_port
from tests.servers.seaweedfs import SeaweedFS

TRIES = 4
DATA = os.urandom(300_000)
THE_BLOB = r"/models/faults/1/model\.bin"
"""The path of requests for it, and of no others."""
MODEL = {"1/model.bin": DATA, "1/model.xml": b"<net/>"}


def put(s3: SeaweedFS, prefix: str, blobs: dict[str, bytes], bucket: str = "models") -> None:
    for key, data in blobs.items():
        s3.client().put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=data)


def hang_up() -> None:
    raise ConnectionAbortedError


@pytest.fixture
def bucket(s3: SeaweedFS) -> SeaweedFS:
    put(s3, "faults", MODEL)
    return s3


@pytest.fixture
def proxy(bucket: SeaweedFS) -> Iterator[FaultProxy]:
    with FaultProxy(bucket.endpoint) as proxy:
        yield proxy


@pytest.fixture
def storage(bucket: SeaweedFS, proxy: FaultProxy, become: BecomeS3User) -> Storage:
    """The model, by way of the proxy."""
    become(bucket.reader)
    return open_storage("s3://models/faults", endpoint=proxy.url)


def blob_of(storage: Storage, key: str = "1/model.bin") -> Blob:
    [blob] = storage.list(key)
    return blob


def keys(storage: Storage) -> list[str]:
    return [blob.key for blob in storage.list()]


FAULTS: dict[str, Fault] = {
    "cut at once": Cut(after=0),
    "cut in the middle": Cut(after=150_000),
    "cut before the last byte": Cut(after=299_999),
    "reset in the middle": Cut(after=150_000, reset=True),
    "length too high": WrongLength(by=10),
    "length too low": WrongLength(by=-10),
    "short": ShortBody(to=1000),
    "empty": ShortBody(to=0),
    "captive portal": Answer(200, b"<html>please log in</html>"),
    "hung up": Before(hang_up),
    "500": INTERNAL_ERROR,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fetch_that_goes_wrong_once_is_tried_again(
    storage: Storage, proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    blob = blob_of(storage)
    proxy.use(on(fault, "GET", THE_BLOB, nth=1))
    storage.fetch(blob, tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == DATA
    assert proxy.count("GET", THE_BLOB) == 2


def test_what_an_overloaded_server_asks_for_is_time_and_it_gets_it(
    storage: Storage, proxy: FaultProxy, tmp_path: Path
) -> None:
    blob = blob_of(storage)
    proxy.use(on(SLOW_DOWN, "GET", THE_BLOB, nth={1, 2}))
    storage.fetch(blob, tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == DATA


LASTING = ["cut in the middle", "short", "length too high", "hung up", "500"]


@pytest.mark.parametrize("fault", [FAULTS[name] for name in LASTING], ids=LASTING)
def test_a_fetch_that_always_goes_wrong_is_given_up_after_a_few_tries(
    storage: Storage, proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    """A few in all: with the SDK's own retries within ours, a server that hangs up was asked sixteen times."""
    blob = blob_of(storage)
    # One more would do.
    proxy.use(on(fault, "GET", THE_BLOB, nth=range(1, TRIES + 1)))
    started = time.monotonic()
    with pytest.raises(StorageUnavailable, match=r"^cannot fetch s3://models/faults/1/model\.bin: "):
        storage.fetch(blob, tmp_path / "here")
    assert proxy.count("GET", THE_BLOB) == TRIES
    assert time.monotonic() - started < 15


@pytest.fixture
def impatient(bucket: SeaweedFS, proxy: FaultProxy, become: BecomeS3User) -> Storage:
    become(bucket.reader)
    return S3Storage("models", "faults", proxy.url, read_timeout=0.2)


@pytest.mark.parametrize("stall", [Stall(), Stall(after=150_000)], ids=["before", "in the middle"])
def test_a_fetch_that_falls_silent_is_given_up(
    impatient: Storage, proxy: FaultProxy, tmp_path: Path, stall: Stall
) -> None:
    blob = blob_of(impatient)
    proxy.use(on(stall, "GET", THE_BLOB))
    started = time.monotonic()
    with pytest.raises(StorageUnavailable, match=r"^cannot fetch s3://models/faults/1/model\.bin: .*[Tt]imed? ?out"):
        impatient.fetch(blob, tmp_path / "here")
    assert proxy.count("GET", THE_BLOB) == TRIES
    assert time.monotonic() - started < 15


def test_a_fetch_that_falls_silent_once_is_tried_again(impatient: Storage, proxy: FaultProxy, tmp_path: Path) -> None:
    blob = blob_of(impatient)
    proxy.use(on(Stall(), "GET", THE_BLOB, nth=1), on(Stall(after=150_000), "GET", THE_BLOB, nth=2))
    impatient.fetch(blob, tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == DATA
    assert proxy.count("GET", THE_BLOB) == 3


def test_a_listing_that_falls_silent_is_given_up(impatient: Storage, proxy: FaultProxy) -> None:
    proxy.use(on(Stall()))
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: .*[Tt]imed? ?out"):
        keys(impatient)
    assert proxy.count("GET") == TRIES


@contextlib.contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Run a server that answers every GET as told, for answers that no proxy could make of a good one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            # The client may have enough of it.
            with contextlib.suppress(OSError):
                answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = False
        acceptor = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        acceptor.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            acceptor.join()


def test_a_server_that_trickles_is_not_waited_for_for_ever(
    bucket: SeaweedFS, become: BecomeS3User, tmp_path: Path
) -> None:
    become(bucket.reader)
    enough = threading.Event()

    def trickle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        for _ in range(1000):
            request.wfile.write(b"x")
            if enough.wait(0.02):
                return

    with server(trickle) as endpoint:
        # Never silent for long, and it would take 20 seconds.
        storage = S3Storage("models", "faults", endpoint, read_timeout=5, fetch_timeout=0.5)
        started = time.monotonic()
        try:
            with pytest.raises(StorageUnavailable, match=r"1/model\.bin: \d+ of 1000 bytes after"):
                storage.fetch(Blob("1/model.bin", 1000, '"etag"'), tmp_path / "here")
        finally:
            enough.set()
        assert time.monotonic() - started < 5


def chunked(request: BaseHTTPRequestHandler, chunks: Iterable[bytes]) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    for chunk in chunks:
        request.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))


def test_a_length_that_is_not_told_in_advance_is_no_obstacle(
    bucket: SeaweedFS, become: BecomeS3User, tmp_path: Path
) -> None:
    """Proxies that compress, or that change anything else, send bodies in chunks."""
    become(bucket.reader)
    with server(lambda request: chunked(request, [DATA[:100_000], DATA[100_000:], b""])) as endpoint:
        storage = S3Storage("models", "faults", endpoint)
        storage.fetch(Blob("1/model.bin", len(DATA), '"etag"'), tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == DATA


def test_no_more_is_read_than_was_listed(bucket: SeaweedFS, become: BecomeS3User, tmp_path: Path) -> None:
    """It would fill the disk."""
    become(bucket.reader)
    with server(lambda request: chunked(request, itertools.repeat(DATA))) as endpoint:
        storage = S3Storage("models", "faults", endpoint, fetch_timeout=5)
        with pytest.raises(StorageUnavailable, match=r"1/model\.bin: got \d+ bytes, want 1000$"):
            storage.fetch(Blob("1/model.bin", 1000, '"etag"'), tmp_path / "here")
    assert (tmp_path / "here").stat().st_size <= 1000


def test_an_upload_between_two_tries_is_an_error_and_never_a_mixture(
    bucket: SeaweedFS, storage: Storage, proxy: FaultProxy, tmp_path: Path
) -> None:
    blob = blob_of(storage)
    proxy.use(
        on(Cut(after=150_000), "GET", THE_BLOB, nth=1),
        on(Before(lambda: put(bucket, "faults", {"1/model.bin": DATA[::-1]})), "GET", THE_BLOB, nth=2),
    )
    with pytest.raises(BlobChanged, match=r"s3://models/faults/1/model\.bin: PreconditionFailed"):
        storage.fetch(blob, tmp_path / "here")
    assert proxy.count("GET", THE_BLOB) == 2


def test_a_listing_that_is_cut_is_made_again_or_an_error_and_never_half(storage: Storage, proxy: FaultProxy) -> None:
    proxy.use(on(Cut(after=200), nth=1))
    assert keys(storage) == ["1/model.bin", "1/model.xml"]
    proxy.use(on(Cut(after=200)))
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: "):
        keys(storage)


NO_LISTINGS = {
    "captive portal": Answer(200, b"<html>please log in</html>"),
    "another protocol": Answer(200, b"hello"),
    "nothing": Answer(204),
    "not modified": Answer(304),
    "redirect to https": Answer(301, headers={"Location": "https://127.0.0.1/"}),
}


@pytest.mark.parametrize("answer", NO_LISTINGS.values(), ids=NO_LISTINGS)
def test_an_answer_that_is_no_listing_is_an_error_and_takes_no_model_away(
    storage: Storage, proxy: FaultProxy, answer: Answer
) -> None:
    """A captive portal, or that port of the server which is for people, answers 200 to everything."""
    clock = Clock()
    models = ModelRepository("m", storage, clock=clock)
    assert list(models.versions()) == [1]
    clock.now += 1e6
    proxy.use(on(answer))
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: "):
        keys(storage)
    assert list(models.versions()) == [1]


def test_a_download_cut_in_the_middle_leaves_nothing_and_the_next_one_is_whole(
    storage: Storage, proxy: FaultProxy, tmp_path: Path
) -> None:
    root = tmp_path / "cache"
    contents = ModelRepository("m", storage).find(1).contents
    proxy.use(on(Cut(after=150_000), "GET", THE_BLOB))
    with pytest.raises(StorageUnavailable, match=r"s3://models/faults/1/model\.bin"):
        Downloader(root).load(contents)
    assert list(root.iterdir()) == []
    proxy.use()
    directory = Downloader(root).load(contents).directory
    assert {f"1/{path.name}": path.read_bytes() for path in directory.iterdir()} == MODEL


def test_a_server_that_is_down_is_told_by_its_address(bucket: SeaweedFS, become: BecomeS3User) -> None:
    become(bucket.reader)
    endpoint = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(StorageUnavailable, match=f"^cannot list s3://models/faults: .*{endpoint}"):
        keys(open_storage("s3://models/faults", endpoint=endpoint))
    assert time.monotonic() - started < 10


def test_an_endpoint_that_is_no_url_is_told(bucket: SeaweedFS, become: BecomeS3User) -> None:
    become(bucket.reader)
    with pytest.raises(StorageUnavailable, match="Invalid endpoint: http://no host"):
        open_storage("s3://models/faults", endpoint="http://no host")


def test_a_wrong_secret_is_told_by_its_code(bucket: SeaweedFS, storage: Storage, become: BecomeS3User) -> None:
    blob = blob_of(storage)
    become(replace(bucket.reader, secret_key="wrong"))
    refused = open_storage("s3://models/faults", endpoint=bucket.endpoint)
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: SignatureDoesNotMatch: "):
        keys(refused)
    with pytest.raises(StorageUnavailable, match=r"^cannot fetch .*/model\.bin: SignatureDoesNotMatch: "):
        refused.fetch(blob, Path(os.devnull))


def test_an_unknown_key_is_told_by_its_code(bucket: SeaweedFS, become: BecomeS3User) -> None:
    become(replace(bucket.reader, access_key="AKIANOBODY"))
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: InvalidAccessKeyId: "):
        keys(open_storage("s3://models/faults", endpoint=bucket.endpoint))


def test_no_credentials_are_told(bucket: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: Unable to locate credentials"):
        keys(open_storage("s3://models/faults", endpoint=bucket.endpoint))


def test_a_bucket_that_is_not_ones_own_is_told_with_its_name(bucket: SeaweedFS, become: BecomeS3User) -> None:
    bucket.create_bucket("private")
    put(bucket, "m", MODEL, bucket="private")
    become(bucket.admin)
    storage = open_storage("s3://private/m", endpoint=bucket.endpoint)
    blob = blob_of(storage)
    become(bucket.reader)
    storage = open_storage("s3://private/m", endpoint=bucket.endpoint)
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://private/m: AccessDenied"):
        keys(storage)
    with pytest.raises(StorageUnavailable, match=r"^cannot fetch s3://private/m/1/model\.bin: AccessDenied"):
        storage.fetch(blob, Path(os.devnull))


def test_a_bucket_that_does_not_exist_is_told_with_its_name(bucket: SeaweedFS, become: BecomeS3User) -> None:
    become(bucket.admin)
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://no-such-bucket/m: NoSuchBucket"):
        keys(open_storage("s3://no-such-bucket/m", endpoint=bucket.endpoint))


def test_a_bucket_that_cannot_exist_is_told_in_one_line(bucket: SeaweedFS, become: BecomeS3User) -> None:
    become(bucket.admin)
    with pytest.raises(StorageUnavailable, match="Invalid bucket name") as failure:
        keys(open_storage("s3://not a bucket/m", endpoint=bucket.endpoint))
    assert len(str(failure.value).splitlines()) == 1


def test_folders_made_by_consoles_are_no_blobs(bucket: SeaweedFS, storage: Storage) -> None:
    put(bucket, "console", {"1/": b"", "1/assets/": b"", "1/model.xml": b"<net/>", "2/": b""})
    console = open_storage("s3://models/console", endpoint=bucket.endpoint)
    assert keys(console) == ["1/model.xml"]
    assert list(ModelRepository("m", console).versions()) == [1]


@pytest.mark.parametrize("url", ["s3://models/faults", "s3://models/faults/", "s3://models//faults//"])
def test_a_prefix_is_a_directory_whether_or_not_it_ends_in_a_slash(
    bucket: SeaweedFS, become: BecomeS3User, url: str
) -> None:
    put(bucket, "faults-of-others", {"1/model.xml": b"<net/>"})
    become(bucket.reader)
    storage = open_storage(url, endpoint=bucket.endpoint)
    assert keys(storage) == ["1/model.bin", "1/model.xml"]
    assert str(storage) == "s3://models/faults"


def test_a_whole_bucket_may_be_a_models_base(bucket: SeaweedFS, become: BecomeS3User, tmp_path: Path) -> None:
    bucket.create_bucket("one-model")
    bucket.client().put_object(Bucket="one-model", Key="1/model.bin", Body=DATA)
    become(bucket.admin)
    storage = open_storage("s3://one-model", endpoint=bucket.endpoint)
    assert str(storage) == "s3://one-model"
    assert keys(storage) == ["1/model.bin"]
    storage.fetch(blob_of(storage), tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == DATA


def test_an_endpoint_needs_no_region(storage: Storage, proxy: FaultProxy) -> None:
    # The fixtures set keys and nothing else: no region, no profile.
    keys(storage)
    assert "/us-east-1/s3/aws4_request" in proxy.requests[0].headers["authorization"]


def test_an_endpoint_is_addressed_by_path_and_needs_no_name_for_each_bucket(
    bucket: SeaweedFS, proxy: FaultProxy, become: BecomeS3User
) -> None:
    become(bucket.reader)
    # By name: below an address the SDK cannot put the bucket anyway.
    name = proxy.address.replace("127.0.0.1", "localhost")
    assert keys(open_storage("s3://models/faults", endpoint=f"http://{name}")) == ["1/model.bin", "1/model.xml"]
    [request] = proxy.requests
    assert request.path.startswith("/models?")
    assert request.headers["host"] == name


def test_the_region_is_the_sdks_own(
    bucket: SeaweedFS, proxy: FaultProxy, become: BecomeS3User, monkeypatch: pytest.MonkeyPatch
) -> None:
    become(bucket.reader)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    keys(open_storage("s3://models/faults", endpoint=proxy.url))
    assert "/eu-central-1/s3/aws4_request" in proxy.requests[0].headers["authorization"]
