"""What is S3's own, with both clients: whom they ask, as whom, and what they make of its answers.

What S3 has in common with other stores, and networks that fail, are in test_storage_contract and test_storage_faults.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from model_cache.errors import BlobChanged, StorageInterrupted, StorageUnavailable
from model_cache.repository import ModelRepository
from model_cache.s3_location import checksum_of
from model_cache.storage import Blob, Storage, StorageOptions, VouchesForChecksums, open_storage
from tests.fakes import Clock
from tests.model_cache.conftest import BecomeS3User
from tests.servers.fault_proxy import Answer, Cut, FaultProxy, ShortBody, Stall, on, s3_error
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


@pytest.fixture(scope="module")
def bucket(s3: SeaweedFS) -> SeaweedFS:
    put(s3, "faults", MODEL)
    return s3


@pytest.fixture
def proxy(bucket: SeaweedFS) -> Iterator[FaultProxy]:
    with FaultProxy(bucket.endpoint) as proxy:
        yield proxy


Open = Callable[..., Storage]


@pytest.fixture(params=["sdk", "obstore"])
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_s3(bucket: SeaweedFS, client: str, become: BecomeS3User) -> Open:
    """Open it with the environment as it then is; who asks is the reader until somebody else is become."""
    become(bucket.reader)

    def open_s3(url: str = "s3://models/faults", endpoint: str = bucket.endpoint, **options: Any) -> Storage:
        settings: dict[str, Any] = {"client": client, "environ": dict(os.environ)} | options
        return open_storage(url, StorageOptions(s3_endpoint=endpoint, **settings))

    return open_s3


@pytest.fixture
def storage(open_s3: Open, proxy: FaultProxy) -> Storage:
    """The model, by way of the proxy."""
    return open_s3(endpoint=proxy.url)


def blob_of(storage: Storage, key: str = "1/model.bin") -> Blob:
    [blob] = storage.list(key)
    return blob


def read(storage: Storage, blob: Blob, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(storage.fetch(blob, start, blob.size if stop is None else stop))


def keys(storage: Storage) -> list[str]:
    return [blob.key for blob in storage.list()]


def test_a_fetch_asks_for_its_part_of_what_was_listed_and_asks_once(storage: Storage, proxy: FaultProxy) -> None:
    blob = blob_of(storage)
    assert read(storage, blob, 1000, 2000) == DATA[1000:2000]
    [request] = [request for request in proxy.requests if "model.bin" in request.path.partition("?")[0]]
    assert request.headers["range"] == "bytes=1000-1999"
    assert request.headers["if-match"] == blob.etag


def test_connections_are_used_again(storage: Storage, proxy: FaultProxy) -> None:
    """A handshake takes as long as a megabyte."""
    blob = blob_of(storage)
    for start in range(0, 100_000, 10_000):
        assert read(storage, blob, start, start + 10_000) == DATA[start : start + 10_000]
    # A client may not have put the last one back when the next is asked for.
    assert sum(thread.name == "fault proxy connection" for thread in threading.enumerate()) <= 3


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


ETAG = '"5d41402abc4b2a76b9719d911017c592"'


def begin(request: BaseHTTPRequestHandler, size: int, **headers: str) -> None:
    """Begin the answer to a read of a part, from its start, of an object of ``size`` bytes."""
    asked = request.headers.get("Range")
    request.send_response(206 if asked else 200)
    if asked:
        request.send_header("Content-Range", f"bytes {asked.removeprefix('bytes=')}/{size}")
    request.send_header("ETag", ETAG)
    request.send_header("Connection", "close")
    request.send_header("Last-Modified", "Sat, 21 Nov 2026 12:00:00 GMT")
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()


def test_what_trickles_in_is_given_as_it_comes(open_s3: Open) -> None:
    """Whoever fetches has a deadline, and must be called to see that it is over."""
    came = threading.Semaphore(0)

    def trickle(request: BaseHTTPRequestHandler) -> None:
        begin(request, 1000, Content_Length="500")
        for _ in range(500):
            request.wfile.write(b"x")
            # Never sends a second byte before somebody has seen the first.
            if not came.acquire(timeout=5):
                return

    with server(trickle) as endpoint:
        pieces = open_s3(endpoint=endpoint).fetch(Blob("1/model.bin", 1000, ETAG), 0, 500)
        for _ in range(20):
            assert bytes(next(pieces)) == b"x"
            came.release()
        pieces.close()
        came.release(500)


def send_chunked(request: BaseHTTPRequestHandler, chunks: Iterable[bytes]) -> None:
    begin(request, len(DATA), Transfer_Encoding="chunked")
    for chunk in chunks:
        request.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))


@pytest.mark.parametrize("client", ["sdk", "auto"])
def test_a_length_that_is_not_told_in_advance_is_no_obstacle(open_s3: Open) -> None:
    """Proxies that compress, or that change anything else, send bodies in chunks."""
    part = DATA[1000:200_000]
    with server(lambda request: send_chunked(request, [part[:100_000], part[100_000:], b""])) as endpoint:
        assert read(open_s3(endpoint=endpoint), Blob("1/model.bin", len(DATA), ETAG), 1000, 200_000) == part


@pytest.mark.parametrize("client", ["sdk", "auto"])
def test_no_more_is_given_than_was_asked_for(open_s3: Open) -> None:
    """It would fill the disk, or the next part's place."""
    received: list[bytes | memoryview] = []
    blob = Blob("1/model.bin", len(DATA), ETAG)
    with (
        server(lambda request: send_chunked(request, itertools.repeat(DATA[:500]))) as endpoint,
        pytest.raises(StorageInterrupted, match=r"1/model\.bin: got \d+ bytes, want 1000$"),
    ):
        received.extend(open_s3(endpoint=endpoint).fetch(blob, 1000, 2000))
    assert sum(map(len, received)) <= 1000


def test_bytes_of_another_upload_are_refused_even_if_the_server_gives_them(open_s3: Open) -> None:
    """There are servers that do not know If-Match."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        begin(request, len(DATA), Content_Length="1000")
        request.wfile.write(DATA[:1000])

    with server(answer) as endpoint:
        storage = open_s3(endpoint=endpoint)
        assert read(storage, Blob("1/model.bin", len(DATA), ETAG), 0, 1000) == DATA[:1000]
        with pytest.raises(BlobChanged, match=r"1/model\.bin: "):
            read(storage, Blob("1/model.bin", len(DATA), ETAG.upper()), 0, 1000)


def test_what_is_stored_compressed_is_given_as_it_is_stored(storage: Storage, bucket: SeaweedFS) -> None:
    """The listing has the size of that, and so have the parts."""
    bucket.client().put_object(Bucket="models", Key="faults/1/gzip", Body=DATA, ContentEncoding="gzip")
    try:
        assert read(storage, blob_of(storage, "1/gzip"), 10, 20_000) == DATA[10:20_000]
    finally:
        bucket.client().delete_object(Bucket="models", Key="faults/1/gzip")


def test_a_listing_that_falls_silent_is_given_up(open_s3: Open, proxy: FaultProxy) -> None:
    storage = open_s3(endpoint=proxy.url, read_timeout=0.2)
    proxy.use(on(Stall()))
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: .*[Tt]imed? ?out"):
        keys(storage)
    assert proxy.count("GET") == TRIES


def test_a_listing_that_is_cut_is_made_again_or_an_error_and_never_half(storage: Storage, proxy: FaultProxy) -> None:
    proxy.use(on(Cut(after=200), nth=1))
    assert keys(storage) == ["1/model.bin", "1/model.xml"]
    proxy.use(on(Cut(after=200)))
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: "):
        keys(storage)
    assert proxy.count("GET") == 2 + TRIES


NO_LISTINGS = {
    "captive portal": Answer(200, b"<html>please log in</html>"),
    "another protocol": Answer(200, b"hello"),
    "nothing": Answer(204),
    "not modified": Answer(304),
    "redirect to https": Answer(301, headers={"Location": "https://127.0.0.1/"}),
    "not found": Answer(404),
    "short": ShortBody(to=200),
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
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: ") as failure:
        keys(storage)
    assert not isinstance(failure.value, BlobChanged)
    assert list(models.versions()) == [1]


ENDLESS = """<ListBucketResult><IsTruncated>true</IsTruncated>{token}
<Contents><Key>faults/1/m</Key><Size>1</Size><ETag>"e"</ETag><LastModified>2026-11-21T12:00:00Z</LastModified></Contents>
</ListBucketResult>"""


@pytest.mark.parametrize("token", ["", "<NextContinuationToken>again</NextContinuationToken>"])
def test_a_listing_that_never_ends_is_given_up(
    bucket: SeaweedFS, become: BecomeS3User, proxy: FaultProxy, token: str
) -> None:
    become(bucket.reader)
    proxy.use(on(Answer(200, ENDLESS.format(token=token).encode(), {"Content-Type": "application/xml"})))
    storage = open_storage("s3://models/faults", StorageOptions(s3_endpoint=proxy.url, client="sdk"))
    with pytest.raises(StorageUnavailable, match="there is more, and not where"):
        keys(storage)


def test_a_server_that_is_down_is_told_by_its_address(open_s3: Open) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(StorageUnavailable, match=f"^cannot list s3://models/faults: .*{endpoint}"):
        keys(open_s3(endpoint=endpoint))
    assert time.monotonic() - started < 10


def test_an_endpoint_that_is_no_url_is_told(open_s3: Open) -> None:
    with pytest.raises(StorageUnavailable, match="http://no host"):
        keys(open_s3(endpoint="http://no host"))


def test_a_wrong_secret_is_told_by_its_code(
    bucket: SeaweedFS, open_s3: Open, storage: Storage, become: BecomeS3User
) -> None:
    blob = blob_of(storage)
    become(replace(bucket.reader, secret_key="wrong"))
    refused = open_s3()
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: SignatureDoesNotMatch: "):
        keys(refused)
    with pytest.raises(StorageUnavailable, match=r"^cannot fetch .*/model\.bin: SignatureDoesNotMatch: "):
        read(refused, blob)


def test_an_unknown_key_is_told_by_its_code(bucket: SeaweedFS, open_s3: Open, become: BecomeS3User) -> None:
    become(replace(bucket.reader, access_key="AKIANOBODY"))
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: InvalidAccessKeyId: "):
        keys(open_s3())


def test_a_session_token_goes_with_the_keys(open_s3: Open, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """SeaweedFS knows of no sessions, and so refuses it."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a token")
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: InvalidAccessKeyId: "):
        keys(open_s3(endpoint=proxy.url))
    headers = proxy.requests[0].headers
    assert headers["x-amz-security-token"] == "a token"
    assert "x-amz-security-token" in headers["authorization"]


@pytest.fixture(scope="module")
def public_bucket(s3: SeaweedFS) -> SeaweedFS:
    """The model once more, at ``s3://public/m``, which anybody may read."""
    s3.create_bucket("public")
    put(s3, "m", MODEL, bucket="public")
    everything = ["arn:aws:s3:::public", "arn:aws:s3:::public/*"]
    rights = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": everything}
    s3.client().put_bucket_policy(Bucket="public", Policy=json.dumps({"Version": "2012-10-17", "Statement": [rights]}))
    return s3


def test_nobody_may_read_what_is_public(
    public_bucket: SeaweedFS, open_s3: Open, proxy: FaultProxy, become: BecomeS3User
) -> None:
    # Who could not read it, if asked who it is.
    become(replace(public_bucket.reader, secret_key="wrong"))
    storage = open_s3("s3://public/m", proxy.url, is_anonymous=True)
    blob = blob_of(storage)
    assert read(storage, blob) == DATA
    assert isinstance(storage, VouchesForChecksums)
    assert storage.vouches_for(blob)
    assert not any("authorization" in request.headers or "X-Amz" in request.path for request in proxy.requests)
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: AccessDenied: [^(]*$"):
        keys(open_s3(is_anonymous=True))


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find no credentials: the environment has none, and no session that has found some is there."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("client", ["sdk", "auto"])
def test_who_has_no_credentials_asks_without(public_bucket: SeaweedFS, client: str) -> None:
    options = StorageOptions(s3_endpoint=public_bucket.endpoint, client=client, environ=dict(os.environ))
    storage = open_storage("s3://public/m", options)
    assert read(storage, blob_of(storage)) == DATA


@pytest.mark.usefixtures("nobody")
def test_credentials_without_a_token_are_told_and_no_bug(s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's may have none; boto3 takes it for granted, and obstore does not."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        keys = {"AccessKeyId": s3.reader.access_key, "SecretAccessKey": s3.reader.secret_key}
        body = json.dumps(keys | {"Expiration": "2100-01-01T00:00:00Z"}).encode()
        begin(request, len(body))
        request.wfile.write(body)

    with server(answer) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "t0ken")
        options = StorageOptions(s3_endpoint=s3.endpoint, client="sdk", environ=dict(os.environ))
        with pytest.raises(StorageUnavailable, match=r"the SDK misses 'Token' in what it was answered.*obstore"):
            list(open_storage("s3://models/digits", options).list())
        options = StorageOptions(s3_endpoint=s3.endpoint, environ={**os.environ, "AWS_REGION": "us-east-1"})
        assert list(open_storage("s3://models/digits", options).list())


@pytest.mark.usefixtures("nobody")
def test_credentials_that_come_late_are_found(bucket: SeaweedFS, become: BecomeS3User) -> None:
    """Those of a pod or an instance may not be there yet when it starts."""
    storage = open_storage("s3://models/faults", StorageOptions(s3_endpoint=bucket.endpoint, client="sdk"))
    with pytest.raises(StorageUnavailable, match=r"^cannot list .*: AccessDenied: .*without credentials, as none are"):
        keys(storage)
    become(bucket.reader)
    assert keys(storage) == ["1/model.bin", "1/model.xml"]


@pytest.mark.parametrize("client", ["sdk", "auto"])
def test_a_profile_is_read(
    bucket: SeaweedFS, proxy: FaultProxy, client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys_of_reader = [
        f"aws_access_key_id = {bucket.reader.access_key}",
        f"aws_secret_access_key = {bucket.reader.secret_key}",
    ]
    (tmp_path / "credentials").write_text("\n".join(["[default]", "[models]", *keys_of_reader]))
    (tmp_path / "config").write_text("[profile models]\nregion = eu-south-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "models")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    options = StorageOptions(s3_endpoint=proxy.url, client=client, environ=dict(os.environ))
    assert keys(open_storage("s3://models/faults", options)) == ["1/model.bin", "1/model.xml"]
    assert "/eu-south-1/s3/aws4_request" in proxy.requests[0].headers["authorization"]


def test_a_profile_that_is_not_there_is_told(bucket: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_PROFILE", "nobodys")
    storage = open_storage("s3://models/faults", StorageOptions(s3_endpoint=bucket.endpoint, client="sdk"))
    with pytest.raises(StorageUnavailable, match=r"^cannot set up S3: .*nobodys"):
        keys(storage)


def test_a_bucket_that_is_not_ones_own_is_told_with_its_name(
    bucket: SeaweedFS, open_s3: Open, become: BecomeS3User
) -> None:
    bucket.create_bucket("private")
    put(bucket, "m", MODEL, bucket="private")
    become(bucket.admin)
    blob = blob_of(open_s3("s3://private/m"))
    become(bucket.reader)
    storage = open_s3("s3://private/m")
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://private/m: AccessDenied"):
        keys(storage)
    with pytest.raises(StorageUnavailable, match=r"^cannot fetch s3://private/m/1/model\.bin: AccessDenied"):
        read(storage, blob)


def test_a_bucket_that_does_not_exist_is_told_with_its_name(
    bucket: SeaweedFS, open_s3: Open, become: BecomeS3User
) -> None:
    become(bucket.admin)
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://no-such-bucket/m: NoSuchBucket"):
        keys(open_s3("s3://no-such-bucket/m"))


def test_a_bucket_that_cannot_exist_is_told_in_one_line(open_s3: Open) -> None:
    with pytest.raises(StorageUnavailable, match=r"Invalid bucket name|'not a bucket' is no plain name") as failure:
        keys(open_s3("s3://not a bucket/m"))
    assert len(str(failure.value).splitlines()) == 1


def test_folders_made_by_consoles_are_no_blobs(
    bucket: SeaweedFS, open_s3: Open, proxy: FaultProxy, client: str
) -> None:
    folders = dict.fromkeys(("1/", "1/assets/", "1/variables/", "2/"), b"")
    files = {"1/_SUCCESS": b"", "1/model.xml": b"<net/>", "1/variables-2": b"v", "1/variables/w": b"w"}
    put(bucket, "console", folders | files)
    console = open_s3("s3://models/console", proxy.url)
    for _ in range(2):
        assert sorted(keys(console)) == list(files)
    # obstore looks once at each empty one with nothing below it: two folders and the marker.
    assert proxy.count("HEAD") == (3 if client == "obstore" else 0)
    assert list(ModelRepository("m", console).versions()) == [1]


@pytest.mark.parametrize("url", ["s3://models/faults", "s3://models/faults/", "s3://models//faults//"])
def test_a_prefix_is_a_directory_whether_or_not_it_ends_in_a_slash(bucket: SeaweedFS, open_s3: Open, url: str) -> None:
    put(bucket, "faults-of-others", {"1/model.xml": b"<net/>"})
    storage = open_s3(url)
    assert keys(storage) == ["1/model.bin", "1/model.xml"]
    assert str(storage) == "s3://models/faults"


ODD_PREFIX = "ä b+c%20d#e?f"


def test_a_prefix_may_be_any_name(bucket: SeaweedFS, open_s3: Open) -> None:
    put(bucket, ODD_PREFIX, MODEL)
    storage = open_s3(f"s3://models/{ODD_PREFIX}")
    assert keys(storage) == ["1/model.bin", "1/model.xml"]
    assert read(storage, blob_of(storage)) == DATA


def test_a_whole_bucket_may_be_a_models_base(bucket: SeaweedFS, open_s3: Open, become: BecomeS3User) -> None:
    bucket.create_bucket("one-model")
    bucket.client().put_object(Bucket="one-model", Key="1/model.bin", Body=DATA)
    become(bucket.admin)
    storage = open_s3("s3://one-model")
    assert str(storage) == "s3://one-model"
    assert keys(storage) == ["1/model.bin"]
    assert read(storage, blob_of(storage)) == DATA


def test_a_url_may_name_the_server(bucket: SeaweedFS, open_s3: Open) -> None:
    """As OVMS has it; it is closer to the model than the setting."""
    address = bucket.endpoint.removeprefix("http://")
    storage = open_s3(f"s3://{address}/models/faults", endpoint=f"http://127.0.0.1:{free_port()}")
    assert str(storage) == f"s3://{address}/models/faults"
    assert read(storage, blob_of(storage)) == DATA


def test_an_endpoint_needs_no_region(storage: Storage, proxy: FaultProxy) -> None:
    # The fixtures set keys and nothing else: no region, no profile.
    keys(storage)
    assert "/us-east-1/s3/aws4_request" in proxy.requests[0].headers["authorization"]


def test_an_endpoint_is_addressed_by_path_and_needs_no_name_for_each_bucket(open_s3: Open, proxy: FaultProxy) -> None:
    # By name: below an address the SDK cannot put the bucket anyway.
    name = proxy.address.replace("127.0.0.1", "localhost")
    assert keys(open_s3(endpoint=f"http://{name}")) == ["1/model.bin", "1/model.xml"]
    [request] = proxy.requests
    assert request.path.startswith("/models?")
    assert request.headers["host"] == name


def test_the_region_is_the_environments(open_s3: Open, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    keys(open_s3(endpoint=proxy.url))
    assert "/eu-central-1/s3/aws4_request" in proxy.requests[0].headers["authorization"]


def test_clients_agree_on_what_is_there(bucket: SeaweedFS, become: BecomeS3User) -> None:
    """Else a cache that one of them has filled were of no use to the other."""
    become(bucket.reader)
    one, other = (
        list(
            open_storage(
                "s3://models/faults",
                StorageOptions(s3_endpoint=bucket.endpoint, client=client, environ=dict(os.environ)),
            ).list()
        )
        for client in ("sdk", "obstore")
    )
    assert len(one) == 2
    assert one == other


def test_the_etag_of_a_plain_upload_is_its_checksum(storage: Storage) -> None:
    blob = blob_of(storage)
    assert blob.checksum == f"md5:{hashlib.md5(DATA, usedforsecurity=False).hexdigest()}"
    assert isinstance(storage, VouchesForChecksums)
    assert storage.vouches_for(blob)


def test_the_etag_of_an_upload_in_parts_is_none(storage: Storage, bucket: SeaweedFS) -> None:
    name, key, s3 = "models", "faults/2/model.bin", bucket.client()
    upload = s3.create_multipart_upload(Bucket=name, Key=key)["UploadId"]
    part = s3.upload_part(Bucket=name, Key=key, UploadId=upload, PartNumber=1, Body=DATA)
    s3.complete_multipart_upload(
        Bucket=name,
        Key=key,
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    try:
        blob = blob_of(storage, "2/")
        assert "-" in blob.etag
        assert blob.checksum == ""
        assert read(storage, blob) == DATA
    finally:
        s3.delete_object(Bucket=name, Key=key)


def test_the_etag_of_what_is_in_a_directory_bucket_is_none() -> None:
    """In S3 Express One Zone it only looks like one. SeaweedFS has none of those."""
    assert checksum_of(ETAG, "models") == "md5:5d41402abc4b2a76b9719d911017c592"
    assert checksum_of(ETAG, "models--use1-az4--x-s3") == ""


ENCRYPTED = {
    "KMS": {"x-amz-server-side-encryption": "aws:kms"},
    "twice by KMS": {"x-amz-server-side-encryption": "aws:kms:dsse"},
    "the client's key": {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
}


@pytest.mark.parametrize("headers", ENCRYPTED.values(), ids=ENCRYPTED)
def test_the_etag_of_what_is_encrypted_by_a_key_of_ones_own_is_no_checksum(
    storage: Storage, proxy: FaultProxy, headers: dict[str, str]
) -> None:
    """It looks like one."""
    blob = blob_of(storage)
    proxy.use(on(Answer(200, headers=headers | {"ETag": blob.etag}), "HEAD"))
    assert isinstance(storage, VouchesForChecksums)
    assert not storage.vouches_for(blob)
    proxy.use(on(Answer(200, headers={"x-amz-server-side-encryption": "AES256", "ETag": blob.etag}), "HEAD"))
    assert storage.vouches_for(blob)


def test_whether_it_is_a_checksum_may_be_unknown(storage: Storage, proxy: FaultProxy) -> None:
    blob = blob_of(storage)
    assert isinstance(storage, VouchesForChecksums)
    for status, error in {503: StorageInterrupted, 412: BlobChanged, 404: BlobChanged}.items():
        proxy.use(on(Answer(status), "HEAD"))
        with pytest.raises(error, match=r"^cannot look at s3://models/faults/1/model\.bin: ") as failure:
            storage.vouches_for(blob)
        assert "Signature" not in str(failure.value)


def test_a_bucket_in_another_region_is_for_the_sdk(bucket: SeaweedFS, become: BecomeS3User, proxy: FaultProxy) -> None:
    """It follows where S3 sends it, and from then on reads alone."""
    become(bucket.reader)
    proxy.use(on(s3_error(301, "PermanentRedirect", "The bucket you are attempting to access is elsewhere."), nth=1))
    options = StorageOptions(s3_endpoint=proxy.url, environ=dict(os.environ))
    storage = open_storage("s3://models/faults", options)
    assert read(storage, blob_of(storage)) == DATA
    assert [request.headers["user-agent"].partition("/")[0] for request in proxy.requests] == [
        "object_store",
        "Boto3",
        "Boto3",
    ]
    assert str(storage) == "s3://models/faults"
    proxy.use(on(s3_error(301, "PermanentRedirect", "Elsewhere.")))
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: .*region"):
        keys(open_storage("s3://models/faults", replace(options, client="obstore")))


ODD_LISTING = """<ListBucketResult><IsTruncated>false</IsTruncated>
<Contents><Key>faults/1//m</Key><Size>1</Size><ETag>"e"</ETag><LastModified>2026-11-21T12:00:00Z</LastModified></Contents>
</ListBucketResult>"""


def test_a_key_that_obstore_cannot_say_is_for_the_sdk(
    bucket: SeaweedFS, become: BecomeS3User, proxy: FaultProxy
) -> None:
    """SeaweedFS stores none of those."""
    become(bucket.reader)
    proxy.use(on(Answer(200, ODD_LISTING.encode(), {"Content-Type": "application/xml"})))
    options = StorageOptions(s3_endpoint=proxy.url, environ=dict(os.environ))
    assert keys(open_storage("s3://models/faults", options)) == ["1//m"]
    with pytest.raises(StorageUnavailable, match=r"^cannot list s3://models/faults: .*empty path segment"):
        keys(open_storage("s3://models/faults", replace(options, client="obstore")))
