"""Google Cloud Storage where it is unlike other stores: who asks, generations, and objects that are stored packed."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from model_cache.errors import StorageInterrupted, StorageUnavailable
from model_cache.gcs import GcsStorage
from model_cache.storage import MAX_BLOBS, Storage, StorageOptions, open_storage
from tests.servers.fake_gcs import FakeGcs
from tests.servers.fault_proxy import Answer, FaultProxy, Request, Rule, on
from tests.servers.processes import Process, clean_environment

JSON = {"Content-Type": "application/json"}
TOKEN = Answer(200, b'{"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"}', JSON)


@pytest.fixture
def proxy(gcs: FakeGcs) -> Iterator[FaultProxy]:
    with FaultProxy(gcs.endpoint) as proxy:
        yield proxy


@pytest.fixture
def storage(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    environ = {"STORAGE_EMULATOR_HOST": proxy.url}
    return open_storage("gs://models/digits", StorageOptions(client="sdk", environ=environ))


@pytest.mark.parametrize("url", ["gs:", "gs://", "gs:///digits", "gs:digits", "gs:/bucket/digits"])
def test_a_url_needs_a_bucket(url: str) -> None:
    with pytest.raises(ValueError, match=r"names no bucket; want gs://bucket/prefix"):
        open_storage(url, StorageOptions(client="sdk"))


def test_any_name_can_be_a_prefix() -> None:
    url = "gs://bucket/a b/c?d#e/100%25/"
    assert str(open_storage(url, StorageOptions(client="sdk"))) == url.rstrip("/")


def test_opening_asks_nobody(storage: Storage, proxy: FaultProxy) -> None:
    assert isinstance(storage, GcsStorage)
    assert proxy.requests == []


def test_a_listing_is_one_request(storage: Storage, proxy: FaultProxy) -> None:
    """The SDK would ask for the bucket too, which a reader may have no right to."""
    assert list(storage.list())
    assert [request.path.partition("?")[0] for request in proxy.requests] == ["/storage/v1/b/models/o"]


def test_a_listing_without_an_end_is_refused(storage: Storage, proxy: FaultProxy) -> None:
    items = [{"name": f"digits/{number}", "size": "1", "generation": "1"} for number in range(MAX_BLOBS + 1)]
    proxy.use(on(Answer(200, json.dumps({"items": items}).encode(), JSON)))
    with pytest.raises(StorageUnavailable, match=f"^more than {MAX_BLOBS} objects below gs://models/digits; is this a"):
        list(storage.list())


def test_an_empty_object_that_stands_for_a_folder_is_none(storage: Storage, gcs: FakeGcs) -> None:
    gcs.put("models", "digits/9/", b"")
    try:
        assert "9/" not in [blob.key for blob in storage.list()]
    finally:
        gcs.delete("models", "digits/9/")


def test_the_server_says_why_not(storage: Storage, proxy: FaultProxy) -> None:
    body = {"error": {"code": 403, "message": "no access", "errors": [{"message": "you have no\naccess"}]}}
    proxy.use(on(Answer(403, json.dumps(body).encode(), JSON)))
    with pytest.raises(StorageUnavailable, match=r"^cannot list gs://models/digits: 403 you have no access$"):
        list(storage.list())


def test_an_object_composed_of_others_has_no_md5(storage: Storage, proxy: FaultProxy) -> None:
    item = {"name": "digits/1/model.bin", "size": "4", "generation": "7", "updated": "2026-11-21T12:00:00Z"}
    proxy.use(on(Answer(200, json.dumps({"items": [item | {"crc32c": "AAECAw=="}, item]}).encode(), JSON)))
    composed, bare = storage.list()
    assert (composed.key, composed.size, composed.etag, composed.modified) == ("1/model.bin", 4, "7", 1795262400.0)
    assert composed.checksum == "crc32c:00010203"
    assert bare.checksum == ""


def test_what_is_stored_packed_is_read_as_it_is_stored(storage: Storage, gcs: FakeGcs) -> None:
    """Else the sizes, ranges and checksums of the listing would be of other bytes."""
    packed = gzip.compress(os.urandom(1000) * 100)
    blob = gcs.client.bucket("models").blob("digits/packed.txt")
    blob.content_encoding = "gzip"
    blob.upload_from_string(packed)
    try:
        [listed] = storage.list("packed.txt")
        assert listed.size == len(packed)
        assert b"".join(storage.fetch(listed, 0, listed.size)) == packed
        assert b"".join(storage.fetch(listed, 100, 900)) == packed[100:900]
    finally:
        blob.delete()


# Who this is to Google is looked up once in a process, and in part as it begins.
SCRIPT = """
import os, sys
from model_cache.errors import StorageUnavailable
from model_cache.storage import StorageOptions, open_storage

options = StorageOptions(client="sdk", environ=dict(os.environ), is_anonymous="anonymous" in sys.argv)
storage = open_storage("gs://models/digits", options)
try:
    [blob] = [blob for blob in storage.list() if blob.key == "1/model.xml"]
    print(len(b"".join(storage.fetch(blob, 0, blob.size))) == blob.size)
except StorageUnavailable as exc:
    print(type(exc).__name__, exc)
"""


def read_as(environ: Mapping[str, str], proxy: FaultProxy, directory: Path, *arguments: str) -> str:
    """Read the digits model in a process of its own, from the proxy as if it were Google's."""
    env = clean_environment(
        {"API_ENDPOINT_OVERRIDE": proxy.url, "CLOUDSDK_CONFIG": os.devnull, "HOME": str(directory), **environ}
    )
    with Process([sys.executable, "-c", SCRIPT, *arguments], directory / "log", env=env) as process:
        assert process.wait(60) == 0, process.log()
        return process.log().strip()


def authorizations(proxy: FaultProxy) -> set[str | None]:
    """What was shown to whoever keeps the objects."""
    return {request.headers.get("authorization") for request in proxy.requests if "/storage/v1/" in request.path}


@pytest.fixture
def key_file(tmp_path: Path, proxy: FaultProxy) -> Path:
    """The key of a service account that gets its tokens from the proxy."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    account = {
        "type": "service_account",
        "client_email": "reader@project.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "token_uri": f"{proxy.url}/token",
    }
    path = tmp_path / "key.json"
    path.write_text(json.dumps(account))
    return path


def test_without_credentials_requests_are_anonymous(proxy: FaultProxy, tmp_path: Path) -> None:
    assert read_as({}, proxy, tmp_path) == "True"
    assert authorizations(proxy) == {None}


def test_a_key_file_gets_tokens(proxy: FaultProxy, key_file: Path, tmp_path: Path) -> None:
    proxy.use(on(TOKEN, "POST", "/token"))
    assert read_as({"GOOGLE_APPLICATION_CREDENTIALS": str(key_file)}, proxy, tmp_path) == "True"
    assert authorizations(proxy) == {"Bearer a-token"}
    assert proxy.count("POST", "/token") == 1


def test_anonymous_is_anonymous_even_with_a_key_file(proxy: FaultProxy, key_file: Path, tmp_path: Path) -> None:
    assert read_as({"GOOGLE_APPLICATION_CREDENTIALS": str(key_file)}, proxy, tmp_path, "anonymous") == "True"
    assert authorizations(proxy) == {None}


def test_a_key_file_that_is_not_there_is_no_reason_to_be_anonymous(proxy: FaultProxy, tmp_path: Path) -> None:
    said = read_as({"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "no.json")}, proxy, tmp_path)
    assert said.startswith("StorageUnavailable cannot list gs://models/digits: ")
    assert "no.json" in said
    assert proxy.requests == []


def test_a_key_that_is_no_longer_valid_is_told(proxy: FaultProxy, key_file: Path, tmp_path: Path) -> None:
    refusal = b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}'
    proxy.use(on(Answer(400, refusal, JSON), "POST", "/token"))
    said = read_as({"GOOGLE_APPLICATION_CREDENTIALS": str(key_file)}, proxy, tmp_path)
    assert said.startswith("StorageUnavailable cannot list gs://models/digits: ")
    assert "Invalid JWT Signature" in said


@pytest.mark.parametrize(
    ("trouble", "is_temporary"), [(Answer(503), True), (Answer(400, b'{"error": "invalid_grant"}', JSON), False)]
)
def test_a_token_that_cannot_be_renewed(
    proxy: FaultProxy, key_file: Path, monkeypatch: pytest.MonkeyPatch, trouble: Answer, is_temporary: bool
) -> None:
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", proxy.url)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file))
    storage = open_storage("gs://models/digits", StorageOptions(client="sdk", environ=dict(os.environ)))
    proxy.use(on(Answer(200, TOKEN.body.replace(b"3600", b"1"), JSON), "POST", "/token"))
    [blob] = storage.list("1/model.xml")
    proxy.use(on(trouble, "POST", "/token"))
    with pytest.raises(StorageUnavailable, match=r"^cannot fetch gs://models/digits/1/model\.xml: ") as failure:
        next(storage.fetch(blob, 0, 1))
    assert isinstance(failure.value, StorageInterrupted) == is_temporary


def metadata_server(universe: str) -> Rule:
    """What a machine of Google's can ask about itself."""
    answers = {
        "/universe": universe.encode(),
        "/token": TOKEN.body,
        "recursive=true": b'{"email": "reader@project.iam.gserviceaccount.com", "scopes": [], "aliases": ["default"]}',
        "": b'"project"',
    }

    def rule(request: Request) -> Answer | None:
        if request.path != "/" and not request.path.startswith("/computeMetadata/"):
            return None
        what = next(what for what in answers if what in request.path)
        kind = "text/plain" if what == "/universe" else "application/json"
        return Answer(200, answers[what], {"Metadata-Flavor": "Google", "Content-Type": kind})

    return rule


def on_google_cloud(proxy: FaultProxy) -> dict[str, str]:
    return {"GCE_METADATA_HOST": proxy.address, "GCE_METADATA_IP": proxy.address, "NO_GCE_CHECK": "false"}


def test_the_metadata_server_gives_tokens(proxy: FaultProxy, tmp_path: Path) -> None:
    """As on Compute Engine, Cloud Run and GKE."""
    proxy.use(metadata_server("googleapis.com"))
    assert read_as(on_google_cloud(proxy), proxy, tmp_path) == "True"
    assert authorizations(proxy) == {"Bearer a-token"}


def test_credentials_of_another_cloud_are_told(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.use(metadata_server("cloud.example"))
    said = read_as(on_google_cloud(proxy), proxy, tmp_path)
    assert said.startswith("StorageUnavailable cannot set up gs://models/digits: The configured universe domain")


def test_a_refusal_is_not_mistaken_for_an_old_token(storage: Storage, proxy: FaultProxy) -> None:
    [blob] = storage.list("1/model.xml")
    proxy.use(on(Answer(401, b"Anonymous caller does not have access."), "GET", "/download/"))
    with pytest.raises(StorageUnavailable, match=r"401 Anonymous caller does not have access\.$") as failure:
        next(storage.fetch(blob, 0, 1))
    assert not isinstance(failure.value, StorageInterrupted)
